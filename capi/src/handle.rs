//! Requests on their way through a scheduler.

use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use engine::{Completed, Control, Engine, Error, Result, Update};

use crate::error::guard;
use crate::event::{Event, News, Teller};
use crate::generation::{Generation, of_completed};

/// A request on its way through a scheduler.
pub struct Handle {
    engine: Engine,
    /// Beside the lock: a request is steered while another thread waits for its events.
    control: Control,
    state: Mutex<State>,
}

struct State {
    updates: engine::Handle,
    teller: Teller,
    end: End,
}

/// How far the request is.
enum End {
    Open,
    Done(Box<Completed>),
    /// The error has been told; this is its line.
    Failed(String),
}

/// The result of colar_handle_next().
#[repr(C)]
#[derive(Clone, Copy)]
pub enum Next {
    /// The request failed, it alone, or the call is wrong; colar_last_error() says how.
    Error = -1,
    /// There was no event in that time.
    Timeout = 0,
    /// An event.
    Event = 1,
    /// The request has ended, and all its events were given.
    End = 2,
}

impl Handle {
    pub fn new(engine: Engine, updates: engine::Handle) -> Self {
        let control = updates.control();
        let state = State { updates, teller: Teller::default(), end: End::Open };
        Handle { engine, control, state: Mutex::new(state) }
    }

    /// # Safety
    /// `handle` is NULL, or of colar_scheduler_submit() and not freed during the call.
    unsafe fn given<'a>(handle: *const Handle) -> Result<&'a Handle> {
        // SAFETY: the same contract; handles are only ever shared.
        unsafe { handle.as_ref() }.ok_or_else(|| Error::usage("`handle` is NULL"))
    }

    /// A panic under the lock leaves at worst a text that was not given.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The next update, within `time` if one is given.
    fn update(&mut self, time: Option<Duration>) -> Option<Update> {
        match time {
            Some(time) if time.is_zero() => self.updates.try_next(),
            Some(time) => self.updates.next_within(time),
            None => self.updates.next(),
        }
    }

    /// The event of an update; `None` for one that this library does not know.
    fn event(&mut self, engine: &Engine, update: Update) -> Result<Option<Event>> {
        let news = match update {
            Update::Queued { ahead } => News::Queued { ahead },
            Update::Prefilled => News::Prefilled,
            Update::Latent { number } => News::Latent { number },
            Update::Token { id } => News::Token { id },
            Update::Done(completed) => {
                self.end = End::Done(completed);
                News::Done
            }
            Update::Failed(error) => {
                self.end = End::Failed(error.to_string());
                return Err(error);
            }
            _ => return Ok(None),
        };
        self.teller.event(engine, &news).map(Some)
    }
}

/// Waits for the next event of a request and writes it to `event`: at most `timeout_ms` milliseconds; 0 does not wait, and a
/// negative number waits as long as it takes. Several threads may call it, but each event goes to one of them, and takes back
/// what the one before lent. The last event is COLAR_EVENT_KIND_DONE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn colar_handle_next(
    handle: *const Handle,
    timeout_ms: i64,
    event: *mut Event,
) -> Next {
    guard(Next::Error, || {
        // SAFETY: the caller keeps to the header: the handle is there.
        let handle = unsafe { Handle::given(handle) }?;
        if event.is_null() {
            return Err(Error::usage("`event` is NULL"));
        }
        let time = u64::try_from(timeout_ms).ok().map(Duration::from_millis);
        let mut state = handle.lock();
        loop {
            if !matches!(state.end, End::Open) {
                return Ok(Next::End);
            }
            let Some(update) = state.update(time) else { return Ok(Next::Timeout) };
            if let Some(told) = state.event(&handle.engine, update)? {
                // SAFETY: it is not NULL, and by the header there is room for an event; its old value needs no care.
                unsafe { event.write(told) };
                return Ok(Next::Event);
            }
        }
    })
}

/// Cancels a request from any thread: it ends before its next step, or where it waits, with what there is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn colar_handle_cancel(handle: *const Handle) {
    guard((), || {
        // SAFETY: the caller keeps to the header: the handle is there.
        unsafe { Handle::given(handle) }?.control.cancel();
        Ok(())
    });
}

/// Ends the reasoning of a request after its next latent or token, from any thread: the answer follows from what was reasoned
/// so far.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn colar_handle_end_reasoning(handle: *const Handle) {
    guard((), || {
        // SAFETY: the caller keeps to the header: the handle is there.
        unsafe { Handle::given(handle) }?.control.end_reasoning();
        Ok(())
    });
}

/// Waits for the end of a request, passing over events that were not read, and gives what it made; once more at each call.
/// The caller owns the generation; NULL where the request failed, and on error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn colar_handle_wait(handle: *const Handle) -> *mut Generation {
    guard(ptr::null_mut(), || {
        // SAFETY: the caller keeps to the header: the handle is there.
        let handle = unsafe { Handle::given(handle) }?;
        let mut state = handle.lock();
        while matches!(state.end, End::Open) {
            match state.updates.next() {
                Some(Update::Done(completed)) => state.end = End::Done(completed),
                Some(Update::Failed(error)) => state.end = End::Failed(error.to_string()),
                Some(_) => {}
                None => state.end = End::Failed("the request has ended without a result".to_owned()),
            }
        }
        match &state.end {
            End::Done(completed) => Ok(of_completed(completed.as_ref().clone())),
            End::Failed(line) => Err(Error::other(line.clone())),
            End::Open => Err(Error::other("the request has not ended")),
        }
    })
}

/// Frees a handle; a request that has not ended is cancelled.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn colar_handle_free(handle: *mut Handle) {
    guard((), || {
        if !handle.is_null() {
            // SAFETY: it is of colar_scheduler_submit(), and by the header nobody uses it any more.
            drop(unsafe { Box::from_raw(handle) });
        }
        Ok(())
    });
}
