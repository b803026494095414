//! Lengths of the parts of a data set's samples.
//!
//! Before a run one wants to know what it will cost and what must fit: the steps decide how many
//! latents a compression factor leaves, the longest sample decides the memory.

use rayon::prelude::*;
use serde::Serialize;

use super::Sample;
use crate::Result;

/// The distribution of a length over the samples of a set.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// Arithmetic mean.
    pub mean: f64,
    /// Median: the smallest length that at least half of the samples do not exceed.
    pub p50: usize,
    /// The smallest length that at least 95 % of the samples do not exceed.
    pub p95: usize,
    /// The largest.
    pub max: usize,
}

impl Spread {
    /// The distribution of `lengths`; all zeros if there is none.
    pub fn of(mut lengths: Vec<usize>) -> Self {
        lengths.sort_unstable();
        let n = lengths.len();
        // The nearest rank: ceil(n · percent / 100), counted from 1.
        let rank = |percent: usize| (n * percent).div_ceil(100).saturating_sub(1);
        let at = |place: usize| lengths.get(place).copied().unwrap_or(0);
        let sum: f64 = lengths.iter().map(|&length| length as f64).sum();
        Spread {
            mean: sum / n.max(1) as f64,
            p50: at(rank(50)),
            p95: at(rank(95)),
            max: at(n.saturating_sub(1)),
        }
    }
}

/// The lengths of a data set's parts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Lengths {
    /// Samples in the set.
    pub samples: usize,
    /// Steps a sample.
    pub steps_per_sample: Spread,
    /// Length of the question.
    pub question: Spread,
    /// Length of all steps joined by `\n`, as the prompt has them.
    pub steps: Spread,
    /// Length of the answer.
    pub answer: Spread,
    /// Whole samples beside the positions of a model, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub whole: Option<Whole>,
}

/// Whole samples as a model meets them, with the prompt around them and nothing compressed, in positions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Whole {
    /// Length of a sample.
    pub positions: Spread,
    /// The longest sequence that the model was made for.
    pub max_position_embeddings: usize,
    /// Samples that are longer.
    pub longer: usize,
}

impl Whole {
    /// Measures `samples` with `positions`, beside the positions that a model was made for.
    ///
    /// # Errors
    /// The first error of `positions`.
    pub fn measure(
        samples: &[Sample],
        max_position_embeddings: usize,
        positions: impl Fn(&Sample) -> Result<usize> + Sync,
    ) -> Result<Self> {
        let lengths: Vec<usize> = samples.par_iter().map(&positions).collect::<Result<_>>()?;
        let longer = lengths.iter().filter(|&&length| length > max_position_embeddings).count();
        Ok(Whole { positions: Spread::of(lengths), max_position_embeddings, longer })
    }
}

impl Lengths {
    /// Measures `samples` with `length`, which gives the length of a text, in tokens for instance.
    ///
    /// # Errors
    /// The first error of `length`.
    pub fn measure(samples: &[Sample], length: impl Fn(&str) -> Result<usize> + Sync) -> Result<Self> {
        let measured: Vec<[usize; 4]> = samples
            .par_iter()
            .map(|sample| {
                let steps = length(&sample.steps.join("\n"))?;
                Ok([sample.steps.len(), length(&sample.question)?, steps, length(&sample.answer)?])
            })
            .collect::<Result<_>>()?;
        let spread = |part: usize| Spread::of(measured.iter().map(|lengths| lengths[part]).collect());
        Ok(Lengths {
            samples: samples.len(),
            steps_per_sample: spread(0),
            question: spread(1),
            steps: spread(2),
            answer: spread(3),
            whole: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        assert_eq!(Spread::of((1..=100).rev().collect()), Spread { mean: 50.5, p50: 50, p95: 95, max: 100 });
        assert_eq!(Spread::of(vec![7]), Spread { mean: 7.0, p50: 7, p95: 7, max: 7 });
        assert_eq!(Spread::of(vec![3, 1]), Spread { mean: 2.0, p50: 1, p95: 3, max: 3 });
        assert_eq!(Spread::of(vec![]), Spread { mean: 0.0, p50: 0, p95: 0, max: 0 });
    }

    #[test]
    fn samples_beyond_a_models_positions_are_counted() {
        let sample = |question: &str| Sample { question: question.into(), steps: vec![], answer: "1".into() };
        let samples = [sample("a"), sample("abcdef"), sample("abcd")];
        let whole = Whole::measure(&samples, 4, |s| Ok(s.question.len())).unwrap();
        assert_eq!((whole.longer, whole.positions.max, whole.positions.p50), (1, 6, 4));
    }

    #[test]
    fn steps_are_measured_joined() {
        let sample =
            Sample { question: "abc".into(), steps: vec!["x".into(), "yz".into()], answer: "1".into() };
        let lengths = Lengths::measure(&[sample], |text| Ok(text.len())).unwrap();
        let maxima =
            [lengths.steps_per_sample, lengths.question, lengths.steps, lengths.answer].map(|s| s.max);
        assert_eq!(maxima, [2, 3, 4, 1]);
    }
}
