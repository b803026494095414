//! Data: formats in, [`Sample`] out.

#[doc(hidden)]
pub mod answer;
#[doc(hidden)]
pub mod formats;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod lengths;
#[cfg(feature = "train")]
#[doc(hidden)]
pub mod synth;
#[doc(hidden)]
pub mod verify;

use serde::{Deserialize, Serialize};

pub use answer::AnswerRule;
pub use formats::{Format, load, load_questions, write_jsonl};
pub use verify::{Verifier, VerifierKind};

/// One training or test example: a question, its reasoning steps and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// The question as asked.
    pub question: String,
    /// The reasoning, one step an entry; joined by `\n` in the prompt (spec section 1).
    pub steps: Vec<String>,
    /// The gold answer.
    pub answer: String,
}
