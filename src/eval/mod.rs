//! Evaluation: accuracy and reasoning length.

pub mod accuracy;
pub mod plot;
pub mod stats;
pub mod table;

pub use accuracy::{EvalOptions, Evaluation, Outcome, evaluate};
pub use table::TableRow;
