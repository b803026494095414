//! Launches of `cuda/norm.cu` and `cuda/activation.cu`.

use super::driver::{Arg, Driver, Memory};
use super::kernels::{self as k, by_activation};
use super::{CudaDevice, CudaTensor, ROW_THREADS, count32};
use crate::device::{Dtype, TensorInfo, check};
use crate::{Error, Result};

/// Most blocks that each add up a part of a norm's weight gradients: four for each of an H100's multiprocessors.
const SUM_BLOCKS: usize = 528;

/// Bytes of shared memory of fixed size that the kernels of norms have.
const FIXED_SHARED: usize = 32 * size_of::<f32>();

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

/// How the rows of a norm's backward are dealt out to blocks.
struct Deal {
    blocks: u32,
    /// Rows of each.
    each: u32,
    threads: u32,
    /// Bytes of shared memory: the sums of each weight's gradient.
    shared: u32,
    /// Bytes of the blocks' sums.
    partials: usize,
}

impl<R: Driver> CudaDevice<R> {
    /// Deals out rows for the gradients of `weights` weights of `cols` elements: by blocks of one where there are
    /// none.
    fn deal(&self, op: &'static str, rows: usize, cols: usize, weights: usize) -> Result<Deal> {
        let each = if weights > 0 { rows.div_ceil(SUM_BLOCKS).max(1) } else { 1 };
        let (blocks, shared) = (rows.div_ceil(each), weights * cols * size_of::<f32>());
        let most = (self.driver.limits().shared as usize).saturating_sub(FIXED_SHARED);
        if shared > most {
            let what = format!("gradients of {weights} weights of {cols} columns; {most} bytes hold no more");
            return Err(Error::Shape { op, what });
        }
        Ok(Deal {
            blocks: count32(op, blocks)?,
            each: count32(op, each)?,
            threads: cols.next_multiple_of(32).clamp(32, ROW_THREADS) as u32,
            shared: count32(op, shared)?,
            partials: blocks * shared,
        })
    }

    /// Adds the blocks' sums to the gradients of one or two weights.
    fn add_sums(
        &self,
        op: &'static str,
        deal: &Deal,
        cols: usize,
        partials: &R::Memory,
        [dw, db]: [Arg; 2],
        weights: u32,
    ) -> Result<()> {
        let cols = count32(op, cols)?;
        let args = [Arg::from(partials), deal.blocks.into(), cols.into(), dw, db];
        // SAFETY: `partials` has a row of sums for every block and weight, which the launch before wrote, and each
        // weight `cols` floats.
        unsafe { self.launch(&k::norm_weights, [cols.div_ceil(32), weights], 256, 0, &args) }
    }

    pub(super) fn norm_backward(
        &self,
        dout: &CudaTensor<R>,
        x: &CudaTensor<R>,
        w: &CudaTensor<R>,
        eps: f32,
        dx: &mut CudaTensor<R>,
        dw: Option<&mut CudaTensor<R>>,
    ) -> Result<()> {
        const OP: &str = "rms_norm_backward";
        let (rows, cols, dtype) = (x.rows(), x.cols(), x.dtype());
        check(OP, "dout", dout, rows, cols)?;
        check(OP, "w", w, 1, cols)?;
        check(OP, "dx", dx, rows, cols)?;
        let dw = weight_gradient(OP, "dw", dw, cols)?;
        let deal = self.deal(OP, rows, cols, usize::from(dw.is_some()))?;
        let partials = dw.map(|_| self.driver.alloc(deal.partials)).transpose()?;
        let kernel = by_activation(OP, dtype, [&k::rms_norm_backward_f32, &k::rms_norm_backward_bf16])?;
        let args = [
            Arg::from(dout.read(OP, "dout", dtype)?),
            Arg::from(&x.memory),
            Arg::from(w.read(OP, "w", Dtype::F32)?),
            eps.into(),
            count32(OP, rows)?.into(),
            deal.each.into(),
            count32(OP, cols)?.into(),
            Arg::from(dx.write(OP, "dx", dtype)?),
            Arg::from(partials.as_ref()),
        ];
        // SAFETY: the checks above: all matrices have the shape and dtype of `x`, `w` a row of it in float32.
        // `partials` is freed in the order of launches.
        unsafe { self.launch(kernel, [deal.blocks, 1], deal.threads, deal.shared, &args) }?;
        match (dw, &partials) {
            (Some(dw), Some(partials)) => self.add_sums(OP, &deal, cols, partials, [dw, Arg::Pointer(0)], 1),
            _ => Ok(()),
        }
    }

    pub(super) fn affine_norm_backward(
        &self,
        dout: &CudaTensor<R>,
        x: &CudaTensor<R>,
        w: &CudaTensor<R>,
        dx: &mut CudaTensor<R>,
        params: Option<(&mut CudaTensor<R>, &mut CudaTensor<R>)>,
    ) -> Result<()> {
        const OP: &str = "layer_norm_backward";
        let (rows, cols, dtype) = (x.rows(), x.cols(), x.dtype());
        check(OP, "dout", dout, rows, cols)?;
        check(OP, "w", w, 1, cols)?;
        check(OP, "dx", dx, rows, cols)?;
        let (dw, db) = params.map_or((None, None), |(dw, db)| (Some(dw), Some(db)));
        let (dw, db) = (weight_gradient(OP, "dw", dw, cols)?, weight_gradient(OP, "db", db, cols)?);
        let params = dw.zip(db).map(|(dw, db)| [dw, db]);
        let deal = self.deal(OP, rows, cols, params.map_or(0, |p| p.len()))?;
        let partials = params.map(|_| self.driver.alloc(deal.partials)).transpose()?;
        let kernel = by_activation(OP, dtype, [&k::layer_norm_backward_f32, &k::layer_norm_backward_bf16])?;
        let args = [
            Arg::from(dout.read(OP, "dout", dtype)?),
            Arg::from(&x.memory),
            Arg::from(w.read(OP, "w", Dtype::F32)?),
            count32(OP, rows)?.into(),
            deal.each.into(),
            count32(OP, cols)?.into(),
            Arg::from(dx.write(OP, "dx", dtype)?),
            Arg::from(partials.as_ref()),
        ];
        // SAFETY: as for `norm_backward`.
        unsafe { self.launch(kernel, [deal.blocks, 1], deal.threads, deal.shared, &args) }?;
        match (params, &partials) {
            (Some(params), Some(partials)) => self.add_sums(OP, &deal, cols, partials, params, 2),
            _ => Ok(()),
        }
    }

    pub(super) fn gated_backward(
        &self,
        dout: &CudaTensor<R>,
        gate: &mut CudaTensor<R>,
        up: &mut CudaTensor<R>,
    ) -> Result<()> {
        const OP: &str = "swiglu_backward";
        let (count, dtype) = (gate.count(), gate.dtype());
        check(OP, "dout", dout, gate.rows(), gate.cols())?;
        check(OP, "up", up, gate.rows(), gate.cols())?;
        let kernel = by_activation(OP, dtype, [&k::swiglu_backward_f32, &k::swiglu_backward_bf16])?;
        let args = [
            Arg::from(dout.read(OP, "dout", dtype)?),
            (count as u64).into(),
            Arg::from(gate.write(OP, "gate", dtype)?),
            Arg::from(up.write(OP, "up", dtype)?),
        ];
        // SAFETY: all three have `count` elements of one dtype. A thread takes 16 bytes at a time.
        unsafe { self.launch_elements(kernel, count.div_ceil(16 / dtype.size()), &args) }
    }

    pub(super) fn exact_gelu_backward(
        &self,
        dout: &CudaTensor<R>,
        x: &CudaTensor<R>,
        dx: &mut CudaTensor<R>,
    ) -> Result<()> {
        const OP: &str = "gelu_backward";
        let (count, dtype) = (x.count(), x.dtype());
        check(OP, "dout", dout, x.rows(), x.cols())?;
        check(OP, "dx", dx, x.rows(), x.cols())?;
        let kernel = by_activation(OP, dtype, [&k::gelu_backward_f32, &k::gelu_backward_bf16])?;
        let args = [
            Arg::from(dout.read(OP, "dout", dtype)?),
            Arg::from(&x.memory),
            (count as u64).into(),
            Arg::from(dx.write(OP, "dx", dtype)?),
        ];
        // SAFETY: all three have `count` elements of one dtype.
        unsafe { self.launch_elements(kernel, count, &args) }
    }
}

/// The address of a weight's gradient, one float32 a column, where it is wanted.
fn weight_gradient<R: Driver>(
    op: &'static str,
    name: &str,
    t: Option<&mut CudaTensor<R>>,
    cols: usize,
) -> Result<Option<Arg>> {
    let Some(t) = t else { return Ok(None) };
    check(op, name, t, 1, cols)?;
    Ok(Some(Arg::from(t.write(op, name, Dtype::F32)?)))
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
