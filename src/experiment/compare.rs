//! Runs side by side: in what their options differ, how their losses went, and which of them answers more questions.

mod curves;
mod paired;
mod settings;
mod side;

pub use curves::write as write_curves;
pub use paired::{Paired, paired};
pub use settings::{Difference, differences};
pub use side::Side;
