//! The forms in which data sets come, and the one way in: [`load`].
//!
//! Six public sets are published in six forms, and each would otherwise need a conversion script of
//! its own before a first run. A form is a small type that serde reads and that turns into a
//! [`Sample`] or says in one phrase why it cannot; reading files, counting lines and naming them in
//! errors is written once, in `records`.
//!
//! Nothing is repaired in silence: a record that lacks a field, has an empty question or no answer
//! stops the load with its file and line, since a sample dropped here would move a published figure.

mod colar;
mod gsm;
mod math;
mod records;
mod sample;
mod scalar;
mod word_problems;

use std::path::Path;

use super::Sample;
use crate::{Error, Result};
pub use colar::write_jsonl;
use sample::{finish, read_json};

/// A published form of a data set (spec section 8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[non_exhaustive]
pub enum Format {
    /// The engine's own: {"question", "steps": text or list, "answer"}, a JSON array or a line each
    Colar,
    /// GSM8K: {"question", "answer": "steps\n#### 72"}, a line each
    Gsm8k,
    /// GSM8k-Aug: `question||<<a>> <<b>> #### 72`, a line each
    Gsm8kAug,
    /// GSM-Hard: {"input", "code", "target"}, a line each
    GsmHard,
    /// SVAMP: a JSON array of {"Body", "Question", "Equation", "Answer"}
    Svamp,
    /// MultiArith: a JSON array of {"sQuestion", "lEquations", "lSolutions"}
    Multiarith,
    /// MATH: {"problem", "solution"} files in a directory tree, or such records in one file
    Math,
}

/// Reads the data set at `path`, in the given form or, with `None`, in the one its first record shows.
///
/// Every form but GSM8k-Aug is read from a JSON array, from JSON lines or from a single object, however it
/// was published. A directory is read as MATH: all `*.json` files under it, in the order of their paths.
///
/// # Errors
/// [`Error::Io`] if a file cannot be read; [`Error::Line`] for bytes that are not UTF-8, malformed
/// JSON, a missing field, an empty question or answer; [`Error::File`] for an empty data set or a
/// form that is not known.
pub fn load(path: impl AsRef<Path>, format: Option<Format>) -> Result<Vec<Sample>> {
    read(path.as_ref(), format, true)
}

/// Reads a data set whose questions are asked and whose steps are not looked at, so that a record may be without them; else
/// as [`load`] without a given form.
///
/// # Errors
/// As [`load`].
pub fn load_questions(path: impl AsRef<Path>) -> Result<Vec<Sample>> {
    read(path.as_ref(), None, false)
}

fn read(path: &Path, format: Option<Format>, steps: bool) -> Result<Vec<Sample>> {
    let samples = if path.is_dir() {
        match format {
            None | Some(Format::Math) => math::load_directory(path)?,
            Some(_) => return Err(Error::file(path, "is a directory; only the MATH form is read from one")),
        }
    } else {
        parse(path, &records::read_text(path)?, format, steps)?
    };
    if samples.is_empty() {
        return Err(Error::file(path, "the data set is empty"));
    }
    Ok(samples)
}

/// The samples in the text of one file, each of which must have `steps` or may lack them; `path` is for messages.
fn parse(path: &Path, text: &str, format: Option<Format>, steps: bool) -> Result<Vec<Sample>> {
    let Some(format) = format.map_or_else(|| detect(path, text), |format| Ok(Some(format)))? else {
        return Ok(Vec::new());
    };
    match format {
        Format::Colar if steps => read_json::<colar::Record>(path, text),
        Format::Colar => read_json::<colar::Question>(path, text),
        Format::Gsm8k => read_json::<gsm::Gsm8k>(path, text),
        Format::Gsm8kAug => {
            records::lines(text).map(|line| finish(path, &line, gsm::parse_aug(line.text))).collect()
        }
        Format::GsmHard => read_json::<gsm::GsmHard>(path, text),
        Format::Svamp => read_json::<word_problems::Svamp>(path, text),
        Format::Multiarith => read_json::<word_problems::MultiArith>(path, text),
        Format::Math => read_json::<math::Problem>(path, text),
    }
}

/// The form of the first record; `None` if there is no record.
fn detect(path: &Path, text: &str) -> Result<Option<Format>> {
    let Some(first_line) = records::lines(text).next() else {
        return Ok(None);
    };
    if !first_line.text.starts_with(['[', '{']) {
        return if first_line.text.contains(gsm::AUG_MARK) {
            Ok(Some(Format::Gsm8kAug))
        } else {
            Err(unknown(path, first_line.line, "neither JSON nor `question||steps #### answer`"))
        };
    }
    let all = records::split(path, text)?;
    let Some(first) = all.first() else {
        return Ok(None);
    };
    let object: serde_json::Map<String, serde_json::Value> = records::parse(path, first)?;
    let has = |keys: &[&str]| keys.iter().all(|key| object.contains_key(*key));
    let gsm8k = |answer: &serde_json::Value| answer.as_str().is_some_and(|a| a.contains(gsm::ANSWER_MARK));
    Ok(Some(if has(&["question", "steps"]) {
        Format::Colar
    } else if has(&["question"]) && object.get("answer").is_some_and(gsm8k) {
        Format::Gsm8k
    } else if has(&["question", "answer"]) {
        Format::Colar
    } else if has(&["input", "code"]) {
        Format::GsmHard
    } else if has(&["Body", "Question"]) {
        Format::Svamp
    } else if has(&["sQuestion"]) {
        Format::Multiarith
    } else if has(&["problem", "solution"]) {
        Format::Math
    } else {
        let mut keys: Vec<String> = object.keys().take(8).map(|key| format!("{key:.40?}")).collect();
        if object.len() > keys.len() {
            keys.push("…".to_owned());
        }
        return Err(unknown(path, first.line, &format!("its keys are {}", keys.join(", "))));
    }))
}

/// The error for a first record that fits no form.
fn unknown(path: &Path, line: usize, why: &str) -> Error {
    let what = format!("the record fits no known form: {why}");
    Error::Line { path: path.to_owned(), line, what }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> Result<Vec<Sample>> {
        parse(Path::new("d"), text, None, true)
    }

    #[test]
    fn forms_are_told_apart_by_the_keys_of_the_first_record() {
        for (text, form) in [
            (r#"{"question":"q","steps":[],"answer":"a"}"#, Format::Colar),
            (r#"[{"answer":"a","steps":"s","question":"q"}]"#, Format::Colar),
            (r#"{"question":"q","answer":"s\n#### 7"}"#, Format::Gsm8k),
            (r#"{"question":"q","answer":"7"}"#, Format::Colar),
            ("q||<<1+1=2>> #### 2", Format::Gsm8kAug),
            (r#"{"input":"q","code":"c","target":1}"#, Format::GsmHard),
            (r#"[{"Body":"b","Question":"q","Equation":"e","Answer":1}]"#, Format::Svamp),
            (r#"[{"sQuestion":"q","lEquations":[],"lSolutions":[1]}]"#, Format::Multiarith),
            (r#"{"problem":"p","solution":"s"}"#, Format::Math),
        ] {
            assert_eq!(detect(Path::new("d"), text).unwrap(), Some(form), "{text}");
        }
        assert_eq!(detect(Path::new("d"), " \n\n").unwrap(), None);
    }

    #[test]
    fn errors_name_file_and_line() {
        for (text, expected) in [
            (
                "hello",
                "d, line 1: the record fits no known form: neither JSON nor `question||steps #### answer`",
            ),
            ("\n{\"a\":1,\"b\":2}", "d, line 2: the record fits no known form: its keys are \"a\", \"b\""),
            (
                "{\"question\":\"q\",\"steps\":\"s\",\"answer\":\"a\"}\n{\"question\":\"q\",\"answer\":\"a\"}",
                "d, line 2: missing field `steps` (column 29)",
            ),
            (
                "[\n{\"question\":\"q\",\"steps\":\"s\",\"answer\":\"a\"},\n\n{\"question\":\" \",\"steps\":\"\",\"answer\":\"a\"}]",
                "d, line 4: the question is empty",
            ),
            (
                "{\"question\":\"q\",\"steps\":[1],\"answer\":\"a\"}",
                "d, line 1: the steps must be text or a list of texts (column 27)",
            ),
            ("{\"question\":\"q\",\"steps\":\"\",\"answer\":\" \"}", "d, line 1: the answer is empty"),
        ] {
            assert_eq!(parsed(text).unwrap_err().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn questions_need_no_steps() {
        let asked = |text: &str| parse(Path::new("d"), text, None, false);
        let bare = r#"{"question":"q","answer":"7"}"#;
        assert_eq!(parsed(bare).unwrap_err().to_string(), "d, line 1: missing field `steps` (column 29)");
        let null = r#"{"question":"q","steps":null,"answer":7}"#;
        for text in [bare, null] {
            let sample = Sample { question: "q".into(), steps: vec![], answer: "7".into() };
            assert_eq!(asked(text).unwrap(), [sample]);
        }
        let with = r#"{"question":"q","steps":["s"],"answer":"7"}"#;
        assert_eq!(asked(with).unwrap(), parsed(with).unwrap());
        assert!(asked(r#"{"question":"q","steps":[1],"answer":"a"}"#).is_err());
        assert_eq!(
            asked("{\"question\":\"q\",\"answer\":\" \"}").unwrap_err().to_string(),
            "d, line 1: the answer is empty"
        );
    }

    #[test]
    fn what_stands_in_for_a_data_set_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("train.jsonl");
        std::fs::write(&path, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n").unwrap();
        assert!(load(&path, None).unwrap_err().to_string().ends_with("run `git lfs pull`"));
        std::fs::write(&path, "<!doctype html>\n<title>404</title>").unwrap();
        assert!(load(&path, None).unwrap_err().to_string().contains("is a web page"));
        std::fs::write(&path, "").unwrap();
        assert!(load(&path, None).unwrap_err().to_string().ends_with("the data set is empty"));
    }

    /// Text that looks enough like a data set to reach the depths of every reader.
    fn near_miss() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("{"),
            Just("}"),
            Just("["),
            Just("]"),
            Just(","),
            Just(":"),
            Just("\n"),
            Just("\""),
            Just("\\"),
            Just("||"),
            Just("<<"),
            Just(">>"),
            Just("####"),
            Just("1"),
            Just("-1e999"),
            Just("null"),
            Just("é"),
            Just(r#"{"question":"q","steps":["s"],"answer":"a"}"#),
            Just(r#""question":"#),
            Just(r#""steps":"#),
            Just(r#"{"problem":"p","solution":"\\boxed{\\frac{1}{2}}"}"#),
            Just(r"\boxed"),
            Just(r#""answer":"#),
            Just(r#"{"input":"q","code":"def f():\n  return 1","target":1.5}"#),
            Just("\"\"\""),
            Just(" "),
            Just(r#"{"sQuestion":"q","lEquations":["e"],"lSolutions":[1.0]}"#),
            Just("\u{feff}"),
            Just(r#"{"Body":"b","Question":"q","Equation":"( 1 )","Answer":2.0}"#),
            Just("\r\n"),
        ];
        proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn no_text_panics_any_reader(text in near_miss()) {
            use clap::ValueEnum;
            let _ = parsed(&text);
            for format in Format::value_variants() {
                for steps in [true, false] {
                    let _ = parse(Path::new("d"), &text, Some(*format), steps);
                }
            }
        }
    }
}
