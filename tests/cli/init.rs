//! `init` as a user runs it: its directories can be loaded, and a refused call writes nothing.

use std::fs;
use std::path::Path;

use colar_engine::cli::init::{DtypeArg, InitArgs, run};
use colar_engine::files::safetensors::Dtype;
use colar_engine::files::weights::Weights;
use colar_engine::model::config::ModelConfig;
use colar_engine::model::tokenizer::Tokenizer;
use colar_engine::model::weight_spec::WeightSpec;

use crate::common::cli::engine;
use crate::common::golden;

fn args(config: &str, out: &Path) -> InitArgs {
    InitArgs { config: config.into(), out: out.into(), tokenizer: None, seed: 0, dtype: None }
}

#[test]
fn a_preset_takes_the_vocabulary_of_its_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("tiny");
    let tokenizer = golden("llama-tiny/tokenizer.json");
    run(&InitArgs { tokenizer: Some(tokenizer), ..args("tiny", &out) }).unwrap();
    let config = ModelConfig::load(&out).unwrap();
    let tokenizer = Tokenizer::load(&out).unwrap();
    assert_eq!(config.vocab_size, tokenizer.vocab_size());
    assert_eq!(tokenizer.eos(&config).unwrap().stop, [1]);
    let weights = Weights::open(&out).unwrap();
    for WeightSpec { name, shape, .. } in config.weights() {
        assert_eq!(weights.get(&name, &shape).unwrap().dtype(), Dtype::F32);
    }
    let files: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(files.len(), 1, "{files:?}");
}

#[test]
fn a_config_file_gives_its_shape_in_the_dtype_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("a/b");
    let file = golden("qwen2-tiny/config.json");
    run(&InitArgs { dtype: Some(DtypeArg::Bf16), ..args(file.to_str().unwrap(), &out) }).unwrap();
    let (made, asked) = (ModelConfig::load(&out).unwrap(), ModelConfig::load_file(&file).unwrap());
    assert_eq!(made, ModelConfig { torch_dtype: Some(Dtype::Bf16), ..asked });
    let weights = Weights::open(&out).unwrap();
    assert_eq!(weights.total_bytes(), 2 * made.num_parameters());
}

#[test]
fn what_cannot_be_made_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let fault = |args: InitArgs| run(&args).unwrap_err().to_string();
    assert!(
        fault(args("llama-9", &out)).contains("--config llama-9: neither a file nor one of llama-3.2-1b")
    );
    let mismatch = InitArgs { tokenizer: Some(golden("llama-tiny/tokenizer.json")), ..args("", &out) };
    let small = dir.path().join("small.json");
    let mut config = ModelConfig::load_file(&golden("llama-tiny/config.json")).unwrap();
    config.vocab_size = 100;
    fs::write(&small, config.to_json().to_string()).unwrap();
    let mismatch = InitArgs { config: small.to_str().unwrap().into(), ..mismatch };
    assert!(fault(mismatch).contains("tokenizer.json: has token ids up to 511"));
    assert!(!out.exists());

    fs::create_dir(&out).unwrap();
    fs::write(out.join("precious"), b"").unwrap();
    let error = run(&args("tiny", &out)).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().ends_with("is not an empty directory"), "{error}");
    assert!(out.join("precious").exists());
}

/// The working directory stays where it is, and is a model afterwards; so does what a link leads to.
#[test]
fn an_empty_directory_is_filled_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().join("here");
    fs::create_dir(&here).unwrap();
    fs::create_dir(here.join(".here.colar-partial-a1b2c3")).unwrap();
    let init = |out: &str| {
        let made =
            engine().current_dir(&here).args(["init", "--config", "tiny", "--out", out]).output().unwrap();
        (made.status.code(), String::from_utf8(made.stderr).unwrap())
    };
    let made = |out: &str| {
        let (code, err) = init(out);
        assert_eq!(code, Some(0), "{err}");
        assert!(err.starts_with(&format!("{out}: a llama model of ")) && err.lines().count() == 1, "{err}");
    };
    made(".");
    let mut names: Vec<_> =
        fs::read_dir(&here).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let files = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    assert_eq!(names, files);
    assert!(Weights::open(&here).is_ok());
    let (code, err) = init(".");
    assert!(code == Some(2) && err.contains("is not an empty directory"), "{err}");
    #[cfg(unix)]
    {
        fs::create_dir(dir.path().join("there")).unwrap();
        std::os::unix::fs::symlink("there", dir.path().join("link")).unwrap();
        made("../link");
        assert!(fs::symlink_metadata(dir.path().join("link")).unwrap().is_symlink());
        assert!(Weights::open(&dir.path().join("there")).is_ok());
    }
}
