//! Asking a run to stop at a place from which it can go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Error, Result};

/// A request that a run stop once the step it is in is done and its state saved. Clones share the request, so it can
/// be made from another thread, for instance one that waits for signals.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Asks for it.
    pub fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked for.
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Nothing, or the error with which a run that has done `step` steps ends at once.
    pub(crate) fn check(&self, step: u64) -> Result<()> {
        if self.requested() { Err(Error::Interrupted { step }) } else { Ok(()) }
    }
}
