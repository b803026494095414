//! The options of a run: flags, a TOML file, and the defaults behind both.

mod choices;
pub(crate) mod conditions;
pub(crate) mod defaults;
mod flags;
pub(crate) mod nearest;
pub(crate) mod ranges;
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
