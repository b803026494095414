//! Evaluation: how often a model is right, how long it thinks, and how well it predicts.

pub mod accuracy;
pub mod plot;
pub mod score;
pub mod stats;
pub mod table;

pub use accuracy::{EvalOptions, Evaluation, Outcome, evaluate};
pub use score::{SampleScore, Score, ScoreOptions, score};
pub use table::TableRow;
