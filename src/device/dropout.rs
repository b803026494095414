//! Dropout: elements left out at random, in front of an adapter (spec section 7).

use super::memory::MemoryOps;
use super::shape::{Checked, TensorInfo};
use crate::Result;

/// The elements that a dropout leaves out. They follow from the counter alone, so the backward pass asks for the same
/// again, and every device leaves out the same.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Probability in [0, 1) that an element is left out.
    pub p: f32,
    /// Philox key: the run's seed.
    pub key: u64,
    /// Philox counter words 1 to 3 of the first row; word 1 grows by one a row, and word 0 counts fours of columns.
    pub counter: [u32; 3],
}

impl Dropout {
    /// The factor of elements that stay, 1/(1 − p), which keeps the expectation.
    pub(crate) fn scale(&self) -> f32 {
        1.0 / (1.0 - self.p)
    }
}

/// Dropout, which is linear in its input and symmetric: the gradient passes through the same operation.
pub trait DropoutOps: MemoryOps {
    /// `out = beta·out + kept·x/(1 − p)`, where `kept` is 1 for elements whose uniform number is at least p, else 0.
    ///
    /// Element (r, c) takes word c mod 4 of the block at `[c/4, counter[0] + r, counter[1], counter[2]]`. `beta` is 0,
    /// and `out` is not read, or 1. `x` and `out` have one shape and dtype.
    fn dropout(&self, dropout: Dropout, x: &Self::Tensor, beta: f32, out: &mut Self::Tensor) -> Result<()>;
}

pub(crate) fn check_dropout<T: TensorInfo>(x: &T, out: &T) -> Result<Checked> {
    let all = Checked::of("dropout", x);
    all.same("out", out)?;
    Ok(all)
}
