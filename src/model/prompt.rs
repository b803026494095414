//! The prompt layout (spec section 1): which strings surround a question, its steps and its answer.
//!
//! Each segment is tokenised as one string, without special tokens, and the token lists are joined;
//! so the tokens of a segment never depend on its neighbours.

use serde::{Deserialize, Serialize};

use super::tokenizer::Tokenizer;
use crate::Result;
use crate::data::Sample;

/// How a model reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// In compressed latent vectors.
    Colar,
    /// In words, step by step.
    Cot,
}

impl Method {
    /// The name in `colar.json` and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Method::Colar => "colar",
            Method::Cot => "cot",
        }
    }
}

/// The tokens of a training example, segment by segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segments {
    /// The question with the prompt around it.
    pub question: Vec<u32>,
    /// The thinking separator, then the steps (then the separator again, under CoT).
    pub steps: Vec<u32>,
    /// The answer, with its separator (under CoLaR) and the end of sequence.
    pub answer: Vec<u32>,
}

/// The question segment; `speed` is the compression factor as text, or `auto`.
pub fn question_text(question: &str, speed: &str) -> String {
    format!("Question: {question} Let's think step by step:(Thinking speed: {speed})")
}

/// A compression factor as the prompt takes it: a number above 0 in plain decimals, or `auto`.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_speed(text: &str) -> Result<String, String> {
    let text = text.trim();
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let positive = text.parse::<f64>().is_ok_and(|x| x > 0.0 && x.is_finite());
    if text == "auto" || (plain && positive) {
        Ok(text.to_owned())
    } else {
        Err("not a number above 0 (2, 1.5) nor `auto`".to_owned())
    }
}

/// The tokens of an inference prompt: the question segment and the separator, as one string.
///
/// # Errors
/// What the tokenizer says.
pub fn inference(tokenizer: &Tokenizer, question: &str, speed: &str) -> Result<Vec<u32>> {
    tokenizer.encode(&format!("{}{}", question_text(question, speed), SEPARATOR))
}

/// The thinking separator of the published models.
pub const SEPARATOR: &str = "###";

/// The tokens of a training example.
///
/// # Errors
/// What the tokenizer says.
pub fn training(
    tokenizer: &Tokenizer,
    eos: u32,
    method: Method,
    sample: &Sample,
    speed: &str,
) -> Result<Segments> {
    let steps = sample.steps.join("\n");
    let (steps, answer) = match method {
        Method::Colar => (format!("{SEPARATOR}{steps}"), format!("{SEPARATOR}Answer:{}", sample.answer)),
        Method::Cot => (format!("{SEPARATOR}{steps}{SEPARATOR}"), format!("Answer:{}", sample.answer)),
    };
    // The end of sequence is added by its id: the string that spells it differs between tokenizers.
    let mut answer = tokenizer.encode(&answer)?;
    answer.push(eos);
    Ok(Segments {
        question: tokenizer.encode(&question_text(&sample.question, speed))?,
        steps: tokenizer.encode(&steps)?,
        answer,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors() {
        for text in ["1", "2", "1.5", "7", "auto", " 2 ", "0.5"] {
            assert_eq!(parse_speed(text).as_deref(), Ok(text.trim()));
        }
        for text in ["", "0", "-1", "0.0", "two", "inf", "nan", "1e3", "+2", ".", "1.5.2", "AUTO"] {
            assert!(parse_speed(text).is_err(), "{text}");
        }
    }
}
