//! The clipped policy objective, element by element (spec section 6).
//!
//! A rollout has one element a latent and one an answer token. An element's loss depends on the policy
//! through its log-probability alone, so the operations that compute log-probabilities
//! ([`LatentOps::latent_logprob`](super::LatentOps::latent_logprob),
//! [`CrossEntropyOps::cross_entropy`](super::CrossEntropyOps::cross_entropy)) take the terms of the objective and go
//! from the log-probability to its gradient without leaving the device.

use super::memory::MemoryOps;
use super::shape::Checked;
use crate::Result;

/// One element of a rollout, as a row of [`PolicyTerms::rows`].
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct PolicyElement {
    /// Log-probability under the policy that made the rollout.
    pub old: f32,
    /// Log-probability under the reference policy; read only where the KL term has a weight.
    pub reference: f32,
    /// Advantage of the rollout within its group.
    pub advantage: f32,
    /// Factor of the element's loss, for instance 1 / (elements · sequences).
    pub weight: f32,
}

/// Constants that all elements of the objective share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PolicyObjective {
    /// ε: the ratio of new to old probability counts only within 1 − ε … 1 + ε.
    pub clip_eps: f32,
    /// Factor of the estimated divergence from the reference policy.
    pub kl_weight: f32,
}

/// The terms of the objective for the rows of an operation.
pub struct PolicyTerms<'a, D: MemoryOps> {
    /// `[N,4]`: a [`PolicyElement`] a row.
    pub rows: &'a D::Tensor,
    /// The constants that they share.
    pub objective: PolicyObjective,
}

/// The largest exponent whose exponential counts as such; beyond it goes the tangent (spec section 6).
pub const MOST_EXPONENT: f32 = 20.0;

/// exp(x), and beyond [`MOST_EXPONENT`] the tangent there: convex, and finite for every difference of
/// log-probabilities. With it its slope.
fn bounded_exp(x: f32) -> (f32, f32) {
    // A comparison and not a minimum, which would make a number of what is none.
    let held = if x > MOST_EXPONENT { MOST_EXPONENT } else { x };
    let slope = libm::expf(held);
    (slope * (1.0 + (x - held)), slope)
}

/// Checks the terms of an operation over as many rows.
pub(super) fn check_policy<D: MemoryOps>(operation: Checked, terms: &PolicyTerms<'_, D>) -> Result<()> {
    operation.per_row("policy terms", terms.rows, 4)
}

/// An element's loss at a log-probability, in its parts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PolicyLoss {
    /// exp(new − old), bounded.
    pub ratio: f32,
    /// Its slope by `new`.
    slope: f32,
    /// Whether the clip decides, so that the surrogate has no gradient.
    pub clipped: bool,
    /// −min(ratio·A, clip(ratio)·A), unweighted.
    pub surrogate: f32,
    /// exp(r − new) − (r − new) − 1 for the reference r: never negative, and unbiased for KL(new ‖ r)
    /// over samples of the new policy. Unweighted.
    pub kl: f32,
    /// Whether the bound of exponentials acts on the ratio, and on the divergence.
    pub bounded: [bool; 2],
}

impl PolicyElement {
    /// The loss at log-probability `logprob`.
    pub fn loss(&self, logprob: f32, clip_eps: f32) -> PolicyLoss {
        let (ratio, slope) = bounded_exp(logprob - self.old);
        let (free, held) =
            (ratio * self.advantage, ratio.clamp(1.0 - clip_eps, 1.0 + clip_eps) * self.advantage);
        let gap = self.reference - logprob;
        PolicyLoss {
            ratio,
            slope,
            clipped: held < free,
            surrogate: -free.min(held),
            kl: bounded_exp(gap).0 - gap - 1.0,
            bounded: [logprob - self.old, gap].map(|x| x > MOST_EXPONENT),
        }
    }

    /// The derivative of the weighted loss by `logprob`.
    pub fn gradient(&self, logprob: f32, objective: PolicyObjective) -> f32 {
        let loss = self.loss(logprob, objective.clip_eps);
        let mut gradient = if loss.clipped { 0.0 } else { -loss.slope * self.advantage };
        if objective.kl_weight != 0.0 {
            gradient += objective.kl_weight * (1.0 - bounded_exp(self.reference - logprob).1);
        }
        self.weight * gradient
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(advantage: f32) -> PolicyElement {
        PolicyElement { old: -2.0, reference: -2.3, advantage, weight: 0.25 }
    }

    #[test]
    fn on_policy_the_ratio_is_one_and_nothing_is_clipped() {
        for advantage in [-1.5, 0.0, 2.0] {
            let loss = element(advantage).loss(-2.0, 0.2);
            assert_eq!((loss.ratio, loss.clipped, loss.surrogate), (1.0, false, -advantage));
        }
    }

    #[test]
    fn the_clip_holds_only_what_would_gain() {
        let clipped = |advantage, logprob| element(advantage).loss(logprob, 0.2).clipped;
        assert!(clipped(1.0, -1.7) && !clipped(1.0, -2.3));
        assert!(!clipped(-1.0, -1.7) && clipped(-1.0, -2.3));
        assert!(!clipped(0.0, -1.0) && !clipped(1.0, -1.9) && !clipped(-1.0, -2.1));
        let objective = PolicyObjective { clip_eps: 0.2, kl_weight: 0.0 };
        assert_eq!(element(1.0).gradient(-1.7, objective), 0.0);
        assert_eq!(element(-1.0).gradient(-2.3, objective), 0.0);
    }

    #[test]
    fn gradients_are_the_slopes_of_the_loss() {
        for advantage in [-1.5f32, 0.7] {
            for logprob in [-2.6f32, -2.1, -1.95, -1.4] {
                let objective = PolicyObjective { clip_eps: 0.2, kl_weight: 0.3 };
                let e = element(advantage);
                let total = |lp: f64| {
                    let ratio = (lp + 2.0).exp();
                    let a = f64::from(advantage);
                    let gap = -2.3 - lp;
                    0.25 * (-(ratio * a).min(ratio.clamp(0.8, 1.2) * a) + 0.3 * (gap.exp() - gap - 1.0))
                };
                let at = f64::from(logprob);
                let slope = (total(at + 1e-5) - total(at - 1e-5)) / 2e-5;
                let claimed = f64::from(e.gradient(logprob, objective));
                assert!((slope - claimed).abs() < 1e-5, "{advantage} {logprob}: {slope} {claimed}");
            }
        }
    }

    /// Far from the old policy and from the reference everything stays finite, and the slopes stay those of the loss.
    #[test]
    fn far_away_nothing_overflows() {
        let objective = PolicyObjective { clip_eps: 0.2, kl_weight: 0.5 };
        for far in [19.0f32, 21.0, 88.0, 1e3, 1e9] {
            let low = PolicyElement { old: far, reference: far, advantage: 1.0, weight: 1.0 };
            let loss = low.loss(0.0, 0.2);
            assert_eq!(loss.bounded, [false, far > MOST_EXPONENT]);
            assert!(loss.kl.is_finite() && loss.kl > 0.0, "{loss:?}");
            let gradient = low.gradient(0.0, objective);
            let slope = 0.5 * (1.0 - libm::expf(far.min(MOST_EXPONENT)));
            // The surrogate's own slope is a ratio of at most e^-19.
            assert!((gradient - slope).abs() <= 1e-6 * slope.abs(), "{gradient} {slope}");
            let high = PolicyElement { old: 0.0, reference: 0.0, advantage: -1.0, weight: 1.0 };
            let loss = high.loss(far, 0.2);
            assert_eq!(loss.bounded, [far > MOST_EXPONENT, false]);
            assert!(
                loss.surrogate.is_finite() && high.gradient(far, objective) >= 0.5 * libm::expf(19.0),
                "{loss:?}"
            );
        }
        assert!(element(1.0).loss(f32::NAN, 0.2).kl.is_nan(), "what is no number is not hidden");
        // Value and slope go on without a step.
        let (below, above) = (bounded_exp(20.0), bounded_exp(20.0f32.next_up()));
        assert!(above.0 / below.0 - 1.0 < 1e-5 && above.1 == below.1);
    }

    #[test]
    fn the_divergence_is_never_negative() {
        for i in 0..100 {
            let loss = element(1.0).loss(-4.0 + 0.04 * i as f32, 0.2);
            assert!(loss.kl >= -1e-6, "{loss:?}");
        }
    }
}
