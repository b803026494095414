//! Memory of a CUDA device, and changes of dtype: launches of `cuda/memory.cu`.

use super::driver::{Arg, Driver};
use super::kernels::{by_weight, kernels};
use super::tensor::{Rounded, upload};
use super::{CudaDevice, CudaIndex, CudaTensor};
use crate::Result;
use crate::device::Dtype;
use crate::device::memory::{MemoryOps, check_adopt, check_copy, check_write};
use crate::device::need::{Need, Stay, check_room};
use crate::device::shape::{Checked, TensorInfo, check, elements};
use crate::files::mapped::MappedTensor;

kernels! {
    "memory":
    convert_f32_f32 convert_bf16_f32 convert_f16_f32 convert_f32_bf16 convert_bf16_bf16 convert_f16_bf16
}

impl<R: Driver> MemoryOps for CudaDevice<R> {
    type Tensor = CudaTensor<R>;
    type Index = CudaIndex<R>;

    fn maps_weights(&self) -> bool {
        false
    }

    fn reserve(&self, needs: &[Need]) -> Result<()> {
        if let Some(room) = self.driver.room()? {
            check_room(self.driver.name(), needs, room)?;
        }
        let run =
            needs.iter().filter(|n| n.stay == Stay::Run).fold(0usize, |n, need| n.saturating_add(need.bytes));
        if run > 0 { self.driver.reserve(run) } else { Ok(()) }
    }

    fn peak_bytes(&self) -> Result<Option<usize>> {
        self.driver.peak_bytes().map(Some)
    }

    fn empty(&self, rows: usize, cols: usize) -> Result<CudaTensor<R>> {
        self.tensor("empty", rows, cols, self.compute)
    }

    fn zeros(&self, rows: usize, cols: usize) -> Result<CudaTensor<R>> {
        let t = self.tensor("zeros", rows, cols, Dtype::F32)?;
        self.driver.zero(&t.memory)?;
        Ok(t)
    }

    fn upload(&self, rows: usize, cols: usize, values: &[f32]) -> Result<CudaTensor<R>> {
        // Mostly weights that no file has; they do not come from the memory that a run has set aside.
        let mut t = self.kept("upload", rows, cols, Dtype::F32)?;
        self.write(&mut t, values)?;
        Ok(t)
    }

    fn adopt(&self, tensor: MappedTensor) -> Result<CudaTensor<R>> {
        let Checked { op, rows, cols } = check_adopt(tensor.shape())?;
        if rows == 1 {
            // Norm weights and biases: small, and their kernels take float32.
            return self.upload(rows, cols, &tensor.to_f32_vec());
        }
        let mut t = self.kept(op, rows, cols, tensor.dtype())?;
        self.driver.upload(&t.memory, tensor.bytes())?;
        t.frozen = true;
        Ok(t)
    }

    fn widen(&self, mut t: CudaTensor<R>) -> Result<CudaTensor<R>> {
        if t.dtype != Dtype::F32 {
            let mut wide = self.kept("widen", t.rows, t.cols, Dtype::F32)?;
            self.convert_into(&t, &mut wide)?;
            return Ok(wide);
        }
        // The file's bytes were copied when it was adopted.
        t.frozen = false;
        Ok(t)
    }

    fn freeze(&self, t: CudaTensor<R>) -> Result<CudaTensor<R>> {
        let mut out = t;
        if out.dtype != self.compute {
            let mut converted = self.kept("freeze", out.rows, out.cols, self.compute)?;
            self.convert_into(&out, &mut converted)?;
            out = converted;
        }
        out.frozen = true;
        Ok(out)
    }

    fn index(&self, values: &[u32]) -> Result<CudaIndex<R>> {
        Ok(CudaIndex { values: values.to_vec(), memory: upload(&self.driver, values)? })
    }

    fn read(&self, t: &CudaTensor<R>) -> Result<Vec<f32>> {
        let mut values = vec![0.0f32; t.count()];
        if t.dtype() == Dtype::F32 {
            self.driver.download(&t.memory, bytemuck::cast_slice_mut(&mut values))?;
        } else {
            let wide = self.converted(t, Dtype::F32)?;
            self.driver.download(&wide.memory, bytemuck::cast_slice_mut(&mut values))?;
        }
        Ok(values)
    }

    fn write(&self, t: &mut CudaTensor<R>, values: &[f32]) -> Result<()> {
        let op = check_write(t, values)?.op;
        self.driver.upload(t.write(op, "the tensor", Dtype::F32)?, bytemuck::cast_slice(values))
    }

    fn copy(&self, from: &CudaTensor<R>, to: &mut CudaTensor<R>) -> Result<()> {
        let checked = check_copy(from, to)?;
        let bytes = checked.count() * from.dtype.size();
        self.driver.copy(&from.memory, to.write(checked.op, "to", from.dtype)?, bytes)
    }

    fn clear(&self, t: &mut CudaTensor<R>) -> Result<()> {
        let dtype = t.dtype;
        self.driver.zero(t.write("clear", "the tensor", dtype)?)
    }
}

impl<R: Driver> CudaDevice<R> {
    /// A buffer of a dtype for as long as a run lasts; its content is undefined.
    pub(super) fn tensor(
        &self,
        op: &'static str,
        rows: usize,
        cols: usize,
        dtype: Dtype,
    ) -> Result<CudaTensor<R>> {
        let n = elements(op, rows, cols)?;
        let memory = self.driver.alloc(n * dtype.size())?;
        Ok(CudaTensor { rows, cols, dtype, memory, frozen: false, rounded: None })
    }

    /// As `tensor`, for weights, which outlive runs.
    pub(super) fn kept(
        &self,
        op: &'static str,
        rows: usize,
        cols: usize,
        dtype: Dtype,
    ) -> Result<CudaTensor<R>> {
        let n = elements(op, rows, cols)?;
        let memory = self.driver.keep(n * dtype.size())?;
        Ok(CudaTensor { rows, cols, dtype, memory, frozen: false, rounded: Some(Rounded::default()) })
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

    /// As `convert_into`, into a tensor that the caller alone has.
    pub(super) fn convert_to(&self, t: &CudaTensor<R>, out: &CudaTensor<R>) -> Result<()> {
        const OP: &str = "convert";
        let dtype = out.dtype();
        check(OP, "out", out, t.rows(), t.cols())?;
        let forms = [
            [&convert_f32_f32, &convert_bf16_f32, &convert_f16_f32],
            [&convert_f32_bf16, &convert_bf16_bf16, &convert_f16_bf16],
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
    /// As [`MemoryOps::upload`].
    pub fn activations(&self, rows: usize, cols: usize, values: &[f32]) -> Result<CudaTensor<R>> {
        let wide = self.upload(rows, cols, values)?;
        if self.compute == Dtype::F32 { Ok(wide) } else { self.converted(&wide, self.compute) }
    }
}
