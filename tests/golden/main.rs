//! Parity with values that other code computed from the same weights: the authors' own, plain PyTorch for the other
//! methods, and transformers for a real model. The values stand in this directory.

#[path = "../common/mod.rs"]
mod common;

mod generate;
mod grpo;
mod sft;
mod smollm2;
mod thoughts;
