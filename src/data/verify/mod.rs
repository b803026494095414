//! Verifiers decide whether a predicted answer counts as the gold one.
//!
//! A reward and an accuracy are only as good as the comparison under them (spec section 12). [`ExactMatch`] is the
//! paper's rule and the default; [`MathVerifier`] reads LaTeX as well, for data sets whose
//! answers are written in it. Both work on the answer alone, without its mark
//! ([`super::answer::extract`]), accept any text without a panic, and are symmetric.

mod exact;
mod math;
mod verifier;

use serde::{Deserialize, Serialize};

pub use exact::ExactMatch;
pub use math::MathVerifier;
pub use verifier::Verifier;

/// The verifiers that the engine brings along.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum VerifierKind {
    /// Equal as numbers or, failing that, as text
    #[default]
    Exact,
    /// As `exact`, or equal as LaTeX: fractions, mixed numbers, lists, units
    Math,
}

impl VerifierKind {
    /// The verifier of this kind.
    pub fn verifier(self) -> Box<dyn Verifier> {
        match self {
            VerifierKind::Exact => Box::new(ExactMatch),
            VerifierKind::Math => Box::new(MathVerifier),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn a_kind_has_one_name_everywhere() {
        for kind in VerifierKind::value_variants() {
            let name = kind.verifier().name();
            assert_eq!(kind.to_possible_value().unwrap().get_name(), name);
            assert_eq!(serde_json::to_value(kind).unwrap(), name);
        }
        assert_eq!(VerifierKind::default().verifier().name(), "exact");
    }

    #[test]
    fn only_math_reads_latex() {
        let (exact, math) = (VerifierKind::Exact.verifier(), VerifierKind::Math.verifier());
        for (predicted, gold, by_exact, by_math) in [
            ("10.0", "10", true, true),
            ("1e3", "1,000", true, true),
            ("0.5", r"\frac{1}{2}", false, true),
            ("5 cm", "5", false, true),
            ("6", "5", false, false),
        ] {
            assert_eq!(exact.is_correct(predicted, gold), by_exact, "{predicted} {gold}");
            assert_eq!(math.is_correct(predicted, gold), by_math, "{predicted} {gold}");
        }
    }
}
