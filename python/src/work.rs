//! Long work: on a thread of its own, so that the one that asked for it hears of signals.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use colar_engine::error::caught;
use colar_engine::{Error, Result};
use pyo3::prelude::*;

use crate::error::{Raised, raised};

/// How long a signal waits at most.
pub const HEARING: Duration = Duration::from_millis(50);

/// The error of work that ends because it was told to; nobody waits for it any more.
pub fn interrupted() -> Error {
    Error::other("interrupted")
}

/// Starts a thread; a panic of its work is an error of it.
pub fn start(py: Python<'_>, work: impl FnOnce() + Send + 'static) -> PyResult<()> {
    let started = std::thread::Builder::new().name("colar-python".to_owned()).spawn(work);
    started.map(drop).map_err(|e| Error::other(format!("cannot start a thread: {e}"))).raised(py)
}

/// Runs work without the interpreter's lock, and returns its result. A signal whose handler raises, as Ctrl-C, ends the call at
/// once; the flag that the work is given is then true, and it ends by itself.
pub fn run<T: Send + 'static>(
    py: Python<'_>,
    work: impl FnOnce(&AtomicBool) -> Result<T> + Send + 'static,
) -> PyResult<T> {
    let cancelled = Arc::new(AtomicBool::new(false));
    let (sender, mut receiver) = channel();
    let flag = Arc::clone(&cancelled);
    // Who was interrupted no longer listens.
    start(py, move || drop(sender.send(caught(|| work(&flag)))))?;
    loop {
        let received;
        (receiver, received) = py.detach(move || {
            let received = receiver.recv_timeout(HEARING);
            (receiver, received)
        });
        match received {
            Ok(result) => return result.raised(py),
            Err(RecvTimeoutError::Timeout) => {
                if let Err(signal) = py.check_signals() {
                    cancelled.store(true, Ordering::Relaxed);
                    return Err(signal);
                }
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(raised(py, &Error::other("the thread of the work ended")));
            }
        }
    }
}
