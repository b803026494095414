//! `/v1/completions`: texts continued as they are, without template or reasoning.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::answer::{Answer, Answers, Piece};
use super::app::App;
use super::body::Body;
use super::completion::{Completion, Frame, Head, StreamOptions};
use super::error::{ApiError, ErrorBody};
use super::events::{self, Shape};
use super::fields::{Texts, body};
use super::request::{self, Asked};
use crate::Completed;

/// Most tokens where a request does not say, as in OpenAI's interface.
const TEXT_TOKENS: usize = 16;
/// The `object` of a response and of its events.
const OBJECT: &str = "text_completion";

body! {
    /// Texts to continue.
    CompletionRequest {
        /// The text, or several.
        prompt: Texts,
        /// Continuations of each.
        #[schema(minimum = 1, maximum = 128)]
        n: Option<usize>,
        /// Strings that end a continuation, and are no part of it.
        stop: Option<Texts>,
        /// Most tokens of a continuation.
        #[schema(minimum = 1)]
        max_tokens: Option<usize>,
        /// Which events come beside the continuation's.
        stream_options: Option<StreamOptions>,
    }
}

/// A continuation.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TextChoice {
    index: usize,
    text: String,
    /// `stop`: the model or a string of `stop` ended it; `length`: a limit did.
    finish_reason: &'static str,
}

/// Continues texts.
#[utoipa::path(post, path = "/v1/completions", request_body = CompletionRequest, responses(
    (status = 200, description = "The continuations; with `stream`, events of chunks", body = Completion<TextChoice>),
    (status = "4XX", description = "The request is at fault", body = ErrorBody),
    (status = "5XX", description = "The server is at fault", body = ErrorBody),
))]
pub(super) async fn create(
    State(app): State<Arc<App>>,
    Body(request): Body<CompletionRequest>,
) -> Result<Response, ApiError> {
    let model = app.model()?.named(request.model.as_ref())?;
    let (drawing, stream) = (request.drawing(), request.stream.unwrap_or(false));
    let max_tokens = request.max_tokens.unwrap_or(TEXT_TOKENS);
    let asked = request::continuation(model, request.prompt.into_vec(), &drawing, max_tokens, request.n)?;
    let asked = Asked { stops: request::stops(request.stop)?, ..asked };
    let frame = Frame::new(&asked, request.stream_options, stream)?;
    let answers = Answers::begin(&app, "cmpl-", asked).await?;
    let head = Head::new(&answers, frame);
    if stream {
        return Ok(events::respond(answers, Chunks { head }));
    }
    Ok(Json(head.whole(OBJECT, &answers.whole().await?, choice)).into_response())
}

fn choice(index: usize, answer: &Answer) -> TextChoice {
    TextChoice { index, text: answer.text.clone(), finish_reason: answer.ended.finish_reason }
}

/// Continuations in chunks.
struct Chunks {
    head: Head,
}

impl Shape for Chunks {
    fn begin(&mut self) -> Vec<Event> {
        Vec::new()
    }

    fn piece(&mut self, index: usize, piece: &Piece) -> Vec<Event> {
        let choice = |text: &str, finish_reason: Option<&str>| -> Value {
            json!({"index": index, "text": text, "finish_reason": finish_reason})
        };
        vec![match piece {
            Piece::Reasoning(text) | Piece::Text(text) => self.head.part(OBJECT, &choice(text, None)),
            Piece::End(ended) => {
                self.head.last_part(OBJECT, &choice("", Some(ended.finish_reason)), &ended.completed)
            }
        }]
    }

    fn end(&mut self, all: &[&Completed]) -> Vec<Event> {
        self.head.end(OBJECT, all)
    }
}
