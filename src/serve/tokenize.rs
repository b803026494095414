//! `/tokenize` and `/detokenize`, as llama.cpp's server has them.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::app::App;
use super::body::Body;
use super::error::{ApiError, ErrorBody};

/// A text.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenizeRequest {
    content: String,
    /// Whether each token comes with its text.
    with_pieces: Option<bool>,
}

/// The tokens of a text.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Tokens {
    tokens: Vec<Token>,
}

/// A token: its id, or with `with_pieces` its id and text.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum Token {
    Id(u32),
    Piece { id: u32, piece: String },
}

/// Tokens of a text.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DetokenizeRequest {
    tokens: Vec<u32>,
}

/// The text of tokens.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Content {
    content: String,
}

/// Gives the tokens of a text.
#[utoipa::path(post, path = "/tokenize", request_body = TokenizeRequest, responses(
    (status = 200, body = Tokens),
    (status = "4XX", description = "The request is at fault", body = ErrorBody),
    (status = "5XX", description = "The server is at fault", body = ErrorBody),
))]
pub(super) async fn tokenize(
    State(app): State<Arc<App>>,
    Body(request): Body<TokenizeRequest>,
) -> Result<Json<Tokens>, ApiError> {
    app.model()?;
    blocking(app, move |app| {
        let engine = &app.model()?.base.engine;
        let pieces = request.with_pieces.unwrap_or(false);
        let token = |id: u32| match pieces {
            false => Ok(Token::Id(id)),
            true => Ok(Token::Piece { id, piece: engine.token_text(id)? }),
        };
        let tokens =
            engine.tokens(&request.content)?.into_iter().map(token).collect::<Result<_, ApiError>>()?;
        Ok(Json(Tokens { tokens }))
    })
    .await
}

/// Gives the text of tokens.
#[utoipa::path(post, path = "/detokenize", request_body = DetokenizeRequest, responses(
    (status = 200, body = Content),
    (status = "4XX", description = "The request is at fault", body = ErrorBody),
    (status = "5XX", description = "The server is at fault", body = ErrorBody),
))]
pub(super) async fn detokenize(
    State(app): State<Arc<App>>,
    Body(request): Body<DetokenizeRequest>,
) -> Result<Json<Content>, ApiError> {
    app.model()?;
    blocking(app, move |app| {
        let engine = &app.model()?.base.engine;
        let most = engine.vocab_size();
        if let Some((i, id)) = request.tokens.iter().enumerate().find(|(_, id)| **id as usize >= most) {
            let param = format!("tokens[{i}]");
            return Err(ApiError::field(
                param.clone(),
                format!("`{param}` is {id}, and ids are below {most}"),
            ));
        }
        Ok(Json(Content { content: engine.text(&request.tokens)? }))
    })
    .await
}

/// Work that may take long, as a long text does, beside the tasks that answer other requests.
async fn blocking<T: Send + 'static>(
    app: Arc<App>,
    work: impl FnOnce(&App) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(move || work(&app)).await;
    done.map_err(|_| ApiError::internal("a fault of the tokenizer"))?
}
