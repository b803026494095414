//! The policy objective over a packed minibatch of rollouts, forward and backward (spec section 6).
//!
//! A rollout is teacher-forced: its prompt, its latents as they were drawn, and all but the last of its
//! answer tokens go through the decoder as one sequence. The position before each latent gives that
//! latent's distribution, the position before each answer token its logits; the first answer token is
//! the separator after the last latent. Rollouts of the same question share the rows of its prompt.

use super::experience::Episode;
use crate::Result;
use crate::device::{
    CrossEntropyGrads, Device, LatentPolicyGrads, PolicyElement, PolicyObjective, PolicyTerms, Upstream,
};
use crate::infer::no_density;
use crate::model::ColarModel;
use crate::model::layout::{Layout, Tree};
use crate::model::params::Grads;
use crate::model::prompt::group_equal;
use crate::train::needs::PassSize;

/// Divisor of the sum over a rollout's elements where it is not averaged, as in the authors' code.
pub(crate) const SUM_DIVISOR: f32 = 32.0;

/// The terms of the objective.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct PolicyLossOptions {
    /// ε of the clipped ratio.
    pub clip_eps: f32,
    /// Mean over a rollout's elements; otherwise their sum over a constant, as in the authors' code. Under the mean
    /// an element counts more in a short rollout than in a long one.
    pub average_per_token_loss: bool,
    /// Whether latents take part in the objective.
    pub use_latent_loss: bool,
    /// Whether the answers' tokens do, the separator that ends the latents among them.
    pub use_answer_loss: bool,
    /// Factor of the divergence from the reference policy, weighted over elements as the loss is.
    pub kl_weight: f32,
    /// Factor of the mean entropy of the latents' distributions; below 0 it keeps sigma alive.
    pub entropy_weight: f32,
}

setters!(PolicyLossOptions {
    clip_eps: f32,
    average_per_token_loss: bool,
    use_latent_loss: bool,
    use_answer_loss: bool,
    kl_weight: f32,
    entropy_weight: f32,
});

impl Default for PolicyLossOptions {
    /// The paper's: ε 0.2, averaged, nothing else.
    fn default() -> Self {
        PolicyLossOptions {
            clip_eps: 0.2,
            average_per_token_loss: true,
            use_latent_loss: true,
            use_answer_loss: true,
            kl_weight: 0.0,
            entropy_weight: 0.0,
        }
    }
}

impl PolicyLossOptions {
    /// The factor of one of `elements` elements of one of `rollouts` rollouts.
    fn weight(&self, elements: usize, rollouts: usize) -> f32 {
        let per_rollout = if self.average_per_token_loss { elements as f32 } else { SUM_DIVISOR };
        1.0 / (per_rollout * rollouts as f32)
    }

    /// The elements of an episode's latents and of its answer, in a minibatch of `rollouts`.
    pub(super) fn elements(
        &self,
        episode: &Episode,
        rollouts: usize,
    ) -> (Vec<PolicyElement>, Vec<PolicyElement>) {
        let part = |used: bool, old: &[f32], reference: Option<&[f32]>| {
            let weight = if used { self.weight(old.len(), rollouts) } else { 0.0 };
            let reference = reference.unwrap_or(old);
            let pairs = old.iter().zip(reference);
            let advantage = episode.advantage;
            pairs.map(|(&old, &reference)| PolicyElement { old, reference, advantage, weight }).collect()
        };
        let (latent, answer) =
            episode.reference.as_ref().map_or((None, None), |(l, a)| (Some(&l[..]), Some(&a[..])));
        (
            part(self.use_latent_loss, &episode.trace.latent_logprobs, latent),
            part(self.use_answer_loss, &episode.trace.answer_logprobs, answer),
        )
    }
}

/// Log-probabilities and losses of a pass over a minibatch, element by element, rollout by rollout.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PolicyPass {
    /// Log-probability of each latent: the mean over D of its log-density.
    pub latent: Vec<f32>,
    /// Log-probability of each answer token.
    pub answer: Vec<f32>,
    /// Per latent, the mean over D of its distribution's entropy.
    pub entropy: Vec<f32>,
    /// log_sigma values that met their bound.
    pub bounded: u64,
}

/// A pass that the device may still be computing.
pub struct PendingPass<D: Device> {
    /// `[answer tokens, 1]`: negative log-probabilities.
    answer: D::Tensor,
    /// `[latents, 3]`: log-probability, entropy, and how many log_sigma were bounded.
    latent: D::Tensor,
}

impl<D: Device> PendingPass<D> {
    /// Tensors that must be finite for the step to apply: all of them.
    pub fn tensors(&self) -> [&D::Tensor; 2] {
        [&self.answer, &self.latent]
    }

    /// Waits for it.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn read(&self, device: &D) -> Result<PolicyPass> {
        let mut pass = PolicyPass { answer: device.read(&self.answer)?, ..PolicyPass::default() };
        pass.answer.iter_mut().for_each(|x| *x = -*x);
        for row in device.read(&self.latent)?.chunks_exact(3) {
            pass.latent.push(row[0]);
            pass.entropy.push(row[1]);
            pass.bounded += row[2] as u64;
        }
        Ok(pass)
    }
}

/// A minibatch as packed rows.
#[derive(Debug, Default)]
struct Packed {
    /// Rollouts by prompt.
    trees: Vec<Tree>,
    /// Tokens to embed; a latent's row has none.
    ids: Vec<u32>,
    /// Row `r` embeds `ids[offsets[r]..offsets[r+1]]`.
    offsets: Vec<u32>,
    /// Rows that hold latents, and where those stand in the experience.
    latent_rows: Vec<u32>,
    latent_sources: Vec<u32>,
    /// Rows whose hidden state gives the log-probability of a latent, and of an answer token.
    before_latent: Vec<u32>,
    before_answer: Vec<u32>,
    answers: Vec<u32>,
}

impl Packed {
    fn new(episodes: &[&Episode]) -> Self {
        let mut p = Packed { offsets: vec![0], ..Packed::default() };
        // The row of each rollout's first latent.
        let mut first_latents = vec![0; episodes.len()];
        for group in group_equal(episodes.iter().map(|e| e.trace.prompt.as_slice())) {
            let prompt = &episodes[group[0]].trace.prompt;
            // The last token of the prompt stays with each rollout. Its hidden state is the same in all of them,
            // but this way every row belongs to the losses of at most one rollout.
            let trunk = if group.len() > 1 { prompt.len() - 1 } else { 0 };
            prompt[..trunk].iter().for_each(|&id| p.token(id));
            let mut branches = Vec::with_capacity(group.len());
            for i in group {
                let trace = &episodes[i].trace;
                let start = p.rows();
                prompt[trunk..].iter().for_each(|&id| p.token(id));
                first_latents[i] = p.rows();
                trace.latent_logprobs.iter().for_each(|_| p.offsets.push(p.ids.len() as u32));
                // Nothing is predicted from the last token.
                let fed = trace.answer.len().saturating_sub(1);
                trace.answer[..fed].iter().for_each(|&id| p.token(id));
                branches.push(p.rows() - start);
            }
            p.trees.push(Tree { trunk, branches });
        }
        for (episode, first) in episodes.iter().zip(first_latents) {
            let (trace, n) = (&episode.trace, episode.trace.latent_logprobs.len());
            p.latent_rows.extend((first..first + n).map(|r| r as u32));
            p.latent_sources.extend((trace.first_latent..trace.first_latent + n).map(|r| r as u32));
            p.before_latent.extend((first - 1..first + n - 1).map(|r| r as u32));
            p.before_answer.extend((first + n - 1..first + n - 1 + trace.answer.len()).map(|r| r as u32));
            p.answers.extend(&trace.answer);
        }
        p
    }

    fn token(&mut self, id: u32) {
        self.ids.push(id);
        self.offsets.push(self.ids.len() as u32);
    }

    fn rows(&self) -> usize {
        self.offsets.len() - 1
    }
}

/// Size of a pass over `episodes`.
pub(super) fn size(episodes: &[&Episode]) -> PassSize {
    let packed = Packed::new(episodes);
    let keys = packed.trees.iter().map(|tree| match tree.branches[..] {
        [only] => tree.trunk + only,
        _ => tree.trunk + tree.branches.iter().map(|branch| tree.trunk + branch).sum::<usize>(),
    });
    PassSize {
        rows: packed.rows(),
        keys: keys.sum(),
        labels: packed.answers.len(),
        latents: packed.latent_rows.len(),
    }
}

/// Runs the objective over `episodes`, whose latents are rows of `latents[_, D]` (in units of
/// `embeds_std`); with `grads`, adds its gradients there. The weights of the loss are those of a minibatch of
/// `rollouts` rollouts, of which `episodes` may be a part.
///
/// # Errors
/// Shape mismatches, a model without a latent head or with a deterministic one, and errors of the device.
pub fn run<D: Device>(
    device: &D,
    model: &ColarModel<D>,
    options: &PolicyLossOptions,
    latents: &D::Tensor,
    episodes: &[&Episode],
    rollouts: usize,
    grads: Option<&mut Grads<D>>,
) -> Result<PolicyPass> {
    begin(device, model, options, latents, episodes, rollouts, grads)?.read(device)
}

/// As [`run`], but does not wait for the device.
///
/// # Errors
/// As [`run`].
pub fn begin<D: Device>(
    device: &D,
    model: &ColarModel<D>,
    options: &PolicyLossOptions,
    latents: &D::Tensor,
    episodes: &[&Episode],
    rollouts: usize,
    mut grads: Option<&mut Grads<D>>,
) -> Result<PendingPass<D>> {
    let (params, width) = (&model.params, model.transformer.config.hidden_size);
    let head = model.latent_head()?;
    let packed = Packed::new(episodes);
    let (n, tokens) = (packed.latent_rows.len(), packed.answers.len());

    let ids = device.index(&packed.ids)?;
    let offsets = device.index(&packed.offsets)?;
    let ones = device.upload(packed.rows(), 1, &vec![1.0; packed.rows()])?;
    let mut x = device.empty(packed.rows(), width)?;
    device.gather_merge(params.get(model.transformer.embed), &ids, &offsets, &ones, &mut x)?;
    let mut z = device.empty(n, width)?;
    device.gather_rows(1.0, latents, &device.index(&packed.latent_sources)?, &mut z)?;
    device.scatter_rows(model.embeds_std, &z, &device.index(&packed.latent_rows)?, &mut x)?;
    let layout = Layout::branched(device, &packed.trees)?;
    let (h, saved) = model.transformer.forward(device, params, x, &layout, grads.as_deref())?;

    let terms = grads.is_some().then(|| elements(options, episodes, rollouts));
    let upload = |elements: &[PolicyElement]| {
        device.upload(elements.len(), 4, bytemuck::cast_slice::<PolicyElement, f32>(elements))
    };
    let (latent_terms, answer_terms) = match &terms {
        Some((latent, answer)) => (Some(upload(latent)?), Some(upload(answer)?)),
        None => (None, None),
    };
    let objective = PolicyObjective { clip_eps: options.clip_eps, kl_weight: options.kl_weight };

    let before_latent = device.index(&packed.before_latent)?;
    let mut hl = device.empty(n, width)?;
    device.gather_rows(1.0, &h, &before_latent, &mut hl)?;
    let (dist, head_saved) = head.forward(device, params, hl)?;
    let log_sigma = dist.log_sigma.as_ref().ok_or_else(no_density)?;
    let mut per_latent = device.zeros(n, 3)?;
    let mut latent_grads = match &latent_terms {
        Some(_) => Some((device.empty(n, width)?, device.empty(n, width)?)),
        None => None,
    };
    let wanted = latent_terms.as_ref().zip(latent_grads.as_mut()).map(|(rows, (dmu, dlog_sigma))| {
        let entropy_scale =
            options.entropy_weight / (n * width) as f32 * episodes.len() as f32 / rollouts as f32;
        LatentPolicyGrads { terms: PolicyTerms { rows, objective }, entropy_scale, dmu, dlog_sigma }
    });
    device.latent_logprob(&dist.mu, log_sigma, &z, &mut per_latent, wanted)?;

    let before_answer = device.index(&packed.before_answer)?;
    let mut ha = device.empty(tokens, width)?;
    device.gather_rows(1.0, &h, &before_answer, &mut ha)?;
    let answers = device.index(&packed.answers)?;
    let answer_offsets = device.index(&(0..=tokens as u32).collect::<Vec<_>>())?;
    let mut loss = device.zeros(tokens, 1)?;
    let w = params.get(model.transformer.lm_head);
    let mut dha = None;
    match (&answer_terms, grads.as_deref_mut()) {
        (Some(rows), Some(grads)) => {
            let mut dh = device.empty(tokens, width)?;
            let upstream = Upstream::Policy(PolicyTerms { rows, objective });
            let dw = grads.get_mut(model.transformer.lm_head);
            let out = CrossEntropyGrads { upstream, dh: &mut dh, dw };
            device.cross_entropy(&ha, w, &answers, &answer_offsets, &mut loss, Some(out))?;
            dha = Some(dh);
        }
        _ => device.cross_entropy(&ha, w, &answers, &answer_offsets, &mut loss, None)?,
    }

    if let (Some(grads), Some((dmu, dls)), Some(dha), Some(saved)) = (grads, latent_grads, dha, saved) {
        let dhl = head.backward(device, params, grads, &head_saved, &dmu, Some(&dls))?;
        let mut dh = device.cleared(packed.rows(), width)?;
        device.scatter_add_rows(1.0, &dhl, &before_latent, &mut dh)?;
        device.scatter_add_rows(1.0, &dha, &before_answer, &mut dh)?;
        let embed = model.transformer.embed;
        let dx =
            model.transformer.backward(device, params, grads, saved, &dh, &layout, grads.trains(embed))?;
        if let (Some(dx), Some(dtable)) = (dx, grads.get_mut(embed)) {
            device.gather_merge_backward(&dx, &ids, &offsets, &ones, dtable)?;
        }
    }
    Ok(PendingPass { answer: loss, latent: per_latent })
}

/// The elements of all episodes, latents apart from answers.
pub(super) fn elements(
    options: &PolicyLossOptions,
    episodes: &[&Episode],
    rollouts: usize,
) -> (Vec<PolicyElement>, Vec<PolicyElement>) {
    let (mut latent, mut answer) = (Vec::new(), Vec::new());
    for episode in episodes {
        let (l, a) = options.elements(episode, rollouts);
        latent.extend(l);
        answer.extend(a);
    }
    (latent, answer)
}
