//! Launches of `cuda/norm.cu`.

use super::driver::{Arg, Driver};
use super::kernels::{by_activation, kernels};
use super::{CudaDevice, CudaTensor, ROW_THREADS, count32};
use crate::device::Dtype;
use crate::device::norm::{
    NormOps, check_add_rms_norm, check_layer_norm, check_layer_norm_backward, check_rms_norm,
    check_rms_norm_backward,
};
use crate::device::shape::{Checked, TensorInfo};
use crate::{Error, Result};

kernels! {
    "norm":
    rms_norm_f32 rms_norm_bf16 layer_norm_f32 layer_norm_bf16 rms_norm_backward_f32 rms_norm_backward_bf16
    layer_norm_backward_f32 layer_norm_backward_bf16 norm_backward_weights
}

/// Most blocks that each add up a part of a norm's weight gradients: four for each of an H100's multiprocessors.
const SUM_BLOCKS: usize = 528;

/// Bytes of shared memory of fixed size that the kernels of norms have.
const FIXED_SHARED: usize = 32 * size_of::<f32>();

impl<R: Driver> NormOps for CudaDevice<R> {
    fn rms_norm(
        &self,
        x: &CudaTensor<R>,
        w: &CudaTensor<R>,
        eps: f32,
        out: &mut CudaTensor<R>,
    ) -> Result<()> {
        self.launch_rms_norm(check_rms_norm(x, w, out)?, x, None, w, eps, out)
    }

    fn add_rms_norm(
        &self,
        x: &CudaTensor<R>,
        delta: &CudaTensor<R>,
        w: &CudaTensor<R>,
        eps: f32,
        sum: &mut CudaTensor<R>,
        out: &mut CudaTensor<R>,
    ) -> Result<()> {
        let checked = check_add_rms_norm(x, delta, w, sum, out)?;
        self.launch_rms_norm(checked, x, Some((delta, sum)), w, eps, out)
    }

    fn rms_norm_backward(
        &self,
        dout: &CudaTensor<R>,
        x: &CudaTensor<R>,
        w: &CudaTensor<R>,
        eps: f32,
        dx: &mut CudaTensor<R>,
        dw: Option<&mut CudaTensor<R>>,
    ) -> Result<()> {
        let Checked { op, rows, cols } = check_rms_norm_backward(dout, x, w, dx, dw.as_deref())?;
        let dtype = x.dtype();
        let dw = dw.map(|dw| dw.write(op, "dw", Dtype::F32)).transpose()?.map(Arg::from);
        let deal = self.deal(op, rows, cols, usize::from(dw.is_some()))?;
        let partials = dw.map(|_| self.driver.alloc(deal.partials)).transpose()?;
        let kernel = by_activation(op, dtype, [&rms_norm_backward_f32, &rms_norm_backward_bf16])?;
        let args = [
            Arg::from(dout.read(op, "dout", dtype)?),
            Arg::from(&x.memory),
            Arg::from(w.read(op, "w", Dtype::F32)?),
            eps.into(),
            count32(op, rows)?.into(),
            deal.each.into(),
            count32(op, cols)?.into(),
            Arg::from(dx.write(op, "dx", dtype)?),
            Arg::from(partials.as_ref()),
        ];
        // SAFETY: the checks above: all matrices have the shape and dtype of `x`, which is `rows` rows of `w`, in
        // float32. `partials` is freed in the order of launches.
        unsafe { self.launch(kernel, [deal.blocks, 1], deal.threads, deal.shared, &args) }?;
        match (dw, &partials) {
            (Some(dw), Some(partials)) => self.add_sums(op, &deal, cols, partials, [dw, Arg::Pointer(0)], 1),
            _ => Ok(()),
        }
    }

    fn layer_norm(
        &self,
        x: &CudaTensor<R>,
        w: &CudaTensor<R>,
        b: &CudaTensor<R>,
        out: &mut CudaTensor<R>,
    ) -> Result<()> {
        let Checked { op, rows, cols } = check_layer_norm(x, w, b, out)?;
        let dtype = x.dtype();
        let kernel = by_activation(op, dtype, [&layer_norm_f32, &layer_norm_bf16])?;
        let args = [
            Arg::from(&x.memory),
            Arg::from(w.read(op, "w", Dtype::F32)?),
            Arg::from(b.read(op, "b", Dtype::F32)?),
            count32(op, cols)?.into(),
            out.write(op, "out", dtype)?.into(),
        ];
        // SAFETY: the checks above.
        unsafe { self.launch_rows(op, kernel, rows, cols, &args) }
    }

    fn layer_norm_backward(
        &self,
        dout: &CudaTensor<R>,
        x: &CudaTensor<R>,
        w: &CudaTensor<R>,
        dx: &mut CudaTensor<R>,
        params: Option<(&mut CudaTensor<R>, &mut CudaTensor<R>)>,
    ) -> Result<()> {
        let given = params.as_ref().map(|(dw, db)| (&**dw, &**db));
        let Checked { op, rows, cols } = check_layer_norm_backward(dout, x, w, dx, given)?;
        let dtype = x.dtype();
        let params = match params {
            Some((dw, db)) => {
                Some([Arg::from(dw.write(op, "dw", Dtype::F32)?), Arg::from(db.write(op, "db", Dtype::F32)?)])
            }
            None => None,
        };
        let deal = self.deal(op, rows, cols, params.map_or(0, |p| p.len()))?;
        let partials = params.map(|_| self.driver.alloc(deal.partials)).transpose()?;
        let kernel = by_activation(op, dtype, [&layer_norm_backward_f32, &layer_norm_backward_bf16])?;
        let args = [
            Arg::from(dout.read(op, "dout", dtype)?),
            Arg::from(&x.memory),
            Arg::from(w.read(op, "w", Dtype::F32)?),
            count32(op, rows)?.into(),
            deal.each.into(),
            count32(op, cols)?.into(),
            Arg::from(dx.write(op, "dx", dtype)?),
            Arg::from(partials.as_ref()),
        ];
        // SAFETY: as for `rms_norm_backward`.
        unsafe { self.launch(kernel, [deal.blocks, 1], deal.threads, deal.shared, &args) }?;
        match (params, &partials) {
            (Some(params), Some(partials)) => self.add_sums(op, &deal, cols, partials, params, 2),
            _ => Ok(()),
        }
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
    /// RMSNorm of `x`, or of `x + delta`, which then goes to `sum`.
    fn launch_rms_norm(
        &self,
        checked: Checked,
        x: &CudaTensor<R>,
        residual: Option<(&CudaTensor<R>, &mut CudaTensor<R>)>,
        w: &CudaTensor<R>,
        eps: f32,
        out: &mut CudaTensor<R>,
    ) -> Result<()> {
        let Checked { op, rows, cols } = checked;
        let dtype = x.dtype();
        let (delta, sum) = match residual {
            Some((delta, sum)) => {
                (Arg::from(delta.read(op, "delta", dtype)?), Arg::from(sum.write(op, "sum", dtype)?))
            }
            None => (Arg::Pointer(0), Arg::Pointer(0)),
        };
        let kernel = by_activation(op, dtype, [&rms_norm_f32, &rms_norm_bf16])?;
        let args = [
            Arg::from(&x.memory),
            delta,
            Arg::from(w.read(op, "w", Dtype::F32)?),
            eps.into(),
            count32(op, cols)?.into(),
            sum,
            out.write(op, "out", dtype)?.into(),
        ];
        // SAFETY: as checked, all matrices have the shape and dtype of `x`, which is `rows` rows of `w`, in float32.
        unsafe { self.launch_rows(op, kernel, rows, cols, &args) }
    }

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
        unsafe { self.launch(&norm_backward_weights, [cols.div_ceil(32), weights], 256, 0, &args) }
    }
}
