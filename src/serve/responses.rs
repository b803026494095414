//! `/v1/responses`: OpenAI's newer interface, as far as one question and its answer go.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::answer::{Answers, Ended, Piece, new_id};
use super::app::{App, now};
use super::body::Body;
use super::chat::ANSWER_TOKENS;
use super::error::{ApiError, ErrorBody};
use super::events::{self, Shape, named};
use super::fields::reasoning_body;
use super::request;
use super::usage::UsageBody;
use crate::Completed;

reasoning_body! {
    /// A question.
    ResponseRequest {
        /// The question, or a list with one message of the user.
        #[schema(value_type = String)]
        input: Value,
        /// Most tokens of the answer; latents do not count.
        #[schema(minimum = 1)]
        max_output_tokens: Option<usize>,
    }
}

/// Answers a question.
#[utoipa::path(post, path = "/v1/responses", request_body = ResponseRequest, responses(
    (status = 200, description = "A response of OpenAI's form; with `stream`, its events", body = Object),
    (status = "4XX", description = "The request is at fault", body = ErrorBody),
    (status = "5XX", description = "The server is at fault", body = ErrorBody),
))]
pub(super) async fn create(
    State(app): State<Arc<App>>,
    Body(request): Body<ResponseRequest>,
) -> Result<Response, ApiError> {
    let model = app.model()?.named(request.model.as_ref())?;
    let text = question(&request.input)?;
    let max_tokens = request.max_output_tokens.unwrap_or(ANSWER_TOKENS);
    let asked = request::question(model, text, &request.drawing(), &request.reasoning(), max_tokens, None)
        .map_err(|error| error.renamed("max_tokens", "max_output_tokens"))?;
    let sampling = asked.requests[0].sampling;
    let answers = Answers::begin(&app, "resp_", asked)
        .await
        .map_err(|error| error.renamed("max_tokens", "max_output_tokens"))?;
    let response = json!({
        "id": answers.id(), "object": "response", "created_at": now(), "status": "in_progress", "error": null,
        "incomplete_details": null, "instructions": null, "max_output_tokens": max_tokens, "model": model.name,
        "output": [], "parallel_tool_calls": false, "previous_response_id": null, "store": false,
        "temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seed,
        "text": {"format": {"type": "text"}}, "tool_choice": "none", "tools": [], "truncation": "disabled",
        "usage": null, "metadata": {},
    });
    let mut items = Items::new(response);
    if request.stream.unwrap_or(false) {
        return Ok(events::respond(answers, items));
    }
    for answer in answers.whole().await? {
        items.reasoning = answer.reasoning;
        items.text = answer.text;
        items.complete(&answer.ended);
    }
    Ok(Json(items.response).into_response())
}

/// The question of an input.
fn question(input: &Value) -> Result<String, ApiError> {
    let Value::Array(items) = input else {
        return request::text_of(input, "input_text", "input");
    };
    let fault = "`input` takes a question, or a list of one message {\"role\": \"user\", \"content\": …}: the model was \
                 trained on single questions";
    let [Value::Object(message)] = items.as_slice() else { return Err(ApiError::field("input", fault)) };
    let is = |field: &str, value: &str| message.get(field).is_none_or(|given| given == value);
    let known = message.keys().all(|key| ["type", "role", "content"].contains(&key.as_str()));
    let Some(content) =
        message.get("content").filter(|_| known && is("type", "message") && is("role", "user"))
    else {
        return Err(ApiError::field("input[0]", fault));
    };
    request::text_of(content, "input_text", "input[0].content")
}

/// A response and the items of its output: its reasoning, where it has words, and its answer.
struct Items {
    response: Value,
    /// Events sent.
    sent: u64,
    reasoning: String,
    reasoning_id: String,
    /// Whether the item of the reasoning is open, and that of the answer.
    open: [bool; 2],
    text: String,
    text_id: String,
}

impl Items {
    fn new(response: Value) -> Self {
        Items {
            response,
            sent: 0,
            reasoning: String::new(),
            reasoning_id: new_id("rs_"),
            open: [false; 2],
            text: String::new(),
            text_id: new_id("msg_"),
        }
    }

    fn event(&mut self, name: &str, mut data: Value) -> Event {
        data["type"] = name.into();
        data["sequence_number"] = self.sent.into();
        self.sent += 1;
        named(Some(name), &data)
    }

    fn reasoning_item(&self) -> Value {
        let content = json!([{"type": "reasoning_text", "text": self.reasoning}]);
        json!({"type": "reasoning", "id": self.reasoning_id, "summary": [], "content": content})
    }

    fn text_part(&self) -> Value {
        json!({"type": "output_text", "text": self.text, "annotations": [], "logprobs": []})
    }

    fn text_item(&self, status: &str) -> Value {
        let content = if status == "in_progress" { json!([]) } else { json!([self.text_part()]) };
        json!({"type": "message", "id": self.text_id, "status": status, "role": "assistant", "content": content})
    }

    /// The place of the answer among the items.
    fn text_index(&self) -> usize {
        usize::from(!self.reasoning.is_empty())
    }

    /// Begins the item of the answer, after that of the reasoning.
    fn open_text(&mut self) -> Vec<Event> {
        if self.open[1] {
            return Vec::new();
        }
        let mut events = Vec::new();
        if self.open[0] {
            let (id, text, item) = (self.reasoning_id.clone(), self.reasoning.clone(), self.reasoning_item());
            let done = json!({"item_id": id, "output_index": 0, "content_index": 0, "text": text});
            events.push(self.event("response.reasoning_text.done", done));
            events.push(self.event("response.output_item.done", json!({"output_index": 0, "item": item})));
        }
        self.open = [false, true];
        let (index, item) = (self.text_index(), self.text_item("in_progress"));
        events.push(self.event("response.output_item.added", json!({"output_index": index, "item": item})));
        let (id, part) = (self.text_id.clone(), self.text_part());
        let added = json!({"item_id": id, "output_index": index, "content_index": 0, "part": part});
        events.push(self.event("response.content_part.added", added));
        events
    }

    /// Takes in that the answer has ended; the status that it has then.
    fn complete(&mut self, ended: &Ended) -> &'static str {
        let cut = ended.finish_reason == "length";
        let status = if cut { "incomplete" } else { "completed" };
        if cut {
            self.response["incomplete_details"] = json!({"reason": "max_output_tokens"});
        }
        let reasoning = (!self.reasoning.is_empty()).then(|| self.reasoning_item());
        self.response["output"] = reasoning.into_iter().chain([self.text_item(status)]).collect();
        self.response["status"] = status.into();
        let usage = UsageBody::of(&[&ended.completed], 1);
        self.response["usage"] = json!({
            "input_tokens": usage.prompt_tokens, "input_tokens_details": usage.prompt_tokens_details,
            "output_tokens": usage.completion_tokens, "output_tokens_details": usage.completion_tokens_details,
            "total_tokens": usage.total_tokens,
        });
        status
    }
}

impl Shape for Items {
    fn begin(&mut self) -> Vec<Event> {
        let data = || json!({"response": self.response});
        let (created, in_progress) = (data(), data());
        vec![self.event("response.created", created), self.event("response.in_progress", in_progress)]
    }

    fn piece(&mut self, _: usize, piece: &Piece) -> Vec<Event> {
        match piece {
            Piece::Reasoning(new) => {
                let mut events = Vec::new();
                if !self.open[0] {
                    self.open[0] = true;
                    let item =
                        json!({"type": "reasoning", "id": self.reasoning_id, "summary": [], "content": []});
                    events.push(
                        self.event("response.output_item.added", json!({"output_index": 0, "item": item})),
                    );
                }
                self.reasoning += new;
                let id = self.reasoning_id.clone();
                let delta = json!({"item_id": id, "output_index": 0, "content_index": 0, "delta": new});
                events.push(self.event("response.reasoning_text.delta", delta));
                events
            }
            Piece::Text(new) => {
                let mut events = self.open_text();
                self.text += new;
                let (id, index) = (self.text_id.clone(), self.text_index());
                let delta = json!({
                    "item_id": id, "output_index": index, "content_index": 0, "delta": new, "logprobs": [],
                });
                events.push(self.event("response.output_text.delta", delta));
                events
            }
            Piece::End(ended) => {
                let mut events = self.open_text();
                let status = self.complete(ended);
                let (id, index, text) = (self.text_id.clone(), self.text_index(), self.text.clone());
                let (part, item) = (self.text_part(), self.text_item(status));
                let done = json!({"item_id": id, "output_index": index, "content_index": 0, "text": text, "logprobs": []});
                events.push(self.event("response.output_text.done", done));
                let done = json!({"item_id": id, "output_index": index, "content_index": 0, "part": part});
                events.push(self.event("response.content_part.done", done));
                events.push(
                    self.event("response.output_item.done", json!({"output_index": index, "item": item})),
                );
                events
            }
        }
    }

    fn end(&mut self, _: &[&Completed]) -> Vec<Event> {
        let name = format!("response.{}", self.response["status"].as_str().unwrap_or_default());
        let data = json!({"response": self.response});
        vec![self.event(&name, data)]
    }

    fn failed(&mut self, error: &ApiError) -> Vec<Event> {
        self.response["status"] = "failed".into();
        self.response["error"] = json!({"code": "server_error", "message": error.message()});
        let data = json!({"response": self.response});
        vec![self.event("response.failed", data)]
    }
}
