//! Launches of `cuda/rows.cu`: moving and adding whole rows.

use super::driver::{Arg, Driver};
use super::kernels::{by_activation, by_weight, kernels};
use super::tensor::upload;
use super::{CudaDevice, CudaIndex, CudaTensor, ROW_THREADS, count32};
use crate::Result;
use crate::device::Dtype;
use crate::device::rows::{
    RowOps, check_add, check_add_bias, check_add_bias_backward, check_gather_merge,
    check_gather_merge_backward, check_gather_rows, check_scatter_add_rows, check_scatter_rows,
};
use crate::device::shape::{Checked, TensorInfo, elements};

kernels! {
    "rows":
    gather_merge_f32_f32 gather_merge_bf16_f32 gather_merge_f16_f32 gather_merge_f32_bf16
    gather_merge_bf16_bf16 gather_merge_f16_bf16 gather_rows_f32_f32 gather_rows_bf16_f32
    gather_rows_f16_f32 gather_rows_f32_bf16 gather_rows_bf16_bf16 gather_rows_f16_bf16 scatter_rows_f32
    scatter_rows_bf16 add_bias_f32 add_bias_bf16 add_f32 add_bf16 gather_merge_backward_f32
    gather_merge_backward_bf16 add_bias_backward_f32 add_bias_backward_bf16 add_bias_backward_sum
}

/// Rows that a block of `add_bias_backward` adds up.
const SUM_ROWS: usize = 256;

/// Columns that it takes. `SUM_COLUMNS` of the kernel.
const SUM_COLUMNS: usize = 128;

impl<R: Driver> RowOps for CudaDevice<R> {
    fn gather_merge(
        &self,
        table: &CudaTensor<R>,
        ids: &CudaIndex<R>,
        offsets: &CudaIndex<R>,
        scale: &CudaTensor<R>,
        out: &mut CudaTensor<R>,
    ) -> Result<()> {
        let Checked { op, rows, cols } = check_gather_merge(table, &ids.values, &offsets.values, scale, out)?;
        let dtype = out.dtype();
        let forms = [
            [&gather_merge_f32_f32, &gather_merge_bf16_f32, &gather_merge_f16_f32],
            [&gather_merge_f32_bf16, &gather_merge_bf16_bf16, &gather_merge_f16_bf16],
        ];
        let kernel = by_weight(op, dtype, table.dtype(), forms)?;
        let args = [
            Arg::from(&table.memory),
            Arg::from(&ids.memory),
            Arg::from(&offsets.memory),
            Arg::from(scale.read(op, "scale", Dtype::F32)?),
            count32(op, cols)?.into(),
            out.write(op, "out", dtype)?.into(),
        ];
        // SAFETY: the checks above: ids are rows of the table, offsets cut them into the rows of `out`.
        unsafe { self.launch_rows(op, kernel, rows, cols, &args) }
    }

    /// Ids are sorted here, so that each row of the table is one block's to write, in the order of the rows that it
    /// went into.
    fn gather_merge_backward(
        &self,
        dout: &CudaTensor<R>,
        ids: &CudaIndex<R>,
        offsets: &CudaIndex<R>,
        scale: &CudaTensor<R>,
        dtable: &mut CudaTensor<R>,
    ) -> Result<()> {
        let Checked { op, cols, .. } =
            check_gather_merge_backward(dout, &ids.values, &offsets.values, scale, dtable)?;
        let mut uses: Vec<(u32, u32)> = Vec::with_capacity(ids.values.len());
        for (row, ends) in (0u32..).zip(offsets.values.windows(2)) {
            let of_row = &ids.values[ends[0] as usize..ends[1] as usize];
            uses.extend(of_row.iter().map(|&id| (id, row)));
        }
        uses.sort_unstable();
        let (mut unique, mut starts, mut sources) = (Vec::new(), Vec::new(), Vec::with_capacity(uses.len()));
        for (i, &(id, row)) in (0u32..).zip(&uses) {
            if unique.last() != Some(&id) {
                unique.push(id);
                starts.push(i);
            }
            sources.push(row);
        }
        starts.push(count32(op, uses.len())?);
        let segments = count32(op, unique.len())?;
        let [unique, starts, sources] =
            [unique, starts, sources].map(|values: Vec<u32>| upload(&self.driver, &values));
        let (unique, starts, sources) = (unique?, starts?, sources?);
        let forms = [&gather_merge_backward_f32, &gather_merge_backward_bf16];
        let kernel = by_activation(op, dout.dtype(), forms)?;
        let args = [
            Arg::from(&dout.memory),
            Arg::from(&unique),
            Arg::from(&starts),
            Arg::from(&sources),
            Arg::from(scale.read(op, "scale", Dtype::F32)?),
            count32(op, cols)?.into(),
            dtable.write(op, "dtable", Dtype::F32)?.into(),
        ];
        let threads = cols.next_multiple_of(32).clamp(32, ROW_THREADS);
        let grid = [segments, count32(op, cols.div_ceil(threads))?];
        // SAFETY: the checks above: segments hold rows of `dout` and `scale`, their ids are different rows of
        // `dtable`. The lists live until the launch, after which they are freed in its order.
        unsafe { self.launch(kernel, grid, threads as u32, 0, &args) }
    }

    fn gather_rows(
        &self,
        alpha: f32,
        src: &CudaTensor<R>,
        rows: &CudaIndex<R>,
        out: &mut CudaTensor<R>,
    ) -> Result<()> {
        let Checked { op, rows: n, cols } = check_gather_rows(src, &rows.values, out)?;
        let dtype = out.dtype();
        let forms = [
            [&gather_rows_f32_f32, &gather_rows_bf16_f32, &gather_rows_f16_f32],
            [&gather_rows_f32_bf16, &gather_rows_bf16_bf16, &gather_rows_f16_bf16],
        ];
        let kernel = by_weight(op, dtype, src.dtype(), forms)?;
        let args = [
            alpha.into(),
            Arg::from(&src.memory),
            Arg::from(&rows.memory),
            count32(op, cols)?.into(),
            out.write(op, "out", dtype)?.into(),
        ];
        // SAFETY: the checks above: the indices are rows of `src`, as many as `out` has rows.
        unsafe { self.launch_rows(op, kernel, n, cols, &args) }
    }

    fn scatter_add_rows(
        &self,
        alpha: f32,
        src: &CudaTensor<R>,
        rows: &CudaIndex<R>,
        dst: &mut CudaTensor<R>,
    ) -> Result<()> {
        self.scatter(check_scatter_add_rows(src, &rows.values, dst)?, alpha, src, rows, true, dst)
    }

    fn scatter_rows(
        &self,
        alpha: f32,
        src: &CudaTensor<R>,
        rows: &CudaIndex<R>,
        dst: &mut CudaTensor<R>,
    ) -> Result<()> {
        self.scatter(check_scatter_rows(src, &rows.values, dst)?, alpha, src, rows, false, dst)
    }

    fn add_bias(&self, y: &mut CudaTensor<R>, bias: &CudaTensor<R>) -> Result<()> {
        let Checked { op, rows, cols } = check_add_bias(y, bias)?;
        let dtype = y.dtype();
        let kernel = by_activation(op, dtype, [&add_bias_f32, &add_bias_bf16])?;
        let args = [
            Arg::from(bias.read(op, "bias", Dtype::F32)?),
            count32(op, cols)?.into(),
            y.write(op, "y", dtype)?.into(),
        ];
        // SAFETY: the check above: the bias has the columns of `y`.
        unsafe { self.launch_rows(op, kernel, rows, cols, &args) }
    }

    /// Column sums of parts of the rows, and then their sum.
    fn add_bias_backward(&self, dy: &CudaTensor<R>, db: &mut CudaTensor<R>) -> Result<()> {
        let Checked { op, rows, cols } = check_add_bias_backward(dy, db)?;
        let db = Arg::from(db.write(op, "db", Dtype::F32)?);
        // Parts are as many as a launch can count.
        let part = SUM_ROWS.max(rows.div_ceil(65_535));
        let parts = rows.div_ceil(part);
        let partials = self.driver.alloc(4 * elements(op, parts, cols)?)?;
        let kernel = by_activation(op, dy.dtype(), [&add_bias_backward_f32, &add_bias_backward_bf16])?;
        let (parts, cols32) = (count32(op, parts)?, count32(op, cols)?);
        let args = [
            Arg::from(&dy.memory),
            count32(op, rows)?.into(),
            (part as u32).into(),
            cols32.into(),
            Arg::from(&partials),
        ];
        let grid = [count32(op, cols.div_ceil(SUM_COLUMNS))?, parts];
        // SAFETY: a block keeps to its part of the rows and to columns that there are; `partials` has a row a part.
        unsafe { self.launch(kernel, grid, 256, 0, &args) }?;
        let args = [Arg::from(&partials), parts.into(), cols32.into(), db];
        // SAFETY: all of `partials` is written, and `db` has as many columns.
        unsafe { self.launch(&add_bias_backward_sum, [cols32.div_ceil(256), 1], 256, 0, &args) }
    }

    fn add(&self, x: &CudaTensor<R>, y: &mut CudaTensor<R>) -> Result<()> {
        let checked = check_add(x, y)?;
        let (op, count, dtype) = (checked.op, checked.count(), y.dtype());
        let kernel = by_activation(op, dtype, [&add_f32, &add_bf16])?;
        let args =
            [Arg::from(x.read(op, "x", dtype)?), (count as u64).into(), y.write(op, "y", dtype)?.into()];
        // SAFETY: both have `count` elements.
        unsafe { self.launch_elements(kernel, count, &args) }
    }
}

impl<R: Driver> CudaDevice<R> {
    /// `dst[rows[n]] = alpha · src[n]`, or `+=` that.
    fn scatter(
        &self,
        checked: Checked,
        alpha: f32,
        src: &CudaTensor<R>,
        rows: &CudaIndex<R>,
        add: bool,
        dst: &mut CudaTensor<R>,
    ) -> Result<()> {
        let Checked { op, rows: n, cols } = checked;
        let dtype = dst.dtype();
        let kernel = by_activation(op, dtype, [&scatter_rows_f32, &scatter_rows_bf16])?;
        let args = [
            alpha.into(),
            Arg::from(src.read(op, "src", dtype)?),
            Arg::from(&rows.memory),
            count32(op, cols)?.into(),
            u32::from(add).into(),
            dst.write(op, "dst", dtype)?.into(),
        ];
        // SAFETY: as checked, the indices are rows of `dst`, as many as `src` has rows. They are distinct
        // by the operation's contract; equal ones would leave one of the rows, or parts of several.
        unsafe { self.launch_rows(op, kernel, n, cols, &args) }
    }
}
