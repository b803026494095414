//! Normal numbers by Box–Muller, defined to the last bit.
//!
//! `logf` and `sincosf` differ by an ulp or two between a C library, another version of it and a
//! GPU, and a run of latents amplifies that into different tokens. So both are written out here
//! with operations that IEEE 754 rounds the same everywhere: `+ − · / √` on f32, each rounded on its
//! own (a CUDA kernel says `__fmul_rn`, `__fadd_rn`, … or compiles with `-fmad=false`), and integer
//! operations on the bits. Series are evaluated innermost term first, exactly as written.
//!
//! The arguments are those of [`super::unit_f32`]: odd multiples of 2⁻²⁴ in (0, 1).

use std::f32::consts::{FRAC_PI_2, LN_2};

/// Two independent standard normal numbers from two uniform ones in (0, 1):
/// `r·cos(2π·u1)` and `r·sin(2π·u1)` with `r = √(−2·ln u0)`.
///
/// |r| is at most √(2·24·ln 2) ≈ 5.77, the tail that 24 bits can reach.
#[inline]
pub fn box_muller(u0: f32, u1: f32) -> [f32; 2] {
    let radius = (-2.0 * ln(u0)).sqrt();
    let [sin, cos] = sin_cos_turn(u1);
    [radius * cos, radius * sin]
}

/// The natural logarithm of a normal `u` > 0, within 2 ulp.
///
/// `u = m·2^e` with m in [√½, √2); ln m = 2·artanh(s) with s = (m − 1)/(m + 1), |s| < 0.172, whose
/// series is cut after s⁹ (the rest is below 2⁻³⁰).
#[inline]
pub fn ln(u: f32) -> f32 {
    /// The bits of √½ rounded down; subtracting them first puts m into [√½, √2).
    const SQRT_HALF_BITS: u32 = 0x3f35_04f3;
    let shifted = u.to_bits().wrapping_sub(SQRT_HALF_BITS);
    let exponent = (shifted as i32) >> 23;
    let m = f32::from_bits((shifted & 0x007f_ffff).wrapping_add(SQRT_HALF_BITS));
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let tail = z * (1.0 / 3.0 + z * (1.0 / 5.0 + z * (1.0 / 7.0 + z * (1.0 / 9.0))));
    let twice = s + s;
    exponent as f32 * LN_2 + (twice + twice * tail)
}

/// `[sin(2πu), cos(2πu)]` for u in [0, 1), each within 2⁻²³ absolutely.
///
/// The quarter turn is split off exactly, which leaves an angle of at most π/4 for the two power series.
#[inline]
pub fn sin_cos_turn(u: f32) -> [f32; 2] {
    let quarters = u * 4.0;
    // `quarters` is not negative, so the cast rounds down and this is the nearest whole number.
    let nearest = (quarters + 0.5) as u32;
    let x = (quarters - nearest as f32) * FRAC_PI_2;
    let z = x * x;
    let sin_tail = z * (-1.0 / 6.0 + z * (1.0 / 120.0 + z * (-1.0 / 5_040.0 + z * (1.0 / 362_880.0))));
    let sin = x + x * sin_tail;
    let cos_tail = 1.0 / 24.0 + z * (-1.0 / 720.0 + z * (1.0 / 40_320.0 + z * (-1.0 / 3_628_800.0)));
    let cos = 1.0 + z * (-0.5 + z * cos_tail);
    match nearest % 4 {
        0 => [sin, cos],
        1 => [cos, -sin],
        2 => [-sin, -cos],
        _ => [-cos, sin],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Philox, unit_f32};

    /// The distance of `got` from `expected` in units of the last place of `expected`.
    fn ulps(got: f32, expected: f64) -> f64 {
        let exponent = ((expected as f32).to_bits() >> 23 & 0xff) as i32 - 127 - 23;
        (f64::from(got) - expected).abs() / 2f64.powi(exponent)
    }

    /// A sample of all arguments that can occur, with both ends.
    fn arguments() -> impl Iterator<Item = f32> {
        (0..1u32 << 23).step_by(61).chain([1, 2, (1 << 23) - 2, (1 << 23) - 1]).map(|k| unit_f32(k << 9))
    }

    #[test]
    fn logarithm_is_within_two_ulps() {
        for u in arguments() {
            let expected = f64::from(u).ln();
            assert!(ulps(ln(u), expected) <= 2.0, "ln({u}) = {} for {expected}", ln(u));
        }
    }

    #[test]
    fn sine_and_cosine_are_within_an_ulp_of_one() {
        for u in arguments() {
            let (sin, cos) = (std::f64::consts::TAU * f64::from(u)).sin_cos();
            let got = sin_cos_turn(u);
            for (got, expected) in got.into_iter().zip([sin, cos]) {
                assert!((f64::from(got) - expected).abs() <= 2f64.powi(-23), "{u}: {got} for {expected}");
            }
        }
    }

    /// Bits, not tolerances: another device must reproduce these numbers. A second
    /// implementation in numpy's float32 gives the same.
    #[test]
    fn the_numbers_of_a_counter_are_pinned() {
        let philox = Philox::new(0x5eed);
        let bits = [0, 1, u32::MAX].map(|i| philox.normals([i, 2, 3, 4]).map(f32::to_bits));
        assert_eq!(bits, PINNED);
    }

    const PINNED: [[u32; 4]; 3] = [
        [0x3faf_ece3, 0x3f2b_2c71, 0xbf47_45ee, 0xbfc0_8396],
        [0xbeb2_d4c5, 0xbf8a_51f1, 0xbfb8_068d, 0xbf9b_30a0],
        [0x3e50_d6fb, 0x3ffd_f839, 0xbf95_6935, 0x3e6f_a801],
    ];

    #[test]
    fn moments_are_those_of_a_normal_distribution() {
        let philox = Philox::new(11);
        let n = 100_000;
        let mut sums = [0f64; 4];
        for i in 0..n {
            for x in philox.normals([i, 0, 0, 0]).map(f64::from) {
                for (power, sum) in sums.iter_mut().enumerate() {
                    *sum += x.powi(power as i32 + 1);
                }
            }
        }
        let moments = sums.map(|sum| sum / f64::from(4 * n));
        // Five standard errors of each moment's mean: √(1, 2, 15, 96) / √400,000.
        let expected = [0.0, 1.0, 0.0, 3.0];
        let bounds = [1.0f64, 2.0, 15.0, 96.0].map(|v| 5.0 * (v / f64::from(4 * n)).sqrt());
        for ((moment, expected), bound) in moments.into_iter().zip(expected).zip(bounds) {
            assert!((moment - expected).abs() < bound, "{moments:?}");
        }
    }
}
