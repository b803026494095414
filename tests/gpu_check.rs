//! All tests that run on a GPU in one program, for machines that are sent it (`scripts/gpu-bundle`): every test
//! program holds the kernels' machine code once more. `cargo test` runs them in the programs that they are also part of.
#![cfg(cuda_host)]

mod common;
#[path = "cuda_host/main.rs"]
mod cuda_host;
mod golden {
    mod generate;
    mod grpo;
    mod qwen3;
    mod sft;
    mod thoughts;
}
mod training {
    mod devices;
    mod exact;
}
