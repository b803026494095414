//! The policy objective, which the engine computes on the host in float32.

use colar_engine::device::{PolicyElement, PolicyObjective};

/// The weighted loss of elements at their log-probabilities (spec section 6), and how many of them the clip holds.
pub fn policy_loss(elements: &[PolicyElement], logprobs: &[f64], objective: PolicyObjective) -> (f64, usize) {
    assert_eq!(elements.len(), logprobs.len());
    let (eps, kl_weight) = (f64::from(objective.clip_eps), f64::from(objective.kl_weight));
    elements.iter().zip(logprobs).fold((0.0, 0), |(loss, clipped), (e, logprob)| {
        let (ratio, advantage) = ((logprob - f64::from(e.old)).exp(), f64::from(e.advantage));
        let (free, held) = (ratio * advantage, ratio.clamp(1.0 - eps, 1.0 + eps) * advantage);
        let gap = f64::from(e.reference) - logprob;
        let each = -free.min(held) + kl_weight * (gap.exp() - gap - 1.0);
        (loss + f64::from(e.weight) * each, clipped + usize::from(held < free))
    })
}
