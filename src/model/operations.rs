//! How many floating-point operations a training step takes, counted from shapes.
//!
//! Counted are products of matrices and attention, a multiply-add as two operations. Each counts once, though some
//! are computed again to save memory (a layer's forward pass, attention's probabilities). Norms, activations and the
//! optimiser are left out; they are bound by memory.

use super::latent_head::LatentHead;
use super::linear::Linear;
use super::params::{Grads, ParamId, Params};
use super::transformer::{Layer, Transformer, untrained};
use crate::device::{Device, TensorInfo};

/// Operations of a step's forward and backward pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct StepOperations {
    /// Operations of products with weights, adapters and gradients.
    pub products: u64,
    /// Operations of attention, over the pairs of positions that see each other.
    pub attention: u64,
}

impl StepOperations {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.products + self.attention
    }
}

/// Operations of a product of `rows` rows with a weight of so many elements.
pub(crate) fn product(rows: usize, elements: u64) -> u64 {
    2 * rows as u64 * elements
}

/// Operations of causal attention in one layer over a sequence of `len` positions: for each pair that see each other
/// a product with the key and one with the value. Back there are two for each of these.
pub(crate) fn attention(q_size: usize, len: usize) -> u64 {
    let pairs = (len * (len + 1) / 2) as u64;
    2 * product(1, pairs * q_size as u64)
}

/// The weights and gradients whose products are counted.
struct Count<'a, D: Device> {
    params: &'a Params<D>,
    grads: &'a Grads<D>,
}

impl<D: Device> Count<'_, D> {
    /// Elements of a weight.
    fn size(&self, id: ParamId) -> u64 {
        let value = self.params.get(id);
        (value.rows() * value.cols()) as u64
    }

    /// Forward and backward of a layer over `rows` rows, with the gradient of its input where `input`.
    fn linear(&self, linear: &Linear, rows: usize, input: bool) -> u64 {
        let trains = |id| u64::from(self.grads.trains(id));
        let weight = self.size(linear.weight) * (1 + u64::from(input) + trains(linear.weight));
        let adapter = linear.lora.map_or(0, |lora| {
            let (a, b) = (self.size(lora.a), self.size(lora.b));
            // Forward A·x and B·(A·x); backward the gradients of A·x and of x; and the gradients of A and B.
            let back = input || self.grads.trains(lora.a) || self.grads.trains(lora.b);
            a + b + u64::from(back) * b + u64::from(input) * a + trains(lora.a) * a + trains(lora.b) * b
        });
        product(rows, weight + adapter)
    }

    fn layer(&self, layer: &Layer, rows: usize, below: bool) -> u64 {
        let input = below || self.grads.trains(layer.input_norm);
        let whole = [&layer.o, &layer.gate, &layer.up, &layer.down].map(|l| self.linear(l, rows, true));
        let first = [&layer.q, &layer.k, &layer.v].map(|l| self.linear(l, rows, input));
        whole.iter().chain(&first).sum()
    }

    fn head(&self, head: &LatentHead, rows: usize) -> u64 {
        let linears = [Some(&head.fc0), Some(&head.fc2), Some(&head.mean), head.log_std.as_ref()];
        linears.into_iter().flatten().map(|l| self.linear(l, rows, true)).sum()
    }
}

impl<D: Device> Transformer<D> {
    /// Operations of a forward and backward pass over packed sequences of `lens` rows, of which `labels` reach the
    /// output head and `latents` the latent head, for the gradients of `grads`.
    pub fn step_operations(
        &self,
        params: &Params<D>,
        grads: &Grads<D>,
        head: Option<&LatentHead>,
        lens: &[usize],
        [labels, latents]: [usize; 2],
    ) -> StepOperations {
        let count = Count { params, grads };
        let rows = lens.iter().sum();
        let lowest = match grads.trains(self.embed) {
            true => 0,
            false => untrained(&self.layers, grads),
        };
        let below = |i: usize| grads.trains(self.embed) || i > lowest;
        let forward = |layer: &Layer| {
            let weights = layer.projections().into_iter().flat_map(|l| {
                let lora = l.lora.map(|lora| [lora.a, lora.b]);
                [l.weight].into_iter().chain(lora.into_iter().flatten())
            });
            product(rows, weights.map(|id| count.size(id)).sum::<u64>())
        };
        let layers = self.layers.iter().enumerate().map(|(i, layer)| match i < lowest {
            true => forward(layer),
            false => count.layer(layer, rows, below(i)),
        });
        let trained_head = u64::from(grads.trains(self.lm_head));
        let output = product(labels, count.size(self.lm_head)) * (2 + trained_head);
        let latent = head.map_or(0, |head| count.head(head, latents));
        let back = self.layers.len() - lowest;
        let passes = (self.layers.len() + 2 * back) as u64;
        let attention = passes * lens.iter().map(|&n| attention(self.heads().q_width(), n)).sum::<u64>();
        StepOperations { products: layers.sum::<u64>() + output + latent, attention }
    }
}
