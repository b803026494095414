//! Inference: requests in, generations out.

mod context;
mod decoded;
mod generate;
mod loaded;
pub(crate) mod needs;
mod request;
mod rollout;
mod rows;
mod sequence;
mod thoughts;
mod trace;
mod unfit;

pub use loaded::Loaded;
pub use request::{Event, Generation, Prompt, Request, Sampling, TraceToken};
#[cfg(feature = "train")]
pub(crate) use rollout::no_density;
pub use rollout::{Rollouts, Trace};
