//! Terminals that go away, disks that are full, and signals.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::cli::{engine, materials};

fn train(data: &str, model: &str, out: &Path, steps: &str) -> Command {
    let mut command = engine();
    let fixed = "--batch-size 4 --latent-head-size 32 --lora-r 4 --lr 1e-3 --warmup 4 --schedule cosine \
                 --save-every 1000 --val-every 6 --val-samples 8 --monitor accuracy --threads 1 --seed 5";
    command.args(["train", "--model", model, "--out", out.to_str().unwrap(), "--max-steps", steps]);
    command.args(["--data", &format!("{data}/train.jsonl"), "--val", &format!("{data}/val.jsonl")]);
    command.args(fixed.split_whitespace()).stdin(Stdio::null());
    command
}

/// Standard output or error that refuses every byte.
fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

/// One whose reader has gone.
fn unread() -> Stdio {
    let mut reader = Command::new("true").stdin(Stdio::piped()).spawn().unwrap();
    let pipe = reader.stdin.take().unwrap();
    reader.wait().unwrap();
    pipe.into()
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// The lines of a run's metrics, without what a clock measured.
fn metrics(out: &Path) -> Vec<String> {
    let steps = text(&out.join("metrics.jsonl"));
    let without_clock = |line: &str| {
        let mut v: serde_json::Value = serde_json::from_str(line).unwrap();
        v.as_object_mut().unwrap().remove("tokens_per_second");
        v.to_string()
    };
    steps.lines().map(without_clock).collect()
}

#[test]
fn a_run_survives_the_loss_of_its_terminal() {
    let tmp = tempfile::tempdir().unwrap();
    let (data, model) = materials(tmp.path());
    let whole = tmp.path().join("whole");
    assert!(train(&data, &model, &whole, "7").output().unwrap().status.success());
    type Streams = fn() -> (Stdio, Stdio);
    let cases: [(&str, Streams); 2] =
        [("full", || (full().into(), full().into())), ("unread", || (unread(), unread()))];
    for (name, streams) in cases {
        let out = tmp.path().join(name);
        let (stdout, stderr) = streams();
        let status = train(&data, &model, &out, "7").stdout(stdout).stderr(stderr).status().unwrap();
        assert!(status.success(), "{name}: {status}");
        assert_eq!(metrics(&out), metrics(&whole), "{name}");
    }
}

#[test]
fn an_error_keeps_its_exit_code_when_nobody_reads_it() {
    let tmp = tempfile::tempdir().unwrap();
    let (data, model) = materials(tmp.path());
    let cases: [(&[&str], i32); 4] = [
        (&["generate", "--model", "nope", "q"], 1),
        (&["eval", "--model", &model, "--data", &data, "--seeds", "2", "--greedy"], 2),
        (&["train", "--model", &model], 2),
        (&["train", "--no-such-flag"], 2),
    ];
    for (args, code) in cases {
        for stderr in [unread(), full().into()] {
            let status = engine().args(args).stdin(Stdio::null()).stderr(stderr).status().unwrap();
            assert_eq!(status.code(), Some(code), "{args:?}: {status}");
        }
    }
}

#[test]
fn help_that_cannot_be_written_is_an_error() {
    for args in [&["--help"][..], &["train", "--help"], &["--version"], &["data", "help", "convert"]] {
        let out = engine().args(args).stdout(full()).output().unwrap();
        let err = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(1), "{args:?}: {err}");
        assert_eq!(err, "error: standard output: No space left on device (os error 28)\n");
        let status = engine().args(args).stdout(unread()).status().unwrap();
        assert!(status.success(), "{args:?}: {status}");
    }
}

/// `generate < questions | head -1` ends with the first batch that nobody reads, without a word.
#[test]
fn answers_end_with_their_reader() {
    let tmp = tempfile::tempdir().unwrap();
    let (_, model) = materials(tmp.path());
    let questions = tmp.path().join("questions.txt");
    std::fs::write(&questions, "What is 1 + 1?\n".repeat(20_000)).unwrap();
    let generate = |stdout: Stdio| {
        let mut command = engine();
        command.args(["generate", "--model", &model, "--max-new-tokens", "1", "--batch-size", "1"]);
        command.args(["--method", "plain", "--threads", "1"]).stdin(File::open(&questions).unwrap());
        command.stdout(stdout).stderr(Stdio::piped()).spawn().unwrap()
    };
    let mut child = generate(Stdio::piped());
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "> What is 1 + 1?\n");
    let out = child.wait_with_output().unwrap();
    let err = String::from_utf8(out.stderr).unwrap();
    assert!(out.status.success() && err.starts_with("loaded ") && err.lines().count() == 1, "{err}");

    let out = generate(full().into()).wait_with_output().unwrap();
    let err = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1), "{err}");
    let last = err.lines().last().unwrap();
    assert_eq!(last, "error: standard output: No space left on device (os error 28)");
}

#[test]
fn a_signal_stops_a_run_where_it_can_go_on() {
    let tmp = tempfile::tempdir().unwrap();
    let (data, model) = materials(tmp.path());
    let whole = tmp.path().join("whole");
    assert!(train(&data, &model, &whole, "18").output().unwrap().status.success());
    let out = tmp.path().join("stopped");
    // Signals fall into steps and into validations; each run gets some way further.
    let (mut stops, mut wait) = (0, 150);
    let ended = loop {
        let log = tmp.path().join("log");
        let mut child = train(&data, &model, &out, "18")
            .arg("--resume")
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        wait += 20;
        let (signal, code) = if stops % 2 == 0 { ("-INT", 130) } else { ("-TERM", 143) };
        let sent =
            Command::new("kill").args([signal, &child.id().to_string()]).stderr(Stdio::null()).status();
        assert!(sent.is_ok());
        let status = child.wait().unwrap();
        let log = text(&log);
        if status.success() {
            break log;
        }
        if status.signal().is_none() {
            assert_eq!(status.code(), Some(code), "{log}");
            let last = log.lines().last().unwrap();
            assert!(last.starts_with("stopped after step "), "{log}");
            let again = format!(
                "; go on with: colar-engine train --config {} --resume",
                out.join("config.toml").display()
            );
            assert!(last.ends_with(&again), "{log}");
            stops += 1;
        }
        assert!(wait < 20_000, "the run never ends");
    };
    assert!(stops >= 2, "{stops} stops: {ended}");
    assert_eq!(metrics(&out), metrics(&whole), "after {stops} stops");
    for file in ["adapter_model.safetensors", "latent_head.safetensors", "optimizer.safetensors"] {
        let read = |run: &Path| std::fs::read(run.join("last").join(file)).unwrap();
        assert!(read(&whole) == read(&out), "{file} differs after {stops} stops");
    }
}

/// Without a terminal, the first step is written down at once behind what the run is, with the time that is left.
#[test]
fn the_first_step_says_how_long_the_run_takes() {
    let tmp = tempfile::tempdir().unwrap();
    let (data, model) = materials(tmp.path());
    let out = train(&data, &model, &tmp.path().join("run"), "7").output().unwrap();
    let err = String::from_utf8(out.stderr).unwrap();
    let first = err.lines().nth(1).unwrap();
    assert!(first.starts_with("train: step 1 of 7: loss ") && first.ends_with(" left"), "{err}");
}
