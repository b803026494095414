//! Answers that are kept, counted over several sets and runs, and compared.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::cli::run;
use crate::common::golden;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Questions as a data file.
fn data(dir: &Path, name: &str, n: usize) -> PathBuf {
    let path = dir.join(name);
    let lines: String = (0..n)
        .map(|i| format!("{{\"question\":\"What is {i} + {i}?\",\"steps\":[],\"answer\":\"{}\"}}\n", 2 * i))
        .collect();
    std::fs::write(&path, lines).unwrap();
    path
}

/// Runs `eval` on llama-tiny and its checkpoint.
fn eval(args: &[&str]) -> (i32, String, String) {
    let model = golden("llama-tiny");
    let adapter = model.join("adapter");
    let fixed =
        ["eval", "--model", text(&model), "--adapter", text(&adapter), "--device", "cpu", "--threads", "1"];
    run(&[&fixed[..], &["--max-latents", "3", "--max-new-tokens", "4"], args].concat())
}

fn lines(path: &Path) -> Vec<Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_answer_is_kept() {
    let tmp = tempfile::tempdir().unwrap();
    let (data, kept) = (data(tmp.path(), "data.jsonl", 3), tmp.path().join("new/answers.jsonl"));
    let args = ["--data", text(&data), "--cf", "1.5,2", "--seeds", "2", "--seed", "7"];
    let (code, out, err) = eval(&[&args[..], &["--json", "--save-predictions", text(&kept)]].concat());
    assert_eq!(code, 0, "{err}");
    let (rows, answers): (Value, _) = (serde_json::from_str(&out).unwrap(), lines(&kept));
    assert_eq!(answers.len(), 2 * 2 * 3);
    for (i, a) in answers.iter().enumerate() {
        assert_eq!(a["index"], i % 3);
        assert_eq!(a["seed"], 7 + i / 3 % 2);
        assert_eq!(a["cf"], if i < 6 { serde_json::json!(1.5) } else { serde_json::json!(2) });
        assert_eq!(a["question"], format!("What is {0} + {0}?", i % 3));
        assert_eq!(a["gold"], (2 * (i % 3)).to_string());
        assert!(a["text"].is_string() && a["right"].is_boolean() && a["finished"].is_boolean());
        assert!(a["prefill_ms"].as_f64() > Some(0.0));
    }
    // The table's figures are those of the answers.
    let mean = answers[..6].iter().map(|a| a["n_latents"].as_f64().unwrap()).sum::<f64>() / 6.0;
    assert!((rows[0]["mean_length"].as_f64().unwrap() - mean).abs() < 1e-12);
    // A place where nothing can be written is told before the evaluation.
    let (code, _, err) = eval(&["--data", text(&data), "--save-predictions", text(tmp.path())]);
    assert!(code == 1 && err.contains("is a directory") && !err.contains("loaded"), "{err}");
}

#[test]
fn several_sets_and_several_runs_of_a_question() {
    let tmp = tempfile::tempdir().unwrap();
    let (a, b) = (data(tmp.path(), "a.jsonl", 4), data(tmp.path(), "b.jsonl", 2));
    let (a, b) = (format!("one={}", text(&a)), format!("two={}", text(&b)));
    let sets = ["--data", &a, "--data", &b, "--cf", "2", "--seeds", "3"];
    let more = ["--pass-at", "1,3", "--majority", "--by-length", "2"];
    let (code, out, err) = eval(&[&sets[..], &more, &["--json"]].concat());
    assert_eq!(code, 0, "{err}");
    let rows: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&rows[0]["set"], &rows[0]["n"], &rows[1]["set"], &rows[1]["n"]),
        (&"one".into(), &4.into(), &"two".into(), &2.into())
    );
    for row in rows.as_array().unwrap() {
        assert_eq!(row["pass_at"][0]["k"], 1);
        // One answer is right as often as the answers are.
        assert!(
            (row["pass_at"][0]["mean"].as_f64().unwrap() - row["accuracy"].as_f64().unwrap()).abs() < 1e-12
        );
        assert!(row["pass_at"][1]["mean"].as_f64() >= row["pass_at"][0]["mean"].as_f64());
        assert_eq!(row["majority"]["k"], 3);
        let bins = row["by_length"].as_array().unwrap();
        let all: u64 = bins.iter().map(|bin| bin["n"].as_u64().unwrap()).sum();
        assert_eq!(all, 3 * row["n"].as_u64().unwrap());
    }
    let (_, out, _) = eval(&[&sets[..], &more].concat());
    assert!(out.contains("| pass@3 (%) |") && out.contains("| one: CoLaR c = 2"), "{out}");
    let file = data(tmp.path(), "c.jsonl", 1);
    for (args, said) in [
        (&["--data", text(&file), "--data", &a][..], "each has a name"),
        (&["--data", &a, "--data", &a], "a second data set of this name"),
        (&["--data", &a, "--data", &b, "--plot", "x.svg"], "draws one data set"),
        (&["--data", &a, "--seeds", "2", "--pass-at", "3"], "there are 2 runs of a question"),
        (&["--data", &a, "--greedy", "--majority"], "several --seeds"),
    ] {
        let (code, _, err) = eval(args);
        assert!(code == 2 && err.contains(said), "{args:?}: {err}");
    }
}

#[test]
fn runs_are_compared() {
    let tmp = tempfile::tempdir().unwrap();
    let data = data(tmp.path(), "data.jsonl", 5);
    let run_of = |name: &str, lr: &str, loss: f64, limit: &str| {
        let dir = tmp.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("config.toml"), format!("model = \"m\"\nlr = {lr}\nout = {name:?}\n"))
            .unwrap();
        let steps: String = (1..4)
            .map(|s| format!("{{\"kind\":\"train\",\"step\":{s},\"loss\":{}}}\n", loss / f64::from(s)))
            .collect();
        std::fs::write(dir.join("metrics.jsonl"), steps).unwrap();
        let answers = dir.join("predictions.jsonl");
        let args =
            ["--data", text(&data), "--cf", "2", "--seeds", "1", "--limit", limit, "--save-predictions"];
        let (code, _, err) = eval(&[&args[..], &[text(&answers)]].concat());
        assert_eq!(code, 0, "{err}");
        dir
    };
    let (a, b) = (run_of("a", "0.001", 3.0, "5"), run_of("b", "0.002", 2.0, "4"));
    let plot = tmp.path().join("curves.svg");
    let (code, out, err) = run(&["compare", text(&a), text(&b), "--plot", text(&plot)]);
    assert_eq!(code, 0, "{err}");
    let line =
        |begin: &str| out.lines().find(|l| l.starts_with(begin)).unwrap_or_else(|| panic!("{begin}: {out}"));
    let cells = |line: &str| {
        line.split('|').map(|c| c.trim().to_owned()).filter(|c| !c.is_empty()).collect::<Vec<_>>()
    };
    assert_eq!(cells(line("| lr ")), ["lr", "0.001", "0.002"]);
    assert!(!out.contains("| out ") && !out.contains("| model "), "{out}");
    let row = cells(line(&format!("| {} ", text(&b))));
    assert_eq!((row[1].as_str(), row[3].as_str(), row.last().unwrap().as_str()), ("CoLaR c = 2", "4", "4"));
    // The same answers to the same questions do not differ.
    assert_eq!(row[4], "0.0 ± 0.0");
    let svg = std::fs::read_to_string(&plot).unwrap();
    assert!(svg.contains("training loss") && !svg.contains("validation") && svg.contains(text(&a)));
    let (code, out, _) = run(&["compare", "--json", text(&a), text(&b.join("predictions.jsonl"))]);
    assert_eq!(code, 0);
    let v: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(v["answers"][1]["against"]["n"], 4);
    for (sides, code, said) in [
        ([text(&a), "/nonexistent"], 1, "/nonexistent"),
        ([text(&a), text(tmp.path())], 1, "no run: it has none of"),
        ([text(&a), text(&data)], 1, "line 1: is no prediction"),
    ] {
        let (got, _, err) = run(&[&["compare"], &sides[..]].concat());
        assert!(got == code && err.contains(said), "{err}");
    }
    let answers = text(&a.join("predictions.jsonl")).to_owned();
    let (code, _, err) = run(&["compare", &answers, &answers, "--plot", text(&plot)]);
    assert!(code == 2 && err.contains("no curves to draw"), "{err}");
}
