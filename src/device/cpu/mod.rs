//! The CPU device.

pub mod par;
