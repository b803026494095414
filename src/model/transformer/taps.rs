//! Hidden states of every layer at chosen rows: read in a forward pass, given a gradient in the backward.
//!
//! Of `L` layers the first `L − 1` states are the outputs of the blocks, the last is taken after the final
//! norm, as Hugging Face's models return them in `output_hidden_states[1:]`.

use crate::Result;
use crate::device::{Device, TensorInfo};

/// Chosen rows of a forward pass, and their states once it ran.
pub struct Taps<D: Device> {
    rows: D::Index,
    len: usize,
    /// Per layer `[N, H]`.
    states: Vec<D::Tensor>,
}

/// Gradients of the states at chosen rows, for a backward pass.
pub struct TapGrads<D: Device> {
    rows: D::Index,
    /// Per layer `[N, H]`, in the compute dtype.
    layers: Vec<D::Tensor>,
}

impl<D: Device> Taps<D> {
    /// Taps at these rows, which are distinct.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn new(device: &D, rows: &[u32]) -> Result<Self> {
        Ok(Taps { rows: device.index(rows)?, len: rows.len(), states: Vec::new() })
    }

    /// Takes the states of the next layer, of all rows of a pass `[T, H]`.
    pub(super) fn keep(&mut self, device: &D, all: &D::Tensor) -> Result<()> {
        let mut state = device.empty(self.len, all.cols())?;
        device.gather_rows(1.0, all, &self.rows, &mut state)?;
        self.states.push(state);
        Ok(())
    }

    /// The states, per layer `[N, H]` row-major.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn read(&self, device: &D) -> Result<Vec<Vec<f32>>> {
        self.states.iter().map(|state| device.read(state)).collect()
    }

    /// The same rows with the gradients of their states: per layer `[N, H]`, row-major.
    ///
    /// # Errors
    /// A number of values that does not fit, and errors of the device.
    pub fn with_grads(self, device: &D, layers: &[Vec<f32>]) -> Result<TapGrads<D>> {
        let all = device.index(&(0..self.len as u32).collect::<Vec<_>>())?;
        let layers = layers.iter().zip(self.states).map(|(values, state)| {
            // The gather puts the values into the dtype of activations.
            let values = device.upload(self.len, state.cols(), values)?;
            let mut grad = state;
            device.gather_rows(1.0, &values, &all, &mut grad)?;
            Ok(grad)
        });
        Ok(TapGrads { rows: self.rows, layers: layers.collect::<Result<_>>()? })
    }
}

impl<D: Device> TapGrads<D> {
    /// Adds the gradients of a layer's states to that of its output, `d[T, H]`.
    pub(super) fn add(&self, device: &D, layer: usize, d: &mut D::Tensor) -> Result<()> {
        match self.layers.get(layer) {
            Some(grad) => device.scatter_add_rows(1.0, grad, &self.rows, d),
            None => Ok(()),
        }
    }
}
