//! What a device can do, and the devices.

pub mod cpu;
