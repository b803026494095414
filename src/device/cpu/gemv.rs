//! Products of a weight matrix with few rows of activations, which decoding spends its time on.
//!
//! With one sequence, every weight is read once and used once, so memory is the only limit, and the work is
//! to keep it busy: 16-bit weights are widened in registers, four rows of the matrix are walked side by side,
//! the four after them are asked for at the same time (hardware prefetchers stop at
//! every page and alone reached two thirds of this speed), and threads take blocks of output rows.
//!
//! With more sequences a weight is still read from memory once and multiplied with all of them while it is in
//! the first-level cache. Every pair of a weight row and an activation row is summed in the same order
//! whatever stands beside it: a sequence gives the same bits alone and in a batch of up to [`MAX_ROWS`].

use std::cell::RefCell;
use std::ops::Range;

use pulp::Simd;

use super::par::{self, SharedMut};
use super::simd::{self, Element, LANES, PAIR, parts, total};
use crate::device::FEW_ROWS;

/// The most activation rows for which these products beat a blocked one.
pub const MAX_ROWS: usize = FEW_ROWS;

/// Bytes of weights below which a block of output rows is not worth a thread's attention.
const GRAIN_BYTES: usize = 16 << 10;

thread_local! {
    /// Activations in the order of [`Element::arrange`], kept from call to call.
    static ARRANGED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// `y[m,n] = beta·y + alpha · x[m,k]·w[n,k]ᵀ`, all row-major; with `beta` 0 the old `y` is not read.
///
/// Right for any `m`, fast up to [`MAX_ROWS`].
///
/// # Panics
/// When a slice does not have the length that its shape says.
#[allow(clippy::too_many_arguments)]
pub fn gemv_nt<T: Element>(
    m: usize,
    n: usize,
    k: usize,
    alpha: f32,
    x: &[f32],
    w: &[T],
    beta: f32,
    y: &mut [f32],
) {
    assert_eq!(x.len(), m * k, "x is not [{m}, {k}]");
    assert_eq!(w.len(), n * k, "w is not [{n}, {k}]");
    assert_eq!(y.len(), m * n, "y is not [{m}, {n}]");
    let mut arranged = ARRANGED.take();
    let padded = k.next_multiple_of(PAIR);
    arranged.resize(m * padded, 0.0);
    if k > 0 {
        simd::dispatch(
            #[inline(always)]
            || {
                // Every row of x as the weights will be loaded, padded with zeros to whole pairs.
                for (from, to) in x.chunks_exact(k).zip(arranged.chunks_exact_mut(padded)) {
                    for (from, to) in from.chunks(PAIR).zip(to.chunks_exact_mut(PAIR)) {
                        T::arrange(from, to);
                    }
                }
            },
        );
    }
    let out = SharedMut::new(y);
    let grain = GRAIN_BYTES.div_ceil((k * size_of::<T>()).max(1));
    par::for_blocks(n, grain, |rows| {
        simd::dispatch(Block { m, n, k, alpha, x: &arranged, padded, w, beta, out: &out, rows });
    });
    ARRANGED.set(arranged);
}

/// The product for one block of rows of `w`.
struct Block<'a, T> {
    m: usize,
    n: usize,
    k: usize,
    alpha: f32,
    /// `[m, padded]`, arranged.
    x: &'a [f32],
    padded: usize,
    w: &'a [T],
    beta: f32,
    out: &'a SharedMut<'a, f32>,
    rows: Range<usize>,
}

impl<T: Element> pulp::WithSimd for Block<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let mut row = self.rows.start;
        while row + 4 <= self.rows.end {
            let mut i = 0;
            while i < self.m {
                match self.m - i {
                    1 => self.tile::<S, 4, 1>(simd, row, i),
                    2 => self.tile::<S, 4, 2>(simd, row, i),
                    // Sums of four rows with three or four others fit the registers of AVX-512 alone.
                    3 if S::REGISTER_COUNT >= 32 => self.tile::<S, 4, 3>(simd, row, i),
                    _ if self.m - i > 3 && S::REGISTER_COUNT >= 32 => self.tile::<S, 4, 4>(simd, row, i),
                    3 => {
                        self.tile::<S, 2, 3>(simd, row, i);
                        self.tile::<S, 2, 3>(simd, row + 2, i);
                    }
                    _ => {
                        self.tile::<S, 2, 4>(simd, row, i);
                        self.tile::<S, 2, 4>(simd, row + 2, i);
                    }
                }
                i += 4;
            }
            row += 4;
        }
        for row in row..self.rows.end {
            for i in 0..self.m {
                self.tile::<S, 1, 1>(simd, row, i);
            }
        }
    }
}

impl<T: Element> Block<'_, T> {
    /// The products of `R` rows of `w` from `row` with `M` rows of `x` from `i`.
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const M: usize>(&self, simd: S, row: usize, i: usize) {
        let (mut w, mut x) = ([&self.w[..0]; R], [&self.x[..0]; M]);
        for (r, w) in w.iter_mut().enumerate() {
            *w = &self.w[(row + r) * self.k..][..self.k];
        }
        for (a, x) in x.iter_mut().enumerate() {
            *x = &self.x[(i + a) * self.padded..][..self.padded];
        }
        // Zeros fill up the last pair of weights; they meet the zeros that pad x.
        let whole = self.k - self.k % PAIR;
        let mut rest = [[T::zeroed(); PAIR]; R];
        if whole < self.k {
            for (rest, w) in rest.iter_mut().zip(w) {
                rest[..self.k - whole].copy_from_slice(&w[whole..]);
            }
        }
        // Lanes are independent, so narrow vectors take some of them at a time: their registers hold the sums of
        // as many rows as wide ones would. The weights come from the first-level cache after the first time.
        let mut lanes = [[[0.0; LANES]; M]; R];
        for part in 0..parts::<S>() {
            let mut sums = [[simd.splat_f32s(0.0); M]; R];
            for at in (0..whole).step_by(PAIR) {
                let mut weights = [std::ptr::null(); R];
                for (weights, w) in weights.iter_mut().zip(w) {
                    *weights = w[at..at + PAIR].as_ptr();
                    if part == 0 {
                        simd::prefetch(weights.wrapping_add(R * self.k));
                    }
                }
                // SAFETY: the slices just taken and `at + PAIR <= padded` bound the reads.
                unsafe { add_pair(simd, weights, &x, at, part, &mut sums) };
            }
            if whole < self.k {
                let mut weights = [std::ptr::null(); R];
                for (weights, rest) in weights.iter_mut().zip(&rest) {
                    *weights = rest.as_ptr();
                }
                // SAFETY: `rest` holds PAIR weights a row, and `whole + PAIR <= padded`.
                unsafe { add_pair(simd, weights, &x, whole, part, &mut sums) };
            }
            for (lanes, sums) in lanes.iter_mut().zip(&sums) {
                for (lanes, sum) in lanes.iter_mut().zip(sums) {
                    simd::store(simd, lanes, part * S::F32_LANES, *sum);
                }
            }
        }
        for (r, lanes) in lanes.into_iter().enumerate() {
            for (a, lanes) in lanes.into_iter().enumerate() {
                let dot = total(lanes);
                let at = (i + a) * self.n + row + r;
                // SAFETY: a block owns the columns `rows` of y, and tiles of a block run one by one.
                let y = unsafe { &mut self.out.slice(at..at + 1)[0] };
                *y = if self.beta == 0.0 { self.alpha * dot } else { self.beta * *y + self.alpha * dot };
            }
        }
    }
}

/// Adds to `sums` the products of part `part` of the pair at each of `weights` with that at `at` of each `x`.
///
/// A function rather than a closure: vector code is fast only where it is inlined into a function that has
/// the vectors enabled, and only a function can demand that.
///
/// # Safety
/// Every one of `weights` must be good for reading [`PAIR`] elements, and `at + PAIR` must be within every `x`.
#[inline(always)]
unsafe fn add_pair<S: Simd, T: Element, const R: usize, const M: usize>(
    simd: S,
    weights: [*const T; R],
    x: &[&[f32]; M],
    at: usize,
    part: usize,
    sums: &mut [[S::f32s; M]; R],
) {
    for (at_w, sums) in weights.into_iter().zip(sums) {
        // SAFETY: the caller vouches for the pointer.
        let w = unsafe { T::load_pair(simd, at_w, part) };
        for (x, sum) in x.iter().zip(sums) {
            // SAFETY: the caller vouches for `at`.
            let x = unsafe { f32::load_pair(simd, x.as_ptr().add(at), part) };
            *sum = simd.mul_add_f32s(w[0], x[0], *sum);
            *sum = simd.mul_add_f32s(w[1], x[1], *sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};
    use proptest::prelude::*;

    use super::*;
    use crate::device::cpu::testing::numbers;

    fn check<T: Element>(m: usize, n: usize, k: usize, convert: impl Fn(f32) -> T) {
        let (x, w, y0) = (numbers(m * k, 1), numbers(n * k, 2), numbers(m * n, 3));
        let stored: Vec<T> = w.iter().map(|&w| convert(w)).collect();
        for (alpha, beta) in [(1.0, 0.0), (0.5, 1.0), (-2.0, 0.25)] {
            let mut y = if beta == 0.0 { vec![f32::NAN; m * n] } else { y0.clone() };
            gemv_nt(m, n, k, alpha, &x, &stored, beta, &mut y);
            for i in 0..m {
                for j in 0..n {
                    let terms = (0..k).map(|p| f64::from(x[i * k + p]) * f64::from(w[j * k + p]));
                    let (dot, size) = terms.fold((0.0, 0.0), |(d, s), t| (d + t, s + t.abs()));
                    let old = if beta == 0.0 { 0.0 } else { f64::from(beta) * f64::from(y0[i * n + j]) };
                    let want = old + f64::from(alpha) * dot;
                    let bound = 1e-6 * (f64::from(alpha.abs()) * size + old.abs());
                    let got = f64::from(y[i * n + j]);
                    assert!((got - want).abs() <= bound, "[{m},{k}]x[{n},{k}] at {i},{j}: {got}, not {want}");
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn agrees_with_f64(m in 0usize..20, n in 0usize..70, k in 0usize..150) {
            check(m, n, k, |w| w);
            check(m, n, k, bf16::from_f32);
            check(m, n, k, f16::from_f32);
        }
    }

    #[test]
    fn a_row_has_the_same_bits_alone_and_in_company_and_on_any_number_of_threads() {
        let (m, n, k) = (MAX_ROWS, 203, 577);
        let x: Vec<f32> = numbers(m * k, 5).iter().map(|x| x.sin()).collect();
        let w: Vec<bf16> = numbers(n * k, 6).iter().map(|w| bf16::from_f32(w.cos())).collect();
        let run = |threads, m: usize, x: &[f32]| {
            let mut y = vec![f32::NAN; m * n];
            let pool = par::Pool::new(threads).unwrap();
            pool.install(|| gemv_nt(m, n, k, 1.0, x, &w, 0.0, &mut y));
            y
        };
        let together = run(1, m, &x);
        assert_eq!(together, run(3, m, &x));
        for few in 1..m {
            assert_eq!(together[..few * n], run(2, few, &x[..few * k]));
        }
        for i in 0..m {
            assert_eq!(together[i * n..][..n], run(2, 1, &x[i * k..][..k]));
        }
    }
}
