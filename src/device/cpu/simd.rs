//! Vectors of whatever width the machine has, and how stored weights become f32 in them.
//!
//! The compiler's baseline is SSE2 on x86-64, so loops that matter run through [`dispatch`], which picks
//! AVX-512, AVX2 + FMA, NEON or scalar code once the program runs on a machine. Plain loops inside it are
//! vectorised by the compiler; the products, which live or die by their registers, spell out vectors.
//!
//! Weights stay 16-bit in memory. A vector of 32-bit words holds two of them a lane, and taking the low and
//! the high halves needs no shuffle, only a shift and a mask; so the products read weights as *even* and *odd*
//! vectors, and the activations they meet are arranged the same way once per product ([`Element::arrange`]).
//!
//! *Bits.* The same operations on the same numbers give the same bits on every processor as long as their order
//! is the same, so nothing that rounds may follow the width of vectors. Sums over a slice go over [`LANES`]
//! lanes, which are one vector or several, and are joined by halves ([`total`]). Where a product and a sum are
//! fused they are so everywhere: `mul_add_f32s`, which without vectors is a call of `fma` (right, and slow), and
//! never `mul_add_e_f32s`, which may or may not fuse. Plain `a * b + c` is never fused by the compiler.
//! Logarithms and other functions that the C library would give are those of the `libm` crate.

use half::{bf16, f16};
use pulp::Simd;

/// Runs `op` with the vectors of the [`level`](super::level) in force.
#[inline(always)]
pub fn dispatch<Op: pulp::WithSimd>(op: Op) -> Op::Output {
    super::level::arch().dispatch(op)
}

/// Lanes over which sums over a slice are kept, whatever the vectors: element i goes to lane i modulo this.
pub const LANES: usize = 16;

/// The number of vectors that hold [`LANES`] lanes.
pub const fn parts<S: Simd>() -> usize {
    LANES / S::F32_LANES
}

/// Evaluates an expression in which `N` is [`parts`], as a constant.
macro_rules! with_parts {
    ($S:ty, $N:ident => $value:expr) => {
        match <$S>::F32_LANES {
            16 => {
                const $N: usize = 1;
                $value
            }
            8 => {
                const $N: usize = 2;
                $value
            }
            4 => {
                const $N: usize = 4;
                $value
            }
            1 => {
                const $N: usize = 16;
                $value
            }
            lanes => unreachable!("vectors of {lanes} lanes"),
        }
    };
}
pub(super) use with_parts;

/// The sum of the lanes, joined by halves: i with i + 8, then i with i + 4, i + 2 and i + 1.
#[inline(always)]
pub fn total(lanes: [f32; LANES]) -> f32 {
    let mut sums = lanes;
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            sums[i] += sums[i + half];
        }
        half /= 2;
    }
    sums[0]
}

/// The lanes of [`parts`] vectors.
#[inline(always)]
pub fn lanes<S: Simd, const N: usize>(_: S, vectors: [S::f32s; N]) -> [f32; LANES] {
    assert!(N == parts::<S>());
    let mut lanes = [0.0; LANES];
    lanes.copy_from_slice(bytemuck::cast_slice(&vectors));
    lanes
}

/// The vector at `x[at..]`.
///
/// # Panics
/// When it does not lie in the slice.
#[inline(always)]
pub fn load<S: Simd>(_: S, x: &[f32], at: usize) -> S::f32s {
    // SAFETY: the slice has as many elements as the vector, which holds any bits.
    unsafe { x[at..at + S::F32_LANES].as_ptr().cast::<S::f32s>().read_unaligned() }
}

/// Writes a vector to `x[at..]`.
///
/// # Panics
/// When it does not lie in the slice.
#[inline(always)]
pub fn store<S: Simd>(_: S, x: &mut [f32], at: usize, value: S::f32s) {
    // SAFETY: the slice has as many elements as the vector.
    unsafe { x[at..at + S::F32_LANES].as_mut_ptr().cast::<S::f32s>().write_unaligned(value) }
}

/// Weights that are read at a time: two to a lane.
pub const PAIR: usize = 2 * LANES;

/// A type that weights are stored in.
pub trait Element: bytemuck::Pod + Sync {
    /// Part `part` of [`parts`] of each half of the [`PAIR`] weights at `at`, as f32. The halves are the even and
    /// the odd ones for 16-bit types, the first and the last for f32. Exact, including infinities and NaN.
    ///
    /// # Safety
    /// `at` must be valid for reading [`PAIR`] elements. It need not be aligned.
    unsafe fn load_pair<S: Simd>(simd: S, at: *const Self, part: usize) -> [S::f32s; 2];

    /// Writes `pair` (at most [`PAIR`] values, the rest taken as 0) to `to` (as many), one half after the other
    /// as [`Element::load_pair`] has them.
    fn arrange(pair: &[f32], to: &mut [f32]);

    /// The same number as f32.
    fn to_f32(self) -> f32;

    /// The same elements, where they are f32.
    fn as_f32(x: &[Self]) -> Option<&[f32]> {
        let _ = x;
        None
    }

    /// Converts `from` to `to`, which must be as long. Its loop is as wide as that of the function around it.
    fn widen(from: &[Self], to: &mut [f32]);
}

/// [`Element::arrange`] for types that load as even and odd vectors.
#[inline(always)]
fn arrange_even_odd(pair: &[f32], to: &mut [f32]) {
    let (even, odd) = to.split_at_mut(LANES);
    for (i, (e, o)) in even.iter_mut().zip(odd).enumerate() {
        *e = pair.get(2 * i).copied().unwrap_or(0.0);
        *o = pair.get(2 * i + 1).copied().unwrap_or(0.0);
    }
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load_pair<S: Simd>(_: S, at: *const Self, part: usize) -> [S::f32s; 2] {
        // SAFETY: the caller vouches for the elements; vectors of f32 hold any bits.
        [0, LANES]
            .map(|half| unsafe { at.add(half + part * S::F32_LANES).cast::<S::f32s>().read_unaligned() })
    }

    #[inline(always)]
    fn arrange(pair: &[f32], to: &mut [f32]) {
        let (head, tail) = to.split_at_mut(pair.len());
        head.copy_from_slice(pair);
        tail.fill(0.0);
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }

    #[inline(always)]
    fn as_f32(x: &[f32]) -> Option<&[f32]> {
        Some(x)
    }

    #[inline(always)]
    fn widen(from: &[Self], to: &mut [f32]) {
        to.copy_from_slice(from);
    }
}

impl Element for bf16 {
    #[inline(always)]
    unsafe fn load_pair<S: Simd>(simd: S, at: *const Self, part: usize) -> [S::f32s; 2] {
        // SAFETY: the caller vouches for the elements; vectors of u32 hold any bits.
        let words = unsafe { at.cast::<S::u32s>().add(part).read_unaligned() };
        let even = simd.wrapping_dyn_shl_u32s(words, simd.splat_u32s(16));
        let odd = simd.and_u32s(words, simd.splat_u32s(0xffff_0000));
        [simd.transmute_f32s_u32s(even), simd.transmute_f32s_u32s(odd)]
    }

    #[inline(always)]
    fn arrange(pair: &[f32], to: &mut [f32]) {
        arrange_even_odd(pair, to);
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn widen(from: &[Self], to: &mut [f32]) {
        assert_eq!(from.len(), to.len());
        for (from, to) in from.iter().zip(to) {
            *to = Element::to_f32(*from);
        }
    }
}

/// The f32 values of f16 bits in the low 15 bits of each lane, `sign` in the top bit.
#[inline(always)]
fn half_bits<S: Simd>(simd: S, magnitude: S::u32s, sign: S::u32s) -> S::f32s {
    // Shifted in place, exponent and mantissa mean 2^-112 times their value, subnormals included. An f16
    // exponent of all ones must become an f32 one.
    let bits = simd.wrapping_dyn_shl_u32s(magnitude, simd.splat_u32s(13));
    let scale = simd.splat_f32s(f32::from_bits((127 + 112) << 23));
    let value = simd.transmute_u32s_f32s(simd.mul_f32s(simd.transmute_f32s_u32s(bits), scale));
    let special = simd.greater_than_or_equal_u32s(bits, simd.splat_u32s(31 << 23));
    let infinite = simd.or_u32s(bits, simd.splat_u32s(0x7f80_0000));
    simd.transmute_f32s_u32s(simd.or_u32s(simd.select_u32s(special, infinite, value), sign))
}

impl Element for f16 {
    #[inline(always)]
    unsafe fn load_pair<S: Simd>(simd: S, at: *const Self, part: usize) -> [S::f32s; 2] {
        // SAFETY: the caller vouches for the elements; vectors of u32 hold any bits.
        let words = unsafe { at.cast::<S::u32s>().add(part).read_unaligned() };
        let (magnitude, sign) = (simd.splat_u32s(0x7fff), simd.splat_u32s(0x8000_0000));
        let even_sign = simd.and_u32s(simd.wrapping_dyn_shl_u32s(words, simd.splat_u32s(16)), sign);
        let high = simd.wrapping_dyn_shr_u32s(words, simd.splat_u32s(16));
        [
            half_bits(simd, simd.and_u32s(words, magnitude), even_sign),
            half_bits(simd, simd.and_u32s(high, magnitude), simd.and_u32s(words, sign)),
        ]
    }

    #[inline(always)]
    fn arrange(pair: &[f32], to: &mut [f32]) {
        arrange_even_odd(pair, to);
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }

    #[inline(always)]
    fn widen(from: &[Self], to: &mut [f32]) {
        half::slice::HalfFloatSliceExt::convert_to_f32_slice(from, to);
    }
}

// The even element of a word is its low half only where words are stored low half first.
const _: () = assert!(cfg!(target_endian = "little"), "16-bit weights are read as little-endian words");

/// Asks for the cache line at `at` ahead of its use. Any address will do: nothing is read.
#[inline(always)]
pub fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of x86-64, and a prefetch never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

#[cfg(test)]
mod tests {
    use super::*;

    struct LoadAll<'a, T>(&'a [T]);

    impl<T: Element> pulp::WithSimd for LoadAll<'_, T> {
        type Output = Vec<f32>;

        fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
            let mut out = Vec::new();
            let mut arranged = vec![0.0; PAIR];
            for pair in self.0.chunks_exact(PAIR) {
                let mut loaded = [0.0; PAIR];
                for part in 0..parts::<S>() {
                    // SAFETY: the chunk has PAIR elements.
                    let halves = unsafe { T::load_pair(simd, pair.as_ptr(), part) };
                    for (half, to) in halves.into_iter().zip(loaded.chunks_exact_mut(LANES)) {
                        store(simd, to, part * S::F32_LANES, half);
                    }
                }
                // The order of `arrange`, inverted, must give the pair back.
                let index: Vec<f32> = (0..pair.len()).map(|i| i as f32).collect();
                T::arrange(&index, &mut arranged);
                let mut back = vec![0.0; pair.len()];
                arranged.iter().zip(loaded).for_each(|(&i, v)| back[i as usize] = v);
                out.extend(back);
            }
            out
        }
    }

    #[test]
    fn every_16_bit_number_loads_and_widens_exactly() {
        fn same(a: f32, b: f32) -> bool {
            a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
        }
        let all: Vec<u16> = (0..=u16::MAX).collect();
        let mut wide = vec![f32::NAN; all.len()];
        let b: Vec<bf16> = all.iter().map(|&x| bf16::from_bits(x)).collect();
        bf16::widen(&b, &mut wide);
        for (i, (l, w)) in dispatch(LoadAll(&b)).into_iter().zip(&wide).enumerate() {
            assert!(same(l, b[i].to_f32()) && same(*w, b[i].to_f32()), "bf16 {i:#x}: {l} {w}");
        }
        let h: Vec<f16> = all.iter().map(|&x| f16::from_bits(x)).collect();
        f16::widen(&h, &mut wide);
        for (i, (l, w)) in dispatch(LoadAll(&h)).into_iter().zip(&wide).enumerate() {
            assert!(same(l, h[i].to_f32()) && same(*w, h[i].to_f32()), "f16 {i:#x}: {l} {w}");
        }
    }

    #[test]
    fn a_short_pair_is_padded_with_zeros() {
        let (mut to, mut want) = ([f32::NAN; PAIR], [0.0; PAIR]);
        bf16::arrange(&[1.0, 2.0, 3.0], &mut to);
        (want[0], want[1], want[LANES]) = (1.0, 3.0, 2.0);
        assert_eq!(to, want);
        f32::arrange(&[1.0, 2.0, 3.0], &mut to);
        want = [0.0; PAIR];
        want[..3].copy_from_slice(&[1.0, 2.0, 3.0]);
        assert_eq!(to, want);
    }

    #[test]
    fn lanes_are_joined_by_halves() {
        // Numbers that a sum in another order would lose.
        let mut lanes = [0.0; LANES];
        (lanes[0], lanes[8], lanes[4]) = (1e9, -1e9, 1.0);
        assert_eq!(total(lanes), 1.0);
        (lanes[0], lanes[8], lanes[4]) = (1e9, 1.0, -1e9);
        assert_eq!(total(lanes), 0.0);
    }
}
