//! Continuous thoughts in generation: the input after a hidden state, and when a sequence begins to write.

use super::request::Event;
use super::sequence::{Phase, Sequence};
use crate::Result;
use crate::device::Device;
use crate::model::ColarModel;

/// The thoughts `[N, H]` that follow hidden states `h[N, H]`.
pub(super) fn think<D: Device>(device: &D, model: &ColarModel<D>, h: D::Tensor) -> Result<D::Tensor> {
    match model.thoughts.as_ref().and_then(|t| t.projector.as_ref()) {
        Some(projector) => Ok(projector.forward(device, &model.params, h)?.0),
        None => Ok(h),
    }
}

/// After a forward pass: counts the thoughts that it took in; whoever has had the last one begins to write.
pub(super) fn count(
    sequences: &mut [Sequence<'_>],
    active: &[usize],
    on_event: &mut (dyn FnMut(Event) + Send),
) {
    for &i in active {
        let s = &mut sequences[i];
        let Phase::Thoughts(left) = s.phase else { continue };
        s.n_latents += 1;
        s.phase = if left > 1 { Phase::Thoughts(left - 1) } else { Phase::Reasoning };
        on_event(Event::Latent { request: s.index, number: s.n_latents });
    }
}
