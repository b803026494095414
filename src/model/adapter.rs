//! LoRA adapters on disk, as PEFT writes and reads them.
//!
//! A checkpoint must open in Python with `PeftModel.from_pretrained`, and an adapter trained there
//! must run here. So the names, the fields and their meaning are PEFT's: `adapter_config.json` says
//! which projections carry an adapter and at which scale, `adapter_model.safetensors` holds, for each,
//! `lora_A` of shape `[r, in]` and `lora_B` of shape `[out, r]`; the layer computes
//! `y = W·x + scale · B·(A·x)` with scale = lora_alpha / r, or lora_alpha / √r with `use_rslora`
//! (Hu et al., arXiv 2106.09685; Kalajdzievski, arXiv 2312.03732; spec section 7).
//!
//! An adapter may be on some modules alone, with ranks and alphas of their own (`adapter_modules`); it may hold weights of
//! the model whole (`modules_to_save`, biases), and magnitudes of rows (DoRA, arXiv 2402.09353), which are merged. PEFT's
//! other variants change the arithmetic too. A file that asks for one is refused by the field's name: running it as plain
//! LoRA would give wrong numbers silently.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::adapter_modules::AdapterModules;
use super::block::LM_HEAD;
use super::config::ModelConfig;
pub use super::lora_target::{LoraTarget, NamedTargets};
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
    /// Probability in [0, 1) with which its training left out an element of an adapter's input. It has no effect outside
    /// training.
    pub lora_dropout: f64,
    /// The projections that carry an adapter, in every layer where `modules` says nothing else; sorted, none twice.
    pub target_modules: Vec<LoraTarget>,
    /// Which of them carry it, and at which rank and alpha, where that differs between them.
    pub modules: Option<AdapterModules>,
    /// Whether the rows of W + scale·B·A are scaled to magnitudes that were learned (DoRA).
    pub use_dora: bool,
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
            lora_dropout: 0.0,
            target_modules: vec![LoraTarget::QProj, LoraTarget::VProj],
            modules: None,
            use_dora: false,
            base_model_name_or_path: None,
        }
    }
}

/// The adapter of one module.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adapted {
    /// Its rank.
    pub r: usize,
    /// The factor of B·(A·x).
    pub scale: f32,
}

/// A weight of the model that an adapter's file holds whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    /// Its name in the model.
    pub name: String,
    /// Its name in the adapter's file.
    pub stored: String,
}

/// The part that PEFT puts into the name of a weight with an adapter beside it.
const BASE_LAYER: &str = ".base_layer.";

impl AdapterConfig {
    /// The factor of B·(A·x), where a module has none of its own.
    pub fn scale(&self) -> f32 {
        self.scale_of(self.r, self.lora_alpha)
    }

    fn scale_of(&self, r: usize, alpha: f64) -> f32 {
        let r = r as f64;
        (alpha / if self.use_rslora { r.sqrt() } else { r }) as f32
    }

    /// The adapter of the module `name` (`model.layers.0.self_attn.q_proj`), if it has one.
    pub fn adapted(&self, name: &str) -> Option<Adapted> {
        // A pattern may match norms too, which have no adapters.
        let target = LoraTarget::from_name(name.rsplit('.').next()?)?;
        if !self.target_modules.contains(&target) {
            return None;
        }
        let Some(modules) = &self.modules else {
            return Some(Adapted { r: self.r, scale: self.scale() });
        };
        modules.hold(name).then(|| {
            let r = modules.rank(name, self.r);
            Adapted { r, scale: self.scale_of(r, modules.alpha(name, self.lora_alpha)) }
        })
    }

    /// The model that it says it was trained on, if that has another name than the model directory `dir`: the same weights
    /// may be kept under any name, so this is to be told and is no error. Within a hub's cache a model's name is that of
    /// the directory `models--OWNER--NAME`.
    pub fn other_base(&self, dir: &Path) -> Option<&str> {
        let base = self.base_model_name_or_path.as_deref()?;
        let name = Path::new(base).file_name()?.to_str()?;
        let dir = std::fs::canonicalize(dir).ok()?;
        let mut names = dir.iter().filter_map(|part| part.to_str());
        let cached = |part: &str| {
            part.strip_prefix("models--").and_then(|rest| rest.rsplit("--").next()) == Some(name)
        };
        let known = names.any(cached) || dir.file_name().is_some_and(|own| own.eq_ignore_ascii_case(name));
        (!known).then_some(base)
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
        let modules = AdapterModules::read(&fields)?;
        let config = Self {
            r: fields.size("r", 1 << 16)?,
            lora_alpha: fields.positive("lora_alpha")?,
            use_rslora: fields.opt_bool("use_rslora")?.unwrap_or(false),
            lora_dropout: fields.opt_share("lora_dropout")?.unwrap_or(0.0),
            target_modules: modules.projections(),
            modules: (!modules.is_plain()).then_some(modules),
            use_dora: fields.opt_bool("use_dora")?.unwrap_or(false),
            base_model_name_or_path: fields.opt_str("base_model_name_or_path")?.map(str::to_owned),
        };
        if !config.scale().is_normal() {
            return Err(fields.error("lora_alpha", format!("{} is out of range", config.lora_alpha)));
        }
        if let Some(modules) = &config.modules
            && let Some(alpha) = modules.alphas().find(|&alpha| !config.scale_of(config.r, alpha).is_normal())
        {
            return Err(fields.error("alpha_pattern", format!("{alpha} is out of range")));
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
        let mut json = json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.base_model_name_or_path,
            "revision": null,
            "auto_mapping": null,
            "inference_mode": true,
            "r": self.r,
            "lora_alpha": alpha,
            "lora_dropout": self.lora_dropout,
            "target_modules": self.target_modules.iter().map(|t| t.name()).collect::<Vec<_>>(),
            "use_rslora": self.use_rslora,
            "use_dora": self.use_dora,
            "bias": "none",
            "fan_in_fan_out": false,
            "init_lora_weights": true,
            "modules_to_save": null,
            "layers_to_transform": null,
            "layers_pattern": null,
            "rank_pattern": {},
            "alpha_pattern": {},
        });
        if let (Some(modules), Some(json)) = (&self.modules, json.as_object_mut()) {
            json.extend(modules.given().clone());
        }
        json
    }

    /// Every weight of the adapter: layer by layer, in the order of [`target_modules`](Self::target_modules), A
    /// before B. In files their names have [`PEFT_PREFIX`] before them.
    pub fn weights(&self, model: &ModelConfig) -> Vec<WeightSpec> {
        let pairs = (0..model.num_hidden_layers).flat_map(|layer| {
            let adapted = self.target_modules.iter().filter_map(move |&target| {
                Some(model.projection(target).adapter(layer, self.adapted(&target.module(layer))?.r))
            });
            adapted.flatten()
        });
        pairs.collect()
    }

    /// The magnitudes of DoRA, `[out]` of each module; none without it.
    fn magnitudes(&self, model: &ModelConfig) -> Vec<(String, Vec<usize>)> {
        let layers = if self.use_dora { model.num_hidden_layers } else { 0 };
        let of_layer = |layer| {
            self.target_modules.iter().filter_map(move |&target| {
                let module = target.module(layer);
                self.adapted(&module)?;
                Some((magnitude(&module), vec![model.projection(target).out]))
            })
        };
        (0..layers).flat_map(of_layer).collect()
    }

    /// The weights of `model` that the adapter's file holds whole: those of `modules_to_save`, biases, and embeddings that
    /// PEFT stores of its own accord where their number changed.
    pub fn stored_whole(&self, file: &Weights, model: &ModelConfig) -> Vec<Whole> {
        let mut known: std::collections::BTreeSet<String> =
            model.weights().into_iter().map(|w| w.name).collect();
        known.insert(LM_HEAD.to_owned());
        let whole = file.names().filter_map(|stored| {
            let name = stored.strip_prefix(PEFT_PREFIX)?.replace(BASE_LAYER, ".");
            known.contains(&name).then(|| Whole { name, stored: stored.to_owned() })
        });
        whole.collect()
    }

    /// Whether the module `name` is one of `modules_to_save`, which a tied weight does not follow.
    pub fn saves(&self, name: &str) -> bool {
        self.modules.as_ref().is_some_and(|modules| modules.saves(name))
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
        let expected: std::collections::BTreeMap<_, _> = stored.chain(self.magnitudes(model)).collect();
        let whole = self.stored_whole(&weights, model);
        // A tensor that is not applied would be a part of the adapter silently left out.
        let applied = |name: &str| expected.contains_key(name) || whole.iter().any(|w| w.stored == name);
        if let Some(stray) = weights.names().find(|&name| !applied(name)) {
            let what = "is no part of the adapter that adapter_config.json describes";
            return Err(Error::tensor(&path, one_line(stray), what));
        }
        for (name, shape) in &expected {
            weights.get(name, shape)?;
        }
        Ok(weights)
    }
}

/// The name of DoRA's magnitudes of a module in an adapter's file.
pub(super) fn magnitude(module: &str) -> String {
    format!("{PEFT_PREFIX}{module}.lora_magnitude_vector")
}

/// Refuses every setting under which PEFT computes something that is not computed here.
fn refuse_variants(fields: &Fields<'_>) -> Result<()> {
    // Each of these is off when it holds false, null, or an empty list or object.
    let off = |value: &Value| match value {
        Value::Bool(on) => !on,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    for name in [
        "use_qalora",
        "use_bdlora",
        "lora_bias",
        "fan_in_fan_out",
        "layer_replication",
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
    // Biases that were trained are in the file, if the model has any at all.
    match fields.opt_str("bias")? {
        None | Some("none" | "all" | "lora_only") => Ok(()),
        Some(other) => Err(fields.error("bias", format!("\"{}\" is not supported", one_line(other)))),
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
            ..AdapterConfig::default()
        };
        assert_eq!(config, want);
        assert_eq!(config.scale(), 4.0);
        let json = want.to_json();
        assert_eq!(json["lora_alpha"].to_string(), "16");
        let again = AdapterConfig::from_map(Path::new("x"), json.as_object().unwrap()).unwrap();
        assert_eq!(again, want);
        // Rules are written back as they were.
        let rules = json!({"target_modules": ".*q_proj", "rank_pattern": {"layers.0.self_attn.q_proj": 2}});
        let rules = parse(rules).unwrap();
        let json = rules.to_json();
        let again = AdapterConfig::from_map(Path::new("x"), json.as_object().unwrap()).unwrap();
        assert_eq!((&again, &json["target_modules"]), (&rules, &json!(".*q_proj")));
        assert_eq!(AdapterConfig { use_rslora: true, ..want }.scale(), 8.0);
    }

    #[test]
    fn targets_are_names_or_all_linear() {
        let all = parse(json!({"target_modules": "all-linear"})).unwrap();
        assert_eq!(all.target_modules, LoraTarget::ALL);
        let some = parse(json!({"target_modules": ["down_proj", "q_proj", "q_proj"]})).unwrap();
        assert_eq!(some.target_modules, [LoraTarget::QProj, LoraTarget::DownProj]);
        for bad in [json!([]), json!(["lm_head"]), json!([1]), json!("q"), json!(null), json!({})] {
            let error = parse(json!({"target_modules": bad})).unwrap_err().to_string();
            assert!(error.starts_with("a/adapter_config.json: target_modules"), "{error}");
        }
    }

    #[test]
    fn other_variants_are_refused_by_name() {
        for (name, value) in [
            ("use_dora", json!("yes")),
            ("lora_bias", json!(true)),
            ("bias", json!("some")),
            ("alpha_pattern", json!({"q_proj": 1e-200})),
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
    fn a_model_of_another_name_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let make = |path: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(&path).unwrap();
            path
        };
        let of = |base: &str| AdapterConfig {
            base_model_name_or_path: Some(base.into()),
            ..AdapterConfig::default()
        };
        let hub = "meta-llama/Llama-3.2-1B";
        assert_eq!(of(hub).other_base(&make("models/Llama-3.2-3B")), Some(hub));
        assert_eq!(of(hub).other_base(&make("models/llama-3.2-1b")), None);
        assert_eq!(of(hub).other_base(&make("hub/models--meta-llama--Llama-3.2-1B/snapshots/4e20de3")), None);
        assert_eq!(
            of(hub).other_base(&make("hub/models--meta-llama--Llama-3.2-3B/snapshots/4e20de3")),
            Some(hub)
        );
        assert_eq!(of("elsewhere/models/tiny").other_base(&make("tiny")), None);
        for nameless in ["..", "/", ""] {
            assert_eq!(of(nameless).other_base(&make("tiny")), None, "{nameless:?}");
        }
        assert_eq!(AdapterConfig::default().other_base(&make("tiny")), None);
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
