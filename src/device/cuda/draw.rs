//! Draws as kernels take them (`cuda/philox.cuh`).

use crate::device::draw::Draw;

/// The words of draws: key, low word first, and counter.
pub(super) fn draw_words(draws: impl Iterator<Item = Draw>) -> Vec<u32> {
    draws.flat_map(|d| [d.key as u32, (d.key >> 32) as u32, d.counter[0], d.counter[1]]).collect()
}
