//! The older word-problem sets, SVAMP and MultiArith: an equation instead of reasoning.

use serde::Deserialize;

use super::scalar::Scalar;
use crate::data::Sample;

/// SVAMP: a story, a question about it, an equation and its value.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", expecting = "an object with Body, Question, Equation and Answer")]
pub struct Svamp {
    body: String,
    question: String,
    equation: String,
    answer: Scalar,
}

impl TryFrom<Svamp> for Sample {
    type Error = String;

    fn try_from(record: Svamp) -> Result<Sample, String> {
        let question = format!("{} {}", record.body.trim(), record.question.trim());
        let steps = vec![record.equation.trim().to_owned()];
        Ok(Sample { question: question.trim().to_owned(), steps, answer: record.answer.into() })
    }
}

/// MultiArith: a question, its equations and their solutions.
#[derive(Debug, Deserialize)]
#[serde(expecting = "an object with sQuestion, lEquations and lSolutions")]
pub struct MultiArith {
    #[serde(rename = "sQuestion")]
    question: String,
    #[serde(rename = "lEquations")]
    equations: Vec<String>,
    #[serde(rename = "lSolutions")]
    solutions: Vec<Scalar>,
}

impl TryFrom<MultiArith> for Sample {
    type Error = String;

    fn try_from(record: MultiArith) -> Result<Sample, String> {
        let answer = record.solutions.into_iter().next().ok_or("lSolutions is empty")?;
        let steps = record.equations.iter().map(|equation| equation.trim().to_owned()).collect();
        Ok(Sample { question: record.question.trim().to_owned(), steps, answer: answer.into() })
    }
}
