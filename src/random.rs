//! Random numbers that every device can reproduce. Spec section 13 lists all draws with their counters.
//!
//! A run must give the same latents for the same seed on a CPU with any number of threads and on a
//! GPU. A generator with a hidden state cannot do that without fixing the order of the draws, so this
//! one has none: [`Philox`] maps (key, counter) to four random words, the key being the seed and the
//! counter naming the place of the draw. Any thread computes any number, in any order.
//!
//! The function is Philox4x32-10 of Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3"
//! (SC 2011), pinned by the known-answer vectors of its authors' Random123 library.
//!
//! The conversions are part of the contract, since a kernel must repeat them bit for bit:
//!
//! - [`unit_f32`]: `((word >> 9) + 0.5) · 2⁻²³`, exact in f32, in the open interval (0, 1);
//! - [`Philox::normals`]: Box–Muller over the words (0, 1) and (2, 3) of a block, defined in
//!   [`normal`] by IEEE additions, multiplications, one division and one square root, without fused
//!   multiply-add. No library's logarithm or sine takes part, so no device's ulp does either.
//!
//! Where draws follow one another and the order is the program's own (shuffling, making data),
//! [`Stream`] walks the counter.

pub mod normal;

/// Philox4x32-10 under one key: a keyed bijection from counters to blocks of four random words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Philox {
    /// The key: the two halves of the seed, low word first.
    pub key: [u32; 2],
}

/// Rounds of the bijection; ten is the authors' recommended number.
const ROUNDS: usize = 10;
/// Multipliers of the two lanes.
const MULTIPLIER: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// Added to the key after each round: the golden ratio and √3 − 1 as fractions of 2³².
const KEY_STEP: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

impl Philox {
    /// The generator of `seed`; its low word becomes `key[0]`.
    pub fn new(seed: u64) -> Self {
        Philox { key: split(seed) }
    }

    /// The four random words at `counter`.
    #[inline]
    pub fn block(&self, counter: [u32; 4]) -> [u32; 4] {
        let [mut c0, mut c1, mut c2, mut c3] = counter;
        let [mut k0, mut k1] = self.key;
        for _ in 0..ROUNDS {
            let p0 = u64::from(MULTIPLIER[0]) * u64::from(c0);
            let p1 = u64::from(MULTIPLIER[1]) * u64::from(c2);
            let [lo0, hi0] = split(p0);
            let [lo1, hi1] = split(p1);
            (c0, c1, c2, c3) = (hi1 ^ c1 ^ k0, lo1, hi0 ^ c3 ^ k1, lo0);
            k0 = k0.wrapping_add(KEY_STEP[0]);
            k1 = k1.wrapping_add(KEY_STEP[1]);
        }
        [c0, c1, c2, c3]
    }

    /// Four uniform numbers in (0, 1) from the block at `counter`, by [`unit_f32`].
    #[inline]
    pub fn uniforms(&self, counter: [u32; 4]) -> [f32; 4] {
        self.block(counter).map(unit_f32)
    }

    /// Four standard normal numbers from the block at `counter`.
    ///
    /// With u = [`uniforms`](Self::uniforms): elements 0 and 1 are [`normal::box_muller`]`(u[0], u[1])`,
    /// elements 2 and 3 are `box_muller(u[2], u[3])`.
    #[inline]
    pub fn normals(&self, counter: [u32; 4]) -> [f32; 4] {
        let [u0, u1, u2, u3] = self.uniforms(counter);
        let [n0, n1] = normal::box_muller(u0, u1);
        let [n2, n3] = normal::box_muller(u2, u3);
        [n0, n1, n2, n3]
    }
}

/// A random word as a number in the open interval (0, 1): `((word >> 9) + 0.5) · 2⁻²³`.
///
/// Only 23 bits are used so that the half can be added exactly: 0 and 1 never occur, and the
/// logarithm of the result is always finite and negative.
#[inline]
pub fn unit_f32(word: u32) -> f32 {
    ((word >> 9) as f32 + 0.5) * (1.0 / (1u32 << 23) as f32)
}

/// The low and high words of `x`, in this order.
#[inline]
fn split(x: u64) -> [u32; 2] {
    [x as u32, (x >> 32) as u32]
}

/// A sequence of random numbers: the blocks of one [`Philox`] at counters `[i, i >> 32, id, id >> 32]`.
///
/// Streams of one seed with different `id` never meet. The position can be stored and taken up
/// again ([`position`](Self::position), [`at`](Self::at)), which is all a resumed run needs.
#[derive(Debug, Clone)]
pub struct Stream {
    philox: Philox,
    id: u64,
    position: u64,
    block: [u32; 4],
}

impl Stream {
    /// Stream `id` of `seed`, from its beginning.
    pub fn new(seed: u64, id: u64) -> Self {
        Self::at(seed, id, 0)
    }

    /// Stream `id` of `seed` after `position` words have been drawn.
    pub fn at(seed: u64, id: u64, position: u64) -> Self {
        let mut stream = Stream { philox: Philox::new(seed), id, position, block: [0; 4] };
        if !position.is_multiple_of(4) {
            stream.load();
        }
        stream
    }

    /// Words drawn so far; give it to [`at`](Self::at) to continue here.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next random word.
    #[inline]
    pub fn next_u32(&mut self) -> u32 {
        let place = (self.position % 4) as usize;
        if place == 0 {
            self.load();
        }
        self.position = self.position.wrapping_add(1);
        self.block[place]
    }

    /// The next two words as one number, the first one low.
    pub fn next_u64(&mut self) -> u64 {
        let low = u64::from(self.next_u32());
        low | u64::from(self.next_u32()) << 32
    }

    /// A uniform number in (0, 1), by [`unit_f32`] of one word.
    pub fn uniform_f32(&mut self) -> f32 {
        unit_f32(self.next_u32())
    }

    /// A uniform number in (0, 1) of 52 random bits: `((x >> 12) + 0.5) · 2⁻⁵²` of two words.
    pub fn uniform_f64(&mut self) -> f64 {
        ((self.next_u64() >> 12) as f64 + 0.5) * (1.0 / (1u64 << 52) as f64)
    }

    /// A standard normal number: the first of a Box–Muller pair, from two words.
    ///
    /// The pair's second number is dropped so that a draw always takes the same number of words;
    /// whoever needs many takes [`Philox::normals`].
    pub fn normal(&mut self) -> f32 {
        let (u0, u1) = (self.uniform_f32(), self.uniform_f32());
        normal::box_muller(u0, u1)[0]
    }

    /// A whole number drawn uniformly from `0..n`, without bias; 0 when `n` is 0.
    ///
    /// Lemire's method ("Fast Random Integer Generation in an Interval", 2019): the high half of
    /// the product of `n` and a random word, redrawn in the rare case that would favour some values.
    pub fn below(&mut self, n: u64) -> u64 {
        let mut product = u128::from(self.next_u64()) * u128::from(n);
        if (product as u64) < n {
            let threshold = n.wrapping_neg() % n;
            while (product as u64) < threshold {
                product = u128::from(self.next_u64()) * u128::from(n);
            }
        }
        (product >> 64) as u64
    }

    /// One element of `items`, each as likely; `None` when there is none.
    pub fn choose<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len() as u64) as usize)
    }

    /// Puts `items` into a random order, each order as likely (Fisher–Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }

    /// Computes the block the position lies in.
    fn load(&mut self) {
        let [i0, i1] = split(self.position / 4);
        let [id0, id1] = split(self.id);
        self.block = self.philox.block([i0, i1, id0, id1]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known-answer vectors that Random123 publishes for philox4x32 with 10 rounds.
    #[test]
    fn known_answers() {
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(Philox { key }.block(counter), expected);
        }
    }

    #[test]
    fn the_seed_is_the_key_low_word_first() {
        assert_eq!(Philox::new(0x299f_31d0_a409_3822).key, [0xa409_3822, 0x299f_31d0]);
    }

    #[test]
    fn unit_numbers_are_open_and_exact() {
        assert_eq!(unit_f32(0), 2f32.powi(-24));
        assert_eq!(unit_f32(u32::MAX), 1.0 - 2f32.powi(-24));
        assert_eq!(unit_f32(1 << 31), 0.5 + 2f32.powi(-24));
    }

    #[test]
    fn a_stream_is_the_blocks_in_order_and_resumes_anywhere() {
        let philox = Philox::new(7);
        let mut stream = Stream::new(7, 3);
        let words: Vec<u32> = (0..12).map(|_| stream.next_u32()).collect();
        let blocks: Vec<u32> = (0..3).flat_map(|i| philox.block([i, 0, 3, 0])).collect();
        assert_eq!(words, blocks);
        for position in 0..12 {
            let mut resumed = Stream::at(7, 3, position);
            assert_eq!(resumed.next_u32(), words[position as usize]);
            assert_eq!(resumed.position(), position + 1);
        }
    }

    #[test]
    fn below_is_uniform_and_in_range() {
        let mut stream = Stream::new(1, 0);
        let mut counts = [0u32; 7];
        for _ in 0..70_000 {
            counts[stream.below(7) as usize] += 1;
        }
        // Six standard deviations of a binomial of 70,000 draws at 1/7.
        assert!(counts.iter().all(|&c| c.abs_diff(10_000) < 560), "{counts:?}");
        assert_eq!(stream.below(0), 0);
        assert_eq!(stream.below(1), 0);
        assert!(stream.below(u64::MAX) < u64::MAX);
    }

    #[test]
    fn shuffle_permutes_and_reaches_every_order() {
        let mut stream = Stream::new(2, 0);
        let mut seen = std::collections::BTreeMap::new();
        for _ in 0..24_000 {
            let mut items = [0, 1, 2, 3];
            stream.shuffle(&mut items);
            *seen.entry(items).or_insert(0u32) += 1;
        }
        assert_eq!(seen.len(), 24);
        assert!(seen.values().all(|&c| c.abs_diff(1000) < 190), "{seen:?}");
        stream.shuffle::<u8>(&mut []);
        assert_eq!(stream.choose::<u8>(&[]), None);
    }
}
