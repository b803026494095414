//! `/v1/models`: the model there is, and its adapters.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::app::{App, Named};
use super::error::{ApiError, ErrorBody};

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
    /// Of an adapter, the name of the model that it is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<String>,
}

fn body(app: &App, Named { name, adapter, .. }: &Named) -> ModelBody {
    let parent = adapter.as_ref().map(|_| app.options.model_name.clone());
    ModelBody { id: name.clone(), object: "model", created: app.started, owned_by: "colar-engine", parent }
}

/// Lists the models there are: the one that was loaded, and its adapters.
#[utoipa::path(get, path = "/v1/models", responses(
    (status = 200, body = Models),
    (status = 503, description = "The model is being loaded, or the server stops", body = ErrorBody),
))]
pub(super) async fn list(State(app): State<Arc<App>>) -> Result<Json<Models>, ApiError> {
    let data = app.model()?.all().map(|named| body(&app, named)).collect();
    Ok(Json(Models { object: "list", data }))
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
    Ok(Json(body(&app, app.model()?.named(Some(&name))?)))
}
