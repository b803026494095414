//! `generate`, `score` and `eval` as a user runs them, on a golden model.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use colar_engine::files::weights::Weights;
use serde_json::Value;

use crate::common::{self, golden};

/// The result of a command: exit code, standard output, standard error.
struct Out {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Out {
    /// Standard output of a command that succeeded.
    fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}", self.stderr);
        self.stdout
    }

    /// The lines of standard output, each as JSON.
    fn json_lines(self) -> Vec<Value> {
        self.ok().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    /// Fails with `code`, says `what` in its first line, and prints no result.
    fn fails(&self, code: i32, what: &str) {
        assert_eq!(self.code, code, "{}", self.stderr);
        // The model may have been loaded, and named, before.
        let said = || self.stderr.lines().filter(|l| !l.is_empty() && !l.starts_with("loaded "));
        let first = said().next().unwrap_or_default();
        assert!(first.starts_with("error: ") && first.contains(what), "{}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        assert_eq!(self.stdout, "");
        // One line, but for the hint that the argument parser adds.
        assert!(said().count() == 1 || code == 2, "{}", self.stderr);
    }
}

fn colar_in(dir: &Path, args: &[&str], stdin: &str) -> Out {
    let mut command = Command::new(env!("CARGO_BIN_EXE_colar-engine"));
    let output = command.current_dir(dir).args(args).write_stdin(stdin).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Out { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Runs `command` on llama-tiny and its checkpoint, on the CPU unless `args` name a device.
fn colar(command: &str, args: &[&str]) -> Out {
    let model = golden("llama-tiny");
    let adapter = model.join("adapter");
    let common = [command, "--model", text(&model), "--adapter", text(&adapter), "--threads", "1"];
    let device: &[&str] = if args.contains(&"--device") { &[] } else { &["--device", "cpu"] };
    colar_in(Path::new(env!("CARGO_MANIFEST_DIR")), &[&common, device, args].concat(), "")
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn golden_json(file: &str) -> Value {
    serde_json::from_slice(&std::fs::read(golden("llama-tiny").join(file)).unwrap()).unwrap()
}

/// The golden samples as a data file.
fn data(dir: &Path) -> PathBuf {
    let path = dir.join("data.json");
    std::fs::write(&path, golden_json("sft.json")["samples"].to_string()).unwrap();
    path
}

#[test]
fn generate_gives_the_golden_tokens() {
    let (g, samples) = (golden_json("generate.json"), golden_json("sft.json"));
    let (latents, tokens) = (g["max_latents"].to_string(), g["max_new_tokens"].to_string());
    let mut compared = 0;
    for row in g["rows"].as_array().unwrap().iter().filter(|row| row["separator_bias"] == 0.0) {
        let question = samples["samples"][row["sample"].as_u64().unwrap() as usize]["question"].as_str();
        let question = question.unwrap();
        let cf = row["cf"].to_string();
        let limits = ["--max-latents", &latents, "--max-new-tokens", &tokens];
        let lines =
            colar("generate", &[&["--greedy", "--json", "--cf", &cf], &limits[..], &[question]].concat())
                .json_lines();
        let [line] = lines.as_slice() else { panic!("one question, {} lines", lines.len()) };
        assert_eq!(line["question"], question);
        assert_eq!(line["cf"], row["cf"]);
        assert_eq!(line["n_latents"], row["n_latents"]);
        assert_eq!(line["token_ids"], row["answer_ids"]);
        assert_eq!(line["prompt_tokens"], row["prompt_ids"].as_array().unwrap().len());
        assert!(line["text"].is_string() && (line["answer"].is_string() || line["answer"].is_null()));
        for phase in ["prefill_ms", "latents_ms", "answer_ms"] {
            assert!(line[phase].as_f64().unwrap() >= 0.0, "{phase}");
        }
        compared += 1;
    }
    assert!(compared > 1);
}

#[test]
fn generate_reads_lines_and_each_is_what_it_is_alone() {
    let model = golden("llama-tiny");
    let adapter = model.join("adapter");
    let flags = [
        "--device",
        "cpu",
        "--seed",
        "3",
        "--json",
        "--max-latents",
        "5",
        "--max-new-tokens",
        "4",
        "--cf",
        "1.5",
    ];
    let common = [&["generate", "--model", text(&model), "--adapter", text(&adapter)], &flags[..]].concat();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let lines = colar_in(here, &[&common[..], &["--batch-size", "2"]].concat(), "1+1?\n\nTom has 3.\nAnd 7?")
        .json_lines();
    assert_eq!(lines.len(), 3);
    for line in lines {
        assert_eq!(line["cf"], 1.5);
        let question = line["question"].as_str().unwrap();
        let alone = colar_in(here, &[&common[..], &[question]].concat(), "").json_lines().remove(0);
        assert_eq!((&alone["token_ids"], &alone["n_latents"]), (&line["token_ids"], &line["n_latents"]));
    }
}

/// A byte-order mark is no part of the first question, and a line that is no text ends the answers after those before it.
#[test]
fn standard_input_is_read_line_by_line() {
    let model = golden("llama-tiny");
    let args =
        ["generate", "--model", text(&model), "--device", "cpu", "--method", "plain", "--greedy", "--json"];
    let ask = |stdin: &[u8]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_colar-engine"));
        let output = command.args(args).args(["--batch-size", "8"]).write_stdin(stdin).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Out { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
    };
    let lines = ask("\u{feff}1+1?\r\n\u{feff}2+2?".as_bytes()).json_lines();
    let questions: Vec<&str> = lines.iter().map(|line| line["question"].as_str().unwrap()).collect();
    assert_eq!(questions, ["1+1?", "\u{feff}2+2?"]);
    let broken = ask(b"1+1?\n\n2+2?\nca\xff\n3+3?\n");
    assert_eq!(broken.code, 1, "{}", broken.stderr);
    assert_eq!(broken.stderr.lines().last().unwrap(), "error: standard input, line 4: the text is not UTF-8");
    assert_eq!(broken.stdout.lines().count(), 2, "{}", broken.stdout);
}

/// The answer of `generate` to a question that comes after all weights of its model were cut short: exit code, standard
/// output and the lines of standard error after the one on the loaded model.
#[cfg(target_os = "linux")]
fn generate_without_weights(model: &Path, flags: &[&str]) -> (Option<i32>, String, String) {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::process::Stdio;
    copy_with_adapter(model);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_colar-engine"));
    command.args(["generate", "--model", text(model), "--device", "cpu", "--batch-size", "1"]).args(flags);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let mut loaded = String::new();
    while !loaded.contains("loaded ") {
        loaded.clear();
        assert!(errors.read_line(&mut loaded).unwrap() > 0, "it ended before the model was loaded");
    }
    for file in ["model.safetensors", "adapter/adapter_model.safetensors", "adapter/latent_head.safetensors"]
    {
        std::fs::OpenOptions::new().write(true).open(model.join(file)).unwrap().set_len(0).unwrap();
    }
    // The child may be gone before it has read this.
    let _ = child.stdin.take().unwrap().write_all(b"1+1?\n");
    let (mut out, mut rest) = (String::new(), String::new());
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    errors.read_to_string(&mut rest).unwrap();
    (child.wait().unwrap().code(), out, rest)
}

/// Weights that are cut short under a running process end it with a line that names them.
#[cfg(target_os = "linux")]
#[test]
fn weights_that_go_away_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (code, out, err) = generate_without_weights(dir.path(), &["--method", "plain"]);
    let weights = dir.path().join("model.safetensors");
    let named =
        format!("error: {}: was cut short, or its disk fails, while it was in use", weights.display());
    assert_eq!((code, err.lines().last()), (Some(1), Some(named.as_str())), "{out}{err}");
}

/// Weights that were read are no longer needed in their files, those of a checkpoint as well as the model's.
#[cfg(target_os = "linux")]
#[test]
fn without_mmap_weights_may_go_away() {
    let dir = tempfile::tempdir().unwrap();
    let adapter = dir.path().join("adapter");
    for lora in ["apart", "merge"] {
        let flags = ["--adapter", text(&adapter), "--lora", lora, "--greedy", "--max-latents", "3"];
        let flags = [&flags[..], &["--max-new-tokens", "5", "--no-mmap", "--json"]].concat();
        copy_with_adapter(dir.path());
        let model = ["generate", "--model", text(dir.path()), "--device", "cpu", "--batch-size", "1"];
        let want = colar_in(dir.path(), &[&model[..], &flags[..], &["1+1?"]].concat(), "").ok();
        let (code, out, err) = generate_without_weights(dir.path(), &flags);
        assert_eq!(code, Some(0), "{err}");
        let tokens = |line: &str| serde_json::from_str::<Value>(line).unwrap()["token_ids"].clone();
        assert_eq!(tokens(&out), tokens(&want), "{lora}");
    }
}

/// Accuracy needs answers alone; losses need the steps too.
#[test]
fn questions_without_steps_are_evaluated() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data.jsonl");
    std::fs::write(&data, "{\"question\": \"1+1?\", \"answer\": 2}\n").unwrap();
    let short = ["--greedy", "--cf", "2", "--max-latents", "2", "--max-new-tokens", "2"];
    let table = colar("eval", &[&["--data", text(&data)], &short[..]].concat()).ok();
    assert!(table.contains("| CoLaR c = 2"), "{table}");
    let out = colar("score", &["--data", text(&data)]);
    assert!(
        out.code == 1 && out.stderr.contains("data.jsonl, line 1: missing field `steps`"),
        "{}",
        out.stderr
    );
}

/// The records of a data set are asked for what they ask; other JSON is no question.
#[test]
fn generate_takes_records_and_refuses_other_json() {
    let (model, here) = (golden("llama-tiny"), Path::new(env!("CARGO_MANIFEST_DIR")));
    let adapter = model.join("adapter");
    let args =
        ["generate", "--model", text(&model), "--adapter", text(&adapter), "--device", "cpu", "--json"];
    let args = [&args[..], &["--greedy", "--max-latents", "3", "--max-new-tokens", "2"]].concat();
    let input = "{\"question\": \"1+1?\", \"steps\": [], \"answer\": \"2\"}\nAnd 7?\n";
    let asked: Vec<Value> =
        colar_in(here, &args, input).json_lines().into_iter().map(|l| l["question"].clone()).collect();
    assert_eq!(asked, ["1+1?", "And 7?"]);
    for (input, said) in [
        (
            "1+1?\n{\"problem\": \"1+1?\"}\n",
            "standard input, line 2: a JSON record without the field `question`",
        ),
        ("[\n{\"question\": \"1+1?\"}\n]\n", "standard input, line 1: JSON over several lines"),
    ] {
        let out = colar_in(here, &args, input);
        assert!(out.code == 1 && out.stderr.contains(said), "{}", out.stderr);
    }
}

#[test]
fn answers_that_were_cut_off_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let short =
        ["--data", text(&data), "--greedy", "--cf", "2", "--max-latents", "2", "--max-new-tokens", "1"];
    let table = colar("eval", &short).ok();
    assert!(table.contains("| cut off (%) |"), "{table}");
    let rows: Value = serde_json::from_str(&colar("eval", &[&short[..], &["--json"]].concat()).ok()).unwrap();
    assert!(rows[0]["unfinished"].as_f64().unwrap() > 0.0, "{rows}");
}

#[test]
fn a_flag_that_does_not_exist_is_told_with_the_one_that_was_meant() {
    for (args, meant) in [
        (&["eval", "--n", "5"][..], "--limit"),
        (&["eval", "--runs", "5"], "--seeds"),
        (&["eval", "--bacth-size", "5"], "--batch-size"),
        (&["train", "--learning-rate", "1"], "--lr"),
        (&["experiment", "table1", "--output", "y"], "--out"),
    ] {
        let out = colar_in(Path::new(env!("CARGO_MANIFEST_DIR")), args, "");
        out.fails(2, "unexpected argument");
        let hint = out.stderr.lines().find(|l| l.contains("similar argument")).unwrap_or_default();
        assert!(hint.contains(&format!("'{meant}'")), "{args:?}: {}", out.stderr);
    }
}

#[test]
fn a_run_is_taken_by_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    std::fs::create_dir(&run).unwrap();
    let ask = |more: &[&str]| {
        let args =
            ["generate", "--device", "cpu", "--greedy", "--max-new-tokens", "2", "1+1?", "--run", text(&run)];
        colar_in(dir.path(), &[&args, more].concat(), "")
    };
    ask(&[]).fails(1, "no run: it has neither a config.toml");
    std::fs::write(run.join("config.toml"), format!("model = {:?}\n", text(&golden("llama-tiny")))).unwrap();
    ask(&[]).fails(1, "the run has no checkpoint yet");
    std::fs::create_dir(run.join("best")).unwrap();
    for entry in std::fs::read_dir(golden("llama-tiny").join("adapter")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, run.join("best").join(path.file_name().unwrap())).unwrap();
    }
    let out = ask(&[]);
    assert!(out.stderr.contains(&format!("with {}", text(&run.join("best")))), "{}", out.stderr);
    out.ok();
    ask(&["--model", "x"]).fails(2, "cannot be used with");
}

/// Files of old Macs end their lines by carriage returns alone.
#[test]
fn carriage_returns_end_lines() {
    let model = golden("llama-tiny");
    let common = ["--device", "cpu", "--greedy", "--json", "--max-latents", "2", "--max-new-tokens", "2"];
    let run = |stdin: &[u8]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_colar-engine"));
        command.args(["generate", "--model", text(&model), "--adapter", text(&model.join("adapter"))]);
        let out = command.args(common).write_stdin(stdin).output().unwrap();
        let questions: Vec<String> = String::from_utf8(out.stdout)
            .unwrap()
            .lines()
            .map(|l| serde_json::from_str::<Value>(l).unwrap()["question"].as_str().unwrap().to_owned())
            .collect();
        (out.status.code().unwrap(), questions, String::from_utf8(out.stderr).unwrap())
    };
    for ends in [&b"1+1?\r2+2?\r"[..], b"1+1?\r\n2+2?", b"1+1?\n2+2?\n"] {
        let (code, questions, err) = run(ends);
        assert_eq!((code, questions), (0, vec!["1+1?".to_owned(), "2+2?".to_owned()]), "{err}");
    }
}

#[test]
fn generate_shows_what_latents_say() {
    let short = ["--greedy", "--max-latents", "3", "--max-new-tokens", "2"];
    let line =
        colar("generate", &[&short[..], &["--json", "--trace", "1+1?"]].concat()).json_lines().remove(0);
    let trace = line["trace"].as_array().unwrap();
    assert_eq!(trace.len() as u64, line["n_latents"].as_u64().unwrap());
    let cosines: Vec<f64> =
        trace[0].as_array().unwrap().iter().map(|t| t["cosine"].as_f64().unwrap()).collect();
    assert!(cosines.len() > 1 && cosines.is_sorted_by(|a, b| a >= b), "{cosines:?}");
    let shown = colar("generate", &[&short[..], &["--trace", "1+1?"]].concat()).ok();
    assert_eq!(shown.lines().filter(|l| l.starts_with("latent ")).count(), trace.len(), "{shown}");
    let ends: Vec<f64> =
        line["end_probabilities"].as_array().unwrap().iter().map(|p| p.as_f64().unwrap()).collect();
    assert!(ends.len() == trace.len() && ends.iter().all(|p| (0.0..=1.0).contains(p)), "{ends:?}");
    assert!(shown.lines().next().unwrap().ends_with(&format!("  ends {:.2}", ends[0])), "{shown}");
}

#[test]
fn a_page_shows_the_reasoning() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("page.html");
    let page = |more: &[&str]| {
        let short = ["--greedy", "--max-new-tokens", "2", "--json", "--html", path.to_str().unwrap()];
        let lines = colar("generate", &[&short[..], more].concat()).json_lines();
        (lines, std::fs::read_to_string(&path).unwrap())
    };
    // A page needs no trace beside it, and the lines have none that was not asked for.
    let (lines, html) = page(&["--max-latents", "3", "1 < 2 & \"3\"?", "1+1?"]);
    assert!(lines.iter().all(|line| line.get("trace").is_none() && line.get("end_probabilities").is_none()));
    let latents: u64 = lines.iter().map(|line| line["n_latents"].as_u64().unwrap()).sum();
    assert_eq!(html.matches("<div class=\"latent\">").count() as u64, latents);
    assert_eq!(html.matches("<span>ends</span>").count() as u64, latents);
    assert_eq!((html.matches("<section>").count(), html.matches("<span class=\"word\">").count()), (2, 0));
    assert!(html.contains("<h2>1 &lt; 2 &amp; &quot;3&quot;?</h2>") && !html.contains("QUESTIONS"), "{html}");
    // Words in place of latents.
    let (lines, html) = page(&["--method", "cot", "--max-cot-tokens", "3", "1+1?"]);
    let words = html.matches("<span class=\"word\">").count() as u64;
    assert_eq!(
        (Some(words), html.matches("<div class=\"latent\">").count()),
        (lines[0]["n_latents"].as_u64(), 0)
    );
}

#[test]
fn plain_continues_the_text_without_template() {
    let line = colar("generate", &["--method", "plain", "--json", "--greedy", "1+1?"]).json_lines().remove(0);
    assert!(line["cf"].is_null());
    assert_eq!(line["n_latents"], 0);
    let asked = colar("generate", &["--method", "cot", "--json", "--greedy", "1+1?"]).json_lines().remove(0);
    assert_eq!(asked["cf"], 1);
    assert!(line["prompt_tokens"].as_u64() < asked["prompt_tokens"].as_u64());
}

/// Values of the golden cases: the likelihood loss and the entropy as they stand there, the expected
/// squared error from their means and deviations.
#[test]
fn score_gives_the_golden_losses() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let vectors = Weights::open_file(&golden("llama-tiny").join("sft.safetensors")).unwrap();
    let close = |got: &Value, want: f64, what: &str| {
        let got = got.as_f64().unwrap();
        assert!((got - want).abs() < 1e-5 * want.abs(), "{what}: {got} instead of {want}");
    };
    let mut compared = 0;
    for cf in ["1", "2", "3", "5"] {
        let lines = colar("score", &["--data", text(&data), "--cf", cf, "--json"]).json_lines();
        assert_eq!(lines.len(), 3);
        for (i, line) in lines[..2].iter().enumerate() {
            let key = |loss: &str| format!("{loss}.{i}.cf{cf}");
            let Some(nll) = common::scalar(&vectors, &format!("{}.latent_loss", key("nll"))) else {
                continue;
            };
            close(&line["latent_nll"], nll, &key("nll"));
            let mse = key("mse");
            let entropy = common::scalar(&vectors, &format!("{mse}.entropy")).unwrap();
            close(&line["entropy"], entropy, &format!("{mse} entropy"));
            let vector = |name: &str| vectors.tensor(&format!("{mse}.{name}")).unwrap().to_f32_vec();
            let (mean, log_std, target) = (vector("latent_mean"), vector("latent_log_std"), vector("target"));
            let expected: f64 = (0..mean.len())
                .map(|j| f64::from(mean[j] - target[j]).powi(2) + (2.0 * f64::from(log_std[j])).exp())
                .sum();
            close(&line["latent_mse"], expected / mean.len() as f64, &mse);
            if cf == "1" {
                // Chunks of one token leave nothing to draw.
                let ce = common::scalar(&vectors, &format!("{mse}.ce_loss")).unwrap();
                close(&line["ce"], ce, &format!("{mse} ce"));
            }
            compared += 1;
        }
        let total = &lines[2];
        assert_eq!(total["total"], true);
        for (loss, positions) in [("ce", "ce_positions"), ("latent_nll", "latent_positions")] {
            let count = |l: &Value| l[positions].as_f64().unwrap();
            let sum: f64 = lines[..2].iter().map(|l| l[loss].as_f64().unwrap() * count(l)).sum();
            assert_eq!(count(total), lines[..2].iter().map(count).sum::<f64>());
            close(&total[loss], sum / count(total), loss);
        }
    }
    assert_eq!(compared, 6);
    let table = colar("score", &["--data", text(&data), "--cf", "2"]).ok();
    assert!(
        table.contains("latent nll") && table.lines().last().unwrap().starts_with("all of 2 samples"),
        "{table}"
    );
}

#[test]
fn a_bare_model_is_scored_without_latents() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let model = golden("llama-tiny");
    let lines = colar_in(
        dir.path(),
        &["score", "--device", "cpu", "--model", text(&model), "--data", text(&data), "--json"],
        "",
    )
    .json_lines();
    for line in lines {
        assert!(line["latent_nll"].is_null() && line["latent_mse"].is_null() && line["entropy"].is_null());
        assert!(line["ce"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn eval_prints_a_table_and_draws_it() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let svg = dir.path().join("plot.svg");
    let short = ["--data", text(&data), "--max-latents", "4", "--max-new-tokens", "3"];
    let written = ["--data", text(&data), "--max-new-tokens", "3"];
    let json = ["--cf", "2,auto", "--seeds", "2", "--json", "--plot", text(&svg)];
    let rows: Value = serde_json::from_str(&colar("eval", &[&short[..], &json].concat()).ok()).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 2);
    assert_eq!((&rows[0]["cf"], &rows[1]["cf"]), (&Value::from(2), &Value::from("auto")));
    for row in rows.as_array().unwrap() {
        assert_eq!((&row["method"], &row["n"], &row["seeds"]), (&"colar".into(), &2.into(), &2.into()));
        assert!(row["accuracy"].as_f64().unwrap() <= 1.0 && row["accuracy_ci"].is_f64());
        assert!((1.0..=4.0).contains(&row["mean_length"].as_f64().unwrap()));
    }
    assert!(std::fs::read_to_string(&svg).unwrap().contains("c = auto"));
    let table = colar("eval", &[&short[..], &["--greedy", "--limit", "1", "--cf", "3"]].concat()).ok();
    assert_eq!(table.lines().count(), 3, "{table}");
    assert!(table.contains("CoLaR c = 3") && !table.contains('±'), "{table}");
    let cot = ["--method", "cot", "--max-cot-tokens", "5", "--seeds", "1"];
    assert!(colar("eval", &[&written[..], &cot].concat()).ok().contains("| CoT"));
    // A model that says no `Answer:` has one by the authors' rule alone: its whole text.
    let said = colar(
        "generate",
        &["--cf", "2", "--greedy", "--json", "--max-latents", "4", "--max-new-tokens", "3", "q"],
    );
    let said = said.json_lines().remove(0);
    assert!(said["answer"].is_null());
    let own = dir.path().join("own.jsonl");
    let gold = serde_json::json!({"question": "q", "steps": [], "answer": said["text"].as_str().unwrap()});
    std::fs::write(&own, format!("{gold}\n")).unwrap();
    for (rule, accuracy) in [("last", 0.0), ("paper", 1.0)] {
        let args = [
            "--data",
            text(&own),
            "--max-latents",
            "4",
            "--max-new-tokens",
            "3",
            "--greedy",
            "--cf",
            "2",
            "--json",
        ];
        let rows = colar("eval", &[&args[..], &["--answer-rule", rule]].concat()).ok();
        let rows: Value = serde_json::from_str(&rows).unwrap();
        assert_eq!(rows[0]["accuracy"], accuracy, "{rule}");
    }
    let math = ["--greedy", "--cf", "2", "--verifier", "math"];
    assert!(colar("eval", &[&short[..], &math].concat()).ok().contains("| CoLaR c = 2"));
}

#[test]
fn bad_usage_is_told_in_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let data = text(&data);
    for (command, args, what) in [
        ("generate", &["--cf", "0", "q"][..], "--cf"),
        ("generate", &["--cf", "-2", "q"], "--cf"),
        ("generate", &["--cf", "fast", "q"], "--cf"),
        ("generate", &["--temperature", "-1", "q"], "it takes numbers of at least 0"),
        ("generate", &["--latent-temperature", "nan", "q"], "--latent-temperature"),
        ("generate", &["--top-p", "0", "q"], "top-p"),
        ("generate", &["--max-latents", "0", "q"], "--max-latents"),
        ("generate", &["--max-new-tokens", "18446744073709551615", "q"], "--max-new-tokens"),
        ("generate", &["--greedy", "--temperature", "1", "q"], "--greedy"),
        ("generate", &[], "no question"),
        ("generate", &["--max-cot-tokens", "3", "q"], "--max-cot-tokens goes with --method cot or"),
        (
            "generate",
            &["--method", "cot", "--max-latents", "3", "q"],
            "--max-latents goes with --method colar",
        ),
        ("generate", &["--method", "plain", "--trace", "q"], "--trace goes with --method colar or"),
        ("generate", &["--method", "plain", "--html", "page.html", "q"], "--html shows reasoning"),
        ("generate", &["--method", "plain", "--cf", "2", "q"], "--cf goes with --method colar"),
        ("generate", &["--cf", "1025", "q"], "numbers above 0 and at most 1024"),
        ("generate", &["--threads", "100000", "q"], "--threads"),
        (
            "eval",
            &["--data", data, "--temperature", "0", "--top-p", "0.5"],
            "--top-p goes with --temperature other than 0",
        ),
        ("eval", &["--data", data, "--seeds", "18446744073709551615"], "it takes 1 to 1000"),
        ("eval", &["--data", data, "--cf", "2,x"], "--cf"),
        ("eval", &["--data", data, "--greedy", "--seeds", "3"], "--seeds"),
        ("eval", &["--data", data, "--method", "cot", "--cf", "2"], "cot"),
        ("eval", &["--data", data, "--batch-size", "0"], "--batch-size"),
        ("eval", &["--data", data, "--verifier", "maths"], "--verifier"),
        ("score", &["--data", data, "--cf", "0"], "--cf"),
        ("score", &["--data", data, "--cf", "1.5"], "--cf"),
        ("score", &["--data", data, "--method", "cot", "--cf", "2"], "cot"),
    ] {
        colar(command, args).fails(2, what);
    }
    // No model given, and no run to take one from.
    colar_in(dir.path(), &["generate", "q"], "").fails(2, "colar-engine train");
    let adapter = ["generate", "--adapter", data, "q"];
    let out = colar_in(dir.path(), &adapter, "");
    assert_eq!(out.code, 2, "{}", out.stderr);
    assert!(out.stderr.contains("--model"), "{}", out.stderr);
}

/// `--device cuda` works, or one line says what it lacks: nvcc in the build, a driver, a GPU that is new enough.
#[test]
fn a_missing_gpu_is_told_in_a_line() {
    let out = colar("generate", &["--device", "cuda", "--greedy", "q"]);
    if out.code != 0 {
        out.fails(1, "cuda");
    }
    let dir = tempfile::tempdir().unwrap();
    let out = colar_in(dir.path(), &["train", "--device", "cpu", "--dtype", "bf16"], "");
    out.fails(2, "--dtype bf16");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "it left something");
}

/// `--device auto` always answers; where it takes the CPU in spite of a driver, it says why in a line, and where
/// there is nothing to say it is quiet.
#[test]
fn the_default_device_answers_everywhere() {
    let out = colar("generate", &["--device", "auto", "--greedy", "--max-latents", "2", "q"]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    let said: Vec<&str> = out.stderr.lines().filter(|l| !l.starts_with("loaded ")).collect();
    assert!(said.iter().all(|l| l.contains("running on the CPU: cuda")) && said.len() <= 1, "{}", out.stderr);
}

/// The CPU computes in float32 alone, with the adapter in the weights or beside them.
#[test]
fn arithmetic_and_adapter_are_flags() {
    for command in ["generate", "eval", "score"] {
        let asked = if command == "generate" { ["q"].as_slice() } else { ["--data", "absent"].as_slice() };
        let wrong = colar(command, &[&["--device", "cpu", "--dtype", "f16"], asked].concat());
        wrong.fails(2, "'--dtype <DTYPE>'");
    }
    colar("generate", &["--device", "cpu", "--dtype", "bf16", "q"]).fails(2, "--dtype bf16");
    let short = ["--greedy", "--json", "--max-latents", "3", "--max-new-tokens", "4", "q"];
    let tokens = |flags: &[&str]| {
        let line = colar("generate", &[flags, &short].concat()).json_lines().remove(0);
        (line["token_ids"].clone(), line["n_latents"].clone())
    };
    let apart = tokens(&["--device", "cpu", "--dtype", "f32", "--lora", "apart"]);
    assert_eq!(tokens(&["--lora", "merge"]), apart);
    if cfg!(cuda_host) {
        assert_eq!(tokens(&["--device", "cuda-host", "--dtype", "f32"]), apart);
        assert_eq!(
            colar("generate", &[&["--device", "cuda-host", "--dtype", "bf16"][..], &short].concat()).code,
            0
        );
    }
}

/// Numbers that stop being numbers end a generation, whatever the device and the temperature, and the likely cause is
/// named.
#[test]
fn logits_that_are_not_finite_are_an_error() {
    let mut devices = vec!["cpu"];
    devices.extend(cfg!(cuda_host).then_some("cuda-host"));
    for device in devices {
        for temperature in ["0", "1"] {
            let args = [
                "Tom has 3.",
                "--device",
                device,
                "--temperature",
                temperature,
                "--latent-temperature",
                "1e38",
            ];
            let out = colar("generate", &args);
            let last = out.stderr.lines().last().unwrap();
            assert_eq!((out.code, out.stdout.as_str()), (1, ""), "{device}: {}", out.stderr);
            assert!(last.starts_with("error: request 0: after "), "{device}: {last}");
            assert!(
                last.contains("the logits are not finite") && last.contains("--latent-temperature"),
                "{last}"
            );
        }
    }
    // A weight that is no number is named, by whatever computes with it or copies it.
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    copy_model(&golden("llama-tiny"), &model);
    let weights = model.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let names: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let name = "model.layers.1.mlp.up_proj.weight";
    let at = 8 + header + names[name]["data_offsets"][0].as_u64().unwrap() as usize;
    // The high bytes of a NaN, in float32 as in bfloat16.
    bytes[at..at + 4].copy_from_slice(&[0xc0, 0x7f, 0xc0, 0x7f]);
    std::fs::write(&weights, bytes).unwrap();
    let data = data(dir.path());
    let model = text(&model);
    for args in [
        &["generate", "--model", model, "--device", "cpu", "Tom has 3."][..],
        &["generate", "--model", model, "--device", "cpu", "--greedy", "Tom has 3."],
        &["eval", "--model", model, "--device", "cpu", "--greedy", "--data", text(&data)],
        &["score", "--model", model, "--device", "cpu", "--data", text(&data)],
        &[
            "train",
            "--model",
            model,
            "--device",
            "cpu",
            "--data",
            text(&data),
            "--max-steps",
            "1",
            "--out",
            "run",
        ],
        &["export", "--model", model, "--out", "exported"],
    ] {
        let out = colar_in(dir.path(), args, "");
        let last = out.stderr.lines().last().unwrap();
        assert!(
            out.code == 1 && last.replace(':', "").contains(&format!("{name} holds NaN")),
            "{args:?}: {}",
            out.stderr
        );
    }
    assert!(!dir.path().join("exported").exists());
}

fn copy_model(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
}

/// Copies llama-tiny and its checkpoint.
fn copy_with_adapter(to: &Path) {
    let model = golden("llama-tiny");
    copy_model(&model, to);
    copy_model(&model.join("adapter"), &to.join("adapter"));
}

/// A directory without a checkpoint is an error and not the bare model; that of a run means its best one.
#[test]
fn a_directory_given_for_a_checkpoint_must_have_one() {
    let dir = tempfile::tempdir().unwrap();
    let model = golden("llama-tiny");
    let run = dir.path().join("run");
    copy_model(&model.join("adapter"), &run.join("best"));
    let ask = |adapter: &Path| {
        let args = [
            "generate",
            "--model",
            text(&model),
            "--adapter",
            text(adapter),
            "--device",
            "cpu",
            "--greedy",
            "1+1?",
        ];
        colar_in(dir.path(), &args, "")
    };
    let of_run = ask(&run);
    assert!(of_run.stderr.contains(&format!("with {}", run.join("best").display())), "{}", of_run.stderr);
    assert_eq!(of_run.ok(), ask(&model.join("adapter")).ok());
    let above = ask(dir.path());
    above.fails(1, "no checkpoint");
    assert!(above.stderr.contains(text(&run.join("best"))), "{}", above.stderr);
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    ask(&dir.path().join("empty")).fails(1, "no checkpoint");
}

/// An adapter that fits may still be that of another model, which its name shows.
#[test]
fn the_model_of_an_adapter_is_named_where_it_is_another() {
    let dir = tempfile::tempdir().unwrap();
    let adapter = dir.path().join("adapter");
    copy_model(&golden("llama-tiny").join("adapter"), &adapter);
    let config = adapter.join("adapter_config.json");
    let model = golden("llama-tiny");
    let loaded = |base: &str| {
        let mut json: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
        json["base_model_name_or_path"] = base.into();
        std::fs::write(&config, json.to_string()).unwrap();
        let args =
            ["generate", "--model", text(&model), "--adapter", text(&adapter), "--device", "cpu", "--greedy"];
        let out = colar_in(dir.path(), &[&args[..], &["--max-latents", "2", "1+1?"]].concat(), "");
        assert_eq!(out.code, 0, "{}", out.stderr);
        out.stderr.lines().find(|line| line.starts_with("loaded ")).unwrap().to_owned()
    };
    assert!(loaded("meta-llama/Llama-3.2-1B").contains(", an adapter of meta-llama/Llama-3.2-1B, on cpu"));
    assert!(!loaded("someone/llama-tiny").contains("an adapter of"));
}

#[test]
fn files_that_do_not_fit_are_told_in_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let (model, other) = (golden("llama-tiny"), golden("qwen2-tiny").join("adapter"));
    let absent = dir.path().join("absent");
    let generate = |model: &Path, adapter: &Path| {
        colar_in(dir.path(), &["generate", "--model", text(model), "--adapter", text(adapter), "q"], "")
    };
    generate(&absent, &model.join("adapter")).fails(1, "absent: no such directory");
    generate(&model, &absent).fails(1, "absent: no such directory");
    generate(&model, &other).fails(1, "adapter_model.safetensors, tensor ");

    // The same tokenizer with another spelling of the separator.
    let renamed = dir.path().join("renamed");
    std::fs::create_dir(&renamed).unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer_config.json"] {
        std::fs::copy(model.join(file), renamed.join(file)).unwrap();
    }
    let tokenizer = std::fs::read_to_string(model.join("tokenizer.json")).unwrap();
    std::fs::write(renamed.join("tokenizer.json"), tokenizer.replace("\"###\"", "\"@@@\"")).unwrap();
    generate(&renamed, &model.join("adapter")).fails(1, "###");

    let empty = dir.path().join("empty.jsonl");
    std::fs::write(&empty, "\n").unwrap();
    colar("eval", &["--data", text(&empty)]).fails(1, "empty.jsonl: the data set is empty");
    colar("score", &["--data", text(&empty)]).fails(1, "empty.jsonl: the data set is empty");
    colar("score", &["--data", text(&absent)]).fails(1, "absent");
    let bare = ["generate", "--model", text(&model), "--method", "colar", "q"];
    colar_in(dir.path(), &bare, "").fails(1, "no latent head");
}

/// With neither `--model` nor `--adapter` the newest run under `runs/` is taken.
#[test]
fn the_newest_run_is_the_default() {
    let dir = tempfile::tempdir().unwrap();
    let (model, run) = (golden("llama-tiny"), dir.path().join("runs/one"));
    let copy = |from: &Path, to: &Path, files: &[&str]| {
        std::fs::create_dir_all(to).unwrap();
        for file in files {
            std::fs::copy(from.join(file), to.join(file)).unwrap();
        }
    };
    copy(
        &model,
        &run.join("model"),
        &["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"],
    );
    let files = ["adapter_config.json", "adapter_model.safetensors", "latent_head.safetensors", "colar.json"];
    copy(&model.join("adapter"), &run.join("colar/best"), &files);
    let args = ["--device", "cpu", "--greedy", "--json", "--max-latents", "3", "q"];
    let newest = colar_in(dir.path(), &[&["generate"], &args[..]].concat(), "").json_lines().remove(0);
    let named = colar("generate", &args).json_lines().remove(0);
    assert_eq!((&newest["token_ids"], &newest["n_latents"]), (&named["token_ids"], &named["n_latents"]));
}
