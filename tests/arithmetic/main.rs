//! Operations, their gradients, and what must not change them: packing, merging of adapters, shared rollouts.

#[path = "../common/mod.rs"]
mod common;

mod device_ops;
mod finite_differences;
mod lora;
mod packed;
mod rollouts;
