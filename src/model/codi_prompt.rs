//! The prompts of CODI's checkpoints, which are not those of spec section 1.

use std::path::Path;

use super::tokenizer::Tokenizer;
use crate::files::json::Fields;
use crate::{Error, Result};

/// The mark before the answer in the texts that CODI learns from.
pub const CODI_ANSWER_MARK: &str = "The answer is:";

/// The tokens around a question and its thoughts: `first`, the question alone, `begin`, the thoughts, `end`, the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodiPrompt {
    /// Tokens that the tokenizer puts before every text; none under some.
    pub first: Vec<u32>,
    /// The token before the thoughts.
    pub begin: u32,
    /// The token after them.
    pub end: u32,
}

impl CodiPrompt {
    /// Reads the fields of the object `codi` of `colar.json`.
    ///
    /// # Errors
    /// [`Error::File`] naming the field at fault.
    pub fn read(fields: &Fields<'_>) -> Result<Self> {
        let ids = |name: &str| fields.token_ids(name, u32::MAX as usize);
        let one = |name: &str| match ids(name)?.as_slice() {
            &[id] => Ok(id),
            _ => Err(fields.error(name, "must be one token id")),
        };
        Ok(CodiPrompt { first: ids("first")?, begin: one("begin")?, end: one("end")? })
    }

    /// Checks that each of its tokens has a row in an embedding of `rows` rows; `path` is for messages.
    ///
    /// # Errors
    /// [`Error::File`] naming the token.
    pub fn check_fits(&self, path: &Path, rows: usize) -> Result<()> {
        let all = self.first.iter().chain([&self.begin, &self.end]);
        match all.into_iter().find(|&&id| id as usize >= rows) {
            None => Ok(()),
            Some(id) => Err(Error::file(path, format!("codi: token {id} is not one of the model's {rows}"))),
        }
    }

    /// The prompt of a question, whose doubled blanks are single ones there.
    ///
    /// # Errors
    /// Errors of the tokenizer.
    pub fn tokens(&self, tokenizer: &Tokenizer, question: &str) -> Result<Vec<u32>> {
        let question = tokenizer.encode(&question.trim().replace("  ", " "))?;
        Ok([self.first.as_slice(), &question, &[self.begin]].concat())
    }

    /// The answer in a generated text: what follows its last mark, without surrounding blanks.
    pub fn answer(text: &str) -> Option<&str> {
        text.rfind(CODI_ANSWER_MARK).map(|at| text[at + CODI_ANSWER_MARK.len()..].trim())
    }
}
