//! Transposition, widening to f32 on the way.
//!
//! A product whose vectors run along one factor's rows wants that factor column by column. Element by element,
//! turning a block costs as much as multiplying it with fifty rows; eight by eight in registers, with ten.

use super::simd::Element;

/// Writes the transpose of a `rows` by `cols` matrix: `to[c * to_row + r] = from[r * from_row + c]`.
/// Elements between the rows of `to` are left as they are.
///
/// # Panics
/// When a matrix does not fit in its slice.
pub fn transpose<T: Element>(
    rows: usize,
    cols: usize,
    from: &[T],
    from_row: usize,
    to: &mut [f32],
    to_row: usize,
) {
    if rows == 0 || cols == 0 {
        return;
    }
    assert!(cols <= from_row && (rows - 1) * from_row + cols <= from.len());
    assert!(rows <= to_row && (cols - 1) * to_row + rows <= to.len());
    #[cfg(target_arch = "x86_64")]
    if !matches!(super::level::arch(), pulp::Arch::Scalar) {
        // SAFETY: all other levels of x86-64 have AVX2; both matrices fit, as just asserted.
        return unsafe { avx2::transpose(rows, cols, from, from_row, to, to_row) };
    }
    plain(0..rows, 0..cols, from, from_row, to, to_row);
}

/// The part of a transposition with the given rows and columns, element by element.
fn plain<T: Element>(
    rows: std::ops::Range<usize>,
    cols: std::ops::Range<usize>,
    from: &[T],
    from_row: usize,
    to: &mut [f32],
    to_row: usize,
) {
    for r in rows {
        for c in cols.clone() {
            to[c * to_row + r] = from[r * from_row + c].to_f32();
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::{Element, plain};

    /// # Safety
    /// The machine must have AVX2, and the matrices must lie within their slices.
    #[target_feature(enable = "avx2")]
    pub unsafe fn transpose<T: Element>(
        rows: usize,
        cols: usize,
        from: &[T],
        from_row: usize,
        to: &mut [f32],
        to_row: usize,
    ) {
        let (whole_rows, whole_cols) = (rows - rows % 8, cols - cols % 8);
        for r in (0..whole_rows).step_by(8) {
            for c in (0..whole_cols).step_by(8) {
                let mut block = [[0.0; 8]; 8];
                for (i, to) in block.iter_mut().enumerate() {
                    let from = &from[(r + i) * from_row + c..][..8];
                    for (to, from) in to.iter_mut().zip(from) {
                        *to = from.to_f32();
                    }
                }
                // SAFETY: every row of the block is 8 floats.
                let lines = turn(block.map(|line| unsafe { _mm256_loadu_ps(line.as_ptr()) }));
                for (i, line) in lines.into_iter().enumerate() {
                    let to = &mut to[(c + i) * to_row + r..][..8];
                    // SAFETY: `to` is 8 floats.
                    unsafe { _mm256_storeu_ps(to.as_mut_ptr(), line) };
                }
            }
        }
        plain(0..whole_rows, whole_cols..cols, from, from_row, to, to_row);
        plain(whole_rows..rows, 0..cols, from, from_row, to, to_row);
    }

    /// Eight vectors of eight, transposed.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn turn(x: [__m256; 8]) -> [__m256; 8] {
        // Pairs of lines interleaved by element, then by two, then by four.
        let (a0, a1) = (_mm256_unpacklo_ps(x[0], x[1]), _mm256_unpackhi_ps(x[0], x[1]));
        let (a2, a3) = (_mm256_unpacklo_ps(x[2], x[3]), _mm256_unpackhi_ps(x[2], x[3]));
        let (a4, a5) = (_mm256_unpacklo_ps(x[4], x[5]), _mm256_unpackhi_ps(x[4], x[5]));
        let (a6, a7) = (_mm256_unpacklo_ps(x[6], x[7]), _mm256_unpackhi_ps(x[6], x[7]));
        const LOW: i32 = 0b01_00_01_00;
        const HIGH: i32 = 0b11_10_11_10;
        let (b0, b1) = (_mm256_shuffle_ps::<LOW>(a0, a2), _mm256_shuffle_ps::<HIGH>(a0, a2));
        let (b2, b3) = (_mm256_shuffle_ps::<LOW>(a1, a3), _mm256_shuffle_ps::<HIGH>(a1, a3));
        let (b4, b5) = (_mm256_shuffle_ps::<LOW>(a4, a6), _mm256_shuffle_ps::<HIGH>(a4, a6));
        let (b6, b7) = (_mm256_shuffle_ps::<LOW>(a5, a7), _mm256_shuffle_ps::<HIGH>(a5, a7));
        [
            _mm256_permute2f128_ps::<0x20>(b0, b4),
            _mm256_permute2f128_ps::<0x20>(b1, b5),
            _mm256_permute2f128_ps::<0x20>(b2, b6),
            _mm256_permute2f128_ps::<0x20>(b3, b7),
            _mm256_permute2f128_ps::<0x31>(b0, b4),
            _mm256_permute2f128_ps::<0x31>(b1, b5),
            _mm256_permute2f128_ps::<0x31>(b2, b6),
            _mm256_permute2f128_ps::<0x31>(b3, b7),
        ]
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn turns_any_shape_and_writes_nothing_else() {
        for (rows, cols) in [(0, 3), (1, 1), (1, 40), (8, 8), (7, 9), (16, 24), (33, 41)] {
            let (from_row, to_row) = (cols + 3, rows + 5);
            let from: Vec<bf16> = (0..rows * from_row).map(|i| bf16::from_f32((i % 251) as f32)).collect();
            let wide: Vec<f32> = from.iter().map(|x| x.to_f32()).collect();
            for from in [Ok(&from[..]), Err(&wide[..])] {
                let mut to = vec![-1.0; cols * to_row];
                match from {
                    Ok(from) => transpose(rows, cols, from, from_row, &mut to, to_row),
                    Err(from) => transpose(rows, cols, from, from_row, &mut to, to_row),
                }
                for (i, &got) in to.iter().enumerate() {
                    let (c, r) = (i / to_row, i % to_row);
                    let want = if r < rows { ((r * from_row + c) % 251) as f32 } else { -1.0 };
                    assert_eq!(got, want, "{rows}x{cols} at {r},{c}");
                }
            }
        }
    }
}
