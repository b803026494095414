//! The engine's warnings, in Python's logging.

use std::sync::Once;

use colar_engine::report;
use pyo3::prelude::*;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// The logger that warnings go to.
const LOGGER: &str = "colar_engine";

/// From now on warnings and errors that the engine logs are those of the logger `colar_engine`. The command line, which has
/// none of this, prints them itself.
pub fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Where there is a subscriber already, it has them.
        let _ = tracing_subscriber::registry().with(ToLogging.with_filter(LevelFilter::WARN)).try_init();
    });
}

/// Hands events to the logger.
struct ToLogging;

impl<S: Subscriber> Layer<S> for ToLogging {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let line = report::line(event);
        let method = if *event.metadata().level() == Level::ERROR { "error" } else { "warning" };
        // An interpreter that is ending hears of nothing any more, and a handler that fails is no fault of the work.
        let _ = Python::try_attach(|py| -> PyResult<()> {
            let logger = py.import("logging")?.call_method1("getLogger", (LOGGER,))?;
            logger.call_method1(method, (line,))?;
            Ok(())
        });
    }
}
