//! The sizes and tolerances that operations are tested with, the same for every device.

use colar_engine::device::Dtype;
use proptest::prelude::*;

/// Largest error of an element, of the sum of the magnitudes that were added up to it: some units in
/// the last place of float32.
pub const TOLERANCE: f64 = 3e-6;

/// Sizes around and between the widths of vectors, warps and blocks.
pub fn size() -> impl Strategy<Value = usize> {
    prop_oneof![Just(1), 2..9usize, 9..40usize, Just(64), 65..150usize]
}

pub fn dtype() -> impl Strategy<Value = Dtype> {
    prop::sample::select(vec![Dtype::F32, Dtype::Bf16, Dtype::F16])
}

/// `PROPTEST_CASES` overrides the number of cases.
pub fn config(cases: u32) -> ProptestConfig {
    let default = ProptestConfig::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { default.cases } else { cases };
    ProptestConfig { cases, ..default }
}
