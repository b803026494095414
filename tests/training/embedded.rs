//! The embedded default, shortened: its files, its table, and that a seed decides both.

use std::path::Path;

use colar_engine::device::cpu::CpuDevice;
use colar_engine::train::Stop;
use colar_engine::train::embedded::{EmbeddedOptions, run};
use serde_json::Value;

fn options(out: &Path, seed: u64) -> EmbeddedOptions {
    // 2 CoT steps, 4 CoLaR steps, 2 of reinforcement learning, 133 training and 8 test questions: the quality does not matter here.
    EmbeddedOptions { out: out.to_owned(), seed, resume: false, shorten: 300 }
}

fn table(out: &Path) -> Vec<Value> {
    serde_json::from_slice(&std::fs::read(out.join("table.json")).unwrap()).unwrap()
}

#[test]
fn the_same_seed_gives_the_same_table_and_weights() {
    let tmp = tempfile::tempdir().unwrap();
    let device = CpuDevice::new(2).unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|n| tmp.path().join(n));
    for (dir, seed) in [(&a, 1), (&b, 1), (&c, 2)] {
        run(&device, &options(dir, seed), &Stop::default(), &mut |_| ()).unwrap();
    }
    let rows = table(&a);
    let labels: Vec<(&str, u64)> =
        rows.iter().map(|r| (r["method"].as_str().unwrap(), r["cf"].as_u64().unwrap_or(0))).collect();
    assert_eq!(
        labels.iter().map(|l| l.0).collect::<Vec<_>>(),
        ["cot", "colar", "colar", "colar", "colar", "colar"]
    );
    assert_eq!(labels[1..].iter().map(|l| l.1).collect::<Vec<_>>(), [1, 2, 3, 5, 2]);
    assert_eq!(rows.iter().filter(|r| r["rl"] == true).count(), 1);
    for r in &rows {
        assert!((0.0..=1.0).contains(&r["accuracy"].as_f64().unwrap()), "{r}");
        assert!(r["mean_length"].as_f64().unwrap() >= 0.0 && r["n"] == 8, "{r}");
    }
    assert_eq!(rows, table(&b));
    let weights = |d: &Path| std::fs::read(d.join("rl/last/model.safetensors")).unwrap();
    assert!(weights(&a) == weights(&b));
    assert!(weights(&a) != weights(&c), "another seed changes data, weights and order");
    let question = |d: &Path| std::fs::read_to_string(d.join("data/test.jsonl")).unwrap();
    assert!(question(&a) != question(&c));

    let metrics = std::fs::read_to_string(a.join("metrics.jsonl")).unwrap();
    for stage in ["cot", "colar", "rl"] {
        let lines = metrics.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
        assert!(lines.filter(|l| l["stage"] == stage && l["kind"] == "train").count() >= 2, "{stage}");
    }
    let svg = std::fs::read_to_string(a.join("table.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("CoT"), "{}", &svg[..200.min(svg.len())]);
}

#[test]
fn a_run_in_use_is_refused_and_resumed() {
    let tmp = tempfile::tempdir().unwrap();
    let device = CpuDevice::new(1).unwrap();
    let first = options(tmp.path(), 1);
    run(&device, &first, &Stop::default(), &mut |_| ()).unwrap();
    let before = table(tmp.path());
    let error = run(&device, &first, &Stop::default(), &mut |_| ()).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("`resume`"), "{error}");
    // Half of the second stage lost: resuming ends at the same table.
    std::fs::remove_dir_all(tmp.path().join("colar/last")).unwrap();
    std::fs::remove_file(tmp.path().join("table.json")).unwrap();
    run(&device, &EmbeddedOptions { resume: true, ..first }, &Stop::default(), &mut |_| ()).unwrap();
    assert_eq!(table(tmp.path()), before);
}
