//! Every operation of a device against a plain float64 reference, over odd shapes.
//!
//! The checks are written for any [`Device`](colar_engine::device::Device): a crate of tests that has a
//! `device()` and the constants below takes these modules in and so checks its own (`tests/cuda_host`).
//!
//! Outputs are full of NaN before an operation, so that a test notices elements that it leaves unwritten.

mod attention;
mod domain;
mod dropout;
mod latent;
mod layers;
mod optimizer;
mod output;
mod products;
mod rows;
mod shapes;

use std::sync::OnceLock;

use colar_engine::device::cpu::CpuDevice;

use domain::{TOLERANCE, config, dtype, size};

use crate::common;

/// Draws from one distribution.
const DRAWS: usize = 4000;

/// The device under test; shared, as its threads and freed buffers are.
fn device() -> &'static CpuDevice {
    static DEVICE: OnceLock<CpuDevice> = OnceLock::new();
    DEVICE.get_or_init(|| CpuDevice::new(2).unwrap())
}
