//! A checkpoint as a model directory of its own, in the layout of the Hugging Face hub: the adapter merged into the
//! weights, the latent head and `colar.json` beside them.
//!
//! `transformers` loads such a directory and knows nothing of the head: there the model reasons in words only. The
//! engine finds the head again, and the directory stands in the place of model and checkpoint.

use std::fs;
use std::path::{Path, PathBuf};

use half::bf16;
use serde_json::{Map, Value, json};

use super::checkpoint_dir;
use super::colar_config::{COLAR_FILE, LATENT_HEAD_FILE};
use super::config::ModelConfig;
use super::lora::merge;
use super::open::take_whole;
use super::thoughts::PROJECTOR_FILE;
use super::weight_spec::WeightSpec;
use crate::device::cpu::CpuDevice;
use crate::device::prelude::*;
use crate::files::atomic::write_atomic;
use crate::files::json::read_object;
use crate::files::safetensors::{Dtype, TensorSpec, write_safetensors};
use crate::files::staged::StagedDir;
use crate::files::weights::{INDEX_FILE, WEIGHTS_FILE, Weights};
use crate::{Error, Result};

/// Files of a model directory that go along as they are, where they are there: the tokenizer's, and settings of
/// generation.
const BESIDE: [&str; 9] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
];

/// Files of a checkpoint that go along.
const OF_CHECKPOINT: [&str; 3] = [COLAR_FILE, LATENT_HEAD_FILE, PROJECTOR_FILE];

/// A model to export, and how.
#[derive(Debug, Clone)]
pub struct ExportOptions {
    /// The model directory.
    pub model: PathBuf,
    /// The checkpoint over it, or a run, whose best is taken, or a file of the authors' code.
    pub adapter: Option<PathBuf>,
    /// The directory to make.
    pub out: PathBuf,
    /// Dtype of all weights: float32 or bfloat16.
    pub dtype: Dtype,
    /// Most bytes of tensors in a file; a larger tensor has one for itself.
    pub shard_bytes: u64,
}

/// Counts of the tensors and files that were written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// Tensors.
    pub tensors: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Files that they are in.
    pub files: usize,
    /// Whether an adapter was merged into them.
    pub merged: bool,
    /// Whether a latent head went along.
    pub latent_head: bool,
}

/// Writes the directory, whole or not at all. Weights are merged as W + scale·B·A in float32 and rounded once, to the
/// nearest, ties to even.
///
/// # Errors
/// [`Error::Usage`] for a directory that is there already; errors of reading the model and of writing.
pub fn export(options: &ExportOptions) -> Result<Exported> {
    let ExportOptions { model, out, dtype, .. } = options;
    let vacant = out.is_dir() && fs::read_dir(out).map_err(Error::io(out))?.next().is_none();
    if out.exists() && !vacant {
        return Err(Error::usage(format!("{} exists already: give `out` another name", out.display())));
    }
    let mut config = ModelConfig::load(model)?;
    let checkpoint = options.adapter.as_deref().map(checkpoint_dir::find).transpose()?;
    let over = checkpoint.as_deref().unwrap_or(model);
    let has_weights = |dir: &Path| dir.join(WEIGHTS_FILE).exists() || dir.join(INDEX_FILE).exists();
    let mut weights = Weights::open(if has_weights(over) { over } else { model })?;
    let mut stored = checkpoint_dir::read(over, model, &config, None)?;
    let adapter = stored.adapter.take();
    let tied = config.tie_word_embeddings;
    if let Some((adapter, file)) = &adapter {
        let whole = adapter.stored_whole(file, &config);
        take_whole(&mut config, &mut weights, adapter, file, &whole)?;
    }
    let device = CpuDevice::new(0)?;
    // A tensor at a time: the model need not fit into memory.
    let values = |spec: &WeightSpec| -> Result<Vec<f32>> {
        let weight = weights.get(&spec.name, &spec.shape)?;
        let values = match &adapter {
            Some((adapter, file)) => device.read(&merge(&device, &spec.name, weight, adapter, file)?)?,
            None => weight.to_f32_vec(),
        };
        match values.iter().all(|x| x.is_finite()) {
            true => Ok(values),
            false => Err(Error::tensor(weights.path(), &spec.name, "holds NaN or infinity")),
        }
    };
    let specs = config.weights();
    let size = |spec: &WeightSpec| (spec.numel() * dtype.size()) as u64;
    let shards = shards(&specs, size, options.shard_bytes);
    let staged = StagedDir::create(out)?;
    let dir = staged.path();
    let mut places = Map::new();
    for (i, shard) in shards.iter().enumerate() {
        let name = match shards.len() {
            1 => WEIGHTS_FILE.to_owned(),
            n => format!("model-{:05}-of-{n:05}.safetensors", i + 1),
        };
        write_shard(&dir.join(&name), shard, *dtype, &values)?;
        places.extend(shard.iter().map(|spec| (spec.name.clone(), Value::from(name.clone()))));
    }
    let bytes = specs.iter().map(size).sum();
    if shards.len() > 1 {
        let index = json!({ "metadata": { "total_size": bytes }, "weight_map": places });
        write_json(&dir.join(INDEX_FILE), &index)?;
    }
    let mut settings = read_object(&model.join("config.json"))?;
    if config.tie_word_embeddings != tied {
        // The adapter stores an output head, or embeddings, of its own.
        settings.insert("tie_word_embeddings".into(), config.tie_word_embeddings.into());
    }
    write_json(&dir.join("config.json"), &with_dtype(settings, *dtype))?;
    copy(&BESIDE, model, dir)?;
    if over.is_file() {
        // The adapter is in the weights by now; the rest of the authors' file is written in the engine's form.
        stored.write(dir, model)?;
    } else {
        copy(&OF_CHECKPOINT, over, dir)?;
    }
    let latent_head = dir.join(LATENT_HEAD_FILE).exists();
    staged.commit()?;
    Ok(Exported { tensors: specs.len(), bytes, files: shards.len(), merged: adapter.is_some(), latent_head })
}

/// The tensors in their order, cut into files of at most `most` bytes, or of one tensor.
fn shards(specs: &[WeightSpec], size: impl Fn(&WeightSpec) -> u64, most: u64) -> Vec<Vec<&WeightSpec>> {
    let mut shards: Vec<Vec<&WeightSpec>> = Vec::new();
    let mut bytes = 0;
    for spec in specs {
        bytes += size(spec);
        match shards.last_mut() {
            Some(shard) if bytes <= most => shard.push(spec),
            _ => {
                shards.push(vec![spec]);
                bytes = size(spec);
            }
        }
    }
    shards
}

fn write_shard(
    path: &Path,
    specs: &[&WeightSpec],
    dtype: Dtype,
    values: &dyn Fn(&WeightSpec) -> Result<Vec<f32>>,
) -> Result<()> {
    let tensors: Vec<TensorSpec> = specs
        .iter()
        .map(|spec| TensorSpec { name: spec.name.clone(), shape: spec.shape.clone(), dtype })
        .collect();
    // The writer knows errors of writing only; one of reading is kept and told instead.
    let mut failure = None;
    let written = write_safetensors(path, &tensors, &[("format", "pt")], |i, out| {
        let values = values(specs[i]).map_err(|e| {
            let text = e.to_string();
            failure = Some(e);
            std::io::Error::other(text)
        })?;
        match dtype {
            Dtype::Bf16 => {
                let rounded: Vec<bf16> = values.iter().map(|&x| bf16::from_f32(x)).collect();
                out.write_all(bytemuck::cast_slice(&rounded))
            }
            _ => out.write_all(bytemuck::cast_slice(&values)),
        }
    });
    match failure {
        Some(failure) => Err(failure),
        None => written,
    }
}

/// The configuration, saying the dtype that the weights now have under the name that it had, `torch_dtype` or `dtype`.
fn with_dtype(mut config: Map<String, Value>, dtype: Dtype) -> Value {
    let name = if dtype == Dtype::Bf16 { "bfloat16" } else { "float32" };
    let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
    config.insert(key.into(), name.into());
    Value::Object(config)
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    write_atomic(path, |out| writeln!(out, "{value:#}"))
}

/// Copies those of these files that are there.
fn copy(names: &[&str], from: &Path, to: &Path) -> Result<()> {
    for name in names {
        let source = from.join(name);
        if source.exists() {
            fs::copy(&source, to.join(name)).map_err(Error::io(&source))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::weight_spec::Group;
    use super::*;

    #[test]
    fn files_are_as_full_as_they_may_be() {
        let specs: Vec<WeightSpec> =
            [4, 4, 9, 1, 1].map(|n| WeightSpec::norm(format!("w{n}"), n, Group::Decoder)).into();
        let lens = |most| shards(&specs, |s| s.numel() as u64, most).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lens(8), [2, 1, 2]);
        assert_eq!(lens(10), [2, 2, 1]);
        assert_eq!(lens(1), [1; 5]);
        assert_eq!(lens(100), [5]);
    }

    #[test]
    fn the_configuration_says_the_new_dtype_once() {
        let config = |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap();
        assert_eq!(
            with_dtype(config(r#"{"a": 1, "dtype": "float16"}"#), Dtype::Bf16),
            json!({"a": 1, "dtype": "bfloat16"})
        );
        assert_eq!(with_dtype(config("{}"), Dtype::F32), json!({"torch_dtype": "float32"}));
    }
}
