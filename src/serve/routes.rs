//! Which address does what, and what every request goes through.

use std::any::Any;
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tower_http::catch_panic::CatchPanicLayer;

use super::app::App;
use super::auth;
use super::body::MOST_BYTES;
use super::error::ApiError;
use super::{chat, completions, control, health, models, openapi, page, props, responses, scrape, tokenize};

/// The server's routes.
pub(super) fn router(app: Arc<App>) -> Router {
    let guarded = Router::new()
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/chat/completions/control", post(control::control))
        .route("/v1/completions", post(completions::create))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{name}", get(models::one))
        .route("/v1/responses", post(responses::create))
        .route("/metrics", get(scrape::metrics))
        .route("/props", get(props::props))
        .route("/tokenize", post(tokenize::tokenize))
        .route("/detokenize", post(tokenize::detokenize))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&app), auth::check));
    // Those who watch a server, and people who look at its page, have no key yet.
    let open = Router::new()
        .route("/", get(page::page))
        .route("/health", get(health::health))
        .route("/openapi.json", get(openapi::description));
    layered(guarded.merge(open), app)
}

/// The routes with what every request goes through.
fn layered(routes: Router<Arc<App>>, app: Arc<App>) -> Router {
    routes
        .method_not_allowed_fallback(async || {
            let status = StatusCode::METHOD_NOT_ALLOWED;
            ApiError::refused(status, "method_not_allowed", "the address takes another method")
        })
        .fallback(async || {
            ApiError::refused(StatusCode::NOT_FOUND, "not_found", "there is nothing at this address")
        })
        .layer(DefaultBodyLimit::max(MOST_BYTES))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), counted))
        .with_state(app)
}

/// A panic is the error of the request that had it.
fn panicked(payload: Box<dyn Any + Send>) -> Response {
    let what = payload.downcast_ref::<String>().map(String::as_str);
    let what = what.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message");
    ApiError::internal(format!("a fault of the server: {what}")).into_response()
}

/// Counts the errors.
async fn counted(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let status = response.status();
    if status.is_client_error() || status.is_server_error() {
        app.metrics.refused.with_label_values(&[status.as_str()]).inc();
    }
    response
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::super::options::ServeOptions;
    use super::*;

    async fn panics() -> &'static str {
        panic!("a handler's panic")
    }

    /// The next, on the same connection, is answered as ever.
    #[test]
    fn a_panic_is_of_its_request_alone() {
        let app = Arc::new(App::new(ServeOptions::default()).unwrap());
        let routes = Router::new().route("/panics", get(panics)).route("/good", get(async || "good"));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let router = layered(routes, Arc::clone(&app)).into_make_service();
        runtime.spawn(async move { axum_server::from_tcp(listener).unwrap().serve(router).await });
        let mut stream = TcpStream::connect(address).unwrap();
        let get = |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nhost: a\r\n{more}\r\n");
        let both = get("/panics", "") + &get("/good", "connection: close\r\n");
        stream.write_all(both.as_bytes()).unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        assert!(said.starts_with("HTTP/1.1 500 ") && said.contains("a handler's panic"), "{said}");
        assert!(said.contains("}HTTP/1.1 200 ") && said.ends_with("good"), "{said}");
        assert_eq!(app.metrics.refused.with_label_values(&["500"]).get(), 1);
    }
}
