//! Evaluation: accuracy and reasoning length.

#[doc(hidden)]
pub mod accuracy;
#[cfg(feature = "plots")]
#[doc(hidden)]
pub mod plot;
#[cfg(feature = "train")]
#[doc(hidden)]
pub mod predictions;
#[cfg(feature = "train")]
#[doc(hidden)]
pub mod samples;
#[cfg(feature = "train")]
#[doc(hidden)]
pub mod stats;
#[cfg(feature = "train")]
#[doc(hidden)]
pub mod table;

#[doc(hidden)]
pub use accuracy::{COMPRESSION_FACTORS, evaluate};
pub use accuracy::{EvalOptions, Evaluation, Outcome};
#[cfg(feature = "train")]
#[doc(hidden)]
pub use table::TableRow;
