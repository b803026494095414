//! SwiGLU and exact GELU.

use super::memory::MemoryOps;
use super::shape::{Checked, TensorInfo};
use crate::Result;

/// Activation functions, element by element; all operands of one have the same shape and dtype.
pub trait ActivationOps: MemoryOps {
    /// SwiGLU: `out = silu(gate) · up`.
    fn swiglu(&self, gate: &Self::Tensor, up: &Self::Tensor, out: &mut Self::Tensor) -> Result<()>;
    /// Gradient of [`swiglu`](ActivationOps::swiglu) in place: on entry `gate` and `up` hold the inputs,
    /// on exit their gradients.
    fn swiglu_backward(
        &self,
        dout: &Self::Tensor,
        gate: &mut Self::Tensor,
        up: &mut Self::Tensor,
    ) -> Result<()>;
    /// Exact GELU: `out = x · Φ(x)`.
    fn gelu(&self, x: &Self::Tensor, out: &mut Self::Tensor) -> Result<()>;
    /// `dx = dout · gelu'(x)`.
    fn gelu_backward(&self, dout: &Self::Tensor, x: &Self::Tensor, dx: &mut Self::Tensor) -> Result<()>;
}

pub(crate) fn check_swiglu<T: TensorInfo>(gate: &T, up: &T, out: &T) -> Result<Checked> {
    let all = Checked::of("swiglu", gate);
    all.same("up", up)?;
    all.same("out", out)?;
    Ok(all)
}

pub(crate) fn check_swiglu_backward<T: TensorInfo>(dout: &T, gate: &T, up: &T) -> Result<Checked> {
    let all = Checked::of("swiglu_backward", gate);
    all.same("dout", dout)?;
    all.same("up", up)?;
    Ok(all)
}

pub(crate) fn check_gelu<T: TensorInfo>(x: &T, out: &T) -> Result<Checked> {
    let all = Checked::of("gelu", x);
    all.same("out", out)?;
    Ok(all)
}

pub(crate) fn check_gelu_backward<T: TensorInfo>(dout: &T, x: &T, dx: &T) -> Result<Checked> {
    let all = Checked::of("gelu_backward", x);
    all.same("dout", dout)?;
    all.same("dx", dx)?;
    Ok(all)
}
