//! Elementary functions and sums over slices, in vectors.
//!
//! The standard library's `exp` is a call for each element, and activation functions and softmaxes are made of
//! it, so it is written out here: a reduction to |r| ≤ ln 2 / 2 and a polynomial fitted to the least relative
//! error there. It errs by at most 2 units in the last place. Results that would be subnormal are 0: a softmax makes
//! many such numbers, none of which matters, and processors take a hundred cycles over each.
//!
//! Functions here run on the calling thread: the caller knows its rows and spreads them with [`super::par`].
//! Sums are kept over four times [`LANES`] lanes, element i in lane i modulo that, and joined by halves: neither
//! the machine's vectors nor the number of threads changes a bit.

use pulp::{Simd, WithSimd};

use super::simd::{LANES, dispatch, lanes, load, total, with_parts};

/// Added to a small f32, it leaves the nearest integer in the low bits of the sum: 1.5 · 2^23.
const ROUND: f32 = 12_582_912.0;

/// ln 2 cut to 10 bits, so that its products with exponents are exact, and the rest of it.
const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];

/// (e^r − 1 − r) / r² on |r| ≤ ln 2 / 2, from r⁰ up.
const EXP: [f32; 5] = [0.499_999_94, 0.166_665_21, 0.041_668_393, 0.008_368_745, 0.001_381_453_6];

/// The logarithm of the smallest normal number.
const LN_MIN: f32 = -87.336_54;

/// e to the power of each lane, within 2 ulp; infinite above 88.73, 0 below −87.34, NaN for NaN.
#[inline(always)]
pub fn exp_f32s<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // Within these bounds the exponents below are valid.
    let low = simd.splat_f32s(LN_MIN);
    let bounded = simd.min_f32s(simd.splat_f32s(89.0), simd.max_f32s(low, x));
    let round = simd.splat_f32s(ROUND);
    let n = simd.mul_add_f32s(bounded, simd.splat_f32s(std::f32::consts::LOG2_E), round);
    let n = simd.sub_f32s(n, round);
    let r = simd.negate_mul_add_f32s(n, simd.splat_f32s(LN_2[0]), bounded);
    let r = simd.negate_mul_add_f32s(n, simd.splat_f32s(LN_2[1]), r);
    let mut p = simd.splat_f32s(EXP[4]);
    for c in [EXP[3], EXP[2], EXP[1], EXP[0]] {
        p = simd.mul_add_f32s(p, r, simd.splat_f32s(c));
    }
    let one = simd.splat_f32s(1.0);
    let p = simd.add_f32s(simd.mul_add_f32s(p, simd.mul_f32s(r, r), r), one);
    // 2^n in two factors, as 2^128 is no f32 while results just below it are.
    let half = simd.mul_add_f32s(n, simd.splat_f32s(0.5), round);
    let rest = simd.add_f32s(simd.sub_f32s(n, simd.sub_f32s(half, round)), round);
    let y = simd.mul_f32s(simd.mul_f32s(p, power_of_two(simd, half)), power_of_two(simd, rest));
    let y = simd.select_f32s(simd.less_than_f32s(x, low), simd.splat_f32s(0.0), y);
    simd.select_f32s(simd.equal_f32s(x, x), y, x)
}

/// 2 to the power of the integers that were added to [`ROUND`]: |n| ≤ 126.
#[inline(always)]
fn power_of_two<S: Simd>(simd: S, rounded: S::f32s) -> S::f32s {
    let exponent = simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(rounded), simd.splat_u32s(23));
    simd.transmute_f32s_u32s(simd.add_u32s(exponent, simd.splat_u32s(1.0f32.to_bits())))
}

/// 1 / (1 + e^−x) of each lane; 0 below −88.7, where e^−x overflows.
#[inline(always)]
pub fn sigmoid_f32s<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let one = simd.splat_f32s(1.0);
    simd.div_f32s(one, simd.add_f32s(one, exp_f32s(simd, simd.neg_f32s(x))))
}

/// A function from `N` slices to `M` slices of one length, element by element.
trait Map<const N: usize, const M: usize> {
    fn apply<S: Simd>(&self, simd: S, x: [S::f32s; N]) -> [S::f32s; M];
}

/// Runs a [`Map`] over slices.
struct Run<'a, F, const N: usize, const M: usize> {
    map: F,
    from: [&'a [f32]; N],
    to: [&'a mut [f32]; M],
}

impl<F: Map<N, M>, const N: usize, const M: usize> WithSimd for Run<'_, F, N, M> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let len = self.to[0].len();
        assert!(self.from.iter().all(|x| x.len() == len) && self.to.iter().all(|x| x.len() == len));
        let whole = len - len % S::F32_LANES;
        let mut x = [simd.splat_f32s(0.0); N];
        for at in (0..whole).step_by(S::F32_LANES) {
            for (x, from) in x.iter_mut().zip(self.from) {
                // SAFETY: at + F32_LANES <= whole <= the length.
                *x = unsafe { from.as_ptr().add(at).cast::<S::f32s>().read_unaligned() };
            }
            for (y, to) in self.map.apply(simd, x).into_iter().zip(&mut self.to) {
                // SAFETY: as above.
                unsafe { to.as_mut_ptr().add(at).cast::<S::f32s>().write_unaligned(y) };
            }
        }
        if whole < len {
            for (x, from) in x.iter_mut().zip(self.from) {
                *x = simd.partial_load_f32s(&from[whole..]);
            }
            for (y, to) in self.map.apply(simd, x).into_iter().zip(&mut self.to) {
                simd.partial_store_f32s(&mut to[whole..], y);
            }
        }
    }
}

/// `out = scale · e^(x − shift)`, element by element: from logits and their log-sum-exp to probabilities.
///
/// # Panics
/// When the lengths differ.
pub fn exp(x: &[f32], shift: f32, scale: f32, out: &mut [f32]) {
    struct Exp(f32, f32);
    impl Map<1, 1> for Exp {
        #[inline(always)]
        fn apply<S: Simd>(&self, simd: S, [x]: [S::f32s; 1]) -> [S::f32s; 1] {
            let y = exp_f32s(simd, simd.sub_f32s(x, simd.splat_f32s(self.0)));
            [simd.mul_f32s(simd.splat_f32s(self.1), y)]
        }
    }
    dispatch(Run { map: Exp(shift, scale), from: [x], to: [out] });
}

/// `out = 1 / (1 + e^−x)`, element by element.
///
/// # Panics
/// When the lengths differ.
pub fn sigmoid(x: &[f32], out: &mut [f32]) {
    struct Sigmoid;
    impl Map<1, 1> for Sigmoid {
        #[inline(always)]
        fn apply<S: Simd>(&self, simd: S, [x]: [S::f32s; 1]) -> [S::f32s; 1] {
            [sigmoid_f32s(simd, x)]
        }
    }
    dispatch(Run { map: Sigmoid, from: [x], to: [out] });
}

/// `out = silu(gate) · up` with silu(x) = x / (1 + e^−x), element by element: the gate of a SwiGLU layer.
///
/// # Panics
/// When the lengths differ.
pub fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) {
    struct Swiglu;
    impl Map<2, 1> for Swiglu {
        #[inline(always)]
        fn apply<S: Simd>(&self, simd: S, [gate, up]: [S::f32s; 2]) -> [S::f32s; 1] {
            [simd.mul_f32s(simd.mul_f32s(gate, sigmoid_f32s(simd, gate)), up)]
        }
    }
    dispatch(Run { map: Swiglu, from: [gate, up], to: [out] });
}

/// The gradients of [`swiglu`]: `dgate = dout · up · silu′(gate)` and `dup = dout · silu(gate)`, with
/// silu′(x) = s·(1 + x·(1 − s)) and s = 1 / (1 + e^−x). Both are overwritten.
///
/// # Panics
/// When the lengths differ.
pub fn swiglu_backward(gate: &[f32], up: &[f32], dout: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
    struct Backward;
    impl Map<3, 2> for Backward {
        #[inline(always)]
        fn apply<S: Simd>(&self, simd: S, [gate, up, dout]: [S::f32s; 3]) -> [S::f32s; 2] {
            let s = sigmoid_f32s(simd, gate);
            let silu = simd.mul_f32s(gate, s);
            // s·(1 + x·(1 − s)) = s + silu·(1 − s)
            let slope = simd.mul_add_f32s(silu, simd.sub_f32s(simd.splat_f32s(1.0), s), s);
            [simd.mul_f32s(simd.mul_f32s(dout, up), slope), simd.mul_f32s(dout, silu)]
        }
    }
    dispatch(Run { map: Backward, from: [gate, up, dout], to: [dgate, dup] });
}

/// The terms of a sum or maximum, made from elements of `N` slices.
trait Reduce<const N: usize> {
    /// The start value of every lane.
    const START: f32;
    /// An element that leaves a result as it is, to fill the last vector.
    const FILL: f32;
    fn step<S: Simd>(&self, simd: S, so_far: S::f32s, x: [S::f32s; N]) -> S::f32s;
    fn join<S: Simd>(simd: S, a: S::f32s, b: S::f32s) -> S::f32s;
    fn finish(lanes: [f32; LANES]) -> f32;
}

struct Fold<'a, F, const N: usize> {
    reduce: F,
    from: [&'a [f32]; N],
}

/// Groups of lanes summed side by side, to hide the latency of an addition.
const CHAINS: usize = 4;

impl<F: Reduce<N>, const N: usize> WithSimd for Fold<'_, F, N> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        with_parts!(S, PARTS => self.run::<S, PARTS>(simd))
    }
}

impl<F: Reduce<N>, const N: usize> Fold<'_, F, N> {
    #[inline(always)]
    fn run<S: Simd, const PARTS: usize>(self, simd: S) -> f32 {
        let len = self.from[0].len();
        assert!(self.from.iter().all(|x| x.len() == len));
        let mut chains = [[simd.splat_f32s(F::START); PARTS]; CHAINS];
        let mut x = [simd.splat_f32s(F::FILL); N];
        let whole = len - len % (LANES * CHAINS);
        for at in (0..whole).step_by(LANES * CHAINS) {
            for (c, chain) in chains.iter_mut().enumerate() {
                for (part, chain) in chain.iter_mut().enumerate() {
                    for (x, from) in x.iter_mut().zip(self.from) {
                        let at = at + c * LANES + part * S::F32_LANES;
                        // SAFETY: at + F32_LANES <= whole <= the length, as there are PARTS in LANES.
                        *x = unsafe { from.as_ptr().add(at).cast::<S::f32s>().read_unaligned() };
                    }
                    *chain = self.reduce.step(simd, *chain, x);
                }
            }
        }
        for (at, chain) in (whole..len).step_by(LANES).zip(&mut chains) {
            let mut padded = [[F::FILL; LANES]; N];
            for (padded, from) in padded.iter_mut().zip(self.from) {
                let rest = &from[at..len.min(at + LANES)];
                padded[..rest.len()].copy_from_slice(rest);
            }
            for (part, chain) in chain.iter_mut().enumerate() {
                for (x, padded) in x.iter_mut().zip(&padded) {
                    *x = load(simd, padded, part * S::F32_LANES);
                }
                *chain = self.reduce.step(simd, *chain, x);
            }
        }
        let [mut all, b, c, d] = chains;
        for (part, all) in all.iter_mut().enumerate() {
            *all = F::join(simd, F::join(simd, *all, b[part]), F::join(simd, c[part], d[part]));
        }
        F::finish(lanes(simd, all))
    }
}

macro_rules! sum {
    () => {
        const START: f32 = 0.0;
        const FILL: f32 = 0.0;
        #[inline(always)]
        fn join<S: Simd>(simd: S, a: S::f32s, b: S::f32s) -> S::f32s {
            simd.add_f32s(a, b)
        }
        #[inline(always)]
        fn finish(lanes: [f32; LANES]) -> f32 {
            total(lanes)
        }
    };
}

/// The sum of `a[i] · b[i]`.
///
/// # Panics
/// When the lengths differ.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    struct Dot;
    impl Reduce<2> for Dot {
        sum!();
        #[inline(always)]
        fn step<S: Simd>(&self, simd: S, so_far: S::f32s, [a, b]: [S::f32s; 2]) -> S::f32s {
            simd.mul_add_f32s(a, b, so_far)
        }
    }
    dispatch(Fold { reduce: Dot, from: [a, b] })
}

/// The sum of the elements.
pub fn sum(x: &[f32]) -> f32 {
    struct Sum;
    impl Reduce<1> for Sum {
        sum!();
        #[inline(always)]
        fn step<S: Simd>(&self, simd: S, so_far: S::f32s, [x]: [S::f32s; 1]) -> S::f32s {
            simd.add_f32s(so_far, x)
        }
    }
    dispatch(Fold { reduce: Sum, from: [x] })
}

/// The sum of the squares, in f64 from one block of 4096 elements to the next: the norm of millions of
/// gradients keeps its digits.
pub fn sum_squares(x: &[f32]) -> f64 {
    x.chunks(4096).map(|x| f64::from(dot(x, x))).sum()
}

/// The largest element, −∞ for none. Elements that are NaN may be passed over.
pub fn max(x: &[f32]) -> f32 {
    struct Max;
    impl Reduce<1> for Max {
        const START: f32 = f32::NEG_INFINITY;
        const FILL: f32 = f32::NEG_INFINITY;
        #[inline(always)]
        fn step<S: Simd>(&self, simd: S, so_far: S::f32s, [x]: [S::f32s; 1]) -> S::f32s {
            simd.max_f32s(x, so_far)
        }
        #[inline(always)]
        fn join<S: Simd>(simd: S, a: S::f32s, b: S::f32s) -> S::f32s {
            simd.max_f32s(a, b)
        }
        #[inline(always)]
        fn finish(lanes: [f32; LANES]) -> f32 {
            lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
        }
    }
    dispatch(Fold { reduce: Max, from: [x] })
}

/// `ln(Σ e^x)` without overflow: −∞ for an empty row or one of −∞ alone, NaN when any element is.
pub fn log_sum_exp(x: &[f32]) -> f32 {
    struct SumExp(f32);
    impl Reduce<1> for SumExp {
        const START: f32 = 0.0;
        const FILL: f32 = f32::NEG_INFINITY;
        #[inline(always)]
        fn step<S: Simd>(&self, simd: S, so_far: S::f32s, [x]: [S::f32s; 1]) -> S::f32s {
            simd.add_f32s(so_far, exp_f32s(simd, simd.sub_f32s(x, simd.splat_f32s(self.0))))
        }
        #[inline(always)]
        fn join<S: Simd>(simd: S, a: S::f32s, b: S::f32s) -> S::f32s {
            simd.add_f32s(a, b)
        }
        #[inline(always)]
        fn finish(lanes: [f32; LANES]) -> f32 {
            total(lanes)
        }
    }
    let shift = max(x);
    if !shift.is_finite() {
        return if x.iter().any(|x| x.is_nan()) { f32::NAN } else { shift };
    }
    shift + libm::logf(dispatch(Fold { reduce: SumExp(shift), from: [x] }))
}

/// `x = scale · e^(x − shift)`, by way of a block that stays in the first-level cache.
pub(super) fn exp_in_place(x: &mut [f32], shift: f32, scale: f32) {
    let mut block = [0.0; 1024];
    for part in x.chunks_mut(block.len()) {
        let from = &mut block[..part.len()];
        from.copy_from_slice(part);
        exp(from, shift, scale, part);
    }
}

#[cfg(test)]
mod tests;
