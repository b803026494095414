//! A sequence that is being generated: a small state machine, whatever runs the model.

use std::time::Instant;

use super::adapters::{AdapterIndex, Models};
use super::request::{Event, Generation, Sampling, TraceToken};
use super::trace::Nearest;
use crate::Result;
use crate::data::answer;
use crate::device::{Device, Draw, TokenChoice};
use crate::model::ColarModel;
use crate::model::codi_prompt::CodiPrompt;
use crate::model::tokenizer::Tokenizer;

/// Purposes of draws: word 1 of their counters.
pub(super) mod purpose {
    pub const LATENT: u32 = 0x10;
    pub const END_OF_LATENT: u32 = 0x11;
    pub const TOKEN: u32 = 0x12;
}

/// A request ready to run.
#[derive(Clone)]
pub(crate) struct Prepared {
    pub adapter: AdapterIndex,
    pub prompt_ids: Vec<u32>,
    pub start: Phase,
    /// The token that ends the thoughts, where the model does not write one itself: under the prompts of CODI.
    pub after_thoughts: Option<u32>,
    pub sampling: Sampling,
    /// Whether the limits of `sampling` are lower than those that were asked for, since the model's positions end.
    pub cut: bool,
    pub trace: bool,
    pub question: String,
    pub compression_factor: String,
}

/// Where a sequence stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
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
pub(super) struct Sequence {
    pub request: Prepared,
    /// Its number in events.
    pub index: usize,
    /// Its slot of the cache.
    pub slot: usize,
    pub start: Instant,
    /// Positions of the prompt that were taken over from another.
    pub shared: usize,
    /// Whether the whole prompt is in the cache.
    pub prefilled: bool,
    /// Whether it takes part in passes.
    pub begun: bool,
    pub phase: Phase,
    /// A token that was chosen and not yet fed.
    pub pending: Option<u32>,
    /// Whether the reasoning ends at the next place where it can.
    pub end_reasoning: bool,
    pub n_latents: usize,
    pub token_ids: Vec<u32>,
    pub answer_tokens: usize,
    pub finished: bool,
    pub done: bool,
    pub marks: [Instant; 3],
    /// When the first latent or thought was fed, and the first token chosen.
    pub firsts: [Option<Instant>; 2],
    pub trace: Vec<Vec<TraceToken>>,
    pub end_probabilities: Vec<f32>,
    /// Latents and thoughts as they were fed, `[H]` each, of a request that is traced.
    pub latents: Vec<Vec<f32>>,
}

impl Sequence {
    /// The sequence of request `index`, in a slot of the cache, at `start`.
    pub(super) fn new(index: usize, slot: usize, request: Prepared, start: Instant) -> Self {
        Sequence {
            phase: request.start,
            request,
            index,
            slot,
            start,
            shared: 0,
            prefilled: false,
            begun: false,
            pending: None,
            end_reasoning: false,
            n_latents: 0,
            token_ids: Vec::new(),
            answer_tokens: 0,
            finished: false,
            done: false,
            marks: [start; 3],
            firsts: [None; 2],
            trace: Vec::new(),
            end_probabilities: Vec::new(),
            latents: Vec::new(),
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

    /// Whether a token is chosen after its next pass: it feeds a token, or the last of its thoughts where none is given
    /// after that.
    pub(super) fn writes_next(&self) -> bool {
        let given = self.request.after_thoughts.is_some();
        self.pending.is_some()
            || matches!(self.phase, Phase::Thoughts(left) if self.last_thought(left) && !given)
    }

    fn last_thought(&self, left: usize) -> bool {
        left <= 1 || self.end_reasoning
    }

    /// Whether its next latent is the last one, whatever is drawn.
    pub(super) fn last_latent(&self) -> bool {
        self.end_reasoning || self.n_latents + 1 >= self.request.sampling.max_latents
    }

    /// Takes in that a latent was fed, and whether it is the last one.
    pub(super) fn count_latent(
        &mut self,
        ended: bool,
        separator: u32,
        on_event: &mut (dyn FnMut(Event) + Send),
    ) {
        self.count_vector(on_event);
        if ended {
            self.begin_answer(separator);
        }
    }

    /// Takes in that a thought was fed; after the last one it writes, its answer alone where a token is given for that.
    pub(super) fn count_thought(&mut self, left: usize, on_event: &mut (dyn FnMut(Event) + Send)) {
        let last = self.last_thought(left);
        self.count_vector(on_event);
        match self.request.after_thoughts {
            _ if !last => self.phase = Phase::Thoughts(left - 1),
            Some(token) => self.begin_answer(token),
            None => self.phase = Phase::Reasoning,
        }
    }

    /// Takes in that a latent or a thought was fed.
    pub(super) fn count_vector(&mut self, on_event: &mut (dyn FnMut(Event) + Send)) {
        self.n_latents += 1;
        self.firsts[0].get_or_insert_with(Instant::now);
        on_event(Event::Latent { request: self.index, number: self.n_latents });
    }

    pub(super) fn begin_answer(&mut self, separator: u32) {
        self.phase = Phase::Answer;
        self.pending = Some(separator);
        self.marks[1] = Instant::now();
    }

    /// Ends it where it stands.
    pub(super) fn stop(&mut self) {
        let now = Instant::now();
        if !self.begun {
            self.marks = [now; 3];
        } else if !self.done {
            if self.phase != Phase::Answer {
                self.marks[1] = now;
            }
            self.marks[2] = now;
        }
        self.done = true;
    }
}

/// The parts of a loaded model that generation needs.
pub(super) struct Parts<'a, D: Device> {
    pub device: &'a D,
    /// The model without adapters.
    pub model: &'a ColarModel<D>,
    pub models: Models<'a, D>,
    pub tokenizer: &'a Tokenizer,
    pub separator: u32,
    pub stop: &'a [u32],
    pub nearest: &'a Nearest,
}

/// Takes a chosen token into a sequence.
pub(super) fn accept<D: Device>(
    parts: &Parts<'_, D>,
    s: &mut Sequence,
    token: u32,
    on_event: &mut (dyn FnMut(Event) + Send),
) {
    let sampling = s.request.sampling;
    let ends = parts.stop.contains(&token);
    let reasoning_ends = s.phase == Phase::Reasoning
        && (token == parts.separator
            || ((s.token_ids.len() >= sampling.max_cot_tokens || s.end_reasoning) && !ends));
    let token = if reasoning_ends { parts.separator } else { token };
    s.token_ids.push(token);
    s.firsts[1].get_or_insert_with(Instant::now);
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

/// The generation of a sequence that is done, or was stopped.
pub(super) fn finish<D: Device>(parts: &Parts<'_, D>, s: Sequence) -> Result<Generation> {
    let text = parts.tokenizer.decode(&s.token_ids, true)?;
    let ms = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64() * 1e3;
    let [prefilled, reasoned, ended] = s.marks;
    Ok(Generation {
        prompt_tokens: s.request.prompt_ids.len(),
        question: s.request.question,
        compression_factor: s.request.compression_factor,
        n_latents: s.n_latents,
        answer: match s.request.after_thoughts {
            Some(_) => CodiPrompt::answer(&text),
            None => answer::extract(&text),
        }
        .map(str::to_owned),
        text,
        token_ids: s.token_ids,
        answer_tokens: s.answer_tokens,
        finished: s.finished,
        prefill_ms: ms(s.start, prefilled),
        latents_ms: ms(prefilled, reasoned),
        answer_ms: ms(reasoned, ended),
        trace: s.trace,
        end_probabilities: s.end_probabilities,
        latents: s.latents,
    })
}
