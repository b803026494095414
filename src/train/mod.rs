//! Training: batches, the objective, the run, and what it leaves behind.

pub mod batch;
mod batches;
pub mod checkpoint;
pub mod embedded;
mod feed;
pub(crate) mod materials;
mod metrics;
pub(crate) mod needs;
pub mod optimizer;
mod options;
mod progress;
pub(crate) mod recipe;
pub mod rl;
mod schedule;
pub mod score;
pub mod sft;
pub mod stages;
mod stop;
pub mod tensorboard;
mod thought_tokens;
pub mod thoughts;
mod trainer;

pub(crate) use options::defaults;
pub use options::{
    LatentLossName, LatentNoise, Monitor, RlOptions, RunOptions, Stage, ThinkingOptions, TrainFlags,
    TrainOptions,
};
pub use progress::{PolicyReport, Progress, StepReport, Validation};
pub use rl::{RlSummary, RlTrainer};
pub use schedule::Schedule;
pub use stop::Stop;
pub use trainer::{Summary, Trainer};
