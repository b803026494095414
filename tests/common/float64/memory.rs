//! Memory: vectors of float64 numbers.

use colar_engine::Result;
use colar_engine::device::Need;
use colar_engine::device::prelude::*;
use colar_engine::files::mapped::MappedTensor;

use super::{Float64, Float64Tensor, refused};

impl MemoryOps for Float64 {
    type Tensor = Float64Tensor;
    type Index = Vec<u32>;

    fn maps_weights(&self) -> bool {
        false
    }

    fn reserve(&self, _: &[Need]) -> Result<()> {
        Ok(())
    }

    fn empty(&self, rows: usize, cols: usize) -> Result<Float64Tensor> {
        Ok(Float64Tensor::poisoned(rows, cols))
    }

    fn zeros(&self, rows: usize, cols: usize) -> Result<Float64Tensor> {
        Ok(Float64Tensor::new(rows, cols, vec![0.0; rows * cols]))
    }

    fn upload(&self, rows: usize, cols: usize, values: &[f32]) -> Result<Float64Tensor> {
        Ok(Float64Tensor::widened(rows, cols, values))
    }

    fn adopt(&self, tensor: MappedTensor) -> Result<Float64Tensor> {
        let (rows, cols) = match *tensor.shape() {
            [n] => (1, n),
            [r, c] => (r, c),
            _ => return refused("adopt"),
        };
        self.upload(rows, cols, &tensor.to_f32_vec())
    }

    fn widen(&self, t: Float64Tensor) -> Result<Float64Tensor> {
        Ok(t)
    }

    fn freeze(&self, t: Float64Tensor) -> Result<Float64Tensor> {
        Ok(t)
    }

    fn index(&self, values: &[u32]) -> Result<Vec<u32>> {
        Ok(values.to_vec())
    }

    /// The nearest float32 numbers; the numbers themselves are kept for [`Float64::take_reads`].
    fn read(&self, t: &Float64Tensor) -> Result<Vec<f32>> {
        self.reads.lock().unwrap().push(t.values.clone());
        Ok(t.values.iter().map(|&x| x as f32).collect())
    }

    fn write(&self, t: &mut Float64Tensor, values: &[f32]) -> Result<()> {
        *t = Float64Tensor::widened(t.rows(), t.cols(), values);
        Ok(())
    }

    fn copy(&self, from: &Float64Tensor, to: &mut Float64Tensor) -> Result<()> {
        from.like(to);
        to.values.copy_from_slice(&from.values);
        Ok(())
    }

    fn clear(&self, t: &mut Float64Tensor) -> Result<()> {
        t.values.fill(0.0);
        Ok(())
    }
}
