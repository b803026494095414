//! `bench kernels`, `bench decode`, `bench train`, `bench rl` and `bench serve`: their reports add up, on every device of the build.

use std::process::{Command, Output};

use serde_json::Value;

fn bench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_colar-engine")).arg("bench").args(args).output().unwrap()
}

fn report(args: &[&str]) -> Value {
    let output = bench(args);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{args:?}: {err}");
    assert_eq!(out.lines().count(), 1, "{out}");
    serde_json::from_str(&out).unwrap()
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("{key} of {value}"))
}

/// Equal but for the rounding of a few operations.
fn same(what: &str, a: f64, b: f64) {
    assert!((a - b).abs() <= 1e-9 * b.abs(), "{what}: {a} instead of {b}");
}

fn kernels(device: &str, filter: &str) -> Value {
    let config = ["kernels", "--config", "tiny", "--threads", "2", "--seconds", "0", "--json"];
    report(&[&config[..], &["--device", device, "--filter", filter]].concat())
}

fn check(device: &str, filter: &str) {
    let report = kernels(device, filter);
    assert_eq!(report["device"], device);
    assert!(!report["hardware"].as_str().unwrap().is_empty());
    assert!(report["date"].as_str().unwrap().starts_with("20"), "{}", report["date"]);
    let ceilings = &report["ceilings"];
    let (copy, product) = (number(ceilings, "copy_gb_per_s"), number(ceilings, "product_tflop_per_s"));
    assert!(copy > 0.0 && product > 0.0);
    let rows = report["rows"].as_array().unwrap();
    for row in rows {
        let at = format!("{device}, {} {}", row["operation"], row["shape"]);
        let (us, bytes, operations) =
            (number(row, "median_us"), number(row, "bytes"), number(row, "operations"));
        assert!(us > 0.0 && bytes > 0.0, "{at}");
        assert!(number(row, "min_us") <= us && us <= number(row, "max_us"), "{at}");
        same(&at, number(row, "gb_per_s"), bytes / us / 1e3);
        same(&at, number(row, "tflop_per_s"), operations / us / 1e6);
        let (memory, arithmetic) = (bytes / us / 1e3 / copy, operations / us / 1e6 / product);
        same(&at, number(row, "share"), memory.max(arithmetic));
        assert_eq!(row["bound"], if arithmetic > memory { "arithmetic" } else { "memory" }, "{at}");
    }
}

#[test]
fn every_operation_runs_on_the_cpu() {
    check("cpu", "");
}

/// All operations, at shapes small enough for coroutines.
#[test]
#[cfg(cuda_host)]
fn the_kernels_run_on_the_cpu() {
    for filter in ["[1, ", "[8, ", "attention decode 1 of 1 after 511", "latent_loss"] {
        check("cuda-host", filter);
    }
}

#[test]
fn bytes_and_operations_of_a_product() {
    let report = kernels("cpu", "gate_proj [4, ");
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 1);
    // The tiny model is stored in float32: 384 by 128 weights, four rows in, four out.
    assert_eq!(rows[0]["bytes"], 4 * (384 * 128 + 4 * (384 + 128)));
    assert_eq!(rows[0]["operations"], 2 * 4 * 384 * 128);
}

#[test]
fn bad_usage() {
    let cases: [(&[&str], &str); 7] = [
        (&["kernels", "--config", "nothing"], "not one of llama-3.2-1b"),
        (&["kernels", "--config", "tiny", "--filter", "no such thing"], "no operation has this in its name"),
        (&["kernels", "--seconds=-1"], "it takes 0 to 60"),
        (&["decode", "--model", "tests/golden/llama-tiny", "--new-tokens", "2"], "it takes 3 to 1048576"),
        (&["train"], "--model"),
        (&["train", "--config", "nothing"], "neither a file nor one of llama-3.2-1b"),
        (&["train", "--config", "tiny", "--tokens", "7"], "at least 8 packed rows"),
    ];
    for (args, message) in cases {
        let output = bench(args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {error}");
        assert!(error.contains(message), "{args:?}: {error}");
    }
}

/// Checks the report of `bench decode` on the tiny golden model; returns the tokens.
fn decode(device: &str) -> Value {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/llama-tiny");
    let lengths = ["--new-tokens", "6", "--latents", "5"];
    let report =
        report(&[&["decode", "--model", model, "--device", device, "--json"], &lengths[..]].concat());
    assert_eq!(report["device"], device);
    assert_eq!(report["token_ids"].as_array().unwrap().len(), 6);
    assert_eq!(report["latents"]["latents"], 5);
    let copy = number(&report, "copy_gb_per_s");
    same("share", number(&report, "share_of_copy"), number(&report, "weight_gb_per_s") / copy);
    let (tokens, latents) = (number(&report, "weight_bytes"), number(&report["latents"], "weight_bytes"));
    // Four square matrices of float32, and vectors.
    assert!(latents > tokens + 4.0 * 4.0 * 64.0 * 64.0, "{latents} and {tokens}");
    assert_eq!(report["by_decoder"], device != "cpu");
    assert_eq!(report["latents"]["by_decoder"], device != "cpu");
    report["token_ids"].clone()
}

#[test]
fn tokens_and_latents() {
    decode("cpu");
}

#[test]
#[cfg(cuda_host)]
fn tokens_and_latents_by_the_kernels() {
    assert_eq!(decode("cuda-host"), decode("cpu"));
}

/// Checks the report of `bench train`.
fn train(device: &str, more: &[&str]) -> Value {
    let common = ["train", "--device", device, "--lora-r", "4", "--steps", "1", "--threads", "2", "--json"];
    let report = report(&[&common[..], more].concat());
    assert_eq!(report["device"], device);
    let (seconds, positions) = (number(&report, "step_s"), number(&report, "positions"));
    same("positions_per_s", number(&report, "positions_per_s"), positions / seconds);
    let operations = number(&report["operations"], "products") + number(&report["operations"], "attention");
    same("tflop_per_s", number(&report, "tflop_per_s"), operations / seconds / 1e12);
    assert!(number(&report, "peak_bytes") > 0.0);
    assert_eq!(report["ce"].as_array().unwrap().len(), 3);
    report
}

const TINY: [&str; 6] = ["--config", "tiny", "--tokens", "64", "--sequence", "32"];

#[test]
fn a_training_step() {
    let random = train("cpu", &TINY);
    assert_eq!((&random["positions"], &random["sequences"]), (&64.into(), &2.into()));
    let share = number(&random, "tflop_per_s") / number(&random["product"], "tflop_per_s");
    same("share_of_product", number(&random, "share_of_product"), share);
    // The same numbers, the layers' inputs alone kept.
    let recomputed = train("cpu", &[&TINY[..], &["--recompute", "--no-product"]].concat());
    assert_eq!(random["ce"], recomputed["ce"]);
    assert!(recomputed["product"].is_null() && recomputed["share_of_product"].is_null());

    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/llama-tiny");
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/samples.jsonl");
    let samples = train("cpu", &["--model", model, "--data", data, "--batch-size", "2", "--no-product"]);
    assert_eq!(samples["sequences"], 2);
}

#[test]
#[cfg(cuda_host)]
fn a_training_step_by_the_kernels() {
    let (mine, theirs) = (train("cuda-host", &[&TINY[..], &["--no-product"]].concat()), train("cpu", &TINY));
    for key in ["positions", "labels", "latents", "trained_parameters", "operations"] {
        assert_eq!(mine[key], theirs[key], "{key}");
    }
    for (a, b) in mine["ce"].as_array().unwrap().iter().zip(theirs["ce"].as_array().unwrap()) {
        let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
        assert!((a - b).abs() < 1e-4 * b, "{a} instead of {b}");
    }
}

#[test]
#[cfg(cuda_host)]
fn a_policy_step_by_the_kernels() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/llama-tiny");
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/samples.jsonl");
    let small =
        ["--group-size", "2", "--latents", "2", "--answer-tokens", "2", "--lora-r", "4", "--steps", "1"];
    let more = ["rl", "--model", model, "--data", data, "--device", "cuda-host", "--json"];
    let report = report(&[&more[..], &small].concat());
    assert_eq!((&report["device"], &report["n_latents"]), (&"cuda-host".into(), &2.into()));
    assert!(number(&report, "update_s") > 0.0);
}

const SERVE: [&str; 13] = [
    "serve",
    "--model",
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/llama-tiny"),
    "--adapter",
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/llama-tiny/adapter"),
    "--latents",
    "2",
    "--answer-tokens",
    "2",
    "--pairs",
    "1",
    "--threads",
    "2",
];

#[test]
fn requests_in_the_scheduler() {
    let small = ["--sizes", "1,2", "--loads", "150", "--requests", "12", "--json"];
    let report = report(&[&SERVE[..], &small].concat());
    let steps = &report["steps"];
    assert!(number(steps, "latent_ms") > 0.0 && number(&steps["token_ratio"], "median") > 0.0, "{steps}");
    let sizes = report["sizes"].as_array().unwrap();
    // Eight times the size, or as many as were asked for.
    assert_eq!([&sizes[0]["requests"], &sizes[1]["requests"]], [8, 12]);
    for row in sizes {
        let ratio = number(row, "scheduler_per_s") / number(row, "closed_per_s");
        same("the ratio of a pair", number(&row["ratio"], "median"), ratio);
    }
    let loads = report["loads"].as_array().unwrap();
    assert_eq!((loads.len(), &loads[0]["requests"]), (1, &12.into()));
    for row in sizes.iter().chain(loads) {
        let of = |what: &str| ["p50", "p95", "p99"].map(|q| number(&row[what], q));
        let [latent, token, whole] = ["first_latent_ms", "first_token_ms", "whole_ms"].map(of);
        for (i, latent) in latent.into_iter().enumerate() {
            assert!(0.0 < latent && latent <= token[i] && token[i] <= whole[i], "{row}");
        }
        assert!(whole[0] <= whole[1] && whole[1] <= whole[2], "{row}");
    }
}

#[test]
fn a_table_of_requests_in_the_scheduler() {
    let output = bench(&[&SERVE[..], &["--sizes", "1", "--loads", "50", "--requests", "2"]].concat());
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        out.contains("(pairs: 1)") && out.contains("\n| 1 | 2 |") && out.contains("\n| 50 | 2 |"),
        "{out}"
    );
}

#[test]
fn as_many_questions_as_requests() {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/samples.jsonl");
    let output = bench(&[&SERVE[..], &["--data", data, "--requests", "9"]].concat());
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), err.lines().count()), (Some(1), 1), "{err}");
    assert!(err.contains("samples.jsonl: has 8 questions, and --requests is 9"), "{err}");
    let output = bench(&[&SERVE[..], &["--loads", "0"]].concat());
    assert_eq!(output.status.code(), Some(2));
}
