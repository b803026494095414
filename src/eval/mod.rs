//! Evaluation: accuracy and reasoning length.

pub mod accuracy;
#[cfg(feature = "plots")]
pub mod plot;
#[cfg(feature = "train")]
pub mod stats;
#[cfg(feature = "train")]
pub mod table;

pub use accuracy::{EvalOptions, Evaluation, FACTORS, Outcome, evaluate};
#[cfg(feature = "train")]
pub use table::TableRow;
