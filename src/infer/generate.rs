//! Generation of a batch (spec section 5).
//!
//! Every sequence is a small state machine; all that are not done go through each forward pass
//! together, one row each, whether they draw latents, form thoughts or choose tokens. A sequence that ends
//! leaves the batch and the others close ranks. Keys and values are kept from prompt to answer. Draws are keyed by the
//! request's seed and counted by position, so the result of a request does not depend on its neighbours.
//! Requests with the same prompt, such as the rollouts of a group, share its prefill. A device with a
//! decoder for the model takes over after the prefill (`decoded`).

use std::time::Instant;

use super::decoded;
use super::request::{Event, Generation};
use super::rollout::Recorder;
use super::rows::{embed, select};
use super::sequence::{Parts, Phase, Prepared, Sequence, accept, finish, purpose};
use super::{thoughts, unfit};
use crate::Result;
use crate::device::{Device, Draw, TensorInfo, TokenChoice};
use crate::model::kv_cache::KvCache;
use crate::model::prompt::group_equal;

/// Tokens of prompts that go through one prefill pass.
pub(super) const PREFILL_ROWS: usize = 2048;

/// Runs a batch to its end; a recorder, if given, keeps the data of a policy update.
pub(super) fn generate<D: Device>(
    parts: &Parts<'_, D>,
    requests: &[Prepared],
    mut recorder: Option<&mut Recorder<D>>,
    on_event: &mut (dyn FnMut(Event) + Send),
) -> Result<Vec<Generation>> {
    let start = Instant::now();
    let mut sequences: Vec<Sequence<'_>> =
        requests.iter().enumerate().map(|(i, request)| Sequence::new(i, request, start)).collect();
    let capacity = requests.iter().map(room).max().unwrap_or(0);
    let mut cache = KvCache::new(parts.device, &parts.model.transformer.config, requests.len(), capacity)?;
    let mut hidden = prefill(parts, requests, &mut cache)?;
    for s in &mut sequences {
        s.marks = [Instant::now(); 3];
    }
    let mut active: Vec<usize> = (0..sequences.len()).collect();
    choose(parts, &mut sequences, &active, &hidden, recorder.as_deref_mut(), on_event)?;
    let decoder = match decoded::model(parts.model, requests.len()) {
        Some(model) => parts.device.decoder(model, requests.len())?,
        None => None,
    };
    if let Some(decoder) = decoder {
        decoded::run(parts, decoder, &mut sequences, &mut cache, hidden, recorder, on_event)?;
        return sequences.into_iter().map(|s| finish(parts, s, start)).collect();
    }
    loop {
        // Sequences that ended leave the batch; the rows of the others move up.
        let stay: Vec<u32> =
            (0..active.len() as u32).filter(|&r| !sequences[active[r as usize]].done).collect();
        if stay.is_empty() {
            break;
        }
        if stay.len() < active.len() {
            hidden = select(parts.device, &hidden, &stay)?;
            active = stay.iter().map(|&r| active[r as usize]).collect();
        }
        let x = next_inputs(parts, &mut sequences, &active, &hidden, recorder.as_deref_mut())?;
        let extension = cache.extend(&active.iter().map(|&i| (i, 1)).collect::<Vec<_>>())?;
        let (device, model) = (parts.device, parts.model);
        hidden = model.transformer.forward_cached(device, &model.params, x, &extension, &mut cache)?;
        end_latents(parts, &mut sequences, &active, &hidden, recorder.as_deref_mut(), on_event)?;
        thoughts::count(&mut sequences, &active, on_event);
        choose(parts, &mut sequences, &active, &hidden, recorder.as_deref_mut(), on_event)?;
    }
    sequences.into_iter().map(|s| finish(parts, s, start)).collect()
}

/// Cache rows that a request can need.
pub(super) fn room(r: &Prepared) -> usize {
    let reasoning = match r.start {
        Phase::Latents => r.sampling.max_latents,
        Phase::Thoughts(n) => n + r.sampling.max_cot_tokens,
        Phase::Reasoning => r.sampling.max_cot_tokens,
        Phase::Answer => 0,
    };
    r.prompt_ids.len() + reasoning + 1 + r.sampling.max_new_tokens
}

/// Puts all prompts into the cache; returns the last hidden state of each, `[B, H]`.
fn prefill<D: Device>(
    parts: &Parts<'_, D>,
    requests: &[Prepared],
    cache: &mut KvCache<D>,
) -> Result<D::Tensor> {
    let (device, model) = (parts.device, parts.model);
    let h = model.transformer.config.hidden_size;
    let mut last = device.empty(requests.len(), h)?;
    let groups = group_equal(requests.iter().map(|r| r.prompt_ids.as_slice()));
    let mut rest = groups.as_slice();
    while !rest.is_empty() {
        let mut rows = 0;
        let fit = rest.iter().take_while(|group| {
            rows += requests[group[0]].prompt_ids.len();
            rows <= PREFILL_ROWS
        });
        let (now, later) = rest.split_at(fit.count().max(1));
        let new: Vec<(usize, usize)> =
            now.iter().map(|group| (group[0], requests[group[0]].prompt_ids.len())).collect();
        let ids: Vec<u32> = new.iter().flat_map(|&(i, _)| requests[i].prompt_ids.iter().copied()).collect();
        let x = embed(device, model, &ids)?;
        let extension = cache.extend(&new)?;
        let hidden = model.transformer.forward_cached(device, &model.params, x, &extension, cache)?;
        let (mut ends, mut to) = (Vec::new(), Vec::new());
        for (group, span) in now.iter().zip(&extension.spans) {
            cache.share(device, group[0], &group[1..])?;
            ends.extend(group.iter().map(|_| (span.q_start + span.q_len - 1) as u32));
            to.extend(group.iter().map(|&i| i as u32));
        }
        let hidden = select(device, &hidden, &ends)?;
        device.scatter_rows(1.0, &hidden, &device.index(&to)?, &mut last)?;
        rest = later;
    }
    Ok(last)
}

/// The next input embedding of every active sequence: a fresh latent or thought, or its pending token.
fn next_inputs<D: Device>(
    parts: &Parts<'_, D>,
    sequences: &mut [Sequence<'_>],
    active: &[usize],
    hidden: &D::Tensor,
    recorder: Option<&mut Recorder<D>>,
) -> Result<D::Tensor> {
    let (device, model) = (parts.device, parts.model);
    let (mut token_rows, mut tokens) = (Vec::new(), Vec::new());
    let (mut latent_rows, mut thought_rows) = (Vec::new(), Vec::new());
    for (row, &i) in (0u32..).zip(active) {
        match (sequences[i].pending.take(), sequences[i].phase) {
            (Some(token), _) => {
                token_rows.push(row);
                tokens.push(token);
            }
            (None, Phase::Thoughts(_)) => thought_rows.push(row),
            (None, _) => latent_rows.push(row),
        }
    }
    if latent_rows.is_empty() && thought_rows.is_empty() {
        return embed(device, model, &tokens);
    }
    let mut x = device.empty(active.len(), hidden.cols())?;
    if !tokens.is_empty() {
        let e = embed(device, model, &tokens)?;
        device.scatter_rows(1.0, &e, &device.index(&token_rows)?, &mut x)?;
    }
    if !thought_rows.is_empty() {
        let z = thoughts::think(device, model, select(device, hidden, &thought_rows)?)?;
        device.scatter_rows(1.0, &z, &device.index(&thought_rows)?, &mut x)?;
        trace(parts, sequences, thought_rows.iter().map(|&r| active[r as usize]), &z)?;
    }
    if latent_rows.is_empty() {
        return Ok(x);
    }
    let drawers: Vec<usize> = latent_rows.iter().map(|&r| active[r as usize]).collect();
    let (z, h) = draw_latents(parts, sequences, &drawers, select(device, hidden, &latent_rows)?)?;
    device.scatter_rows(model.embeds_std, &z, &device.index(&latent_rows)?, &mut x)?;
    trace(parts, sequences, drawers.iter().copied(), &z)?;
    if let Some(recorder) = recorder {
        recorder.latents(drawers, h, z);
    }
    Ok(x)
}

/// Keeps the tokens nearest to each row of `z` for those of `thinkers` that are to show them.
fn trace<D: Device>(
    parts: &Parts<'_, D>,
    sequences: &mut [Sequence<'_>],
    thinkers: impl Iterator<Item = usize> + Clone,
    z: &D::Tensor,
) -> Result<()> {
    if !thinkers.clone().any(|i| sequences[i].request.trace) {
        return Ok(());
    }
    let values = parts.device.read(z)?;
    for (i, z) in thinkers.zip(values.chunks_exact(z.cols())) {
        if sequences[i].request.trace {
            let tokens = parts.nearest.tokens(parts.device, parts.model, parts.tokenizer, z)?;
            sequences[i].trace.push(tokens);
        }
    }
    Ok(())
}

/// Draws a latent from each row of `h`, in units of `embeds_std`; returns them and `h`.
fn draw_latents<D: Device>(
    parts: &Parts<'_, D>,
    sequences: &[Sequence<'_>],
    drawers: &[usize],
    h: D::Tensor,
) -> Result<(D::Tensor, D::Tensor)> {
    let device = parts.device;
    let head = parts.model.latent_head()?;
    let (dist, saved) = head.forward(device, &parts.model.params, h)?;
    let temperatures: Vec<f32> =
        drawers.iter().map(|&i| sequences[i].request.sampling.latent_temperature).collect();
    if temperatures.iter().all(|&t| t == 0.0) {
        return Ok((dist.mu, saved.into_input()));
    }
    let draws: Vec<Draw> =
        drawers.iter().map(|&i| sequences[i].draw(purpose::LATENT, sequences[i].n_latents)).collect();
    let mut noise = device.empty(dist.mu.rows(), dist.mu.cols())?;
    device.normal(&draws, &mut noise)?;
    // Requests of one batch may differ in temperature: it goes with the noise, row by row.
    let mut eps = device.empty(dist.mu.rows(), dist.mu.cols())?;
    let mut start = 0;
    for group in temperatures.chunk_by(|a, b| a == b) {
        let rows = device.index(&(start..start + group.len() as u32).collect::<Vec<_>>())?;
        let mut part = device.empty(group.len(), noise.cols())?;
        device.gather_rows(group[0], &noise, &rows, &mut part)?;
        device.scatter_rows(1.0, &part, &rows, &mut eps)?;
        start += group.len() as u32;
    }
    let mut z = device.empty(dist.mu.rows(), dist.mu.cols())?;
    device.reparameterise(&dist.mu, dist.log_sigma.as_ref(), &eps, 1.0, &mut z)?;
    Ok((z, saved.into_input()))
}

/// After a forward pass over latents: draws whether the latents of each sequence end here.
fn end_latents<D: Device>(
    parts: &Parts<'_, D>,
    sequences: &mut [Sequence<'_>],
    active: &[usize],
    hidden: &D::Tensor,
    recorder: Option<&mut Recorder<D>>,
    on_event: &mut (dyn FnMut(Event) + Send),
) -> Result<()> {
    let rows: Vec<u32> =
        (0..active.len() as u32).filter(|&r| sequences[active[r as usize]].phase == Phase::Latents).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let (device, model) = (parts.device, parts.model);
    let choices: Vec<TokenChoice> = rows
        .iter()
        .map(|&r| {
            let s = &sequences[active[r as usize]];
            let temperature = s.request.sampling.eol_temperature;
            TokenChoice { temperature, top_p: 1.0, draw: s.draw(purpose::END_OF_LATENT, s.n_latents) }
        })
        .collect();
    let w = model.params.get(model.transformer.lm_head);
    let bias = sequences[active[rows[0] as usize]].request.sampling.separator_bias;
    let h = select(device, hidden, &rows)?;
    let ended = device.token_event(&h, w, parts.separator, &choices, bias)?;
    let mut over = Vec::new();
    for ((at, &r), ended) in (0u32..).zip(&rows).zip(ended) {
        let s = &mut sequences[active[r as usize]];
        s.n_latents += 1;
        on_event(Event::Latent { request: s.index, number: s.n_latents });
        if ended || s.n_latents >= s.request.sampling.max_latents {
            s.begin_answer(parts.separator);
            over.push((s.index, at));
        }
    }
    if let Some(recorder) = recorder
        && !over.is_empty()
    {
        let (sequences, ends): (Vec<usize>, Vec<u32>) = over.into_iter().unzip();
        recorder.tokens(sequences, select(device, &h, &ends)?);
    }
    Ok(())
}

/// Chooses the next token of every sequence that writes and has fed all it chose so far.
fn choose<D: Device>(
    parts: &Parts<'_, D>,
    sequences: &mut [Sequence<'_>],
    active: &[usize],
    hidden: &D::Tensor,
    recorder: Option<&mut Recorder<D>>,
    on_event: &mut (dyn FnMut(Event) + Send),
) -> Result<()> {
    let rows: Vec<u32> = (0..active.len() as u32)
        .filter(|&r| {
            let s = &sequences[active[r as usize]];
            // A sequence whose latents just ended has its separator still to be fed.
            !s.done && !s.thinks() && s.pending.is_none()
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    let (device, model) = (parts.device, parts.model);
    let choices: Vec<TokenChoice> =
        rows.iter().map(|&r| sequences[active[r as usize]].token_choice()).collect();
    let w = model.params.get(model.transformer.lm_head);
    let bias = sequences[active[rows[0] as usize]].request.sampling.separator_bias;
    let h = select(device, hidden, &rows)?;
    let bias = (bias != 0.0).then_some((parts.separator, bias));
    let tokens = device.choose_tokens(&h, w, &choices, bias);
    let tokens = tokens.map_err(|e| unfit::explain(parts, e, |row| active[rows[row] as usize], sequences))?;
    for (&r, token) in rows.iter().zip(tokens) {
        accept(parts, &mut sequences[active[r as usize]], token, on_event);
    }
    if let Some(recorder) = recorder {
        recorder.tokens(rows.iter().map(|&r| active[r as usize]).collect(), h);
    }
    Ok(())
}
