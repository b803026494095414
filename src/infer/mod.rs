//! Inference.
mod generate;
pub mod request;
mod trace;
