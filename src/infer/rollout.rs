//! Rollouts: generations that keep the data of a policy update (spec section 6).
//!
//! While a batch runs, a [`Recorder`] keeps the hidden state before every latent and token, and the
//! latents themselves; nothing is computed from them until the batch has ended. Then the latent head and
//! the output head go over all of them once, and every log-probability is known without a second
//! pass through the decoder.

use super::request::Generation;
use crate::device::{Device, TensorInfo};
use crate::model::ColarModel;
use crate::{Error, Result};

/// A batch of rollouts.
pub struct Rollouts<D: Device> {
    /// The generations, in the order of the requests.
    pub generations: Vec<Generation>,
    /// The latents of all rollouts, end to end: `[Σ n_latents, D]`, in units of `embeds_std`.
    pub latents: D::Tensor,
    /// Draws and log-probabilities, one trace a rollout.
    pub traces: Vec<Trace>,
}

/// The draws of a rollout, with their log-probabilities under the policy that drew them.
///
/// The log-probabilities are those of temperature 1 and the whole vocabulary, whatever the rollout was
/// sampled with.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// Tokens of the prompt, the thinking separator included.
    pub prompt: Vec<u32>,
    /// The first of the rollout's rows in [`Rollouts::latents`].
    pub first_latent: usize,
    /// Per latent, the mean over D of its log-density.
    pub latent_logprobs: Vec<f32>,
    /// Per latent, the mean over D of its distribution's entropy.
    pub entropy: Vec<f32>,
    /// The separator that ended the latents, and the answer's tokens.
    pub answer: Vec<u32>,
    /// Log-probability of each token of `answer`.
    pub answer_logprobs: Vec<f32>,
}

/// Hidden states of one step of a batch, a row a sequence.
struct Piece<D: Device> {
    sequences: Vec<usize>,
    hidden: D::Tensor,
}

/// Keeps the hidden states and latents of a batch that runs.
pub(super) struct Recorder<D: Device> {
    latents: Vec<(Piece<D>, D::Tensor)>,
    tokens: Vec<Piece<D>>,
}

impl<D: Device> Default for Recorder<D> {
    fn default() -> Self {
        Recorder { latents: Vec::new(), tokens: Vec::new() }
    }
}

impl<D: Device> Recorder<D> {
    /// Latents `z[B, D]` were drawn from `hidden[B, H]`, one for each of `sequences`.
    pub(super) fn latents(&mut self, sequences: Vec<usize>, hidden: D::Tensor, z: D::Tensor) {
        self.latents.push((Piece { sequences, hidden }, z));
    }

    /// A token was chosen from each row of `hidden[B, H]`, for each of `sequences`.
    pub(super) fn tokens(&mut self, sequences: Vec<usize>, hidden: D::Tensor) {
        self.tokens.push(Piece { sequences, hidden });
    }

    /// Computes the log-probabilities of all that was recorded.
    pub(super) fn finish(
        self,
        device: &D,
        model: &ColarModel<D>,
        separator: u32,
        prompts: Vec<Vec<u32>>,
        generations: Vec<Generation>,
    ) -> Result<Rollouts<D>> {
        let (head, width) = (model.latent_head()?, model.transformer.config.hidden_size);
        let lens: Vec<usize> = generations.iter().map(|g| g.n_latents).collect();
        let steps = self.latents.iter();
        let hidden = end_to_end(device, width, &lens, steps.clone().map(|(p, _)| (&p.sequences, &p.hidden)))?;
        let latents = end_to_end(device, width, &lens, steps.map(|(p, z)| (&p.sequences, z)))?;
        let (dist, _) = head.forward(device, &model.params, hidden)?;
        let log_sigma = dist.log_sigma.as_ref().ok_or_else(no_density)?;
        let mut per_latent = device.zeros(latents.rows(), 3)?;
        device.latent_logprob(&dist.mu, log_sigma, &latents, &mut per_latent, None)?;

        let answers: Vec<Vec<u32>> =
            generations.iter().map(|g| [&[separator], g.token_ids.as_slice()].concat()).collect();
        let lens: Vec<usize> = answers.iter().map(Vec::len).collect();
        let tokens = self.tokens.iter().map(|p| (&p.sequences, &p.hidden));
        let hidden = end_to_end(device, width, &lens, tokens)?;
        let ids = device.index(&answers.concat())?;
        let offsets = device.index(&(0..=hidden.rows() as u32).collect::<Vec<_>>())?;
        let mut loss = device.zeros(hidden.rows(), 1)?;
        let w = model.params.get(model.transformer.lm_head);
        device.cross_entropy(&hidden, w, &ids, &offsets, &mut loss, None)?;

        let (per_latent, loss) = (device.read(&per_latent)?, device.read(&loss)?);
        let (mut first_latent, mut first_token) = (0, 0);
        let mut traces = Vec::with_capacity(prompts.len());
        for ((prompt, answer), generation) in prompts.into_iter().zip(answers).zip(&generations) {
            let rows =
                per_latent[3 * first_latent..3 * (first_latent + generation.n_latents)].chunks_exact(3);
            let losses = &loss[first_token..first_token + answer.len()];
            let trace = Trace {
                prompt,
                first_latent,
                latent_logprobs: rows.clone().map(|r| r[0]).collect(),
                entropy: rows.map(|r| r[1]).collect(),
                answer_logprobs: losses.iter().map(|l| -l).collect(),
                answer,
            };
            first_latent += generation.n_latents;
            first_token += trace.answer.len();
            traces.push(trace);
        }
        Ok(Rollouts { generations, latents, traces })
    }
}

/// Why a deterministic head cannot be trained by its rollouts.
pub(crate) fn no_density() -> Error {
    Error::usage("the latent head is deterministic: its latents have no probability to learn by")
}

/// The rows of all steps, sequence by sequence: `lens[i]` rows of sequence `i`.
fn end_to_end<'a, D: Device>(
    device: &D,
    width: usize,
    lens: &[usize],
    steps: impl Iterator<Item = (&'a Vec<usize>, &'a D::Tensor)>,
) -> Result<D::Tensor> {
    let mut next: Vec<u32> = lens
        .iter()
        .scan(0, |at, &len| {
            *at += len as u32;
            Some(*at - len as u32)
        })
        .collect();
    let mut out = device.empty(lens.iter().sum(), width)?;
    for (sequences, rows) in steps {
        let places: Vec<u32> = sequences
            .iter()
            .map(|&s| {
                next[s] += 1;
                next[s] - 1
            })
            .collect();
        device.scatter_rows(1.0, rows, &device.index(&places)?, &mut out)?;
    }
    Ok(out)
}
