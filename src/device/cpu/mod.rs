//! The CPU device.

pub mod attention;
pub mod gemv;
pub mod math;
pub mod matmul;
pub mod par;
pub mod product;
pub mod simd;
#[cfg(test)]
mod testing;
pub mod transpose;
