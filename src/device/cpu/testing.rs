//! Helpers of several tests.

/// Numbers that 8 bits of mantissa hold, so that every dtype holds them.
pub fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 40) as i64 % 256 - 128) as f32 / 64.0
    };
    std::iter::repeat_with(next).take(len).collect()
}
