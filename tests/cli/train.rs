//! Training from the command line: kills and resumes, numbers that stop being numbers, bad flags.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use colar_engine::files::lock::DirLock;
use colar_engine::random::Stream;

use crate::common::cli::{engine, materials, run};

fn flags<'a>(data: &'a str, model: &'a str, out: &'a str) -> Vec<String> {
    let fixed = "--batch-size 4 --accumulate 2 --latent-head-size 32 --lora-r 4 --lr 1e-3 --max-steps 24 --warmup 4 \
                 --schedule cosine --save-every 2 --val-every 6 --val-samples 4 --threads 1 --seed 5 --auto-prob 0.3";
    let mut all = vec!["train".to_owned(), "--model".into(), model.into(), "--out".into(), out.into()];
    all.extend(["--data".into(), format!("{data}/train.jsonl"), "--val".into(), format!("{data}/val.jsonl")]);
    all.extend(fixed.split_whitespace().map(str::to_owned));
    all
}

/// The step lines of a run's metrics, without measured times.
fn metrics(out: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    text.lines()
        .map(|line| {
            let mut v: serde_json::Value = serde_json::from_str(line).unwrap();
            v.as_object_mut().unwrap().remove("tokens_per_second");
            v.to_string()
        })
        .collect()
}

#[test]
fn killed_twenty_times_ends_with_the_same_weights() {
    let tmp = tempfile::tempdir().unwrap();
    let (data, model) = materials(tmp.path());
    let (whole, broken) = (tmp.path().join("whole"), tmp.path().join("broken"));
    let started = std::time::Instant::now();
    let args = flags(&data, &model, whole.to_str().unwrap());
    let out = engine().args(&args).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let span = started.elapsed();

    let args = flags(&data, &model, broken.to_str().unwrap());
    let mut draw = Stream::new(99, 0);
    let mut kills = 0;
    while kills < 20 {
        let mut child =
            engine().args(&args).arg("--resume").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Short enough that most of them fall within the run, long enough for some to make progress.
        std::thread::sleep(Duration::from_secs_f64(span.as_secs_f64() * 0.6 * draw.uniform_f64()));
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
    }
    let out = engine().args(&args).arg("--resume").output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    for file in ["adapter_model.safetensors", "latent_head.safetensors", "optimizer.safetensors"] {
        let read = |run: &Path| std::fs::read(run.join("last").join(file)).unwrap();
        assert!(read(&whole) == read(&broken), "{file} differs after {kills} kills");
    }
    let best = |run: &Path| std::fs::read(run.join("best/adapter_model.safetensors")).unwrap();
    assert!(best(&whole) == best(&broken), "the best checkpoint differs");
    assert_eq!(metrics(&whole), metrics(&broken));
    let left: Vec<_> = std::fs::read_dir(&broken)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|n| n.contains(".colar-"))
        .collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_state() {
    let tmp = tempfile::tempdir().unwrap();
    let (data, model) = materials(tmp.path());
    let out = tmp.path().join("run");
    let mut args = flags(&data, &model, out.to_str().unwrap());
    // The first two steps are sound and saved; then the rate explodes.
    let at = args.iter().position(|a| a == "--max-steps").unwrap();
    args[at + 1] = "2".into();
    let done = engine().args(&args).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let before = std::fs::read(out.join("last/adapter_model.safetensors")).unwrap();
    args[at + 1] = "24".into();
    let at = args.iter().position(|a| a == "--lr").unwrap();
    args[at + 1] = "3e38".into();
    let at = args.iter().position(|a| a == "--save-every").unwrap();
    args[at + 1] = "100".into();
    // As if the run had been begun with that rate.
    let config = out.join("config.toml");
    let begun = std::fs::read_to_string(&config).unwrap();
    let other = begun.replace("lr = 0.001\n", "lr = 3e38\n").replace("max-steps = 2\n", "max-steps = 24\n");
    assert_ne!(begun, other);
    std::fs::write(&config, other).unwrap();
    let stopped = engine().args(&args).arg("--resume").output().unwrap();
    let err = String::from_utf8(stopped.stderr).unwrap();
    assert_eq!(stopped.status.code(), Some(1), "{err}");
    let line = err.lines().last().unwrap();
    assert!(line.starts_with("error: step ") && line.contains("is not finite: a smaller --lr"), "{line}");
    assert!(std::fs::read(out.join("last/adapter_model.safetensors")).unwrap() == before);
}

/// A loss that is far too high for long is no run that went well.
#[test]
fn a_run_that_diverges_is_stopped() {
    let tmp = tempfile::tempdir().unwrap();
    let (data, model) = materials(tmp.path());
    let run = |name: &str, more: &[&str]| {
        let mut args = flags(&data, &model, tmp.path().join(name).to_str().unwrap());
        for flag in
            ["--schedule", "--warmup", "--val-every", "--lr", "--latent-head-size", "--auto-prob", "--lora-r"]
        {
            let at = args.iter().position(|a| a == flag).unwrap();
            args.drain(at..at + 2);
        }
        args.extend(["--method", "cot", "--full", "--lr", "1"].map(str::to_owned));
        let at = args.iter().position(|a| a == "--max-steps").unwrap();
        args[at + 1] = "12".into();
        args.extend(more.iter().map(|&flag| flag.to_owned()));
        let out = engine().args(&args).output().unwrap();
        (out.status.code(), String::from_utf8(out.stderr).unwrap())
    };
    let (code, err) = run("stopped", &["--watchdog", "5"]);
    assert_eq!(code, Some(1), "{err}");
    let line = err.lines().last().unwrap();
    assert!(
        line.contains("far above its running mean of") && line.contains("for 5 steps: a smaller --lr"),
        "{err}"
    );
    let (code, err) = run("unwatched", &["--watchdog", "0"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains("was far above its running mean; a smaller --lr may help"), "{err}");
}

/// A chat-tuned model's template goes with the checkpoint, and everything that asks it questions uses it.
#[test]
fn a_chat_template_goes_with_the_checkpoint() {
    let tmp = tempfile::tempdir().unwrap();
    let (data, model) = materials(tmp.path());
    let settings = Path::new(&model).join("tokenizer_config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&settings).unwrap()).unwrap();
    let out = tmp.path().join("run");
    let train = |out: &Path, more: &[&str]| {
        let mut args = flags(&data, &model, out.to_str().unwrap());
        let at = args.iter().position(|a| a == "--max-steps").unwrap();
        args[at + 1] = "2".into();
        args.extend(more.iter().map(|&flag| flag.to_owned()));
        let out = engine().args(&args).output().unwrap();
        (out.status.code().unwrap(), String::from_utf8(out.stderr).unwrap())
    };
    let (code, err) = train(&out, &["--template", "chat"]);
    assert!(code == 1 && err.contains("no chat template"), "{err}");
    config["chat_template"] = "Question: {% for m in messages %}{{ m['content'] }}{% endfor %}".into();
    std::fs::write(&settings, config.to_string()).unwrap();
    std::fs::remove_dir_all(&out).unwrap();
    let (code, err) = train(&out, &["--template", "chat"]);
    assert_eq!(code, 0, "{err}");
    let ask = |more: &[&str]| {
        let fixed = ["generate", "--greedy", "--json", "--max-new-tokens", "2", "How many?"];
        run(&[&fixed[..], &["--device", "cpu", "--model", &model], more].concat())
    };
    let (code, _, err) = ask(&["--template", "chat"]);
    assert!(code == 2 && err.contains("--template: a text that is continued has none"), "{err}");
    // The model's own may change: the checkpoint keeps what it was trained with.
    config["chat_template"] = "another".into();
    std::fs::write(&settings, config.to_string()).unwrap();
    let best = out.join("best").to_str().unwrap().to_owned();
    let (code, asked, err) = ask(&["--adapter", &best]);
    assert!(code == 0 && err.contains("in its chat template"), "{err}");
    let tokens =
        |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["prompt_tokens"].as_u64();
    let (_, bare, _) = ask(&["--method", "cot"]);
    let more = tokens(&asked).unwrap() - tokens(&bare).unwrap();
    assert!(more > 0, "{asked}{bare}");
    let (code, _, err) = ask(&["--adapter", &best, "--template", "paper"]);
    assert!(code == 2 && err.contains("was trained with --template chat"), "{err}");
    // A run from the checkpoint goes on in its template, and a resumed one too.
    let next = tmp.path().join("next");
    let (code, err) = train(&next, &["--init", &best]);
    assert_eq!(code, 0, "{err}");
    let colar = |dir: &Path| std::fs::read_to_string(dir.join("best/colar.json")).unwrap();
    assert!(colar(&next).contains("Question: {% for m in messages"), "{}", colar(&next));
    config["chat_template"] = "Question: {% for m in messages %}{{ m['content'] }}{% endfor %}".into();
    std::fs::write(&settings, config.to_string()).unwrap();
    let (code, err) = train(&out, &["--template", "chat", "--resume"]);
    assert_eq!(code, 0, "{err}");
}

/// A run ends where its validations no longer get better, and one that was resumed does not begin to count anew.
/// Gives a flag of these arguments another value.
fn set(args: &mut [String], flag: &str, value: &str) {
    let at = args.iter().position(|a| a == flag).unwrap();
    args[at + 1] = value.into();
}

/// Removes the flags of validation.
fn without_validation(args: &mut Vec<String>) {
    for flag in ["--val", "--val-every", "--val-samples"] {
        if let Some(at) = args.iter().position(|a| a == flag) {
            args.drain(at..at + 2);
        }
    }
}

#[test]
fn patience_ends_a_run() {
    let tmp = tempfile::tempdir().unwrap();
    let (data, model) = materials(tmp.path());
    let out = tmp.path().join("run");
    let mut args = flags(&data, &model, out.to_str().unwrap());
    // So slow that no answer becomes right: every validation is as good as the first.
    set(&mut args, "--lr", "1e-9");
    set(&mut args, "--val-every", "2");
    args.extend(["--patience", "2"].map(str::to_owned));
    let done = engine().args(&args).output().unwrap();
    let err = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.success(), "{err}");
    assert!(err.contains("note: none of the last 2 validations was better"), "{err}");
    let steps = |out: &Path| metrics(out).iter().filter(|line| line.contains("\"train\"")).count();
    assert_eq!(steps(&out), 6);
    let again = engine().args(&args).arg("--resume").output().unwrap();
    assert!(again.status.success());
    assert_eq!(steps(&out), 6, "a run that is over goes no further");
    without_validation(&mut args);
    set(&mut args, "--out", tmp.path().join("other").to_str().unwrap());
    let refused = engine().args(&args).output().unwrap();
    let err = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.status.code() == Some(2) && err.contains("--patience goes with --val"), "{err}");
}

#[test]
fn long_samples_are_left_out_and_all_projections_have_a_word() {
    let tmp = tempfile::tempdir().unwrap();
    let (data, model) = materials(tmp.path());
    let train = |name: &str, more: &[&str]| {
        let out = tmp.path().join(name);
        let mut args = flags(&data, &model, out.to_str().unwrap());
        let at = args.iter().position(|a| a == "--max-steps").unwrap();
        args[at + 1] = "1".into();
        args.extend(more.iter().map(|&flag| flag.to_owned()));
        let done = engine().args(&args).output().unwrap();
        (done.status.code(), String::from_utf8(done.stderr).unwrap(), out)
    };
    // The median length, by what `data show` counts.
    let (_, shown, _) = run(&[
        "data",
        "show",
        "--model",
        &model,
        "--data",
        &format!("{data}/train.jsonl"),
        "--n",
        "64",
        "--method",
        "cot",
    ]);
    let mut lengths: Vec<usize> = shown
        .lines()
        .filter_map(|line| line.strip_prefix("sample ")?.split(": ").nth(1)?.split(' ').next()?.parse().ok())
        .collect();
    assert_eq!(lengths.len(), 64, "{shown}");
    lengths.sort_unstable();
    let most = lengths[32];
    let kept = lengths.iter().filter(|&&length| length <= most).count();
    let (code, err, out) =
        train("short", &["--max-length", &most.to_string(), "--lora-targets", "all-linear"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(
        err.contains(&format!("over {kept} samples ({} longer than --max-length left out)", 64 - kept)),
        "{err}"
    );
    let adapter = std::fs::read_to_string(out.join("best/adapter_config.json")).unwrap();
    for name in ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"] {
        assert!(adapter.contains(&format!("\"{name}\"")), "{adapter}");
    }
    let (code, err, _) = train("none", &["--max-length", "3"]);
    assert!(code == Some(2) && err.contains("all 64 samples are longer than --max-length"), "{err}");
}

/// What a run would take is told before it is begun, and nothing is left of the question.
#[test]
fn a_dry_run_tells_and_writes_nothing() {
    let tmp = tempfile::tempdir().unwrap();
    let (data, model) = materials(tmp.path());
    let out = tmp.path().join("run");
    let (before, scratch) = (std::fs::read_dir(tmp.path()).unwrap().count(), tmp.path().join("scratch"));
    let adapter = crate::common::golden("llama-tiny").join("adapter");
    let tiny = crate::common::golden("llama-tiny");
    let rl: Vec<String> = format!(
        "train --stage rl --model {} --adapter {} --data {data}/train.jsonl --val {data}/val.jsonl --out {} --group-size 2 \
         --batch-size 2 --max-latents 3 --max-new-tokens 2 --max-steps 5 --val-samples 2 --threads 1",
        tiny.display(),
        adapter.display(),
        out.display()
    )
    .split_whitespace()
    .map(str::to_owned)
    .collect();
    for (args, steps) in [(flags(&data, &model, out.to_str().unwrap()), 24), (rl, 5)] {
        std::fs::create_dir(&scratch).unwrap();
        let told = engine().args(&args).arg("--dry-run").env("TMPDIR", &scratch).output().unwrap();
        let err = String::from_utf8(told.stderr).unwrap();
        assert!(told.status.success(), "{err}");
        let said = String::from_utf8(told.stdout).unwrap();
        for part in [
            &format!("{steps} steps over"),
            "time: ",
            "validation: ",
            "longest samples: ",
            "cut: nothing",
            "learning rate: ",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(said.ends_with("nothing was written\n"), "{said}");
        std::fs::remove_dir(&scratch).unwrap();
        assert_eq!(std::fs::read_dir(tmp.path()).unwrap().count(), before);
    }
}

#[test]
fn learning_rates_are_tried_side_by_side() {
    let tmp = tempfile::tempdir().unwrap();
    let (data, model) = materials(tmp.path());
    let out = tmp.path().join("rates");
    let mut args = flags(&data, &model, out.to_str().unwrap());
    let at = args.iter().position(|a| a == "--max-steps").unwrap();
    args[at + 1] = "4".into();
    let at = args.iter().position(|a| a == "--lr").unwrap();
    args.drain(at..at + 2);
    args.push("--lr-sweep=1e-4,1e-2,1e30".into());
    let done = engine().args(&args).output().unwrap();
    let err = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.success(), "{err}");
    let said = String::from_utf8(done.stdout).unwrap();
    let row = |begin: &str| {
        said.lines().find(|l| l.starts_with(begin)).unwrap_or_else(|| panic!("{begin}: {said}"))
    };
    assert!(
        row("| 1e-4 ").matches('|').count() == 6 && row("| 1e30 ").contains(" is not finite at step "),
        "{said}"
    );
    assert!(
        said.contains("the least loss: --lr 1e-2;") || said.contains("the least loss: --lr 1e-4;"),
        "{said}"
    );
    assert!(out.join("lr0.01/best/colar.json").exists());
    args.retain(|flag| flag != "--max-steps" && flag != "4");
    let refused = engine().args(&args).output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "{}", String::from_utf8_lossy(&refused.stderr));
}

/// A run's state is read from outside, while another process trains it and afterwards.
#[test]
fn a_run_is_looked_at_from_outside() {
    let tmp = tempfile::tempdir().unwrap();
    let (data, model) = materials(tmp.path());
    let out = tmp.path().join("run");
    let args = flags(&data, &model, out.to_str().unwrap());
    let (code, _, err) = run(&["status", out.to_str().unwrap()]);
    assert!(code == 1 && err.contains("no run"), "{err}");
    let done = engine().args(&args).output().unwrap();
    assert!(done.status.success());
    let status = || run(&["status", out.to_str().unwrap()]);
    let (code, said, err) = status();
    assert_eq!(code, 0, "{err}");
    assert!(
        said.contains("step 24 of 24, done") && said.contains(" a step\n") && said.contains("\n  loss "),
        "{said}"
    );
    assert!(said.contains("validation after step 24, loss ") && said.contains(", accuracy "), "{said}");
    let held = DirLock::take(&out).unwrap();
    assert!(status().1.contains(", running (process "), "{}", status().1);
    drop(held);
    let (_, json, _) = run(&["status", "--json", out.to_str().unwrap()]);
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&value["step"], &value["total"], &value["running"]), (&24.into(), &24.into(), &false.into()));
    assert_eq!(value["curve"].as_array().unwrap().len(), 24);
    // Of several runs the one that was written to last, and --watch ends with the run.
    let runs = tmp.path().join("runs");
    std::fs::create_dir(&runs).unwrap();
    std::fs::rename(&out, runs.join("one")).unwrap();
    let seen = engine().args(["status", "--watch"]).current_dir(tmp.path()).output().unwrap();
    assert!(String::from_utf8_lossy(&seen.stdout).starts_with("runs/one: step 24"), "{seen:?}");
}

/// Without a terminal: what the run is, that it goes on, and what a validation takes.
#[test]
fn a_run_says_what_it_is() {
    let tmp = tempfile::tempdir().unwrap();
    let (data, model) = materials(tmp.path());
    let out = tmp.path().join("run");
    let mut args = flags(&data, &model, out.to_str().unwrap());
    let at = args.iter().position(|a| a == "--max-steps").unwrap();
    args[at + 1] = "6".into();
    let done = engine().args(&args).output().unwrap();
    let err = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.success(), "{err}");
    let first = err.lines().next().unwrap();
    for said in [
        &format!("train: run directory {}: 6 steps over 64 samples; ", out.display()),
        " M weights trained; about ",
        "4 questions validated at the end (--val-samples, --val-every)",
    ] {
        assert!(first.contains(said), "{said}: {err}");
    }
    assert!(err.contains("train: step 1 of 6: loss ") && err.contains("train: step 6 of 6: loss "), "{err}");
    let validated = err.lines().find(|line| line.contains("validation loss")).unwrap();
    assert!(validated.contains(", accuracy "), "{err}");
    let (_, time) = validated.rsplit_once(", in ").unwrap();
    assert!(time.ends_with(" s") || time.ends_with(" ms"), "{err}");
    // Without a validation no checkpoint is the best.
    args[at + 1] = "2".into();
    without_validation(&mut args);
    let at = args.iter().position(|a| a == "--out").unwrap();
    args[at + 1] = tmp.path().join("other").to_str().unwrap().to_owned();
    let done = engine().args(&args).output().unwrap();
    let said = String::from_utf8(done.stdout).unwrap();
    assert!(
        said.contains("2 steps; the last checkpoint is in") && said.contains("nothing was validated"),
        "{said}"
    );
}

/// Reasoning that holds the separator would end a chain wherever it does.
#[test]
fn data_that_holds_marks_of_the_prompt_is_refused_or_escaped() {
    let tmp = tempfile::tempdir().unwrap();
    let (data, model) = materials(tmp.path());
    let train = format!("{data}/train.jsonl");
    let text = std::fs::read_to_string(&train).unwrap();
    let marked = r####"{"question":"1+1?","steps":["### Step 1: 1+1=2"],"answer":"2"}"####;
    std::fs::write(&train, format!("{text}{marked}\n")).unwrap();
    let out = tmp.path().join("run");
    let mut args = flags(&data, &model, out.to_str().unwrap());
    let at = args.iter().position(|a| a == "--max-steps").unwrap();
    args[at + 1] = "1".into();
    let refused = engine().args(&args).output().unwrap();
    let err = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{err}");
    let named = "sample 65: its reasoning holds the separator \"###\"";
    assert!(err.contains(named) && err.contains("with --escape-marks"), "{err}");
    let escaped = engine().args(&args).arg("--escape-marks").output().unwrap();
    assert!(escaped.status.success(), "{}", String::from_utf8_lossy(&escaped.stderr));
    // Losses of such data would be those of other samples.
    let score = ["score", "--model", &model, "--data", &train, "--device", "cpu"];
    let refused = engine().args(score).output().unwrap();
    let err = String::from_utf8(refused.stderr).unwrap();
    assert!(
        refused.status.code() == Some(2) && err.contains(named) && err.contains("--escape-marks"),
        "{err}"
    );
    let escaped = engine().args(score).arg("--escape-marks").output().unwrap();
    assert!(escaped.status.success(), "{}", String::from_utf8_lossy(&escaped.stderr));
}

/// Full training from a LoRA checkpoint goes on from what that computes, and leaves a model directory: no adapter that
/// would belong to other weights.
#[test]
fn a_full_run_from_an_adapter_folds_it_into_the_weights() {
    let tmp = tempfile::tempdir().unwrap();
    let (data, model) = materials(tmp.path());
    let [first, full, rl] = ["first", "full", "rl"].map(|name| tmp.path().join(name));
    let args = flags(&data, &model, first.to_str().unwrap());
    assert!(engine().args(&args).output().unwrap().status.success());
    let best = first.join("best");
    let train = |more: &[&str], out: &Path| {
        let mut c = engine();
        c.args([
            "train",
            "--model",
            &model,
            "--data",
            &format!("{data}/train.jsonl"),
            "--full",
            "--threads",
            "1",
        ]);
        // A rate that moves nothing: the weights stay what they begin as.
        c.args(["--lr", "1e-30", "--max-steps", "1"]).args(more).arg("--out").arg(out);
        let done = c.output().unwrap();
        let err = String::from_utf8(done.stderr).unwrap();
        assert!(done.status.success(), "{err}");
        let said = "the checkpoint's adapter was added to the weights, of which all are trained";
        assert_eq!(err.lines().filter(|line| line.contains(said)).count(), 1, "{err}");
    };
    let score = |args: &[&str], keys: &[&str]| -> Vec<f64> {
        let test = format!("{data}/test.jsonl");
        let rest = ["--data", &test, "--json", "--threads", "1"];
        let (code, out, err) = run(&[&["score"][..], args, &rest].concat());
        assert_eq!(code, 0, "{err}");
        let total: serde_json::Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
        keys.iter().map(|key| total[*key].as_f64().unwrap()).collect()
    };
    let all = ["ce", "latent_mse", "entropy"];
    let want = score(&["--model", &model, "--adapter", best.to_str().unwrap()], &all);
    let bare = score(&["--model", &model, "--method", "cot"], &["ce"]);
    assert!((want[0] - bare[0]).abs() > 1e-2, "the adapter does something: {want:?} {bare:?}");
    train(&["--init", best.to_str().unwrap(), "--latent-head-size", "32", "--batch-size", "4"], &full);
    train(
        &["--stage", "rl", "--adapter", first.to_str().unwrap(), "--batch-size", "2", "--group-size", "2"],
        &rl,
    );
    for out in [full, rl] {
        for checkpoint in ["best", "last"].map(|name| out.join(name)) {
            assert!(checkpoint.join("model.safetensors").exists());
            assert!(!checkpoint.join("adapter_config.json").exists());
            assert!(!checkpoint.join("adapter_model.safetensors").exists());
            // Alone, as the model directory that it is.
            let got = score(&["--model", checkpoint.to_str().unwrap()], &all);
            for (got, want) in got.iter().zip(&want) {
                assert!((got - want).abs() <= 1e-5 * want.abs(), "{got} and not {want}");
            }
        }
    }
}

/// A run goes on as it was begun; every option that is another is named, and nothing is touched.
#[test]
fn a_resume_under_other_settings_is_refused() {
    let tmp = tempfile::tempdir().unwrap();
    let (data, model) = materials(tmp.path());
    let out = tmp.path().join("run");
    let mut args = flags(&data, &model, out.to_str().unwrap());
    set(&mut args, "--schedule", "constant");
    set(&mut args, "--max-steps", "2");
    let done = engine().args(&args).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let config = std::fs::read(out.join("config.toml")).unwrap();
    let resume = |args: &[String]| {
        let stopped = engine().args(args).arg("--resume").output().unwrap();
        (stopped.status.code(), String::from_utf8(stopped.stderr).unwrap())
    };
    let mut other = args.clone();
    set(&mut other, "--lr", "2e-3");
    set(&mut other, "--seed", "6");
    other.extend(["--method", "cot"].map(str::to_owned));
    other.retain(|flag| !["--latent-head-size", "32", "--auto-prob", "0.3"].contains(&flag.as_str()));
    let (code, err) = resume(&other);
    assert_eq!(code, Some(2), "{err}");
    for named in ["--lr was 0.001, not 0.002", "--seed was 5, not 6", "--method was \"colar\", not \"cot\""] {
        assert!(err.contains(named), "{named}: {err}");
    }
    // Another data set under the same name, and then under its own.
    let train = tmp.path().join("data/train.jsonl");
    let text = std::fs::read_to_string(&train).unwrap();
    std::fs::write(&train, text.lines().skip(1).map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    let (code, err) = resume(&args);
    assert!(code == Some(2) && err.contains("--data has other contents"), "{err}");
    std::fs::write(tmp.path().join("same.jsonl"), &text).unwrap();
    assert_eq!(std::fs::read(out.join("config.toml")).unwrap(), config);
    // The same data elsewhere, more threads, and more steps at a constant rate.
    set(&mut args, "--data", tmp.path().join("same.jsonl").to_str().unwrap());
    set(&mut args, "--threads", "2");
    set(&mut args, "--max-steps", "4");
    let (code, err) = resume(&args);
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(metrics(&out).iter().filter(|line| line.contains("\"train\"")).count(), 4);
}

/// The embedded default has no run of a model and data of one's own to go on with, and leaves one alone.
#[test]
fn the_embedded_default_does_not_begin_in_another_run() {
    let tmp = tempfile::tempdir().unwrap();
    let out = tmp.path().join("run");
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("config.toml"), "model = \"m\"\n").unwrap();
    for more in [&["--resume"][..], &[]] {
        let said = engine().args(["train", "--out", out.to_str().unwrap()]).args(more).output().unwrap();
        let err = String::from_utf8(said.stderr).unwrap();
        let named = format!("--config {} with --resume goes on with it", out.join("config.toml").display());
        assert!(said.status.code() == Some(2) && err.contains(&named), "{err}");
        let left = std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(left.collect::<Vec<_>>(), ["config.toml"]);
    }
}

/// What a checkpoint has is not another because a flag says so.
#[test]
fn flags_that_a_checkpoint_overrules_are_refused() {
    let tmp = tempfile::tempdir().unwrap();
    let (data, model) = materials(tmp.path());
    let first = tmp.path().join("first");
    let mut args = flags(&data, &model, first.to_str().unwrap());
    let at = args.iter().position(|a| a == "--max-steps").unwrap();
    args[at + 1] = "1".into();
    let done = engine().args(&args).args(["--lora-alpha", "16"]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let best = first.join("best");
    let second = tmp.path().join("second");
    let at = args.iter().position(|a| a == "--out").unwrap();
    args[at + 1] = second.to_str().unwrap().into();
    let from = |changed: &[(&str, &str)]| {
        let mut args = args.clone();
        args.extend(["--init", best.to_str().unwrap(), "--lora-alpha", "16"].map(str::to_owned));
        for (flag, value) in changed {
            match args.iter().position(|a| a == flag) {
                Some(at) => args[at + 1] = (*value).to_owned(),
                None => args.extend([flag, value].map(|&text| text.to_owned())),
            }
        }
        let out = engine().args(&args).output().unwrap();
        (out.status.code(), String::from_utf8(out.stderr).unwrap())
    };
    for (flag, value, told) in [
        ("--lora-alpha", "64", "rank 4 and alpha 16 on q_proj,v_proj"),
        ("--lora-r", "8", "rank 4 and alpha 16 on q_proj,v_proj"),
        ("--lora-targets", "q_proj", "rank 4 and alpha 16 on q_proj,v_proj"),
        ("--latent-head-size", "99", "32 wide within, and --latent-head-size is 99"),
    ] {
        let (code, err) = from(&[(flag, value)]);
        assert_eq!(code, Some(2), "{flag}: {err}");
        let last = err.lines().last().unwrap();
        assert!(last.starts_with("error: ") && last.contains(told) && last.contains(flag), "{err}");
    }
    let (code, err) = from(&[]);
    assert_eq!(code, Some(0), "{err}");
    let config = std::fs::read_to_string(second.join("config.toml")).unwrap();
    assert!(config.contains("lora-alpha = 16") && config.contains("latent-head-size = 32"), "{config}");
}

/// A run that goes on past its end has the checkpoint that it names.
#[test]
fn the_best_checkpoint_that_is_named_is_there() {
    let tmp = tempfile::tempdir().unwrap();
    let (data, model) = materials(tmp.path());
    let out = tmp.path().join("run");
    let mut args = flags(&data, &model, out.to_str().unwrap());
    set(&mut args, "--schedule", "constant");
    set(&mut args, "--max-steps", "4");
    set(&mut args, "--val-every", "100");
    let done = engine().args(&args).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    // As a kill between the last training state and the validation leaves it.
    for made in ["best", "checkpoints"] {
        std::fs::remove_dir_all(out.join(made)).unwrap();
    }
    set(&mut args, "--max-steps", "3");
    let past = engine().args(&args).arg("--resume").output().unwrap();
    let said = String::from_utf8(past.stdout).unwrap();
    assert!(past.status.success(), "{}", String::from_utf8_lossy(&past.stderr));
    let named = said.lines().last().unwrap().rsplit(' ').next().unwrap();
    assert_eq!(Path::new(named), out.join("best"), "{said}");
    assert!(out.join("best/adapter_model.safetensors").is_file());
}

/// Without a name runs have directories of their own, however fast they follow each other.
#[test]
fn unnamed_runs_do_not_meet() {
    let tmp = tempfile::tempdir().unwrap();
    let (data, model) = materials(tmp.path());
    let mut args = flags(&data, &model, "");
    let at = args.iter().position(|a| a == "--out").unwrap();
    args.drain(at..at + 2);
    let at = args.iter().position(|a| a == "--max-steps").unwrap();
    args[at + 1] = "1".into();
    let start = || {
        let mut command = engine();
        command.args(&args).current_dir(tmp.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let running: Vec<_> = (0..4).map(|_| start()).collect();
    let mut named = std::collections::BTreeSet::new();
    for child in running {
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let said = String::from_utf8(out.stdout).unwrap();
        named.insert(said.trim_end().rsplit(' ').next().unwrap().to_owned());
    }
    assert_eq!(named.len(), 4, "{named:?}");
    // One that is refused leaves nothing behind.
    let val = args.iter().position(|a| a == "--val").unwrap();
    let mut without_val = args.clone();
    without_val[val + 1] = "/nonexistent".into();
    for (args, more, code) in [(&args, "--lr=-1", 2), (&without_val, "--full=false", 1)] {
        let refused = engine().args(args).arg(more).current_dir(tmp.path()).output().unwrap();
        assert_eq!(refused.status.code(), Some(code), "{}", String::from_utf8_lossy(&refused.stderr));
        assert_eq!(std::fs::read_dir(tmp.path().join("runs")).unwrap().count(), 4);
    }
}

#[test]
fn a_run_that_another_process_trains_is_left_alone() {
    let tmp = tempfile::tempdir().unwrap();
    let (data, model) = materials(tmp.path());
    let out = tmp.path().join("run");
    let args = flags(&data, &model, out.to_str().unwrap());
    let _held = DirLock::take(&out).unwrap();
    // A file that the other process is writing at this moment.
    std::fs::write(out.join(".last.colar-partial-abc"), "x").unwrap();
    for more in [&[][..], &["--resume"]] {
        let stopped = engine().args(&args).args(more).output().unwrap();
        let err = String::from_utf8(stopped.stderr).unwrap();
        assert_eq!(stopped.status.code(), Some(2), "{err}");
        assert!(err.trim_end().ends_with("run: another process is at work there"), "{err}");
    }
    assert!(out.join(".last.colar-partial-abc").exists());
}

#[test]
fn bad_flags_and_files_give_one_line() {
    let tmp = tempfile::tempdir().unwrap();
    let (data, model) = materials(tmp.path());
    let path = |name: &str| tmp.path().join(name).to_str().unwrap().to_owned();
    let out = path("out");
    let train = format!("{data}/train.jsonl");
    std::fs::write(tmp.path().join("empty.jsonl"), "").unwrap();
    std::fs::write(tmp.path().join("bad.toml"), "lr = 1e-4\nbacth-size = 3\n").unwrap();
    let cases: &[(&[&str], i32, &str)] = &[
        (&["--model", &model], 2, "--data"),
        (&["--data", &train], 2, "--model"),
        (&["--lr", "1"], 2, "without --model and --data"),
        (&["--model", &model, "--data", &train, "--lr=-1"], 2, "--lr"),
        (&["--model", &model, "--data", &train, "--batch-size", "0"], 2, "--batch-size"),
        (&["--model", &model, "--data", &train, "--c-max", "0"], 2, "--c-max takes 1 to 1024, not 0"),
        (&["--model", &model, "--data", &train, "--lora-targets", "x_proj"], 2, "x_proj"),
        (&["--model", &model, "--data", &train, "--auto-prob", "1.5"], 2, "--auto-prob"),
        (&["--model", &model, "--data", &train, "--freeze-embedding"], 2, "--full"),
        (
            &["--model", &model, "--data", &train, "--deterministic-head", "--latent-loss", "nll"],
            2,
            "--deterministic-head goes with --latent-loss mse",
        ),
        (&["--model", "/nonexistent", "--data", &train], 1, "/nonexistent"),
        (&["--model", &model, "--data", &path("empty.jsonl")], 1, "empty.jsonl"),
        (&["--model", &model, "--data", &train, "--init", "/nonexistent"], 1, "/nonexistent"),
        (
            &["--config", &path("bad.toml")],
            1,
            "bad.toml, line 2: unknown key `bacth-size`; a similar one is `batch-size`",
        ),
        (&["--config", &path("absent.toml")], 1, "absent.toml"),
    ];
    for (args, code, needle) in cases {
        let args = [&["train"][..], args, &["--out", &out]].concat();
        let (got, _, err) = run(&args);
        assert_eq!(got, *code, "{args:?}: {err}");
        assert!(err.contains(needle), "{args:?} should name {needle}: {err}");
        if *code == 1 {
            assert_eq!(err.lines().count(), 1, "{args:?}: {err}");
        }
        assert!(!err.contains("panicked"), "{args:?}: {err}");
    }
    // A run directory that is in use is not written over.
    let args = flags(&data, &model, &out);
    assert!(engine().args(&args).args(["--max-steps", "1"]).output().unwrap().status.code() == Some(2));
}
