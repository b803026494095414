//! The compression merge (spec section 2), seen from the host: which tokens form a chunk, and
//! the divisor of the sum of their embeddings.

use serde::{Deserialize, Serialize};

/// The merge's denominator.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Merge {
    /// √k: keeps the variance of independent embeddings.
    #[default]
    Sqrt,
    /// k: the mean, the ablation MP.
    Mean,
}

impl Merge {
    /// Both.
    pub const ALL: [Merge; 2] = [Merge::Sqrt, Merge::Mean];

    /// The name in `colar.json`.
    pub fn name(self) -> &'static str {
        match self {
            Merge::Sqrt => "sqrt",
            Merge::Mean => "mean",
        }
    }

    /// The factor of the sum over a chunk of `k` tokens at compression factor `c`.
    pub fn scale(self, k: usize, c: usize) -> f32 {
        if c == 1 {
            return 1.0;
        }
        let denominator = match self {
            Merge::Sqrt => (k as f32).sqrt() + 1e-5,
            Merge::Mean => k as f32 + 1e-5,
        };
        1.0 / denominator
    }
}

/// Cuts a steps segment into chunks: the separator alone, then `c` tokens at a time.
pub fn chunks(steps: &[u32], c: usize) -> impl Iterator<Item = &[u32]> {
    let (separator, rest) = steps.split_at(steps.len().min(1));
    std::iter::once(separator).filter(|s| !s.is_empty()).chain(rest.chunks(c.max(1)))
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn all_are_listed() {
        assert_eq!(Merge::value_variants(), Merge::ALL);
    }

    #[test]
    fn the_separator_stands_alone_and_the_last_chunk_may_be_short() {
        let steps: Vec<u32> = (0..6).collect();
        let cut: Vec<&[u32]> = chunks(&steps, 2).collect();
        assert_eq!(cut, [&[0][..], &[1, 2], &[3, 4], &[5]]);
        assert_eq!(chunks(&steps, 9).count(), 2);
        assert_eq!(chunks(&steps[..1], 3).count(), 1);
        assert_eq!(chunks(&[], 3).count(), 0);
    }

    #[test]
    fn scales_follow_the_spec() {
        assert_eq!(Merge::Sqrt.scale(1, 1), 1.0);
        assert!((Merge::Sqrt.scale(1, 2) - 1.0 / 1.00001).abs() < 1e-7);
        assert!((Merge::Sqrt.scale(4, 4) - 1.0 / 2.00001).abs() < 1e-7);
        assert!((Merge::Mean.scale(4, 4) - 1.0 / 4.00001).abs() < 1e-7);
    }
}
