//! The kernels of `cuda/`, run on the CPU: every operation against the same float64 references as those of the
//! device `cpu` (`tests/arithmetic/device_ops`), and against `cpu` itself where bits are promised.
//!
//! Buffers are guarded and poisoned here and the threads of a block run in shuffled orders, so these tests also
//! fail for reads of unwritten memory, accesses out of bounds, and missing barriers.
//!
//! With `COLAR_TEST_DEVICE=cuda` the same tests run on a GPU, but for those of `faults`,
//! `machine_code`, `twins` and `memory`, which are about the CPU.
#![cfg(cuda_host)]

#[path = "../common/mod.rs"]
mod common;

#[path = "../arithmetic/device_ops/attention.rs"]
mod attention;
#[path = "../arithmetic/device_ops/domain.rs"]
mod domain;
#[path = "../arithmetic/device_ops/dropout.rs"]
mod dropout;
#[path = "../arithmetic/device_ops/latent.rs"]
mod latent;
#[path = "../arithmetic/device_ops/layers.rs"]
mod layers;
#[path = "../arithmetic/device_ops/optimizer.rs"]
mod optimizer;
#[path = "../arithmetic/device_ops/output.rs"]
mod output;
#[path = "../arithmetic/device_ops/products.rs"]
mod products;
#[path = "../arithmetic/device_ops/rows.rs"]
mod rows;
#[path = "../arithmetic/device_ops/shapes.rs"]
mod shapes;

mod accesses;
mod adapters;
mod bf16;
mod bf16_gradients;
mod cancelled;
mod decoder;
mod exact;
mod faults;
mod flash;
mod flash_backward;
mod golden;
mod machine_code;
mod memory;
mod models;
mod scheduler;
mod traffic;
mod twins;

use std::sync::OnceLock;

use colar_engine::device::Dtype;
use colar_engine::device::cuda::CudaDevice;
use common::driver::{TestDriver, kernels};
use domain::{TOLERANCE, dtype, size};
use proptest::prelude::*;

/// Draws from one distribution: each is a block of coroutines.
const DRAWS: usize = 400;

/// The device under test.
fn device() -> &'static CudaDevice<TestDriver> {
    static DEVICE: OnceLock<CudaDevice<TestDriver>> = OnceLock::new();
    DEVICE.get_or_init(|| kernels(Dtype::F32, 0x5eed))
}

/// A quarter of the cases that the CPU takes; `PROPTEST_CASES` overrides their number.
fn config(cases: u32) -> ProptestConfig {
    domain::config(cases / 4)
}
