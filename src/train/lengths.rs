//! How long training samples are, and which are too long.

use crate::Result;
use crate::data::Sample;
use crate::device::Device;
use crate::model::open::Opened;
use crate::model::prompt::{Method, training};

/// The tokens of a sample with all that is put around it, before anything is compressed: its positions at c = 1.
///
/// # Errors
/// Errors of the tokenizer.
pub(super) fn tokens<D: Device>(sample: &Sample, opened: &Opened<D>) -> Result<usize> {
    let s = training(&opened.tokenizer, opened.separator, opened.eos.append, Method::Cot, sample, "1")?;
    Ok(s.question.len() + s.steps.len() + s.answer.len())
}

/// Removes the samples of more than `most` tokens, and says how many these were. None is cut: an answer without its end
/// would teach a model not to end.
///
/// # Errors
/// Errors of the tokenizer.
pub(super) fn leave_out<D: Device>(
    samples: &mut Vec<Sample>,
    opened: &Opened<D>,
    most: Option<usize>,
) -> Result<usize> {
    let Some(most) = most else { return Ok(0) };
    let all = samples.len();
    let mut kept = Vec::with_capacity(all);
    for sample in samples.drain(..) {
        if tokens(&sample, opened)? <= most {
            kept.push(sample);
        }
    }
    *samples = kept;
    Ok(all - samples.len())
}
