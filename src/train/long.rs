//! Samples that take more positions than the model was made for (`max_position_embeddings`).
//!
//! Training on them is possible, and now and then meant: a warning says once how many there are. A score of them is not
//! comparable to that of others, so there they are refused.

use std::path::Path;

use rayon::prelude::*;

use super::recipe::Recipe;
use crate::data::Sample;
use crate::data::answer::ANSWER_MARK;
use crate::device::Device;
use crate::infer::Loaded;
use crate::model::config::ModelConfig;
use crate::model::prompt::{AUTO, question_text};
use crate::{Error, Result};

/// Samples beyond the model's positions.
struct Beyond {
    /// The first of them, from 0.
    first: usize,
    /// How many there are.
    count: usize,
    /// The most positions that one takes.
    longest: usize,
}

/// Warns of samples of `path` whose length exceeds the model's positions; `positions` gives it, and `spare` is what a
/// sample takes beside its texts.
///
/// # Errors
/// Errors of `positions`.
pub(crate) fn warn(
    path: &Path,
    config: &ModelConfig,
    samples: &[Sample],
    spare: usize,
    positions: impl Fn(&Sample) -> Result<usize> + Sync,
) -> Result<()> {
    let most = config.max_position_embeddings;
    if let Some(Beyond { count, longest, .. }) = find(samples, most, spare, &positions)? {
        tracing::warn!(
            "{}: {count} of {} samples take up to {longest} positions, and the model was made for {most} positions \
             (max_position_embeddings)",
            path.display(),
            samples.len()
        );
    }
    Ok(())
}

/// Fails where a sample takes more than the loaded model's most positions, `thoughts` of which are none of its texts'.
///
/// # Errors
/// [`Error::Usage`] naming the first, and how many more there are; errors of the tokenizer.
pub(super) fn refuse<D: Device>(
    loaded: &Loaded<D>,
    samples: &[Sample],
    recipe: &Recipe<'_>,
    thoughts: usize,
) -> Result<()> {
    let Some(most) = loaded.most_positions else { return Ok(()) };
    let positions = |sample: &Sample| Ok(thoughts + recipe.positions(sample)?);
    let spare = thoughts + loaded.opened.tokenizer.template_bytes();
    let Some(Beyond { first, count, longest }) = find(samples, most, spare, &positions)? else {
        return Ok(());
    };
    let more = if count > 1 { format!(" and {} more samples take", count - 1) } else { " takes".to_owned() };
    Err(Error::usage(format!(
        "sample {}{more} up to {longest} positions, and the model was made for {most} positions (max_position_embeddings); with \
         `allow_long` they are scored all the same",
        first + 1
    )))
}

fn find(
    samples: &[Sample],
    most: usize,
    spare: usize,
    positions: &(impl Fn(&Sample) -> Result<usize> + Sync),
) -> Result<Option<Beyond>> {
    // A token is a byte of text or more, but for a blank that some tokenizers put before a text: only few samples, if any,
    // have to be cut into tokens for this.
    let around = question_text("", AUTO).len() + ANSWER_MARK.len() + 8 + spare;
    let bytes = |s: &Sample| {
        s.question.len() + s.answer.len() + s.steps.iter().map(|step| step.len() + 1).sum::<usize>() + around
    };
    let lengths: Vec<(usize, usize)> = samples
        .par_iter()
        .enumerate()
        .filter(|(_, sample)| bytes(sample) > most)
        .map(|(i, sample)| Ok((i, positions(sample)?)))
        .collect::<Result<_>>()?;
    let beyond: Vec<(usize, usize)> = lengths.into_iter().filter(|&(_, length)| length > most).collect();
    let Some(&(first, _)) = beyond.first() else { return Ok(None) };
    let longest = beyond.iter().map(|&(_, length)| length).max().unwrap_or(0);
    Ok(Some(Beyond { first, count: beyond.len(), longest }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(question: &str) -> Sample {
        Sample { question: question.into(), steps: vec!["1+1=2".into()], answer: "2".into() }
    }

    #[test]
    fn the_long_ones_are_found() {
        let long = "x".repeat(500);
        let samples = [sample("q"), sample(&long), sample("q"), sample(&long[..300])];
        let of = |most| find(&samples, most, 0, &|s| Ok(s.question.len())).unwrap();
        assert!(of(500).is_none());
        let found = of(299).unwrap();
        assert_eq!((found.first, found.count, found.longest), (1, 2, 500));
        assert_eq!(of(300).unwrap().count, 1);
        assert!(find(&samples, 10, 0, &|_| Err(Error::other("no token"))).is_err());
    }
}
