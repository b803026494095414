//! The requests that are being answered, by their ids.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::Control;

/// The requests that are being answered, by their ids.
#[derive(Default, Clone)]
pub(super) struct Running {
    controls: Arc<Mutex<HashMap<String, Vec<Control>>>>,
}

/// A request among those that are being answered, until it is dropped.
pub(super) struct Entry {
    running: Running,
    pub id: String,
}

impl Running {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Vec<Control>>> {
        self.controls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a request up, before it is submitted: a server that stops counts it from then on.
    pub(super) fn enter(&self, id: String) -> Entry {
        self.lock().insert(id.clone(), Vec::new());
        Entry { running: self.clone(), id }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Ends the reasoning of a request; whether there is one of this id.
    pub(super) fn end_reasoning(&self, id: &str) -> bool {
        let running = self.lock();
        running.get(id).into_iter().flatten().for_each(Control::end_reasoning);
        running.contains_key(id)
    }

    /// Cancels all.
    pub(super) fn cancel(&self) {
        self.lock().values().flatten().for_each(Control::cancel);
    }
}

impl Entry {
    /// The controls of its answers, once it is submitted.
    pub(super) fn steer(&self, controls: Vec<Control>) {
        self.running.lock().insert(self.id.clone(), controls);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.running.lock().remove(&self.id);
    }
}
