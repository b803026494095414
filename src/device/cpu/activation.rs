//! SwiGLU and exact GELU, forward and backward.

use super::buffer::CpuTensor;
use super::par::{self, SharedMut};
use super::{CpuDevice, math};
use crate::Result;
use crate::device::activation::{
    ActivationOps, check_gelu, check_gelu_backward, check_swiglu, check_swiglu_backward,
};

impl ActivationOps for CpuDevice {
    fn swiglu(&self, gate: &CpuTensor, up: &CpuTensor, out: &mut CpuTensor) -> Result<()> {
        let op = check_swiglu(gate, up, out)?.op;
        swiglu(gate.f32(op)?, up.f32(op)?, out.f32_mut(op)?);
        Ok(())
    }

    fn swiglu_backward(&self, dout: &CpuTensor, gate: &mut CpuTensor, up: &mut CpuTensor) -> Result<()> {
        let op = check_swiglu_backward(dout, gate, up)?.op;
        swiglu_backward(dout.f32(op)?, gate.f32_mut(op)?, up.f32_mut(op)?);
        Ok(())
    }

    fn gelu(&self, x: &CpuTensor, out: &mut CpuTensor) -> Result<()> {
        let op = check_gelu(x, out)?.op;
        gelu(x.f32(op)?, out.f32_mut(op)?);
        Ok(())
    }

    fn gelu_backward(&self, dout: &CpuTensor, x: &CpuTensor, dx: &mut CpuTensor) -> Result<()> {
        let op = check_gelu_backward(dout, x, dx)?.op;
        gelu_backward(dout.f32(op)?, x.f32(op)?, dx.f32_mut(op)?);
        Ok(())
    }
}

/// Elements a task should at least have.
const GRAIN: usize = 4096;

/// `out = silu(gate) · up`.
fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) {
    par::split_rows(out, 1, GRAIN, |first, out| {
        let at = first..first + out.len();
        math::swiglu(&gate[at.clone()], &up[at], out);
    });
}

/// Replaces `gate` and `up` by their gradients, by way of blocks that stay in the first-level cache.
fn swiglu_backward(dout: &[f32], gate: &mut [f32], up: &mut [f32]) {
    const BLOCK: usize = 1024;
    let up = SharedMut::new(up);
    par::split_rows(gate, 1, GRAIN, |first, gate| {
        let (mut g, mut u) = ([0.0; BLOCK], [0.0; BLOCK]);
        for (i, gate) in gate.chunks_mut(BLOCK).enumerate() {
            let (n, start) = (gate.len(), first + i * BLOCK);
            // SAFETY: `split_rows` hands out disjoint ranges, and `up` is cut alike.
            let up = unsafe { up.slice(start..start + n) };
            g[..n].copy_from_slice(gate);
            u[..n].copy_from_slice(up);
            math::swiglu_backward(&g[..n], &u[..n], &dout[start..start + n], gate, up);
        }
    });
}

/// `out = x · Φ(x)`, Φ the normal distribution function (erf, not its tanh approximation).
fn gelu(x: &[f32], out: &mut [f32]) {
    par::split_rows(out, 1, GRAIN / 4, |first, out| {
        for (o, &x) in out.iter_mut().zip(&x[first..]) {
            *o = x * normal_cdf(x);
        }
    });
}

/// `dx = dout · (Φ(x) + x·φ(x))`.
fn gelu_backward(dout: &[f32], x: &[f32], dx: &mut [f32]) {
    const INV_SQRT_TAU: f32 = 0.398_942_3;
    par::split_rows(dx, 1, GRAIN / 4, |first, dx| {
        for ((dx, &x), &d) in dx.iter_mut().zip(&x[first..]).zip(&dout[first..]) {
            *dx = d * (normal_cdf(x) + x * INV_SQRT_TAU * libm::expf(-0.5 * x * x));
        }
    });
}

fn normal_cdf(x: f32) -> f32 {
    0.5 * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2))
}
