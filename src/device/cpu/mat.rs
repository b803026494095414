//! Matrices of weights as slices, in the type that they are stored in.

use half::{bf16, f16};

/// A matrix of weights in one of the types that they are stored in, row-major.
#[derive(Clone, Copy, Debug)]
pub enum Mat<'a> {
    /// 32-bit floats.
    F32(&'a [f32]),
    /// The upper halves of 32-bit floats.
    Bf16(&'a [bf16]),
    /// IEEE half precision.
    F16(&'a [f16]),
}

impl Mat<'_> {
    /// The number of elements.
    pub fn len(&self) -> usize {
        match self {
            Mat::F32(w) => w.len(),
            Mat::Bf16(w) => w.len(),
            Mat::F16(w) => w.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
