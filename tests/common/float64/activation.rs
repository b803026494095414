//! SwiGLU and GELU.

use colar_engine::Result;
use colar_engine::device::prelude::*;

use super::{Float64, Float64Tensor, refused};

impl ActivationOps for Float64 {
    fn swiglu(&self, gate: &Float64Tensor, up: &Float64Tensor, out: &mut Float64Tensor) -> Result<()> {
        swiglu(gate, up, out);
        Ok(())
    }

    fn swiglu_backward(&self, _: &Float64Tensor, _: &mut Float64Tensor, _: &mut Float64Tensor) -> Result<()> {
        refused("swiglu_backward")
    }

    fn gelu(&self, x: &Float64Tensor, out: &mut Float64Tensor) -> Result<()> {
        gelu(x, out);
        Ok(())
    }

    fn gelu_backward(&self, _: &Float64Tensor, _: &Float64Tensor, _: &mut Float64Tensor) -> Result<()> {
        refused("gelu_backward")
    }
}

/// `out = silu(gate) · up`.
fn swiglu(gate: &Float64Tensor, up: &Float64Tensor, out: &mut Float64Tensor) {
    gate.like(up);
    gate.like(out);
    for ((out, g), u) in out.values.iter_mut().zip(&gate.values).zip(&up.values) {
        *out = g / (1.0 + (-g).exp()) * u;
    }
}

/// `out = x · Φ(x)`.
fn gelu(x: &Float64Tensor, out: &mut Float64Tensor) {
    x.like(out);
    for (out, x) in out.values.iter_mut().zip(&x.values) {
        *out = x * 0.5 * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2));
    }
}
