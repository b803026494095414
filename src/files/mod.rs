//! Files, read so that no content can bring the engine down, and written so that none is ever half
//! written.

pub mod atomic;
pub mod json;
pub mod lock;
pub mod mapped;
pub mod runs;
pub mod safetensors;
pub mod weights;
