//! The way from those who submit requests to the thread that runs them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::update::Update;
use crate::infer::sequence::Prepared;
use crate::{Error, Result};

/// Wishes of other threads for a request that is on its way.
#[derive(Debug, Default)]
pub(super) struct Signals {
    pub cancel: AtomicBool,
    pub end_reasoning: AtomicBool,
}

impl Signals {
    pub(super) fn set(flag: &AtomicBool) {
        flag.store(true, Ordering::Release);
    }

    pub(super) fn is_set(flag: &AtomicBool) -> bool {
        flag.load(Ordering::Acquire)
    }
}

/// The one who submitted a request.
pub(super) struct Client {
    pub signals: Arc<Signals>,
    pub updates: Sender<Update>,
    pub submitted: Instant,
    pub deadline: Option<Instant>,
}

/// A request that waits.
pub(super) struct Job {
    /// Its number in events.
    pub id: usize,
    pub prepared: Prepared,
    /// Positions that it can need.
    pub room: usize,
    pub client: Client,
}

/// How busy a scheduler is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SchedulerLoad {
    /// Requests that wait.
    pub queued: usize,
    /// Requests that run, those that read their prompts included.
    pub running: usize,
    /// Positions of the cache.
    pub cache_positions: usize,
    /// Positions set aside for the requests that run.
    pub used_positions: usize,
    /// Positions of prompts that are kept, which give way to requests.
    pub kept_positions: usize,
}

/// Whether more requests come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coming {
    /// They may.
    More,
    /// No; those that are there run to their ends.
    NoMore,
    /// No; those that are there are cancelled.
    Stop,
}

struct State {
    queue: VecDeque<Job>,
    coming: Coming,
    load: SchedulerLoad,
    next_id: usize,
}

/// Requests that wait, first come, first served.
pub(crate) struct Inbox {
    state: Mutex<State>,
    arrived: Condvar,
    max_queued: usize,
}

impl Inbox {
    pub(super) fn new(max_queued: usize) -> Self {
        let state = State {
            queue: VecDeque::new(),
            coming: Coming::More,
            load: SchedulerLoad::default(),
            next_id: 0,
        };
        Inbox { state: Mutex::new(state), arrived: Condvar::new(), max_queued }
    }

    /// The state is whole whenever the lock is free, so a panic of another thread leaves it good.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a request to the queue, whose client hears that it waits.
    pub(super) fn submit(&self, prepared: Prepared, room: usize, client: Client) -> Result<()> {
        let mut state = self.lock();
        if state.coming != Coming::More {
            return Err(Error::other("the scheduler has stopped"));
        }
        let ahead = state.queue.len();
        if ahead >= self.max_queued {
            return Err(Error::QueueFull { queued: ahead });
        }
        let id = state.next_id;
        state.next_id += 1;
        // Whoever is not there to hear it is found out at the first step.
        let _ = client.updates.send(Update::Queued { ahead });
        state.queue.push_back(Job { id, prepared, room, client });
        state.load.queued = state.queue.len();
        drop(state);
        self.arrived.notify_one();
        Ok(())
    }

    /// How busy the scheduler is.
    pub(super) fn load(&self) -> SchedulerLoad {
        self.lock().load
    }

    /// Says what comes; nothing that was said is taken back.
    pub(super) fn close(&self, coming: Coming) {
        let mut state = self.lock();
        if state.coming != Coming::Stop {
            state.coming = coming;
        }
        drop(state);
        self.arrived.notify_one();
    }

    /// For the worker: sleeps while it is `idle` and nothing waits; says what comes.
    pub(super) fn wait(&self, idle: bool) -> Coming {
        let mut state = self.lock();
        while idle && state.queue.is_empty() && state.coming == Coming::More {
            state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.coming
    }

    /// For the worker: looks at the first in the queue.
    pub(super) fn peek<T>(&self, look: impl FnOnce(&Job) -> T) -> Option<T> {
        self.lock().queue.front().map(look)
    }

    /// For the worker: takes the first out of the queue.
    pub(super) fn pop(&self) -> Option<Job> {
        let mut state = self.lock();
        let job = state.queue.pop_front();
        state.load.queued = state.queue.len();
        job
    }

    /// For the worker: takes out all of the queue for which `leaves` holds.
    pub(super) fn pull(&self, leaves: impl Fn(&Job) -> bool) -> Vec<Job> {
        let mut state = self.lock();
        if !state.queue.iter().any(&leaves) {
            return Vec::new();
        }
        let (out, stay): (Vec<Job>, Vec<Job>) = state.queue.drain(..).partition(leaves);
        state.queue.extend(stay);
        state.load.queued = state.queue.len();
        out
    }

    /// For the worker: reports all but the length of the queue.
    pub(super) fn report(&self, load: SchedulerLoad) {
        let mut state = self.lock();
        state.load = SchedulerLoad { queued: state.queue.len(), ..load };
    }
}
