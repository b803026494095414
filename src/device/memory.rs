//! Memory of a device: matrices of floats, vectors of indices, and their way there and back.

use super::need::Need;
use super::shape::{Checked, TensorInfo, check_len};
use crate::files::mapped::MappedTensor;
use crate::{Error, Result};

/// The memory of a device, on which all other families of operations work.
pub trait MemoryOps: Clone + Send + Sync + Sized + 'static {
    /// A row-major matrix of floats on the device.
    type Tensor: TensorInfo;
    /// A vector of `u32` on the device.
    type Index: Send + Sync;

    /// Whether an adopted matrix stays in its mapped file, so that changing its values costs memory.
    fn maps_weights(&self) -> bool;

    /// Makes sure, before a run, that there is memory for it, and sets some aside for the parts that come
    /// and go with it. Does nothing on `cpu`, where the operating system finds memory as it is touched.
    ///
    /// # Errors
    /// When the parts do not fit: each by name and size, how much is free, and an option that needs less.
    fn reserve(&self, needs: &[Need]) -> Result<()>;

    /// The most bytes that buffers of this device ever took together; `None` where they are the process's own
    /// memory.
    fn peak_bytes(&self) -> Result<Option<usize>> {
        Ok(None)
    }

    /// An activation buffer of the compute dtype; its content is undefined.
    fn empty(&self, rows: usize, cols: usize) -> Result<Self::Tensor>;
    /// A float32 buffer of zeros.
    fn zeros(&self, rows: usize, cols: usize) -> Result<Self::Tensor>;
    /// An activation buffer of the compute dtype, of zeros.
    fn cleared(&self, rows: usize, cols: usize) -> Result<Self::Tensor> {
        let mut t = self.empty(rows, cols)?;
        self.clear(&mut t)?;
        Ok(t)
    }
    /// Copies host values, row-major, into a new float32 buffer.
    fn upload(&self, rows: usize, cols: usize, values: &[f32]) -> Result<Self::Tensor>;
    /// Makes a mapped file's tensor usable in the dtype of the file; on `cpu` nothing is copied.
    /// A one-dimensional tensor becomes one row.
    fn adopt(&self, tensor: MappedTensor) -> Result<Self::Tensor>;
    /// The same values as float32 that may be written, converted on the device: for a weight that is
    /// trained, or that an adapter is merged into.
    fn widen(&self, t: Self::Tensor) -> Result<Self::Tensor>;
    /// The form in which inference multiplies a weight matrix, for one that nothing will change: on
    /// CUDA devices in the compute dtype, converted on the device, so that no product there mixes
    /// dtypes; on `cpu` as it is. One that has that form already passes through.
    fn freeze(&self, t: Self::Tensor) -> Result<Self::Tensor>;
    /// Copies host indices.
    fn index(&self, values: &[u32]) -> Result<Self::Index>;
    /// Copies a tensor to the host as float32.
    fn read(&self, t: &Self::Tensor) -> Result<Vec<f32>>;
    /// Overwrites a float32 tensor with host values.
    fn write(&self, t: &mut Self::Tensor, values: &[f32]) -> Result<()>;
    /// `to = from`, of the same shape and dtype.
    fn copy(&self, from: &Self::Tensor, to: &mut Self::Tensor) -> Result<()>;
    /// Sets every element to zero.
    fn clear(&self, t: &mut Self::Tensor) -> Result<()>;
}

/// Rows and columns of a mapped tensor's matrix.
pub(crate) fn check_adopt(shape: &[usize]) -> Result<Checked> {
    let op = "adopt";
    match *shape {
        [cols] => Ok(Checked { op, rows: 1, cols }),
        [rows, cols] => Ok(Checked { op, rows, cols }),
        _ => Err(Error::Shape { op, what: format!("shape {shape:?} is neither a vector nor a matrix") }),
    }
}

pub(crate) fn check_write(t: &impl TensorInfo, values: &[f32]) -> Result<Checked> {
    let checked = Checked::of("write", t);
    check_len(checked.op, "values", values.len(), t.rows() * t.cols())?;
    Ok(checked)
}

pub(crate) fn check_copy<T: TensorInfo>(from: &T, to: &T) -> Result<Checked> {
    let checked = Checked::of("copy", from);
    checked.same("to", to)?;
    Ok(checked)
}
