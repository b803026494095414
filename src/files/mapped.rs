//! One tensor of a mapped weights file, or of memory laid out like one.
//!
//! A [`MappedTensor`] is a view of its file's mapping and keeps it alive, or has its bytes to itself.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::Arc;

use half::{bf16, f16};
use memmap2::Mmap;

use super::safetensors::{Dtype, TensorData, show_shape};
use crate::{Error, Result};

/// The place of a tensor's bytes.
#[derive(Clone)]
enum Bytes {
    /// In a mapped file, at this range.
    Mapped(Arc<Mmap>, Range<usize>),
    /// In memory. The u64 make the bytes aligned for every dtype; the length is in bytes.
    Owned(Arc<[u64]>, usize),
}

/// One tensor: dtype, shape and a view of its elements. Cloning shares the memory.
#[derive(Clone)]
pub struct MappedTensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Bytes,
}

impl fmt::Debug for MappedTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MappedTensor({}, {})", self.dtype, show_shape(&self.shape))
    }
}

impl MappedTensor {
    /// A view of `range` of `map`; the range is inside the mapping and fits dtype and shape.
    pub(super) fn new(dtype: Dtype, shape: Vec<usize>, map: &Arc<Mmap>, range: Range<usize>) -> Self {
        let bytes = &map[range.clone()];
        // The format does not promise that data begins at a multiple of anything.
        if bytes.as_ptr().addr().is_multiple_of(dtype.size()) {
            return Self { dtype, shape, bytes: Bytes::Mapped(map.clone(), range) };
        }
        let mut copy = vec![0u64; bytes.len().div_ceil(size_of::<u64>())];
        bytemuck::cast_slice_mut(&mut copy)[..bytes.len()].copy_from_slice(bytes);
        Self { dtype, shape, bytes: Bytes::Owned(copy.into(), bytes.len()) }
    }

    /// `range` of `file`, read into memory; it fits dtype and shape.
    pub(super) fn read(
        dtype: Dtype,
        shape: Vec<usize>,
        mut file: &File,
        range: &Range<usize>,
    ) -> io::Result<Self> {
        // Collected at its length and filled in place, as the largest tensors are a good part of a machine's memory.
        let mut words: Arc<[u64]> = std::iter::repeat_n(0, range.len().div_ceil(size_of::<u64>())).collect();
        if let Some(words) = Arc::get_mut(&mut words) {
            file.seek(SeekFrom::Start(range.start as u64))?;
            file.read_exact(&mut bytemuck::cast_slice_mut(words)[..range.len()])?;
        }
        Ok(Self { dtype, shape, bytes: Bytes::Owned(words, range.len()) })
    }

    /// A tensor of values in memory, row-major and little-endian as in a file.
    ///
    /// # Errors
    /// [`Error::Shape`] if the words do not hold the tensor, or hold more than eight bytes beyond it.
    pub fn in_memory(dtype: Dtype, shape: &[usize], words: Arc<[u64]>) -> Result<Self> {
        const OP: &str = "a tensor in memory";
        let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let bytes = count.and_then(|n| n.checked_mul(dtype.size()));
        match bytes {
            Some(bytes) if bytes.div_ceil(size_of::<u64>()) == words.len() => {
                Ok(Self { dtype, shape: shape.to_vec(), bytes: Bytes::Owned(words, bytes) })
            }
            _ => {
                let what = format!("{} words do not make {} of {dtype}", words.len(), show_shape(shape));
                Err(Error::Shape { op: OP, what })
            }
        }
    }

    /// The element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.bytes().len() / self.dtype.size()
    }

    /// The elements as bytes: row-major, little-endian, aligned for the dtype.
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map, range) => &map[range.clone()],
            Bytes::Owned(words, len) => &bytemuck::cast_slice(words)[..*len],
        }
    }

    /// Whether the elements are read from the mapped file itself, not from an aligned copy.
    pub fn is_mapped(&self) -> bool {
        matches!(self.bytes, Bytes::Mapped(..))
    }

    /// The elements, if they are stored in float32.
    pub fn as_f32(&self) -> Option<&[f32]> {
        (self.dtype == Dtype::F32).then(|| bytemuck::cast_slice(self.bytes()))
    }

    /// The elements, if they are stored in bfloat16.
    pub fn as_bf16(&self) -> Option<&[bf16]> {
        (self.dtype == Dtype::Bf16).then(|| bytemuck::cast_slice(self.bytes()))
    }

    /// The elements, if they are stored in float16.
    pub fn as_f16(&self) -> Option<&[f16]> {
        (self.dtype == Dtype::F16).then(|| bytemuck::cast_slice(self.bytes()))
    }

    /// The elements as typed slices, whatever the dtype.
    pub fn data(&self) -> TensorData<'_> {
        match self.dtype {
            Dtype::F32 => TensorData::F32(bytemuck::cast_slice(self.bytes())),
            Dtype::Bf16 => TensorData::Bf16(bytemuck::cast_slice(self.bytes())),
            Dtype::F16 => TensorData::F16(bytemuck::cast_slice(self.bytes())),
        }
    }

    /// The elements converted to float32 (exact for all three dtypes).
    pub fn to_f32_vec(&self) -> Vec<f32> {
        match self.data() {
            TensorData::F32(x) => x.to_vec(),
            TensorData::Bf16(x) => x.iter().map(|x| x.to_f32()).collect(),
            TensorData::F16(x) => x.iter().map(|x| x.to_f32()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_in_memory() {
        let words: Arc<[u64]> = [0x4000_3f80, 0].into();
        let t = MappedTensor::in_memory(Dtype::Bf16, &[1, 5], Arc::clone(&words)).unwrap();
        assert_eq!(t.to_f32_vec(), [1.0, 2.0, 0.0, 0.0, 0.0]);
        for shape in [[1, 4], [3, 3], [usize::MAX, 2]] {
            let error = MappedTensor::in_memory(Dtype::Bf16, &shape, Arc::clone(&words)).unwrap_err();
            assert!(error.to_string().contains("2 words"), "{error}");
        }
    }
}
