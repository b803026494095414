//! A request on its way, as the one who submitted it has it.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::task::{Context, Poll};
use std::time::Duration;

use super::inbox::Signals;
use super::update::{Completed, Update};
use crate::{Error, Result};

/// A request on its way through a [`Scheduler`](crate::Scheduler): an iterator over its [`Update`]s, the last of which
/// is [`Update::Done`] or [`Update::Failed`].
///
/// Updates wait until they are read, and a slow reader holds up nobody. A request whose handle is dropped is cancelled.
#[derive(Debug)]
pub struct Handle {
    updates: Receiver<Update>,
    control: Control,
    over: bool,
}

/// Steers a request from any thread.
#[derive(Debug, Clone)]
pub struct Control {
    signals: Arc<Signals>,
}

impl Control {
    /// Ends the request before its next step, or where it waits; it is [done](Update::Done) with what there is.
    pub fn cancel(&self) {
        Signals::set(&self.signals.cancel);
    }

    /// Ends the reasoning after its next latent or token, as `max_latents` and `max_cot_tokens` do: the separator is fed,
    /// and the answer follows from what was reasoned so far. At least one latent is drawn in any case.
    pub fn end_reasoning(&self) {
        Signals::set(&self.signals.end_reasoning);
    }
}

impl Handle {
    pub(super) fn new(updates: Receiver<Update>, signals: Arc<Signals>) -> Self {
        Handle { updates, control: Control { signals }, over: false }
    }

    /// Steers the request, from another thread for instance.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// As [`Control::cancel`].
    pub fn cancel(&self) {
        self.control.cancel();
    }

    /// As [`Control::end_reasoning`].
    pub fn end_reasoning(&self) {
        self.control.end_reasoning();
    }

    /// The next update if there is one already.
    pub fn try_next(&mut self) -> Option<Update> {
        if self.over {
            return None;
        }
        match self.updates.try_recv() {
            Ok(update) => Some(self.passed(update)),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(self.lost()),
        }
    }

    /// The next update if it comes within `time`.
    pub fn next_within(&mut self, time: Duration) -> Option<Update> {
        if self.over {
            return None;
        }
        match self.updates.recv_timeout(time) {
            Ok(update) => Some(self.passed(update)),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(self.lost()),
        }
    }

    /// The next update, for tasks of an async runtime: where there is none yet, the task of `context` is woken when there is.
    /// `None` after the last.
    pub fn poll_next(&mut self, context: &Context<'_>) -> Poll<Option<Update>> {
        if let Some(update) = self.try_next() {
            return Poll::Ready(Some(update));
        }
        if self.over {
            return Poll::Ready(None);
        }
        self.control.signals.wake_at_news(context.waker());
        // One may have come before there was somebody to wake.
        self.try_next().map_or(Poll::Pending, |update| Poll::Ready(Some(update)))
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// That of a request that failed.
    pub fn wait(self) -> Result<Completed> {
        for update in self {
            match update {
                Update::Done(completed) => return Ok(*completed),
                Update::Failed(error) => return Err(error),
                _ => {}
            }
        }
        Err(ended_before())
    }

    fn passed(&mut self, update: Update) -> Update {
        self.over = matches!(update, Update::Done(_) | Update::Failed(_));
        update
    }

    fn lost(&mut self) -> Update {
        self.over = true;
        Update::Failed(ended_before())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Nobody will read what would follow.
        self.control.cancel();
    }
}

impl Iterator for Handle {
    type Item = Update;

    /// Waits for the next update; there is none after the last.
    fn next(&mut self) -> Option<Update> {
        if self.over {
            return None;
        }
        Some(match self.updates.recv() {
            Ok(update) => self.passed(update),
            Err(_) => self.lost(),
        })
    }
}

fn ended_before() -> Error {
    Error::other("the scheduler ended before the request did")
}
