//! The prompt layout (spec section 1): which strings surround a question, its steps and its answer.
//!
//! Each text is tokenised by itself, without special tokens, the separators stand between them by their id, and the
//! token lists are joined; so no token depends on its neighbours. As part of a longer string `###` is other tokens under
//! many tokenizers: behind a bracket, or wherever SentencePiece puts no blank before it.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::tokenizer::Tokenizer;
use crate::data::Sample;
use crate::data::answer::ANSWER_MARK;
use crate::range::Range;
use crate::{Error, Result};

/// The compression factor that prompts state where none is chosen.
pub const DEFAULT_COMPRESSION_FACTOR: &str = "2";

/// How a model reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Method {
    /// In compressed latent vectors.
    Colar,
    /// In words, step by step.
    Cot,
    /// In words, of which training took the first away stage by stage: implicit CoT (arXiv 2405.14838).
    Icot,
    /// In hidden states fed back as input embeddings, which took the place of steps: Coconut
    /// (arXiv 2412.06769).
    Coconut,
    /// In projected hidden states, distilled from the model's own written chain (as CODI, arXiv 2502.21074).
    Distill,
}

impl Method {
    /// All five.
    pub const ALL: [Method; 5] = [Method::Colar, Method::Cot, Method::Icot, Method::Coconut, Method::Distill];

    /// The name in `colar.json` and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Method::Colar => "colar",
            Method::Cot => "cot",
            Method::Icot => "icot",
            Method::Coconut => "coconut",
            Method::Distill => "distill",
        }
    }

    /// The name in tables and plots.
    pub fn label(self) -> &'static str {
        match self {
            Method::Colar => "CoLaR",
            Method::Cot => "CoT",
            Method::Icot => "iCoT",
            Method::Coconut => "Coconut",
            Method::Distill => "Distill",
        }
    }

    /// The compression factor that all its prompts state, as text; `None` where one is chosen.
    pub fn fixed_compression_factor(self) -> Option<&'static str> {
        match self {
            Method::Colar => None,
            Method::Cot => Some("1"),
            Method::Icot | Method::Coconut | Method::Distill => Some(AUTO),
        }
    }

    /// Whether it reasons in vectors, latents or thoughts, which a trace can tell of.
    #[doc(hidden)]
    pub fn has_vectors(self) -> bool {
        matches!(self, Method::Colar | Method::Coconut | Method::Distill)
    }

    /// The compression factor that prompts state where `given` is wanted, if any is.
    ///
    /// # Errors
    /// [`Error::Usage`] for another than the [fixed one](Method::fixed_compression_factor).
    pub fn compression_factor(self, given: Option<&str>) -> Result<&str> {
        match (self.fixed_compression_factor(), given) {
            (None, given) => Ok(given.unwrap_or(DEFAULT_COMPRESSION_FACTOR)),
            (Some(own), Some(given)) if given != own => Err(self.no_factor(own, given)),
            (Some(own), _) => Ok(own),
        }
    }

    /// The error for a compression factor under a method whose prompts all state `own`.
    #[doc(hidden)]
    pub fn no_factor(self, own: &str, given: &str) -> Error {
        Error::usage(format!(
            "`compression_factor` {given}: method {} compresses nothing, and its prompts all say {own}",
            self.name()
        ))
    }
}

from_name!(Method, "method");

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

impl Segments {
    /// Positions of the sequence once its steps are compressed: the separator is a chunk of its own (spec section 2).
    pub fn positions(&self, compression_factor: usize) -> usize {
        let steps = 1 + self.steps.len().saturating_sub(1).div_ceil(compression_factor.max(1));
        self.question.len() + steps + self.answer.len()
    }
}

/// The question segment; `compression_factor` is a number as text, or `auto`.
pub fn question_text(question: &str, compression_factor: &str) -> String {
    format!("Question: {question} Let's think step by step:(Thinking speed: {compression_factor})")
}

/// The compression factor of a prompt that leaves it open.
pub const AUTO: &str = "auto";

/// The compression factors that a prompt may state; those of training are whole.
pub const FACTORS: Range = Range::AboveTo(0.0, 1024.0);
/// Most letters of one.
const MOST_LETTERS: usize = 16;

/// A compression factor as the prompt states it: one of [`FACTORS`] in plain decimals, in its shortest spelling, or `auto`.
/// `2`, `02`, `2.0` and `2.` are one factor, and a prompt that spelled it otherwise would be another to the model.
///
/// # Errors
/// The fault of the text.
pub fn parse_compression_factor(text: &str) -> Result<String, String> {
    let text = text.trim();
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let fits = text.len() <= MOST_LETTERS && text.parse::<f64>().is_ok_and(|x| FACTORS.has(x));
    if text == AUTO {
        Ok(text.to_owned())
    } else if plain && fits {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
        let whole = if whole.is_empty() { "0" } else { whole };
        Ok(if fraction.is_empty() { whole.to_owned() } else { format!("{whole}.{fraction}") })
    } else {
        Err(format!("it takes {FACTORS} (2, 1.5), or `auto`"))
    }
}

/// The tokens of an inference prompt: the question segment and the separator.
///
/// # Errors
/// Errors of the tokenizer.
pub fn inference(
    tokenizer: &Tokenizer,
    separator: u32,
    question: &str,
    compression_factor: &str,
) -> Result<Vec<u32>> {
    let mut ids = tokenizer.encode_prompt(&question_text(question, compression_factor))?;
    ids.push(separator);
    Ok(ids)
}

/// The indices of equal prompts: each group in order, groups in the order of their first.
pub fn group_equal<'a>(prompts: impl Iterator<Item = &'a [u32]>) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut places: HashMap<&[u32], usize> = HashMap::new();
    for (i, prompt) in prompts.enumerate() {
        let place = *places.entry(prompt).or_insert(groups.len());
        match groups.get_mut(place) {
            Some(group) => group.push(i),
            None => groups.push(vec![i]),
        }
    }
    groups
}

/// The thinking separator of the published models.
pub const SEPARATOR: &str = "###";

/// The tokens of a training example with all its steps: compressible ones under CoLaR, else reasoning text.
///
/// # Errors
/// Errors of the tokenizer.
pub fn training(
    tokenizer: &Tokenizer,
    separator: u32,
    eos: u32,
    method: Method,
    sample: &Sample,
    compression_factor: &str,
) -> Result<Segments> {
    let mut steps = vec![separator];
    steps.extend(tokenizer.encode(&sample.steps.join("\n"))?);
    let mut answer = Vec::new();
    // The separator that ends the reasoning belongs to the segment that is not compressed.
    match method {
        Method::Colar => answer.push(separator),
        Method::Cot | Method::Icot | Method::Coconut | Method::Distill => steps.push(separator),
    }
    answer.extend(tokenizer.encode(&format!("{ANSWER_MARK}{}", sample.answer))?);
    answer.push(eos);
    Ok(Segments {
        question: tokenizer.encode_prompt(&question_text(&sample.question, compression_factor))?,
        steps,
        answer,
    })
}

/// The tokens of a training example of implicit CoT, whose first `removed` steps are gone: those left stand
/// between two separators, and with none left the separators stand alone. The prompt says `auto`.
///
/// # Errors
/// Errors of the tokenizer.
pub fn shortened(
    tokenizer: &Tokenizer,
    separator: u32,
    eos: u32,
    sample: &Sample,
    removed: usize,
) -> Result<Segments> {
    let rest = sample.steps.get(removed..).unwrap_or_default();
    let rest =
        Sample { question: sample.question.clone(), steps: rest.to_vec(), answer: sample.answer.clone() };
    training(tokenizer, separator, eos, Method::Icot, &rest, AUTO)
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn all_methods_are_listed() {
        assert_eq!(Method::value_variants(), Method::ALL);
    }

    #[test]
    fn equal_prompts_are_found_wherever_they_stand() {
        let prompts: [&[u32]; 5] = [&[1, 2], &[3], &[1, 2], &[], &[3]];
        assert_eq!(group_equal(prompts.into_iter()), [vec![0, 2], vec![1, 4], vec![3]]);
        assert!(group_equal(std::iter::empty()).is_empty());
    }

    #[test]
    fn steps_are_taken_away_from_the_front() {
        let dir = tempfile::tempdir().unwrap();
        crate::data::synth::write_tokenizer(dir.path()).unwrap();
        let tokenizer = Tokenizer::load(dir.path()).unwrap();
        let (separator, eos) = (tokenizer.separator(SEPARATOR).unwrap(), 1);
        let steps = ["<<3*24=72>>".to_owned(), "<<72-10=62>>".to_owned()];
        let sample = Sample { question: "How many?".into(), steps: steps.to_vec(), answer: "62".into() };
        let of = |removed| shortened(&tokenizer, separator, eos, &sample, removed).unwrap();
        let encode = |text: &str| tokenizer.encode(text).unwrap();
        assert_eq!(of(0), training(&tokenizer, separator, eos, Method::Cot, &sample, AUTO).unwrap());
        assert_eq!(of(1).steps, encode("###<<72-10=62>>###"));
        for removed in [2, 9] {
            assert_eq!(of(removed).steps, [separator, separator]);
            assert_eq!(of(removed).question, encode(&question_text("How many?", "auto")));
            assert_eq!(of(removed).answer, [encode("Answer:62"), vec![eos]].concat());
        }
    }

    /// A tokenizer as SentencePiece makes them: a word begins with `▁`, so `###` is another token behind a bracket.
    fn sentence_piece() -> (tempfile::TempDir, Tokenizer) {
        let made = ["<unk>", "</s>", "##", "▁##", "▁###", "▁"].map(str::to_owned);
        let pieces = made.into_iter().chain((' '..='~').map(|c| c.to_string()));
        let vocab: HashMap<String, usize> = pieces.enumerate().map(|(id, piece)| (piece, id)).collect();
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "post_processor": null,
            "added_tokens": [{"id": 1, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false,
                              "normalized": false, "special": true}],
            "normalizer": null,
            "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
            "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
            "model": {"type": "BPE", "unk_token": "<unk>", "vocab": vocab, "merges": ["# #", "▁ ##", "▁## #"]},
        });
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
        std::fs::write(dir.path().join("tokenizer_config.json"), r#"{"eos_token": "</s>"}"#).unwrap();
        let tokenizer = Tokenizer::load(dir.path()).unwrap();
        (dir, tokenizer)
    }

    /// The separator has one id, in training and in generation, whatever stands beside it.
    #[test]
    fn separators_do_not_depend_on_their_neighbours() {
        let (_dir, tokenizer) = sentence_piece();
        let (separator, eos) = (tokenizer.separator(SEPARATOR).unwrap(), 1);
        assert!(!tokenizer.encode("2)###").unwrap().contains(&separator));
        let steps = vec!["1+1=2".to_owned(), "2+2=4".to_owned()];
        let sample = Sample { question: "How many?".into(), steps, answer: "4".into() };
        let prompt = inference(&tokenizer, separator, "How many?", "2").unwrap();
        let count = |ids: &[u32]| ids.iter().filter(|&&id| id == separator).count();
        for method in Method::ALL {
            let s = training(&tokenizer, separator, eos, method, &sample, "2").unwrap();
            assert_eq!(prompt, [&s.question[..], &s.steps[..1]].concat(), "{method:?}");
            let (in_steps, in_answer) = if method == Method::Colar { (1, 1) } else { (2, 0) };
            assert_eq!(
                (count(&s.question), count(&s.steps), count(&s.answer)),
                (0, in_steps, in_answer),
                "{method:?}"
            );
            assert_eq!(s.answer.last(), Some(&eos));
            let text = tokenizer.decode(&s.answer, true).unwrap();
            assert_eq!(crate::data::answer::extract(&text), Some("4"), "{text}");
        }
    }

    #[test]
    fn factors() {
        for text in ["1", "2", "1.5", "7", "auto", " 2 ", "0.5", "10", "100"] {
            assert_eq!(parse_compression_factor(text).as_deref(), Ok(text.trim()));
        }
        for (text, same) in
            [("02", "2"), ("2.0", "2"), ("2.", "2"), (".5", "0.5"), ("1.50", "1.5"), ("00.25", "0.25")]
        {
            assert_eq!(parse_compression_factor(text).as_deref(), Ok(same), "{text}");
        }
        for text in [
            "",
            "0",
            "-1",
            "0.0",
            "two",
            "inf",
            "nan",
            "1e3",
            "+2",
            ".",
            "1.5.2",
            "AUTO",
            "1025",
            "0.0000000000000001",
        ] {
            assert!(parse_compression_factor(text).is_err(), "{text}");
        }
    }
}
