//! A small matrix product for blocks that already are where the caches want them.
//!
//! Attention multiplies blocks of a few rows by a few dozen columns, thousands of times. A general product
//! would spend as long on packing and on choosing a strategy as on the product. This one packs nothing: the
//! right factor and the result have contiguous rows, which vectors run along; the left factor is broadcast
//! element by element and so may have any strides, a transpose for example.

use pulp::{Simd, WithSimd};

/// `c[rows, cols] = a[rows, inner]·b[inner, cols]`, or `c +=` that product.
pub struct Product<'a> {
    /// Rows of `a` and `c`.
    pub rows: usize,
    /// Columns of `b` and `c`.
    pub cols: usize,
    /// Columns of `a` and rows of `b`.
    pub inner: usize,
    /// Element (i, p) is at `i * a_row + p * a_col`.
    pub a: &'a [f32],
    /// From one row of `a` to the next.
    pub a_row: usize,
    /// From one column of `a` to the next.
    pub a_col: usize,
    /// Element (p, j) is at `p * b_row + j`.
    pub b: &'a [f32],
    /// From one row of `b` to the next.
    pub b_row: usize,
    /// Element (i, j) is at `i * c_row + j`.
    pub c: *mut f32,
    /// From one row of `c` to the next.
    pub c_row: usize,
    /// Whether to add to the old `c`; otherwise it is not read.
    pub add: bool,
}

impl Product<'_> {
    /// Computes the product.
    ///
    /// # Safety
    /// The elements of `c` that the shape and `c_row` name must be valid for writing, initialised if `add`,
    /// reached by no other thread, and apart from `a` and `b`.
    ///
    /// # Panics
    /// When `a` or `b` is too short for its shape.
    pub unsafe fn run<S: Simd>(self, simd: S) {
        if self.rows == 0 || self.cols == 0 {
            return;
        }
        if self.inner > 0 {
            assert!((self.rows - 1) * self.a_row + (self.inner - 1) * self.a_col < self.a.len());
            assert!((self.inner - 1) * self.b_row + self.cols <= self.b.len());
        }
        // A call of its own, so that the code exists once for each kind of vector.
        simd.vectorize(Checked(self));
    }
}

/// A product whose factors are long enough and whose result is good to write to.
struct Checked<'a>(Product<'a>);

impl WithSimd for Checked<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let lanes = S::F32_LANES;
        // Sums in registers: 16 of 32, or 8 of 16, beside the row of b and a broadcast element of a.
        let widest = if S::REGISTER_COUNT >= 32 { 4 } else { 2 };
        let mut col = 0;
        while col + lanes <= self.0.cols {
            let vectors = ((self.0.cols - col) / lanes).min(widest);
            match vectors {
                4 => self.columns::<S, 4>(simd, col, None),
                3 => self.columns::<S, 3>(simd, col, None),
                2 => self.columns::<S, 2>(simd, col, None),
                _ => self.columns::<S, 1>(simd, col, None),
            }
            col += vectors * lanes;
        }
        if col < self.0.cols {
            let rest = (self.0.cols - col) as u32;
            self.columns::<S, 1>(simd, col, Some(simd.mask_between_m32s(0, rest)));
        }
    }
}

impl Checked<'_> {
    /// All rows of `C` vectors of columns from `col`, or of the one vector that is partly there.
    #[inline(always)]
    fn columns<S: Simd, const C: usize>(&self, simd: S, col: usize, mask: Option<pulp::MemMask<S::m32s>>) {
        let mut row = 0;
        while row + 4 <= self.0.rows {
            self.tile::<S, 4, C>(simd, row, col, mask);
            row += 4;
        }
        match self.0.rows - row {
            3 => self.tile::<S, 3, C>(simd, row, col, mask),
            2 => self.tile::<S, 2, C>(simd, row, col, mask),
            1 => self.tile::<S, 1, C>(simd, row, col, mask),
            _ => {}
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const R: usize, const C: usize>(
        &self,
        simd: S,
        row: usize,
        col: usize,
        mask: Option<pulp::MemMask<S::m32s>>,
    ) {
        let Product { inner, a, a_row, a_col, b, b_row, c, c_row, add, .. } = self.0;
        // SAFETY: `Product::run` has asserted that rows up to `rows` and columns up to `inner` of a, and rows
        // up to `inner` and columns up to `cols` of b lie in their slices, and its caller vouches for c. The
        // tile is within: C whole vectors before `cols`, or one whose mask ends there.
        unsafe {
            let (a, b) = (a.as_ptr().wrapping_add(row * a_row), b.as_ptr().wrapping_add(col));
            let sums: [[S::f32s; C]; R] = accumulate(simd, inner, a, a_row, a_col, b, b_row, mask);
            for (r, sums) in sums.iter().enumerate() {
                for (i, &sum) in sums.iter().enumerate() {
                    let at = c.add((row + r) * c_row + col + i * S::F32_LANES);
                    match mask {
                        None => {
                            let at = at.cast::<S::f32s>();
                            let sum = if add { simd.add_f32s(at.read_unaligned(), sum) } else { sum };
                            at.write_unaligned(sum);
                        }
                        Some(mask) => {
                            let sum = match add {
                                true => simd.add_f32s(simd.mask_load_ptr_f32s(mask, at), sum),
                                false => sum,
                            };
                            simd.mask_store_ptr_f32s(mask, at, sum);
                        }
                    }
                }
            }
        }
    }
}

/// Sums of `inner` products for `R` rows of `C` vectors, or of one vector whose elements `mask` names:
/// fused multiply-adds of element (r, p) of a, at `r * a_row + p * a_col`, with row p of b, at `p * b_row`, in
/// the order of p.
///
/// # Safety
/// The elements of a and the rows of b that this names must be good for reading.
#[allow(clippy::too_many_arguments)]
#[inline(always)]
pub(super) unsafe fn accumulate<S: Simd, const R: usize, const C: usize>(
    simd: S,
    inner: usize,
    mut a: *const f32,
    a_row: usize,
    a_col: usize,
    mut b: *const f32,
    b_row: usize,
    mask: Option<pulp::MemMask<S::m32s>>,
) -> [[S::f32s; C]; R] {
    let mut sums = [[simd.splat_f32s(0.0); C]; R];
    for _ in 0..inner {
        let mut line = [simd.splat_f32s(0.0); C];
        for (i, line) in line.iter_mut().enumerate() {
            // SAFETY: the caller vouches for this row of b.
            unsafe {
                let at = b.add(i * S::F32_LANES);
                *line = match mask {
                    None => at.cast::<S::f32s>().read_unaligned(),
                    Some(mask) => simd.mask_load_ptr_f32s(mask, at),
                };
            }
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the caller vouches for this element of a.
            let factor = simd.splat_f32s(unsafe { *a.add(r * a_row) });
            for (sum, &line) in sums.iter_mut().zip(&line) {
                *sum = simd.mul_add_f32s(factor, line, *sum);
            }
        }
        a = a.wrapping_add(a_col);
        b = b.wrapping_add(b_row);
    }
    sums
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::device::cpu::simd::dispatch;

    /// Runs a product from within a dispatched function, as attention does.
    struct Call<'a>(Product<'a>);

    impl WithSimd for Call<'_> {
        type Output = ();

        fn with_simd<S: Simd>(self, simd: S) {
            // SAFETY: the test below gives a `c` of its own, `rows * c_row` long.
            unsafe { self.0.run(simd) }
        }
    }

    proptest! {
        #[test]
        fn agrees_with_f64(
            rows in 0usize..11, cols in 0usize..90, inner in 0usize..40, turned: bool, add: bool, gap in 0usize..4,
        ) {
            let value = |i: usize, j: usize| ((i * 31 + j * 17) % 64) as f32 / 32.0 - 1.0;
            let (a_row, a_col) = if turned { (1, rows + gap) } else { (inner + gap, 1) };
            let mut a = vec![f32::NAN; (rows + gap) * (inner + gap)];
            for i in 0..rows {
                for p in 0..inner {
                    a[i * a_row + p * a_col] = value(i, p);
                }
            }
            let (b_row, c_row) = (cols + gap, cols + gap);
            let mut b = vec![f32::NAN; inner * b_row];
            for p in 0..inner {
                for j in 0..cols {
                    b[p * b_row + j] = value(j, p + 5);
                }
            }
            let old = |i: usize, j: usize| if !add || j >= cols { f32::NAN } else { value(i, j) };
            let mut c: Vec<f32> = (0..rows * c_row).map(|at| old(at / c_row, at % c_row)).collect();
            let (a, b) = (&a[..], &b[..]);
            let product =
                Product { rows, cols, inner, a, a_row, a_col, b, b_row, c: c.as_mut_ptr(), c_row, add };
            dispatch(Call(product));
            for (at, got) in c.into_iter().enumerate() {
                let (i, j) = (at / c_row, at % c_row);
                let dot: f64 = (0..inner).map(|p| f64::from(value(i, p)) * f64::from(value(j, p + 5))).sum();
                let want = dot + if add { f64::from(value(i, j)) } else { 0.0 };
                if j < cols {
                    prop_assert!((f64::from(got) - want).abs() < 1e-5, "{i},{j}: {got}, not {want}");
                } else {
                    prop_assert!(got.is_nan(), "wrote beyond column {cols}");
                }
            }
        }
    }
}
