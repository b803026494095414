//! `/health`: whether the server takes requests.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::app::App;
use super::error::{ApiError, ErrorBody};

/// The server takes requests.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    status: &'static str,
}

/// Says whether the server takes requests.
#[utoipa::path(get, path = "/health", responses(
    (status = 200, body = Health),
    (status = 503, description = "The model is being loaded, or the server stops", body = ErrorBody),
))]
pub(super) async fn health(State(app): State<Arc<App>>) -> Result<Json<Health>, ApiError> {
    app.model().map(|_| Json(Health { status: "ok" }))
}
