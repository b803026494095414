//! Files, read so that no content can bring the engine down, and written so that none is ever half
//! written.

pub mod atomic;
mod destination;
#[cfg(all(target_os = "linux", feature = "cli"))]
pub mod faults;
pub mod hidden;
pub mod json;
#[cfg(feature = "train")]
pub mod lock;
pub mod mapped;
pub mod pytorch;
#[cfg(feature = "cli")]
pub mod runs;
pub mod safetensors;
pub mod staged;
pub mod stand_in;
pub mod weights;
