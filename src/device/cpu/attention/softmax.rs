//! The softmax of a row of scores.

use pulp::Simd;

use crate::device::cpu::math::exp_f32s;
use crate::device::cpu::simd::{LANES, lanes, load, store, total, with_parts};

/// The length of a scratch row for `len` scores: a multiple of [`LANES`], and none of 512 bytes, which would crowd
/// a column of rows into a few sets of the cache.
pub(super) fn padded(len: usize) -> usize {
    let len = len.next_multiple_of(LANES);
    if len.is_multiple_of(128) { len + LANES } else { len }
}

/// Scores s of a row become `exp(scale·s − max)`, those from `sees` on 0. Returns max, the largest `scale·s`,
/// and the sum of the exponentials. The row is a multiple of [`LANES`] long; it sees at least one key.
#[inline(always)]
pub(super) fn soften<S: Simd>(simd: S, row: &mut [f32], sees: usize, scale: f32) -> (f32, f32) {
    row[sees..].fill(f32::NEG_INFINITY);
    with_parts!(S, PARTS => soften_parts::<S, PARTS>(simd, row, scale))
}

/// [`soften`] for a row whose unseen scores are −∞.
#[inline(always)]
fn soften_parts<S: Simd, const PARTS: usize>(simd: S, row: &mut [f32], scale: f32) -> (f32, f32) {
    let mut max = simd.splat_f32s(f32::NEG_INFINITY);
    for at in (0..row.len()).step_by(S::F32_LANES) {
        max = simd.max_f32s(load(simd, row, at), max);
    }
    let max = scale * simd.reduce_max_f32s(max);
    let (factor, shift) = (simd.splat_f32s(scale), simd.splat_f32s(-max));
    let mut sums = [simd.splat_f32s(0.0); PARTS];
    for at in (0..row.len()).step_by(LANES) {
        for (part, sum) in sums.iter_mut().enumerate() {
            let at = at + part * S::F32_LANES;
            let p = exp_f32s(simd, simd.mul_add_f32s(load(simd, row, at), factor, shift));
            *sum = simd.add_f32s(*sum, p);
            store(simd, row, at, p);
        }
    }
    (max, total(lanes(simd, sums)))
}
