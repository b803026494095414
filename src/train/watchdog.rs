//! Whether a run's loss has left the level that it was at, for so long that it will not come back.
//!
//! The level is a running mean, and beside it the running mean of the distance from it. A step is far above where its
//! loss lies over the mean by more than [`FAR`] such distances, the mean's own size and [`LEAST`]: noise, the spread
//! between compression factors and a short jump all stay below, and losses may be negative. Far steps do not move the
//! means, so a loss that stays high is measured against the level that it came from.

use serde::{Deserialize, Serialize};

/// Distances from the mean that count as far.
const FAR: f64 = 6.0;

/// A height above the mean, in nats, that never counts as far.
const LEAST: f64 = 0.5;

/// Weight of a new loss in the means, once many were seen.
const WEIGHT: f64 = 0.05;

/// The level of a run's losses, and how long they have been far above it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Watch {
    /// Running mean of the losses.
    mean: f64,
    /// Running mean of their distances from it.
    distance: f64,
    /// Losses in both.
    seen: u64,
    /// Steps in a row that were far above.
    pub far: u64,
    /// The stage of training that the losses belong to.
    stage: u64,
}

impl Watch {
    /// Takes the loss of a step in, which belongs to a stage of training: where steps of reasoning are taken away, a
    /// higher loss is no fault.
    pub fn take(&mut self, loss: f64, stage: u64) {
        if self.stage != stage {
            *self = Watch { stage, ..Watch::default() };
        }
        let above = loss - self.mean;
        if self.seen > 0 && above > LEAST.max(self.mean.abs()).max(FAR * self.distance) {
            self.far += 1;
            return;
        }
        self.far = 0;
        // Plain means at first; the first loss is the level, and has no distance from it.
        let weight = |seen: u64| WEIGHT.max(1.0 / seen.max(1) as f64);
        if self.seen > 0 {
            self.distance += weight(self.seen) * (above.abs() - self.distance);
        }
        self.seen += 1;
        self.mean += weight(self.seen) * above;
    }

    /// The running mean.
    pub fn mean(&self) -> f64 {
        self.mean
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The longest row of far steps.
    fn longest(losses: impl IntoIterator<Item = f64>) -> u64 {
        let mut watch = Watch::default();
        let far = losses.into_iter().map(|loss| {
            watch.take(loss, 1);
            watch.far
        });
        far.max().unwrap_or(0)
    }

    #[test]
    fn runs_that_learn_are_left_alone() {
        let noise = |i: i32| 0.4 * f64::from((i * 7919) % 13 - 6) / 6.0;
        assert_eq!(longest((0..500).map(|i| 8.0 * 0.98f64.powi(i) + 0.3 + noise(i))), 0);
        // Likelihoods of latents go below nought and beyond.
        assert_eq!(longest((0..500).map(|i| 3.0 - 0.02 * f64::from(i) + noise(i))), 0);
        // A jump, and back.
        assert!(longest((0..100).map(|i| if i == 50 { 30.0 } else { 2.0 })) == 1);
        // Compression factors whose losses differ.
        assert!(longest((0..200).map(|i| if i % 5 == 0 { 4.0 } else { 1.0 + noise(i) })) < 3);
        assert_eq!(longest([]), 0);
    }

    #[test]
    fn a_loss_that_stays_high_is_far_above() {
        for (level, high) in [(8.3, 38.0), (0.2, 3.0), (-4.0, 9.0), (0.0, 2.0)] {
            let losses = (0..60).map(|i| if i < 20 { level } else { high });
            assert_eq!(longest(losses), 40, "{level}, then {high}");
        }
        // From the second step on, and rising.
        assert_eq!(longest([8.3, 40.0, 39.0, 55.0, 38.0]), 4);
    }

    #[test]
    fn another_stage_has_a_level_of_its_own() {
        let mut watch = Watch::default();
        (0..20).for_each(|_| watch.take(0.2, 1));
        (0..20).for_each(|_| watch.take(5.0, 2));
        assert_eq!((watch.far, watch.mean()), (0, 5.0));
    }
}
