//! The questions that every verifier answers.

/// Decides whether an answer is right.
pub trait Verifier: Send + Sync {
    /// The name on the command line and in configurations.
    fn name(&self) -> &'static str;

    /// Whether `predicted` counts as the answer `gold`.
    fn is_correct(&self, predicted: &str, gold: &str) -> bool;
}
