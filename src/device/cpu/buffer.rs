//! Matrices of the CPU device and the memory they reuse.
//!
//! A training step allocates and frees some hundred activation buffers, and the sizes recur from
//! step to step. Fresh memory costs a page fault per 4 KiB, which at these sizes is more than the
//! arithmetic of the cheaper operations; so a freed buffer goes to a [`Shelf`] and is handed out
//! again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::mat::Mat;
use crate::device::{Dtype, TensorInfo};
use crate::files::mapped::MappedTensor;
use crate::{Error, Result};

/// Freed buffers by capacity.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    state: Mutex<ShelfState>,
}

#[derive(Debug, Default)]
struct ShelfState {
    free: BTreeMap<usize, Vec<Vec<f32>>>,
    free_floats: usize,
    live_floats: usize,
    peak_floats: usize,
}

/// Sizes are rounded up to four classes an octave, so that batches of nearly equal length share.
fn size_class(len: usize) -> usize {
    if len <= 64 {
        return 64;
    }
    let step = (1usize << (usize::BITS - 1 - (len - 1).leading_zeros())) / 4;
    len.div_ceil(step) * step
}

impl Shelf {
    /// A buffer of `len` floats with undefined content, or zeros.
    pub(super) fn take(self: &Arc<Self>, len: usize, zero: bool) -> Owned {
        let class = size_class(len);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.live_floats += class;
        state.peak_floats = state.peak_floats.max(state.live_floats);
        let found = state.free.get_mut(&class).and_then(Vec::pop);
        if found.is_some() {
            state.free_floats -= class;
        }
        drop(state);
        let (mut values, fresh) = match found {
            Some(values) => (values, false),
            None => (vec![0.0; class], true),
        };
        if zero && !fresh {
            values[..len].fill(0.0);
        } else if !zero && cfg!(any(test, debug_assertions)) {
            // An operation that reads its output before it writes it must not get away with that.
            values[..len].fill(f32::NAN);
        }
        Owned { values, len, shelf: Arc::clone(self) }
    }

    fn give_back(&self, values: Vec<f32>) {
        let class = values.len();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.live_floats -= class;
        // Buffers in use and idle together never exceed the most that were ever in use at once.
        if state.free_floats + state.live_floats + class <= state.peak_floats {
            state.free_floats += class;
            state.free.entry(class).or_default().push(values);
        }
    }
}

/// Floats that return to their shelf when dropped.
#[derive(Debug)]
pub(super) struct Owned {
    values: Vec<f32>,
    len: usize,
    shelf: Arc<Shelf>,
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.shelf.give_back(std::mem::take(&mut self.values));
    }
}

#[derive(Debug)]
pub(super) enum Data {
    Owned(Owned),
    Mapped(MappedTensor),
}

/// A row-major matrix in memory, or in a mapped file.
#[derive(Debug)]
pub struct CpuTensor {
    rows: usize,
    cols: usize,
    data: Data,
}

impl TensorInfo for CpuTensor {
    fn rows(&self) -> usize {
        self.rows
    }

    fn cols(&self) -> usize {
        self.cols
    }

    fn dtype(&self) -> Dtype {
        match &self.data {
            Data::Owned(_) => Dtype::F32,
            Data::Mapped(m) => m.dtype(),
        }
    }
}

impl CpuTensor {
    pub(super) fn owned(rows: usize, cols: usize, data: Owned) -> Self {
        CpuTensor { rows, cols, data: Data::Owned(data) }
    }

    pub(super) fn mapped(rows: usize, cols: usize, tensor: MappedTensor) -> Self {
        CpuTensor { rows, cols, data: Data::Mapped(tensor) }
    }

    /// Whether the values are those of a mapped file.
    pub(super) fn is_mapped(&self) -> bool {
        matches!(self.data, Data::Mapped(_))
    }

    /// The values, whatever their dtype.
    pub(super) fn mat(&self) -> Mat<'_> {
        match &self.data {
            Data::Owned(o) => Mat::F32(&o.values[..o.len]),
            Data::Mapped(m) => match (m.as_f32(), m.as_bf16(), m.as_f16()) {
                (Some(x), _, _) => Mat::F32(x),
                (_, Some(x), _) => Mat::Bf16(x),
                (_, _, Some(x)) => Mat::F16(x),
                _ => Mat::F32(&[]),
            },
        }
    }

    /// The values, which must be float32.
    pub(super) fn f32(&self, op: &'static str) -> Result<&[f32]> {
        match self.mat() {
            Mat::F32(x) => Ok(x),
            _ => Err(Error::Shape {
                op,
                what: format!("a {:?} operand where float32 is needed", self.dtype()),
            }),
        }
    }

    /// The values for writing; mapped weights refuse.
    pub(super) fn f32_mut(&mut self, op: &'static str) -> Result<&mut [f32]> {
        match &mut self.data {
            Data::Owned(o) => Ok(&mut o.values[..o.len]),
            Data::Mapped(_) => {
                Err(Error::Shape { op, what: "the output is a mapped file, which is read only".into() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_hold_what_they_are_for() {
        for len in (1..2000).chain([4096, 4097, 1 << 20, (1 << 20) + 1]) {
            let class = size_class(len);
            assert!(class >= len && (class <= 64 || class * 4 < len * 5 + 4), "{len} -> {class}");
        }
    }

    #[test]
    fn buffers_come_back_and_zeros_are_zero() {
        let shelf = Arc::new(Shelf::default());
        let mut a = shelf.take(100, true);
        a.values.fill(3.0);
        let at = a.values.as_ptr();
        drop(a);
        let b = shelf.take(101, true);
        assert_eq!(b.values.as_ptr(), at);
        assert!(b.values[..101].iter().all(|&x| x == 0.0));
    }
}
