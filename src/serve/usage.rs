//! Tokens and times of a response.

use serde::Serialize;
use utoipa::ToSchema;

use crate::{Completed, Timings, Usage};

/// Tokens of a request, latents included.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(super) struct UsageBody {
    pub prompt_tokens: usize,
    /// Latents, tokens of a reasoning in words, and tokens of the answers.
    pub completion_tokens: usize,
    pub total_tokens: usize,
    pub prompt_tokens_details: PromptDetails,
    pub completion_tokens_details: CompletionDetails,
}

#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(super) struct PromptDetails {
    /// Tokens of prompts that were taken over from others.
    pub cached_tokens: usize,
}

#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(super) struct CompletionDetails {
    /// Latents or thoughts, and tokens of a reasoning in words.
    pub reasoning_tokens: usize,
}

impl UsageBody {
    /// Of all answers of a request, of which so many are to each prompt; a prompt counts once.
    pub(super) fn of(all: &[&Completed], answers_per_prompt: usize) -> Self {
        let sum = |of: &dyn Fn(&Usage) -> usize| all.iter().map(|done| of(&done.usage)).sum::<usize>();
        let once = |of: &dyn Fn(&Usage) -> usize| {
            all.iter().step_by(answers_per_prompt.max(1)).map(|done| of(&done.usage)).sum::<usize>()
        };
        let (prompt_tokens, reasoning_tokens) = (once(&|u| u.prompt_tokens), sum(&|u| u.reasoning));
        let completion_tokens = reasoning_tokens + sum(&|u| u.answer_tokens);
        UsageBody {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            prompt_tokens_details: PromptDetails { cached_tokens: once(&|u| u.shared_prompt_tokens) },
            completion_tokens_details: CompletionDetails { reasoning_tokens },
        }
    }
}

/// Times as llama.cpp's server gives them; latents count among what is predicted. Of several answers, those of the one that
/// took longest.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(super) struct TimingsBody {
    /// Tokens of the prompt that were taken over.
    cache_n: usize,
    /// Tokens of the prompt that were computed.
    prompt_n: usize,
    prompt_ms: f64,
    prompt_per_token_ms: f64,
    prompt_per_second: f64,
    /// Latents and tokens.
    predicted_n: usize,
    predicted_ms: f64,
    predicted_per_token_ms: f64,
    predicted_per_second: f64,
    /// Milliseconds in the queue.
    queued_ms: f64,
    /// Milliseconds from the request to its first latent.
    first_latent_ms: Option<f64>,
    /// Milliseconds from the request to its first token.
    first_token_ms: Option<f64>,
}

impl TimingsBody {
    pub(super) fn of(all: &[&Completed]) -> Option<Self> {
        let longest = all.iter().max_by(|a, b| a.timings.total_ms.total_cmp(&b.timings.total_ms))?;
        let (Usage { prompt_tokens, shared_prompt_tokens, reasoning, answer_tokens, .. }, timings) =
            (longest.usage, longest.timings);
        let Timings { queued_ms, prefilled_ms, first_latent_ms, first_token_ms, total_ms, .. } = timings;
        let prefilled_ms = prefilled_ms.unwrap_or(total_ms);
        let (prompt_n, prompt_ms) = (prompt_tokens - shared_prompt_tokens, prefilled_ms - queued_ms);
        let (predicted_n, predicted_ms) = (reasoning + answer_tokens, total_ms - prefilled_ms);
        let per = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
        Some(TimingsBody {
            cache_n: shared_prompt_tokens,
            prompt_n,
            prompt_ms,
            prompt_per_token_ms: per(prompt_ms, prompt_n as f64),
            prompt_per_second: per(1e3 * prompt_n as f64, prompt_ms),
            predicted_n,
            predicted_ms,
            predicted_per_token_ms: per(predicted_ms, predicted_n as f64),
            predicted_per_second: per(1e3 * predicted_n as f64, predicted_ms),
            queued_ms,
            first_latent_ms,
            first_token_ms,
        })
    }
}
