//! Reinforcement learning from the command line: kills and resumes, the files it writes, and its refusals.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use colar_engine::random::Stream;
use serde_json::Value;

use crate::common::cli::{self, engine};
use crate::common::golden;

/// Runs to the end; returns exit code and standard error.
fn run(args: &[String]) -> (i32, String) {
    let (code, _, err) = cli::run(args);
    (code, err)
}

/// A few questions, whose gold answers are what the untrained model likes to say in none of its rollouts.
fn questions(dir: &Path) -> String {
    let path = dir.join("data.jsonl");
    let lines: String = (0..12)
        .map(|i| format!("{{\"question\":\"What is {i} + {i}?\",\"steps\":[],\"answer\":\"{}\"}}\n", 2 * i))
        .collect();
    std::fs::write(&path, lines).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The flags of a short run; the terms on entropy and divergence move the policy though no answer is right.
fn flags(data: &str, out: &Path) -> Vec<String> {
    let model = golden("llama-tiny");
    let mut all = vec!["train".to_owned(), "--stage".into(), "rl".into()];
    for (flag, value) in [
        ("--model", model.to_str().unwrap()),
        ("--adapter", model.join("adapter").to_str().unwrap()),
        ("--data", data),
        ("--val", data),
        ("--out", out.to_str().unwrap()),
    ] {
        all.extend([flag.to_owned(), value.to_owned()]);
    }
    let fixed = "--group-size 3 --batch-size 2 --exp-batch-size 4 --max-latents 4 --max-new-tokens 3 --lr 1e-3 \
                 --kl-weight 0.1 --entropy-weight=-0.1 --samples-per-epoch 6 --max-steps 12 --save-every 2 \
                 --val-every 4 --val-samples 3 --threads 1 --seed 5";
    all.extend(fixed.split_whitespace().map(str::to_owned));
    all
}

fn set(args: &mut Vec<String>, flag: &str, value: &str) {
    match args.iter().position(|a| a == flag) {
        Some(at) => args[at + 1] = value.to_owned(),
        None => args.extend([flag.to_owned(), value.to_owned()]),
    }
}

/// The lines of a run's metrics, without measured times.
fn metrics(out: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    text.lines()
        .map(|line| {
            let mut v: Value = serde_json::from_str(line).unwrap();
            for clock in ["rollout_seconds", "update_seconds"] {
                v.as_object_mut().unwrap().remove(clock);
            }
            v
        })
        .collect()
}

#[test]
fn killed_ten_times_ends_with_the_same_policy() {
    let tmp = tempfile::tempdir().unwrap();
    let data = questions(tmp.path());
    let (whole, broken) = (tmp.path().join("whole"), tmp.path().join("broken"));
    let started = std::time::Instant::now();
    let (code, err) = run(&flags(&data, &whole));
    assert_eq!(code, 0, "{err}");
    let span = started.elapsed();

    let mut args = flags(&data, &broken);
    args.push("--resume".into());
    let mut draw = Stream::new(98, 0);
    for _ in 0..10 {
        let mut child = engine().args(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_secs_f64(span.as_secs_f64() * 0.7 * draw.uniform_f64()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let (code, err) = run(&args);
    assert_eq!(code, 0, "{err}");
    for file in [
        "last/adapter_model.safetensors",
        "last/latent_head.safetensors",
        "last/optimizer.safetensors",
        "best/adapter_model.safetensors",
        "rollouts.txt",
    ] {
        let read = |run: &Path| std::fs::read(run.join(file)).unwrap();
        assert!(read(&whole) == read(&broken), "{file} differs");
    }
    assert!(metrics(&whole) == metrics(&broken), "metrics.jsonl differs");
}

#[test]
fn a_run_logs_what_it_did() {
    let tmp = tempfile::tempdir().unwrap();
    let data = questions(tmp.path());
    let out = tmp.path().join("run");
    let (code, err) = run(&flags(&data, &out));
    assert_eq!(code, 0, "{err}");
    let lines = metrics(&out);
    let train: Vec<&Value> = lines.iter().filter(|l| l["kind"] == "train").collect();
    assert_eq!(train.len(), 12);
    for name in [
        "reward",
        "accuracy",
        "n_latents",
        "entropy",
        "sigma",
        "ratio",
        "clip_fraction",
        "kl_latent",
        "kl_answer",
        "grad_norm",
    ] {
        assert!(train.iter().all(|l| l[name].as_f64().is_some_and(f64::is_finite)), "{name}");
    }
    // The policy starts where the reference is, and leaves it.
    let kl = |line: &Value| line["kl_latent"].as_f64().unwrap();
    assert!(kl(train[0]).abs() < 1e-9 && kl(train[11]) > 1e-6, "{} {}", kl(train[0]), kl(train[11]));
    let sigma = |line: &Value| line["sigma"].as_f64().unwrap();
    assert!(sigma(train[11]) > sigma(train[0]), "a negative entropy weight widens the latents");
    assert_eq!(lines.iter().filter(|l| l["kind"] == "val").count(), 4);
    assert!(std::fs::read_to_string(out.join("rl.svg")).unwrap().contains("KL to the start"));
    let samples = std::fs::read_to_string(out.join("rollouts.txt")).unwrap();
    assert_eq!(samples.matches("step ").count(), 12);
    assert_eq!(samples.matches(" latents  reward").count(), 12 * 3);
    // The same as JSON.
    let objects = std::fs::read_to_string(out.join("rollouts.jsonl")).unwrap();
    let objects: Vec<Value> = objects.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(objects.len(), 12);
    for (i, o) in objects.iter().enumerate() {
        assert_eq!(o["step"], i + 1);
        let rollouts = o["rollouts"].as_array().unwrap();
        assert_eq!(rollouts.len(), 3);
        assert!(rollouts.iter().all(|r| r["text"].is_string() && r["reward"].is_number()), "{o}");
    }
    // The configuration that the run stores starts the same run.
    let again = tmp.path().join("again");
    let config = out.join("config.toml").to_str().unwrap().to_owned();
    let args = ["train", "--config", &config, "--out", again.to_str().unwrap()].map(str::to_owned);
    let (code, err) = run(&args);
    assert_eq!(code, 0, "{err}");
    assert_eq!(metrics(&again), lines);
}

#[test]
fn what_cannot_be_learnt_from_is_refused() {
    let tmp = tempfile::tempdir().unwrap();
    let data = questions(tmp.path());
    let adapter = golden("llama-tiny").join("adapter");
    let copy = |name: &str| {
        let dir = tmp.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        for entry in std::fs::read_dir(&adapter).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, dir.join(path.file_name().unwrap())).unwrap();
        }
        dir
    };
    // A spread of e^-12: the weights of log_sigma are zero, its bias −12.
    let narrow = copy("narrow");
    overwrite(&narrow.join("latent_head.safetensors"), |name| match name {
        "latent_policy.log_std.weight" => Some(0.0),
        "latent_policy.log_std.bias" => Some(-12.0),
        _ => None,
    });
    let headless = copy("headless");
    std::fs::remove_file(headless.join("latent_head.safetensors")).unwrap();
    let deterministic = copy("deterministic");
    let text = std::fs::read_to_string(deterministic.join("colar.json")).unwrap();
    std::fs::write(
        deterministic.join("colar.json"),
        text.replace("\"deterministic\": false", "\"deterministic\": true"),
    )
    .unwrap();
    let path = |p: &Path| p.to_str().unwrap().to_owned();
    std::fs::write(tmp.path().join("empty.jsonl"), "").unwrap();
    let cases: Vec<(&str, String, i32, &str)> = vec![
        ("--adapter", path(&narrow), 1, "narrow: the latents have no spread to explore with (sigma 6.1e-6)"),
        ("--adapter", path(&headless), 1, "no latent head"),
        ("--adapter", path(&deterministic), 2, "deterministic"),
        ("--adapter", path(&tmp.path().join("absent")), 1, "absent"),
        ("--data", path(&tmp.path().join("empty.jsonl")), 1, "empty"),
        ("--group-size", "1".into(), 2, "--group-size"),
        ("--clip-eps", "1.5".into(), 2, "--clip-eps"),
        ("--kl-weight", "-1".into(), 2, "--kl-weight"),
        ("--cf", "fast".into(), 2, "fast"),
        ("--verifier", "none".into(), 2, "none"),
        ("--method", "cot".into(), 2, "--method goes with --stage sft"),
        ("--latent-weight", "2".into(), 2, "--latent-weight goes with --stage sft"),
        ("--stage", "sft".into(), 2, "goes with --stage rl"),
        ("--top-p", "0".into(), 2, "top-p"),
        ("--batch-size", "40000".into(), 2, "--batch-size times --group-size takes 2 to 65536"),
    ];
    for (i, (flag, value, code, expected)) in cases.into_iter().enumerate() {
        let mut args = flags(&data, &tmp.path().join(format!("out{i}")));
        if let Some(at) = args.iter().position(|a| a == flag) {
            args.drain(at..at + 2);
        }
        args.push(format!("{flag}={value}"));
        let (got, err) = run(&args);
        let lines: Vec<&str> = err.lines().filter(|l| l.starts_with("error")).collect();
        assert_eq!(got, code, "{flag} {value}: {err}");
        assert!(lines.len() == 1 && lines[0].contains(expected), "{flag} {value}: {err}");
    }
}

/// Sets whole float32 tensors of a safetensors file to one value.
fn overwrite(path: &Path, value: impl Fn(&str) -> Option<f32>) {
    let mut bytes = std::fs::read(path).unwrap();
    let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + header_len]).unwrap();
    for (name, tensor) in header.as_object().unwrap() {
        let Some(value) = value(name) else { continue };
        let offset = |i: usize| 8 + header_len + tensor["data_offsets"][i].as_u64().unwrap() as usize;
        bytes[offset(0)..offset(1)].chunks_exact_mut(4).for_each(|b| b.copy_from_slice(&value.to_le_bytes()));
    }
    std::fs::write(path, bytes).unwrap();
}

/// Where all rollouts of every question are wrong, rewards teach nothing, and the run says so.
#[test]
fn a_run_whose_rewards_taught_nothing_says_so() {
    let tmp = tempfile::tempdir().unwrap();
    let mut args = flags(&questions(tmp.path()), &tmp.path().join("run"));
    set(&mut args, "--max-steps", "2");
    let (code, err) = run(&args);
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("  0 % of groups differ"), "{err}");
    assert!(err.contains("note: nothing was learnt from rewards: in each of 2 steps"), "{err}");
}

/// A rate at which the policy leaves its start at once: ratios and divergence stay finite, and the end says that their
/// bound acted.
#[test]
fn a_policy_that_runs_away_stays_finite() {
    let tmp = tempfile::tempdir().unwrap();
    let data = questions(tmp.path());
    let out = tmp.path().join("run");
    let mut args = flags(&data, &out);
    set(&mut args, "--lr", "0.3");
    set(&mut args, "--kl-weight", "0.5");
    set(&mut args, "--exp-batch-size", "2");
    let (code, err) = run(&args);
    assert_eq!(code, 0, "{err}");
    let said = err.lines().filter(|line| line.contains("the bound of their ratio acted")).count();
    assert!(said == 1 && err.contains("a smaller --lr"), "{err}");
    let counts = |line: &Value| line["bounded_exponents"].as_f64();
    let lines = metrics(&out);
    let train: Vec<f64> = lines.iter().filter(|l| l["kind"] == "train").map(|l| counts(l).unwrap()).collect();
    assert!(train.len() == 12 && train.iter().sum::<f64>() > 0.0, "{train:?}");
    let finite =
        |line: &Value| line.as_object().unwrap().values().all(|v| v.is_string() || v.as_f64().is_some());
    assert!(lines.iter().all(finite), "{lines:?}");
}

/// A rank that is not given is that of the checkpoint's adapter; another is refused.
#[test]
fn the_adapter_is_that_of_the_checkpoint() {
    let tmp = tempfile::tempdir().unwrap();
    let data = questions(tmp.path());
    let out = tmp.path().join("run");
    let mut args = flags(&data, &out);
    set(&mut args, "--max-steps", "1");
    let (code, err) = run(&args);
    assert_eq!(code, 0, "{err}");
    let adapter = std::fs::read_to_string(golden("llama-tiny").join("adapter/adapter_config.json")).unwrap();
    let adapter: Value = serde_json::from_str(&adapter).unwrap();
    let config = std::fs::read_to_string(out.join("config.toml")).unwrap();
    assert!(config.contains(&format!("lora-r = {}\n", adapter["r"])), "{config}");
    set(&mut args, "--lora-r", "7");
    set(&mut args, "--out", tmp.path().join("other").to_str().unwrap());
    let (code, err) = run(&args);
    assert!(code == 2 && err.contains("holds an adapter of rank"), "{err}");
}

#[test]
fn solved_questions_are_left_out_on_request() {
    let tmp = tempfile::tempdir().unwrap();
    let data = questions(tmp.path());
    let out = tmp.path().join("run");
    let mut args = flags(&data, &out);
    args.push("--filter-solved".into());
    set(&mut args, "--max-steps", "2");
    let (code, err) = run(&args);
    assert_eq!(code, 0, "{err}");
    // The untrained model solves none.
    let kept: Vec<u32> =
        serde_json::from_str(&std::fs::read_to_string(out.join("questions.json")).unwrap()).unwrap();
    assert_eq!(kept, (0..12).collect::<Vec<u32>>());
}
