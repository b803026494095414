//! Inference: requests in, generations out.

mod engine;
mod generate;
mod request;
mod rollout;
mod trace;

pub use engine::{DeviceKind, Engine, EngineOptions, Loaded};
pub use request::{Event, Generation, Prompt, Request, Sampling, TraceToken};
pub(crate) use rollout::no_density;
pub use rollout::{Rollouts, Trace};
