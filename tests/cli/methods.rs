//! Implicit CoT, Coconut and distillation from the command line, on a tiny random model.

use std::path::Path;

use serde_json::Value;

use crate::common::cli::{materials, run};

/// Standard output of a command that succeeds.
fn ok(args: &[&str]) -> String {
    let (code, out, err) = run(args);
    assert_eq!(code, 0, "{args:?}: {err}");
    out
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A trained run of each method, with the checks that the tests make on it.
struct Run {
    _dir: tempfile::TempDir,
    data: String,
    model: String,
    best: String,
    metrics: Vec<Value>,
}

impl Run {
    fn train(method: &str, flags: &[&str]) -> Run {
        let dir = tempfile::tempdir().unwrap();
        let (data, model) = materials(dir.path());
        let out = dir.path().join("run");
        let train = Self::flags(&data, &model, out.to_str().unwrap(), method, flags);
        let args: Vec<&str> = train.iter().map(String::as_str).collect();
        ok(&args);
        let metrics = lines(&std::fs::read_to_string(out.join("metrics.jsonl")).unwrap());
        // It is complete: there is nothing to resume.
        let stored = out.join("config.toml");
        ok(&["train", "--config", stored.to_str().unwrap(), "--resume"]);
        assert_eq!(lines(&std::fs::read_to_string(out.join("metrics.jsonl")).unwrap()), metrics);
        let best = out.join("best").to_str().unwrap().to_owned();
        Run { _dir: dir, data, model, best, metrics }
    }

    fn flags(data: &str, model: &str, out: &str, method: &str, flags: &[&str]) -> Vec<String> {
        let fixed = "--batch-size 4 --accumulate 2 --lora-r 4 --lr 3e-3 --max-steps 6 --val-every 2 --val-samples 4 \
                     --save-top-k 9 --threads 1 --seed 5";
        let mut all = vec!["train".to_owned(), "--method".into(), method.into()];
        all.extend(["--model", model, "--out", out].map(str::to_owned));
        all.extend([
            "--data".into(),
            format!("{data}/train.jsonl"),
            "--val".into(),
            format!("{data}/val.jsonl"),
        ]);
        all.extend(fixed.split_whitespace().chain(flags.iter().copied()).map(str::to_owned));
        all
    }

    fn over<'a>(&'a self, command: &'a str, rest: &[&'a str]) -> Vec<&'a str> {
        let mut args = vec![command, "--model", &self.model, "--adapter", &self.best, "--threads", "1"];
        args.extend(rest);
        args
    }

    fn colar_json(&self) -> Value {
        serde_json::from_slice(&std::fs::read(Path::new(&self.best).join("colar.json")).unwrap()).unwrap()
    }

    /// The values of `key` in the metrics of training or validation.
    fn metric(&self, kind: &str, key: &str) -> Vec<Option<f64>> {
        self.metrics.iter().filter(|m| m["kind"] == kind).map(|m| m[key].as_f64()).collect()
    }

    /// Steps of the checkpoints that were kept.
    fn kept(&self) -> Vec<String> {
        let dir = Path::new(&self.best).with_file_name("checkpoints");
        let mut names: Vec<String> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn generate(&self, rest: &[&str]) -> Value {
        let args = [&["--json", "--greedy", "--max-cot-tokens", "5", "--max-new-tokens", "4"], rest].concat();
        let mut answer = lines(&ok(&self.over("generate", &[&args[..], &["1+1?"]].concat()))).remove(0);
        for clock in ["prefill_ms", "latents_ms", "answer_ms"] {
            answer.as_object_mut().unwrap().remove(clock);
        }
        answer
    }

    fn score(&self) -> Value {
        let data = format!("{}/test.jsonl", self.data);
        lines(&ok(&self.over("score", &["--data", &data, "--json"]))).pop().unwrap()
    }

    fn eval(&self) -> String {
        let data = format!("{}/test.jsonl", self.data);
        ok(&self.over("eval", &["--data", &data, "--greedy", "--limit", "3", "--max-cot-tokens", "5"]))
    }

    /// Fails with this exit code and message.
    fn fails(&self, command: &str, rest: &[&str], code: i32, needle: &str) {
        let (got, _, err) = run(&self.over(command, rest));
        assert_eq!(got, code, "{rest:?}: {err}");
        // The model may have been loaded, and named, before.
        let said: Vec<&str> = err.lines().filter(|line| !line.starts_with("loaded ")).collect();
        assert!(said.len() == 1 && said[0].contains(needle), "{rest:?} should name {needle}: {err}");
    }

    /// Checks the refusal of factors, which every method without compression shares.
    fn refuses_factors(&self, method: &str) {
        let data = format!("{}/test.jsonl", self.data);
        let needle = format!("method {method} compresses nothing");
        self.fails("generate", &["--cf", "2", "q"], 2, &needle);
        self.fails("eval", &["--data", &data, "--cf", "auto,2"], 2, &needle);
        self.fails("score", &["--data", &data, "--cf", "2"], 2, &needle);
        assert_eq!(self.generate(&["--cf", "auto"]), self.generate(&[]));
        let train = format!("{}/train.jsonl", self.data);
        let out = format!("{}/rl", self.data);
        let rl =
            ["train", "--stage", "rl", "--model", &self.model, "--adapter", &self.best, "--data", &train];
        let (code, _, err) = run(&[&rl[..], &["--out", &out]].concat());
        assert_eq!(code, 2, "{err}");
        assert!(
            err.contains(&format!("is a checkpoint of method {method}: --stage rl trains colar alone")),
            "{err}"
        );
    }
}

#[test]
fn implicit_cot() {
    let run = Run::train("icot", &["--stages", "3"]);
    assert_eq!(run.metric("train", "stage"), [1.0, 1.0, 2.0, 2.0, 3.0, 3.0].map(Some));
    assert_eq!(run.metric("val", "stage"), [1.0, 2.0, 3.0].map(Some));
    assert_eq!(run.kept(), ["step-000006"], "only the last stage has candidates");
    let colar = run.colar_json();
    assert_eq!(
        (&colar["method"], colar.get("thoughts"), colar.get("latent_head")),
        (&"icot".into(), None, None)
    );
    let answer = run.generate(&[]);
    assert_eq!(answer["cf"], "auto");
    let length = answer["n_latents"].as_u64().unwrap();
    // The tokens of reasoning that was cut off at its limit, its separator and the answer's.
    let tokens = answer["token_ids"].as_array().unwrap().len() as u64;
    assert!(length <= 5 && tokens == length + 1 + answer["answer_tokens"].as_u64().unwrap(), "{answer}");
    assert!(run.eval().contains("| iCoT"));
    let score = run.score();
    assert!(score["ce"].as_f64().unwrap() > 0.0 && score["latent_mse"].is_null(), "{score}");
    assert!(score.get("distill").is_none());
    run.refuses_factors("icot");
    run.fails("generate", &["--method", "coconut", "q"], 1, "no thoughts of method coconut");
}

#[test]
fn coconut() {
    let run = Run::train("coconut", &["--stages", "2", "--stage-steps", "2", "--thoughts-per-step", "3"]);
    assert_eq!(run.metric("train", "stage"), [1.0, 1.0, 2.0, 2.0, 2.0, 2.0].map(Some));
    assert_eq!(run.kept(), ["step-000004", "step-000006"]);
    let colar = run.colar_json();
    assert_eq!(colar["thoughts"], serde_json::json!({"count": 6, "projector": false}));
    assert!(!Path::new(&run.best).join("latent_head.safetensors").exists());
    let answer = run.generate(&[]);
    let (length, tokens) =
        (answer["n_latents"].as_u64().unwrap(), answer["token_ids"].as_array().unwrap().len());
    assert_eq!((answer["cf"].as_str(), (6..=11).contains(&length)), (Some("auto"), true), "{answer}");
    assert_eq!(tokens as u64, length - 6 + 1 + answer["answer_tokens"].as_u64().unwrap());
    assert_eq!(run.generate(&["--trace"])["trace"].as_array().unwrap().len(), 6);
    assert!(run.eval().contains("| Coconut"));
    assert!(run.score()["ce"].as_f64().unwrap() > 0.0);
    run.refuses_factors("coconut");
    run.fails("generate", &["--method", "distill", "q"], 1, "no thoughts of method distill");
    run.fails("generate", &["--method", "colar", "q"], 1, "no latent head");
    // The thoughts are the checkpoint's, not a flag's: without them it is none of its method.
    let path = Path::new(&run.best).join("colar.json");
    let mut colar = run.colar_json();
    colar.as_object_mut().unwrap().remove("thoughts");
    std::fs::write(&path, colar.to_string()).unwrap();
    run.fails("generate", &["q"], 1, "colar.json: thoughts: is missing");
}

#[test]
fn distillation() {
    let run = Run::train("distill", &["--thoughts", "3", "--distill-weight", "5"]);
    for key in ["ce", "teacher_ce", "distill"] {
        for kind in ["train", "val"] {
            assert!(run.metric(kind, key).iter().all(|x| x.is_some_and(|x| x > 0.0)), "{kind} {key}");
        }
    }
    assert_eq!(run.metric("train", "stage"), [None; 6]);
    let [loss, ce, teacher, distill] =
        ["loss", "ce", "teacher_ce", "distill"].map(|key| run.metric("train", key)[5].unwrap());
    assert!((loss - (ce + teacher + 5.0 * distill)).abs() < 1e-6 * loss);
    assert_eq!(run.colar_json()["thoughts"], serde_json::json!({"count": 3, "projector": true}));
    assert!((3..=8).contains(&run.generate(&[])["n_latents"].as_u64().unwrap()));
    assert!(run.eval().contains("| Distill"));
    let score = run.score();
    assert!(["ce", "teacher_ce", "distill"].iter().all(|key| score[key].as_f64().unwrap() > 0.0), "{score}");
    let data = format!("{}/test.jsonl", run.data);
    let table = ok(&run.over("score", &["--data", &data]));
    assert!(table.lines().next().unwrap().ends_with("teacher ce     distill"), "{table}");
    // Few rows to a pass give the figures that many give.
    let few =
        lines(&ok(&run.over("score", &["--data", &data, "--json", "--batch-tokens", "1"]))).pop().unwrap();
    for key in ["ce", "teacher_ce", "distill"] {
        let (a, b) = (few[key].as_f64().unwrap(), score[key].as_f64().unwrap());
        assert!((a - b).abs() < 1e-5 * b, "{key}: {a} and {b}");
    }
    run.refuses_factors("distill");
    run.fails("generate", &["--method", "coconut", "q"], 1, "no thoughts of method coconut");
    std::fs::remove_file(Path::new(&run.best).join("thought_projector.safetensors")).unwrap();
    run.fails("generate", &["q"], 1, "thought_projector.safetensors");
}

#[test]
fn flags_of_other_methods_are_refused() {
    let tmp = tempfile::tempdir().unwrap();
    let cases: &[(&[&str], &str)] = &[
        (&["--stages", "2"], "--stages goes with --method icot or coconut"),
        (&["--method", "cot", "--stage-steps", "2"], "--stage-steps goes with --method icot or coconut"),
        (&["--method", "icot", "--thoughts-per-step", "2"], "--thoughts-per-step goes with --method coconut"),
        (&["--method", "coconut", "--thoughts", "2"], "--thoughts goes with --method distill"),
        (&["--method", "coconut", "--distill-weight", "2"], "--distill-weight goes with --method distill"),
        (&["--method", "icot", "--stages", "0"], "--stages takes 1 to 1024, not 0"),
        (&["--method", "icot", "--stage-steps", "0"], "--stage-steps takes 1 to 1000000000, not 0"),
        (&["--method", "coconut", "--thoughts-per-step", "400"], "--thoughts-per-step times --stages"),
        (&["--method", "distill", "--thoughts", "0"], "--thoughts takes 1 to 1024, not 0"),
        (
            &["--method", "distill", "--teacher-weight", "nan"],
            "--teacher-weight takes finite numbers, not NaN",
        ),
        (&["--method", "icot", "--chunk-labels", "none"], "--chunk-labels goes with --method colar"),
        (&["--method", "cot", "--c-max", "3"], "--c-max goes with --method colar"),
        (&["--method", "distill", "--ce-weight", "2"], "--ce-weight goes with --method cot or"),
        (&["--full", "--lora-r", "7"], "--lora-r goes without --full"),
        (
            &["--latent-loss", "nll", "--latent-noise", "expected"],
            "--latent-noise goes with --latent-loss mse",
        ),
        (&["--c-max", "3", "--cf-list", "1,2"], "--c-max goes without --cf-list"),
        (&["--max-steps", "3", "--epochs", "2"], "--epochs goes without --max-steps"),
        (&["--save-top-k", "2"], "--save-top-k goes with --val"),
        (&["--val", "v", "--save-top-k", "0"], "--save-top-k takes 1 to 1024, not 0"),
        (&["--c-max", "18446744073709551615"], "--c-max takes 1 to 1024, not 18446744073709551615"),
        (&["--threads", "100000"], "--threads takes 0 to 1024, not 100000"),
    ];
    let out = tmp.path().join("out").to_str().unwrap().to_owned();
    for (args, needle) in cases {
        let all = [&["train", "--model", "m", "--data", "d", "--out", &out], *args].concat();
        let (code, _, err) = run(&all);
        assert_eq!(code, 2, "{args:?}: {err}");
        assert!(err.contains(needle), "{args:?} should say {needle}: {err}");
    }
    // The same in a file, where both would count.
    let file = tmp.path().join("both.toml");
    std::fs::write(&file, "model = \"m\"\ndata = \"d\"\nc-max = 3\ncf-list = [1, 2]\n").unwrap();
    let (code, _, err) = run(&["train", "--out", &out, "--config", file.to_str().unwrap()]);
    assert!(code == 2 && err.contains("--c-max goes without --cf-list"), "{err}");
    // A run that would end before its last stage has no checkpoint to choose.
    let (data, model) = materials(tmp.path());
    let short = Run::flags(&data, &model, &out, "icot", &["--stage-steps", "3"]);
    let (code, _, err) = run(&short.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("the last of 3 stages begins after 6 steps, and the run has 6"), "{err}");
}

/// The ablation OC, from the flag to the stored configuration.
#[test]
fn chunk_labels_can_be_left_out() {
    let run = Run::train("colar", &["--chunk-labels", "none", "--latent-head-size", "16", "--c-max", "2"]);
    assert!(run.metric("train", "ce").iter().all(|x| x.is_some_and(f64::is_finite)));
    let config = std::fs::read_to_string(Path::new(&run.best).with_file_name("config.toml")).unwrap();
    assert!(config.contains("chunk-labels = \"none\""), "{config}");
}
