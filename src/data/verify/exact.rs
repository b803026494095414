//! The paper's verifier.

use super::Verifier;
use crate::data::answer;

/// Equal as numbers, digit by digit, or as text: [`answer::matches`] (spec section 12).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExactMatch;

impl Verifier for ExactMatch {
    fn name(&self) -> &'static str {
        "exact"
    }

    fn is_correct(&self, predicted: &str, gold: &str) -> bool {
        answer::matches(predicted, gold)
    }
}
