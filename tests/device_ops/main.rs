//! Every operation of a device against a plain float64 reference, over odd shapes.
//!
//! The checks are written for any [`Device`](colar_engine::device::Device): a crate of tests that has a
//! `device()` and the constants below takes these modules in and so checks its own (`tests/cuda_host`).
//!
//! Outputs enter full of NaN, so that what an operation leaves unwritten shows.

#[path = "../common/mod.rs"]
mod common;

mod attention;
mod latent;
mod layers;
mod optimizer;
mod output;
mod products;
mod rows;
mod shapes;

use std::sync::OnceLock;

use colar_engine::device::Dtype;
use colar_engine::device::cpu::CpuDevice;
use proptest::prelude::*;

/// Largest error of an element, of the sum of the magnitudes that were added up to it: some units in
/// the last place of float32.
const TOLERANCE: f64 = 3e-6;

/// Whether the device has the operations that only training needs.
const TRAINS: bool = true;

/// Draws from one distribution.
const DRAWS: usize = 4000;

/// The device under test; shared, as its threads and freed buffers are.
fn device() -> &'static CpuDevice {
    static DEVICE: OnceLock<CpuDevice> = OnceLock::new();
    DEVICE.get_or_init(|| CpuDevice::new(2).unwrap())
}

/// Sizes around and between the widths that vector code likes.
fn size() -> impl Strategy<Value = usize> {
    prop_oneof![Just(1), 2..9usize, 9..40usize, Just(64), 65..150usize]
}

fn dtype() -> impl Strategy<Value = Dtype> {
    prop::sample::select(vec![Dtype::F32, Dtype::Bf16, Dtype::F16])
}

/// `PROPTEST_CASES` overrides the number of cases.
fn config(cases: u32) -> ProptestConfig {
    let default = ProptestConfig::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { default.cases } else { cases };
    ProptestConfig { cases, ..default }
}
