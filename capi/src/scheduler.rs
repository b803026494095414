//! Schedulers: requests that come one by one, from any thread.

use std::ffi::c_char;
use std::ptr;
use std::time::{Duration, Instant};

use engine::{Engine, Error, Result, SchedulerOptions};

use crate::error::guard;
use crate::handle::Handle;
use crate::model::Model;
use crate::params::{self, RequestParams, SchedulerParams};
use crate::request;

/// Runs requests together that come one by one: they join a running batch and leave it between steps. Each gives what it
/// gives alone.
pub struct Scheduler {
    scheduler: engine::Scheduler,
    engine: Engine,
}

/// How busy a scheduler is.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Load {
    /// Requests that wait.
    pub queued: usize,
    /// Requests that run.
    pub running: usize,
    /// Positions of the cache.
    pub cache_positions: usize,
    /// Positions set aside for the requests that run.
    pub used_positions: usize,
    /// Positions of prompts that are kept, which give way to requests.
    pub kept_positions: usize,
}

/// # Safety
/// `scheduler` is NULL, or of colar_scheduler_start() and not freed during the call.
unsafe fn given<'a>(scheduler: *const Scheduler) -> Result<&'a Scheduler> {
    // SAFETY: the same contract; schedulers are only ever shared.
    unsafe { scheduler.as_ref() }.ok_or_else(|| Error::usage("`scheduler` is NULL"))
}

/// Starts a scheduler, which has a thread and a cache of its own. The caller owns it; NULL on error. The model may be freed
/// before it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn colar_scheduler_start(
    model: *const Model,
    params: *const SchedulerParams,
) -> *mut Scheduler {
    guard(ptr::null_mut(), || {
        // SAFETY: the caller keeps to the header: the model is there, parameters are whole.
        let (engine, params) = unsafe { (Model::given(model)?.engine.clone(), params::read(params)?) };
        let options = SchedulerOptions::default()
            .max_running(params.max_running as usize)
            .max_queued(params.max_queued as usize)
            .cache_positions(params.cache_positions as usize)
            .prefill_tokens(params.prefill_tokens as usize)
            .gather_steps(params.gather_steps as usize)
            .kept_prompts(params.kept_prompts as usize);
        let scheduler = engine.scheduler(options)?;
        Ok(Box::into_raw(Box::new(Scheduler { scheduler, engine })))
    })
}

/// Appends a request to the queue and returns at once. After `timeout_ms` milliseconds the request ends with what there is; 0:
/// it has as long as it takes. The caller owns the handle, by which the request is read and steered; NULL on error, with
/// COLAR_STATUS_QUEUE_FULL where as many wait as may.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn colar_scheduler_submit(
    scheduler: *const Scheduler,
    text: *const c_char,
    params: *const RequestParams,
    timeout_ms: u64,
) -> *mut Handle {
    guard(ptr::null_mut(), || {
        // SAFETY: the caller keeps to the header: the scheduler is there, texts end in a NUL, parameters are whole.
        let (Scheduler { scheduler, engine }, request) = unsafe {
            let scheduler = given(scheduler)?;
            (scheduler, request::given(&scheduler.engine, text, params)?)
        };
        // A time beyond what the clock can say is none.
        let deadline = Some(timeout_ms)
            .filter(|&ms| ms > 0)
            .and_then(|ms| Instant::now().checked_add(Duration::from_millis(ms)));
        let handle = match deadline {
            Some(deadline) => scheduler.submit_until(&request, deadline)?,
            None => scheduler.submit(&request)?,
        };
        Ok(Box::into_raw(Box::new(Handle::new(engine.clone(), handle))))
    })
}

/// How busy it is, as of its last step; all zeros on error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn colar_scheduler_get_load(scheduler: *const Scheduler) -> Load {
    guard(Load::default(), || {
        // SAFETY: the caller keeps to the header: the scheduler is there.
        let load = unsafe { given(scheduler) }?.scheduler.load();
        Ok(Load {
            queued: load.queued,
            running: load.running,
            cache_positions: load.cache_positions,
            used_positions: load.used_positions,
            kept_positions: load.kept_positions,
        })
    })
}

/// Waits until all requests have ended, and frees the scheduler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn colar_scheduler_finish_and_free(scheduler: *mut Scheduler) {
    guard((), || {
        if !scheduler.is_null() {
            // SAFETY: it is of colar_scheduler_start(), and by the header nobody uses it any more.
            unsafe { Box::from_raw(scheduler) }.scheduler.finish();
        }
        Ok(())
    });
}

/// Cancels all requests, and frees the scheduler. Handles remain, and give what there is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn colar_scheduler_free(scheduler: *mut Scheduler) {
    guard((), || {
        if !scheduler.is_null() {
            // SAFETY: it is of colar_scheduler_start(), and by the header nobody uses it any more.
            drop(unsafe { Box::from_raw(scheduler) });
        }
        Ok(())
    });
}
