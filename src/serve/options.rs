//! How a server listens, and how much it takes on.

use std::path::PathBuf;
use std::time::Duration;

use crate::SchedulerOptions;

/// How a [`Server`](super::Server) listens, and how much it takes on.
///
/// ```
/// use colar_engine::serve::ServeOptions;
///
/// let options = ServeOptions::default().port(0).model_name("SmolLM2-135M").max_concurrency(8);
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServeOptions {
    /// The name or address to listen on.
    pub host: String,
    /// The port to listen on; 0 takes a free one.
    pub port: u16,
    /// The model's name in `/v1/models`, which requests may state.
    pub model_name: String,
    /// Keys of which a request must carry one; none lets everybody in.
    pub api_keys: Vec<String>,
    /// Certificate and key for HTTPS; `None` is HTTP.
    pub tls: Option<TlsFiles>,
    /// Most answers that are computed at the same time.
    pub max_concurrency: usize,
    /// Most answers that wait; beyond it requests are refused with the status 429.
    pub max_queued_requests: usize,
    /// Most tokens of prompts that wait; beyond it requests are refused with the status 429.
    pub max_queued_tokens: usize,
    /// Positions of the cache, of which a request takes as many as it can need.
    pub cache_positions: usize,
    /// The time after which a request ends with an error, waiting included.
    pub request_timeout: Option<Duration>,
    /// The time that requests have to end when the server is asked to stop.
    pub grace_period: Duration,
}

setters!(ServeOptions {
    port: u16,
    max_concurrency: usize,
    max_queued_requests: usize,
    max_queued_tokens: usize,
    cache_positions: usize,
    grace_period: Duration,
});
setters!(ServeOptions into {
    host: String,
    model_name: String,
    api_keys: Vec<String>,
    tls: Option<TlsFiles>,
    request_timeout: Option<Duration>,
});

/// The files of a certificate, in PEM.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The certificate, and those between it and an authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl Default for ServeOptions {
    fn default() -> Self {
        ServeOptions {
            host: "127.0.0.1".to_owned(),
            port: 8080,
            model_name: "colar".to_owned(),
            api_keys: Vec::new(),
            tls: None,
            max_concurrency: 16,
            max_queued_requests: 256,
            max_queued_tokens: 1 << 16,
            cache_positions: 8192,
            request_timeout: None,
            grace_period: Duration::from_secs(30),
        }
    }
}

impl ServeOptions {
    /// The options of the scheduler behind the server.
    pub(super) fn scheduler(&self) -> SchedulerOptions {
        SchedulerOptions::default()
            .max_running(self.max_concurrency)
            .max_queued(self.max_queued_requests)
            .max_queued_tokens(self.max_queued_tokens)
            .cache_positions(self.cache_positions)
    }
}
