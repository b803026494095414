//! Rotary position embedding, in place, in the half-split form of the Hugging Face models: element
//! i of a head's first half turns with element i of its second half by `position · inv_freq[i]`.

use super::norm::row_grain;
use super::par;
use super::simd::dispatch;

/// Rotates every head of every row; `direction` −1 turns back, which is the gradient.
pub(super) fn rotary(x: &mut [f32], cols: usize, positions: &[u32], inv_freq: &[f32], direction: f32) {
    let half = inv_freq.len();
    par::split_rows(x, cols, row_grain(cols), |first, rows| {
        let (mut cos, mut sin) = (vec![0.0f32; half], vec![0.0f32; half]);
        for (row, &position) in rows.chunks_exact_mut(cols).zip(&positions[first..]) {
            for (i, &f) in inv_freq.iter().enumerate() {
                let (s, c) = (position as f32 * f).sin_cos();
                (sin[i], cos[i]) = (s * direction, c);
            }
            for head in row.chunks_exact_mut(2 * half) {
                let (a, b) = head.split_at_mut(half);
                dispatch(
                    #[inline(always)]
                    || {
                        for (((a, b), &c), &s) in a.iter_mut().zip(b).zip(&cos).zip(&sin) {
                            (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
                        }
                    },
                );
            }
        }
    });
}
