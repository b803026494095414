//! The estimate that a dry run gives.

use super::progress::StartReport;
use crate::Result;
use crate::data::Sample;

/// Questions of the validation that is timed.
pub(super) const TIMED_QUESTIONS: usize = 8;

/// Points of the learning rate's curve.
const POINTS: u64 = 60;

/// Samples that are named for their length.
const LONGEST: usize = 3;

/// The size of a run, and the time and memory that it would take.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DryRun {
    /// Steps, samples, what is trained, memory.
    pub start: StartReport,
    /// Mean seconds of the steps that were timed: two at a third and two thirds of the run, or of
    /// reinforcement learning one.
    pub seconds_per_step: f64,
    /// Seconds of a validation, from a few of its questions; `None` without one.
    pub seconds_per_validation: Option<f64>,
    /// Validations of the whole run.
    pub validations: u64,
    /// The longest training samples: tokens, with prompt and answer, and the place in the file, counted from 1. Samples
    /// that are left out are not among them.
    pub longest: Vec<(usize, usize)>,
    /// The positions that the model was made for.
    pub positions: usize,
    /// The learning rate over the run, at evenly spaced steps: step and rate.
    pub lr: Vec<(u64, f32)>,
}

impl DryRun {
    /// Seconds of all steps and validations.
    pub fn seconds(&self) -> f64 {
        self.start.total as f64 * self.seconds_per_step
            + self.validations as f64 * self.seconds_per_validation.unwrap_or(0.0)
    }
}

/// Validations of a run: every so many steps, and at its end.
pub(super) fn validations(start: &StartReport) -> u64 {
    if start.val_samples == 0 {
        return 0;
    }
    start.total / start.val_every + u64::from(!start.total.is_multiple_of(start.val_every))
}

/// The longest samples with their places.
pub(super) fn longest(
    samples: &[Sample],
    tokens: impl Fn(&Sample) -> Result<usize>,
) -> Result<Vec<(usize, usize)>> {
    let mut all = (1..)
        .zip(samples)
        .map(|(i, s)| Ok::<_, crate::Error>((tokens(s)?, i)))
        .collect::<Result<Vec<_>>>()?;
    all.sort_by_key(|&(tokens, place)| (std::cmp::Reverse(tokens), place));
    all.truncate(LONGEST);
    Ok(all)
}

/// The rate at evenly spaced steps.
pub(super) fn curve(total: u64, lr: impl Fn(u64) -> f32) -> Vec<(u64, f32)> {
    let points = POINTS.min(total);
    let step = |i: u64| if points < 2 { total } else { 1 + (i * (total - 1)) / (points - 1) };
    (0..points).map(|i| (step(i), lr(step(i)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(total: u64, val_samples: usize, val_every: u64) -> StartReport {
        StartReport {
            total,
            samples: 1,
            left_out: 0,
            val_samples,
            val_every,
            weights: 1,
            trained: 1,
            bytes: 1,
        }
    }

    #[test]
    fn validations_are_counted_as_the_run_has_them() {
        for (total, every, want) in [(10, 5, 2), (11, 5, 3), (4, 5, 1), (5, 5, 1)] {
            assert_eq!(validations(&start(total, 3, every)), want, "{total} {every}");
        }
        assert_eq!(validations(&start(10, 0, 5)), 0);
    }

    #[test]
    fn a_curve_goes_from_the_first_step_to_the_last() {
        for total in [1, 2, 59, 60, 61, 10_000] {
            let points = curve(total, |step| step as f32);
            assert_eq!(points.first().map(|p| p.0), Some(if total == 1 { total } else { 1 }));
            assert_eq!(points.last().map(|p| p.0), Some(total));
            assert!(points.len() as u64 <= POINTS && points.is_sorted_by(|a, b| a.0 < b.0), "{total}");
        }
    }

    #[test]
    fn the_longest_are_named_by_their_place() {
        let sample = |n: usize| Sample { question: "q".repeat(n), steps: Vec::new(), answer: String::new() };
        let samples: Vec<Sample> = [3, 9, 1, 9, 5].map(sample).into();
        let found = longest(&samples, |s| Ok(s.question.len())).unwrap();
        assert_eq!(found, [(9, 2), (9, 4), (5, 5)]);
    }
}
