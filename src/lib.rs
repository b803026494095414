//! colar-engine: train and run language models that reason in compressed latent vectors.
#![warn(missing_docs)]
// They panic when they cannot write, as to a closed pipe or a full disk.
#![warn(clippy::print_stdout, clippy::print_stderr)]

#[cfg(feature = "cli")]
pub mod bench;
#[cfg(feature = "plots")]
mod chart;
#[cfg(feature = "cli")]
pub mod cli;
pub mod data;
pub mod device;
mod engine;
pub mod error;
pub mod eval;
#[cfg(feature = "cli")]
pub mod experiment;
pub mod files;
pub mod infer;
pub mod model;
pub mod random;
#[cfg(feature = "train")]
pub mod train;

pub use engine::{Engine, EngineOptions};
pub use error::{Error, Result};
pub use infer::{Event, Generation, Prompt, Request, Sampling};
