//! A merged checkpoint answers as the checkpoint over its model does. `tests/export/check_export.py` asks transformers.

use std::path::Path;

use colar_engine::files::weights::Weights;
use serde_json::Value;

use crate::common::cli::run;
use crate::common::golden;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Tokens and numbers of latents of greedy answers.
fn answers(model: &[&str]) -> Vec<(Value, Value)> {
    let args = ["generate", "--device", "cpu", "--threads", "1", "--greedy", "--json", "--max-latents", "5"];
    let questions = ["--max-new-tokens", "6", "Tom has 3 boxes with 24 pens each.", "1+1?"];
    let (code, out, err) = run(&[&args[..], model, &questions].concat());
    assert_eq!(code, 0, "{err}");
    let lines = out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.map(|line| (line["token_ids"].clone(), line["n_latents"].clone())).collect()
}

#[test]
fn an_exported_checkpoint_answers_as_it_did() {
    let tmp = tempfile::tempdir().unwrap();
    let model = golden("llama-tiny");
    let adapter = model.join("adapter");
    let from = ["--model", text(&model), "--adapter", text(&adapter)];
    let want = answers(&[&from[..], &["--lora", "merge"]].concat());
    assert!(want.iter().any(|(_, latents)| latents.as_u64() > Some(0)));
    for (name, more, files) in [
        ("whole", &["--dtype", "f32"][..], 1),
        ("shards", &["--dtype", "f32", "--max-shard-size", "20KB"], 2),
    ] {
        let out = tmp.path().join(name);
        let (code, _, err) = run(&[&["export", "--out", text(&out)], &from[..], more].concat());
        assert_eq!(code, 0, "{err}");
        assert!(err.contains("the adapter merged") && err.contains("reasons in words only"), "{err}");
        // The directory stands for model and checkpoint, its latent head among them.
        assert_eq!(answers(&["--model", text(&out)]), want, "{name}");
        assert_eq!(json(&out.join("config.json"))["torch_dtype"], "float32");
        let weights = Weights::open(&out).unwrap();
        let index = out.join("model.safetensors.index.json");
        assert_eq!(index.exists(), files > 1, "{name}");
        if index.exists() {
            let index = json(&index);
            assert_eq!(index["metadata"]["total_size"], weights.total_bytes());
            let map = index["weight_map"].as_object().unwrap();
            assert_eq!(map.len(), weights.names().count());
            let mut names: Vec<&str> = map.values().map(|file| file.as_str().unwrap()).collect();
            names.sort_unstable();
            names.dedup();
            assert!(names.len() >= files && names[0].starts_with("model-00001-of-"), "{names:?}");
        }
        // What is there already is left alone.
        let (code, _, err) = run(&[&["export", "--out", text(&out)], &from[..]].concat());
        assert!(code == 2 && err.contains("exists already: give --out another name"), "{err}");
    }
}

/// A file of the authors' code is exported as a checkpoint directory is: adapter, latent head and settings.
#[test]
fn a_file_of_the_authors_code_is_exported() {
    let tmp = tempfile::tempdir().unwrap();
    let model = golden("llama-tiny");
    let file = golden("lightning/colar/checkpoints/last.ckpt");
    let from = ["--model", text(&model), "--adapter", text(&file)];
    let want = answers(&[&from[..], &["--lora", "merge"]].concat());
    assert!(want.iter().any(|(_, latents)| latents.as_u64() > Some(0)));
    let out = tmp.path().join("out");
    let (code, _, err) = run(&[&["export", "--out", text(&out)], &from[..], &["--dtype", "f32"]].concat());
    assert!(
        code == 0 && err.contains("the adapter merged") && err.contains("reasons in words only"),
        "{err}"
    );
    assert_eq!(answers(&["--model", text(&out)]), want);
    assert_eq!(json(&out.join("colar.json"))["method"], "colar");
    assert!(!out.join("adapter_config.json").exists());
}

#[test]
fn bfloat16_is_the_nearest_of_what_was_merged() {
    let tmp = tempfile::tempdir().unwrap();
    let model = golden("llama-tiny");
    let adapter = model.join("adapter");
    let [whole, half] = ["f32", "bf16"].map(|dtype| {
        let out = tmp.path().join(dtype);
        let args = ["export", "--model", text(&model), "--adapter", text(&adapter), "--dtype", dtype];
        let (code, _, err) = run(&[&args[..], &["--out", text(&out)]].concat());
        assert_eq!(code, 0, "{err}");
        out
    });
    assert_eq!(json(&half.join("config.json"))["torch_dtype"], "bfloat16");
    let [whole, half] = [&whole, &half].map(|dir| Weights::open(dir).unwrap());
    let base = Weights::open(&model).unwrap();
    let mut moved = 0;
    for name in whole.names() {
        let (a, b) = (whole.tensor(name).unwrap(), half.tensor(name).unwrap());
        assert_eq!(a.shape(), b.shape());
        let (a, b) = (a.to_f32_vec(), b.as_bf16().unwrap().to_vec());
        assert!(a.iter().zip(&b).all(|(&a, &b)| half::bf16::from_f32(a) == b), "{name}");
        moved += usize::from(base.tensor(name).unwrap().to_f32_vec() != a);
    }
    assert!(moved > 0, "the adapter changed nothing");
}

#[test]
fn what_cannot_be_exported_leaves_nothing() {
    let tmp = tempfile::tempdir().unwrap();
    let model = golden("llama-tiny");
    let out = tmp.path().join("out");
    for (args, code, said) in [
        (&["--model", "/nonexistent"][..], 1, "/nonexistent"),
        (&["--model", text(&model), "--adapter", text(tmp.path())], 1, "no checkpoint"),
        (&["--model", text(&model), "--max-shard-size", "5"], 2, "KB, MB or GB"),
        (&[], 2, "--model"),
    ] {
        let (got, _, err) = run(&[&["export", "--out", text(&out)], args].concat());
        assert!(got == code && err.contains(said), "{args:?}: {err}");
        assert_eq!(std::fs::read_dir(tmp.path()).unwrap().count(), 0, "{args:?} left something");
    }
}
