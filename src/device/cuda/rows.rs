//! Launches of `cuda/rows.cu`: moving and adding whole rows, and changes of dtype.

use super::driver::{Arg, Driver};
use super::kernels::{self as k, by_activation, by_weight};
use super::tensor::upload;
use super::{CudaDevice, CudaIndex, CudaTensor, ROW_THREADS, count32};
use crate::Result;
use crate::device::{Device, Dtype, TensorInfo, check, check_below, check_offsets, elements};

/// Rows that a block of `column_sums` adds up.
const SUM_ROWS: usize = 256;

/// Columns that it takes. `SUM_COLUMNS` of the kernel.
const SUM_COLUMNS: usize = 128;

impl<R: Driver> CudaDevice<R> {
    pub(super) fn merge(
        &self,
        table: &CudaTensor<R>,
        ids: &CudaIndex<R>,
        offsets: &CudaIndex<R>,
        scale: &CudaTensor<R>,
        out: &mut CudaTensor<R>,
    ) -> Result<()> {
        const OP: &str = "gather_merge";
        let (rows, cols, dtype) = (out.rows(), table.cols(), out.dtype());
        check(OP, "out", out, rows, cols)?;
        check(OP, "scale", scale, rows, 1)?;
        check_offsets(OP, &offsets.values, rows, ids.values.len())?;
        check_below(OP, "ids", &ids.values, table.rows())?;
        let forms = [
            [&k::gather_merge_f32_f32, &k::gather_merge_bf16_f32, &k::gather_merge_f16_f32],
            [&k::gather_merge_f32_bf16, &k::gather_merge_bf16_bf16, &k::gather_merge_f16_bf16],
        ];
        let kernel = by_weight(OP, dtype, table.dtype(), forms)?;
        let args = [
            Arg::from(&table.memory),
            Arg::from(&ids.memory),
            Arg::from(&offsets.memory),
            Arg::from(scale.read(OP, "scale", Dtype::F32)?),
            count32(OP, cols)?.into(),
            out.write(OP, "out", dtype)?.into(),
        ];
        // SAFETY: the checks above: ids are rows of the table, offsets cut them into the rows of `out`.
        unsafe { self.launch_rows(OP, kernel, rows, cols, &args) }
    }

    /// Adds the gradient of [`merge`](Self::merge). Ids are sorted here, so that each row of the table is one
    /// block's to write, in the order of the rows that it went into.
    pub(super) fn merge_gradient(
        &self,
        dout: &CudaTensor<R>,
        ids: &CudaIndex<R>,
        offsets: &CudaIndex<R>,
        scale: &CudaTensor<R>,
        dtable: &mut CudaTensor<R>,
    ) -> Result<()> {
        const OP: &str = "gather_merge_backward";
        let (rows, cols, dtype) = (dout.rows(), dtable.cols(), dout.dtype());
        check(OP, "dout", dout, rows, cols)?;
        check(OP, "scale", scale, rows, 1)?;
        check_offsets(OP, &offsets.values, rows, ids.values.len())?;
        check_below(OP, "ids", &ids.values, dtable.rows())?;
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
        starts.push(count32(OP, uses.len())?);
        let segments = count32(OP, unique.len())?;
        let [unique, starts, sources] =
            [unique, starts, sources].map(|values: Vec<u32>| upload(&self.driver, &values));
        let (unique, starts, sources) = (unique?, starts?, sources?);
        let forms = [&k::gather_merge_backward_f32, &k::gather_merge_backward_bf16];
        let kernel = by_activation(OP, dtype, forms)?;
        let args = [
            Arg::from(&dout.memory),
            Arg::from(&unique),
            Arg::from(&starts),
            Arg::from(&sources),
            Arg::from(scale.read(OP, "scale", Dtype::F32)?),
            count32(OP, cols)?.into(),
            dtable.write(OP, "dtable", Dtype::F32)?.into(),
        ];
        let threads = cols.next_multiple_of(32).clamp(32, ROW_THREADS);
        let grid = [segments, count32(OP, cols.div_ceil(threads))?];
        // SAFETY: the checks above: segments hold rows of `dout` and `scale`, their ids are different rows of
        // `dtable`. The lists live until the launch, after which they are freed in its order.
        unsafe { self.launch(kernel, grid, threads as u32, 0, &args) }
    }

    pub(super) fn gather(
        &self,
        alpha: f32,
        src: &CudaTensor<R>,
        rows: &CudaIndex<R>,
        out: &mut CudaTensor<R>,
    ) -> Result<()> {
        const OP: &str = "gather_rows";
        let (n, cols, dtype) = (rows.values.len(), src.cols(), out.dtype());
        check(OP, "out", out, n, cols)?;
        check_below(OP, "rows", &rows.values, src.rows())?;
        let forms = [
            [&k::gather_rows_f32_f32, &k::gather_rows_bf16_f32, &k::gather_rows_f16_f32],
            [&k::gather_rows_f32_bf16, &k::gather_rows_bf16_bf16, &k::gather_rows_f16_bf16],
        ];
        let kernel = by_weight(OP, dtype, src.dtype(), forms)?;
        let args = [
            alpha.into(),
            Arg::from(&src.memory),
            Arg::from(&rows.memory),
            count32(OP, cols)?.into(),
            out.write(OP, "out", dtype)?.into(),
        ];
        // SAFETY: the checks above: the indices are rows of `src`, as many as `out` has rows.
        unsafe { self.launch_rows(OP, kernel, n, cols, &args) }
    }

    /// `dst[rows[n]] = alpha · src[n]`, or `+=` that.
    pub(super) fn scatter(
        &self,
        op: &'static str,
        alpha: f32,
        src: &CudaTensor<R>,
        rows: &CudaIndex<R>,
        add: bool,
        dst: &mut CudaTensor<R>,
    ) -> Result<()> {
        let (n, cols, dtype) = (rows.values.len(), dst.cols(), dst.dtype());
        check(op, "src", src, n, cols)?;
        check_below(op, "rows", &rows.values, dst.rows())?;
        let kernel = by_activation(op, dtype, [&k::scatter_rows_f32, &k::scatter_rows_bf16])?;
        let args = [
            alpha.into(),
            Arg::from(src.read(op, "src", dtype)?),
            Arg::from(&rows.memory),
            count32(op, cols)?.into(),
            u32::from(add).into(),
            dst.write(op, "dst", dtype)?.into(),
        ];
        // SAFETY: the checks above: the indices are rows of `dst`, as many as `src` has rows. They are distinct
        // by the operation's contract; equal ones would leave one of the rows, or parts of several.
        unsafe { self.launch_rows(op, kernel, n, cols, &args) }
    }

    pub(super) fn bias(&self, y: &mut CudaTensor<R>, bias: &CudaTensor<R>) -> Result<()> {
        const OP: &str = "add_bias";
        let (rows, cols, dtype) = (y.rows(), y.cols(), y.dtype());
        check(OP, "bias", bias, 1, cols)?;
        let kernel = by_activation(OP, dtype, [&k::add_bias_f32, &k::add_bias_bf16])?;
        let args = [
            Arg::from(bias.read(OP, "bias", Dtype::F32)?),
            count32(OP, cols)?.into(),
            y.write(OP, "y", dtype)?.into(),
        ];
        // SAFETY: the check above: the bias has the columns of `y`.
        unsafe { self.launch_rows(OP, kernel, rows, cols, &args) }
    }

    /// Adds the column sums of `dy` to `db`: those of parts of the rows, and then their sum.
    pub(super) fn bias_gradient(&self, dy: &CudaTensor<R>, db: &mut CudaTensor<R>) -> Result<()> {
        const OP: &str = "add_bias_backward";
        let (rows, cols) = (dy.rows(), dy.cols());
        check(OP, "db", db, 1, cols)?;
        let db = Arg::from(db.write(OP, "db", Dtype::F32)?);
        // Parts are as many as a launch can count.
        let part = SUM_ROWS.max(rows.div_ceil(65_535));
        let parts = rows.div_ceil(part);
        let partials = self.driver.alloc(4 * elements(OP, parts, cols)?)?;
        let kernel = by_activation(OP, dy.dtype(), [&k::column_sums_f32, &k::column_sums_bf16])?;
        let (parts, cols32) = (count32(OP, parts)?, count32(OP, cols)?);
        let args = [
            Arg::from(&dy.memory),
            count32(OP, rows)?.into(),
            (part as u32).into(),
            cols32.into(),
            Arg::from(&partials),
        ];
        let grid = [count32(OP, cols.div_ceil(SUM_COLUMNS))?, parts];
        // SAFETY: a block keeps to its part of the rows and to columns that there are; `partials` has a row a part.
        unsafe { self.launch(kernel, grid, 256, 0, &args) }?;
        let args = [Arg::from(&partials), parts.into(), cols32.into(), db];
        // SAFETY: all of `partials` is written, and `db` has as many columns.
        unsafe { self.launch(&k::add_partials, [cols32.div_ceil(256), 1], 256, 0, &args) }
    }

    pub(super) fn add_to(&self, x: &CudaTensor<R>, y: &mut CudaTensor<R>) -> Result<()> {
        const OP: &str = "add";
        let (count, dtype) = (y.count(), y.dtype());
        check(OP, "x", x, y.rows(), y.cols())?;
        let kernel = by_activation(OP, dtype, [&k::add_f32, &k::add_bf16])?;
        let args =
            [Arg::from(x.read(OP, "x", dtype)?), (count as u64).into(), y.write(OP, "y", dtype)?.into()];
        // SAFETY: both have `count` elements.
        unsafe { self.launch_elements(kernel, count, &args) }
    }

    /// The values as float32 on the host.
    pub(super) fn read_floats(&self, t: &CudaTensor<R>) -> Result<Vec<f32>> {
        let mut values = vec![0.0f32; t.count()];
        if t.dtype() == Dtype::F32 {
            self.driver.download(&t.memory, bytemuck::cast_slice_mut(&mut values))?;
        } else {
            let wide = self.converted(t, Dtype::F32)?;
            self.driver.download(&wide.memory, bytemuck::cast_slice_mut(&mut values))?;
        }
        Ok(values)
    }

    /// A copy in another dtype.
    ///
    /// # Errors
    /// When memory is short, and for a dtype that activations do not have.
    pub fn converted(&self, t: &CudaTensor<R>, dtype: Dtype) -> Result<CudaTensor<R>> {
        let mut out = self.tensor("convert", t.rows(), t.cols(), dtype)?;
        self.convert_into(t, &mut out)?;
        Ok(out)
    }

    /// Copies the elements of `t` into `out`, of the same shape.
    pub(super) fn convert_into(&self, t: &CudaTensor<R>, out: &mut CudaTensor<R>) -> Result<()> {
        let dtype = out.dtype();
        out.write("convert", "the copy", dtype)?;
        self.convert_to(t, out)
    }

    /// As `convert_into`, into what the caller alone has.
    pub(super) fn convert_to(&self, t: &CudaTensor<R>, out: &CudaTensor<R>) -> Result<()> {
        const OP: &str = "convert";
        let dtype = out.dtype();
        check(OP, "out", out, t.rows(), t.cols())?;
        let forms = [
            [&k::convert_f32_f32, &k::convert_bf16_f32, &k::convert_f16_f32],
            [&k::convert_f32_bf16, &k::convert_bf16_bf16, &k::convert_f16_bf16],
        ];
        let kernel = by_weight(OP, dtype, t.dtype(), forms)?;
        let count = t.count();
        let args = [Arg::from(&t.memory), (count as u64).into(), (&out.memory).into()];
        // SAFETY: both have `count` elements, of the dtypes that chose the kernel; nothing else uses `out`, which the
        // caller has borrowed for writing or made, or locked.
        unsafe { self.launch_elements(kernel, count, &args) }
    }

    /// Host values as activations of the compute dtype.
    ///
    /// # Errors
    /// As [`Device::upload`].
    pub fn activations(&self, rows: usize, cols: usize, values: &[f32]) -> Result<CudaTensor<R>> {
        let wide = self.upload(rows, cols, values)?;
        if self.compute == Dtype::F32 { Ok(wide) } else { self.converted(&wide, self.compute) }
    }
}
