//! Rotary embedding.

use colar_engine::Result;
use colar_engine::device::prelude::*;

use super::{Float64, Float64Tensor};

impl RotaryOps for Float64 {
    fn rotary(
        &self,
        x: &mut Float64Tensor,
        positions: &Vec<u32>,
        inv_freq: &Float64Tensor,
        direction: f32,
    ) -> Result<()> {
        rotary(x, positions, inv_freq, direction.into());
        Ok(())
    }
}

/// Turns element i of each head's first half with element i of its second half by `position · inv_freq[i]`: a float32
/// product on every device, as in Hugging Face's models.
fn rotary(x: &mut Float64Tensor, positions: &[u32], inv_freq: &Float64Tensor, direction: f64) {
    let half = inv_freq.cols;
    assert_eq!((positions.len(), x.cols % (2 * half)), (x.rows, 0));
    for (row, &position) in positions.iter().enumerate() {
        for head in x.row_mut(row).chunks_exact_mut(2 * half) {
            let (first, second) = head.split_at_mut(half);
            for ((a, b), &f) in first.iter_mut().zip(second).zip(&inv_freq.values) {
                let angle = f64::from(position as f32 * f as f32);
                let (sin, cos) = (direction * angle).sin_cos();
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    }
}
