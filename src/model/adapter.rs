//! LoRA adapters on disk, as PEFT writes and reads them.
//!
//! A checkpoint must open in Python with `PeftModel.from_pretrained`, and an adapter trained there
//! must run here. So the names, the fields and their meaning are PEFT's: `adapter_config.json` says
//! which projections carry an adapter and at which scale, `adapter_model.safetensors` holds, for each,
//! `lora_A` of shape `[r, in]` and `lora_B` of shape `[out, r]`; the layer computes
//! `y = W·x + scale · B·(A·x)` with scale = lora_alpha / r, or lora_alpha / √r with `use_rslora`
//! (Hu et al., arXiv 2106.09685; Kalajdzievski, arXiv 2312.03732; spec section 7).
//!
//! PEFT has many variants that change the arithmetic (DoRA, ranks per module, biases, extra trained
//! modules). A file that asks for one is refused by the field's name: running it as plain LoRA would
//! give wrong numbers silently.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::config::ModelConfig;
pub use super::lora_target::LoraTarget;
use super::weight_spec::WeightSpec;
use crate::files::json::{Fields, one_line, read_object};
use crate::files::weights::Weights;
use crate::{Error, Result};

/// The name of an adapter's settings.
pub const ADAPTER_CONFIG_FILE: &str = "adapter_config.json";
/// The name of an adapter's weights.
pub const ADAPTER_WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// PEFT's prefix to the names of adapted weights.
pub const PEFT_PREFIX: &str = "base_model.model.";

/// `adapter_config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterConfig {
    /// Rank r.
    pub r: usize,
    /// Numerator of the scale.
    pub lora_alpha: f64,
    /// Whether the scale divides by √r instead of r.
    pub use_rslora: bool,
    /// The projections that carry an adapter, in every layer; sorted, none twice.
    pub target_modules: Vec<LoraTarget>,
    /// The model the adapter was trained on: a directory or a name on the hub. For the reader only.
    pub base_model_name_or_path: Option<String>,
}

impl Default for AdapterConfig {
    /// The paper's: rank 128 and scale 32 / 128 on q_proj and v_proj.
    fn default() -> Self {
        AdapterConfig {
            r: 128,
            lora_alpha: 32.0,
            use_rslora: false,
            target_modules: vec![LoraTarget::QProj, LoraTarget::VProj],
            base_model_name_or_path: None,
        }
    }
}

impl AdapterConfig {
    /// The factor of B·(A·x).
    pub fn scale(&self) -> f32 {
        let r = self.r as f64;
        (self.lora_alpha / if self.use_rslora { r.sqrt() } else { r }) as f32
    }

    /// Reads `adapter_config.json` of the directory `dir`.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::File`] naming the field that is malformed or not supported.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join(ADAPTER_CONFIG_FILE);
        Self::from_map(&path, &read_object(&path)?)
    }

    /// Reads the fields of `map`; `path` is for messages.
    ///
    /// # Errors
    /// [`Error::File`] naming `path` and the field at fault.
    pub fn from_map(path: &Path, map: &Map<String, Value>) -> Result<Self> {
        let fields = Fields::new(path, map);
        match fields.str("peft_type")? {
            "LORA" => {}
            other => {
                let what = format!("\"{}\" is not supported (LORA is)", one_line(other));
                return Err(fields.error("peft_type", what));
            }
        }
        refuse_variants(&fields)?;
        let config = Self {
            r: fields.size("r", 1 << 16)?,
            lora_alpha: fields.positive("lora_alpha")?,
            use_rslora: fields.opt_bool("use_rslora")?.unwrap_or(false),
            target_modules: targets(&fields)?,
            base_model_name_or_path: fields.opt_str("base_model_name_or_path")?.map(str::to_owned),
        };
        if !config.scale().is_normal() {
            return Err(fields.error("lora_alpha", format!("{} is out of range", config.lora_alpha)));
        }
        Ok(config)
    }

    /// The `adapter_config.json` of this adapter. Only fields that every release of PEFT since 0.9
    /// knows are written; newer releases give the others their defaults.
    pub fn to_json(&self) -> Value {
        let alpha = match self.lora_alpha {
            // PEFT declares an integer.
            whole if whole.fract() == 0.0 && whole < 1e15 => json!(whole as u64),
            other => json!(other),
        };
        json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.base_model_name_or_path,
            "revision": null,
            "auto_mapping": null,
            "inference_mode": true,
            "r": self.r,
            "lora_alpha": alpha,
            "lora_dropout": 0.0,
            "target_modules": self.target_modules.iter().map(|t| t.name()).collect::<Vec<_>>(),
            "use_rslora": self.use_rslora,
            "use_dora": false,
            "bias": "none",
            "fan_in_fan_out": false,
            "init_lora_weights": true,
            "modules_to_save": null,
            "layers_to_transform": null,
            "layers_pattern": null,
            "rank_pattern": {},
            "alpha_pattern": {},
        })
    }

    /// Every weight of the adapter: layer by layer, in the order of [`target_modules`](Self::target_modules), A
    /// before B. In files their names have [`PEFT_PREFIX`] before them.
    pub fn weights(&self, model: &ModelConfig) -> Vec<WeightSpec> {
        let pairs = (0..model.num_hidden_layers).flat_map(|layer| {
            self.target_modules.iter().flat_map(move |&t| model.projection(t).adapter(layer, self.r))
        });
        pairs.collect()
    }

    /// Maps `adapter_model.safetensors` of `dir` and checks that it holds this adapter for `model`:
    /// every tensor, in its shape, and no other.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::File`] or [`Error::Tensor`] naming the mistake.
    pub fn open_weights(&self, dir: &Path, model: &ModelConfig) -> Result<Weights> {
        let path = dir.join(ADAPTER_WEIGHTS_FILE);
        if !path.exists() && dir.join("adapter_model.bin").exists() {
            let what = "has adapter_model.bin, PyTorch's own format, only; save it with safetensors";
            return Err(Error::file(dir, what));
        }
        let weights = Weights::open_file(&path)?;
        let stored = self.weights(model).into_iter().map(|w| (format!("{PEFT_PREFIX}{}", w.name), w.shape));
        let expected: std::collections::BTreeMap<_, _> = stored.collect();
        // A tensor that is not applied would be a part of the adapter silently left out.
        if let Some(stray) = weights.names().find(|&name| !expected.contains_key(name)) {
            let what = "is no part of the adapter that adapter_config.json describes";
            return Err(Error::tensor(&path, one_line(stray), what));
        }
        for (name, shape) in &expected {
            weights.get(name, shape)?;
        }
        Ok(weights)
    }
}

/// `target_modules`: a list of names, or the word for all of them.
fn targets(fields: &Fields<'_>) -> Result<Vec<LoraTarget>> {
    const FIELD: &str = "target_modules";
    if let Some(Value::String(pattern)) = fields.value(FIELD) {
        if pattern == "all-linear" {
            return Ok(LoraTarget::ALL.to_vec());
        }
        let what = format!("\"{}\": patterns are not supported, a list of names is", one_line(pattern));
        return Err(fields.error(FIELD, what));
    }
    let mut targets = Vec::new();
    for name in fields.opt_list(FIELD)?.unwrap_or_default() {
        let target = name.as_str().and_then(LoraTarget::from_name).ok_or_else(|| {
            let known = LoraTarget::ALL.map(LoraTarget::name).join(", ");
            let what = format!("{} is not one of {known}", one_line(&name.to_string()));
            fields.error(FIELD, what)
        })?;
        targets.push(target);
    }
    if targets.is_empty() {
        return Err(fields.error(FIELD, "names no projection"));
    }
    targets.sort_unstable();
    targets.dedup();
    Ok(targets)
}

/// Refuses every setting under which PEFT computes something other than plain LoRA.
fn refuse_variants(fields: &Fields<'_>) -> Result<()> {
    // Each of these is off when it holds false, null, or an empty list or object.
    let off = |value: &Value| match value {
        Value::Bool(on) => !on,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    for name in [
        "use_dora",
        "use_qalora",
        "use_bdlora",
        "lora_bias",
        "fan_in_fan_out",
        "rank_pattern",
        "alpha_pattern",
        "layers_to_transform",
        "layer_replication",
        "modules_to_save",
        "exclude_modules",
        "trainable_token_indices",
        "target_parameters",
        "alora_invocation_tokens",
        "arrow_config",
        "kasa_config",
        "monteclora_config",
        "velora_config",
    ] {
        if fields.value(name).is_some_and(|value| !off(value)) {
            return Err(fields.error(name, "is not supported"));
        }
    }
    // The other ways to initialise (pissa, olora, corda, loftq, lora_ga) take something out of the base
    // weights, which the file does not hold and PEFT computes anew when loading.
    match fields.value("init_lora_weights") {
        None | Some(Value::Bool(_)) => {}
        Some(Value::String(way)) if matches!(way.as_str(), "gaussian" | "eva" | "orthogonal") => {}
        Some(other) => {
            let what = format!("{} is not supported", one_line(&other.to_string()));
            return Err(fields.error("init_lora_weights", what));
        }
    }
    match fields.opt_str("bias")? {
        None | Some("none") => Ok(()),
        Some(_) => Err(fields.error("bias", "only \"none\" is supported")),
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::files::safetensors::{TensorData, save_safetensors};

    fn golden(model: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(model)
    }

    fn parse(change: Value) -> Result<AdapterConfig> {
        let mut map = read_object(&golden("llama-tiny/adapter").join(ADAPTER_CONFIG_FILE)).unwrap();
        map.extend(change.as_object().unwrap().clone());
        AdapterConfig::from_map(Path::new("a/adapter_config.json"), &map)
    }

    #[test]
    fn what_peft_wrote_is_read_and_written_back_the_same() {
        let config = parse(json!({})).unwrap();
        let want = AdapterConfig {
            r: 4,
            lora_alpha: 16.0,
            use_rslora: false,
            target_modules: vec![LoraTarget::QProj, LoraTarget::VProj],
            base_model_name_or_path: Some("..".into()),
        };
        assert_eq!(config, want);
        assert_eq!(config.scale(), 4.0);
        let json = want.to_json();
        assert_eq!(json["lora_alpha"].to_string(), "16");
        let again = AdapterConfig::from_map(Path::new("x"), json.as_object().unwrap()).unwrap();
        assert_eq!(again, want);
        assert_eq!(AdapterConfig { use_rslora: true, ..want }.scale(), 8.0);
    }

    #[test]
    fn targets_are_names_or_all_linear() {
        let all = parse(json!({"target_modules": "all-linear"})).unwrap();
        assert_eq!(all.target_modules, LoraTarget::ALL);
        let some = parse(json!({"target_modules": ["down_proj", "q_proj", "q_proj"]})).unwrap();
        assert_eq!(some.target_modules, [LoraTarget::QProj, LoraTarget::DownProj]);
        for bad in [json!([]), json!(["lm_head"]), json!([1]), json!(".*"), json!(null), json!({})] {
            let error = parse(json!({"target_modules": bad})).unwrap_err().to_string();
            assert!(error.starts_with("a/adapter_config.json: target_modules"), "{error}");
        }
    }

    #[test]
    fn other_variants_are_refused_by_name() {
        for (name, value) in [
            ("use_dora", json!(true)),
            ("lora_bias", json!(true)),
            ("bias", json!("all")),
            ("rank_pattern", json!({"q_proj": 8})),
            ("alpha_pattern", json!({"q_proj": 8})),
            ("layers_to_transform", json!([0])),
            ("layers_to_transform", json!(0)),
            ("modules_to_save", json!(["lm_head"])),
            ("exclude_modules", json!("v_proj")),
            ("trainable_token_indices", json!([1])),
            ("fan_in_fan_out", json!(true)),
            ("init_lora_weights", json!("pissa")),
            ("kasa_config", json!({"beta": 1e-4})),
            ("peft_type", json!("IA3")),
            ("r", json!(0)),
            ("lora_alpha", json!("16")),
            ("lora_alpha", json!(1e-200)),
        ] {
            let mut change = json!({});
            change[name] = value;
            let error = parse(change).unwrap_err().to_string();
            assert!(error.starts_with(&format!("a/adapter_config.json: {name}: ")), "{error}");
        }
    }

    #[test]
    fn the_golden_adapters_fit_their_models_and_no_other() {
        for model in ["llama-tiny", "qwen2-tiny"] {
            let dir = golden(model).join("adapter");
            let shape = ModelConfig::load(&golden(model)).unwrap();
            let adapter = AdapterConfig::load(&dir).unwrap();
            let weights = adapter.open_weights(&dir, &shape).unwrap();
            assert_eq!(weights.names().count(), adapter.weights(&shape).len());
            let wider = AdapterConfig { r: 8, ..adapter.clone() };
            let error = wider.open_weights(&dir, &shape).unwrap_err().to_string();
            assert!(error.contains("lora_A.weight: has shape [4, "), "{error}");
            let fewer = AdapterConfig { target_modules: vec![LoraTarget::QProj], ..adapter.clone() };
            let error = fewer.open_weights(&dir, &shape).unwrap_err().to_string();
            assert!(error.contains("v_proj.lora_A.weight: is no part"), "{error}");
            let more = AdapterConfig { target_modules: LoraTarget::ALL.to_vec(), ..adapter };
            let error = more.open_weights(&dir, &shape).unwrap_err().to_string();
            assert!(error.ends_with("is missing"), "{error}");
        }
    }

    #[test]
    fn a_pickled_adapter_is_named_as_such() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("adapter_model.bin"), b"").unwrap();
        let model = ModelConfig::load(&golden("llama-tiny")).unwrap();
        let adapter = parse(json!({})).unwrap();
        let error = adapter.open_weights(dir.path(), &model).unwrap_err().to_string();
        assert!(error.contains("adapter_model.bin"), "{error}");
        let stray = [("x".to_owned(), vec![1], TensorData::F32(&[0.0]))];
        save_safetensors(&dir.path().join(ADAPTER_WEIGHTS_FILE), &stray, &[]).unwrap();
        assert!(
            adapter.open_weights(dir.path(), &model).unwrap_err().to_string().contains("tensor x: is no")
        );
    }
}
