//! `/metrics`: numbers for Prometheus.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

use super::app::App;
use super::error::ApiError;

/// Numbers for Prometheus.
#[utoipa::path(get, path = "/metrics", responses((status = 200, body = String, content_type = "text/plain")))]
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Result<impl IntoResponse, ApiError> {
    let load = app.loaded().map(|model| model.scheduler.load()).unwrap_or_default();
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let kind = (header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8");
    Ok(([kind], app.metrics.text(&load, tasks)?))
}
