//! Every backward pass against finite differences of its forward pass, through the device interface.
//!
//! The checks are written for any [`Device`](colar_engine::device::Device); a new device calls them
//! with itself.

mod layers;
mod objective;
mod operations;
mod output;
mod policy;
mod thoughts;

use colar_engine::device::cpu::CpuDevice;

use crate::common;

/// Elements of order one move by this much, which leaves an error of the difference below 1e-5.
const STEP: f64 = 0.02;

/// Largest error of a gradient, of its norm. What float32 arithmetic leaves is below 1e-4.
const TOLERANCE: f64 = 5e-4;

fn cpu() -> CpuDevice {
    CpuDevice::new(2).unwrap()
}
