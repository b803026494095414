//! Who is let in.

use std::path::Path;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;
use subtle::{Choice, ConstantTimeEq};

use super::app::App;
use super::error::ApiError;
use crate::{Error, Result};

/// The keys of a file, one a line; blank lines and those that begin with `#` hold none.
///
/// # Errors
/// A file that cannot be read, that holds no key, or a key that no header can carry.
pub fn api_keys(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    let mut keys = Vec::new();
    for (line, key) in (1..).zip(text.lines().map(str::trim)) {
        if key.is_empty() || key.starts_with('#') {
            continue;
        }
        if !key.bytes().all(|b| b.is_ascii_graphic()) {
            let what = "a key consists of visible ASCII characters".to_owned();
            return Err(Error::Line { path: path.to_owned(), line, what });
        }
        keys.push(key.to_owned());
    }
    if keys.is_empty() {
        return Err(Error::file(path, "holds no key"));
    }
    Ok(keys)
}

/// Whether the headers carry one of the keys. Every key is compared whole, so that the time tells nothing but its length.
fn admits(keys: &[String], headers: &HeaderMap) -> bool {
    let given = headers.get(header::AUTHORIZATION).map_or(&[][..], |value| value.as_bytes());
    let (scheme, given) = given.split_at(given.len().min("Bearer ".len()));
    let among = keys.iter().fold(Choice::from(0), |found, key| found | key.as_bytes().ct_eq(given));
    scheme.eq_ignore_ascii_case(b"Bearer ") && bool::from(among)
}

/// Lets requests with a key through, and all where no key is asked for.
pub(super) async fn check(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let keys = &app.options.api_keys;
    if keys.is_empty() || admits(keys, request.headers()) {
        Ok(next.run(request).await)
    } else {
        Err(ApiError::unauthorized())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_compared_whole() {
        let keys = ["secret".to_owned(), "other-key".to_owned()];
        let admitted = |value: &str| {
            admits(&keys, &HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]))
        };
        for value in ["Bearer secret", "bearer other-key"] {
            assert!(admitted(value), "{value}");
        }
        for value in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer secre",
            "Bearer secret2",
            "secret",
            "Basic secret",
            "Bearer  secret",
        ] {
            assert!(!admitted(value), "{value}");
        }
        assert!(!admits(&keys, &HeaderMap::new()));
    }

    #[test]
    fn keys_stand_a_line_each() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            api_keys(&path)
        };
        assert_eq!(read("# ours\n\n one \r\ntwo\n").unwrap(), ["one", "two"]);
        assert!(read("# none\n").unwrap_err().to_string().ends_with("keys: holds no key"));
        assert!(read("one\nt wo\n").unwrap_err().to_string().contains("keys, line 2: "));
    }
}
