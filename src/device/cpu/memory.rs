//! Memory of the CPU device: buffers of the process, and weights where their file is mapped.

use super::buffer::CpuTensor;
use super::mat::Mat;
use super::{CpuDevice, CpuIndex, par};
use crate::Result;
use crate::device::memory::{MemoryOps, check_adopt, check_copy, check_write};
use crate::device::need::Need;
use crate::device::shape::{Checked, TensorInfo, elements};
use crate::files::mapped::MappedTensor;

impl MemoryOps for CpuDevice {
    type Tensor = CpuTensor;
    type Index = CpuIndex;

    fn maps_weights(&self) -> bool {
        true
    }

    fn reserve(&self, _: &[Need]) -> Result<()> {
        Ok(())
    }

    fn empty(&self, rows: usize, cols: usize) -> Result<CpuTensor> {
        let n = elements("empty", rows, cols)?;
        Ok(CpuTensor::owned(rows, cols, self.shelf.take(n, false)))
    }

    fn zeros(&self, rows: usize, cols: usize) -> Result<CpuTensor> {
        let n = elements("zeros", rows, cols)?;
        Ok(CpuTensor::owned(rows, cols, self.shelf.take(n, true)))
    }

    fn upload(&self, rows: usize, cols: usize, values: &[f32]) -> Result<CpuTensor> {
        let mut t = self.empty(rows, cols)?;
        self.write(&mut t, values)?;
        Ok(t)
    }

    fn adopt(&self, tensor: MappedTensor) -> Result<CpuTensor> {
        let Checked { rows, cols, .. } = check_adopt(tensor.shape())?;
        if rows == 1 {
            // Norm weights and biases: small, and their loops want float32.
            return self.upload(rows, cols, &tensor.to_f32_vec());
        }
        Ok(CpuTensor::mapped(rows, cols, tensor))
    }

    fn widen(&self, t: CpuTensor) -> Result<CpuTensor> {
        if !t.is_mapped() {
            return Ok(t);
        }
        let mut out = self.empty(t.rows(), t.cols())?;
        let to = out.f32_mut("widen")?;
        match t.mat() {
            Mat::F32(x) => to.copy_from_slice(x),
            Mat::Bf16(x) => to.iter_mut().zip(x).for_each(|(to, x)| *to = x.to_f32()),
            Mat::F16(x) => to.iter_mut().zip(x).for_each(|(to, x)| *to = x.to_f32()),
        }
        Ok(out)
    }

    fn freeze(&self, t: CpuTensor) -> Result<CpuTensor> {
        Ok(t)
    }

    fn index(&self, values: &[u32]) -> Result<CpuIndex> {
        Ok(values.to_vec())
    }

    fn read(&self, t: &CpuTensor) -> Result<Vec<f32>> {
        Ok(match t.mat() {
            Mat::F32(x) => x.to_vec(),
            Mat::Bf16(x) => x.iter().map(|x| x.to_f32()).collect(),
            Mat::F16(x) => x.iter().map(|x| x.to_f32()).collect(),
        })
    }

    fn write(&self, t: &mut CpuTensor, values: &[f32]) -> Result<()> {
        let op = check_write(t, values)?.op;
        t.f32_mut(op)?.copy_from_slice(values);
        Ok(())
    }

    fn copy(&self, from: &CpuTensor, to: &mut CpuTensor) -> Result<()> {
        let op = check_copy(from, to)?.op;
        copy(from.f32(op)?, to.f32_mut(op)?);
        Ok(())
    }

    fn clear(&self, t: &mut CpuTensor) -> Result<()> {
        t.f32_mut("clear")?.fill(0.0);
        Ok(())
    }
}

/// `to = from`.
fn copy(from: &[f32], to: &mut [f32]) {
    /// Floats of a line that a thread copies: 4 KiB.
    const LINE: usize = 1024;
    par::split_rows(to, LINE, 16, |first, part| {
        part.copy_from_slice(&from[first * LINE..first * LINE + part.len()]);
    });
}
