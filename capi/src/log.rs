//! The lines that the library logs, handed to a callback of C.
//!
//! The engine reports by `tracing` and writes nothing itself. The subscriber that hears it is set at the first callback,
//! for good, as it cannot be set twice; the callback behind it changes.

use std::cell::Cell;
use std::ffi::{c_char, c_void};
use std::panic::{self, PanicHookInfo};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use engine::{Error, report};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber, subscriber};

use crate::error::guard;
use crate::model::UserData;
use crate::text::c_string;

/// How much a line of the log is to be heeded.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum LogLevel {
    /// Something has failed.
    Error = 1,
    /// It goes on, though perhaps not as was meant.
    Warn = 2,
    /// Something was done as asked.
    Info = 3,
}

/// Hears a line of the log, without a line feed. The text lives as long as the call. It may run on any thread that works for
/// the library, on one at a time; lines that the library logs while it runs on that thread are lost.
pub type LogCallback =
    Option<unsafe extern "C" fn(level: LogLevel, text: *const c_char, user_data: *mut c_void)>;

/// Who hears the log.
struct Listener {
    callback: unsafe extern "C" fn(LogLevel, *const c_char, *mut c_void),
    user_data: UserData,
}

static LISTENER: Mutex<Option<Listener>> = Mutex::new(None);

thread_local! {
    /// Whether this thread has the listener: setting another, or logging more, would wait for itself.
    static HEARD: Cell<bool> = const { Cell::new(false) };
}

fn listener() -> MutexGuard<'static, Option<Listener>> {
    // It is replaced as a whole, so a panic leaves it good.
    LISTENER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Hands a line to the listener; whether there is one.
fn tell(level: LogLevel, text: &str) -> bool {
    let is_heard = |to: bool| HEARD.try_with(|heard| heard.replace(to));
    // A thread that is ending has no flag any more, and logs nothing.
    if is_heard(true).unwrap_or(true) {
        return false;
    }
    let listener = listener();
    if let Some(Listener { callback, user_data }) = &*listener {
        let text = c_string(text.lines().collect::<Vec<_>>().join(" "));
        // SAFETY: whoever set it vouches that it may be called with its pointer until another is set, which waits for the lock.
        unsafe { callback(level, text.as_ptr(), user_data.pointer()) };
    }
    let told = listener.is_some();
    drop(listener);
    let _ = is_heard(false);
    told
}

/// Hears the engine's reports, and those of no other crate.
struct Reports;

impl Subscriber for Reports {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event()
            && *metadata.level() <= Level::INFO
            && metadata.target().starts_with("colar_engine")
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::INFO)
    }

    fn event(&self, event: &Event<'_>) {
        let level = match *event.metadata().level() {
            Level::ERROR => LogLevel::Error,
            Level::WARN => LogLevel::Warn,
            _ => LogLevel::Info,
        };
        tell(level, &report::line(event));
    }

    // There are no spans: `enabled` takes events alone.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The message of a panic, which standard error would else have.
fn fault(info: &PanicHookInfo<'_>) -> String {
    let what = info.payload().downcast_ref::<String>().map(String::as_str);
    let what = what.or_else(|| info.payload().downcast_ref::<&str>().copied()).unwrap_or("no message");
    match info.location() {
        Some(place) => format!("a fault of the library at {place}: {what}"),
        None => format!("a fault of the library: {what}"),
    }
}

/// Has the reports of the engine and faults of the library told to the listener, from now on.
fn listen() {
    static LISTENS: Once = Once::new();
    LISTENS.call_once(|| {
        // It fails where a program in Rust has set one already, which then hears in its place.
        let _ = subscriber::set_global_default(Reports);
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !tell(LogLevel::Error, &fault(info)) {
                before(info);
            }
        }));
    });
}

/// Has `callback` hear the lines that the library logs, from now on and in place of the one before; NULL has nobody hear them, as
/// at the beginning. Once it returns, the one before is in no call any more, and is called no more. Returns false on error:
/// from within a callback of this kind, which cannot set another.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn colar_set_log_callback(callback: LogCallback, user_data: *mut c_void) -> bool {
    guard(false, || {
        if HEARD.try_with(Cell::get).unwrap_or(false) {
            return Err(Error::usage("`callback` cannot be set from within the one that is called"));
        }
        listen();
        let user_data = UserData::new(user_data);
        *listener() = callback.map(|callback| Listener { callback, user_data });
        Ok(true)
    })
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    unsafe extern "C" fn keep(level: LogLevel, text: *const c_char, user_data: *mut c_void) {
        // SAFETY: `user_data` is the list of the test, which outlives the callback, and lines come one at a time.
        let lines = unsafe { &mut *user_data.cast::<Vec<(u8, String)>>() };
        // SAFETY: the text ends in a NUL, and lives as long as the call.
        lines.push((level as u8, unsafe { CStr::from_ptr(text) }.to_str().unwrap().to_owned()));
        // Neither waits for itself.
        tracing::error!("within");
        // SAFETY: no callback is set.
        assert!(!unsafe { colar_set_log_callback(None, std::ptr::null_mut()) });
    }

    #[test]
    fn reports_and_faults_are_heard() {
        let mut lines: Vec<(u8, String)> = Vec::new();
        let place: *mut Vec<(u8, String)> = &raw mut lines;
        // SAFETY: the list lives until the callback is taken back.
        assert!(unsafe { colar_set_log_callback(Some(keep), place.cast()) });
        tracing::warn!(shape = 3, "two\nlines of {}", "text\0");
        tracing::debug!("too little");
        tracing::info!(target: "another_crate", "not ours");
        assert_eq!(guard(7, || panic!("out of cheese")), 7);
        // SAFETY: as above.
        assert!(unsafe { colar_set_log_callback(None, std::ptr::null_mut()) });
        tracing::error!("nobody hears it");
        assert_eq!(lines[0], (2, "two lines of text  shape=3".to_owned()));
        assert_eq!(lines[1].0, 1);
        assert!(lines[1].1.starts_with("a fault of the library at capi/src/log.rs:"), "{lines:?}");
        assert!(lines[1].1.ends_with(": out of cheese") && lines.len() == 2, "{lines:?}");
    }
}
