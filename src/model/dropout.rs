//! The dropout of adapters in training: which draws are whose (spec sections 7 and 13).

use crate::device::Dropout;

/// Word 3 of the counter of the first adapter: below it are other draws.
const FIRST: u32 = 0x100;

/// The dropout of all adapters in a training step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepDropout {
    /// Probability in [0, 1) that an adapter does not see an element of its input.
    pub p: f32,
    /// Philox key: the run's seed.
    pub key: u64,
    /// The number of the step.
    pub step: u32,
}

impl StepDropout {
    /// That of the pass whose first row is this one of the step.
    pub fn pass(self, first_row: u32) -> PassDropout {
        PassDropout { step: self, first_row }
    }
}

/// The dropout of all adapters in one pass. A pass that is run again for its gradients has the same.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PassDropout {
    step: StepDropout,
    first_row: u32,
}

impl PassDropout {
    /// That of projection `projection` (0 to 6) of layer `layer`.
    pub fn of(self, layer: usize, projection: usize) -> Dropout {
        let StepDropout { p, key, step } = self.step;
        Dropout { p, key, counter: [self.first_row, step, FIRST + (7 * layer + projection) as u32] }
    }
}
