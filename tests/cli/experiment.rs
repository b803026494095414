//! Experiments from the command line: a comparison from nothing, again, after a kill, with other settings.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use colar_engine::files::lock::DirLock;
use serde_json::Value;

use crate::common::cli::{engine, run};

/// A comparison of a few updates; the quality of the models does not matter here.
fn table1<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let few =
        ["--methods", "cot,colar", "--seeds", "2", "--lrs", "1e-3,2e-3", "--cf", "1,2", "--shorten", "200"];
    [&["experiment", "table1", "--out", out][..], &few, more].concat()
}

/// Every file under `dir` by its path, without measured times.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(at) = open.pop() {
        for entry in std::fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
                all.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    all
}

/// The report without the seconds.
fn report(dir: &Path) -> Value {
    let mut v: Value = serde_json::from_slice(&std::fs::read(dir.join("table1.json")).unwrap()).unwrap();
    for found in v["search"].as_array_mut().unwrap() {
        found.as_object_mut().unwrap().remove("seconds_per_update");
    }
    v
}

#[test]
fn a_comparison_is_the_same_however_it_came_about() {
    let tmp = tempfile::tempdir().unwrap();
    let (whole, broken) = (tmp.path().join("whole"), tmp.path().join("broken"));
    let started = Instant::now();
    let args = table1(whole.to_str().unwrap(), &["--jobs", "1"]);
    let (code, out, err) = run(&args);
    assert_eq!(code, 0, "{err}");
    let span = started.elapsed();
    // 2 warm-ups, 2 · 2 of the search, 2 later runs, (1 + 2) · 2 tests · 2 seeds.
    assert!(err.contains("20 parts, 1 at a time"), "{err}");
    assert_eq!(err.lines().filter(|l| l.starts_with("colar, lr ")).count(), 2, "{err}");
    for text in ["| method", "test (%)", "hard (%)", "average (%)", "CoLaR c = 2", "validation accuracy"] {
        assert!(out.contains(text), "{text}: {out}");
    }
    let before = files(&whole);
    let json = report(&whole);
    assert_eq!(json["rows"].as_array().unwrap().len(), 3);
    assert_eq!(json["rows"][2]["results"][2]["test"], "average");
    assert_eq!(json["rows"][0]["results"][0]["accuracies"].as_array().unwrap().len(), 2);
    assert!(before["table1.svg"].starts_with(b"<svg"));
    assert!(!before.keys().any(|name| name.contains("/last/") || name.contains(".colar-")));

    // Nothing is left, and of an experiment that was not begun everything; neither forecast leaves a file.
    let forecast = |dir: &Path| run(&table1(dir.to_str().unwrap(), &["--jobs", "1", "--dry-run"]));
    let (code, out_of_whole, err) = forecast(&whole);
    assert_eq!(
        (code, out_of_whole.lines().next()),
        (0, Some("20 parts, 20 of them finished: only the report is left")),
        "{err}"
    );
    let new = tmp.path().join("new");
    let (code, forecast, err) = forecast(&new);
    assert_eq!((code, forecast.lines().next()), (0, Some("20 parts, 0 of them finished")), "{err}");
    // Two warm-ups of two updates; three runs of four; the validation questions at two rates, the tests of two seeds.
    for line in ["warm-up  4 updates at ", "cot      12 updates at ", "colar    12 updates at "] {
        assert!(forecast.lines().any(|l| l.starts_with(line)), "{line}: {forecast}");
    }
    assert!(forecast.contains("nothing was written") && !new.exists() && files(&whole) == before);

    // Again: nothing is trained or asked, and every file stands as it stood.
    let (code, again, err) = run(&args);
    assert_eq!((code, &again), (0, &out), "{err}");
    assert!(!err.contains("seed"), "{err}");
    assert!(files(&whole) == before);

    // Killed a few times, with jobs side by side: the same figures and the same weights.
    let args = table1(broken.to_str().unwrap(), &["--jobs", "2", "--threads", "1"]);
    for kill in 1..=3 {
        let mut child = engine()
            .args(&args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_secs_f64(span.as_secs_f64() * 0.2 * f64::from(kill)));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let (code, _, err) = run(&args);
    assert_eq!(code, 0, "{err}");
    assert_eq!(report(&broken), json);
    let best =
        |dir: &Path| std::fs::read(dir.join("runs/colar/lr2e-3/seed0/best/model.safetensors")).unwrap();
    assert!(best(&whole) == best(&broken));

    more_of_it(&whole, &json);
    factors(&whole);
    one_at_a_time(&whole);
    refusals(tmp.path(), &whole);
}

/// Another method joins; existing results stay.
fn more_of_it(whole: &Path, json: &Value) {
    let mut args = table1(whole.to_str().unwrap(), &[]);
    args[5] = "cot,colar,colar-dl";
    let (code, _, err) = run(&args);
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("colar-dl, lr 1e-3, seed 0") && !err.contains("warm-up"), "{err}");
    let more = report(whole);
    assert_eq!(more["rows"].as_array().unwrap().len(), 5);
    assert_eq!(more["rows"].as_array().unwrap()[..3], json["rows"].as_array().unwrap()[..]);
}

/// Two processes would write the same files.
fn one_at_a_time(whole: &Path) {
    let before = files(whole);
    let held = DirLock::take(whole).unwrap();
    let dir = whole.to_str().unwrap();
    for args in [table1(dir, &[]), vec!["experiment", "factors", "--out", dir]] {
        let (code, _, err) = run(&args);
        assert_eq!(code, 2, "{args:?}: {err}");
        assert!(err.trim_end().ends_with("whole: another process is at work there"), "{err}");
    }
    drop(held);
    assert!(files(whole) == before);
    let (code, _, err) = run(&table1(dir, &[]));
    assert_eq!(code, 0, "{err}");
}

fn factors(whole: &Path) {
    let dir = whole.to_str().unwrap();
    let (code, out, err) = run(&["experiment", "factors", "--out", dir, "--cf", "1,1.5,2"]);
    assert_eq!(code, 0, "{err}");
    // Both seeds, both test sets; 1 and 2 are known from the table.
    assert_eq!(err.lines().filter(|l| l.starts_with("c = 1.5 on ")).count(), 4, "{err}");
    assert!(!err.contains("c = 2 on"), "{err}");
    assert!(out.contains("| **1**") && out.contains("| 1.5"), "{out}");
    let v: Value = serde_json::from_slice(&std::fs::read(whole.join("factors.json")).unwrap()).unwrap();
    let table = report(whole);
    assert_eq!(v["rows"][2]["results"][0], table["rows"][2]["results"][0]);
    assert_eq!(
        (&v["rows"][0]["trained"], &v["rows"][1]["trained"]),
        (&Value::Bool(true), &Value::Bool(false))
    );
    assert!(whole.join("factors.md").exists() && whole.join("factors.svg").exists());

    // Checkpoints given one by one, beside the comparison.
    let at = |p: &str| whole.join(p).to_str().unwrap().to_owned();
    let (out, model, test) = (at("given"), at("model"), at("data/hard.jsonl"));
    let adapter = at("runs/colar/lr2e-3/seed0/best");
    let args =
        ["experiment", "factors", "--out", &out, "--model", &model, "--adapter", &adapter, "--test", &test];
    let (code, text, err) = run(&[&args[..], &["--cf", "2,6", "--greedy"]].concat());
    assert_eq!(code, 0, "{err}");
    assert!(text.contains("over 1 checkpoint,") && text.contains("hard (%)"), "{text}");
}

/// Impossible settings are refused in one line, before anything is trained.
fn refusals(tmp: &Path, whole: &Path) {
    let path = |name: &str| tmp.join(name).to_str().unwrap().to_owned();
    let whole = whole.to_str().unwrap();
    let (fresh, model) = (path("fresh"), format!("{whole}/model"));
    let data = |name: &str| format!("{whole}/data/{name}.jsonl");
    let (train, val, absent) = (data("train"), data("val"), data("absent"));
    std::fs::write(path("bad.toml"), "[colar]\nbatch-size = 3\n").unwrap();
    std::fs::write(path("worse.toml"), "[colar]\nlatent-weigth = 3\n").unwrap();
    std::fs::write(path("changed.toml"), "[colar]\nlatent-weight = 5.0\n").unwrap();
    std::fs::create_dir(path("other")).unwrap();
    std::fs::write(path("other/notes.txt"), "").unwrap();
    let (bad, worse, changed, other) =
        (path("bad.toml"), path("worse.toml"), path("changed.toml"), path("other"));
    let given = ["--model", &model, "--data", &train, "--val", &val];
    let given =
        |more: &[&'static str]| -> Vec<String> { given.iter().chain(more).map(|&s| s.to_owned()).collect() };
    let own = |args: &[&str]| -> Vec<String> { args.iter().map(|&s| s.to_owned()).collect() };
    let cases: Vec<(&str, Vec<String>, i32, &str)> = vec![
        (&fresh, own(&["--methods", "cot,codi"]), 2, "\"codi\" is none of cot"),
        (&fresh, own(&["--methods", ""]), 2, "\"\" is none of"),
        (&fresh, own(&["--seeds", "0"]), 2, "--seeds"),
        (&fresh, own(&["--updates", "0"]), 2, "--updates"),
        (&fresh, own(&["--lrs=-1"]), 2, "--lrs"),
        (&fresh, own(&["--cf", "x"]), 2, "--cf"),
        (&fresh, own(&["--shorten", "0"]), 2, "--shorten"),
        (&fresh, own(&["--model", &model]), 2, "--data"),
        (&fresh, given(&[]), 2, "--test is needed"),
        (&fresh, [given(&[]), own(&["--test", &absent])].concat(), 1, "absent.jsonl"),
        (&fresh, own(&["--test", &absent]), 1, "absent.jsonl"),
        (&fresh, own(&["--test", "a/b=x"]), 2, "no name for a test set"),
        (&fresh, own(&["--init", &absent]), 2, "is no checkpoint"),
        (&fresh, own(&["--config", &bad]), 2, "must be the same for all methods"),
        (&fresh, own(&["--config", &worse]), 1, "worse.toml, line 2"),
        (whole, own(&["--updates", "2000"]), 2, "was begun with updates 4, not 10"),
        (whole, own(&["--warm-lr", "1e-3"]), 2, "was begun with warm_lr 0.002, not 0.001"),
        (whole, own(&["--config", &changed]), 2, "was trained with another --latent-weight"),
        (&other, own(&[]), 2, "holds something else"),
    ];
    for (out, more, code, needle) in cases {
        let few = ["experiment", "table1", "--out", out, "--shorten", "200"].map(str::to_owned);
        let mut all: Vec<&str> = few.iter().chain(&more).map(String::as_str).collect();
        if more.iter().any(|a| a == "--shorten") {
            all.drain(4..6);
        }
        let (got, _, err) = run(&all);
        assert_eq!(got, code, "{all:?}: {err}");
        assert!(err.contains(needle), "{all:?} should name {needle}: {err}");
        assert!(!err.contains("panicked") && !err.contains("parts, "), "{all:?}: {err}");
    }
    assert!(!Path::new(&fresh).join("runs").exists(), "nothing was trained");
    let cases: [(&[&str], &str); 4] = [
        (&["--out", &other], "holds something else"),
        (&["--out", &fresh], "no finished comparison"),
        (&["--out", whole, "--method", "cot"], "has no latent head"),
        (&["--out", whole, "--cf", "auto"], "--cf"),
    ];
    for (args, needle) in cases {
        let (code, _, err) = run(&[&["experiment", "factors"], args].concat());
        assert_eq!(code, 2, "{args:?}: {err}");
        assert!(err.contains(needle), "{args:?} should name {needle}: {err}");
    }
}

#[test]
fn a_model_of_ones_own_is_compared_with_adapters() {
    let tmp = tempfile::tempdir().unwrap();
    let at = |p: &str| tmp.path().join(p).to_str().unwrap().to_owned();
    let (data, model) = (at("data"), at("model"));
    let sizes = ["--train", "32", "--val", "6", "--test", "6"];
    assert_eq!(run(&[&["data", "synth", "--out", &data][..], &sizes].concat()).0, 0);
    assert_eq!(run(&["init", "--config", "tiny", "--out", &model]).0, 0);
    std::fs::write(
        at("config.toml"),
        "[common]\nlora-r = 4\nbatch-size = 8\n[colar]\nlatent-head-size = 16\n",
    )
    .unwrap();
    // Files are named from where the user stands.
    let from = |here: &str, up: &str, args: &[&str]| {
        let place = |arg: &str| arg.replace("@", up);
        let all = args.iter().map(|arg| place(arg));
        let done = engine().current_dir(at(here)).args(all).stdin(Stdio::null()).output().unwrap();
        let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
        (done.status.code(), text(done.stdout), text(done.stderr))
    };
    let args = "experiment table1 --out @out --model @model --data @data/train.jsonl --val @data/val.jsonl \
                    --test easy=@data/test.jsonl --config @config.toml --methods all --seeds 1 --lrs 1e-4 \
                    --warm-updates 1 --greedy --max-latents 8 --max-cot-tokens 8"
        .split_whitespace()
        .collect::<Vec<_>>();
    let (code, text, err) = from(".", "", &args);
    assert_eq!(code, Some(0), "{err}");
    // A pass over 32 samples at 8 an update; one test set has no average.
    let json: Value = serde_json::from_slice(&std::fs::read(at("out/table1.json")).unwrap()).unwrap();
    assert_eq!((&json["updates"], &json["warm_updates"]), (&4.into(), &1.into()));
    assert!(text.contains("easy (%)") && !text.contains("average"), "{text}");
    for method in ["CoT", "iCoT", "Coconut", "Distill", "CoLaR c = 5", "CoLaR-OC c = 2"] {
        assert!(text.contains(&format!("| {method} ")), "{method}: {text}");
    }
    assert!(tmp.path().join("out/runs/colar/lr1e-4/seed0/best/adapter_model.safetensors").exists());
    // From another working directory it is the same comparison, and its checkpoints and tests are found.
    let (code, again, err) = from("data", "../", &args);
    assert_eq!((code, &again), (Some(0), &text), "{err}");
    assert!(!err.contains("seed"), "nothing is done again: {err}");
    let factors = ["experiment", "factors", "--out", "@out", "--cf", "1,2", "--greedy", "--max-latents", "8"];
    let (code, text, err) = from("data", "../", &factors);
    assert_eq!(code, Some(0), "{err}");
    assert!(text.contains("easy (%)"), "{text}");
}

#[test]
fn costs_are_counted() {
    let (code, text, err) = run(&["experiment", "cost"]);
    assert_eq!(code, 0, "{err}");
    assert!(text.contains("| CoLaR") && text.contains("385000 samples"), "{text}");
    // No device in silence.
    assert!(!text.contains("TFLOPS") && !text.contains("device time") && text.contains("--gpu"), "{text}");
    let (_, text, _) = run(&["experiment", "cost", "--gpu", "h100"]);
    assert!(text.contains("device time (h)") && text.contains("40 % of 989 TFLOPS"), "{text}");
    // Few samples are not a table of zeros.
    let (_, text, _) = run(&["experiment", "cost", "--gpu", "h100", "--config", "tiny", "--samples", "8"]);
    assert!(text.contains("positions |") && text.contains("(GFLOP)") && text.contains("(ms)"), "{text}");
    assert!(!text.contains(" 0.0 |"), "{text}");
    let (code, text, _) = run(&["experiment", "cost", "--json", "--samples", "770000"]);
    assert_eq!(code, 0);
    let v: Value = serde_json::from_str(&text).unwrap();
    let positions = v["methods"][0]["positions"].as_f64().unwrap();
    assert_eq!(positions, 75.0 + 1.0 + 27.0 + 1.0 + 4.0);
    assert_eq!(v["methods"][0]["passes_in_sequence"], 1.0);
    assert!(v.get("hours").is_none() && v["methods"][0].get("hours").is_none());
    assert_eq!(run(&["experiment", "cost", "--share", "1.5"]).0, 2);
    assert_eq!(run(&["experiment", "cost", "--config", "/nonexistent"]).0, 1);
    assert_eq!(run(&["experiment", "cost", "--data", "x"]).0, 2);
}
