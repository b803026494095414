//! The grade-school sets: GSM8K, GSM8k-Aug and GSM-Hard.

use serde::Deserialize;

use super::scalar::Scalar;
use crate::data::Sample;

/// The mark before the final answer in GSM8K and GSM8k-Aug.
pub const ANSWER_MARK: &str = "####";
/// The mark between question and solution in GSM8k-Aug.
pub const AUG_MARK: &str = "||";

/// GSM8K: the solution in sentences, a step a line, and the answer on a last line after `####`.
#[derive(Debug, Deserialize)]
#[serde(expecting = "an object with question and answer")]
pub struct Gsm8k {
    question: String,
    answer: String,
}

impl TryFrom<Gsm8k> for Sample {
    type Error = String;

    /// The set's calculator annotations (`48/2 = <<48/2=24>>24`) are instructions to a tool that repeat
    /// what the sentence says, so they are taken out.
    fn try_from(record: Gsm8k) -> Result<Sample, String> {
        let (solution, answer) = split_answer(&record.answer)?;
        let steps = solution
            .lines()
            .map(|line| without_annotations(line.trim()))
            .filter(|line| !line.trim().is_empty())
            .collect();
        Ok(Sample { question: record.question.trim().to_owned(), steps, answer: answer.to_owned() })
    }
}

/// GSM8k-Aug: `question||<<600*30/100=180>> <<600*10/100=60>> #### 360`, one sample a line.
///
/// Each `<<…>>` is a step and keeps its brackets. The set's variant in natural language has sentences
/// instead, which become one step.
pub fn parse_aug(line: &str) -> Result<Sample, String> {
    let (question, solution) =
        line.rsplit_once(AUG_MARK).ok_or("there is no `||` between question and steps")?;
    let (solution, answer) = split_answer(solution)?;
    let mut steps = Vec::new();
    let mut rest = solution.trim();
    if !rest.contains("<<") && !rest.is_empty() {
        steps.push(rest.to_owned());
        rest = "";
    }
    while !rest.is_empty() {
        if !rest.starts_with("<<") {
            return Err("the steps must stand in <<…>>".to_owned());
        }
        let end = rest.find(">>").ok_or("a step's `<<` is not closed by `>>`")? + ">>".len();
        steps.push(rest[..end].to_owned());
        rest = rest[end..].trim_start();
    }
    Ok(Sample { question: question.trim().to_owned(), steps, answer: answer.to_owned() })
}

/// GSM-Hard: the question, a Python function that solves it, and the number it returns.
#[derive(Debug, Deserialize)]
#[serde(expecting = "an object with input, code and target")]
pub struct GsmHard {
    input: String,
    code: String,
    target: Scalar,
}

impl TryFrom<GsmHard> for Sample {
    type Error = String;

    fn try_from(record: GsmHard) -> Result<Sample, String> {
        let steps = code_steps(&record.code);
        Ok(Sample { question: record.input.trim().to_owned(), steps, answer: record.target.into() })
    }
}

/// Solution and answer on either side of the last `####`.
fn split_answer(text: &str) -> Result<(&str, &str), String> {
    let (solution, answer) = text.rsplit_once(ANSWER_MARK).ok_or("there is no `####` before the answer")?;
    Ok((solution, answer.trim()))
}

/// `line` without its `<<…>>`; an unclosed one stays.
fn without_annotations(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, tail)) = rest.split_once("<<") {
        let Some((_, after)) = tail.split_once(">>") else { break };
        out.push_str(before);
        rest = after;
    }
    out + rest
}

/// The statements of a Python function's body, unindented: without the `def` line, the docstring
/// (which repeats the question), blank lines and a bare `return name`, none of which reasons.
fn code_steps(code: &str) -> Vec<String> {
    let mut steps = Vec::new();
    // The quotes that end the docstring being skipped.
    let mut docstring: Option<&str> = None;
    for line in code.lines().map(str::trim) {
        if let Some(quotes) = docstring {
            if line.ends_with(quotes) {
                docstring = None;
            }
            continue;
        }
        if let Some(quotes) = ["\"\"\"", "'''"].into_iter().find(|quotes| line.starts_with(quotes)) {
            if line.len() < 2 * quotes.len() || !line.ends_with(quotes) {
                docstring = Some(quotes);
            }
            continue;
        }
        let returns_a_name = line
            .strip_prefix("return ")
            .is_some_and(|value| value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
        let is_head = line.starts_with("def ") && line.ends_with(':');
        if !line.is_empty() && !is_head && !returns_a_name {
            steps.push(line.to_owned());
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aug_steps_keep_their_brackets() {
        let sample = parse_aug("a || b?||<<1+1=2>> <<2*3=6>>  #### 1,006 ").unwrap();
        assert_eq!(sample.question, "a || b?");
        assert_eq!(sample.steps, ["<<1+1=2>>", "<<2*3=6>>"]);
        assert_eq!(sample.answer, "1,006");
        assert_eq!(parse_aug("q||#### 5").unwrap().steps, [""; 0]);
        assert_eq!(parse_aug("q||One and one is 2. #### 2").unwrap().steps, ["One and one is 2."]);
    }

    #[test]
    fn aug_errors_say_what_is_missing() {
        for (line, expected) in [
            ("q <<1+1=2>> #### 2", "there is no `||` between question and steps"),
            ("q||<<1+1=2>>", "there is no `####` before the answer"),
            ("q||<<1+1=2 #### 2", "a step's `<<` is not closed by `>>`"),
            ("q||so <<1+1=2>> #### 2", "the steps must stand in <<…>>"),
        ] {
            assert_eq!(parse_aug(line).unwrap_err(), expected);
        }
    }

    #[test]
    fn annotations_go_and_the_sentence_stays() {
        assert_eq!(without_annotations("48/2 = <<48/2=24>>24 and <<1=1>>1"), "48/2 = 24 and 1");
        assert_eq!(without_annotations("a << b"), "a << b");
    }

    #[test]
    fn code_keeps_only_what_reasons() {
        let code = "def solution():\n    \"\"\"Two lines\n    of text.\"\"\"\n    a = 1\n\n    r = a + 2\n    return r\n";
        assert_eq!(code_steps(code), ["a = 1", "r = a + 2"]);
        let code = "def solution():\n    '''One line.'''\n    a = 1\n    return a + 1";
        assert_eq!(code_steps(code), ["a = 1", "return a + 1"]);
        assert_eq!(code_steps("\"\"\""), [""; 0]);
    }
}
