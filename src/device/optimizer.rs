//! AdamW, and the norm that clips it (spec section 7).

use super::memory::MemoryOps;
use super::shape::Checked;
use crate::Result;

/// Hyper-parameters of one AdamW step (spec section 7).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Step number, counted from 1, for the bias correction.
    pub step: u64,
    /// Factor on every gradient before use: gradient clipping.
    pub grad_scale: f32,
}

impl AdamW {
    /// Step `step` of the paper's optimiser: betas 0.9 and 0.999, eps 1e-8, gradients as they are.
    pub fn new(lr: f32, weight_decay: f32, step: u64) -> Self {
        AdamW { lr, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay, step, grad_scale: 1.0 }
    }

    /// The step with its gradients, whose norm is `norm`, scaled down to a norm of `clip`; 0 never clips.
    pub fn clipped(self, norm: f64, clip: f32) -> Self {
        let clip = f64::from(clip);
        let scale = if clip > 0.0 && norm > clip { clip / norm } else { 1.0 };
        AdamW { grad_scale: self.grad_scale * scale as f32, ..self }
    }
}

/// One tensor's share in [`OptimizerOps::adamw`]; all four have the same shape and are float32.
pub struct AdamWTensor<'a, D: MemoryOps> {
    /// The weights, updated.
    pub value: &'a mut D::Tensor,
    /// Their gradient.
    pub grad: &'a D::Tensor,
    /// First moment, updated.
    pub m: &'a mut D::Tensor,
    /// Second moment, updated.
    pub v: &'a mut D::Tensor,
}

/// Steps of the optimiser, over all tensors at once.
pub trait OptimizerOps: MemoryOps {
    /// A number that may not be computed yet.
    type Late: Send;

    /// Sum of the squares of all elements of all tensors, accumulated in float64.
    fn sum_squares(&self, tensors: &[&Self::Tensor]) -> Result<f64>;
    /// One AdamW step over all tensors.
    fn adamw(&self, hyper: &AdamW, tensors: &mut [AdamWTensor<'_, Self>]) -> Result<()>;
    /// One AdamW step over all tensors, [clipped](AdamW::clipped) to `clip` by the norm of all their gradients,
    /// without waiting for that. Nothing is changed where a gradient or an element of `watched`, float32 tensors
    /// such as the losses that the gradients are of, is not finite. Gives the norm of the gradients, or a number
    /// that is not finite if nothing was changed, for [`late`](OptimizerOps::late).
    fn adamw_clipped(
        &self,
        hyper: &AdamW,
        clip: f32,
        watched: &[&Self::Tensor],
        tensors: &mut [AdamWTensor<'_, Self>],
    ) -> Result<Self::Late>;
    /// Waits for a number.
    fn late(&self, number: &Self::Late) -> Result<f64>;
}

/// Goes over one of the tensors.
pub(crate) fn check_adamw<D: MemoryOps>(t: &AdamWTensor<'_, D>) -> Result<Checked> {
    let all = Checked::of("adamw", &*t.value);
    all.same("grad", t.grad)?;
    all.same("m", t.m)?;
    all.same("v", t.v)?;
    Ok(all)
}
