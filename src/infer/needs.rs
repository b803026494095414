//! Memory that generation needs on the device, known before it begins.

use super::adapters::{Models, by_adapter};
use super::decoded;
use super::generate::{PREFILL_ROWS, room};
use super::sequence::Prepared;
use crate::device::{Device, FEW_ROWS, Need, Stay};
use crate::model::ColarModel;
use crate::model::kv_cache::KvCache;
use crate::model::prompt::group_equal;

/// The weights, which are loaded.
pub(crate) fn weights<D: Device>(model: &ColarModel<D>) -> Need {
    Need {
        what: "the weights".into(),
        bytes: model.params.bytes(),
        stay: Stay::Held,
        less: "a smaller model",
    }
}

/// The weights of a model and of its adapters, which are loaded.
fn all_weights<D: Device>(models: &Models<'_, D>) -> Need {
    let adapters = models.adapted.iter().map(|(_, model)| model.params.own_bytes()).sum::<usize>();
    let weights = weights(models.base);
    Need { bytes: weights.bytes + adapters, ..weights }
}

/// Memory of a batch from its prefill to its end, beside the weights.
pub(super) fn generation<D: Device>(device: &D, models: &Models<'_, D>, requests: &[Prepared]) -> Vec<Need> {
    let model = models.base;
    let (slots, capacity) = (requests.len(), requests.iter().map(room).max().unwrap_or(0));
    let cache = Need {
        what: format!("the key-value cache of {capacity} positions for a batch of {slots}"),
        bytes: KvCache::<D>::bytes(&model.transformer.config, slots, capacity, device.compute_dtype()),
        stay: Stay::Run,
        less: "a smaller `batch_size`, `max_latents`, `max_cot_tokens` or `max_new_tokens`",
    };
    let of_adapters = by_adapter(requests.iter().map(|r| (r.adapter, r.prompt_ids.as_slice())));
    let distinct = |prompts: &Vec<&[u32]>| {
        let groups = group_equal(prompts.iter().copied());
        groups.iter().map(|group| prompts[group[0]].len()).sum::<usize>()
    };
    let rows = of_adapters.values().map(distinct).sum::<usize>().min(PREFILL_ROWS);
    let prefill =
        activations(device, model, rows, slots, "prefill", "a smaller `batch_size` or a shorter prompt");
    let latents = requests.iter().map(|r| r.sampling.max_latents).max().unwrap_or(0).min(decoded::STEPS);
    let decoder = Need {
        what: format!("decoding a batch of {slots}"),
        bytes: decoded::model(models, slots).map_or(0, |m| device.decoder_bytes(&m, slots, latents)),
        stay: Stay::Run,
        less: "a smaller `batch_size`",
    };
    let parts = [all_weights(models), cache, prefill, decoder];
    parts.into_iter().filter(|part| part.bytes > 0).collect()
}

/// Memory of a scheduler, beside the weights.
pub(super) fn scheduler<D: Device>(
    device: &D,
    models: &Models<'_, D>,
    cache_positions: usize,
    prefill_tokens: usize,
) -> Vec<Need> {
    let model = models.base;
    let cache = Need {
        what: format!("the key-value cache of {cache_positions} positions"),
        bytes: KvCache::<D>::bytes(&model.transformer.config, 1, cache_positions, device.compute_dtype()),
        stay: Stay::Run,
        less: "a smaller `cache_positions`",
    };
    let pass = activations(device, model, prefill_tokens, FEW_ROWS, "pass", "a smaller `prefill_tokens`");
    vec![all_weights(models), cache, pass]
}

/// Memory of a forward pass of `rows` rows, of which `outputs` reach the output head together.
pub(crate) fn activations<D: Device>(
    device: &D,
    model: &ColarModel<D>,
    rows: usize,
    outputs: usize,
    pass: &str,
    less: &'static str,
) -> Need {
    let config = &model.transformer.config;
    let layers = model.transformer.activation_bytes(rows.max(outputs), device.compute_dtype());
    let head = device.choose_tokens_bytes(outputs, config.vocab_size);
    // An eighth for the scratch memory of operations: lists of rows, partial sums.
    let bytes = layers.saturating_add(head);
    let bytes = bytes.saturating_add(bytes / 8).saturating_add(1 << 16);
    Need { what: format!("the activations of a {pass} of {rows} rows"), bytes, stay: Stay::Run, less }
}
