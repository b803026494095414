//! The frame around the choices of `/v1/chat/completions` and `/v1/completions`.

use axum::response::sse::Event;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::answer::{Answer, Answers};
use super::app::now;
use super::error::ApiError;
use super::events::event;
use super::request::Asked;
use super::usage::{TimingsBody, UsageBody};
use crate::Completed;

/// Which events come beside those of the answers.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StreamOptions {
    /// Whether a last event has the tokens of the request.
    include_usage: Option<bool>,
}

/// Answers as a whole.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Completion<C> {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<C>,
    usage: UsageBody,
    timings: Option<TimingsBody>,
    /// The seed of the first answer; the same request with it gives the same answers.
    seed: u64,
}

/// The parts of a request that are about the frame.
pub(super) struct Frame {
    model: String,
    answers_per_prompt: usize,
    include_usage: bool,
    seed: u64,
}

/// The parts of a response around its choices.
pub(super) struct Head {
    id: String,
    created: u64,
    frame: Frame,
}

impl Frame {
    /// # Errors
    /// Status 400 for options of a stream where there is none.
    pub(super) fn new(asked: &Asked, options: Option<StreamOptions>, stream: bool) -> Result<Self, ApiError> {
        if options.is_some() && !stream {
            return Err(ApiError::field("stream_options", "`stream_options` goes with `stream`"));
        }
        let include_usage = options.unwrap_or_default().include_usage.unwrap_or(false);
        let Asked { model, answers_per_prompt, seed, .. } = asked;
        Ok(Frame {
            model: model.clone(),
            answers_per_prompt: *answers_per_prompt,
            include_usage,
            seed: *seed,
        })
    }
}

impl Head {
    pub(super) fn new(answers: &Answers, frame: Frame) -> Self {
        Head { id: answers.id().to_owned(), created: now(), frame }
    }

    /// The response with all answers, each as `choice` writes it.
    pub(super) fn whole<C>(
        self,
        object: &'static str,
        answers: &[Answer],
        choice: impl Fn(usize, &Answer) -> C,
    ) -> Completion<C> {
        let all: Vec<&Completed> = answers.iter().map(|answer| &answer.ended.completed).collect();
        Completion {
            object,
            choices: answers.iter().enumerate().map(|(index, answer)| choice(index, answer)).collect(),
            usage: UsageBody::of(&all, self.frame.answers_per_prompt),
            timings: TimingsBody::of(&all),
            id: self.id,
            created: self.created,
            model: self.frame.model,
            seed: self.frame.seed,
        }
    }

    fn chunk(&self, object: &str, choices: &Value) -> Value {
        let Head { id, created, frame } = self;
        let (model, seed) = (&frame.model, frame.seed);
        json!({
            "id": id, "object": object, "created": created, "model": model, "seed": seed, "choices": choices,
        })
    }

    /// A part of a choice.
    pub(super) fn part(&self, object: &str, choice: &Value) -> Event {
        event(&self.chunk(object, &json!([choice])))
    }

    /// The last part of a choice, with its times.
    pub(super) fn last_part(&self, object: &str, choice: &Value, completed: &Completed) -> Event {
        let mut chunk = self.chunk(object, &json!([choice]));
        chunk["timings"] = json!(TimingsBody::of(&[completed]));
        event(&chunk)
    }

    /// The events after the last part of the last choice.
    pub(super) fn end(&self, object: &str, all: &[&Completed]) -> Vec<Event> {
        let mut chunk = self.chunk(object, &json!([]));
        chunk["usage"] = json!(UsageBody::of(all, self.frame.answers_per_prompt));
        let usage = self.frame.include_usage.then(|| event(&chunk));
        usage.into_iter().chain([Event::default().data("[DONE]")]).collect()
    }
}
