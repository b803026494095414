//! Errors as OpenAI's interface has them.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::Error;

/// The body of every error.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ErrorBody {
    error: Fault,
}

/// The fault.
#[derive(Debug, Serialize, ToSchema)]
struct Fault {
    /// A sentence for people.
    message: String,
    /// The kind of error.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The field of the request at fault.
    param: Option<String>,
    /// The error's name, or the status where llama.cpp's server has it there.
    code: Value,
}

/// An error of a request.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    retry_after: Option<u64>,
    body: Box<ErrorBody>,
}

impl ApiError {
    fn new(
        status: StatusCode,
        kind: &'static str,
        code: impl Into<Value>,
        message: impl Into<String>,
    ) -> Self {
        let error = Fault { message: message.into(), kind, param: None, code: code.into() };
        ApiError { status, retry_after: None, body: Box::new(ErrorBody { error }) }
    }

    fn of_field(mut self, param: impl Into<String>) -> Self {
        self.body.error.param = Some(param.into()).filter(|param| !param.is_empty());
        self
    }

    /// A request that says something wrong in a field; an empty `param` is the body as a whole.
    pub(super) fn field(param: impl Into<String>, message: impl Into<String>) -> Self {
        ApiError::new(StatusCode::BAD_REQUEST, "invalid_request_error", Value::Null, message).of_field(param)
    }

    /// A field that asks for what this server does not do.
    pub(super) fn unsupported(param: &str) -> Self {
        let message = format!("`{param}` is not supported");
        ApiError::refused(StatusCode::BAD_REQUEST, "unsupported_parameter", message).of_field(param)
    }

    /// A request of this status that is refused before its fields are looked at.
    pub(super) fn refused(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        ApiError::new(status, "invalid_request_error", code, message)
    }

    /// Another model than those there are.
    pub(super) fn no_model(asked: &str, names: &[&str]) -> Self {
        let message = format!("there is no model {asked:?} here, but {}", listed(names));
        ApiError::refused(StatusCode::NOT_FOUND, "model_not_found", message).of_field("model")
    }

    /// No model named where there are several.
    pub(super) fn which_model(names: &[&str]) -> Self {
        ApiError::field("model", format!("`model` is missing: there are {}", listed(names)))
    }

    pub(super) fn unauthorized() -> Self {
        let message = "a valid API key is needed, as `Authorization: Bearer KEY`";
        ApiError::refused(StatusCode::UNAUTHORIZED, "invalid_api_key", message)
    }

    /// A full queue, which may have room in so many seconds.
    pub(super) fn full(message: impl Into<String>, retry_after: u64) -> Self {
        let error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "queue_full", message);
        ApiError { retry_after: Some(retry_after), ..error }
    }

    /// Nobody is served now; in the words of llama.cpp's server.
    fn unavailable(message: &str) -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        ApiError::new(status, "unavailable_error", status.as_u16(), message)
    }

    pub(super) fn loading() -> Self {
        ApiError::unavailable("Loading model")
    }

    pub(super) fn stopping() -> Self {
        ApiError::unavailable("the server is stopping")
    }

    pub(super) fn timeout() -> Self {
        let message = "the request took longer than this server's request timeout";
        ApiError::new(StatusCode::GATEWAY_TIMEOUT, "server_error", "timeout", message)
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "internal_error", message)
    }

    pub(super) fn message(&self) -> &str {
        &self.body.error.message
    }

    /// The same of an interface that has another name for a field.
    pub(super) fn renamed(mut self, field: &str, name: &str) -> Self {
        let error = &mut self.body.error;
        if error.param.as_deref() == Some(field) {
            error.param = Some(name.to_owned());
            error.message = error.message.replace(&format!("`{field}`"), &format!("`{name}`"));
        }
        self
    }

    /// The body of the response.
    pub(super) fn body(&self) -> &ErrorBody {
        &self.body
    }
}

/// Names in quotes.
fn listed(names: &[&str]) -> String {
    names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
}

/// Options of the engine that have another name in requests.
const RENAMED: [(&str, &str); 1] = [("`max_new_tokens`", "`max_tokens`")];

/// Options of the engine that are the server's and no request's, and what is said in the place of their use.
const OF_THE_SERVER: [(&str, &str); 2] = [
    ("with `allow_long`", "where the server is told to (allow_long)"),
    ("with `escape_marks`", "where the server is told to (escape_marks)"),
];

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let renamed = RENAMED.iter().chain(&OF_THE_SERVER);
        let text = renamed.fold(error.to_string(), |text, (option, name)| text.replace(option, name));
        match error {
            // It names the field at fault first, if there is one.
            Error::Usage(_) => ApiError::field(text.split('`').nth(1).unwrap_or_default().to_owned(), text),
            _ => ApiError::internal(text),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let ApiError { status, retry_after, body } = self;
        let mut response = (status, Json(body)).into_response();
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
