//! Continuous thoughts in generation: the input after a hidden state.

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
