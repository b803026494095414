//! The data subcommands, through the arguments a user types.

use std::path::Path;

use clap::{Parser, Subcommand};
use colar_engine::cli::data::{DataArgs, run};
use colar_engine::data::{load, synth};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Data(DataArgs),
}

/// Parses and runs `colar-engine data ARGS…`; a parse error becomes its text.
fn data(args: &[&str]) -> Result<(), String> {
    let Cli { command: Command::Data(args) } =
        Cli::try_parse_from(["colar-engine", "data"].iter().chain(args)).map_err(|e| e.to_string())?;
    run(args).map_err(|e| e.to_string())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn synth_writes_splits_and_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("new/synth");
    let sizes = ["--seed", "5", "--train", "40", "--val", "10", "--test", "20"];
    data(&[&["synth", "--out", text(&out)], &sizes[..]].concat()).unwrap();
    let config = synth::SynthConfig { seed: 5, train: 40, val: 10, test: 20, ..Default::default() };
    let splits = synth::generate(&config).unwrap();
    for (name, samples) in
        [("train.jsonl", splits.train), ("val.jsonl", splits.val), ("test.jsonl", splits.test)]
    {
        assert_eq!(load(out.join(name), None).unwrap(), samples);
    }
    let tokenizer = out.join("tokenizer.json");
    let train = out.join("train.jsonl");
    data(&["stats", "--data", text(&train), "--tokenizer", text(&tokenizer)]).unwrap();
    data(&["stats", "--data", text(&train), "--model", text(&out), "--json"]).unwrap();
    data(&["stats", "--data", text(&train)]).unwrap();
}

#[test]
fn convert_reads_what_it_is_given() {
    let dir = tempfile::tempdir().unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data");
    let out = dir.path().join("out.jsonl");
    for (form, name) in [
        ("colar", "colar.json"),
        ("gsm8k", "gsm8k.jsonl"),
        ("gsm8k-aug", "gsm8k_aug.txt"),
        ("gsm-hard", "gsm_hard.jsonl"),
        ("svamp", "svamp.json"),
        ("multiarith", "multiarith.json"),
        ("math", "math"),
    ] {
        let input = fixtures.join(name);
        data(&["convert", "--format", form, text(&input), text(&out)]).unwrap();
        assert_eq!(load(&out, None).unwrap(), load(&input, None).unwrap(), "{form}");
    }
}

#[test]
fn mistakes_are_told_and_leave_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let (input, out) = (dir.path().join("in.jsonl"), dir.path().join("out.jsonl"));
    std::fs::write(&input, "{\"question\": \"q\", \"answer\": \"#### 1\"}\n{}\n").unwrap();
    let message = data(&["convert", text(&input), text(&out)]).unwrap_err();
    assert!(message.ends_with("in.jsonl, line 2: missing field `question` (column 2)"), "{message}");
    assert!(!out.exists());
    let message = data(&["synth", "--out", text(&out), "--max-value", "3"]).unwrap_err();
    assert!(message.contains("the largest value is 3"), "{message}");
    assert!(!out.exists());
    let both = ["stats", "--data", text(&input), "--tokenizer", "a", "--model", "b"];
    assert!(data(&both).unwrap_err().contains("cannot be used with"));
    assert!(data(&["convert", "--format", "csv", "a", "b"]).unwrap_err().contains("gsm8k-aug"));
}

/// `-` is a standard stream, and no file of that name.
#[cfg(unix)]
#[test]
fn convert_goes_through_pipes() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_colar-engine"));
    let input = "{\"question\": \"1+1?\", \"answer\": \"1+1=2\\n#### 2\"}\n";
    let out = command
        .current_dir(dir.path())
        .args(["data", "convert", "-", "-"])
        .write_stdin(input)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    assert_eq!(text(&out.stdout), "{\"question\":\"1+1?\",\"steps\":[\"1+1=2\"],\"answer\":\"2\"}\n");
    assert_eq!(text(&out.stderr), "/dev/stdout: 1 sample\n");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// `data show` prints the rows that training packs: the prompt, chunks of the reasoning, and the answer.
#[test]
fn show_tells_rows_and_labels() {
    let tmp = tempfile::tempdir().unwrap();
    let (data, model) = crate::common::cli::materials(tmp.path());
    let file = format!("{data}/train.jsonl");
    let show = |more: &[&str]| {
        let fixed = ["data", "show", "--model", &model, "--data", &file];
        crate::common::cli::run(&[&fixed[..], more].concat())
    };
    let (code, out, err) = show(&["--n", "2", "--cf", "3"]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(out.lines().filter(|line| line.starts_with("sample ")).count(), 2, "{out}");
    assert!(out.contains("sample 1, CoLaR c = 3: ") && out.contains("\n  reasoning [###]["), "{out}");
    // Not a terminal: no colours.
    assert!(!out.contains('\u{1b}'), "{out}");
    let (code, out, err) = show(&["--n", "1", "--cf", "3", "--json"]);
    assert_eq!(code, 0, "{err}");
    let sample: serde_json::Value = serde_json::from_str(&out).unwrap();
    let rows = sample["rows"].as_array().unwrap();
    let count = |part: &str| rows.iter().filter(|row| row["part"] == part).count();
    assert!(count("prompt") > 5 && count("answer") > 2, "{out}");
    let longest = rows.iter().map(|row| row["tokens"].as_array().unwrap().len()).max();
    assert_eq!(longest, Some(3));
    assert!(rows.iter().all(|row| (row["part"] == "prompt") != row["label"].as_bool().unwrap()), "{out}");
    for (more, code, said) in [
        (&["--method", "coconut"][..], 2, "colar and cot are shown"),
        (&["--method", "cot", "--cf", "2"], 2, "compresses nothing"),
        (&["--template", "chat"], 1, "no chat template"),
    ] {
        let (got, _, err) = show(more);
        assert!(got == code && err.contains(said), "{more:?}: {err}");
    }
}
