//! Bytes that a model takes, computed from its configuration.

use super::config::ModelConfig;
use super::transformer::Transformer;
use crate::device::{Device, Dtype};

/// Bytes of the weights of a decoder that is loaded to run: matrices in the compute dtype, vectors in float32.
pub fn weight_bytes(config: &ModelConfig, compute: Dtype) -> usize {
    let bytes = |shape: &[usize]| {
        let dtype = if shape.len() == 2 { compute } else { Dtype::F32 };
        shape.iter().fold(dtype.size(), |n, &d| n.saturating_mul(d))
    };
    config.tensors().iter().fold(0, |sum: usize, (_, shape)| sum.saturating_add(bytes(shape)))
}

impl<D: Device> Transformer<D> {
    /// Bytes of the activations alive at once in a forward pass over `rows` rows, without what a backward pass
    /// would keep: those of one layer, the residual stream, and the hidden states that the pass was given and
    /// gives back.
    pub fn activation_bytes(&self, rows: usize, compute: Dtype) -> usize {
        let c = &self.config;
        // Of the layer: stream before and after attention, both norms, the outputs of o and down; q, k, v and
        // what attention made of them; gate, up and their product.
        let layer = 6 * c.hidden_size + 2 * (c.q_size() + c.kv_size()) + 3 * c.intermediate_size;
        rows.saturating_mul((layer + 2 * c.hidden_size) * compute.size())
    }
}
