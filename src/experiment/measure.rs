//! The figures of one checkpoint on one data set, kept in a file so that they need not be measured again.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::data::{AnswerRule, Sample, VerifierKind};
use crate::device::Device;
use crate::eval::{EvalOptions, evaluate};
use crate::files::atomic::write_atomic;
use crate::infer::{Loaded, Sampling};
use crate::model::prompt::Method;
use crate::{Error, Result};

/// Everything that decides the figures, but for the checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// The method of reasoning.
    pub method: Method,
    /// The compression factor that prompts state.
    #[serde(rename = "speed")]
    pub compression_factor: String,
    /// Sampling settings.
    pub sampling: Sampling,
    /// The verifier that judges answers.
    pub verifier: VerifierKind,
    /// Which part of a generated text is its answer.
    #[serde(default)]
    pub answer_rule: AnswerRule,
    /// Questions of the data set.
    pub n: usize,
    /// CRC-32C of the data set's questions and answers.
    pub data: u32,
}

impl Setting {
    /// The file of its figures in `dir`; `test` is the name of the data set. Another setting has another file.
    pub(super) fn file(&self, dir: &Path, test: &str) -> PathBuf {
        let Setting { method, compression_factor, sampling, verifier, answer_rule, n, data } = self;
        // Debug prints floats in the shortest form that is exact. The names are written out: a field may be renamed
        // without figures in existing directories being looked for under another name.
        let rule = match answer_rule {
            AnswerRule::Last => String::new(),
            other => format!("answer_rule: {other:?}, "),
        };
        let text = format!(
            "Setting {{ method: {method:?}, speed: {compression_factor:?}, sampling: {sampling:?}, verifier: {verifier:?}, \
             {rule}n: {n}, data: {data} }}"
        );
        let code = crc32c::crc32c(text.as_bytes());
        dir.join(format!("{test}-c{}-{code:08x}.json", self.compression_factor))
    }
}

/// The figures of a checkpoint on a data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The setting they were measured under.
    pub setting: Setting,
    /// Share of right answers, from 0 to 1.
    pub accuracy: f64,
    /// Mean reasoning length #L: latents, thoughts, or tokens of reasoning text.
    pub mean_length: f64,
    /// The same over right answers; `None` where there are none.
    pub mean_length_correct: Option<f64>,
    /// Mean tokens of an answer.
    pub mean_answer_tokens: f64,
}

/// A checksum of a data set's questions and answers, which does not depend on its file format.
pub fn checksum(samples: &[Sample]) -> u32 {
    samples.iter().fold(0, |crc, s| {
        let crc = crc32c::crc32c_append(crc, s.question.as_bytes());
        crc32c::crc32c_append(crc32c::crc32c_append(crc, b"\n"), s.answer.as_bytes())
    })
}

/// The figures in the file `path`, if they are those of `setting`.
pub(super) fn kept(path: &Path, setting: &Setting) -> Option<Measured> {
    let measured: Measured = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    (measured.setting == *setting).then_some(measured)
}

/// Measures, `batch_size` questions at a time, and keeps the figures in the file `path`; calls `progress` with the
/// number of questions answered.
///
/// # Errors
/// As [`evaluate`]; [`Error::Io`] naming `path`.
pub(super) fn measure<D: Device>(
    loaded: &Loaded<D>,
    samples: &[Sample],
    setting: &Setting,
    batch_size: usize,
    path: &Path,
    progress: &mut dyn FnMut(usize),
) -> Result<Measured> {
    let options = EvalOptions {
        method: setting.method,
        compression_factor: setting.compression_factor.clone(),
        sampling: setting.sampling,
        batch_size,
        verifier: setting.verifier,
        answer_rule: setting.answer_rule,
    };
    let e = evaluate(loaded, samples, &options, &mut |done| {
        progress(done);
        Ok(())
    })?;
    let measured = Measured {
        setting: setting.clone(),
        accuracy: e.accuracy,
        mean_length: e.mean_length,
        mean_length_correct: e.mean_length_correct,
        mean_answer_tokens: e.mean_answer_tokens,
    };
    write_json(path, &measured)?;
    Ok(measured)
}

/// Writes a value as indented JSON, whole or not at all.
///
/// # Errors
/// [`Error::Io`] naming `path`.
pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::file(path, e.to_string()))?;
    write_atomic(path, |out| writeln!(out, "{text}"))
}

/// Reads a value that [`write_json`] wrote.
///
/// # Errors
/// [`Error::Io`] or [`Error::File`] naming `path`.
pub(super) fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    serde_json::from_slice(&bytes).map_err(|e| Error::file(path, e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(question: &str, answer: &str) -> Sample {
        Sample { question: question.into(), steps: Vec::new(), answer: answer.into() }
    }

    #[test]
    fn figures_are_looked_for_under_the_names_of_earlier_releases() {
        let setting = super::Setting {
            method: Method::Colar,
            compression_factor: "2".into(),
            sampling: Sampling { seed: 3, temperature: 0.7, ..Sampling::default() },
            verifier: VerifierKind::default(),
            answer_rule: AnswerRule::default(),
            n: 10,
            data: 99,
        };
        // Its names of fields, of which the names of files were made.
        #[derive(Debug)]
        #[expect(dead_code, reason = "only printed")]
        struct Setting {
            method: Method,
            speed: String,
            sampling: Sampling,
            verifier: VerifierKind,
            n: usize,
            data: u32,
        }
        let super::Setting { method, compression_factor: speed, sampling, verifier, n, data, .. } =
            setting.clone();
        let earlier = format!("{:?}", Setting { method, speed, sampling, verifier, n, data });
        let name = format!("test-c2-{:08x}.json", crc32c::crc32c(earlier.as_bytes()));
        assert_eq!(setting.file(Path::new("d"), "test"), Path::new("d").join(&name));
        let paper = super::Setting { answer_rule: AnswerRule::Paper, ..setting.clone() };
        assert_ne!(paper.file(Path::new("d"), "test"), Path::new("d").join(&name));
        let json = serde_json::to_value(&setting).unwrap();
        assert_eq!(json["speed"], "2");
    }

    #[test]
    fn kept_figures_are_those_of_the_same_setting() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("test-c2.json");
        let setting = Setting {
            method: Method::Colar,
            compression_factor: "2".into(),
            sampling: Sampling { seed: 3, temperature: 0.7, ..Sampling::default() },
            verifier: VerifierKind::default(),
            answer_rule: AnswerRule::default(),
            n: 10,
            data: checksum(&[sample("q", "1")]),
        };
        assert_eq!(kept(&path, &setting), None);
        let measured = Measured {
            setting: setting.clone(),
            accuracy: 1.0 / 3.0,
            mean_length: 5.1,
            mean_length_correct: None,
            mean_answer_tokens: 3.0,
        };
        write_json(&path, &measured).unwrap();
        assert_eq!(kept(&path, &setting), Some(measured));
        let other = Setting { sampling: setting.sampling.greedy(), ..setting.clone() };
        assert_eq!(kept(&path, &other), None);
        let file = |s: &Setting| s.file(dir.path(), "hard");
        assert!(file(&setting).to_str().unwrap().contains("/hard-c2-"));
        assert!(file(&setting) == file(&setting.clone()) && file(&setting) != file(&other));
        std::fs::write(&path, "{").unwrap();
        assert_eq!(kept(&path, &setting), None);
    }

    #[test]
    fn data_sets_are_told_apart() {
        let a = checksum(&[sample("q", "1"), sample("r", "2")]);
        assert_ne!(a, checksum(&[sample("r", "2"), sample("q", "1")]));
        assert_ne!(a, checksum(&[sample("q", "1"), sample("r", "3")]));
        assert_ne!(a, checksum(&[sample("q", "1")]));
    }
}
