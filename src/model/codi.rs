//! Checkpoints of CODI (Shen et al., arXiv 2502.21074) and of SIM-CoT, which trains CODI with an auxiliary decoder (Wei et al.,
//! ICLR 2026), as their training writes them: one safetensors file with all weights of a model, an adapter kept apart, the projector
//! of thoughts, and the decoder, which has no part in answering.
//!
//! They are checkpoints of the method `distill` with prompts of their own ([`CodiPrompt`]): the vocabulary has three rows
//! more than the model's, for padding, the token before the thoughts and the token after them. What the file does not say, how many
//! thoughts there are and the scale of the adapter, is in the scripts of their authors.

use std::collections::BTreeSet;
use std::path::Path;

use super::adapter::{AdapterConfig, LoraTarget, PEFT_PREFIX};
use super::codi_prompt::CodiPrompt;
use super::colar_config::ColarConfig;
use super::config::ModelConfig;
use super::merge::Merge;
use super::prompt::{Method, SEPARATOR};
use super::stored::Stored;
use super::thoughts::{ProjectorConfig, ThoughtsConfig};
use super::tokenizer::Tokenizer;
use crate::files::atomic::write_atomic;
use crate::files::json::{one_line, read_object};
use crate::files::mapped::MappedTensor;
use crate::files::safetensors::{TensorSpec, write_safetensors};
use crate::files::weights::{WEIGHTS_FILE, Weights};
use crate::{Error, Result};

/// The prefix of the names of the model's weights.
const MODEL: &str = "codi.base_model.model.";
/// The parts that training alone needs.
const AUXILIARY: [&str; 3] = ["decoder.", "pj_in.", "pj_out."];
/// Rows that the vocabulary has more than the model's: padding, before the thoughts, after them.
const ADDED: usize = 3;

/// Settings that the file does not hold; the defaults are those of the authors' scripts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CodiOptions {
    /// Numerator of the adapter's scale.
    pub lora_alpha: f64,
    /// Thoughts after a question.
    pub thoughts: usize,
}

impl Default for CodiOptions {
    fn default() -> Self {
        CodiOptions { lora_alpha: 32.0, thoughts: 6 }
    }
}

/// Fails for weights of GPT-2, which CODI, SIM-CoT and Coconut publish checkpoints of too.
///
/// # Errors
/// [`Error::Tensor`] naming the first such weight.
pub fn refuse_gpt2<'a>(path: &Path, mut names: impl Iterator<Item = &'a str>) -> Result<()> {
    match names.find(|name| name.ends_with("transformer.wte.weight")) {
        None => Ok(()),
        Some(name) => {
            let what =
                "is of GPT-2, an architecture that the engine has not (llama, qwen2 and qwen3 are read)";
            Err(Error::tensor(path, one_line(name), what))
        }
    }
}

/// Writes the checkpoint `weights`, trained over the model directory `base`, into the directory `out`: a model directory that is a
/// checkpoint too. Of `base` the configuration and the tokenizer are read.
///
/// # Errors
/// A tensor that is missing, has another shape or is no part of such a checkpoint, and errors of the files.
pub fn import(weights: &Weights, base: &Path, options: CodiOptions, out: &Path) -> Result<()> {
    let path = weights.path();
    refuse_gpt2(path, weights.names())?;
    let mut file = Reader { weights, taken: BTreeSet::new() };
    let config = ModelConfig::load(base)?;
    let tokenizer = Tokenizer::load(base)?;
    let rows = config.vocab_size + ADDED;
    let config = ModelConfig { vocab_size: rows, ..config };
    tokenizer.check_fits(config.vocab_size)?;

    let mut specs = Vec::new();
    let mut tensors = Vec::new();
    for w in config.weights() {
        let tensor = file.of_model(&w.name, &w.shape, config.tie_word_embeddings)?;
        specs.push(TensorSpec { name: w.name, shape: w.shape, dtype: tensor.dtype() });
        tensors.push(tensor);
    }
    if config.tie_word_embeddings {
        // Where the file has both names, they are one tensor.
        file.taken.insert(format!("{MODEL}lm_head.weight"));
    }
    let projector_config = file.projector_config()?;
    let stored = Stored {
        adapter: Some(file.adapter(&config, options.lora_alpha)?),
        projector: Some(file.projector(projector_config, config.hidden_size)?),
        colar: Some(ColarConfig {
            // Nothing is measured in it.
            embeds_std: 1.0,
            merge: Merge::default(),
            latent_head: None,
            thoughts: Some(ThoughtsConfig { count: options.thoughts, projector: Some(projector_config) }),
            thinking_separator: SEPARATOR.into(),
            method: Some(Method::Distill),
            chat_template: None,
            codi: Some(CodiPrompt {
                first: Tokenizer::added_before(base)?,
                begin: (rows - 2) as u32,
                end: (rows - 1) as u32,
            }),
            extra: Default::default(),
        }),
        head: None,
    };
    file.finish()?;

    write_safetensors(&out.join(WEIGHTS_FILE), &specs, &[("format", "pt")], |i, file| {
        file.write_all(tensors[i].bytes())
    })?;
    let mut map = read_object(&base.join("config.json"))?;
    map.insert("vocab_size".into(), config.vocab_size.into());
    let text = format!("{:#}\n", serde_json::Value::from(map));
    write_atomic(&out.join("config.json"), |file| file.write_all(text.as_bytes()))?;
    for name in ["generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
        let from = base.join(name);
        if from.exists() {
            std::fs::copy(&from, out.join(name)).map_err(Error::io(&from))?;
        }
    }
    stored.write(out, base)
}

/// The file, and what of it was read.
struct Reader<'a> {
    weights: &'a Weights,
    taken: BTreeSet<String>,
}

impl Reader<'_> {
    fn get(&mut self, name: String, shape: &[usize]) -> Result<MappedTensor> {
        let tensor = self.weights.get(&name, shape)?;
        self.taken.insert(name);
        Ok(tensor)
    }

    /// The weight `name` of the model, which stands under another name where an adapter is beside it.
    fn of_model(&mut self, name: &str, shape: &[usize], tied: bool) -> Result<MappedTensor> {
        let stem = name.strip_suffix(".weight").or(name.strip_suffix(".bias")).unwrap_or(name);
        let beside = format!("{MODEL}{stem}.base_layer{}", &name[stem.len()..]);
        let head = format!("{MODEL}lm_head.weight");
        let plain = format!("{MODEL}{name}");
        let found = if self.weights.contains(&beside) {
            beside
        } else if tied && name.ends_with("embed_tokens.weight") && !self.weights.contains(&plain) {
            head
        } else {
            plain
        };
        self.get(found, shape)
    }

    fn adapter(&mut self, model: &ModelConfig, lora_alpha: f64) -> Result<(AdapterConfig, Weights)> {
        let file_name = |name: &str| {
            let stem = name.strip_suffix(".weight").unwrap_or(name);
            format!("{MODEL}{stem}.default.weight")
        };
        let rank = |target: &LoraTarget| {
            let [a, _] = model.projection(*target).adapter(0, 1);
            self.weights.shape(&file_name(&a.name)).and_then(|shape| shape.first().copied())
        };
        let target_modules: Vec<LoraTarget> =
            LoraTarget::ALL.into_iter().filter(|t| rank(t).is_some()).collect();
        let Some(r) = target_modules.first().and_then(rank).filter(|r| (1..=1 << 16).contains(r)) else {
            let what =
                "has no adapter in its first layer: checkpoints of CODI without LoRA are not supported";
            return Err(Error::file(self.weights.path(), what));
        };
        let config = AdapterConfig { r, lora_alpha, target_modules, ..AdapterConfig::default() };
        let mut tensors = Vec::new();
        for w in config.weights(model) {
            tensors.push((format!("{PEFT_PREFIX}{}", w.name), self.get(file_name(&w.name), &w.shape)?));
        }
        Ok((config, Weights::in_memory(self.weights.path(), tensors)))
    }

    /// The shape of the projector.
    fn projector_config(&self) -> Result<ProjectorConfig> {
        let first = "prj.1.weight";
        let Some(&[inner, _]) = self.weights.shape(first) else {
            let what = "is missing, or no matrix: only thoughts with a projector are supported";
            return Err(Error::tensor(self.weights.path(), first, what));
        };
        Ok(ProjectorConfig { intermediate_size: Some(inner), norm: self.weights.contains("prj.ln.weight") })
    }

    fn projector(&mut self, config: ProjectorConfig, hidden: usize) -> Result<Weights> {
        let mut tensors = Vec::new();
        for w in config.weights(hidden) {
            let theirs = [("fc.0", "1"), ("fc.2", "3"), ("norm", "ln")];
            let part = w.name.strip_prefix("thought_projector.").unwrap_or(&w.name);
            let found = theirs
                .iter()
                .find_map(|(ours, theirs)| Some(format!("prj.{theirs}{}", part.strip_prefix(ours)?)));
            let tensor = self.get(found.unwrap_or_else(|| part.to_owned()), &w.shape)?;
            tensors.push((w.name, tensor));
        }
        Ok(Weights::in_memory(self.weights.path(), tensors))
    }

    /// Fails for a tensor that was not read.
    fn finish(&self) -> Result<()> {
        let mut names = self.weights.names();
        let stray = names
            .find(|name| !self.taken.contains(*name) && !AUXILIARY.iter().any(|part| name.starts_with(part)));
        match stray {
            None => Ok(()),
            Some(name) => {
                let what = "is no part of a checkpoint of CODI over this model";
                Err(Error::tensor(self.weights.path(), one_line(name), what))
            }
        }
    }
}
