//! Matrices and index vectors of a CUDA device.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

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
    /// The values in the dtype that products take, for weights, which outlive runs.
    pub(super) rounded: Option<Rounded<R>>,
}

/// The values of a weight in bf16, for products that take no other: made when a product first asks for them, and kept
/// until the weight changes.
pub(super) struct Rounded<R: Driver> {
    values: OnceLock<Box<CudaTensor<R>>>,
    /// Whether they are those that the weight has now.
    fresh: Mutex<bool>,
}

impl<R: Driver> Default for Rounded<R> {
    fn default() -> Self {
        Rounded { values: OnceLock::new(), fresh: Mutex::new(false) }
    }
}

impl<R: Driver> Rounded<R> {
    fn fresh(&self) -> MutexGuard<'_, bool> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The values; `convert` makes them where they are missing or old, in a tensor that `make` gives the first time.
    pub(super) fn get(
        &self,
        make: impl FnOnce() -> Result<CudaTensor<R>>,
        convert: impl FnOnce(&CudaTensor<R>) -> Result<()>,
    ) -> Result<&CudaTensor<R>> {
        let mut fresh = self.fresh();
        let values = match self.values.get() {
            Some(values) => values,
            None => {
                let made = Box::new(make()?);
                self.values.get_or_init(|| made)
            }
        };
        if !*fresh {
            convert(values)?;
            *fresh = true;
        }
        Ok(values)
    }
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

    /// The memory of its values in bf16, where there are such and they are those that it has.
    pub(super) fn fresh_copy(&self) -> Option<&R::Memory> {
        let rounded = self.rounded.as_ref()?;
        let fresh = *rounded.fresh();
        rounded.values.get().filter(|_| fresh).map(|values| &values.memory)
    }

    /// Says that whatever wrote the tensor wrote its values in bf16 as well.
    pub(super) fn copy_is_fresh(&mut self) {
        if let Some(rounded) = &mut self.rounded {
            *rounded.fresh() = true;
        }
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
        if let Some(rounded) = &self.rounded {
            *rounded.fresh() = false;
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
