//! `/props`: what the server is, as llama.cpp's tells it.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::app::{App, Model, Named};
use super::chat::ANSWER_TOKENS;
use super::error::{ApiError, ErrorBody};
use crate::model::prompt::DEFAULT_COMPRESSION_FACTOR;
use crate::{Method, Sampling};

/// The server and its model.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Props {
    default_generation_settings: Defaults,
    /// Most requests that are computed at the same time.
    total_slots: usize,
    model_alias: String,
    /// Model, checkpoint, device and arithmetic, in a line.
    model: String,
    /// How questions are answered: `colar` in latents, `cot` in words, or a baseline.
    method: &'static str,
    /// Its adapters, which requests name as models.
    adapters: Vec<Adapter>,
    modalities: Modalities,
    build_info: &'static str,
}

/// An adapter over the model.
#[derive(Debug, Serialize, ToSchema)]
struct Adapter {
    name: String,
    /// Model, checkpoint, device and arithmetic, in a line.
    model: String,
    /// How questions are answered.
    method: &'static str,
}

/// The settings of a chat request that states none.
#[derive(Debug, Serialize, ToSchema)]
struct Defaults {
    /// Positions of the cache, which requests share.
    n_ctx: usize,
    params: Params,
}

#[derive(Debug, Serialize, ToSchema)]
struct Params {
    compression_factor: &'static str,
    max_latents: usize,
    max_cot_tokens: usize,
    latent_temperature: f32,
    eol_temperature: f32,
    temperature: f32,
    top_p: f32,
    max_tokens: usize,
}

#[derive(Debug, Serialize, ToSchema)]
struct Modalities {
    vision: bool,
    audio: bool,
}

/// Tells what the server is.
#[utoipa::path(get, path = "/props", responses(
    (status = 200, body = Props),
    (status = 503, description = "The model is being loaded, or the server stops", body = ErrorBody),
))]
pub(super) async fn props(State(app): State<Arc<App>>) -> Result<Json<Props>, ApiError> {
    let Model { base: model, adapters, .. } = app.model()?;
    let d = Sampling::default();
    let factor = Method::fixed_compression_factor(model.method).unwrap_or(DEFAULT_COMPRESSION_FACTOR);
    Ok(Json(Props {
        default_generation_settings: Defaults {
            n_ctx: app.options.cache_positions,
            params: Params {
                compression_factor: factor,
                max_latents: d.max_latents,
                max_cot_tokens: d.max_cot_tokens,
                latent_temperature: d.latent_temperature,
                eol_temperature: d.eol_temperature,
                temperature: d.temperature,
                top_p: d.top_p,
                max_tokens: ANSWER_TOKENS,
            },
        },
        total_slots: app.options.max_concurrency,
        model_alias: app.options.model_name.clone(),
        model: model.engine.loaded(),
        method: model.method.name(),
        adapters: adapters.iter().map(adapter).collect(),
        modalities: Modalities { vision: false, audio: false },
        build_info: concat!("colar-engine ", env!("CARGO_PKG_VERSION")),
    }))
}

fn adapter(Named { name, engine, method, .. }: &Named) -> Adapter {
    Adapter { name: name.clone(), model: engine.loaded(), method: method.name() }
}
