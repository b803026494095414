//! Evaluation: accuracy, reasoning length, and teacher-forced losses.

pub mod accuracy;
pub mod plot;
pub mod score;
pub mod stats;
pub mod table;

pub use accuracy::{EvalOptions, Evaluation, Outcome, evaluate};
pub use score::{SampleScore, Score, ScoreOptions, score};
pub use table::TableRow;
