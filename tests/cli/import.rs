//! Checkpoints of the authors' code from the command line: as they lie, and imported.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::common::cli::run;
use crate::common::golden;

fn model() -> String {
    golden("llama-tiny").to_str().unwrap().to_owned()
}

fn replica(method: &str) -> PathBuf {
    golden("lightning").join(method)
}

fn checkpoint(method: &str) -> String {
    replica(method).join("checkpoints/last.ckpt").to_str().unwrap().to_owned()
}

fn questions() -> String {
    golden("../fixtures/data/colar.jsonl").to_str().unwrap().to_owned()
}

fn import(file: &str, out: &Path, more: &[&str]) -> (i32, String, String) {
    run(&[&["import", file, "--model", &model(), "--out", out.to_str().unwrap()][..], more].concat())
}

fn read(path: PathBuf) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A copy of a replica whose settings are changed.
fn changed(dir: &Path, from: &str, to: &str) -> String {
    let text = std::fs::read_to_string(replica("colar").join("hparams.yaml")).unwrap();
    assert!(text.contains(from), "{from}");
    std::fs::write(dir.join("hparams.yaml"), text.replacen(from, to, 1)).unwrap();
    let file = dir.join("last.ckpt");
    std::fs::copy(checkpoint("colar"), &file).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn an_imported_checkpoint_is_the_file() {
    let (tmp, model, questions) = (tempfile::tempdir().unwrap(), model(), questions());
    for method in ["colar", "cot", "distill"] {
        let out = tmp.path().join(method);
        let (code, _, err) = import(&checkpoint(method), &out, &[]);
        assert_eq!(code, 0, "{err}");
        let mut shown = Vec::new();
        for adapter in [checkpoint(method).as_str(), out.to_str().unwrap()] {
            let common = ["--model", &model, "--adapter", adapter];
            let score = [&["score", "--data", &questions, "--json"][..], &common].concat();
            let generate = [&["generate", "--seed", "3", "--json", "How many?"][..], &common].concat();
            let eval = [&["eval", "--data", &questions, "--greedy", "--seeds", "1"][..], &common].concat();
            shown.push([score, generate, eval].map(|args| {
                let (code, out, err) = run(&args);
                assert_eq!(code, 0, "{args:?}: {err}");
                // Times and paths differ.
                let lines = out.lines().filter(|line| line.starts_with('{'));
                lines.map(without_times).collect::<Vec<_>>()
            }));
        }
        assert!(!shown[0][0].is_empty() && !shown[0][1].is_empty());
        assert_eq!(shown[0], shown[1], "{method}");
    }
    let colar = read(tmp.path().join("colar/colar.json"));
    let head = json!({"intermediate_size": 24, "deterministic": false});
    assert_eq!((&colar["embeds_std"], &colar["latent_head"]), (&json!(0.018), &head));
    assert_eq!((&colar["merge"], &colar["method"]), (&json!("sqrt"), &json!("colar")));
    let adapter = read(tmp.path().join("colar/adapter_config.json"));
    assert_eq!((&adapter["r"], &adapter["lora_alpha"]), (&json!(4), &json!(6)));
    assert_eq!(adapter["target_modules"], json!(["q_proj", "v_proj"]));
    let distill = read(tmp.path().join("distill/colar.json"));
    assert_eq!(distill["thoughts"], json!({"count": 6, "projector": true}));
}

/// A line of JSON without what differs from run to run.
fn without_times(line: &str) -> Value {
    let mut value: Value = serde_json::from_str(line).unwrap();
    if let Some(map) = value.as_object_mut() {
        map.retain(|name, _| !name.contains("seconds") && !name.contains("_ms") && name != "time");
    }
    value
}

#[test]
fn training_goes_on_from_it() {
    let tmp = tempfile::tempdir().unwrap();
    let data = tmp.path().join("data");
    let (code, _, err) =
        run(&["data", "synth", "--out", data.to_str().unwrap(), "--train", "8", "--val", "4", "--test", "4"]);
    assert_eq!(code, 0, "{err}");
    let train = data.join("train.jsonl");
    for (method, stored) in [("colar", "colar"), ("cot", "colar"), ("distill", "distill")] {
        let out = tmp.path().join(format!("{method}-on"));
        let flags = "--batch-size 2 --max-steps 2 --lora-r 4 --lora-alpha 6 --threads 1 --out";
        let mut args = vec!["train", "--model"];
        let (model, checkpoint) = (model(), checkpoint(method));
        args.extend([
            model.as_str(),
            "--init",
            &checkpoint,
            "--method",
            stored,
            "--data",
            train.to_str().unwrap(),
        ]);
        args.extend(flags.split(' '));
        args.push(out.to_str().unwrap());
        let (code, _, err) = run(&args);
        assert_eq!(code, 0, "{method}: {err}");
        let colar = read(out.join("best/colar.json"));
        if method == "colar" {
            assert_eq!(colar["embeds_std"], json!(0.018), "the unit that the head was trained with");
        }
        assert_eq!(colar["method"], json!(stored));
    }
}

#[test]
fn what_is_wrong_is_one_line() {
    let tmp = tempfile::tempdir().unwrap();
    let out = tmp.path().join("out");
    let fails = |file: &str, model: &str, code: i32, says: &str| {
        let args = ["import", file, "--model", model, "--out", out.to_str().unwrap()];
        let (got, _, err) = run(&args);
        assert_eq!(got, code, "{err}");
        assert!(err.contains(says) && err.lines().count() == 1, "{says}: {err}");
        assert!(!out.exists(), "{says}: nothing is left");
    };
    let lone = tmp.path().join("a/b/lone.ckpt");
    std::fs::create_dir_all(lone.parent().unwrap()).unwrap();
    std::fs::copy(checkpoint("colar"), &lone).unwrap();
    fails(lone.to_str().unwrap(), &model(), 1, "lone.ckpt: has no hparams.yaml beside it");
    fails(tmp.path().join("absent.ckpt").to_str().unwrap(), &model(), 1, "absent.ckpt: no such");
    let other = golden("qwen3-tiny");
    fails(&checkpoint("colar"), other.to_str().unwrap(), 1, "has shape [");
    fails(golden("lightning").to_str().unwrap(), &model(), 1, "holds neither model.safetensors nor");
    let yaml = |from: &str, to: &str, says: &str| fails(&changed(tmp.path(), from, to), &model(), 1, says);
    yaml("do_lora: true", "do_lora: false", "hparams.yaml: model_kwargs.do_lora: ");
    yaml("sft_method: colar", "sft_method: x", "hparams.yaml: model_kwargs.sft_method: ");
    yaml(
        "sft_method: colar",
        "sft_method: cot",
        "latent_policy.fc.0.bias: is no part of a checkpoint of method cot",
    );
    yaml(
        "lora_alpha: 6",
        "lora_alpha: 6\n    use_dora: true",
        "hparams.yaml: model_kwargs.lora_config: is more than",
    );
    yaml("r: 4", "r: 8", "has shape [4, 64], not [8, 64]");
    yaml("model_kwargs:", "others:", "hparams.yaml: model_kwargs: is missing");
    yaml("model_kwargs:", "- model_kwargs:\n?", "hparams.yaml: is not valid YAML: ");
    yaml("lp_determinisitc: false", "lp_determinisitc: true", "latent_policy.log_std.bias: is no part");
    let own = changed(tmp.path(), "Llama-3.2-1B-Instruct", "mine");
    fails(&own, &model(), 1, "model_kwargs.model_id: \"mine\" is none of those whose embeds_std is known");
    let (code, _, err) = import(&own, &out, &["--embeds-std", "0.07"]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(read(out.join("colar.json"))["embeds_std"], json!(0.07));
    let (code, _, err) = import(&own, &out, &["--embeds-std", "0.07"]);
    assert!(code == 2 && err.contains("is not empty"), "{err}");
    for bad in ["0", "-1", "nan", "x"] {
        assert_eq!(import(&own, &tmp.path().join("bad"), &["--embeds-std", bad]).0, 2, "{bad}");
    }
}

fn codi() -> (String, String) {
    let path = |name: &str| golden("codi").join(name).to_str().unwrap().to_owned();
    (path("model.safetensors"), path("base"))
}

#[test]
fn a_checkpoint_of_codi_becomes_a_model() {
    let tmp = tempfile::tempdir().unwrap();
    let out = tmp.path().join("model");
    let ((file, base), out) = (codi(), out.to_str().unwrap());
    let dir = Path::new(&file).parent().unwrap().to_str().unwrap().to_owned();
    for from in [&file, &dir] {
        let (code, _, err) =
            run(&["import", from, "--model", &base, "--out", out, "--lora-alpha", "8", "--thoughts", "6"]);
        assert_eq!(code, 0, "{err}");
        let first = (from == &file).then(|| std::fs::remove_dir_all(out).unwrap());
        assert!(first.is_some() || from == &dir);
    }
    let rows = read(golden("codi").join("golden.json"));
    let question = rows[0]["question"].as_str().unwrap();
    let flags = ["--greedy", "--max-new-tokens", "8", "--json", question];
    let (code, shown, err) = run(&[&["generate", "--model", out][..], &flags].concat());
    assert_eq!(code, 0, "{err}");
    let shown: Value = serde_json::from_str(shown.lines().next().unwrap()).unwrap();
    assert_eq!(shown["token_ids"], rows[0]["tokens"]);
    let (code, _, err) = run(&["eval", "--model", out, "--data", &questions(), "--greedy", "--seeds", "1"]);
    assert_eq!(code, 0, "{err}");
    // It has no samples of spec section 1 to learn from.
    let (code, _, err) = run(&["score", "--model", out, "--data", &questions()]);
    assert!(code == 2 && err.contains("has the prompts of CODI"), "{err}");
    let train = tmp.path().join("run");
    let args = ["train", "--method", "distill", "--model", out, "--data", &questions(), "--max-steps", "1"];
    let (code, _, err) =
        run(&[&args[..], &["--lora-alpha", "8", "--lora-r", "4", "--out", train.to_str().unwrap()]].concat());
    assert!(code == 2 && !err.is_empty(), "{err}");
}

#[test]
fn what_is_no_checkpoint_of_codi_is_one_line() {
    let tmp = tempfile::tempdir().unwrap();
    let out = tmp.path().join("out");
    let (file, base) = codi();
    let fails = |file: &str, base: &str, more: &[&str], code: i32, says: &str| {
        let args = [&["import", file, "--model", base, "--out", out.to_str().unwrap()][..], more].concat();
        let (got, _, err) = run(&args);
        assert_eq!(got, code, "{err}");
        assert!(err.contains(says) && err.lines().count() == 1, "{says}: {err}");
        assert!(!out.exists(), "{says}: nothing is left");
    };
    fails(&file, &model(), &[], 1, "embed_tokens.weight: has shape [515, 32], not [515, 64]");
    fails(&file, &base, &["--embeds-std", "0.1"], 2, "--embeds-std says nothing");
    fails(&checkpoint("colar"), &model(), &["--thoughts", "3"], 2, "--thoughts says nothing");
    let many = ["import", &file, "--model", &base, "--out", out.to_str().unwrap(), "--thoughts", "5000"];
    let (code, _, err) = run(&many);
    assert!(code == 2 && err.contains("for '--thoughts <N>': it takes 1 to 1024"), "{err}");
    let change = |with: &dyn Fn(String) -> Option<String>| {
        use colar_engine::files::safetensors::{TensorData, save_safetensors};
        use colar_engine::files::weights::Weights;
        let weights = Weights::open_file(Path::new(&file)).unwrap();
        let tensors = weights.names().filter_map(|name| {
            let tensor = weights.tensor(name).unwrap();
            Some((with(name.to_owned())?, tensor.shape().to_vec(), tensor.to_f32_vec()))
        });
        let tensors: Vec<_> = tensors.collect();
        let listed: Vec<_> =
            tensors.iter().map(|(n, s, v)| (n.clone(), s.clone(), TensorData::F32(v))).collect();
        let path = tmp.path().join("changed.safetensors");
        save_safetensors(&path, &listed, &[]).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let without = |part: &'static str| change(&move |name| (!name.contains(part)).then_some(name));
    fails(&without("lora_"), &base, &[], 1, "without LoRA are not supported");
    fails(&without("prj."), &base, &[], 1, "prj.1.weight: is missing");
    fails(&without("prj.3.bias"), &base, &[], 1, "prj.3.bias: is missing");
    let renamed = |from: &'static str, to: &'static str| change(&move |name| Some(name.replace(from, to)));
    fails(&renamed("decoder.", "strange."), &base, &[], 1, "is no part of a checkpoint of CODI");
    fails(
        &renamed("codi.base_model.model.model.embed_tokens", "base_causallm.transformer.wte"),
        &base,
        &[],
        1,
        "is of GPT-2",
    );
    let zero = ["import", &file, "--model", &base, "--out", out.to_str().unwrap(), "--lora-alpha", "0"];
    assert_eq!(run(&zero).0, 2);
}
