//! The CPU device.

pub mod gemv;
pub mod matmul;
pub mod par;
pub mod simd;
