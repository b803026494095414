//! `/v1/chat/completions`: a question and its answers.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::answer::{Answer, Answers, Piece};
use super::app::App;
use super::body::Body;
use super::completion::{Completion, Frame, Head, StreamOptions};
use super::error::{ApiError, ErrorBody};
use super::events::{self, Shape};
use super::fields::{Texts, reasoning_body};
use super::request::{self, Asked};
use crate::Completed;

/// Most tokens of an answer where a request does not say.
pub(super) const ANSWER_TOKENS: usize = 128;
/// The `object` of an event.
const CHUNK: &str = "chat.completion.chunk";

reasoning_body! {
    /// A question.
    ChatRequest {
        /// One message, of the user: the question.
        messages: Vec<Message>,
        /// Answers to give.
        #[schema(minimum = 1, maximum = 128)]
        n: Option<usize>,
        /// Strings that end an answer, and are no part of it.
        stop: Option<Texts>,
        /// Most tokens of an answer; latents do not count.
        #[schema(minimum = 1)]
        max_tokens: Option<usize>,
        /// The same under its newer name.
        #[schema(minimum = 1)]
        max_completion_tokens: Option<usize>,
        /// Which events come beside the answer's.
        stream_options: Option<StreamOptions>,
    }
}

/// A message.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Message {
    /// `user`; the models are trained on single questions.
    role: String,
    /// A string, or parts that are text.
    #[schema(value_type = String)]
    content: Value,
}

/// An answer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChatChoice {
    index: usize,
    message: ChatMessage,
    /// `stop`: the model or a string of `stop` ended it; `length`: a limit did.
    finish_reason: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
struct ChatMessage {
    role: &'static str,
    content: String,
    /// The reasoning where it is words, or the tokens nearest to each latent with `trace`.
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
}

/// Answers a question.
#[utoipa::path(post, path = "/v1/chat/completions", request_body = ChatRequest, responses(
    (status = 200, description = "The answers; with `stream`, events of chunks", body = Completion<ChatChoice>),
    (status = "4XX", description = "The request is at fault", body = ErrorBody),
    (status = "5XX", description = "The server is at fault", body = ErrorBody),
))]
pub(super) async fn create(
    State(app): State<Arc<App>>,
    Body(chat): Body<ChatRequest>,
) -> Result<Response, ApiError> {
    let model = app.model()?.named(chat.model.as_ref())?;
    let max_tokens = match (chat.max_tokens, chat.max_completion_tokens) {
        (Some(a), Some(b)) if a != b => {
            return Err(ApiError::field(
                "max_tokens",
                "`max_tokens` and `max_completion_tokens` are one limit",
            ));
        }
        (a, b) => a.or(b).unwrap_or(ANSWER_TOKENS),
    };
    let (text, stream) = (question(&chat.messages)?, chat.stream.unwrap_or(false));
    let asked = request::question(model, text, &chat.drawing(), &chat.reasoning(), max_tokens, chat.n)?;
    let asked = Asked { stops: request::stops(chat.stop)?, ..asked };
    let frame = Frame::new(&asked, chat.stream_options, stream)?;
    let answers = Answers::begin(&app, "chatcmpl-", asked).await?;
    let head = Head::new(&answers, frame);
    if stream {
        let count = answers.count;
        return Ok(events::respond(answers, Chunks { head, count }));
    }
    Ok(Json(head.whole("chat.completion", &answers.whole().await?, choice)).into_response())
}

/// The question: the only message.
fn question(messages: &[Message]) -> Result<String, ApiError> {
    match messages {
        [] => Err(ApiError::field("messages", "`messages` is empty: there is no question")),
        [message] if message.role == "user" => {
            request::text_of(&message.content, "text", "messages[0].content")
        }
        [first, ..] => {
            let message = format!(
                "the model was trained on single questions: `messages` takes one message, of the role `user`, and there are {}, \
                 the first of the role {:?}",
                messages.len(),
                first.role
            );
            Err(ApiError::field("messages", message))
        }
    }
}

fn choice(index: usize, answer: &Answer) -> ChatChoice {
    let reasoning_content = Some(answer.reasoning.clone()).filter(|text| !text.is_empty());
    let message = ChatMessage { role: "assistant", content: answer.text.clone(), reasoning_content };
    ChatChoice { index, message, finish_reason: answer.ended.finish_reason }
}

/// Answers in chunks.
struct Chunks {
    head: Head,
    count: usize,
}

impl Chunks {
    fn delta(&self, index: usize, delta: &Value) -> Event {
        self.head.part(CHUNK, &json!({"index": index, "delta": delta, "finish_reason": null}))
    }
}

impl Shape for Chunks {
    fn begin(&mut self) -> Vec<Event> {
        let role = json!({"role": "assistant", "content": ""});
        (0..self.count).map(|index| self.delta(index, &role)).collect()
    }

    fn piece(&mut self, index: usize, piece: &Piece) -> Vec<Event> {
        vec![match piece {
            Piece::Reasoning(text) => self.delta(index, &json!({"reasoning_content": text})),
            Piece::Text(text) => self.delta(index, &json!({"content": text})),
            Piece::End(ended) => {
                let choice = json!({"index": index, "delta": {}, "finish_reason": ended.finish_reason});
                self.head.last_part(CHUNK, &choice, &ended.completed)
            }
        }]
    }

    fn end(&mut self, all: &[&Completed]) -> Vec<Event> {
        self.head.end(CHUNK, all)
    }
}
