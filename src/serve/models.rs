//! `/v1/models`: the model there is.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::app::App;
use super::error::{ApiError, ErrorBody};
use super::request;

/// The models there are.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Models {
    object: &'static str,
    data: Vec<ModelBody>,
}

/// A model.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelBody {
    /// The name that requests state.
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
}

fn only(app: &App) -> ModelBody {
    let id = app.options.model_name.clone();
    ModelBody { id, object: "model", created: app.started, owned_by: "colar-engine" }
}

/// Lists the models there are: one.
#[utoipa::path(get, path = "/v1/models", responses(
    (status = 200, body = Models),
    (status = 503, description = "The model is being loaded, or the server stops", body = ErrorBody),
))]
pub(super) async fn list(State(app): State<Arc<App>>) -> Result<Json<Models>, ApiError> {
    app.model()?;
    Ok(Json(Models { object: "list", data: vec![only(&app)] }))
}

/// A model by its name.
#[utoipa::path(get, path = "/v1/models/{name}", params(("name" = String, Path)), responses(
    (status = 200, body = ModelBody),
    (status = 404, description = "There is no such model", body = ErrorBody),
    (status = 503, description = "The model is being loaded, or the server stops", body = ErrorBody),
))]
pub(super) async fn one(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> Result<Json<ModelBody>, ApiError> {
    app.model()?;
    request::check_model(Some(&name), &app.options.model_name)?;
    Ok(Json(only(&app)))
}
