//! The state that all requests of a server share.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::ApiError;
use super::metrics::Metrics;
use super::options::ServeOptions;
use super::running::Running;
use crate::model::prompt::Method;
use crate::{Engine, Result, Scheduler};

/// The state that all requests of a server share.
pub(super) struct App {
    pub options: ServeOptions,
    pub metrics: Metrics,
    pub running: Running,
    /// Seconds since 1970 at the start.
    pub started: u64,
    model: OnceLock<Model>,
    stopping: AtomicBool,
}

/// The model, once it is loaded.
pub(super) struct Model {
    pub engine: Engine,
    pub scheduler: Scheduler,
    /// How questions are answered.
    pub method: Method,
}

impl Model {
    /// Starts a scheduler for the engine. A bare model reasons in words.
    pub(super) fn new(engine: Engine, options: &ServeOptions) -> Result<Self> {
        let scheduler = engine.scheduler(options.scheduler())?;
        let method = engine.default_method().unwrap_or(Method::Cot);
        Ok(Model { engine, scheduler, method })
    }
}

impl App {
    pub(super) fn new(options: ServeOptions) -> Result<Self> {
        Ok(App {
            options,
            metrics: Metrics::new()?,
            running: Running::default(),
            started: now(),
            model: OnceLock::new(),
            stopping: AtomicBool::new(false),
        })
    }

    /// Requests can come: the model is there.
    pub(super) fn ready(&self, model: Model) {
        // There is one loader, so there is none yet.
        let _ = self.model.set(model);
    }

    /// The model, while requests are taken.
    ///
    /// # Errors
    /// Status 503 before that and after it.
    pub(super) fn model(&self) -> Result<&Model, ApiError> {
        if self.stopping.load(Ordering::Acquire) {
            return Err(ApiError::stopping());
        }
        self.model.get().ok_or_else(ApiError::loading)
    }

    /// The model if it is loaded, whether or not requests are taken.
    pub(super) fn loaded(&self) -> Option<&Model> {
        self.model.get()
    }

    /// No more requests are taken.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
