//! Texts longer than the model: said where data is loaded and measured, refused where they are asked or scored.

use std::path::{Path, PathBuf};

use crate::common::cli::run;
use crate::common::golden;

/// llama-tiny, made for `positions` positions; and a data set whose second sample has a question of a thousand words.
fn materials(dir: &Path, positions: usize) -> (PathBuf, PathBuf) {
    let (from, model) = (golden("llama-tiny"), dir.join("model"));
    std::fs::create_dir(&model).unwrap();
    for file in ["model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(from.join(file), model.join(file)).unwrap();
    }
    let config = std::fs::read_to_string(from.join("config.json")).unwrap();
    let shorter = config
        .replace("\"max_position_embeddings\": 2048", &format!("\"max_position_embeddings\": {positions}"));
    assert_ne!(config, shorter);
    std::fs::write(model.join("config.json"), shorter).unwrap();
    let samples = ["How many pens?".to_owned(), "pens ".repeat(1000), "And how many apples?".to_owned()].map(
        |question| serde_json::json!({"question": question, "steps": ["1+1=2"], "answer": "2"}).to_string(),
    );
    let data = dir.join("data.jsonl");
    std::fs::write(&data, samples.join("\n")).unwrap();
    (model, data)
}

#[test]
fn a_prompt_beyond_the_models_positions_is_refused_unless_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let (model, data) = materials(dir.path(), 400);
    let (model, data) = (model.to_str().unwrap(), data.to_str().unwrap());
    let long = "pens ".repeat(1000);
    let common = ["--model", model, "--device", "cpu", "--threads", "2"];
    let plain = ["--method", "plain", "--greedy", "--max-new-tokens", "4"];
    let commands: [&[&str]; 3] = [
        &[&["generate", long.as_str()], &plain[..]].concat(),
        &["eval", "--data", data, "--greedy", "--max-cot-tokens", "2", "--max-new-tokens", "2"],
        &["score", "--data", data],
    ];
    for command in commands {
        let refused = [command, &common].concat();
        let (code, out, err) = run(&refused);
        let last = err.lines().last().unwrap_or_default();
        assert_eq!((code, out.as_str()), (2, ""), "{refused:?}: {err}");
        assert!(last.starts_with("error: ") && last.contains("made for 400 positions"), "{err}");
        assert!(last.contains("--allow-long") && last.chars().count() < 400, "{err}");
        assert!(last.contains(if command[0] == "score" { "sample 2 takes" } else { "\"pens pens" }), "{err}");
        let (code, _, err) = run(&[&refused[..], &["--allow-long"]].concat());
        assert!(code == 0 && !err.contains("400"), "{err}");
    }
}

/// Reasoning ends where the positions do, which is said once.
#[test]
fn generation_ends_with_the_models_positions() {
    let dir = tempfile::tempdir().unwrap();
    let (model, _) = materials(dir.path(), 60);
    let args = [
        "generate",
        "--model",
        model.to_str().unwrap(),
        "--device",
        "cpu",
        "--method",
        "plain",
        "--json",
        "--max-new-tokens",
        "500",
        "--seed",
        "1",
        "How many pens?",
        "How many apples has he?",
    ];
    let (code, out, err) = run(&args);
    assert_eq!(code, 0, "{err}");
    let lines: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().any(|line| line["finished"] == false), "{out}");
    for line in &lines {
        let count = |field: &str| line[field].as_u64().unwrap();
        // The last token is chosen from the last position, and not fed.
        let positions = count("prompt_tokens") + count("answer_tokens") - 1;
        assert!(if line["finished"] == false { positions == 60 } else { positions <= 60 }, "{line}");
    }
    let told = err.lines().filter(|line| line.contains("end at the 60 positions")).count();
    assert_eq!(told, 1, "{err}");
}

#[test]
fn training_warns_once_and_stats_show_it() {
    let dir = tempfile::tempdir().unwrap();
    let (model, data) = materials(dir.path(), 400);
    let (model, data) = (model.to_str().unwrap(), data.to_str().unwrap());
    let out = dir.path().join("run");
    let train =
        ["train", "--model", model, "--data", data, "--out", out.to_str().unwrap(), "--method", "cot"];
    let flags = ["--max-steps", "1", "--batch-size", "1", "--lora-r", "2", "--threads", "2"];
    let (code, _, err) = run(&[&train[..], &flags].concat());
    assert_eq!(code, 0, "{err}");
    let told: Vec<&str> = err.lines().filter(|line| line.contains("made for 400")).collect();
    let [told] = told.as_slice() else { panic!("{err}") };
    assert!(told.contains("data.jsonl: 1 of 3 samples take up to "), "{told}");
    // No colours where standard error is no terminal.
    assert!(!err.contains('\u{1b}'), "{err:?}");

    let (code, table, err) = run(&["data", "stats", "--data", data, "--model", model]);
    assert_eq!(code, 0, "{err}");
    assert!(table.contains("1 of 3 samples are longer than the 400 positions of the model"), "{table}");
    let (_, json, _) = run(&["data", "stats", "--data", data, "--model", model, "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&json["whole"]["longer"], &json["whole"]["max_position_embeddings"]),
        (&1.into(), &400.into())
    );
    let longest = format!("up to {} positions", json["whole"]["positions"]["max"]);
    assert!(told.contains(&longest), "{told} {longest}");
}

/// In reinforcement learning the limits of a rollout count; in an experiment the questions, once for all its parts.
#[test]
fn rollouts_and_experiments_warn_too() {
    let dir = tempfile::tempdir().unwrap();
    let (model, data) = materials(dir.path(), 400);
    let (model, data) = (model.to_str().unwrap(), data.to_str().unwrap());
    let (run_dir, table) = (dir.path().join("run"), dir.path().join("table"));
    let adapter = golden("llama-tiny").join("adapter");
    let adapter = adapter.to_str().unwrap();
    let rl = ["train", "--stage", "rl", "--model", model, "--adapter", adapter, "--data", data, "--out"];
    let small = [
        "--max-steps",
        "1",
        "--batch-size",
        "1",
        "--group-size",
        "2",
        "--max-latents",
        "2",
        "--threads",
        "2",
    ];
    let (code, _, err) = run(&[&rl[..], &[run_dir.to_str().unwrap()], &small].concat());
    assert_eq!(code, 0, "{err}");
    assert_eq!(err.lines().filter(|line| line.contains("1 of 3 samples take up to ")).count(), 1, "{err}");

    let factors =
        ["experiment", "factors", "--model", model, "--adapter", adapter, "--test", data, "--cf", "1,2"];
    let small =
        ["--max-latents", "2", "--max-new-tokens", "2", "--threads", "2", "--out", table.to_str().unwrap()];
    let (code, _, err) = run(&[&factors[..], &small].concat());
    assert_eq!(code, 0, "{err}");
    assert_eq!(err.lines().filter(|line| line.contains("1 of 3 samples take up to ")).count(), 1, "{err}");
}
