//! Checkpoints of different kinds over one golden model.

use std::path::{Path, PathBuf};

use colar_engine::files::safetensors::{TensorData, save_safetensors};
use colar_engine::model::adapter::{ADAPTER_WEIGHTS_FILE, AdapterConfig, LoraTarget, PEFT_PREFIX};
use colar_engine::model::colar_config::{ColarConfig, LATENT_HEAD_FILE};
use colar_engine::model::config::ModelConfig;
use colar_engine::model::latent_head::LatentHeadConfig;
use colar_engine::model::prompt::Method;
use colar_engine::model::thoughts::{PROJECTOR_FILE, ProjectorConfig, ThoughtsConfig};
use colar_engine::model::weight_spec::WeightSpec;

use super::golden;

/// A model and, by name, checkpoints over it that differ in all that a checkpoint can have.
pub struct Adapters {
    dir: tempfile::TempDir,
    pub model: PathBuf,
    pub all: Vec<(String, PathBuf)>,
}

impl Adapters {
    /// Over the golden model `name`:
    ///
    /// - `golden`, the one that is there: low ranks of queries and values, and a latent head;
    /// - `every`: low ranks of everything, and a latent head in another unit;
    /// - `head`: a latent head alone;
    /// - `words`: low ranks of the rest, and reasoning in words;
    /// - `coconut` and `distill`: the two kinds of continuous thoughts.
    pub fn over(name: &str) -> Self {
        let model = golden(name);
        let mut made = Adapters { dir: tempfile::tempdir().unwrap(), model: model.clone(), all: Vec::new() };
        made.all.push(("golden".to_owned(), model.join("adapter")));
        let rest = [LoraTarget::KProj, LoraTarget::OProj, LoraTarget::DownProj];
        made.make("every", Some((3, &LoraTarget::ALL)), Some(0.08), None);
        made.make("head", None, Some(0.03), None);
        made.make("words", Some((2, &rest)), None, None);
        made.make("coconut", Some((5, &[LoraTarget::GateProj])), None, Some((2, None)));
        made.make("distill", Some((1, &rest)), None, Some((3, Some(ProjectorConfig::default()))));
        made
    }

    fn make(
        &mut self,
        name: &str,
        lora: Option<(usize, &[LoraTarget])>,
        head: Option<f32>,
        thoughts: Option<(usize, Option<ProjectorConfig>)>,
    ) {
        let config = ModelConfig::load(&self.model).unwrap();
        let (hidden, dir) = (config.hidden_size, self.dir.path().join(name));
        std::fs::create_dir(&dir).unwrap();
        let mut seed = self.all.len() as u64 * 1000;
        let mut save = |file: &str, prefix: &str, weights: Vec<WeightSpec>| {
            let values: Vec<Vec<f32>> = weights.iter().map(|w| random(w, &mut seed)).collect();
            let tensors: Vec<_> = weights
                .iter()
                .zip(&values)
                .map(|(w, x)| (format!("{prefix}{}", w.name), w.shape.clone(), TensorData::F32(x)))
                .collect();
            save_safetensors(&dir.join(file), &tensors, &[]).unwrap();
        };
        if let Some((r, targets)) = lora {
            let adapter = AdapterConfig {
                r,
                lora_alpha: 2.0 * r as f64,
                target_modules: targets.to_vec(),
                ..AdapterConfig::default()
            };
            std::fs::write(dir.join("adapter_config.json"), adapter.to_json().to_string()).unwrap();
            save(ADAPTER_WEIGHTS_FILE, PEFT_PREFIX, adapter.weights(&config));
        }
        let latent_head = head.map(|_| LatentHeadConfig { intermediate_size: 24, deterministic: false });
        if let Some(head) = latent_head {
            save(LATENT_HEAD_FILE, "", head.weights(hidden));
        }
        let thoughts = thoughts.map(|(count, projector)| ThoughtsConfig { count, projector });
        if let Some(projector) = thoughts.and_then(|t| t.projector) {
            save(PROJECTOR_FILE, "", projector.weights(hidden));
        }
        let method = match (latent_head, thoughts) {
            (Some(_), _) => Method::Colar,
            (None, Some(thoughts)) if thoughts.projector.is_some() => Method::Distill,
            (None, Some(_)) => Method::Coconut,
            (None, None) => Method::Cot,
        };
        let golden = ColarConfig::load(&self.model.join("adapter")).unwrap();
        let embeds_std = head.unwrap_or(golden.embeds_std);
        ColarConfig { embeds_std, latent_head, thoughts, method: Some(method), ..golden }.save(&dir).unwrap();
        self.all.push((name.to_owned(), dir));
    }

    /// The directory of an adapter.
    pub fn dir(&self, name: &str) -> &Path {
        &self.all.iter().find(|(other, _)| other == name).unwrap().1
    }

    /// How an adapter reasons.
    pub fn method(name: &str) -> Method {
        match name {
            "coconut" => Method::Coconut,
            "distill" => Method::Distill,
            "words" => Method::Cot,
            _ => Method::Colar,
        }
    }
}

/// Values of a weight that tell in what the model says: norms around 1, and of the others columns of length about 1.
fn random(w: &WeightSpec, seed: &mut u64) -> Vec<f32> {
    let (around, bound) = match *w.shape.as_slice() {
        [_, input] => (0.0, (3.0 / input as f32).sqrt()),
        _ if w.name.ends_with("weight") => (1.0, 0.5),
        _ => (0.0, 0.2),
    };
    let mut uniform = || {
        // The multiplier of Knuth's MMIX generator; its high bits are the random ones.
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*seed >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..w.shape.iter().product()).map(|_| around + bound * uniform()).collect()
}
