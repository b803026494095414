//! Generation of a closed batch (spec section 5): all requests are there from the beginning.
//!
//! All prompts go into the cache first. Then every sequence that is not done goes through each pass of the [`Batch`]; one
//! that ends leaves it. A device with a decoder for the model takes over after the prefill (`decoded`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::batch::Batch;
use super::decoded;
use super::request::{Event, Generation};
use super::rollout::Recorder;
use super::sequence::{Parts, Phase, Prepared, Sequence, finish};
use crate::Result;
use crate::device::Device;
use crate::model::kv_cache::KvCache;

/// Tokens of prompts that go through one prefill pass.
pub(super) const PREFILL_ROWS: usize = 2048;

/// Runs a batch to its end, or until it is `cancelled`, between two passes; a recorder, if given, keeps the data of a policy
/// update.
pub(super) fn generate<D: Device>(
    parts: &Parts<'_, D>,
    requests: Vec<Prepared>,
    cancelled: &AtomicBool,
    mut recorder: Option<&mut Recorder<D>>,
    on_event: &mut (dyn FnMut(Event) + Send),
) -> Result<Vec<Generation>> {
    let start = Instant::now();
    let count = requests.len();
    let capacity = requests.iter().map(room).max().unwrap_or(0);
    let cache = KvCache::new(parts.device, &parts.model.transformer.config, count, capacity)?;
    let mut batch = Batch::new(parts, cache, count)?;
    let requests = requests.into_iter().enumerate();
    batch.sequences.extend(requests.map(|(i, request)| Sequence::new(i, i, request, start)));
    let is_cancelled = || cancelled.load(Ordering::Relaxed);
    while !is_cancelled() && batch.sequences.iter().any(|s| !s.prefilled) {
        let pieces = batch.next_pieces(PREFILL_ROWS)?;
        if !pieces.is_empty() {
            batch.take_in(&pieces)?;
        }
    }
    if !is_cancelled() {
        batch.begin(&batch.ready(), on_event)?;
    }
    let decoder = match decoded::model(&parts.models, count) {
        Some(model) => parts.device.decoder(model, count)?,
        None => None,
    };
    if let Some(decoder) = decoder {
        decoded::run(parts, decoder, &mut batch, &is_cancelled, recorder.as_deref_mut(), on_event)?;
    }
    loop {
        if is_cancelled() {
            batch.sequences.iter_mut().for_each(Sequence::stop);
        }
        let active = batch.active();
        if active.is_empty() {
            break;
        }
        batch.advance(&active, recorder.as_deref_mut(), on_event)?;
    }
    batch.sequences.into_iter().map(|s| finish(parts, s)).collect()
}

/// Cache rows that a request can need.
pub(super) fn room(r: &Prepared) -> usize {
    let reasoning = match r.start {
        Phase::Latents => r.sampling.max_latents,
        Phase::Thoughts(n) => n.saturating_add(r.sampling.max_cot_tokens),
        Phase::Reasoning => r.sampling.max_cot_tokens,
        Phase::Answer => 0,
    };
    r.prompt_ids.len().saturating_add(reasoning).saturating_add(1).saturating_add(r.sampling.max_new_tokens)
}
