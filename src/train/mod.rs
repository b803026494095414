//! Training: [supervised runs](TrainRun), [reinforcement learning](RlRun), and the [losses](Score) of given answers.

#[doc(hidden)]
pub mod batch;
mod batches;
#[doc(hidden)]
pub mod checkpoint;
#[doc(hidden)]
pub mod embedded;
mod feed;
pub(crate) mod long;
mod marks;
pub(crate) mod materials;
mod metrics;
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
mod stop;
#[doc(hidden)]
pub mod tensorboard;
mod thought_tokens;
#[doc(hidden)]
pub mod thoughts;
mod trainer;

pub use crate::model::adapter::LoraTarget;
pub use crate::model::merge::Merge;
pub use batch::ChunkLabels;
pub use checkpoint::KeptCheckpoint;
pub(crate) use options::defaults;
pub use options::{
    LatentLossName, LatentNoise, Monitor, RlOptions, RunOptions, ThinkingOptions, TrainOptions,
};
#[doc(hidden)]
pub use options::{Stage, TrainFlags};
pub use progress::{PolicyReport, Progress, StepReport, Validation};
#[doc(hidden)]
pub use rl::RlTrainer;
pub use rl::{Correctness, PolicyLossOptions, Reward, RlSummary, Scored};
pub use schedule::Schedule;
pub use score::{Losses, SampleScore, Score, ScoreOptions};
pub use stages::Stages;
pub use start::{RlRun, TrainRun};
pub use stop::Stop;
pub use trainer::Summary;
#[doc(hidden)]
pub use trainer::Trainer;
