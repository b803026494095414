//! Inference: requests in, generations out.

mod adapters;
mod batch;
mod blocks;
mod context;
mod decoded;
mod generate;
mod loaded;
pub(crate) mod needs;
mod prefixes;
mod request;
mod rollout;
mod rows;
mod scheduler;
mod sequence;
mod thoughts;
mod trace;
mod unfit;

pub use loaded::Loaded;
pub use request::{Event, Generation, LENGTH, Prompt, Request, Sampling, TraceToken};
#[cfg(feature = "train")]
pub(crate) use rollout::no_density;
pub use rollout::{Rollouts, Trace};
pub(crate) use scheduler::Served;
pub use scheduler::{
    Completed, Control, Ending, Handle, Scheduler, SchedulerLoad, SchedulerOptions, Timings, Update, Usage,
};
