//! Generation by a device's decoder: after the prefill, first the latents of all sequences to their ends, then
//! all texts token by token.
//!
//! The result of a request does not depend on the order of the work, since its draws are counted by its own
//! positions; so it is the same here as step by step, up to rounding.

use super::adapters::Models;
use super::batch::Batch;
use super::request::Event;
use super::rollout::Recorder;
use super::rows::select;
use super::sequence::{Parts, Phase, Sequence, accept, purpose};
use super::trace::{end_probabilities, scaled};
use super::unfit;
use crate::Result;
use crate::device::decoder::{Decoder, DecoderModel, Drawn, LatentEnd, LatentSequence};
use crate::device::{Device, TensorInfo, TokenChoice};
use crate::model::kv_cache::KvCache;

/// Most sequences that are decoded so. A read of the weights serves as many as the decoder takes at a time; beyond
/// two reads a step, the layers' own products of all rows together should cost less.
const MOST: usize = 16;

/// Latents drawn before the host hears of them.
pub(super) const STEPS: usize = 64;

/// The weights for a decoder of a batch of `count` sequences; `None` where the layers should run one by one, as they do
/// where sequences may have different adapters.
pub(super) fn model<'a, D: Device>(models: &Models<'a, D>, count: usize) -> Option<DecoderModel<'a, D>> {
    if count <= MOST && models.adapted.is_empty() { models.base.for_decoder() } else { None }
}

/// Runs the sequences of a batch, whose prompts are in the cache, to their ends or until they are cancelled.
pub(super) fn run<D: Device>(
    parts: &Parts<'_, D>,
    mut decoder: D::Decoder<'_>,
    batch: &mut Batch<'_, D>,
    is_cancelled: &dyn Fn() -> bool,
    mut recorder: Option<&mut Recorder<D>>,
    on_event: &mut (dyn FnMut(Event) + Send),
) -> Result<()> {
    let Batch { sequences, cache, hidden, .. } = batch;
    let mut open: Vec<usize> =
        (0..sequences.len()).filter(|&i| sequences[i].phase == Phase::Latents).collect();
    while !open.is_empty() && !is_cancelled() {
        let rest = open.split_off(open.len().min(decoder.max_rows()));
        let rows: Vec<u32> = open.iter().map(|&i| i as u32).collect();
        let mut before = select(parts.device, hidden, &rows)?;
        while !open.is_empty() && !is_cancelled() {
            let drawn = draw(parts, &mut decoder, sequences, &open, cache, &before)?;
            (open, before) =
                take_in(parts, sequences, &open, cache, drawn, recorder.as_deref_mut(), on_event)?;
        }
        open = rest;
    }
    write(parts, decoder, sequences, cache, is_cancelled, recorder, on_event)
}

/// Draws further latents of the sequences `open`.
fn draw<D: Device>(
    parts: &Parts<'_, D>,
    decoder: &mut D::Decoder<'_>,
    sequences: &[Sequence],
    open: &[usize],
    cache: &mut KvCache<D>,
    hidden: &D::Tensor,
) -> Result<Drawn<D>> {
    let drawing: Vec<LatentSequence> = open
        .iter()
        .map(|&i| {
            let s = &sequences[i];
            let p = &s.request.sampling;
            LatentSequence {
                rows: cache.rows(s.slot),
                key: p.seed,
                drawn: s.n_latents,
                limit: p.max_latents,
                latent_temperature: p.latent_temperature,
                eol_temperature: p.eol_temperature,
            }
        })
        .collect();
    let end = LatentEnd {
        token: parts.separator,
        bias: sequences[open[0]].request.sampling.separator_bias,
        latent_purpose: purpose::LATENT,
        event_purpose: purpose::END_OF_LATENT,
    };
    decoder.latents(cache.lend(), &drawing, end, STEPS, hidden)
}

/// Takes in the latents drawn; returns the sequences that draw more and their hidden states.
fn take_in<D: Device>(
    parts: &Parts<'_, D>,
    sequences: &mut [Sequence],
    open: &[usize],
    cache: &mut KvCache<D>,
    drawn: Drawn<D>,
    mut recorder: Option<&mut Recorder<D>>,
    on_event: &mut (dyn FnMut(Event) + Send),
) -> Result<(Vec<usize>, D::Tensor)> {
    let device = parts.device;
    // Row of a sequence's step among all that were drawn; sequences count within `open`.
    let place = |step: usize, n: usize| (step * open.len() + n) as u32;
    let traced = open.iter().any(|&i| sequences[i].request.trace);
    let values = if traced { device.read(&drawn.latents)? } else { Vec::new() };
    for step in 0..drawn.counts.iter().copied().max().unwrap_or(0) {
        let (mut drawers, mut rows) = (Vec::new(), Vec::new());
        for (n, &i) in open.iter().enumerate().filter(|&(n, _)| step < drawn.counts[n]) {
            drawers.push(i);
            rows.push(place(step, n));
            let s = &mut sequences[i];
            s.count_vector(on_event);
            if s.request.trace {
                let width = drawn.latents.cols();
                let z = &values[place(step, n) as usize * width..][..width];
                s.trace.push(parts.nearest.tokens(device, parts.model, parts.tokenizer, z)?);
                s.latents.push(scaled(z, parts.model.embeds_std));
            }
        }
        if let Some(recorder) = recorder.as_deref_mut() {
            let before = select(device, &drawn.hidden, &rows)?;
            recorder.latents(drawers, before, select(device, &drawn.latents, &rows)?);
        }
    }
    for (n, &i) in open.iter().enumerate().filter(|&(n, _)| drawn.counts[n] > 0) {
        let s = &mut sequences[i];
        if s.request.trace {
            let rows: Vec<u32> = (1..=drawn.counts[n]).map(|step| place(step, n)).collect();
            let (after, bias) = (select(device, &drawn.hidden, &rows)?, s.request.sampling.separator_bias);
            let ends = end_probabilities(device, parts.model, parts.separator, &after, bias)?;
            s.end_probabilities.extend(ends);
        }
    }
    let (mut on, mut over) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    for (n, &i) in open.iter().enumerate() {
        cache.grow(sequences[i].slot, drawn.counts[n])?;
        let (which, rows) = if drawn.ended[n] { &mut over } else { &mut on };
        which.push(i);
        rows.push(place(drawn.counts[n], n));
        if drawn.ended[n] {
            sequences[i].begin_answer(parts.separator);
        }
    }
    if let Some(recorder) = recorder
        && !over.0.is_empty()
    {
        recorder.tokens(over.0, select(device, &drawn.hidden, &over.1)?);
    }
    Ok((on.0, select(device, &drawn.hidden, &on.1)?))
}

/// Feeds every sequence its pending token and chooses the next, until all are done or cancelled.
fn write<D: Device>(
    parts: &Parts<'_, D>,
    mut decoder: D::Decoder<'_>,
    sequences: &mut [Sequence],
    cache: &mut KvCache<D>,
    is_cancelled: &dyn Fn() -> bool,
    mut recorder: Option<&mut Recorder<D>>,
    on_event: &mut (dyn FnMut(Event) + Send),
) -> Result<()> {
    let bias = sequences.first().map_or(0.0, |s| s.request.sampling.separator_bias);
    let bias = (bias != 0.0).then_some((parts.separator, bias));
    while !is_cancelled() {
        let (mut active, mut fed) = (Vec::new(), Vec::new());
        for (i, s) in sequences.iter_mut().enumerate() {
            if let Some(token) = s.pending.take() {
                active.push(i);
                fed.push((cache.rows(s.slot), token));
            }
        }
        if active.is_empty() {
            break;
        }
        for (active, fed) in active.chunks(decoder.max_rows()).zip(fed.chunks(decoder.max_rows())) {
            let choices: Vec<TokenChoice> = active.iter().map(|&i| sequences[i].token_choice()).collect();
            let (hidden, tokens) = decoder
                .tokens(cache.lend(), fed, &choices, bias)
                .map_err(|e| unfit::explain(parts, e, |row| active[row], sequences))?;
            for (&i, token) in active.iter().zip(tokens) {
                cache.grow(sequences[i].slot, 1)?;
                accept(parts, &mut sequences[i], token, on_event);
            }
            if let Some(recorder) = recorder.as_deref_mut() {
                recorder.tokens(active.to_vec(), hidden);
            }
        }
    }
    Ok(())
}
