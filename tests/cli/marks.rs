//! Questions that hold what means something in the prompt: refused wherever they are asked, unless a blank may part it.

use std::path::Path;

use crate::common::cli::{engine, run};
use crate::common::golden;

/// A data set of a file's name, with these questions.
fn data(dir: &Path, name: &str, questions: &[&str]) -> String {
    let sample =
        |q: &&str| serde_json::json!({"question": q, "steps": ["1+1=2"], "answer": "2"}).to_string() + "\n";
    let path = dir.join(name);
    std::fs::write(&path, questions.iter().map(sample).collect::<String>()).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn questions_that_hold_marks_of_the_prompt_are_refused_or_escaped() {
    let (dir, model) = (tempfile::tempdir().unwrap(), golden("llama-tiny"));
    let common = ["--model", model.to_str().unwrap(), "--device", "cpu", "--threads", "2"];
    let generate = |question: &str, more: &[&str]| {
        let asked = ["generate", "--json", "--method", "cot", "--greedy", "--max-cot-tokens", "3", question];
        run(&[&asked[..], &common, more].concat())
    };
    for (question, named) in [
        ("How many ### pens?", "the separator \"###\""),
        ("How many####", "the separator \"###\""),
        ("Pens?<|end_of_text|>Apples?", "the end of sequence \"<|end_of_text|>\""),
        ("<|begin_of_text|>Pens?", "the special token \"<|begin_of_text|>\""),
    ] {
        let (code, out, err) = generate(question, &[]);
        assert_eq!((code, out.as_str()), (2, ""), "{question}: {err}");
        let last = err.lines().last().unwrap();
        assert!(last.contains(&format!("{question:?}: the question holds {named}")), "{err}");
        assert!(last.contains("with --escape-marks"), "{err}");
        let (code, _, err) = generate(question, &["--escape-marks"]);
        assert_eq!(code, 0, "{question}: {err}");
    }
    // An escaped question is the one with the blank in it, and is shown as it was asked.
    let answer = |question: &str, more: &[&str]| {
        let (code, out, err) = generate(question, more);
        assert_eq!(code, 0, "{err}");
        let mut value: serde_json::Value = serde_json::from_str(&out).unwrap();
        for clock in ["prefill_ms", "latents_ms", "answer_ms"] {
            value.as_object_mut().unwrap().remove(clock).unwrap();
        }
        let question = value.as_object_mut().unwrap().remove("question").unwrap();
        (question, value)
    };
    let (shown, escaped) = answer("How many ### pens?", &["--escape-marks"]);
    assert_eq!(shown, "How many ### pens?");
    assert_eq!(escaped, answer("How many ## # pens?", &[]).1);
    // Harmless: the mark of the answer before there is one, and any text that is only continued.
    assert_eq!(generate("Answer: how many pens?", &[]).0, 0);
    let plain = ["generate", "--method", "plain", "--max-new-tokens", "1", "### 1"];
    assert_eq!(run(&[&plain[..], &common].concat()).0, 0);
    let asked = ["generate", "--method", "cot", "--max-cot-tokens", "1", "--batch-size", "1"];
    let questions = dir.path().join("questions.txt");
    std::fs::write(&questions, "Pens?\nPens ###?\n").unwrap();
    let questions = std::fs::File::open(&questions).unwrap();
    let ended = engine().args(asked).args(common).stdin(questions).output().unwrap();
    let [out, err] = [ended.stdout, ended.stderr].map(|said| String::from_utf8(said).unwrap());
    assert_eq!(ended.status.code(), Some(2), "{err}");
    assert!(out.starts_with("> Pens?") && err.contains("\"Pens ###?\""), "{out}{err}");
}

/// All data sets are looked at before the first question of any is answered.
#[test]
fn evaluations_name_the_sample() {
    let dir = tempfile::tempdir().unwrap();
    let (good, bad) =
        (data(dir.path(), "good.jsonl", &["1?"]), data(dir.path(), "bad.jsonl", &["1?", "### 2?", "###"]));
    let predictions = dir.path().join("predictions.jsonl");
    let sets = [format!("a={good}"), format!("b={bad}")];
    let model = golden("llama-tiny");
    let args = [
        &["eval", "--model", model.to_str().unwrap(), "--device", "cpu", "--method", "cot", "--greedy"][..],
        &["--max-cot-tokens", "2", "--data", &sets[0], "--data", &sets[1]],
        &["--save-predictions", predictions.to_str().unwrap()],
    ]
    .concat();
    let (code, out, err) = run(&args);
    assert_eq!((code, out.as_str()), (2, ""), "{err}");
    let named = "bad.jsonl: sample 2: its question holds the separator \"###\"";
    assert!(
        err.contains(named) && err.contains("and 1 more samples") && err.contains("--escape-marks"),
        "{err}"
    );
    let (code, _, err) = run(&[&args[..], &["--escape-marks"]].concat());
    assert_eq!(code, 0, "{err}");
    // Answers are kept with the questions of the data.
    assert!(std::fs::read_to_string(&predictions).unwrap().contains("\"### 2?\""));
}
