//! README's way from a model and data to results, command by command as it is printed, on a small model and data.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::common::cli::materials;

/// Programs that fetch what the test makes instead.
const FETCHES: [&str; 2] = ["python", "curl"];

/// The text of README's section of this title.
fn section(title: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = std::fs::read_to_string(path).unwrap();
    let from =
        text.find(&format!("\n## {title}\n")).unwrap_or_else(|| panic!("README has no section {title}"));
    let rest = &text[from + 4..];
    rest[..rest.find("\n## ").unwrap_or(rest.len())].to_owned()
}

/// The commands of a section: its indented lines, those that go on joined to one, comments left out.
fn commands(section: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let mut open = String::new();
    for line in section.lines().filter_map(|line| line.strip_prefix("    ")) {
        if open.is_empty() && line.trim_start().starts_with('#') {
            continue;
        }
        open += line;
        match open.strip_suffix('\\') {
            Some(begun) => open = begun.to_owned(),
            None => commands.push(std::mem::take(&mut open)),
        }
    }
    assert!(open.is_empty(), "goes on: {open}");
    commands.into_iter().filter(|command| !command.trim().is_empty()).collect()
}

/// The embedded problems in the published form of GSM8K: the steps and the answer in one text.
fn as_gsm8k(ours: &Path, published: &Path) {
    let lines = std::fs::read_to_string(ours).unwrap();
    let converted = lines.lines().map(|line| {
        let sample: Value = serde_json::from_str(line).unwrap();
        let steps: Vec<&str> =
            sample["steps"].as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect();
        let answer = format!("{}\n#### {}", steps.join("\n"), sample["answer"].as_str().unwrap());
        json!({"question": sample["question"], "answer": answer}).to_string() + "\n"
    });
    std::fs::write(published, converted.collect::<String>()).unwrap();
}

#[test]
fn the_commands_for_an_own_model_run_as_they_are_printed() {
    let tmp = tempfile::tempdir().unwrap();
    let (data, model) = materials(tmp.path());
    std::fs::create_dir(tmp.path().join("models")).unwrap();
    std::fs::rename(&model, tmp.path().join("models/SmolLM2-135M")).unwrap();
    for set in ["train", "test"] {
        let file = format!("{set}.jsonl");
        as_gsm8k(&Path::new(&data).join(&file), &tmp.path().join(&file));
    }
    let own = Path::new(env!("CARGO_BIN_EXE_colar-engine")).parent().unwrap();
    let path = format!("{}:{}", own.display(), std::env::var("PATH").unwrap());
    let mut ran = 0;
    for command in commands(&section("Your own model and data")) {
        if FETCHES.iter().any(|program| command.starts_with(program)) {
            continue;
        }
        let out = Command::new("sh")
            .args(["-ec", &command])
            .current_dir(tmp.path())
            .env("PATH", &path)
            .env_remove("COLAR_LOG")
            .output()
            .unwrap();
        let err = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{command}\n{err}");
        ran += 1;
    }
    assert!(ran > 8, "{ran} commands");
    assert!(tmp.path().join("runs/rl/best/colar.json").exists() && tmp.path().join("gsm.svg").exists());
}

#[test]
fn commands_are_told_from_comments_and_joined() {
    let text = "prose\n\n    # comment\n    a --b \\\n        --c   # why\n\n    d\nmore\n";
    assert_eq!(commands(text), ["a --b     --c   # why", "d"]);
}
