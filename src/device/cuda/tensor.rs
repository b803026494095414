//! Matrices and index vectors of a CUDA device.

use super::driver::{Driver, Memory};
use crate::device::{Dtype, TensorInfo};
use crate::{Error, Result};

/// A row-major matrix in a driver's memory.
pub struct CudaTensor<R: Driver> {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) dtype: Dtype,
    pub(super) memory: R::Memory,
    /// Whether it is a weight that no operation may write.
    pub(super) frozen: bool,
}

impl<R: Driver> TensorInfo for CudaTensor<R> {
    fn rows(&self) -> usize {
        self.rows
    }

    fn cols(&self) -> usize {
        self.cols
    }

    fn dtype(&self) -> Dtype {
        self.dtype
    }
}

impl<R: Driver> CudaTensor<R> {
    /// Number of elements.
    pub(super) fn count(&self) -> usize {
        self.rows * self.cols
    }

    /// The memory, to be read as elements of `dtype`.
    pub(super) fn read(&self, op: &'static str, name: &str, dtype: Dtype) -> Result<&R::Memory> {
        if self.dtype != dtype {
            let what = format!("{name} is {:?}, needs {dtype:?}", self.dtype);
            return Err(Error::Shape { op, what });
        }
        Ok(&self.memory)
    }

    /// The memory, to be written as elements of `dtype`.
    pub(super) fn write(&mut self, op: &'static str, name: &str, dtype: Dtype) -> Result<&R::Memory> {
        if self.frozen {
            let what = format!("{name} is a frozen weight, which is read only");
            return Err(Error::Shape { op, what });
        }
        self.read(op, name, dtype)
    }
}

/// A vector of `u32` in a driver's memory. The values also stay on the host, where their bounds are checked.
pub struct CudaIndex<R: Driver> {
    pub(super) values: Vec<u32>,
    pub(super) memory: R::Memory,
}

/// The bytes of numbers as they lie in memory.
pub(super) fn upload<R: Driver, T: bytemuck::NoUninit>(driver: &R, values: &[T]) -> Result<R::Memory> {
    let bytes: &[u8] = bytemuck::cast_slice(values);
    let memory = driver.alloc(bytes.len())?;
    debug_assert_eq!(memory.len(), bytes.len());
    driver.upload(&memory, bytes)?;
    Ok(memory)
}
