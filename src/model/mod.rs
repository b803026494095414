//! The model: configuration, weights, layers with forward and backward.

pub mod adapter;
pub mod colar_config;
pub mod config;
pub mod init;
pub mod presets;
pub mod rope;
pub mod tokenizer;
mod tokenizer_outline;
pub mod weights;
