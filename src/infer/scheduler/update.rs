//! News of a request on its way through a scheduler.

use serde::Serialize;

use crate::Error;
use crate::infer::request::{Generation, TraceToken};

/// News of a request.
#[derive(Debug)]
#[non_exhaustive]
pub enum Update {
    /// It waits for its turn.
    Queued {
        /// Requests that waited before it.
        ahead: usize,
    },
    /// Its prompt is in the cache.
    Prefilled,
    /// A latent was drawn, or a thought formed, and fed.
    Latent {
        /// Its number, counted from 1.
        number: usize,
    },
    /// The tokens nearest to a latent or thought, of a request that asks for them.
    Traced {
        /// Its number, counted from 1.
        number: usize,
        /// The tokens, nearest first.
        tokens: Vec<TraceToken>,
    },
    /// A token was chosen.
    Token {
        /// Its id.
        id: u32,
    },
    /// It has ended; nothing follows.
    Done(Box<Completed>),
    /// It failed, it alone; nothing follows.
    Failed(Error),
}

/// The end of a request, and how it came there.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Completed {
    /// The generation, up to where it ended.
    pub generation: Generation,
    /// Why it ended.
    pub ending: Ending,
    /// Tokens and latents that it took.
    pub usage: Usage,
    /// When things happened.
    pub timings: Timings,
}

/// Why a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Ending {
    /// The model ended its answer.
    Finished,
    /// `max_new_tokens` was reached, or the last of the positions that the model was made for.
    Limit,
    /// It was cancelled, or nobody listened any more.
    Cancelled,
    /// Its deadline passed.
    Deadline,
}

/// Positions that a request took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that were taken over from another prompt, and not computed.
    pub shared_prompt_tokens: usize,
    /// Latents or thoughts, and tokens of the reasoning where it is text.
    pub reasoning: usize,
    /// Tokens of the answer, the end of sequence included.
    pub answer_tokens: usize,
}

/// Milliseconds since a request was submitted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Timings {
    /// Until it left the queue.
    pub queued_ms: f64,
    /// Until its prompt was in the cache.
    pub prefilled_ms: Option<f64>,
    /// Until its first latent or thought was fed.
    pub first_latent_ms: Option<f64>,
    /// Until its first token was chosen.
    pub first_token_ms: Option<f64>,
    /// Until its end.
    pub total_ms: f64,
}
