//! The way from those who submit requests to the thread that runs them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Instant;

use super::update::Update;
use crate::infer::sequence::Prepared;
use crate::{Error, Result};

/// Wishes of other threads for a request that is on its way, and who is to hear of its news.
#[derive(Debug, Default)]
pub(super) struct Signals {
    pub cancel: AtomicBool,
    pub end_reasoning: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Signals {
    pub(super) fn set(flag: &AtomicBool) {
        flag.store(true, Ordering::Release);
    }

    pub(super) fn is_set(flag: &AtomicBool) -> bool {
        flag.load(Ordering::Acquire)
    }

    /// Has the task woken at the next news.
    pub(super) fn wake_at_news(&self, waker: &Waker) {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker.clone());
    }

    fn wake(&self) {
        let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The end of a request's news at which they are told.
pub(super) struct News {
    /// `None` once nothing more is told.
    updates: Option<Sender<Update>>,
    signals: Arc<Signals>,
}

impl News {
    pub(super) fn new(updates: Sender<Update>, signals: Arc<Signals>) -> Self {
        News { updates: Some(updates), signals }
    }

    /// Tells the update; whether somebody is there to hear it.
    pub(super) fn tell(&self, update: Update) -> bool {
        let heard = self.updates.as_ref().is_some_and(|updates| updates.send(update).is_ok());
        self.signals.wake();
        heard
    }
}

impl Drop for News {
    fn drop(&mut self) {
        // A task that is woken must find the channel closed.
        self.updates = None;
        self.signals.wake();
    }
}

/// The one who submitted a request.
pub(super) struct Client {
    pub signals: Arc<Signals>,
    pub news: News,
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
    /// Tokens of their prompts.
    pub queued_tokens: usize,
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

impl State {
    fn count_queue(&mut self) {
        self.load.queued = self.queue.len();
        self.load.queued_tokens = self.queue.iter().map(|job| job.prepared.prompt_ids.len()).sum();
    }
}

/// Requests that wait, first come, first served.
pub(crate) struct Inbox {
    state: Mutex<State>,
    arrived: Condvar,
    max_queued: usize,
    max_queued_tokens: usize,
}

impl Inbox {
    pub(super) fn new(max_queued: usize, max_queued_tokens: usize) -> Self {
        let state = State {
            queue: VecDeque::new(),
            coming: Coming::More,
            load: SchedulerLoad::default(),
            next_id: 0,
        };
        Inbox { state: Mutex::new(state), arrived: Condvar::new(), max_queued, max_queued_tokens }
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
        let tokens = state.load.queued_tokens.saturating_add(prepared.prompt_ids.len());
        // A prompt may be longer than all that may wait; it then waits alone.
        if ahead >= self.max_queued || (ahead > 0 && tokens > self.max_queued_tokens) {
            return Err(Error::QueueFull { queued: ahead });
        }
        let id = state.next_id;
        state.next_id += 1;
        // Whoever is not there to hear it is found out at the first step.
        client.news.tell(Update::Queued { ahead });
        state.queue.push_back(Job { id, prepared, room, client });
        state.count_queue();
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
        state.count_queue();
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
        state.count_queue();
        out
    }

    /// For the worker: reports all but the queue.
    pub(super) fn report(&self, load: SchedulerLoad) {
        let mut state = self.lock();
        state.load = load;
        state.count_queue();
    }
}
