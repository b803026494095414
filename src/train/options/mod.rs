//! What a run is told: flags, a TOML file, and the defaults behind both.

pub(crate) mod defaults;
mod flags;
mod methods;
mod rl;
mod run;
mod sft;
mod thinking;

pub use flags::{LatentLossName, LatentNoise, Monitor, Stage, TrainFlags};
pub use rl::RlOptions;
pub use run::RunOptions;
pub use sft::TrainOptions;
pub use thinking::ThinkingOptions;
