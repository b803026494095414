//! `/openapi.json`: the description of the interface.

use axum::Json;
use utoipa::OpenApi;
use utoipa::openapi::OpenApi as Description;

use super::{chat, completions, control, health, models, props, responses, scrape, tokenize};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "colar-engine",
        description = "A model that reasons in compressed latent vectors, behind OpenAI's interface."
    ),
    paths(
        chat::create,
        completions::create,
        control::control,
        health::health,
        models::list,
        models::one,
        props::props,
        responses::create,
        scrape::metrics,
        tokenize::detokenize,
        tokenize::tokenize,
    )
)]
struct Interface;

/// The description of the interface.
pub(super) async fn description() -> Json<Description> {
    Json(Interface::openapi())
}
