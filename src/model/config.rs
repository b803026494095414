//! `config.json`: the shape of a model.
//!
//! A field that is misread here gives a model that runs and answers nonsense, so nothing is guessed:
//! a setting that the engine does not compute (another activation, a rotary scaling other than
//! `llama3`, a sliding window in use, quantised weights) is refused by name, and sizes are checked
//! against each other before any memory is reserved for them. Fields that a file may leave out have the
//! default of the `transformers` library, since such files are written by it.
//!
//! Spec section 8. Both spellings of the rotary settings are read: `rope_theta` with `rope_scaling`,
//! and `rope_parameters` of newer files.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::rope::RopeConfig;
use crate::Result;
use crate::files::json::{Fields, one_line, read_object};
use crate::files::safetensors::Dtype;

/// Bounds far above any model there is, so that no product of sizes can overflow 64 bits.
const MAX_HIDDEN: usize = 1 << 17;
const MAX_INTERMEDIATE: usize = 1 << 20;
const MAX_LAYERS: usize = 1 << 12;
const MAX_HEADS: usize = 1 << 12;
const MAX_HEAD_DIM: usize = 1 << 10;
const MAX_VOCAB: usize = 1 << 24;
const MAX_POSITIONS: usize = 1 << 30;

/// Defaults of `sliding_window` and `max_window_layers` in the families that have them.
const DEFAULT_WINDOW: usize = 4096;
const DEFAULT_WINDOW_LAYERS: u64 = 28;

/// The families of models, as `model_type` names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Llama 2 and 3 and models with the same layers (SmolLM2, TinyLlama): no biases.
    Llama,
    /// Qwen2 and Qwen2.5: biases on the query, key and value projections.
    Qwen2,
    /// Qwen3: norms of the heads of queries and keys, whose width the hidden size does not tell; no biases.
    Qwen3,
}

/// The facts of a family that `config.json` does not state.
struct Family {
    /// The value of `model_type`.
    model_type: &'static str,
    /// The value of `architectures`.
    class: &'static str,
    /// Whether the query, key and value projections have biases.
    qkv_bias: bool,
    /// Whether the heads of queries and keys are normalised.
    qk_norm: bool,
    /// Width of a head where the file does not give it; `None`: the hidden size, divided among the heads.
    head_dim: Option<usize>,
    /// Heads of keys and values where the file does not give them (null is none given and means as many as of
    /// queries); `None`: as many as of queries.
    num_key_value_heads: Option<usize>,
    /// Positions where the file does not give them.
    max_position_embeddings: usize,
    /// Settings that are off in the models that the engine runs.
    off: &'static [&'static str],
}

impl Architecture {
    /// All families.
    pub const ALL: [Architecture; 3] = [Architecture::Llama, Architecture::Qwen2, Architecture::Qwen3];

    fn family(self) -> &'static Family {
        match self {
            Architecture::Llama => &Family {
                model_type: "llama",
                class: "LlamaForCausalLM",
                qkv_bias: false,
                qk_norm: false,
                head_dim: None,
                num_key_value_heads: None,
                max_position_embeddings: 2048,
                off: &["attention_bias", "mlp_bias"],
            },
            Architecture::Qwen2 => &Family {
                model_type: "qwen2",
                class: "Qwen2ForCausalLM",
                qkv_bias: true,
                qk_norm: false,
                head_dim: None,
                num_key_value_heads: Some(32),
                max_position_embeddings: 32768,
                off: &["use_sliding_window"],
            },
            Architecture::Qwen3 => &Family {
                model_type: "qwen3",
                class: "Qwen3ForCausalLM",
                qkv_bias: false,
                qk_norm: true,
                head_dim: Some(128),
                num_key_value_heads: Some(32),
                max_position_embeddings: 32768,
                off: &["attention_bias", "use_sliding_window"],
            },
        }
    }

    /// The value of `model_type`.
    pub fn model_type(self) -> &'static str {
        self.family().model_type
    }

    /// The inverse of [`model_type`](Self::model_type).
    pub fn from_model_type(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|architecture| architecture.model_type() == name)
    }
}

/// The shape of a decoder-only transformer and the constants of its layers.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The architecture: it decides how the layers are built.
    pub model_type: Architecture,
    /// Width H of the residual stream.
    pub hidden_size: usize,
    /// Width of the gated MLP.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Width of one head; even.
    pub head_dim: usize,
    /// Rows of the embedding, V.
    pub vocab_size: usize,
    /// Added to the mean square in every RMSNorm.
    pub rms_norm_eps: f32,
    /// Rotary position embedding.
    pub rope: RopeConfig,
    /// Whether the output head is the embedding matrix (then there is no `lm_head.weight`).
    pub tie_word_embeddings: bool,
    /// Whether the query, key and value projections have biases: true for Qwen2.
    pub attention_bias: bool,
    /// Whether an RMSNorm of its own weight goes over each head of queries and of keys, before the rotary embedding:
    /// true for Qwen3.
    pub qk_norm: bool,
    /// Longest sequence the model was made for, in positions.
    pub max_position_embeddings: usize,
    /// Token that begins a text, if the model has one. The prompts of spec section 1 do not use it.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text, those of `generation_config.json` included; may be empty.
    pub eos_token_ids: Vec<u32>,
    /// Dtype of the weights by the configuration; the weights file itself decides.
    pub torch_dtype: Option<Dtype>,
}

impl ModelConfig {
    /// Reads `config.json` of the model directory `dir`, and the end tokens of
    /// `generation_config.json` where there is one.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if `config.json` cannot be read,
    /// [`Error::File`](crate::Error::File) naming file and field for anything missing, malformed or not
    /// supported.
    pub fn load(dir: &Path) -> Result<Self> {
        let mut config = Self::load_file(&dir.join("config.json"))?;
        let path = dir.join("generation_config.json");
        if path.exists() {
            let map = read_object(&path)?;
            for id in Fields::new(&path, &map).token_ids("eos_token_id", config.vocab_size)? {
                if !config.eos_token_ids.contains(&id) {
                    config.eos_token_ids.push(id);
                }
            }
        }
        Ok(config)
    }

    /// Reads a file of `config.json`'s form.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_file(path: &Path) -> Result<Self> {
        Self::from_map(path, &read_object(path)?)
    }

    /// Reads the fields of `map`; `path` is for messages.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) naming `path` and the field at fault.
    pub fn from_map(path: &Path, map: &Map<String, Value>) -> Result<Self> {
        let fields = Fields::new(path, map);
        let name = fields.str("model_type")?;
        let model_type = Architecture::from_model_type(name).ok_or_else(|| {
            let known = Architecture::ALL.map(Architecture::model_type).join(", ");
            fields.error("model_type", format!("\"{}\" is not supported ({known} are)", one_line(name)))
        })?;
        let family = model_type.family();
        refuse_unsupported(&fields, family)?;

        let hidden_size = fields.size("hidden_size", MAX_HIDDEN)?;
        let num_hidden_layers = fields.size("num_hidden_layers", MAX_LAYERS)?;
        let num_attention_heads = fields.size("num_attention_heads", MAX_HEADS)?;
        let absent = fields.given("num_key_value_heads").is_none();
        let num_key_value_heads = match fields.opt_size("num_key_value_heads", MAX_HEADS)? {
            Some(heads) => heads,
            None => family.num_key_value_heads.filter(|_| absent).unwrap_or(num_attention_heads),
        };
        if !num_attention_heads.is_multiple_of(num_key_value_heads) {
            let what =
                format!("{num_key_value_heads} does not divide num_attention_heads, {num_attention_heads}");
            return Err(fields.error("num_key_value_heads", what));
        }
        let head_dim = match fields.opt_size("head_dim", MAX_HEAD_DIM)?.or(family.head_dim) {
            Some(head_dim) => head_dim,
            None if hidden_size.is_multiple_of(num_attention_heads) => hidden_size / num_attention_heads,
            None => {
                let what = format!("{num_attention_heads} does not divide hidden_size, {hidden_size}");
                return Err(fields.error("num_attention_heads", what));
            }
        };
        if head_dim % 2 != 0 || head_dim > MAX_HEAD_DIM {
            let what = format!("{head_dim} is not an even number up to {MAX_HEAD_DIM}");
            return Err(fields.error("head_dim", what));
        }
        let vocab_size = fields.size("vocab_size", MAX_VOCAB)?;
        let max_position_embeddings = fields
            .opt_size("max_position_embeddings", MAX_POSITIONS)?
            .unwrap_or(family.max_position_embeddings);
        refuse_sliding_window(&fields, family, num_hidden_layers, max_position_embeddings)?;
        let rms_norm_eps = fields.opt_positive("rms_norm_eps")?.unwrap_or(1e-6) as f32;
        if !(rms_norm_eps > 0.0 && rms_norm_eps < 1.0) {
            return Err(fields.error("rms_norm_eps", "must be between 0 and 1"));
        }

        Ok(Self {
            model_type,
            hidden_size,
            intermediate_size: fields.size("intermediate_size", MAX_INTERMEDIATE)?,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            vocab_size,
            rms_norm_eps,
            rope: RopeConfig::from_fields(&fields)?,
            tie_word_embeddings: fields.opt_bool("tie_word_embeddings")?.unwrap_or(false),
            attention_bias: family.qkv_bias,
            qk_norm: family.qk_norm,
            max_position_embeddings,
            bos_token_id: beginning_of_text(&fields, vocab_size)?,
            eos_token_ids: fields.token_ids("eos_token_id", vocab_size)?,
            torch_dtype: stored_dtype(&fields)?,
        })
    }

    /// The `config.json` of this model, readable by `transformers` and by [`load`](Self::load).
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        let mut put = |name: &str, value: Value| map.insert(name.to_owned(), value);
        put("architectures", json!([self.model_type.family().class]));
        put("model_type", json!(self.model_type.model_type()));
        put("hidden_size", json!(self.hidden_size));
        put("intermediate_size", json!(self.intermediate_size));
        put("num_hidden_layers", json!(self.num_hidden_layers));
        put("num_attention_heads", json!(self.num_attention_heads));
        put("num_key_value_heads", json!(self.num_key_value_heads));
        put("head_dim", json!(self.head_dim));
        put("vocab_size", json!(self.vocab_size));
        put("max_position_embeddings", json!(self.max_position_embeddings));
        put("hidden_act", json!("silu"));
        put("rms_norm_eps", json!(shortest(self.rms_norm_eps)));
        put("rope_theta", json!(self.rope.theta));
        put("rope_scaling", self.rope.scaling_json());
        put("tie_word_embeddings", json!(self.tie_word_embeddings));
        for name in self.model_type.family().off {
            put(name, json!(false));
        }
        put("initializer_range", json!(0.02));
        put("bos_token_id", json!(self.bos_token_id));
        put(
            "eos_token_id",
            match self.eos_token_ids.as_slice() {
                [] => Value::Null,
                [one] => json!(one),
                many => json!(many),
            },
        );
        if let Some(dtype) = self.torch_dtype {
            put("torch_dtype", json!(dtype.name()));
        }
        put("use_cache", json!(true));
        Value::Object(map)
    }

    /// Inverse frequencies of the rotary embedding, `head_dim / 2` of them, scaling applied; see
    /// [`RopeConfig::inv_freq`].
    pub fn rope_inv_freq(&self) -> Vec<f32> {
        self.rope.inv_freq(self.head_dim)
    }

    /// Width of all query heads together.
    pub fn q_size(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of all key heads together; the values' is the same.
    pub fn kv_size(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }
}

/// A float32 as the float64 with its short decimal form, so that 1e-6 is not written as 9.99…e-7.
pub(crate) fn shortest(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::from(x))
}

/// Fails on settings that change the arithmetic of the layers and that the engine does not have.
fn refuse_unsupported(fields: &Fields<'_>, family: &Family) -> Result<()> {
    for name in ["hidden_act", "hidden_activation"] {
        match fields.opt_str(name)? {
            None | Some("silu" | "swish") => {}
            Some(other) => {
                let what = format!("\"{}\" is not supported (silu is)", one_line(other));
                return Err(fields.error(name, what));
            }
        }
    }
    // Qwen2 has its biases whatever this field says.
    if family.off.contains(&"attention_bias") && fields.opt_bool("attention_bias")? == Some(true) {
        let what = format!("is not supported for {} models", family.model_type);
        return Err(fields.error("attention_bias", what));
    }
    if fields.opt_bool("mlp_bias")? == Some(true) {
        return Err(fields.error("mlp_bias", "is not supported"));
    }
    if fields.opt_positive("partial_rotary_factor")?.is_some_and(|factor| factor != 1.0) {
        return Err(fields.error("partial_rotary_factor", "only 1 is supported"));
    }
    if fields.value("quantization_config").is_some() {
        let what = "quantised weights are not supported (float32, bfloat16 and float16 are)";
        return Err(fields.error("quantization_config", what));
    }
    Ok(())
}

/// A window that some layer would really apply within `positions` is refused.
fn refuse_sliding_window(
    fields: &Fields<'_>,
    family: &Family,
    layers: usize,
    positions: usize,
) -> Result<()> {
    // The setting is one of the Qwen families; Llama does not look at it.
    let on =
        family.off.contains(&"use_sliding_window") && fields.opt_bool("use_sliding_window")? == Some(true);
    // A window that is not given has the families' default, and null means none.
    let window = match fields.given("sliding_window") {
        None => Some(DEFAULT_WINDOW),
        Some(Value::Null) => None,
        Some(_) => fields.opt_size("sliding_window", MAX_POSITIONS)?,
    };
    let narrow = window.is_some_and(|window| window < positions);
    if let Some(kinds) = fields.opt_list("layer_types")? {
        // Where they are listed, the list alone says which layers have the window.
        if kinds.len() != layers {
            let what = format!("lists {} layers, and num_hidden_layers is {layers}", kinds.len());
            return Err(fields.error("layer_types", what));
        }
        let known = |kind: &&Value| !matches!(kind.as_str(), Some("full_attention" | "sliding_attention"));
        if let Some(other) = kinds.iter().find(known) {
            let what = format!("{} is not supported (full_attention is)", one_line(&other.to_string()));
            return Err(fields.error("layer_types", what));
        }
        let sliding = kinds.iter().any(|kind| kind.as_str() == Some("sliding_attention"));
        if sliding && (!on || narrow) {
            return Err(fields.error("layer_types", "sliding_attention is not supported"));
        }
        return Ok(());
    }
    // Layers from `max_window_layers` on use the window.
    let first = fields.value("max_window_layers").and_then(Value::as_u64).unwrap_or(DEFAULT_WINDOW_LAYERS);
    if on && narrow && first < layers as u64 {
        let what =
            format!("a sliding window ({} positions) is not supported", window.unwrap_or(DEFAULT_WINDOW));
        return Err(fields.error("use_sliding_window", what));
    }
    Ok(())
}

/// `bos_token_id`, which prompts do not use: writers that have none give a number outside of the vocabulary.
fn beginning_of_text(fields: &Fields<'_>, vocab_size: usize) -> Result<Option<u32>> {
    const FIELD: &str = "bos_token_id";
    let outside = |id: i64| id < 0 || id >= vocab_size as i64;
    if fields.value(FIELD).and_then(Value::as_i64).is_some_and(outside) {
        return Ok(None);
    }
    Ok(fields.token_ids(FIELD, vocab_size)?.first().copied())
}

/// `torch_dtype`, or `dtype` as newer files call it.
fn stored_dtype(fields: &Fields<'_>) -> Result<Option<Dtype>> {
    for name in ["torch_dtype", "dtype"] {
        if let Some(text) = fields.opt_str(name)? {
            let short = text.strip_prefix("torch.").unwrap_or(text);
            if short == "auto" {
                continue;
            }
            return Dtype::from_name(short).map(Some).ok_or_else(|| {
                let known = "float32, bfloat16 and float16 are";
                fields.error(name, format!("\"{}\" is not supported ({known})", one_line(text)))
            });
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::super::rope::RopeScaling;
    use super::*;

    const LLAMA: &str = r#"{
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512, "rms_norm_eps": 1e-05,
        "rope_theta": 500000.0, "eos_token_id": [1, 2], "tie_word_embeddings": true}"#;

    fn parse(map: &Map<String, Value>) -> Result<ModelConfig> {
        ModelConfig::from_map(Path::new("m/config.json"), map)
    }

    /// `LLAMA` with the fields of `change` put over it.
    fn with(change: Value) -> Map<String, Value> {
        let mut map: Map<String, Value> = serde_json::from_str(LLAMA).unwrap();
        map.extend(change.as_object().unwrap().clone());
        map
    }

    fn fault(change: Value) -> String {
        let message = parse(&with(change)).unwrap_err().to_string();
        assert!(message.starts_with("m/config.json: ") && !message.contains('\n'), "{message}");
        message
    }

    #[test]
    fn what_is_left_out_has_the_usual_default() {
        let config = parse(&with(json!({}))).unwrap();
        assert_eq!((config.head_dim, config.max_position_embeddings), (16, 2048));
        assert_eq!(config.rope, RopeConfig { theta: 500_000.0, scaling: RopeScaling::None });
        assert_eq!((config.bos_token_id, config.eos_token_ids), (None, vec![1, 2]));
        assert!(!config.attention_bias && config.torch_dtype.is_none());
        let config = parse(&with(json!({"num_key_value_heads": null, "rope_theta": null}))).unwrap();
        assert_eq!((config.num_key_value_heads, config.rope.theta), (4, 10_000.0));
    }

    #[test]
    fn qwen3_has_normalised_heads_of_a_width_of_their_own() {
        let config = parse(&with(json!({"model_type": "qwen3", "head_dim": 32}))).unwrap();
        assert!(config.qk_norm && !config.attention_bias);
        assert_eq!((config.head_dim, config.q_size(), config.kv_size()), (32, 128, 64));
        let config = parse(&with(json!({"model_type": "qwen3", "max_position_embeddings": null}))).unwrap();
        assert_eq!((config.head_dim, config.max_position_embeddings), (128, 32768));
        let names: Vec<String> = config.weights().into_iter().map(|w| w.name).collect();
        assert!(names.contains(&"model.layers.1.self_attn.k_norm.weight".to_owned()));
        let message = fault(json!({"model_type": "qwen3", "attention_bias": true}));
        assert!(message.contains("attention_bias: is not supported for qwen3 models"), "{message}");
        let window = json!({"model_type": "qwen3", "use_sliding_window": true, "sliding_window": 8,
            "max_window_layers": 1});
        assert!(fault(window).contains("use_sliding_window"));
    }

    #[test]
    fn both_spellings_of_the_rotary_settings_mean_the_same() {
        let scaling = json!({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192});
        let old = parse(&with(json!({"rope_scaling": scaling}))).unwrap();
        let mut parameters = scaling.clone();
        parameters["rope_theta"] = json!(500000.0);
        let new = parse(&with(json!({"rope_theta": null, "rope_parameters": parameters}))).unwrap();
        let both = parse(&with(json!({"rope_scaling": scaling, "rope_parameters": parameters}))).unwrap();
        assert!(old == new && new == both);
        let mut legacy = scaling.clone();
        let kind = legacy.as_object_mut().unwrap().shift_remove("rope_type").unwrap();
        legacy["type"] = kind;
        assert_eq!(parse(&with(json!({"rope_scaling": legacy}))).unwrap(), old);

        let message = fault(json!({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}));
        assert!(message.contains("rope_theta: 500000 contradicts"), "{message}");
        let message = fault(json!({"rope_scaling": scaling, "rope_parameters": {"rope_type": "default"}}));
        assert!(message.contains("rope_parameters: contradicts rope_scaling"), "{message}");
        let message = fault(json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}));
        assert!(message.contains("rope_scaling.rope_type: \"yarn\" is not supported"), "{message}");
        // Settings per kind of layer, as newer files of other families have them.
        let nested = json!({"rope_parameters": {"full_attention": {"rope_type": "default"}}});
        assert!(fault(nested).contains("rope_parameters.rope_type: is missing"));
        let mut inverted = scaling.clone();
        inverted["high_freq_factor"] = json!(0.5);
        assert!(fault(json!({"rope_scaling": inverted})).contains("must exceed low_freq_factor"));
    }

    #[test]
    fn sizes_that_cannot_be_are_refused_by_name() {
        for (field, bad) in [
            ("hidden_size", json!(0)),
            ("hidden_size", json!(1u64 << 60)),
            ("intermediate_size", json!(-1)),
            ("num_hidden_layers", json!(1.5)),
            ("num_attention_heads", json!(6)),
            ("num_key_value_heads", json!(3)),
            ("vocab_size", json!("512")),
            ("head_dim", json!(15)),
            ("rms_norm_eps", json!(0)),
            ("rms_norm_eps", json!(1e-60)),
            ("rope_theta", json!(0.5)),
            ("eos_token_id", json!(512)),
            ("bos_token_id", json!("<s>")),
            ("tie_word_embeddings", json!("true")),
            ("torch_dtype", json!("int8")),
        ] {
            let mut change = json!({});
            change[field] = bad;
            let message = fault(change);
            assert!(message.starts_with(&format!("m/config.json: {field}: ")), "{message}");
        }
        let mut map = with(json!({}));
        map.shift_remove("hidden_size");
        assert_eq!(parse(&map).unwrap_err().to_string(), "m/config.json: hidden_size: is missing");
    }

    #[test]
    fn what_the_layers_do_not_compute_is_refused_by_name() {
        for (field, bad) in [
            ("model_type", json!("mistral")),
            ("hidden_act", json!("gelu")),
            ("attention_bias", json!(true)),
            ("mlp_bias", json!(true)),
            ("quantization_config", json!({"bits": 4})),
            ("partial_rotary_factor", json!(0.5)),
            ("layer_types", json!(["full_attention", "sliding_attention"])),
        ] {
            let mut change = json!({});
            change[field] = bad;
            let message = fault(change);
            assert!(message.starts_with(&format!("m/config.json: {field}: ")), "{message}");
        }
    }

    #[test]
    fn a_sliding_window_matters_only_where_it_is_used() {
        let window = |used: bool, first: u64, window: u64| {
            json!({"model_type": "qwen2", "use_sliding_window": used, "max_window_layers": first,
                "sliding_window": window, "max_position_embeddings": 4096})
        };
        assert!(parse(&with(window(false, 0, 8))).unwrap().attention_bias);
        assert!(parse(&with(window(true, 2, 8))).is_ok());
        assert!(parse(&with(window(true, 0, 4096))).is_ok());
        assert!(fault(window(true, 1, 8)).contains("use_sliding_window"));
        // Llama has no such setting.
        let mut llama = window(true, 0, 8);
        llama["model_type"] = json!("llama");
        assert!(parse(&with(llama)).is_ok());
    }

    /// A field that a file leaves out has the default of its family; null is no default.
    #[test]
    fn a_window_that_is_not_given_is_that_of_the_family() {
        let windowed = |change: Value| {
            let mut map = json!({"model_type": "qwen2", "use_sliding_window": true, "max_window_layers": 0,
                "max_position_embeddings": 8192});
            map.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            map
        };
        assert!(fault(windowed(json!({}))).contains("use_sliding_window: a sliding window (4096 positions)"));
        assert!(parse(&with(windowed(json!({"sliding_window": null})))).is_ok());
        assert!(parse(&with(windowed(json!({"max_position_embeddings": 4096})))).is_ok());
        // Layers from 28 on, of which this model has none.
        assert!(parse(&with(windowed(json!({"max_window_layers": null})))).is_ok());
        // A list of layers says it all.
        let full = json!(["full_attention", "full_attention"]);
        assert!(parse(&with(windowed(json!({"layer_types": full})))).is_ok());
        let sliding = json!(["full_attention", "sliding_attention"]);
        assert!(fault(windowed(json!({"layer_types": sliding}))).contains("layer_types: sliding_attention"));
        assert!(parse(&with(windowed(json!({"layer_types": sliding, "sliding_window": 8192})))).is_ok());
        let one = json!(["full_attention"]);
        assert!(fault(windowed(json!({"layer_types": one}))).contains("layer_types: lists 1 layers"));
        let linear = json!(["linear_attention", "full_attention"]);
        assert!(fault(windowed(json!({"layer_types": linear}))).contains("\"linear_attention\""));
    }

    #[test]
    fn heads_of_keys_that_are_not_given_are_those_of_the_family() {
        let heads = |model_type: &str, change: Value| {
            let mut map =
                with(json!({"model_type": model_type, "num_attention_heads": 64, "hidden_size": 128}));
            map.shift_remove("num_key_value_heads");
            map.extend(change.as_object().unwrap().clone());
            parse(&map).unwrap().num_key_value_heads
        };
        let null = json!({"num_key_value_heads": null});
        assert_eq!((heads("llama", json!({})), heads("llama", null.clone())), (64, 64));
        assert_eq!((heads("qwen2", json!({})), heads("qwen2", null.clone())), (32, 64));
        assert_eq!((heads("qwen3", json!({})), heads("qwen3", null)), (32, 64));
    }

    #[test]
    fn a_beginning_of_text_outside_of_the_vocabulary_is_none() {
        for id in [-1, 512] {
            assert_eq!(parse(&with(json!({"bos_token_id": id}))).unwrap().bos_token_id, None);
        }
        assert_eq!(parse(&with(json!({"bos_token_id": 511}))).unwrap().bos_token_id, Some(511));
    }

    #[test]
    fn what_is_written_is_read_back_the_same() {
        let scaling = json!({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192});
        for change in [
            json!({"rope_scaling": scaling, "torch_dtype": "bfloat16", "bos_token_id": 0}),
            json!({"model_type": "qwen2", "eos_token_id": 5, "rms_norm_eps": 1e-6}),
            json!({"eos_token_id": null, "tie_word_embeddings": false, "head_dim": 32}),
            json!({"model_type": "qwen3", "head_dim": 8}),
        ] {
            let config = parse(&with(change)).unwrap();
            let json = config.to_json();
            assert_eq!(parse(json.as_object().unwrap()).unwrap(), config);
        }
        let config = parse(&with(json!({"rms_norm_eps": 1e-6}))).unwrap();
        assert_eq!(config.to_json()["rms_norm_eps"].to_string(), "1e-6");
    }
}
