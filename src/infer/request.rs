//! Requests to the engine, and their results.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::model::prompt::Method;
use crate::range::Range;

/// Lengths of generated text. Bounded, because room for it is set aside before the first token.
pub const LENGTH: Range = Range::Whole(1, 1 << 20);

/// How to sample (spec section 5). The default samples; [`Sampling::greedy`] is deterministic.
///
/// ```
/// use colar_engine::Sampling;
///
/// let sampling = Sampling::default().temperature(0.7).max_latents(16).seed(7);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Sampling {
    /// Factor on the latent head's sigma; 0 takes mu itself.
    pub latent_temperature: f32,
    /// Temperature of the draw that may end the latents; 0 takes the arg max.
    pub eol_temperature: f32,
    /// Temperature of answer (and reasoning) tokens; 0 takes the arg max.
    pub temperature: f32,
    /// Nucleus mass of answer tokens, in (0, 1].
    pub top_p: f32,
    /// Most latents.
    pub max_latents: usize,
    /// Most tokens of the reasoning where it is text.
    pub max_cot_tokens: usize,
    /// Most answer tokens, the end of sequence included.
    pub max_new_tokens: usize,
    /// Key of all draws: the same seed gives the same output on the same device, in any batch.
    pub seed: u64,
    /// Added to the separator's logit wherever tokens are drawn; above 0 it shortens the reasoning.
    pub separator_bias: f32,
}

setters!(Sampling {
    latent_temperature: f32,
    eol_temperature: f32,
    temperature: f32,
    top_p: f32,
    max_latents: usize,
    max_cot_tokens: usize,
    max_new_tokens: usize,
    seed: u64,
    separator_bias: f32,
});

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            latent_temperature: 1.0,
            eol_temperature: 1.0,
            temperature: 1.0,
            top_p: 0.9,
            max_latents: 64,
            max_cot_tokens: 512,
            max_new_tokens: 16,
            seed: 0,
            separator_bias: 0.0,
        }
    }
}

impl Sampling {
    /// The same with every temperature 0.
    pub fn greedy(self) -> Self {
        Sampling { latent_temperature: 0.0, eol_temperature: 0.0, temperature: 0.0, ..self }
    }

    /// Fails on values outside their range.
    ///
    /// # Errors
    /// [`Error::Usage`](crate::Error::Usage) naming the value.
    pub fn validate(&self) -> Result<()> {
        let temperature = Range::Least(0.0);
        temperature.check("latent_temperature", &self.latent_temperature)?;
        temperature.check("eol_temperature", &self.eol_temperature)?;
        temperature.check("temperature", &self.temperature)?;
        Range::AboveTo(0.0, 1.0).check("top_p", &self.top_p)?;
        Range::Finite.check("separator_bias", &self.separator_bias)?;
        LENGTH.check("max_latents", &self.max_latents)?;
        LENGTH.check("max_cot_tokens", &self.max_cot_tokens)?;
        LENGTH.check("max_new_tokens", &self.max_new_tokens)?;
        Ok(())
    }
}

/// The text before the generated tokens.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Prompt {
    /// A question, put into the layout of spec section 1 and answered by the method.
    Question {
        /// The question.
        text: String,
        /// How to reason.
        method: Method,
        /// The compression factor as text: an integer, a fraction or `auto`; the one of
        /// [`Method::fixed_compression_factor`], where it gives one.
        compression_factor: String,
    },
    /// Raw text, continued without template or reasoning: for checking a base model.
    Plain(String),
}

/// One generation to run.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Request {
    /// The prompt.
    pub prompt: Prompt,
    /// How to sample.
    pub sampling: Sampling,
    /// Whether to report each latent or thought, and the tokens nearest to it.
    pub trace: bool,
    /// The adapter that answers, by its name among [`EngineOptions::adapters`](crate::EngineOptions::adapters). `None` is
    /// the engine's own: the one that it was [chosen](crate::Engine::with_adapter) for, or no such adapter.
    pub adapter: Option<String>,
}

setters!(Request { sampling: Sampling, trace: bool, adapter: Option<String> });

impl Request {
    /// A prompt with default sampling.
    pub fn new(prompt: Prompt) -> Self {
        Request { prompt, sampling: Sampling::default(), trace: false, adapter: None }
    }

    /// A question at a compression factor, with default sampling.
    pub fn question(text: impl Into<String>, compression_factor: impl Into<String>) -> Self {
        Request::new(Prompt::Question {
            text: text.into(),
            method: Method::Colar,
            compression_factor: compression_factor.into(),
        })
    }

    /// The same request, deterministic.
    pub fn greedy(mut self) -> Self {
        self.sampling = self.sampling.greedy();
        self
    }
}

/// A token near a latent.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TraceToken {
    /// Token id.
    pub id: u32,
    /// Its text.
    pub text: String,
    /// Cosine between the latent and the token's input embedding.
    pub cosine: f32,
}

/// Its text, quoted, and the cosine.
impl fmt::Display for TraceToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:.2}", self.text, self.cosine)
    }
}

/// The result of a [`Request`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Generation {
    /// The question or raw prompt.
    pub question: String,
    /// The compression factor as given; empty for a plain prompt.
    #[serde(rename = "cf")]
    pub compression_factor: String,
    /// Latents or thoughts, and tokens of the reasoning where it is text (#L of the paper's tables).
    pub n_latents: usize,
    /// The generated text, without special tokens: the answer, after the reasoning text and the separator where
    /// there is one (under any method but CoLaR).
    pub text: String,
    /// The text after `Answer:`, if there is any.
    pub answer: Option<String>,
    /// The generated tokens: those of the answer; under any method but CoLaR, those of the reasoning text and the
    /// separator before them.
    pub token_ids: Vec<u32>,
    /// Tokens of the answer, the end of sequence included.
    pub answer_tokens: usize,
    /// Whether the answer ended by itself and not by a limit.
    pub finished: bool,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Milliseconds until the prompt was in the cache.
    pub prefill_ms: f64,
    /// Milliseconds of the reasoning, in latents or text.
    pub latents_ms: f64,
    /// Milliseconds of the answer.
    pub answer_ms: f64,
    /// Per latent, the nearest tokens, nearest first; empty unless asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trace: Vec<Vec<TraceToken>>,
    /// Per latent of CoLaR, the probability that the latents end after it, at temperature 1 and with the bias of the
    /// separator; empty unless a trace was asked for. A limit may end them whatever it is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub end_probabilities: Vec<f32>,
    /// Per latent or thought, the `hidden_size` values that the model was fed, in the units of its input embeddings; empty
    /// unless a trace was asked for. They are in no JSON.
    #[serde(skip)]
    pub latents: Vec<Vec<f32>>,
}

#[cfg(test)]
impl Generation {
    /// A finished generation of this text, for tests of code that takes one.
    pub(crate) fn saying(text: &str, n_latents: usize, answer_tokens: usize) -> Self {
        Generation {
            question: String::new(),
            compression_factor: "2".to_owned(),
            n_latents,
            text: text.to_owned(),
            answer: crate::data::answer::extract(text).map(str::to_owned),
            token_ids: Vec::new(),
            answer_tokens,
            finished: true,
            prompt_tokens: 1,
            prefill_ms: 0.0,
            latents_ms: 0.0,
            answer_ms: 0.0,
            trace: Vec::new(),
            end_probabilities: Vec::new(),
            latents: Vec::new(),
        }
    }
}

/// Progress of a running batch, for streaming.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The prompt is in the cache.
    Prefilled {
        /// Index of the request.
        request: usize,
    },
    /// A latent was drawn, or a thought formed, and fed.
    Latent {
        /// Index of the request.
        request: usize,
        /// Its number, counted from 1.
        number: usize,
    },
    /// A token was chosen.
    Token {
        /// Index of the request.
        request: usize,
        /// Its id.
        id: u32,
    },
    /// A request is complete.
    Done {
        /// Index of the request.
        request: usize,
    },
}
