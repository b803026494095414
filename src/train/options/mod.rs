//! The options of a run: flags, a TOML file, and the defaults behind both.

mod choices;
pub(crate) mod defaults;
mod flags;
mod methods;
pub(crate) mod nearest;
mod rl;
mod run;
mod sft;
mod thinking;

pub use choices::{LatentLossName, LatentNoise, Monitor, Stage};
pub use flags::TrainFlags;
pub use rl::RlOptions;
pub use run::RunOptions;
pub use sft::TrainOptions;
pub use thinking::ThinkingOptions;
