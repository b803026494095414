//! Requests that join and leave a running batch between steps.
//!
//! A [`Scheduler`] has a thread of its own that runs a batch on a loaded model. Whoever submits a request has a
//! [`Handle`]: an iterator over what happens to it. Requests run first come, first served, as many at a time as the cache
//! has room for; nothing that runs is ever put out for another.

mod apart;
mod handle;
mod inbox;
mod options;
mod seats;
mod served;
mod update;
mod worker;

pub use handle::{Control, Handle};
pub use inbox::SchedulerLoad;
pub use options::SchedulerOptions;
pub(crate) use served::Served;
pub use update::{Completed, Ending, Timings, Update, Usage};

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use inbox::{Client, Coming, Inbox, News, Signals};

use super::adapters::AdapterIndex;
use super::generate::room;
use super::loaded::Loaded;
use super::request::Request;
use crate::device::Device;
use crate::{Error, Result};

/// Runs requests together that come one by one, each from its submission to its end; made by
/// [`Engine::scheduler`](crate::Engine::scheduler).
///
/// Between two steps of the requests that run, others join them or leave, their prompts are read in pieces, and the rows of
/// the cache that one leaves are the next one's. A request gives what it gives alone: on `cpu` to the bit, in any company
/// and any order of arrival, as [`Engine::generate`](crate::Engine::generate) does; on CUDA devices up to the rounding of
/// products over another number of rows, and of the decoder, by which `generate` runs a few requests there and the scheduler
/// does not.
///
/// An error or a panic is that of the request that has it. Dropping the scheduler cancels what is still there.
pub struct Scheduler {
    model: Arc<dyn Served>,
    /// The adapter of requests that name none.
    own: AdapterIndex,
    options: SchedulerOptions,
    inbox: Arc<Inbox>,
    worker: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scheduler").field("options", &self.options).field("load", &self.load()).finish()
    }
}

/// Closes the inbox when the worker ends, by a panic too, so that nobody submits to a dead one, and whoever waits hears
/// of it.
struct Closes<'a>(&'a Inbox);

impl Drop for Closes<'_> {
    fn drop(&mut self) {
        self.0.close(Coming::Stop);
        self.0.pull(|_| true);
    }
}

/// The life of the worker; `begun` hears whether it could begin.
fn work(model: &dyn Served, options: &SchedulerOptions, inbox: &Inbox, begun: &Sender<Result<()>>) {
    let _closes = Closes(inbox);
    let mut is_ready = false;
    let ended = model.serve(options, inbox, &mut || {
        is_ready = true;
        let _ = begun.send(Ok(()));
    });
    match ended {
        Ok(()) => {}
        Err(error) if is_ready => tracing::error!("the scheduler stops: {error}"),
        // Whoever started it waits for this.
        Err(error) => drop(begun.send(Err(error))),
    }
}

impl Scheduler {
    /// Starts a scheduler on a model, where requests that name no adapter run under `own`.
    pub(crate) fn start(
        model: Arc<dyn Served>,
        own: Option<usize>,
        options: SchedulerOptions,
    ) -> Result<Self> {
        options.validate()?;
        let inbox = Arc::new(Inbox::new(options.max_queued, options.max_queued_tokens));
        let (begun, hears) = channel();
        let worker = {
            let (model, inbox, options) = (Arc::clone(&model), Arc::clone(&inbox), options.clone());
            std::thread::Builder::new()
                .name("colar-scheduler".to_owned())
                .spawn(move || work(model.as_ref(), &options, &inbox, &begun))
                .map_err(|e| Error::other(format!("cannot start the scheduler's thread: {e}")))?
        };
        let scheduler = Scheduler { model, own, options, inbox, worker: Some(worker) };
        hears.recv().unwrap_or_else(|_| Err(Error::other("the scheduler's thread ended")))?;
        Ok(scheduler)
    }

    /// Appends a request to the queue.
    ///
    /// # Errors
    /// Sampling values out of range, a method that the model has no head for, an adapter that is not there, a request that can need more positions than
    /// the cache has; [`Error::QueueFull`] where as many requests or tokens wait as may.
    pub fn submit(&self, request: &Request) -> Result<Handle> {
        self.append(request, None)
    }

    /// As [`submit`](Scheduler::submit), and ends the request at `deadline` with what there is.
    ///
    /// # Errors
    /// As [`submit`](Scheduler::submit).
    pub fn submit_until(&self, request: &Request, deadline: Instant) -> Result<Handle> {
        self.append(request, Some(deadline))
    }

    fn append(&self, request: &Request, deadline: Option<Instant>) -> Result<Handle> {
        let submitted = Instant::now();
        let prepared = self.model.prepare(request, self.own)?;
        let (room, positions) = (room(&prepared), self.options.positions());
        if room > positions {
            return Err(Error::usage(format!(
                "the request can need {room} positions, and `cache_positions` has {positions}: shorten the prompt, or lower \
                 `max_latents`, `max_cot_tokens` or `max_new_tokens`"
            )));
        }
        let (updates, receiver) = channel();
        let signals = Arc::new(Signals::default());
        let news = News::new(updates, Arc::clone(&signals));
        let client = Client { signals: Arc::clone(&signals), news, submitted, deadline };
        self.inbox.submit(prepared, room, client)?;
        Ok(Handle::new(receiver, signals))
    }

    /// How busy it is; as of the last step, but for the length of the queue.
    pub fn load(&self) -> SchedulerLoad {
        self.inbox.load()
    }

    /// Takes no more requests, and waits until those that are there have ended.
    pub fn finish(mut self) {
        self.inbox.close(Coming::NoMore);
        self.join();
    }

    fn join(&mut self) {
        if let Some(worker) = self.worker.take() {
            // Its panic has been reported where it happened, and its requests have failed.
            let _ = worker.join();
        }
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.inbox.close(Coming::Stop);
        self.join();
    }
}

impl<D: Device> Loaded<D> {
    /// Starts a scheduler on this model.
    ///
    /// # Errors
    /// Options out of range, and too little memory for the cache.
    pub fn scheduler(self: Arc<Self>, options: SchedulerOptions) -> Result<Scheduler> {
        Scheduler::start(self, None, options)
    }
}
