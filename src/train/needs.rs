//! Memory that training needs on the device, known before it is taken.

use super::batch::Batch;
use super::sft::Objective;
use super::thoughts::{ThoughtBatch, ThoughtExample};
use crate::device::{Device, Dtype, Need, Stay, TensorInfo};
use crate::infer::needs::weights;
use crate::model::ColarModel;
use crate::model::params::{Grads, Params};
use crate::model::weight_spec::Groups;

/// Size of a forward and backward pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PassSize {
    /// Packed rows.
    pub rows: usize,
    /// Rows of keys that attention takes.
    pub keys: usize,
    /// Labelled rows.
    pub labels: usize,
    /// Latents.
    pub latents: usize,
}

/// Bytes of a row in lists of ids, offsets, scales, positions and places: eight numbers.
const LISTED: usize = 32;

/// Advice for a supervised run whose step does not fit.
pub(crate) const SMALLER_BATCH: &str = "a smaller `batch_size` with a larger `accumulate`, or `recompute`,";

/// Advice for reinforcement learning whose step does not fit.
pub(crate) const SMALLER_MINIBATCH: &str = "a smaller `exp_batch_size`, or `recompute`,";

/// Memory that stays taken from step to step beside the weights: the gradients and moments of the groups `trained`, and
/// their copies in the dtype that products take.
pub(crate) fn state<D: Device>(device: &D, model: &ColarModel<D>, trained: Groups, full: bool) -> [Need; 2] {
    let (mut count, mut bytes) = (0, 0usize);
    for (_, p) in model.params.iter().filter(|(_, p)| trained.contains(p.group)) {
        let n = p.value.rows() * p.value.cols();
        count += n;
        bytes = bytes.saturating_add(3 * n * Dtype::F32.size());
    }
    let state = Need {
        what: format!("gradients and moments of {count} trained weights"),
        bytes: bytes.saturating_add(copies(device, &model.params)),
        stay: Stay::Kept,
        less: if full { "an adapter instead of `full`" } else { "a smaller `lora_r`" },
    };
    [weights(model), state]
}

/// Bytes of the matrices in bf16 that a device of that dtype keeps beside those of another.
fn copies<D: Device>(device: &D, params: &Params<D>) -> usize {
    if device.compute_dtype() != Dtype::Bf16 {
        return 0;
    }
    let other = params.iter().filter(|(_, p)| p.shape.len() == 2 && p.value.dtype() != Dtype::Bf16);
    other.map(|(_, p)| p.value.rows() * p.value.cols() * Dtype::Bf16.size()).sum()
}

/// Memory of a forward and backward pass, with a second forward on predicted embeddings where `second`.
pub(crate) fn pass<D: Device>(
    device: &D,
    model: &ColarModel<D>,
    grads: &Grads<D>,
    size: PassSize,
    second: bool,
    less: &'static str,
) -> Need {
    let PassSize { rows, keys, labels, latents } = size;
    let (config, compute) = (&model.transformer.config, device.compute_dtype());
    let h = config.hidden_size;
    let floats = |n: usize, each: usize| n.saturating_mul(each * compute.size());
    let layers = model.transformer.training_bytes(&model.params, grads, rows, keys, compute);
    let layers = if second { layers.saturating_mul(2).saturating_add(floats(rows, 2 * h)) } else { layers };
    let labelled =
        floats(labels, 2 * h).saturating_add(device.cross_entropy_bytes(labels, config.vocab_size));
    // Target, hidden states, both parameters with their gradients, noise, and the gradient of the hidden states; the
    // head's own layers, and their gradients.
    let inner = model.head.as_ref().map_or(0, |head| head.intermediate_size(&model.params));
    let head = floats(latents, 8 * h + 6 * inner).saturating_add(latents * 3 * Dtype::F32.size());
    // A matrix of another dtype that a product has converted for itself alone.
    let converted = match compute {
        Dtype::Bf16 => 0,
        _ => {
            let other = model.params.iter().filter(|(_, p)| p.value.dtype() != compute);
            other.map(|(_, p)| p.value.rows() * p.value.cols() * compute.size()).max().unwrap_or(0)
        }
    };
    let lists = (rows + labels + latents + keys).saturating_mul(LISTED);
    let parts = [layers, labelled, head, converted, lists];
    let bytes = parts.into_iter().fold(0, usize::saturating_add);
    // An eighth for the scratch memory of operations: partial sums, lists of blocks.
    let bytes = bytes.saturating_add(bytes / 8).saturating_add(1 << 16);
    Need { what: format!("the activations of a step of {rows} rows"), bytes, stay: Stay::Run, less }
}

/// Memory of the largest of a step's batches, beside the memory already taken.
pub(crate) fn supervised<D: Device>(
    device: &D,
    model: &ColarModel<D>,
    grads: &Grads<D>,
    objective: &Objective,
    batches: &[Batch],
) -> Vec<Need> {
    let second = objective.pred_embed_forward_weight != 0.0;
    let needs = batches.iter().map(|batch| {
        let size = PassSize {
            rows: batch.rows(),
            keys: batch.rows(),
            labels: batch.ce_rows.len(),
            latents: batch.latent_rows.len(),
        };
        pass(device, model, grads, size, second && size.latents > 0, SMALLER_BATCH)
    });
    largest(model, needs)
}

/// As [`supervised`], of batches with thoughts: the larger of a student's and a teacher's pass, which follow
/// each other.
pub(crate) fn thinking<D: Device>(
    device: &D,
    model: &ColarModel<D>,
    grads: &Grads<D>,
    batches: &[ThoughtBatch],
) -> Vec<Need> {
    let thoughts = model.thoughts.as_ref().map_or(0, |t| t.count);
    let config = &model.transformer.config;
    let needs = batches.iter().flat_map(|batch| {
        let all = |of: &dyn Fn(&ThoughtExample) -> usize| batch.examples().iter().map(of).sum::<usize>();
        let need = |rows, labels| {
            let size = PassSize { rows, keys: rows, labels, latents: 0 };
            pass(device, model, grads, size, false, SMALLER_BATCH)
        };
        let rows = all(&|e| e.student_rows(thoughts));
        let mut student = need(rows, all(&|e| e.student_labels()));
        // From phase to phase the sums of the gradients of keys and values stay, and these, though recomputed.
        let kinds = if model.transformer.recompute { 4 } else { 2 };
        let beside = kinds * config.num_hidden_layers * config.kv_size() * device.compute_dtype().size();
        student.bytes = student.bytes.saturating_add(rows.saturating_mul(beside));
        [student, need(all(&|e| e.teacher_rows()), all(&|e| e.teacher_labels()))]
    });
    largest(model, needs)
}

/// The largest of passes that follow each other, beside the weights.
fn largest<D: Device>(model: &ColarModel<D>, needs: impl Iterator<Item = Need>) -> Vec<Need> {
    [weights(model)].into_iter().chain(needs.max_by_key(|need| need.bytes)).collect()
}
