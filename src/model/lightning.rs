//! Checkpoints of the authors' code, as they publish them: `checkpoints/NAME.ckpt`, which PyTorch Lightning wrote, and
//! `hparams.yaml` in the directory above it (or beside it).
//!
//! The file has the weights that were trained, under the names of the authors' modules; `hparams.yaml` says how they were
//! trained, of which the scale of the adapter and the unit of latents count here. That unit is not computed but looked up by the
//! model's name, in the authors' code as here: a head that was trained with another constant than the embeddings'
//! standard deviation must go on with that constant (spec section 3).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::adapter::{AdapterConfig, PEFT_PREFIX};
use super::codi::refuse_gpt2;
use super::colar_config::{ColarConfig, MOST_THOUGHTS};
use super::config::ModelConfig;
use super::latent_head::LatentHeadConfig;
use super::merge::Merge;
use super::prompt::{Method, SEPARATOR};
use super::stored::Stored;
use super::thoughts::{ProjectorConfig, ThoughtsConfig};
use super::weight_spec::WeightSpec;
use crate::files::json::{Fields, MAX_CONFIG_BYTES, one_line, read_limited};
use crate::files::pytorch::PytorchFile;
use crate::files::weights::Weights;
use crate::{Error, Result};

/// The name of the settings that Lightning writes.
const SETTINGS_FILE: &str = "hparams.yaml";

/// `MODEL_EMB_STD` of the authors' code: the unit of latents, by the model's name.
const EMBEDS_STD: [(&str, f32); 4] = [
    ("DeepSeek-R1-Distill-Qwen-1.5B", 0.03),
    ("Llama-3.2-1B-Instruct", 0.018),
    ("Llama-3.2-3B-Instruct", 0.018),
    ("Llama-3.1-8B-Instruct", 0.008),
];

/// Reads the checkpoint `file` over a model of the configuration `model`. `embeds_std` is taken for the unit of latents
/// instead of the authors' constant.
///
/// # Errors
/// No `hparams.yaml`, a field of it that is missing, malformed or not supported, a damaged or hostile file, and tensors that are
/// missing, have another shape or are no part of such a checkpoint: one line naming file and field or tensor.
pub fn read(file: &Path, model: &ModelConfig, embeds_std: Option<f32>) -> Result<Stored> {
    if file.extension().is_some_and(|end| end == "safetensors") {
        let what =
            "is a file of weights, not a checkpoint: give its directory, or `import` it if it is of CODI";
        return Err(Error::file(file, what));
    }
    refuse_gpt2(file, PytorchFile::open(file, None)?.names())?;
    let path = settings_of(file)?;
    let Settings { method, lora, colar } = settings(&path, embeds_std)?;
    let tensors = PytorchFile::open(file, Some("state_dict"))?;
    let hidden = model.hidden_size;

    // The name of each part in the file, and what it is called here.
    let mut known = BTreeMap::new();
    let mut take = |specs: Vec<WeightSpec>, stored: &dyn Fn(&str) -> String, prefix: &str| {
        let mut taken = Vec::new();
        for spec in specs {
            let (from, name) = (stored(&spec.name), format!("{prefix}{}", spec.name));
            if let Some(shape) = tensors.shape(&from)
                && shape == spec.shape
            {
                taken.push((name, tensors.read(&from)?));
            } else {
                let what = match tensors.shape(&from) {
                    Some(shape) => format!("has shape {shape:?}, not {:?}", spec.shape),
                    None => "is missing".to_owned(),
                };
                return Err(Error::tensor(file, from, what));
            }
            known.insert(from, ());
        }
        Ok(Weights::in_memory(file, taken))
    };
    if let Some(whole) = tensors.names().find(|name| name.starts_with("llm.model.")) {
        let what = "the checkpoint has all weights of its model (do_lora: False), which is not supported";
        return Err(Error::tensor(file, one_line(whole), what));
    }
    let adapter = take(lora.weights(model), &of_adapter, PEFT_PREFIX)?;
    let (mut colar, mut head, mut projector) = (colar, None, None);
    if method == Method::Colar {
        let first = "latent_policy.fc.0.weight";
        let Some(&[inner, _]) = tensors.shape(first) else {
            return Err(Error::tensor(file, first, "is missing, or no matrix"));
        };
        let deterministic = colar.latent_head.is_some_and(|head| head.deterministic);
        let shape = LatentHeadConfig { intermediate_size: inner, deterministic };
        head = Some(take(shape.weights(hidden), &str::to_owned, "")?);
        colar.latent_head = Some(shape);
    }
    if method == Method::Distill {
        projector = Some(take(ProjectorConfig::default().weights(hidden), &of_projector, "")?);
    }
    if let Some(stray) = tensors.names().filter(|&name| !known.contains_key(name)).min() {
        let what =
            format!("is no part of a checkpoint of method {} that {SETTINGS_FILE} describes", method.name());
        return Err(Error::tensor(file, one_line(stray), what));
    }
    Ok(Stored { adapter: Some((lora, adapter)), colar: Some(colar), head, projector })
}

/// The file's name for a tensor of the adapter.
fn of_adapter(name: &str) -> String {
    let stem = name.strip_suffix(".weight").unwrap_or(name);
    format!("llm.{PEFT_PREFIX}{stem}.default.weight")
}

/// The file's name for a tensor of the projector.
fn of_projector(name: &str) -> String {
    name.replacen("thought_projector.fc.", "latent_proj.proj.", 1)
}

/// The settings beside a checkpoint, or in the directory above it, where the authors' code has them.
fn settings_of(file: &Path) -> Result<PathBuf> {
    let dir = file.parent().unwrap_or(Path::new(""));
    let above = dir.join("..");
    let found = [dir, &above].map(|dir| dir.join(SETTINGS_FILE)).into_iter().find(|path| path.is_file());
    found.ok_or_else(|| {
        let what = format!(
            "has no {SETTINGS_FILE} beside it or in the directory above, which says how it was trained; it is published with it"
        );
        Error::file(file, what)
    })
}

/// The settings in `hparams.yaml`.
struct Settings {
    method: Method,
    lora: AdapterConfig,
    /// With no width of the latent head yet, which the file's tensors say.
    colar: ColarConfig,
}

fn settings(path: &Path, embeds_std: Option<f32>) -> Result<Settings> {
    let bytes = read_limited(path, MAX_CONFIG_BYTES)?;
    let invalid = |e: &dyn std::fmt::Display| {
        // The lines after the first show the place.
        let e = e.to_string();
        let what = e.lines().next().unwrap_or_default();
        Error::file(path, format!("is not valid YAML: {}", one_line(what.trim_start_matches("error: "))))
    };
    let text = std::str::from_utf8(&bytes).map_err(|e| invalid(&e))?;
    let map: Map<String, Value> = serde_saphyr::from_str(text).map_err(|e| invalid(&e))?;
    let fields = Fields::new(path, &map);
    let read = fields.opt_object("model_kwargs", |kwargs| of_model(kwargs, embeds_std))?;
    read.ok_or_else(|| fields.error("model_kwargs", "is missing"))
}

fn of_model(kwargs: &Fields<'_>, embeds_std: Option<f32>) -> Result<Settings> {
    let path = kwargs.path();
    let name = kwargs.str("sft_method")?;
    let Some(method) = Method::ALL.into_iter().find(|method| method.name() == name.to_lowercase()) else {
        return Err(kwargs.error("sft_method", format!("\"{}\" is not known", one_line(name))));
    };
    if kwargs.opt_bool("do_lora")? != Some(true) {
        return Err(kwargs.error("do_lora", "is not True: checkpoints of all weights are not supported"));
    }
    let Some(Value::Object(given)) = kwargs.value("lora_config") else {
        return Err(kwargs.error("lora_config", "is missing"));
    };
    // The defaults of PEFT's `LoraConfig(**lora_config)` for models of these families.
    let defaults =
        json!({"peft_type": "LORA", "r": 8, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]});
    let mut lora = defaults.as_object().cloned().unwrap_or_default();
    lora.extend(given.iter().filter(|(_, value)| !value.is_null()).map(|(k, v)| (k.clone(), v.clone())));
    let lora = AdapterConfig::from_map(path, &lora)?;
    if lora.use_dora || lora.modules.is_some() {
        let what = "is more than a rank, an alpha and projections, which alone is supported here";
        return Err(kwargs.error("lora_config", what));
    }

    let model_id = kwargs.str("model_id")?;
    let constant = EMBEDS_STD.iter().find(|(name, _)| *name == model_id).map(|&(_, std)| std);
    let embeds_std = match embeds_std.or(constant) {
        Some(std) => std,
        // Nothing is measured in it.
        None if method != Method::Colar => 1.0,
        None => {
            let known = EMBEDS_STD.map(|(name, _)| name).join(", ");
            let what = format!(
                "\"{}\" is none of those whose embeds_std is known ({known}): import the checkpoint with the constant that it was trained with",
                one_line(model_id)
            );
            return Err(kwargs.error("model_id", what));
        }
    };
    let sqrt = kwargs.opt_object("latent_cot_config", |config| config.opt_bool("sqrt_mean"))?.flatten();
    // The name is misspelt in the authors' code.
    let deterministic =
        kwargs.opt_object("latent_policy_config", |config| config.opt_bool("lp_determinisitc"))?.flatten();
    let thoughts = match method {
        Method::Coconut => kwargs.opt_object("coconut_config", |config| {
            let [stages, each] =
                ["max_n_stage", "n_latents_per_step"].map(|name| config.size(name, MOST_THOUGHTS));
            let count = stages? * each?;
            if count > MOST_THOUGHTS {
                return Err(
                    config.error("n_latents_per_step", format!("makes more than {MOST_THOUGHTS} thoughts"))
                );
            }
            Ok(ThoughtsConfig { count, projector: None })
        })?,
        Method::Distill => kwargs.opt_object("distill_config", |config| {
            Ok(ThoughtsConfig {
                count: config.size("n_latents", MOST_THOUGHTS)?,
                projector: Some(ProjectorConfig::default()),
            })
        })?,
        Method::Colar | Method::Cot | Method::Icot => None,
    };
    if thoughts.is_none() && matches!(method, Method::Coconut | Method::Distill) {
        return Err(kwargs.error(&format!("{}_config", method.name()), "is missing"));
    }
    let colar = ColarConfig {
        embeds_std,
        merge: if sqrt == Some(true) { Merge::Sqrt } else { Merge::Mean },
        latent_head: (method == Method::Colar)
            .then(|| LatentHeadConfig { intermediate_size: 0, deterministic: deterministic == Some(true) }),
        thoughts,
        thinking_separator: SEPARATOR.into(),
        method: Some(method),
        chat_template: None,
        codi: None,
        extra: Map::new(),
    };
    Ok(Settings { method, lora, colar })
}
