//! Inference: requests in, generations out.

mod engine;
mod generate;
mod request;
mod trace;

pub use engine::{DeviceKind, Engine, EngineOptions, Loaded};
pub use request::{Event, Generation, Prompt, Request, Sampling, TraceToken};
