//! The result of a request, as a struct that C reads.

use std::ffi::c_char;
use std::ptr;

use engine::{Completed, Timings, Usage};

use crate::error::guard;
use crate::text::terminated;

/// Why a request ended.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The model ended its answer.
    Finished,
    /// max_new_tokens was reached, or the last of the positions that the model was made for.
    Limit,
    /// It was cancelled.
    Cancelled,
    /// Its time was over.
    Deadline,
}

/// A token near a latent.
#[repr(C)]
pub struct TraceToken {
    /// Its id.
    pub id: u32,
    /// Cosine between the latent and the token's embedding.
    pub cosine: f32,
    /// Its text.
    pub text: *const c_char,
    /// Bytes of the text, without its NUL.
    pub text_len: usize,
}

/// The result of a request, all of it owned by this object. Later versions may have more fields at the end.
#[repr(C)]
pub struct Generation {
    /// The text, without special tokens: the answer, and under any method but colar the reasoning before it.
    pub text: *const c_char,
    /// Bytes of the text, without its NUL.
    pub text_len: usize,
    /// The part of it after "Answer:"; NULL where there is none.
    pub answer: *const c_char,
    /// Bytes of the answer, without its NUL.
    pub answer_len: usize,
    /// The tokens of the text, special ones too.
    pub tokens: *const u32,
    /// How many.
    pub n_tokens: usize,
    /// Latents or thoughts, and tokens of a reasoning in words.
    pub n_latents: usize,
    /// Why it ended.
    pub ending: Ending,
    /// The tokens nearest to each latent, if they were asked for: trace[latent * trace_width + rank], nearest first.
    pub trace: *const TraceToken,
    /// Latents in the trace.
    pub trace_len: usize,
    /// Tokens of each.
    pub trace_width: usize,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that a scheduler took over from another request.
    pub shared_prompt_tokens: usize,
    /// Tokens of the answer, the end of sequence included.
    pub answer_tokens: usize,
    /// Milliseconds until the prompt was read.
    pub prefill_ms: f64,
    /// Milliseconds of the reasoning.
    pub latents_ms: f64,
    /// Milliseconds of the answer.
    pub answer_ms: f64,
    /// Milliseconds from the submission to a scheduler until the request left the queue. NaN of a request that was in none, as
    /// are the three below.
    pub queued_ms: f64,
    /// Until its first latent; NaN if there was none.
    pub first_latent_ms: f64,
    /// Until its first token; NaN if there was none.
    pub first_token_ms: f64,
    /// Until its end.
    pub total_ms: f64,
}

/// The struct, and behind it what it points to.
#[repr(C)]
struct Owned {
    view: Generation,
    text: Vec<u8>,
    answer: Option<Vec<u8>>,
    tokens: Vec<u32>,
    trace: Vec<TraceToken>,
    trace_texts: Vec<Vec<u8>>,
}

/// How a request went in a scheduler.
pub struct Served {
    pub usage: Usage,
    pub timings: Timings,
}

/// A generation for C, which owns it.
pub fn hand_out(made: engine::Generation, ending: Ending, served: Option<Served>) -> *mut Generation {
    let (rows, width) = (made.trace.len(), made.trace.first().map_or(0, Vec::len));
    let (mut trace, mut trace_texts) = (Vec::new(), Vec::new());
    // Each latent has as many nearest tokens as any other.
    for token in made.trace.into_iter().flatten() {
        let text = terminated(token.text);
        // Bytes of a vector stay where they are when the vector is moved.
        let (start, len) = (text.as_ptr().cast(), text.len() - 1);
        trace.push(TraceToken { id: token.id, cosine: token.cosine, text: start, text_len: len });
        trace_texts.push(text);
    }
    let text = terminated(made.text);
    let answer = made.answer.map(terminated);
    let tokens = made.token_ids;
    let millis = |of: fn(&Timings) -> Option<f64>| {
        served.as_ref().and_then(|served| of(&served.timings)).unwrap_or(f64::NAN)
    };
    let view = Generation {
        text: text.as_ptr().cast(),
        text_len: text.len() - 1,
        answer: answer.as_ref().map_or(ptr::null(), |answer| answer.as_ptr().cast()),
        answer_len: answer.as_ref().map_or(0, |answer| answer.len() - 1),
        tokens: tokens.as_ptr(),
        n_tokens: tokens.len(),
        n_latents: made.n_latents,
        ending,
        trace: trace.as_ptr(),
        trace_len: rows,
        trace_width: width,
        prompt_tokens: made.prompt_tokens,
        shared_prompt_tokens: served.as_ref().map_or(0, |served| served.usage.shared_prompt_tokens),
        answer_tokens: made.answer_tokens,
        prefill_ms: made.prefill_ms,
        latents_ms: made.latents_ms,
        answer_ms: made.answer_ms,
        queued_ms: millis(|timings| Some(timings.queued_ms)),
        first_latent_ms: millis(|timings| timings.first_latent_ms),
        first_token_ms: millis(|timings| timings.first_token_ms),
        total_ms: millis(|timings| Some(timings.total_ms)),
    };
    Box::into_raw(Box::new(Owned { view, text, answer, tokens, trace, trace_texts })).cast()
}

/// The generation of a request that went through a scheduler.
pub fn of_completed(completed: Completed) -> *mut Generation {
    let ending = match completed.ending {
        engine::Ending::Finished => Ending::Finished,
        engine::Ending::Cancelled => Ending::Cancelled,
        engine::Ending::Deadline => Ending::Deadline,
        _ => Ending::Limit,
    };
    let served = Served { usage: completed.usage, timings: completed.timings };
    hand_out(completed.generation, ending, Some(served))
}

/// Frees a generation and all that it points to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn colar_generation_free(generation: *mut Generation) {
    guard((), || {
        if !generation.is_null() {
            // SAFETY: it is of `hand_out`, where it is the first field of an `Owned` whose pointer was cast; by the header
            // nobody uses it any more.
            drop(unsafe { Box::from_raw(generation.cast::<Owned>()) });
        }
        Ok(())
    });
}
