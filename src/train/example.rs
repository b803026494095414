//! A sample as training sees it: its rows, their tokens, and what is learnt at each.

use serde::Serialize;

use super::batch::{Batch, Labels, Packing};
use crate::Result;
use crate::data::Sample;
use crate::model::merge::Merge;
use crate::model::prompt::{Method, training};
use crate::model::tokenizer::Tokenizer;

/// The part of an example that a row belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The question with the prompt around it.
    Prompt,
    /// The separator, and the reasoning.
    Reasoning,
    /// The answer, with the separator before it under CoLaR.
    Answer,
}

/// A token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// Its text.
    pub text: String,
}

/// A row of an example: what the model is fed at one position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Where it stands.
    pub part: Part,
    /// The tokens whose embeddings are merged into it: one, or in compressed reasoning up to as many as the factor.
    pub tokens: Vec<Token>,
    /// Whether the row before it is trained to predict its token, or one of them.
    pub label: bool,
    /// Whether the row before it is trained to predict its embedding.
    pub latent: bool,
}

/// How samples are laid out.
#[derive(Debug, Clone, Copy)]
pub struct Layout<'a> {
    /// The model's tokenizer, with its template if it has one.
    pub tokenizer: &'a Tokenizer,
    /// The thinking separator.
    pub separator: u32,
    /// The token that ends an answer.
    pub eos: u32,
    /// CoLaR or CoT.
    pub method: Method,
    /// Tokens merged into a row of compressed reasoning.
    pub compression_factor: usize,
}

impl Layout<'_> {
    /// The rows of a sample. They are read from the batch that training would pack.
    ///
    /// # Errors
    /// Errors of the tokenizer.
    pub fn rows(&self, sample: &Sample) -> Result<Vec<Row>> {
        let (c, method) = (self.compression_factor, self.method);
        let stated = method.fixed_compression_factor().map_or_else(|| c.to_string(), str::to_owned);
        let segments = training(self.tokenizer, self.separator, self.eos, method, sample, &stated)?;
        let mut batch = Batch::new();
        let packing = Packing { method, compression_factor: c, merge: Merge::default() };
        batch.add(packing, &segments, &mut Labels::Mean);
        let answer = batch.rows() - segments.answer.len();
        let after = |rows: &[u32], row: usize| row > 0 && rows.binary_search(&(row as u32 - 1)).is_ok();
        let row = |i: usize| {
            let ids = &batch.ids[batch.offsets[i] as usize..batch.offsets[i + 1] as usize];
            Row {
                part: match i {
                    i if i < segments.question.len() => Part::Prompt,
                    i if i < answer => Part::Reasoning,
                    _ => Part::Answer,
                },
                tokens: ids.iter().map(|&id| Token { id, text: self.tokenizer.token_text(id) }).collect(),
                label: after(&batch.ce_rows, i),
                latent: after(&batch.latent_rows, i),
            }
        };
        Ok((0..batch.rows()).map(row).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::prompt::SEPARATOR;

    #[test]
    fn rows_say_what_is_learnt() {
        let dir = tempfile::tempdir().unwrap();
        crate::data::synth::write_tokenizer(dir.path()).unwrap();
        let tokenizer = Tokenizer::load(dir.path()).unwrap();
        let separator = tokenizer.separator(SEPARATOR).unwrap();
        let sample =
            Sample { question: "How many?".into(), steps: vec!["<<3*24=72>>".into()], answer: "72".into() };
        let rows = |method, compression_factor| {
            let layout = Layout { tokenizer: &tokenizer, separator, eos: 1, method, compression_factor };
            layout.rows(&sample).unwrap()
        };
        let colar = rows(Method::Colar, 2);
        let steps = tokenizer.encode("<<3*24=72>>").unwrap().len();
        let of = |part: Part| colar.iter().filter(move |row| row.part == part).collect::<Vec<_>>();
        assert!(of(Part::Prompt).iter().all(|row| !row.label && !row.latent && row.tokens.len() == 1));
        let reasoning = of(Part::Reasoning);
        assert_eq!(reasoning.len(), 1 + steps.div_ceil(2));
        assert!(reasoning.iter().all(|row| row.label));
        // The separator before is fed, and the latents begin behind it.
        assert!(!reasoning[0].latent && reasoning[1..].iter().all(|row| row.latent));
        assert_eq!(reasoning[1].tokens.len(), 2);
        let answer = of(Part::Answer);
        assert_eq!((answer[0].tokens[0].text.as_str(), answer[0].latent), (SEPARATOR, true));
        assert!(answer.iter().all(|row| row.label) && answer[1..].iter().all(|row| !row.latent));
        assert!(rows(Method::Cot, 1).iter().all(|row| row.tokens.len() == 1 && !row.latent));
    }
}
