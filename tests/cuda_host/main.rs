//! The kernels of `cuda/`, run on the CPU: every operation against the same float64 references as those of the
//! device `cpu` (`tests/device_ops`), and against `cpu` itself where bits are promised.
//!
//! Buffers are guarded and poisoned here and the threads of a block run in shuffled orders, so these tests also
//! fail for reads of what nothing wrote, accesses out of bounds, and missing barriers.
#![cfg(cuda_host)]

#[path = "../common/mod.rs"]
mod common;

#[path = "../device_ops/attention.rs"]
mod attention;
#[path = "../device_ops/latent.rs"]
mod latent;
#[path = "../device_ops/layers.rs"]
mod layers;
#[path = "../device_ops/output.rs"]
mod output;
#[path = "../device_ops/products.rs"]
mod products;
#[path = "../device_ops/rows.rs"]
mod rows;
#[path = "../device_ops/shapes.rs"]
mod shapes;

mod bf16;
mod exact;
mod faults;
mod models;

use std::sync::OnceLock;

use colar_engine::device::Dtype;
use colar_engine::device::cuda::CudaHostDevice;
use proptest::prelude::*;

/// Largest error of an element, of the sum of the magnitudes that were added up to it: some units in
/// the last place of float32.
const TOLERANCE: f64 = 3e-6;

/// Whether the device has the operations that only training needs.
const TRAINS: bool = false;

/// Draws from one distribution: each is a block of coroutines.
const DRAWS: usize = 400;

/// The device under test.
fn device() -> &'static CudaHostDevice {
    static DEVICE: OnceLock<CudaHostDevice> = OnceLock::new();
    DEVICE.get_or_init(|| CudaHostDevice::on_host(2, 0x5eed).unwrap())
}

/// Sizes around and between the widths of warps and blocks.
fn size() -> impl Strategy<Value = usize> {
    prop_oneof![Just(1), 2..9usize, 9..40usize, Just(64), 65..150usize]
}

fn dtype() -> impl Strategy<Value = Dtype> {
    prop::sample::select(vec![Dtype::F32, Dtype::Bf16, Dtype::F16])
}

/// A quarter of the cases that the CPU takes; `PROPTEST_CASES` overrides their number.
fn config(cases: u32) -> ProptestConfig {
    let default = ProptestConfig::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { default.cases } else { cases / 4 };
    ProptestConfig { cases, ..default }
}
