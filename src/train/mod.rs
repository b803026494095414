//! Training: [supervised runs](TrainRun), [reinforcement learning](RlRun), and the [losses](Score) of given answers.

#[doc(hidden)]
pub mod batch;
mod batches;
#[doc(hidden)]
pub mod checkpoint;
mod dry_run;
#[doc(hidden)]
pub mod embedded;
mod estimate;
#[doc(hidden)]
pub mod example;
mod feed;
mod lengths;
pub(crate) mod long;
pub(crate) mod materials;
#[doc(hidden)]
pub mod metrics;
pub(crate) mod needs;
#[doc(hidden)]
pub mod optimizer;
mod options;
mod progress;
pub(crate) mod recipe;
mod resume;
#[doc(hidden)]
pub mod rl;
mod schedule;
#[doc(hidden)]
pub mod score;
#[doc(hidden)]
pub mod sft;
#[doc(hidden)]
pub mod stages;
mod start;
mod status;
mod stop;
mod sweep;
#[doc(hidden)]
pub mod tensorboard;
mod thought_tokens;
#[doc(hidden)]
pub mod thoughts;
mod trainer;
mod watchdog;

pub use crate::model::adapter::LoraTarget;
pub use crate::model::merge::Merge;
pub use batch::ChunkLabels;
pub use checkpoint::KeptCheckpoint;
pub use dry_run::{dry_run, dry_run_rl};
pub use estimate::DryRun;
pub(crate) use options::defaults;
#[cfg(feature = "cli")]
pub(crate) use options::nearest::nearest;
pub use options::{
    LatentLossName, LatentNoise, Monitor, RlOptions, RunOptions, ThinkingOptions, TrainOptions,
};
#[doc(hidden)]
pub use options::{Stage, TrainFlags};
#[cfg(feature = "cli")]
pub(crate) use options::{conditions, ranges};
pub use progress::{PolicyReport, Progress, StartReport, StepReport, Validation};
#[doc(hidden)]
pub use rl::RlTrainer;
pub use rl::{Correctness, PolicyLossOptions, Reward, RlSummary, Scored};
pub use schedule::Schedule;
pub use score::{Losses, SampleScore, Score, ScoreOptions};
pub use stages::Stages;
pub use start::{RlRun, TrainRun};
pub use status::{RunStatus, run_status};
pub use stop::Stop;
pub use sweep::{SweepRow, sweep};
pub use trainer::Summary;
#[doc(hidden)]
pub use trainer::Trainer;
