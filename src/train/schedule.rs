//! The learning rate over a run.

use serde::{Deserialize, Serialize};

/// Course of the learning rate after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Schedule {
    /// Stays.
    Constant,
    /// Falls to 0 along half a cosine.
    Cosine,
}

impl Schedule {
    /// The learning rate of a step, counted from 1, of `total`, after `warmup` steps of linear rise.
    pub fn lr(self, peak: f32, step: u64, warmup: u64, total: u64) -> f32 {
        if step <= warmup {
            return peak * step as f32 / warmup.max(1) as f32;
        }
        match self {
            Schedule::Constant => peak,
            Schedule::Cosine => {
                let done = (step - warmup) as f64 / total.saturating_sub(warmup).max(1) as f64;
                (f64::from(peak) * 0.5 * (1.0 + libm::cos(std::f64::consts::PI * done.min(1.0)))) as f32
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_then_falls() {
        let lr = |step| Schedule::Cosine.lr(2.0, step, 10, 110);
        assert_eq!(lr(5), 1.0);
        assert_eq!(lr(10), 2.0);
        assert!((lr(60) - 1.0).abs() < 1e-6);
        assert!(lr(110) < 1e-6);
        assert_eq!(Schedule::Constant.lr(2.0, 1000, 10, 110), 2.0);
        assert_eq!(Schedule::Constant.lr(2.0, 1, 0, 110), 2.0);
    }
}
