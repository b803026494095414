//! Parts of an experiment, several at a time.
//!
//! Some parts can begin only after others are done, so the workers share a [`Board`]: each takes a part from it,
//! performs it, and puts the outcome back, which may free others.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::{Error, Result};

/// The parts to be done, and the outcomes of those that are.
pub(super) trait Board: Send {
    /// A part to perform.
    type Part: Copy + Send;
    /// The outcome of a part.
    type Outcome: Send;

    /// The next part that may be begun; it is then no longer on the board. `None`: none, for now.
    fn take(&mut self) -> Option<Self::Part>;

    /// Notes the outcome of a part.
    ///
    /// # Errors
    /// An error that makes the remaining parts pointless.
    fn put(&mut self, part: Self::Part, outcome: Self::Outcome) -> Result<()>;
}

struct Shared<B> {
    board: B,
    running: usize,
    failed: Option<Error>,
    stop: bool,
}

/// Performs all parts of a board on `workers` threads and returns the board. `perform` gets the thread's number.
///
/// # Errors
/// The first error of a part; no part is begun after it, those under way are waited for.
pub(super) fn work<B: Board>(
    workers: usize,
    board: B,
    perform: impl Fn(usize, B::Part) -> Result<B::Outcome> + Sync,
) -> Result<B> {
    let shared = Mutex::new(Shared { board, running: 0, failed: None, stop: false });
    let changed = Condvar::new();
    let worker = |number: usize| {
        while let Some(part) = begin(&shared, &changed) {
            let end = End { shared: &shared, changed: &changed };
            let outcome = perform(number, part);
            let mut s = lock(&shared);
            if let Err(e) = outcome.and_then(|outcome| s.board.put(part, outcome)) {
                s.failed.get_or_insert(e);
                s.stop = true;
            }
            drop(s);
            drop(end);
        }
    };
    std::thread::scope(|scope| {
        let worker = &worker;
        for number in 1..workers {
            scope.spawn(move || worker(number));
        }
        worker(0);
    });
    let shared = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    match shared.failed {
        Some(e) => Err(e),
        None => Ok(shared.board),
    }
}

fn lock<B>(shared: &Mutex<Shared<B>>) -> MutexGuard<'_, Shared<B>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a part that may be begun; `None` once there will be none.
fn begin<B: Board>(shared: &Mutex<Shared<B>>, changed: &Condvar) -> Option<B::Part> {
    let mut s = lock(shared);
    loop {
        if s.stop {
            return None;
        }
        if let Some(part) = s.board.take() {
            s.running += 1;
            return Some(part);
        }
        if s.running == 0 {
            return None;
        }
        s = changed.wait(s).unwrap_or_else(PoisonError::into_inner);
    }
}

/// Ends a part when dropped, after a panic too, so that no worker waits for an outcome that never comes.
struct End<'a, B> {
    shared: &'a Mutex<Shared<B>>,
    changed: &'a Condvar,
}

impl<B> Drop for End<'_, B> {
    fn drop(&mut self) {
        let mut s = lock(self.shared);
        s.running -= 1;
        s.stop |= std::thread::panicking();
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers 1 to 20, each free once its half is done.
    #[derive(Default)]
    struct Halves {
        begun: Vec<u32>,
        done: Vec<u32>,
        fails_at: u32,
    }

    impl Board for Halves {
        type Part = u32;
        type Outcome = u32;

        fn take(&mut self) -> Option<u32> {
            let free = |n: &u32| !self.begun.contains(n) && (n / 2 == 0 || self.done.contains(&(n / 2)));
            let next = (1..=20).find(free)?;
            self.begun.push(next);
            Some(next)
        }

        fn put(&mut self, part: u32, outcome: u32) -> Result<()> {
            assert_eq!(outcome, part * part);
            self.done.push(part);
            if part == self.fails_at { Err(Error::other(format!("{part} failed"))) } else { Ok(()) }
        }
    }

    #[test]
    fn every_part_is_done_once_and_after_what_it_needs() {
        for workers in [1, 2, 7] {
            let board = work(workers, Halves::default(), |worker, part| {
                assert!(worker < workers);
                Ok(part * part)
            })
            .unwrap();
            assert_eq!(board.done.len(), 20);
            for (i, n) in board.done.iter().enumerate() {
                assert!(n / 2 == 0 || board.done[..i].contains(&(n / 2)), "{n} before its half");
            }
        }
    }

    #[test]
    fn an_error_ends_the_work() {
        for workers in [1, 3] {
            let board = Halves { fails_at: 2, ..Halves::default() };
            let error = work(workers, board, |_, part| Ok(part * part)).err().unwrap();
            assert_eq!(error.to_string(), "2 failed");
            let performed = work(workers, Halves::default(), |_, part| {
                if part < 3 { Ok(part * part) } else { Err(Error::other("no")) }
            });
            assert!(performed.is_err());
        }
    }

    #[test]
    fn a_panic_strands_nobody() {
        let run = || {
            work(3, Halves::default(), |_, part| {
                assert!(part != 1, "the first part panics");
                Ok(part * part)
            })
        };
        assert!(std::panic::catch_unwind(run).is_err());
    }
}
