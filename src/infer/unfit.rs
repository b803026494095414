//! The error of a generation whose logits stopped being numbers.

use super::sequence::{Parts, Sequence};
use crate::Error;
use crate::device::Device;

/// `error`, or where it says that a row's logits are not finite, that of the row's sequence with its likely cause.
pub(super) fn explain<D: Device>(
    parts: &Parts<'_, D>,
    error: Error,
    sequence: impl FnOnce(usize) -> usize,
    sequences: &[Sequence],
) -> Error {
    let Error::Logits { row } = error else { return error };
    let Some(s) = sequences.get(sequence(row)) else { return error };
    let (request, latents, tokens) = (s.index, s.n_latents, s.token_ids.len());
    let cause = match parts.model.params.unfit(parts.device) {
        Some(name) => format!("the weight {name} holds NaN or infinity"),
        None if latents > 0 => {
            format!(
                "all weights are finite; a lower `latent_temperature` than {} may help",
                s.request.sampling.latent_temperature
            )
        }
        None => "all weights are finite, so activations overflow".to_owned(),
    };
    Error::other(format!(
        "request {request}: after {latents} latents and {tokens} tokens the logits are not finite: {cause}"
    ))
}
