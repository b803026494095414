//! The error of a generation whose logits stopped being numbers.

use super::sequence::{Parts, Sequence};
use crate::Error;
use crate::device::Device;
use crate::files::json::one_line;

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
    let cause = match parts.models.of(s.request.adapter).params.unfit(parts.device) {
        Some(name) => format!("the weight {name} holds NaN or infinity"),
        None if latents > 0 => {
            format!(
                "all weights are finite; a lower `latent_temperature` than {} may help",
                s.request.sampling.latent_temperature
            )
        }
        None => "all weights are finite, so activations overflow".to_owned(),
    };
    let under = s.request.adapter.map_or(String::new(), |i| {
        let (name, _) = parts.models.adapted[i];
        format!(" (adapter {})", one_line(name))
    });
    Error::other(format!(
        "request {request}{under}: after {latents} latents and {tokens} tokens the logits are not finite: {cause}"
    ))
}
