//! Bodies of requests: JSON of a known form, every field of which is looked at.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::error::ApiError;

/// Most bytes of a body.
pub(super) const MOST_BYTES: usize = 1 << 20;

/// The body of a request, read from JSON.
pub(super) struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        if !is_json(request.headers()) {
            // A page of another site may send a browser here with a form or plain text, and with no other kind.
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            let message = "the body must be JSON, with `Content-Type: application/json`";
            return Err(ApiError::refused(status, "unsupported_media_type", message));
        }
        let bytes = Bytes::from_request(request, state).await.map_err(|e| unread(&e))?;
        read(&bytes).map(Body)
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

fn unread(error: &BytesRejection) -> ApiError {
    if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
        let message = format!("the body is larger than {MOST_BYTES} bytes");
        return ApiError::refused(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message);
    }
    ApiError::field("", error.body_text())
}

/// Whether a field of OpenAI's interface, or of llama.cpp's server, that this server does not have asks for nothing at this
/// value. Clients send such out of habit; at any other value they are refused.
fn asks_nothing(field: &str, value: &Value) -> bool {
    let at: &[Value] = match field {
        "frequency_penalty" | "presence_penalty" => &[json!(0), json!(0.0)],
        "logprobs" | "store" | "echo" | "background" => &[json!(false)],
        "top_logprobs" => &[json!(0)],
        "best_of" => &[json!(1)],
        "logit_bias" | "metadata" => &[json!({})],
        "tools" | "functions" | "include" => &[json!([])],
        "tool_choice" | "function_call" => &[json!("none")],
        // Without tools there are no calls, and reasoning can be ended in any case.
        "parallel_tool_calls" | "reasoning_control" => &[json!(false), json!(true)],
        "response_format" => &[json!({"type": "text"})],
        "text" => &[json!({"format": {"type": "text"}})],
        "modalities" => &[json!(["text"])],
        "service_tier" => &[json!("auto"), json!("default")],
        "truncation" => &[json!("disabled")],
        "suffix" | "instructions" => &[json!("")],
        "user"
        | "safety_identifier"
        | "prompt_cache_key"
        | "audio"
        | "prediction"
        | "reasoning"
        | "reasoning_effort"
        | "verbosity"
        | "web_search_options"
        | "previous_response_id"
        | "prompt" => &[],
        _ => return false,
    };
    value.is_null() || at.contains(value)
}

/// Reads a body.
///
/// # Errors
/// Status 400, naming the field: one that is unknown or not supported, and one that is of another type.
fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let whole: Map<String, Value> = serde_json::from_slice(bytes)
        .map_err(|e| ApiError::field("", format!("the body is no JSON object: {e}")))?;
    let fields: Map<String, Value> =
        whole.into_iter().filter(|(field, value)| !asks_nothing(field, value)).collect();
    serde_path_to_error::deserialize(Value::Object(fields)).map_err(|e| {
        let path = e.path().to_string();
        let path = if path == "." { String::new() } else { path };
        let text = e.inner().to_string();
        if text.starts_with("unknown field") {
            return ApiError::unsupported(&path);
        }
        // A missing field is named by the error, and the path is that of the object it is missing from.
        let missing = text.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`'));
        match (missing, path.is_empty()) {
            (Some(field), true) => ApiError::field(field, format!("`{field}` is missing")),
            (Some(field), false) => {
                ApiError::field(format!("{path}.{field}"), format!("`{path}.{field}` is missing"))
            }
            (None, true) => ApiError::field("", text),
            (None, false) => ApiError::field(path.clone(), format!("`{path}`: {text}")),
        }
    })
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sum {
        a: u32,
        b: Option<Vec<u32>>,
    }

    fn fault(body: &str) -> (String, String) {
        let error = serde_json::to_value(read::<Sum>(body.as_bytes()).unwrap_err().body()).unwrap();
        let text = |field: &str| error["error"][field].as_str().unwrap_or_default().to_owned();
        (text("param"), text("message"))
    }

    #[test]
    fn every_field_is_looked_at() {
        let sum: Sum = read(br#"{"a": 1, "b": null, "logprobs": false, "tools": [], "user": null}"#).unwrap();
        assert_eq!((sum.a, sum.b), (1, None));
        for (body, param, message) in [
            (r#"{"a": 1, "c": null}"#, "c", "`c` is not supported"),
            (r#"{"a": 1, "tools": [{}]}"#, "tools", "`tools` is not supported"),
            (r#"{"a": 1, "logprobs": true}"#, "logprobs", "`logprobs` is not supported"),
            (r#"{"b": []}"#, "a", "`a` is missing"),
            (r#"{"a": -1}"#, "a", "`a`: invalid value"),
            (r#"{"a": 1, "b": [1, "x"]}"#, "b[1]", "`b[1]`: invalid type"),
            ("[1]", "", "the body is no JSON object"),
            ("", "", "the body is no JSON object"),
        ] {
            let (named, said) = fault(body);
            assert_eq!(named, param, "{body}");
            assert!(said.starts_with(message), "{body}: {said}");
        }
    }

    #[test]
    fn json_is_known_by_its_type() {
        let of = |kind: &str| is_json(&HeaderMap::from_iter([(header::CONTENT_TYPE, kind.parse().unwrap())]));
        assert!(of("application/json") && of("Application/JSON; charset=utf-8"));
        assert!(!of("text/plain") && !of("application/x-www-form-urlencoded") && !is_json(&HeaderMap::new()));
    }
}
