//! AdamW over all trained weights (spec section 7), with clipping by the global norm.

use crate::device::{AdamW, AdamWTensor, Device, TensorInfo};
use crate::model::params::{Grads, ParamId, Params};
use crate::{Error, Result};

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
    /// What the device says.
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
        let norm = device.sum_squares(&grads.tensors())?.sqrt();
        if !norm.is_finite() {
            return Err(Error::NonFinite { step: hyper.step, what: "the gradient norm".into() });
        }
        let clip = f64::from(clip);
        let scale = if clip > 0.0 && norm > clip { clip / norm } else { 1.0 };
        let hyper = AdamW { grad_scale: hyper.grad_scale * scale as f32, ..*hyper };
        let mut tensors = Vec::with_capacity(self.ids.len());
        for (((_, value), grad), (m, v)) in params
            .iter_mut()
            .filter(|(id, _)| grads.trains(*id))
            .zip(grads.tensors())
            .zip(self.m.iter_mut().zip(&mut self.v))
        {
            tensors.push(AdamWTensor { value, grad, m, v });
        }
        device.adamw(&hyper, &mut tensors)?;
        Ok(norm)
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
