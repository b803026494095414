//! Evaluation: accuracy and reasoning length.

#[doc(hidden)]
pub mod accuracy;
#[cfg(feature = "plots")]
#[doc(hidden)]
pub mod plot;
#[cfg(feature = "train")]
#[doc(hidden)]
pub mod stats;
#[cfg(feature = "train")]
#[doc(hidden)]
pub mod table;

pub use accuracy::{EvalOptions, Evaluation, Outcome};
#[doc(hidden)]
pub use accuracy::{FACTORS, evaluate};
#[cfg(feature = "train")]
#[doc(hidden)]
pub use table::TableRow;
