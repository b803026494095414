//! Files, read so that no content can bring the engine down, and written so that none is ever half
//! written.

pub mod atomic;
mod destination;
pub mod json;
#[cfg(feature = "train")]
pub mod lock;
pub mod mapped;
#[cfg(feature = "cli")]
pub mod runs;
pub mod safetensors;
pub mod weights;
