//! The engine as a command, with a small data set and model for it.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use assert_cmd::cargo::CommandCargoExt;

pub fn engine() -> Command {
    let mut c = Command::cargo_bin("colar-engine").unwrap();
    c.env_remove("COLAR_LOG");
    c
}

/// Runs to the end; returns exit code, standard output and standard error.
pub fn run(args: &[impl AsRef<OsStr>]) -> (i32, String, String) {
    let out = engine().args(args).stdin(Stdio::null()).output().unwrap();
    let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
    (out.status.code().unwrap_or(-1), text(out.stdout), text(out.stderr))
}

/// A small data set and a tiny model with its tokenizer, made by the engine itself.
pub fn materials(dir: &Path) -> (String, String) {
    let (data, model) = (dir.join("data"), dir.join("model"));
    let (data, model) = (data.to_str().unwrap(), model.to_str().unwrap());
    let sizes = ["--train", "64", "--val", "8", "--test", "8", "--seed", "3"];
    let (code, _, err) = run(&[&["data", "synth", "--out", data][..], &sizes].concat());
    assert_eq!(code, 0, "{err}");
    let tokenizer = format!("{data}/tokenizer.json");
    let (code, _, err) =
        run(&["init", "--config", "tiny", "--out", model, "--tokenizer", &tokenizer, "--seed", "1"]);
    assert_eq!(code, 0, "{err}");
    (data.to_owned(), model.to_owned())
}
