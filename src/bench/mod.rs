//! Timings of whole steps, for comparison with other engines on the same weights, and of single operations,
//! beside the ceilings of the device.

mod decode;
mod kernels;
mod latents;
mod memory;
mod opened;
mod processor;
mod rl;
mod self_test;
mod serve;
mod setting;
mod timer;
mod train;

pub use decode::{DecodeOptions, DecodeTiming, decode};
#[cfg(cuda_host)]
pub use kernels::counts;
pub use kernels::{
    Bound, Case, Ceilings, KernelOptions, KernelReport, KernelRow, Product, copy_bytes, copy_ceiling,
    kernels, product_ceiling, table,
};
pub use latents::{LatentsTiming, latents, open_with_head};
pub use rl::{RlStepOptions, RlStepTiming, rl_step};
pub use self_test::{SelfTest, self_test};
pub use serve::{Latencies, LoadRow, Quantiles, ServeOptions, ServeTiming, SizeRow, Spread, StepCost, serve};
pub use setting::Setting;
pub use timer::{Timer, Timing, Work};
pub use train::{Sequences, StepBatch, StepOptions, StepTiming, train_step};
