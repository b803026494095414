//! Timings of whole steps, for comparison with other engines on the same weights.
//!
//! Single operations are timed by the criterion benchmarks under `benches/`.

mod decode;
mod rl;
mod train;

pub use decode::{DecodeOptions, DecodeTiming, decode};
pub use rl::{RlStepOptions, RlStepTiming, rl_step};
pub use train::{StepOptions, StepTiming, train_step};

/// The median of some seconds; 0 of none.
fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    match seconds.len() {
        0 => 0.0,
        n if n % 2 == 1 => seconds[n / 2],
        n => 0.5 * (seconds[n / 2 - 1] + seconds[n / 2]),
    }
}
