//! AdamW over all trained weights (spec section 7), with clipping by the global norm.

use crate::device::{AdamW, AdamWTensor, Device, TensorInfo};
use crate::model::params::{Grads, ParamId, Params};
use crate::{Error, Result};

/// Waits for the norm of the gradients of step `step`.
///
/// # Errors
/// [`Error::NonFinite`] when it is not a number: nothing was changed then.
pub fn finite_norm<D: Device>(device: &D, norm: &D::Late, step: u64) -> Result<f64> {
    let norm = device.late(norm)?;
    if norm.is_finite() { Ok(norm) } else { Err(Error::NonFinite { step, what: "the gradient norm".into() }) }
}

/// First and second moments of the trained weights, float32, in the order of [`Grads::ids`].
pub struct Optimizer<D: Device> {
    ids: Vec<ParamId>,
    m: Vec<D::Tensor>,
    v: Vec<D::Tensor>,
}

impl<D: Device> Optimizer<D> {
    /// Moments of zero.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn new(device: &D, params: &Params<D>, grads: &Grads<D>) -> Result<Self> {
        let ids: Vec<ParamId> = grads.ids().collect();
        let zeros = || -> Result<Vec<D::Tensor>> {
            ids.iter()
                .map(|&id| {
                    let value = params.get(id);
                    device.zeros(value.rows(), value.cols())
                })
                .collect()
        };
        Ok(Optimizer { m: zeros()?, v: zeros()?, ids })
    }

    /// One step. Returns the norm of the gradients before clipping to `clip` (0 never clips).
    ///
    /// # Errors
    /// [`Error::NonFinite`], and nothing is changed, when the norm is not a number.
    pub fn step(
        &mut self,
        device: &D,
        params: &mut Params<D>,
        grads: &Grads<D>,
        hyper: &AdamW,
        clip: f32,
    ) -> Result<f64> {
        let norm = self.begin(device, params, grads, hyper, clip, &[])?;
        finite_norm(device, &norm, hyper.step)
    }

    /// As [`step`](Optimizer::step), but does not wait for the norm, which [`finite_norm`] then gives. Nothing is
    /// changed either where `watched`, the losses, is not finite.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn begin(
        &mut self,
        device: &D,
        params: &mut Params<D>,
        grads: &Grads<D>,
        hyper: &AdamW,
        clip: f32,
        watched: &[&D::Tensor],
    ) -> Result<D::Late> {
        let mut tensors = Vec::with_capacity(self.ids.len());
        for (((_, value), grad), (m, v)) in params
            .iter_mut()
            .filter(|(id, _)| grads.trains(*id))
            .zip(grads.tensors())
            .zip(self.m.iter_mut().zip(&mut self.v))
        {
            tensors.push(AdamWTensor { value, grad, m, v });
        }
        device.adamw_clipped(hyper, clip, watched, &mut tensors)
    }

    /// The moments with the weights they belong to: `(id, m, v)`.
    pub fn moments(&self) -> impl Iterator<Item = (ParamId, &D::Tensor, &D::Tensor)> {
        self.ids.iter().copied().zip(&self.m).zip(&self.v).map(|((id, m), v)| (id, m, v))
    }

    /// As [`moments`](Optimizer::moments), for restoring them.
    pub fn moments_mut(&mut self) -> impl Iterator<Item = (ParamId, &mut D::Tensor, &mut D::Tensor)> {
        self.ids.iter().copied().zip(&mut self.m).zip(&mut self.v).map(|((id, m), v)| (id, m, v))
    }
}
