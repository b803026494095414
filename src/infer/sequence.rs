//! A sequence that is being generated: a small state machine, whatever runs the model.

use std::time::Instant;

use super::request::{Event, Generation, Sampling, TraceToken};
use super::trace::Nearest;
use crate::Result;
use crate::data::answer;
use crate::device::{Device, Draw, TokenChoice};
use crate::model::ColarModel;
use crate::model::tokenizer::Tokenizer;

/// Purposes of draws: word 1 of their counters.
pub(super) mod purpose {
    pub const LATENT: u32 = 0x10;
    pub const END_OF_LATENT: u32 = 0x11;
    pub const TOKEN: u32 = 0x12;
}

/// A request ready to run.
pub(super) struct Prepared {
    pub prompt_ids: Vec<u32>,
    pub start: Phase,
    pub sampling: Sampling,
    /// Whether the limits of `sampling` are lower than those that were asked for, since the model's positions end.
    pub cut: bool,
    pub trace: bool,
    pub question: String,
    pub compression_factor: String,
}

/// Where a sequence stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Drawing latents.
    Latents,
    /// Thinking in continuous thoughts, of which so many are to come.
    Thoughts(usize),
    /// Writing its reasoning.
    Reasoning,
    /// Writing the answer.
    Answer,
}

/// Where a request stands.
pub(super) struct Sequence<'a> {
    pub request: &'a Prepared,
    pub index: usize,
    pub phase: Phase,
    /// A token that was chosen and not yet fed.
    pub pending: Option<u32>,
    pub n_latents: usize,
    pub token_ids: Vec<u32>,
    pub answer_tokens: usize,
    pub finished: bool,
    pub done: bool,
    pub marks: [Instant; 3],
    pub trace: Vec<Vec<TraceToken>>,
}

impl<'a> Sequence<'a> {
    /// The sequence of request `index`, at `start`.
    pub(super) fn new(index: usize, request: &'a Prepared, start: Instant) -> Self {
        Sequence {
            request,
            index,
            phase: request.start,
            pending: None,
            n_latents: 0,
            token_ids: Vec::new(),
            answer_tokens: 0,
            finished: false,
            done: false,
            marks: [start; 3],
            trace: Vec::new(),
        }
    }

    pub(super) fn draw(&self, purpose: u32, count: usize) -> Draw {
        Draw { key: self.request.sampling.seed, counter: [purpose, count as u32] }
    }

    /// How its next token is chosen.
    pub(super) fn token_choice(&self) -> TokenChoice {
        let p = &self.request.sampling;
        let draw = self.draw(purpose::TOKEN, self.token_ids.len());
        TokenChoice { temperature: p.temperature, top_p: p.top_p, draw }
    }

    /// Whether its next input is a vector, not a token.
    pub(super) fn thinks(&self) -> bool {
        matches!(self.phase, Phase::Latents | Phase::Thoughts(_))
    }

    pub(super) fn begin_answer(&mut self, separator: u32) {
        self.phase = Phase::Answer;
        self.pending = Some(separator);
        self.marks[1] = Instant::now();
    }
}

/// The parts of a loaded model that generation needs.
pub(super) struct Parts<'a, D: Device> {
    pub device: &'a D,
    pub model: &'a ColarModel<D>,
    pub tokenizer: &'a Tokenizer,
    pub separator: u32,
    pub stop: &'a [u32],
    pub nearest: &'a Nearest,
}

/// Takes a chosen token into a sequence.
pub(super) fn accept<D: Device>(
    parts: &Parts<'_, D>,
    s: &mut Sequence<'_>,
    token: u32,
    on_event: &mut (dyn FnMut(Event) + Send),
) {
    let sampling = &s.request.sampling;
    let ends = parts.stop.contains(&token);
    let reasoning_ends = s.phase == Phase::Reasoning
        && (token == parts.separator || (s.token_ids.len() >= sampling.max_cot_tokens && !ends));
    let token = if reasoning_ends { parts.separator } else { token };
    s.token_ids.push(token);
    on_event(Event::Token { request: s.index, id: token });
    if reasoning_ends {
        s.begin_answer(token);
        return;
    }
    match s.phase {
        Phase::Reasoning => s.n_latents += usize::from(!ends),
        Phase::Answer => s.answer_tokens += 1,
        Phase::Latents | Phase::Thoughts(_) => {}
    }
    s.finished = ends;
    s.done = ends || s.answer_tokens >= sampling.max_new_tokens;
    if s.done {
        s.marks[2] = Instant::now();
        if s.phase == Phase::Reasoning {
            s.marks[1] = s.marks[2];
        }
        on_event(Event::Done { request: s.index });
    } else {
        s.pending = Some(token);
    }
}

/// The generation of a sequence that is done.
pub(super) fn finish<D: Device>(parts: &Parts<'_, D>, s: Sequence<'_>, start: Instant) -> Result<Generation> {
    let text = parts.tokenizer.decode(&s.token_ids, true)?;
    let ms = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64() * 1e3;
    let [prefilled, reasoned, ended] = s.marks;
    Ok(Generation {
        question: s.request.question.clone(),
        compression_factor: s.request.compression_factor.clone(),
        n_latents: s.n_latents,
        answer: answer::extract(&text).map(str::to_owned),
        text,
        token_ids: s.token_ids,
        answer_tokens: s.answer_tokens,
        finished: s.finished,
        prompt_tokens: s.request.prompt_ids.len(),
        prefill_ms: ms(start, prefilled),
        latents_ms: ms(prefilled, reasoned),
        answer_ms: ms(reasoned, ended),
        trace: s.trace,
    })
}
