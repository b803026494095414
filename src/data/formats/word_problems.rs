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
        let steps = vec![record.equation.trim().to_owned()];
        Ok(Sample { question: joined(&record.body, &record.question), steps, answer: record.answer.into() })
    }
}

/// Story and question with a full stop between them, as the authors' script puts it: many stories end without one.
fn joined(body: &str, question: &str) -> String {
    let body = body.trim_matches(|c: char| c == '.' || c.is_whitespace());
    let question = question.trim();
    if body.is_empty() { question.to_owned() } else { format!("{body}. {question}") }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The expression of the authors' script, in Python: `Body.strip(". ") + ". " + Question.strip()`.
    #[test]
    fn svamp_has_the_question_of_the_authors() {
        for (body, question, whole) in [
            ("Iris has 17 pens.", "How many?", "Iris has 17 pens. How many?"),
            ("Iris has 17 pens", "How many?", "Iris has 17 pens. How many?"),
            (
                "There are 8 pens , each costs 2 . ",
                " How many? ",
                "There are 8 pens , each costs 2. How many?",
            ),
            ("If 3 pens cost 6", "how much is one ?", "If 3 pens cost 6. how much is one ?"),
            ("...Iris left. ", "Why?", "Iris left. Why?"),
            ("", "How many?", "How many?"),
        ] {
            assert_eq!(joined(body, question), whole);
        }
    }
}
