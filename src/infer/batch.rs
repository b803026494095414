//! A batch of sequences, pass by pass: the core of generation, whoever decides which of them take part in a pass.
//!
//! Prompts go into the cache in pieces. Sequences whose prompts are there go through passes together, one row each,
//! whether they draw latents, form thoughts or choose tokens. Draws are keyed by the request's seed and counted by
//! position, and rows of prompts are always computed as [many](RowForm::Many); so in passes of at most
//! [`FEW_ROWS`](crate::device::FEW_ROWS) sequences the result of a request does not depend on its neighbours, nor on the
//! cut of its prompt. Prompts with the same beginning compute it once.
//!
//! A pass changes no sequence before all that can fail is done; the cache it leaves longer, for whoever wants to make the
//! pass again to [put back](crate::model::kv_cache::KvCache::truncate).

use std::collections::BTreeMap;
use std::time::Instant;

use super::adapters::{AdapterIndex, by_adapter};
use super::prefixes::{Prefix, Source, longest, worth_waiting};
use super::request::Event;
use super::rollout::Recorder;
use super::rows::{embed, select};
use super::sequence::{Parts, Phase, Sequence, accept, purpose};
use super::trace::{Traced, end_probabilities, scaled};
use super::{thoughts, unfit};
use crate::Result;
use crate::device::{Device, Draw, RowForm, TensorInfo, TokenChoice};
use crate::model::ColarModel;
use crate::model::kv_cache::KvCache;

/// A prompt whose rows stay in the cache after its request has left.
pub(super) struct Kept {
    pub slot: usize,
    /// The adapter under which they were computed.
    pub adapter: AdapterIndex,
    pub tokens: Vec<u32>,
}

/// The next tokens of a prompt: of the sequence at `index`, so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub index: usize,
    pub count: usize,
}

/// Sequences that are generated together, in the order in which they came.
pub(super) struct Batch<'a, D: Device> {
    pub parts: &'a Parts<'a, D>,
    /// The device in the form for rows of prompts.
    prompts: D,
    pub cache: KvCache<D>,
    /// The newest hidden state of each slot that thinks, `[slots, H]`.
    pub hidden: D::Tensor,
    /// The hidden state after the prompt of each slot, `[slots, H]`.
    after_prompt: D::Tensor,
    pub sequences: Vec<Sequence>,
    /// Prompts of requests that have left, the longest unused first.
    pub kept: Vec<Kept>,
}

/// The inputs of a pass, a row for each of its sequences; rows count within the pass.
struct Inputs<D: Device> {
    x: D::Tensor,
    latent_rows: Vec<u32>,
    thought_rows: Vec<u32>,
    /// Latents of the sequences of each adapter.
    latents: Vec<Latents<D>>,
    /// The vectors of those that are to show them.
    traces: Vec<Traced>,
}

/// Latents that were drawn together, a row for each of `drawers`, and the hidden states that they were drawn from.
struct Latents<D: Device> {
    drawers: Vec<usize>,
    z: D::Tensor,
    hidden: D::Tensor,
}

impl<'a, D: Device> Batch<'a, D> {
    /// An empty batch with a cache of so many slots.
    pub(super) fn new(parts: &'a Parts<'a, D>, cache: KvCache<D>, slots: usize) -> Result<Self> {
        let (device, width) = (parts.device, parts.model.transformer.config.hidden_size);
        Ok(Batch {
            parts,
            prompts: device.in_form(RowForm::Many),
            cache,
            hidden: device.empty(slots, width)?,
            after_prompt: device.empty(slots, width)?,
            sequences: Vec::new(),
            kept: Vec::new(),
        })
    }

    /// Copies the beginnings of prompts that are in the cache already, and gives the next pieces of the others, first
    /// come, first served, of at most `most` tokens together. A prompt waits while an earlier one, whose beginning it
    /// shares, is on its way.
    pub(super) fn next_pieces(&mut self, most: usize) -> Result<Vec<Piece>> {
        let mut copies: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
        let mut waiting = Vec::with_capacity(self.sequences.len());
        for (i, s) in self.sequences.iter().enumerate() {
            let (prompt, adapter) = (&s.request.prompt_ids, s.request.adapter);
            let untouched = !s.prefilled && self.cache.len(s.slot) == 0;
            let best = if untouched { longest(prompt, self.sources(i)) } else { None };
            let has = best.map_or(0, |best| best.len);
            let mut earlier =
                self.sequences[..i].iter().filter(|s| !s.prefilled && s.request.adapter == adapter);
            let waits = untouched && earlier.any(|s| worth_waiting(prompt, &s.request.prompt_ids, has));
            waiting.push(waits);
            if let (false, Some(Prefix { slot, len })) = (waits, best) {
                copies.entry((slot, len)).or_default().push(i);
            }
        }
        for ((from, len), to) in copies {
            self.copy_prefix(from, len, &to)?;
        }
        let (mut pieces, mut left) = (Vec::new(), most);
        for (index, s) in self.sequences.iter().enumerate() {
            let rest = s.request.prompt_ids.len() - self.cache.len(s.slot).min(s.request.prompt_ids.len());
            let count = rest.min(left);
            if !s.prefilled && !waiting[index] && count > 0 {
                pieces.push(Piece { index, count });
                left -= count;
            }
        }
        Ok(pieces)
    }

    /// Prompts of which there is something in the cache under the adapter of the sequence at `index`, but its own.
    fn sources(&self, index: usize) -> impl Iterator<Item = Source<'_>> {
        let adapter = self.sequences[index].request.adapter;
        let kept = self.kept.iter().filter(move |k| k.adapter == adapter);
        let kept = kept.map(|k| (k.slot, k.tokens.as_slice()));
        let others = self.sequences.iter().enumerate();
        let others = others.filter(move |&(i, s)| i != index && s.request.adapter == adapter);
        let others = others.map(|(_, s)| (s.slot, s.request.prompt_ids.as_slice()));
        kept.chain(others).map(|(slot, tokens)| {
            let held = self.cache.len(slot).min(tokens.len());
            Source { slot, tokens, held }
        })
    }

    /// Lets prompts begin with the first `len` positions of slot `from`; those that end there are ready.
    fn copy_prefix(&mut self, from: usize, len: usize, to: &[usize]) -> Result<()> {
        let device = self.parts.device;
        let slots: Vec<usize> = to.iter().map(|&i| self.sequences[i].slot).collect();
        self.cache.share(device, from, &slots, len)?;
        let whole: Vec<usize> =
            to.iter().copied().filter(|&i| self.sequences[i].request.prompt_ids.len() == len).collect();
        if !whole.is_empty() {
            let rows: Vec<u32> = whole.iter().map(|&i| self.sequences[i].slot as u32).collect();
            let state = select(device, &self.after_prompt, &vec![from as u32; rows.len()])?;
            let rows = device.index(&rows)?;
            device.scatter_rows(1.0, &state, &rows, &mut self.after_prompt)?;
            device.scatter_rows(1.0, &state, &rows, &mut self.hidden)?;
        }
        for &i in to {
            let s = &mut self.sequences[i];
            s.shared = len;
            s.prefilled = s.request.prompt_ids.len() == len;
        }
        if let Some(at) = self.kept.iter().position(|k| k.slot == from) {
            let used = self.kept.remove(at);
            self.kept.push(used);
        }
        Ok(())
    }

    /// Puts pieces of prompts into the cache.
    pub(super) fn take_in(&mut self, pieces: &[Piece]) -> Result<()> {
        let (device, model) = (&self.prompts, self.parts.model);
        let of = |p: &Piece| {
            let s = &self.sequences[p.index];
            (s, self.cache.len(s.slot))
        };
        let new: Vec<(usize, usize)> = pieces.iter().map(|p| (of(p).0.slot, p.count)).collect();
        let ids: Vec<u32> = pieces
            .iter()
            .flat_map(|p| {
                let (s, len) = of(p);
                s.request.prompt_ids[len..len + p.count].iter().copied()
            })
            .collect();
        let x = embed(device, model, &ids)?;
        let of_rows: Vec<AdapterIndex> = pieces
            .iter()
            .flat_map(|p| std::iter::repeat_n(self.sequences[p.index].request.adapter, p.count))
            .collect();
        let hidden = pass(self.parts, device, x, &mut self.cache, &new, &of_rows)?;
        let mut complete = Vec::new();
        let (mut ends, mut slots) = (Vec::new(), Vec::new());
        let mut rows = 0;
        for piece in pieces {
            let s = &self.sequences[piece.index];
            rows += piece.count as u32;
            if self.cache.len(s.slot) == s.request.prompt_ids.len() {
                complete.push(piece.index);
                ends.push(rows - 1);
                slots.push(s.slot as u32);
            }
        }
        if !complete.is_empty() {
            let state = select(device, &hidden, &ends)?;
            let slots = device.index(&slots)?;
            device.scatter_rows(1.0, &state, &slots, &mut self.after_prompt)?;
            device.scatter_rows(1.0, &state, &slots, &mut self.hidden)?;
        }
        complete.into_iter().for_each(|i| self.sequences[i].prefilled = true);
        Ok(())
    }

    /// Begins generation for sequences whose prompts are in the cache: those that do not think first choose a token.
    pub(super) fn begin(&mut self, which: &[usize], on_event: &mut (dyn FnMut(Event) + Send)) -> Result<()> {
        let writers: Vec<usize> = which.iter().copied().filter(|&i| !self.sequences[i].thinks()).collect();
        let slots: Vec<u32> = writers.iter().map(|&i| self.sequences[i].slot as u32).collect();
        let tokens = self.choose(&writers, &self.hidden, &slots)?;
        let now = Instant::now();
        for &i in which {
            let s = &mut self.sequences[i];
            (s.begun, s.marks) = (true, [now; 3]);
            on_event(Event::Prefilled { request: s.index });
        }
        for (&i, token) in writers.iter().zip(tokens) {
            accept(self.parts, &mut self.sequences[i], token, on_event);
        }
        Ok(())
    }

    /// Sequences whose prompts are in the cache, and that have not begun.
    pub(super) fn ready(&self) -> Vec<usize> {
        self.those(|s| s.prefilled && !s.begun)
    }

    /// Sequences that take part in passes: they have begun and are not done.
    pub(super) fn active(&self) -> Vec<usize> {
        self.those(|s| s.begun && !s.done)
    }

    fn those(&self, which: impl Fn(&Sequence) -> bool) -> Vec<usize> {
        (0..self.sequences.len()).filter(|&i| which(&self.sequences[i])).collect()
    }

    /// One pass over the sequences at `active`: feeds each its next latent, thought or token, and decides what follows.
    pub(super) fn advance(
        &mut self,
        active: &[usize],
        recorder: Option<&mut Recorder<D>>,
        on_event: &mut (dyn FnMut(Event) + Send),
    ) -> Result<()> {
        let device = self.parts.device;
        let Inputs { x, latent_rows, thought_rows, latents, traces } = self.inputs(active)?;
        let grown: Vec<(usize, usize)> = active.iter().map(|&i| (self.sequences[i].slot, 1)).collect();
        let of_rows: Vec<AdapterIndex> = active.iter().map(|&i| self.sequences[i].request.adapter).collect();
        let hidden = pass(self.parts, device, x, &mut self.cache, &grown, &of_rows)?;

        let of = |rows: &[u32]| rows.iter().map(|&r| active[r as usize]).collect::<Vec<usize>>();
        let writer_rows: Vec<u32> =
            (0..active.len() as u32).filter(|&r| self.sequences[active[r as usize]].writes_next()).collect();
        let (drawers, writers) = (of(&latent_rows), of(&writer_rows));
        let ends = self.traced_ends(&drawers, &hidden, &latent_rows)?;
        let drawn = self.latent_ends(&drawers, &hidden, &latent_rows)?;
        let ended: Vec<bool> =
            drawers.iter().zip(drawn).map(|(&i, drawn)| drawn || self.sequences[i].last_latent()).collect();
        let tokens = self.choose(&writers, &hidden, &writer_rows)?;
        if let Some(recorder) = recorder {
            for Latents { drawers, z, hidden } in latents {
                recorder.latents(drawers, hidden, z);
            }
            let over = latent_rows.iter().zip(&ended).filter(|&(_, &ended)| ended).map(|(&row, _)| row);
            for rows in [over.collect(), writer_rows.clone()] {
                if !rows.is_empty() {
                    recorder.tokens(of(&rows), select(device, &hidden, &rows)?);
                }
            }
        }
        let thinking: Vec<u32> = latent_rows.iter().chain(&thought_rows).copied().collect();
        if !thinking.is_empty() {
            let slots: Vec<u32> = of(&thinking).iter().map(|&i| self.sequences[i].slot as u32).collect();
            let state = select(device, &hidden, &thinking)?;
            device.scatter_rows(1.0, &state, &device.index(&slots)?, &mut self.hidden)?;
        }

        // From here on nothing fails.
        let separator = self.parts.separator;
        for traced in traces {
            let s = &mut self.sequences[traced.sequence];
            s.trace.push(traced.tokens);
            s.latents.push(traced.vector);
        }
        for (i, probability) in ends {
            self.sequences[i].end_probabilities.push(probability);
        }
        for (&i, &ended) in drawers.iter().zip(&ended) {
            self.sequences[i].count_latent(ended, separator, on_event);
        }
        for i in of(&thought_rows) {
            let s = &mut self.sequences[i];
            if let Phase::Thoughts(left) = s.phase {
                s.count_thought(left, on_event);
            }
        }
        for (&i, token) in writers.iter().zip(tokens) {
            let s = &mut self.sequences[i];
            s.pending = None;
            accept(self.parts, s, token, on_event);
        }
        Ok(())
    }

    /// The next input embedding of every active sequence: a fresh latent or thought, or its pending token.
    fn inputs(&self, active: &[usize]) -> Result<Inputs<D>> {
        let (device, model) = (self.parts.device, self.parts.model);
        let (mut token_rows, mut tokens) = (Vec::new(), Vec::new());
        let (mut latent_rows, mut thought_rows) = (Vec::new(), Vec::new());
        for (row, &i) in (0u32..).zip(active) {
            match (self.sequences[i].pending, self.sequences[i].phase) {
                (Some(token), _) => {
                    token_rows.push(row);
                    tokens.push(token);
                }
                (None, Phase::Thoughts(_)) => thought_rows.push(row),
                (None, _) => latent_rows.push(row),
            }
        }
        let mut inputs = Inputs {
            x: if token_rows.len() == active.len() {
                embed(device, model, &tokens)?
            } else {
                device.empty(active.len(), self.hidden.cols())?
            },
            latent_rows,
            thought_rows,
            latents: Vec::new(),
            traces: Vec::new(),
        };
        if token_rows.len() == active.len() {
            return Ok(inputs);
        }
        if !tokens.is_empty() {
            let e = embed(device, model, &tokens)?;
            device.scatter_rows(1.0, &e, &device.index(&token_rows)?, &mut inputs.x)?;
        }
        let states = |rows: &[u32]| {
            let of: Vec<usize> = rows.iter().map(|&r| active[r as usize]).collect();
            let slots: Vec<u32> = of.iter().map(|&i| self.sequences[i].slot as u32).collect();
            Ok::<_, crate::Error>((of, select(device, &self.hidden, &slots)?))
        };
        let by_adapter = |rows: &[u32]| {
            by_adapter(rows.iter().map(|&r| (self.sequences[active[r as usize]].request.adapter, r)))
        };
        for (adapter, rows) in by_adapter(&inputs.thought_rows) {
            let (thinkers, h) = states(&rows)?;
            let z = thoughts::think(device, self.parts.models.of(adapter), h)?;
            device.scatter_rows(1.0, &z, &device.index(&rows)?, &mut inputs.x)?;
            self.trace(&thinkers, &z, 1.0, &mut inputs.traces)?;
        }
        for (adapter, rows) in by_adapter(&inputs.latent_rows) {
            let model = self.parts.models.of(adapter);
            let (drawers, h) = states(&rows)?;
            let (z, hidden) = self.draw_latents(model, &drawers, h)?;
            device.scatter_rows(model.embeds_std, &z, &device.index(&rows)?, &mut inputs.x)?;
            self.trace(&drawers, &z, model.embeds_std, &mut inputs.traces)?;
            inputs.latents.push(Latents { drawers, z, hidden });
        }
        Ok(inputs)
    }

    /// Adds each row of `z`, which is fed times `scale`, for those of `thinkers` that are to show them.
    fn trace(&self, thinkers: &[usize], z: &D::Tensor, scale: f32, traces: &mut Vec<Traced>) -> Result<()> {
        let Parts { device, model, tokenizer, nearest, .. } = self.parts;
        if !thinkers.iter().any(|&i| self.sequences[i].request.trace) {
            return Ok(());
        }
        let values = device.read(z)?;
        for (&sequence, z) in thinkers.iter().zip(values.chunks_exact(z.cols())) {
            if self.sequences[sequence].request.trace {
                let tokens = nearest.tokens(*device, model, tokenizer, z)?;
                traces.push(Traced { sequence, tokens, vector: scaled(z, scale) });
            }
        }
        Ok(())
    }

    /// The probability that latents end here, for those of `drawers` that are to show it, after the hidden state in their
    /// one of `rows` of `h`.
    fn traced_ends(&self, drawers: &[usize], h: &D::Tensor, rows: &[u32]) -> Result<Vec<(usize, f32)>> {
        let Parts { device, model, separator, .. } = *self.parts;
        let traced = drawers.iter().zip(rows).filter(|&(&i, _)| self.sequences[i].request.trace);
        let (which, rows): (Vec<usize>, Vec<u32>) = traced.unzip();
        let ends = self
            .by_bias(&which, h, &rows, |_, h, bias| end_probabilities(device, model, separator, h, bias))?;
        Ok(which.into_iter().zip(ends).collect())
    }

    /// Draws a latent of `model` from each row of `h`, in units of its `embeds_std`; returns them and `h`.
    fn draw_latents(
        &self,
        model: &ColarModel<D>,
        drawers: &[usize],
        h: D::Tensor,
    ) -> Result<(D::Tensor, D::Tensor)> {
        let device = self.parts.device;
        let (dist, saved) = model.latent_head()?.forward(device, &model.params, h)?;
        let temperatures: Vec<f32> =
            drawers.iter().map(|&i| self.sequences[i].request.sampling.latent_temperature).collect();
        if temperatures.iter().all(|&t| t == 0.0) {
            return Ok((dist.mu, saved.into_input()));
        }
        let draws: Vec<Draw> = drawers
            .iter()
            .map(|&i| self.sequences[i].draw(purpose::LATENT, self.sequences[i].n_latents))
            .collect();
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

    /// Draws whether the latents of each of `drawers` end here, after the hidden state in its one of `rows` of `h`.
    fn latent_ends(&self, drawers: &[usize], h: &D::Tensor, rows: &[u32]) -> Result<Vec<bool>> {
        let (device, model, separator) = (self.parts.device, self.parts.model, self.parts.separator);
        let w = model.params.get(model.transformer.lm_head);
        self.by_bias(drawers, h, rows, |which, h, bias| {
            let choice = |&i: &usize| {
                let s = &self.sequences[i];
                let temperature = s.request.sampling.eol_temperature;
                TokenChoice { temperature, top_p: 1.0, draw: s.draw(purpose::END_OF_LATENT, s.n_latents) }
            };
            let choices: Vec<TokenChoice> = which.iter().map(choice).collect();
            device.token_event(h, w, separator, &choices, bias)
        })
    }

    /// Chooses the next token of each of `writers` from its one of `rows` of `h`.
    fn choose(&self, writers: &[usize], h: &D::Tensor, rows: &[u32]) -> Result<Vec<u32>> {
        let (device, model, separator) = (self.parts.device, self.parts.model, self.parts.separator);
        let w = model.params.get(model.transformer.lm_head);
        self.by_bias(writers, h, rows, |which, h, bias| {
            let choices: Vec<TokenChoice> = which.iter().map(|&i| self.sequences[i].token_choice()).collect();
            let bias = (bias != 0.0).then_some((separator, bias));
            let tokens = device.choose_tokens(h, w, &choices, bias);
            tokens.map_err(|e| unfit::explain(self.parts, e, |row| which[row], &self.sequences))
        })
    }

    /// Runs `draw` on those of `which`, with their `rows` of `h`, that have the same bias of the separator; the results
    /// are in the order of `which`.
    fn by_bias<T>(
        &self,
        which: &[usize],
        h: &D::Tensor,
        rows: &[u32],
        draw: impl Fn(&[usize], &D::Tensor, f32) -> Result<Vec<T>>,
    ) -> Result<Vec<T>> {
        let mut groups: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (at, &i) in which.iter().enumerate() {
            let bias = self.sequences[i].request.sampling.separator_bias;
            groups.entry(bias.to_bits()).or_default().push(at);
        }
        let mut results: Vec<(usize, T)> = Vec::with_capacity(which.len());
        for (bits, group) in groups {
            let those: Vec<usize> = group.iter().map(|&at| which[at]).collect();
            let rows: Vec<u32> = group.iter().map(|&at| rows[at]).collect();
            let drawn = draw(&those, &select(self.parts.device, h, &rows)?, f32::from_bits(bits))?;
            results.extend(group.into_iter().zip(drawn));
        }
        results.sort_by_key(|&(at, _)| at);
        Ok(results.into_iter().map(|(_, result)| result).collect())
    }
}

/// Runs the inputs `x` of so many new positions of slots through the decoder, each row under its adapter; the final hidden
/// states.
fn pass<D: Device>(
    parts: &Parts<'_, D>,
    device: &D,
    x: D::Tensor,
    cache: &mut KvCache<D>,
    new: &[(usize, usize)],
    adapters: &[AdapterIndex],
) -> Result<D::Tensor> {
    let model = parts.model;
    let adapters = parts.models.of_rows(device, adapters.iter().copied())?;
    let extension = cache.extend(new)?;
    model.transformer.forward_adapted(device, &model.params, x, &extension, cache, adapters.as_ref())
}
