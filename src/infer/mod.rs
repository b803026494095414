//! Inference: requests in, generations out.

mod decoded;
mod devices;
mod engine;
mod generate;
pub(crate) mod needs;
mod request;
mod rollout;
mod sequence;
mod thoughts;
mod trace;

pub use devices::{ComputeDtype, DeviceTask, run_on_device};
pub(crate) use engine::on_device;
pub use engine::{DeviceKind, Engine, EngineOptions, Loaded, LoadedOn};
pub use request::{Event, Generation, Prompt, Request, Sampling, TraceToken};
pub(crate) use rollout::no_density;
pub use rollout::{Rollouts, Trace};
