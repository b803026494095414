//! Figures of a method or a factor over seeds, with their intervals.

use serde::{Deserialize, Serialize};

use super::inputs::AVERAGE;
use super::measure::Measured;
use crate::eval::stats::estimate;
use crate::eval::table::figure;
use crate::{Error, Result};

/// Figures over seeds. Fields ending in `_ci` are half widths of 95 % intervals (Student's t), absent for one seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// The test set, or `average` over all.
    pub test: String,
    /// Share of right answers, from 0 to 1.
    pub accuracy: f64,
    /// Its interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy_ci: Option<f64>,
    /// Mean reasoning length #L: latents, thoughts, tokens of reasoning text.
    pub mean_length: f64,
    /// Its interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_length_ci: Option<f64>,
    /// Accuracies by seed.
    pub accuracies: Vec<f64>,
    /// Lengths by seed.
    pub mean_lengths: Vec<f64>,
}

impl Figures {
    /// The figures of accuracies and lengths by seed; `None` without a seed.
    fn of(test: &str, accuracies: Vec<f64>, mean_lengths: Vec<f64>) -> Option<Self> {
        let (accuracy, length) = (estimate(&accuracies)?, estimate(&mean_lengths)?);
        Some(Figures {
            test: test.to_owned(),
            accuracy: accuracy.mean,
            accuracy_ci: accuracy.half_width,
            mean_length: length.mean,
            mean_length_ci: length.half_width,
            accuracies,
            mean_lengths,
        })
    }

    /// The figures of one test set, by seed.
    pub(super) fn of_measured(test: &str, by_seed: &[Measured]) -> Option<Self> {
        Self::of(
            test,
            by_seed.iter().map(|m| m.accuracy).collect(),
            by_seed.iter().map(|m| m.mean_length).collect(),
        )
    }

    /// The mean over several test sets, taken seed by seed, so that its interval is one over seeds too.
    pub(super) fn average(all: &[Figures]) -> Option<Self> {
        let mean = |of: fn(&Figures) -> &Vec<f64>| -> Vec<f64> {
            let seeds = all.iter().map(|f| of(f).len()).min().unwrap_or(0);
            (0..seeds).map(|k| all.iter().map(|f| of(f)[k]).sum::<f64>() / all.len() as f64).collect()
        };
        Self::of(AVERAGE, mean(|f| &f.accuracies), mean(|f| &f.mean_lengths))
    }

    /// Accuracy in percent and length, as in a table.
    pub(super) fn cells(&self) -> [String; 2] {
        [
            figure(100.0 * self.accuracy, self.accuracy_ci.map(|ci| 100.0 * ci)),
            figure(self.mean_length, self.mean_length_ci),
        ]
    }
}

/// Fails on figures that cannot be plotted.
pub(super) fn drawable<'a>(figures: impl Iterator<Item = &'a Figures>) -> Result<()> {
    let mut n = 0;
    for f in figures {
        n += 1;
        if !(f.accuracy.is_finite() && f.mean_length.is_finite()) {
            return Err(Error::usage("a figure to plot is not finite"));
        }
    }
    if n == 0 { Err(Error::usage("there is nothing to plot")) } else { Ok(()) }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn figures(test: &str, accuracies: &[f64], lengths: &[f64]) -> Figures {
        Figures::of(test, accuracies.to_vec(), lengths.to_vec()).unwrap()
    }

    #[test]
    fn the_average_is_taken_seed_by_seed() {
        let all = [figures("a", &[0.2, 0.4], &[1.0, 3.0]), figures("b", &[0.6, 0.4], &[3.0, 1.0])];
        let average = Figures::average(&all).unwrap();
        assert_eq!((average.accuracies, average.mean_lengths), (vec![0.4, 0.4], vec![2.0, 2.0]));
        assert_eq!((average.accuracy, average.accuracy_ci), (0.4, Some(0.0)));
        assert_eq!(average.test, AVERAGE);
    }
}
