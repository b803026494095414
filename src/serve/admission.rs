//! Whether a request is taken on.

use std::sync::Arc;
use std::time::Instant;

use super::app::App;
use super::error::ApiError;
use crate::{Error, Handle, Request};

/// Longest time after which a refused client is told to come again, in seconds.
const MOST_SECONDS: u64 = 60;

/// Submits all requests of one call, or none.
///
/// # Errors
/// Status 429 where the queue has no room, before anything is computed; status 400 for what the engine refuses.
pub(super) async fn submit(app: &Arc<App>, requests: Vec<Request>) -> Result<Vec<Handle>, ApiError> {
    let most = app.options.max_queued_requests;
    if requests.len() > most {
        return Err(ApiError::field(
            "n",
            format!("asks for {} answers, and {most} may wait", requests.len()),
        ));
    }
    // Known to be refused before its tokens are counted.
    let queued = app.model()?.scheduler.load().queued;
    if queued + requests.len() > most {
        return Err(full(app, queued));
    }
    let deadline = app.options.request_timeout.map(|time| Instant::now() + time);
    let for_blocking = Arc::clone(app);
    // A long prompt takes long to become tokens, and other requests go on meanwhile.
    let submitted = tokio::task::spawn_blocking(move || {
        let scheduler = &for_blocking.model()?.scheduler;
        let submit = |request: &Request| match deadline {
            Some(deadline) => scheduler.submit_until(request, deadline),
            None => scheduler.submit(request),
        };
        let handles: Result<Vec<Handle>, Error> = requests.iter().map(submit).collect();
        handles.map_err(|error| match error {
            Error::QueueFull { queued } => full(&for_blocking, queued),
            error => error.into(),
        })
    });
    submitted.await.map_err(|_| ApiError::internal("a fault of the engine"))?
}

/// The refusal of a request behind so many others, with the time in which these should have been answered.
fn full(app: &App, queued: usize) -> ApiError {
    let whole = &app.metrics.whole;
    let mean = whole.get_sample_sum() / whole.get_sample_count().max(1) as f64;
    let seconds = mean * queued as f64 / app.options.max_concurrency.max(1) as f64;
    let seconds = (seconds.ceil() as u64).clamp(1, MOST_SECONDS);
    ApiError::full(format!("the queue is full, with {queued} waiting"), seconds)
}
