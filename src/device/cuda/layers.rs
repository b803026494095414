//! Launches of `cuda/norm.cu` and `cuda/activation.cu`.

use super::driver::{Arg, Driver, Memory};
use super::kernels::{self as k, by_activation};
use super::{CudaDevice, CudaTensor, count32};
use crate::Result;
use crate::device::{Dtype, TensorInfo, check};

impl<R: Driver> CudaDevice<R> {
    /// RMSNorm of `x`, or of `x + delta`, which then goes to `sum`.
    pub(super) fn norm(
        &self,
        op: &'static str,
        x: &CudaTensor<R>,
        residual: Option<(&CudaTensor<R>, &mut CudaTensor<R>)>,
        w: &CudaTensor<R>,
        eps: f32,
        out: &mut CudaTensor<R>,
    ) -> Result<()> {
        let (rows, cols, dtype) = (x.rows(), x.cols(), x.dtype());
        check(op, "w", w, 1, cols)?;
        check(op, "out", out, rows, cols)?;
        let (delta, sum) = match residual {
            Some((delta, sum)) => {
                check(op, "delta", delta, rows, cols)?;
                check(op, "sum", sum, rows, cols)?;
                (Arg::from(delta.read(op, "delta", dtype)?), Arg::from(sum.write(op, "sum", dtype)?))
            }
            None => (Arg::Pointer(0), Arg::Pointer(0)),
        };
        let kernel = by_activation(op, dtype, [&k::rms_norm_f32, &k::rms_norm_bf16])?;
        let args = [
            Arg::from(&x.memory),
            delta,
            Arg::from(w.read(op, "w", Dtype::F32)?),
            eps.into(),
            count32(op, cols)?.into(),
            sum,
            out.write(op, "out", dtype)?.into(),
        ];
        // SAFETY: the checks above: all matrices have the shape and dtype of `x`, `w` a row of it in float32.
        unsafe { self.launch_rows(op, kernel, rows, cols, &args) }
    }

    /// LayerNorm.
    pub(super) fn affine_norm(
        &self,
        x: &CudaTensor<R>,
        w: &CudaTensor<R>,
        b: &CudaTensor<R>,
        out: &mut CudaTensor<R>,
    ) -> Result<()> {
        const OP: &str = "layer_norm";
        let (rows, cols, dtype) = (x.rows(), x.cols(), x.dtype());
        check(OP, "w", w, 1, cols)?;
        check(OP, "b", b, 1, cols)?;
        check(OP, "out", out, rows, cols)?;
        let kernel = by_activation(OP, dtype, [&k::layer_norm_f32, &k::layer_norm_bf16])?;
        let args = [
            Arg::from(&x.memory),
            Arg::from(w.read(OP, "w", Dtype::F32)?),
            Arg::from(b.read(OP, "b", Dtype::F32)?),
            count32(OP, cols)?.into(),
            out.write(OP, "out", dtype)?.into(),
        ];
        // SAFETY: the checks above.
        unsafe { self.launch_rows(OP, kernel, rows, cols, &args) }
    }

    /// SwiGLU.
    pub(super) fn gated(
        &self,
        gate: &CudaTensor<R>,
        up: &CudaTensor<R>,
        out: &mut CudaTensor<R>,
    ) -> Result<()> {
        const OP: &str = "swiglu";
        let dtype = gate.dtype();
        check(OP, "up", up, gate.rows(), gate.cols())?;
        check(OP, "out", out, gate.rows(), gate.cols())?;
        let kernel = by_activation(OP, dtype, [&k::swiglu_f32, &k::swiglu_bf16])?;
        let count = gate.count();
        let args = [
            Arg::from(&gate.memory),
            Arg::from(up.read(OP, "up", dtype)?),
            (count as u64).into(),
            out.write(OP, "out", dtype)?.into(),
        ];
        // SAFETY: all three have `count` elements of one dtype. A thread takes 16 bytes at a time.
        unsafe { self.launch_elements(kernel, count.div_ceil(16 / dtype.size()), &args) }
    }

    pub(super) fn exact_gelu(&self, x: &CudaTensor<R>, out: &mut CudaTensor<R>) -> Result<()> {
        const OP: &str = "gelu";
        let (count, dtype) = (x.count(), x.dtype());
        check(OP, "out", out, x.rows(), x.cols())?;
        let kernel = by_activation(OP, dtype, [&k::gelu_f32, &k::gelu_bf16])?;
        let args = [Arg::from(&x.memory), (count as u64).into(), out.write(OP, "out", dtype)?.into()];
        // SAFETY: both have `count` elements of one dtype.
        unsafe { self.launch_elements(kernel, count, &args) }
    }
}

/// An optional operand of the shape and dtype of `like`.
pub(super) fn optional<'a, R: Driver>(
    op: &'static str,
    name: &str,
    t: Option<&'a CudaTensor<R>>,
    like: &CudaTensor<R>,
) -> Result<Option<&'a R::Memory>> {
    let Some(t) = t else { return Ok(None) };
    check(op, name, t, like.rows(), like.cols())?;
    Ok(Some(t.read(op, name, like.dtype())?))
}

/// The address of an optional buffer that is written.
pub(super) fn optional_mut<R: Driver>(
    op: &'static str,
    name: &str,
    t: Option<&mut CudaTensor<R>>,
    like: &CudaTensor<R>,
) -> Result<Arg> {
    let Some(t) = t else { return Ok(Arg::Pointer(0)) };
    check(op, name, t, like.rows(), like.cols())?;
    Ok(Arg::Pointer(t.write(op, name, like.dtype())?.address()))
}
