//! The figures of a step.

use super::experience::Episode;
use super::objective::{PolicyLossOptions, PolicyPass, elements};
use crate::device::{MOST_EXPONENT, PolicyElement};

/// The losses of a minibatch and how far the policy has moved within its step.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PolicyStats {
    /// Loss of the latents, as spec section 6 has it.
    pub latent_loss: f64,
    /// Loss of the answers.
    pub answer_loss: f64,
    /// Divergence from the reference policy, weighted as the losses are; 0 where none is known.
    pub kl: f64,
    /// Elements: latents and answer tokens.
    pub elements: usize,
    /// Sum of the elements' ratios of new to old probability.
    pub ratios: f64,
    /// The largest distance of a ratio from 1.
    pub ratio_deviation: f64,
    /// Elements whose ratio the clip holds.
    pub clipped: usize,
    /// Elements on which the bound of exponentials acts: they lie so far from the old or the reference policy.
    pub bounded: usize,
}

impl PolicyStats {
    /// The statistics of a pass over `episodes`, part of a minibatch of `rollouts`.
    pub fn of(
        options: &PolicyLossOptions,
        episodes: &[&Episode],
        rollouts: usize,
        pass: &PolicyPass,
    ) -> Self {
        let (latent, answer) = elements(options, episodes, rollouts);
        let mut stats = PolicyStats::default();
        stats.latent_loss = stats.count(options, &latent, &pass.latent);
        stats.answer_loss = stats.count(options, &answer, &pass.answer);
        stats
    }

    /// Counts elements in; returns their loss.
    fn count(&mut self, options: &PolicyLossOptions, elements: &[PolicyElement], logprobs: &[f32]) -> f64 {
        let mut sum = 0.0;
        for (element, &logprob) in elements.iter().zip(logprobs) {
            let loss = element.loss(logprob, options.clip_eps);
            let (weight, ratio) = (f64::from(element.weight), f64::from(loss.ratio));
            sum += weight * f64::from(loss.surrogate);
            self.kl += weight * f64::from(loss.kl);
            self.elements += 1;
            self.ratios += ratio;
            self.ratio_deviation = self.ratio_deviation.max((ratio - 1.0).abs());
            self.clipped += usize::from(loss.clipped);
            let [ratio, kl] = loss.bounded;
            self.bounded += usize::from(ratio || (kl && options.kl_weight != 0.0));
        }
        sum
    }

    /// Adds those of another minibatch: sums, and the larger of the largest distances.
    pub fn add(&mut self, other: &PolicyStats) {
        self.latent_loss += other.latent_loss;
        self.answer_loss += other.answer_loss;
        self.kl += other.kl;
        self.elements += other.elements;
        self.ratios += other.ratios;
        self.ratio_deviation = self.ratio_deviation.max(other.ratio_deviation);
        self.clipped += other.clipped;
        self.bounded += other.bounded;
    }

    /// The objective, but for the entropy.
    pub fn total(&self, options: &PolicyLossOptions) -> f64 {
        // Without a weight nobody asked for it, and there may be no reference.
        let kl = if options.kl_weight == 0.0 { 0.0 } else { f64::from(options.kl_weight) * self.kl };
        self.latent_loss + self.answer_loss + kl
    }
}

/// Statistics of a step's rollouts.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct RolloutStats {
    pub reward: f64,
    pub accuracy: f64,
    pub n_latents: f64,
    pub answer_tokens: f64,
    pub entropy: f64,
    /// Geometric mean of sigma over all latents and dimensions.
    pub sigma: f64,
    /// Share of groups whose rewards differ, and so teach something.
    pub informative: f64,
    /// Divergence from the reference policy, estimated over the rollouts: mean over latents.
    pub kl_latent: f64,
    /// The same, mean over answer tokens.
    pub kl_answer: f64,
}

impl RolloutStats {
    pub(super) fn of(episodes: &[Episode]) -> Self {
        let n = episodes.len().max(1) as f64;
        let mean = |f: &dyn Fn(&Episode) -> f64| episodes.iter().map(f).sum::<f64>() / n;
        let groups = episodes.iter().map(|e| e.group + 1).max().unwrap_or(0);
        let mut informative = vec![false; groups];
        for e in episodes.iter().filter(|e| e.advantage != 0.0) {
            informative[e.group] = true;
        }
        let entropies = || episodes.iter().flat_map(|e| &e.trace.entropy).map(|&x| f64::from(x));
        let entropy = entropies().sum::<f64>() / entropies().count().max(1) as f64;
        // Entropy is ½ + ½·log 2π + log sigma, elementwise.
        let log_sigma = entropy - 0.5 - 0.5 * libm::log(std::f64::consts::TAU);
        RolloutStats {
            reward: mean(&|e| f64::from(e.reward)),
            accuracy: mean(&|e| f64::from(u8::from(e.correct))),
            n_latents: mean(&|e| e.trace.latent_logprobs.len() as f64),
            answer_tokens: mean(&|e| e.trace.answer.len() as f64),
            entropy,
            sigma: libm::exp(log_sigma),
            informative: informative.iter().filter(|&&x| x).count() as f64 / groups.max(1) as f64,
            kl_latent: divergence(
                episodes.iter().filter_map(|e| {
                    e.reference.as_ref().map(|(latent, _)| (&e.trace.latent_logprobs, latent))
                }),
            ),
            kl_answer: divergence(
                episodes.iter().filter_map(|e| {
                    e.reference.as_ref().map(|(_, answer)| (&e.trace.answer_logprobs, answer))
                }),
            ),
        }
    }
}

/// Mean over elements of exp(r − p) − (r − p) − 1, bounded as in the objective, for log-probabilities p of the policy and r of the
/// reference.
fn divergence<'a>(rollouts: impl Iterator<Item = (&'a Vec<f32>, &'a Vec<f32>)>) -> f64 {
    const MOST: f64 = MOST_EXPONENT as f64;
    let (mut sum, mut count) = (0.0, 0usize);
    for (policy, reference) in rollouts {
        for (&p, &r) in policy.iter().zip(reference) {
            let gap = f64::from(r) - f64::from(p);
            let held = if gap > MOST { MOST } else { gap };
            sum += libm::exp(held) * (1.0 + (gap - held)) - gap - 1.0;
            count += 1;
        }
    }
    sum / count.max(1) as f64
}
