//! `/`: a page that asks a question and shows latents and answer as they come.

use axum::http::{HeaderValue, header};
use axum::response::{Html, IntoResponse, Response};

/// The page may load nothing, and talk to this server alone.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page.
pub(super) async fn page() -> Response {
    let mut response = Html(include_str!("page.html")).into_response();
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    response
}
