//! SIGINT, SIGTERM and SIGHUP: the first asks what runs to stop, the second ends the process at once.

use std::sync::atomic::{AtomicI32, Ordering};

use crate::train::Stop;
use crate::{Error, Result};

/// The signal that asked the run to stop; 0 for none.
static RECEIVED: AtomicI32 = AtomicI32::new(0);

/// Turns the first of these signals into a request to stop a run after its step, with its state saved.
///
/// # Errors
/// As [`watch`].
pub fn stop() -> Result<Stop> {
    let stop = Stop::default();
    let request = stop.clone();
    // Files are replaced whole, so the second signal is no worse than a kill.
    watch("stopping after this step; once more stops at once, without saving", move || request.request())?;
    Ok(stop)
}

/// Calls `first` and says `note` at the first of these signals, and lets the next end the process.
///
/// # Errors
/// When the operating system refuses the handlers or the thread that waits for them.
#[cfg(unix)]
pub fn watch(note: &'static str, first: impl FnOnce() + Send + 'static) -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;

    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(Error::io("signal handlers"))?;
    let mut first = Some(first);
    let wait = move || {
        for signal in &mut signals {
            let Some(first) = first.take() else { std::process::exit(128 + signal) };
            RECEIVED.store(signal, Ordering::Relaxed);
            first();
            super::terminal::note(note);
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(wait).map_err(Error::io("a thread"))?;
    Ok(())
}

/// No signals are caught.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn watch(_: &'static str, _: impl FnOnce() + Send + 'static) -> Result<()> {
    Ok(())
}

/// The exit code of a process that ended early because of a signal, by the shell's convention.
pub fn exit_code() -> u8 {
    u8::try_from(128 + RECEIVED.load(Ordering::Relaxed)).unwrap_or(1)
}

/// Passes a run's end on. Of one that was asked to stop, says how to go on with it: `again` is the command.
///
/// # Errors
/// That of the run.
pub fn resumable<T>(ended: Result<T>, again: &str) -> Result<T> {
    if let Err(e @ Error::Interrupted { .. }) = &ended {
        super::terminal::note(format!("{e}; go on with: {again}"));
    }
    ended
}
