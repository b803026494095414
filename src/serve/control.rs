//! `/v1/chat/completions/control`: a word to a request that is being answered, as llama.cpp's server has it.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::app::App;
use super::body::Body;
use super::error::{ApiError, ErrorBody};

/// A word to a request.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ControlRequest {
    /// The `id` of its chunks.
    id: String,
    /// `reasoning_end`: the answer is to follow from what was reasoned so far.
    action: String,
    /// The model's name in `/v1/models`.
    model: Option<String>,
}

/// Whether the word reached its request.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ControlResult {
    success: bool,
    /// Why it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

/// Ends the reasoning of a request that is being answered.
#[utoipa::path(post, path = "/v1/chat/completions/control", request_body = ControlRequest, responses(
    (status = 200, body = ControlResult),
    (status = "4XX", description = "The request is at fault", body = ErrorBody),
    (status = "5XX", description = "The server is at fault", body = ErrorBody),
))]
pub(super) async fn control(
    State(app): State<Arc<App>>,
    Body(request): Body<ControlRequest>,
) -> Result<Json<ControlResult>, ApiError> {
    // Those that are being answered can be told when no more are taken.
    if let (Some(model), asked @ Some(_)) = (app.loaded(), request.model.as_ref()) {
        model.named(asked)?;
    }
    if request.action != "reasoning_end" {
        return Err(ApiError::field("action", "`action` takes `reasoning_end`"));
    }
    let success = app.running.end_reasoning(&request.id);
    let message = (!success).then(|| format!("no request {:?} is being answered", request.id));
    Ok(Json(ControlResult { success, message }))
}
