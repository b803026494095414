//! A device of float64 numbers that runs forward passes: the reference for float32 gradients.
//!
//! The engine's layers and objectives are written against [`Device`](colar_engine::device::Device), so they run here
//! unchanged. Float32 input, such as the weights of files and scalar factors, is widened, and everything after that is
//! float64 in plain loops. A loss comes out with a relative error of about 1e-15 whatever
//! the processor and the order of sums, so that differences of losses are slopes of known error.
//!
//! The interface reads and writes float32. [`Float64Tensor::values`] are the numbers themselves, and
//! [`Float64::take_reads`] gives in float64 the tensors that the engine has read.

mod activation;
mod attention;
mod cross_entropy;
mod device;
mod dropout;
mod latent;
mod matmul;
mod memory;
mod norm;
pub mod policy;
mod rotary;
mod rows;

use std::sync::{Arc, Mutex};

use colar_engine::device::{Dtype, TensorInfo};
use colar_engine::{Error, Result};

use super::host::Host;

/// The error of an operation that no forward pass of training has.
fn refused<T>(operation: &str) -> Result<T> {
    Err(Error::other(format!("{operation}: in float64 there are forward passes only")))
}

/// Fails where gradients are asked for.
fn forward_only<T>(operation: &str, grads: Option<T>) -> Result<()> {
    if grads.is_some() { refused(operation) } else { Ok(()) }
}

/// The device. Clones share what they recorded.
#[derive(Debug, Clone, Default)]
pub struct Float64 {
    reads: Arc<Mutex<Vec<Vec<f64>>>>,
    /// The targets of the first latent loss.
    targets: Arc<Mutex<Option<Float64Tensor>>>,
}

impl Float64 {
    /// The tensors that the engine has read since the last call.
    pub fn take_reads(&self) -> Vec<Vec<f64>> {
        std::mem::take(&mut self.reads.lock().unwrap())
    }
}

/// A row-major matrix of float64 numbers.
#[derive(Debug, Clone)]
pub struct Float64Tensor {
    rows: usize,
    cols: usize,
    /// The elements.
    pub values: Vec<f64>,
}

impl Float64Tensor {
    fn new(rows: usize, cols: usize, values: Vec<f64>) -> Self {
        assert_eq!(values.len(), rows * cols);
        Float64Tensor { rows, cols, values }
    }

    /// All elements NaN, so that one which an operation fails to write shows.
    pub fn poisoned(rows: usize, cols: usize) -> Self {
        Self::new(rows, cols, vec![f64::NAN; rows * cols])
    }

    /// Sets every element to that of `from`, plus its entry of `by`.
    pub fn shift(&mut self, from: &Self, by: &[f64]) {
        self.like(from);
        assert_eq!(self.values.len(), by.len());
        for ((x, from), by) in self.values.iter_mut().zip(&from.values).zip(by) {
            *x = from + by;
        }
    }

    fn widened(rows: usize, cols: usize, values: &[f32]) -> Self {
        Self::new(rows, cols, values.iter().map(|&x| f64::from(x)).collect())
    }

    /// A column.
    pub fn column(&self, col: usize) -> Vec<f64> {
        self.values.iter().skip(col).step_by(self.cols).copied().collect()
    }

    fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.cols..][..self.cols]
    }

    fn row_mut(&mut self, row: usize) -> &mut [f64] {
        &mut self.values[row * self.cols..][..self.cols]
    }

    fn row_pairs<'a>(&'a self, out: &'a mut Self) -> impl Iterator<Item = (&'a [f64], &'a mut [f64])> {
        assert_eq!(self.rows, out.rows);
        self.values.chunks_exact(self.cols).zip(out.values.chunks_exact_mut(out.cols))
    }

    /// Fails unless `other` has the same shape.
    fn like(&self, other: &Self) {
        assert_eq!((self.rows, self.cols), (other.rows, other.cols));
    }
}

impl From<&Host> for Float64Tensor {
    fn from(host: &Host) -> Self {
        Self::widened(host.rows, host.cols, &host.values)
    }
}

impl TensorInfo for Float64Tensor {
    fn rows(&self) -> usize {
        self.rows
    }

    fn cols(&self) -> usize {
        self.cols
    }

    /// The dtype that the engine requires of activations and of trained weights.
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }
}
