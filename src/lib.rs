//! colar-engine: train and run language models that reason in compressed latent vectors.
#![warn(missing_docs)]
// They panic when they cannot write, as to a closed pipe or a full disk.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod bench;
mod chart;
pub mod cli;
pub mod data;
pub mod device;
mod engine;
pub mod error;
pub mod eval;
pub mod experiment;
pub mod files;
pub mod infer;
pub mod model;
pub mod random;
pub mod train;

pub use engine::{Engine, EngineOptions};
pub use error::{Error, Result};
pub use infer::{Event, Generation, Prompt, Request, Sampling};
