//! Bytes that a model takes, computed from its configuration.

use super::config::ModelConfig;
use super::params::{Grads, Params};
use super::transformer::Transformer;
use super::weight_spec::{Role, WeightSpec};
use crate::device::{Device, Dtype, TensorInfo};

/// Bytes of the weights of a decoder that is loaded to run: matrices in the compute dtype, vectors in float32.
pub fn weight_bytes(config: &ModelConfig, compute: Dtype) -> usize {
    config.weights().iter().fold(0, |sum: usize, weight| sum.saturating_add(bytes(weight, compute)))
}

/// Bytes of one of them.
pub fn bytes(weight: &WeightSpec, compute: Dtype) -> usize {
    let dtype = if weight.role == Role::Matrix { compute } else { Dtype::F32 };
    weight.shape.iter().fold(dtype.size(), |n, &d| n.saturating_mul(d))
}

impl<D: Device> Transformer<D> {
    /// Bytes of the activations alive at once in a forward pass over `rows` rows, without those kept for a
    /// backward pass: those of one layer, the residual stream, and the hidden states that the pass was given and
    /// gives back.
    pub fn activation_bytes(&self, rows: usize, compute: Dtype) -> usize {
        let c = &self.config;
        rows.saturating_mul((c.passing_forward() + 2 * c.hidden_size) * compute.size())
    }
    /// Bytes of the activations alive at once in a forward and backward pass over `rows` rows, of which attention
    /// takes `keys` rows of keys and values (more than `rows` where sequences share their beginning): those that
    /// the layers keep, the most that one layer takes beside them, and hidden states with their gradients.
    pub fn training_bytes(
        &self,
        params: &Params<D>,
        grads: &Grads<D>,
        rows: usize,
        keys: usize,
        compute: Dtype,
    ) -> usize {
        let c = &self.config;
        let (h, kv) = (c.hidden_size, c.kept_of_key());
        // With the products of adapters.
        let kept = |layer: &super::transformer::Layer| {
            let adapters = layer.projections().into_iter().filter_map(|linear| linear.lora);
            let low: usize = adapters.map(|lora| params.get(lora.a).rows()).sum();
            c.kept_of_row(layer.down.trained(grads)) + low
        };
        let of_rows = |floats: usize| rows.saturating_mul(floats * compute.size());
        let of_keys = |floats: usize| keys.saturating_mul(floats * compute.size());
        // The log-sum-exps of a layer's attention.
        let sums = rows.saturating_mul(c.num_attention_heads * Dtype::F32.size());
        let layer = |floats: usize| of_rows(floats).saturating_add(of_keys(kv)).saturating_add(sums);
        let layers = if self.recompute {
            let largest = self.layers.iter().map(kept).max().unwrap_or(0);
            of_rows(h).saturating_mul(self.layers.len()).saturating_add(layer(largest))
        } else {
            self.layers.iter().fold(0, |sum: usize, l| sum.saturating_add(layer(kept(l))))
        };
        // Backward takes more than forward.
        let copied = if keys > rows { kv } else { 0 };
        let passing = of_rows(c.passing_backward() + copied).saturating_add(of_keys(kv)).saturating_add(sums);
        // The input as an adapter sees it, or the gradient of that.
        let widest = h.max(c.intermediate_size).max(c.q_size());
        let dropped = if grads.has_dropout() { of_rows(widest) } else { 0 };
        // The last stream, its norm, and the gradient of that.
        [layers, passing, dropped, of_rows(3 * h)].into_iter().fold(0, usize::saturating_add)
    }
}
