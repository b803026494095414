//! Parity with values that other code computed from the same weights: the authors' own, plain PyTorch for the other
//! methods, transformers for a real model and for a Qwen3. The values stand in this directory.

#[path = "../common/mod.rs"]
mod common;

mod codi;
mod generate;
mod grpo;
mod lightning;
mod qwen3;
mod sft;
mod smollm2;
mod thoughts;
