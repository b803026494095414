//! Operations and their gradients, and that packing, merging of adapters and shared rollouts do not change them.

#[path = "../common/mod.rs"]
mod common;

mod adapters;
mod bits;
mod device_ops;
mod engine;
mod finite_differences;
mod lora;
mod packed;
mod rollouts;
mod scheduler;
mod trace;
