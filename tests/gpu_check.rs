//! The tests of what runs on a GPU in one program, for machines that are sent it (`scripts/gpu-bundle`): every test
//! program holds the kernels' machine code once more. `cargo test` runs them as the programs that they also are.
#![cfg(cuda_host)]

#[path = "cuda_host/main.rs"]
mod cuda_host;
#[path = "golden_generate.rs"]
mod golden_generate;
#[path = "golden_grpo.rs"]
mod golden_grpo;
#[path = "golden_sft.rs"]
mod golden_sft;
#[path = "golden_thoughts.rs"]
mod golden_thoughts;
#[path = "train_devices.rs"]
mod train_devices;
#[path = "train_exact.rs"]
mod train_exact;
