//! The stages of implicit CoT and Coconut (spec section 11): how many of a sample's steps are gone at which update.
//!
//! In stage s the first s steps are, in the last stage all of them, whatever their number. The stage is a
//! function of the update alone, so a resumed run is in the one that it left.

use crate::{Error, Result};

/// How a run is divided into stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stages {
    /// How many there are, at least 1.
    pub count: u64,
    /// Updates of each stage but the last, at least 1; without it all stages last equally long.
    pub updates: Option<u64>,
}

impl Stages {
    /// No division: the only stage is the last one.
    pub const ONE: Stages = Stages { count: 1, updates: None };

    /// The stage, counted from 1, of the update `step`, counted from 1, of a run of `total`.
    pub fn at(self, step: u64, total: u64) -> u64 {
        let stage = match self.updates {
            Some(updates) => step.div_ceil(updates),
            // Rounded up, so that even a run of fewer updates than stages ends in the last one.
            None => {
                let stage = u128::from(step) * u128::from(self.count);
                stage.div_ceil(u128::from(total.max(1))) as u64
            }
        };
        stage.clamp(1, self.count)
    }

    /// Whether nothing but this stage is left.
    pub fn is_last(self, stage: u64) -> bool {
        stage >= self.count
    }

    /// How many of a sample's `steps` are gone in a stage.
    pub fn removed(self, stage: u64, steps: usize) -> usize {
        if self.is_last(stage) { steps } else { steps.min(stage as usize) }
    }

    /// Fails if a run of `total` updates ends before its last stage, in which its checkpoints are chosen.
    ///
    /// # Errors
    /// [`Error::Usage`] saying how long the run would have to be.
    pub fn check(self, total: u64) -> Result<()> {
        if self.is_last(self.at(total, total)) {
            return Ok(());
        }
        let before = self.updates.unwrap_or(1).saturating_mul(self.count - 1);
        Err(Error::usage(format!(
            "the last of {} stages begins after {before} steps, and the run has {total}: give a smaller \
             `stage_steps` or `stages`, or more steps",
            self.count
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(stages: Stages, total: u64) -> Vec<u64> {
        (1..=total).map(|step| stages.at(step, total)).collect()
    }

    #[test]
    fn a_run_is_split_evenly_and_ends_in_the_last_stage() {
        let three = Stages { count: 3, updates: None };
        assert_eq!(all(three, 6), [1, 1, 2, 2, 3, 3]);
        assert_eq!(all(three, 7), [1, 1, 2, 2, 3, 3, 3]);
        assert_eq!(all(three, 2), [2, 3]);
        assert_eq!(all(three, 1), [3]);
        assert_eq!(all(Stages::ONE, 3), [1, 1, 1]);
        assert!((1..50).all(|total| three.check(total).is_ok()));
        assert_eq!(three.at(u64::MAX, u64::MAX), 3, "without overflow");
    }

    #[test]
    fn stages_of_given_length_leave_the_rest_to_the_last() {
        let stages = Stages { count: 3, updates: Some(2) };
        assert_eq!(all(stages, 8), [1, 1, 2, 2, 3, 3, 3, 3]);
        assert!(stages.check(5).is_ok());
        let error = stages.check(4).unwrap_err().to_string();
        assert!(error.contains("begins after 4 steps, and the run has 4"), "{error}");
    }

    #[test]
    fn steps_go_one_a_stage_and_the_rest_in_the_last() {
        let stages = Stages { count: 3, updates: None };
        assert_eq!([1, 2, 3].map(|stage| stages.removed(stage, 5)), [1, 2, 5]);
        assert_eq!([1, 2, 3].map(|stage| stages.removed(stage, 1)), [1, 1, 1]);
        assert_eq!(Stages::ONE.removed(1, 4), 4);
    }
}
