//! Rotary position embedding, in place, in the half-split form of the Hugging Face models: element
//! i of a head's first half turns with element i of its second half by `position · inv_freq[i]`.

use super::buffer::CpuTensor;
use super::par::{self, row_grain};
use super::simd::dispatch;
use super::{CpuDevice, CpuIndex};
use crate::Result;
use crate::device::rotary::{RotaryOps, RotaryShape, check_rotary};

impl RotaryOps for CpuDevice {
    fn rotary(
        &self,
        x: &mut CpuTensor,
        positions: &CpuIndex,
        inv_freq: &CpuTensor,
        direction: f32,
    ) -> Result<()> {
        let RotaryShape { op, heads, half, .. } = check_rotary(x, positions, inv_freq)?;
        if heads == 0 || half == 0 {
            return Ok(());
        }
        rotary(x.f32_mut(op)?, 2 * half * heads, positions, inv_freq.f32(op)?, direction);
        Ok(())
    }
}

/// Sines and cosines of one position, `[half]` each.
#[derive(Clone)]
struct Turn {
    sin: Vec<f32>,
    cos: Vec<f32>,
}

impl Turn {
    fn new(position: u32, inv_freq: &[f32], direction: f32) -> Self {
        let (sin, cos) = inv_freq
            .iter()
            .map(|&f| {
                let (s, c) = libm::sincosf(position as f32 * f);
                (s * direction, c)
            })
            .unzip();
        Turn { sin, cos }
    }

    fn apply(&self, row: &mut [f32]) {
        let half = self.sin.len();
        for head in row.chunks_exact_mut(2 * half) {
            let (a, b) = head.split_at_mut(half);
            dispatch(
                #[inline(always)]
                || {
                    for (((a, b), &c), &s) in a.iter_mut().zip(b).zip(&self.cos).zip(&self.sin) {
                        (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
                    }
                },
            );
        }
    }
}

/// Rotates every head of every row; `direction` −1 turns back, which is the gradient.
fn rotary(x: &mut [f32], cols: usize, positions: &[u32], inv_freq: &[f32], direction: f32) {
    let end = positions.iter().max().map_or(0, |&p| p as usize + 1);
    // A packed batch meets each position in every sequence; a decode step meets few, but far ones.
    let table: Vec<Turn> = if end * 2 <= positions.len() {
        (0..end as u32).map(|p| Turn::new(p, inv_freq, direction)).collect()
    } else {
        Vec::new()
    };
    par::split_rows(x, cols, row_grain(cols), |first, rows| {
        for (row, &position) in rows.chunks_exact_mut(cols).zip(&positions[first..]) {
            match table.get(position as usize) {
                Some(turn) => turn.apply(row),
                None => Turn::new(position, inv_freq, direction).apply(row),
            }
        }
    });
}
