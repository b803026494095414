//! The state that all requests of a server share.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::ApiError;
use super::metrics::Metrics;
use super::options::ServeOptions;
use super::running::Running;
use crate::model::prompt::Method;
use crate::{Engine, Error, Result, Scheduler};

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

/// The model, once it is loaded, and its adapters.
pub(super) struct Model {
    pub scheduler: Scheduler,
    pub base: Named,
    pub adapters: Vec<Named>,
}

/// The model alone or under an adapter, as requests name it.
pub(super) struct Named {
    pub name: String,
    /// The adapter that its requests have.
    pub adapter: Option<String>,
    pub engine: Engine,
    /// How questions are answered.
    pub method: Method,
}

impl Named {
    /// A bare model reasons in words.
    fn new(name: &str, adapter: Option<&str>, engine: Engine) -> Self {
        let method = engine.default_method().unwrap_or(Method::Cot);
        Named { name: name.to_owned(), adapter: adapter.map(str::to_owned), engine, method }
    }
}

impl Model {
    /// Starts a scheduler for the engine and its adapters.
    ///
    /// # Errors
    /// An adapter with the model's own name, and those of [`Engine::scheduler`].
    pub(super) fn new(engine: Engine, options: &ServeOptions) -> Result<Self> {
        let own = &options.model_name;
        if engine.adapters().contains(&own.as_str()) {
            return Err(Error::usage(format!("`adapters`: {own:?} is the name of the model itself")));
        }
        let scheduler = engine.scheduler(options.scheduler())?;
        let adapter = |name: &&str| Ok(Named::new(name, Some(name), engine.with_adapter(name)?));
        let adapters = engine.adapters().iter().map(adapter).collect::<Result<_>>()?;
        Ok(Model { scheduler, base: Named::new(own, None, engine), adapters })
    }

    /// The models that requests can name: that without adapters, then its adapters.
    pub(super) fn all(&self) -> impl Iterator<Item = &Named> {
        std::iter::once(&self.base).chain(&self.adapters)
    }

    /// The model that a request names, or where it names none the only one.
    ///
    /// # Errors
    /// Status 404 for a name that none has, 400 for none where there are several.
    pub(super) fn named(&self, asked: Option<&String>) -> Result<&Named, ApiError> {
        let names = || self.all().map(|named| named.name.as_str()).collect::<Vec<_>>();
        match asked {
            Some(asked) => self
                .all()
                .find(|named| named.name == *asked)
                .ok_or_else(|| ApiError::no_model(asked, &names())),
            None if self.adapters.is_empty() => Ok(&self.base),
            None => Err(ApiError::which_model(&names())),
        }
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
