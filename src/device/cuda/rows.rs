//! Launches of `cuda/rows.cu`: moving and adding whole rows, and changes of dtype.

use super::driver::{Arg, Driver};
use super::kernels::{self as k, by_activation, by_weight};
use super::{CudaDevice, CudaIndex, CudaTensor, count32};
use crate::Result;
use crate::device::{Device, Dtype, TensorInfo, check, check_below, check_offsets};

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
        const OP: &str = "convert";
        let dtype = out.dtype();
        check(OP, "out", out, t.rows(), t.cols())?;
        let forms = [
            [&k::convert_f32_f32, &k::convert_bf16_f32, &k::convert_f16_f32],
            [&k::convert_f32_bf16, &k::convert_bf16_bf16, &k::convert_f16_bf16],
        ];
        let kernel = by_weight(OP, dtype, t.dtype(), forms)?;
        let count = t.count();
        let args = [Arg::from(&t.memory), (count as u64).into(), out.write(OP, "the copy", dtype)?.into()];
        // SAFETY: both have `count` elements, of the dtypes that chose the kernel.
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
