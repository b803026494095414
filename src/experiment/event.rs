//! Progress of an experiment, as its listener hears of it.

use std::path::PathBuf;

/// Progress of an experiment. Jobs that run side by side have numbers from 0.
#[derive(Debug, Clone)]
pub enum ExperimentEvent {
    /// The parts are known.
    Planned {
        /// Number of parts, done ones included.
        parts: usize,
        /// Jobs side by side.
        jobs: usize,
        /// Threads of each.
        threads: usize,
    },
    /// A job takes up a part that is not done.
    Begun {
        /// The job.
        job: usize,
        /// The part.
        name: String,
    },
    /// It goes on: steps of training, or questions.
    At {
        /// The job.
        job: usize,
        /// Steps or questions done.
        done: u64,
        /// Steps or questions in all.
        of: u64,
        /// Loss of a step.
        loss: Option<f64>,
    },
    /// A part is done, now or before.
    Finished {
        /// The job.
        job: usize,
        /// The part, if it was not done before.
        name: Option<String>,
        /// The outcome, in words.
        result: String,
    },
    /// The report is written.
    Written(Vec<PathBuf>),
}

/// Called with events, from several threads.
pub type Listener<'a> = dyn Fn(ExperimentEvent) + Sync + 'a;
