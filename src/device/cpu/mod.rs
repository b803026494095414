//! The CPU device.

pub mod gemv;
pub mod par;
pub mod simd;
