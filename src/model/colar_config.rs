//! `colar.json`: the settings of a CoLaR checkpoint beside the adapter.
//!
//! The latent head predicts embeddings divided by `embeds_std`, and chunks of embeddings are merged
//! by one of two rules; both were fixed when the checkpoint was trained and must be used again (spec
//! sections 2 to 4 and 8). Fields this version does not know are kept and written back.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::codi_prompt::CodiPrompt;
use super::config::shortest;
use super::latent_head::LatentHeadConfig;
use super::merge::Merge;
use super::prompt::Method;
use super::thoughts::{ProjectorConfig, ThoughtsConfig};
use crate::Result;
use crate::files::atomic::write_atomic;
use crate::files::json::{Fields, one_line, read_object};

/// The name of this file in a checkpoint.
pub const COLAR_FILE: &str = "colar.json";
/// The name of the latent head's weights in a checkpoint.
pub const LATENT_HEAD_FILE: &str = "latent_head.safetensors";

/// The most continuous thoughts of a checkpoint: each is a forward pass of its own.
pub const MOST_THOUGHTS: usize = 1024;

/// The content of `colar.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct ColarConfig {
    /// Standard deviation of the embedding matrix, by which latents are normalised.
    pub embeds_std: f32,
    /// How the embeddings of a chunk are merged.
    pub merge: Merge,
    /// The shape of the latent head; a checkpoint of another method has none.
    pub latent_head: Option<LatentHeadConfig>,
    /// The continuous thoughts of a checkpoint of coconut or distill.
    pub thoughts: Option<ThoughtsConfig>,
    /// The text of the token that ends the reasoning: `###`.
    pub thinking_separator: String,
    /// How the checkpoint was trained; absent in files of the authors' checkpoints.
    pub method: Option<Method>,
    /// The prompts of CODI, if it was trained with those.
    pub codi: Option<CodiPrompt>,
    /// The text of the chat template that prompts go through; none for the paper's prompt alone.
    pub chat_template: Option<String>,
    /// Fields not known here, kept as they are.
    pub extra: Map<String, Value>,
}

impl ColarConfig {
    /// Reads `colar.json` of the checkpoint directory `dir`.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io), or [`Error::File`](crate::Error::File) naming the field at fault.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join(COLAR_FILE);
        Self::from_map(&path, &read_object(&path)?)
    }

    /// Reads the fields of `map`; `path` is for messages.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) naming `path` and the field at fault.
    pub fn from_map(path: &Path, map: &Map<String, Value>) -> Result<Self> {
        let fields = Fields::new(path, map);
        let embeds_std = fields.positive("embeds_std")? as f32;
        if !embeds_std.is_normal() {
            return Err(fields.error("embeds_std", "is out of range"));
        }
        let merge = named(&fields, "merge", &Merge::ALL, Merge::name)?.unwrap_or_default();
        let latent_head = fields.opt_object("latent_head", |head| {
            Ok(LatentHeadConfig {
                intermediate_size: head.size("intermediate_size", 1 << 20)?,
                deterministic: head.opt_bool("deterministic")?.unwrap_or(false),
            })
        })?;
        let thinking_separator = fields.opt_str("thinking_separator")?.unwrap_or("###").to_owned();
        if thinking_separator.is_empty() {
            return Err(fields.error("thinking_separator", "is empty"));
        }
        let known = [
            "embeds_std",
            "merge",
            "latent_head",
            "thoughts",
            "thinking_separator",
            "method",
            "chat_template",
            "codi",
        ];
        let method = named(&fields, "method", &Method::ALL, Method::name)?;
        let thoughts = fields.opt_object("thoughts", |thoughts| {
            let shape = ProjectorConfig {
                intermediate_size: thoughts.opt_size("projector_size", 1 << 20)?,
                norm: thoughts.opt_bool("projector_norm")?.unwrap_or(false),
            };
            let projector = thoughts.opt_bool("projector")?.unwrap_or(false).then_some(shape);
            Ok(ThoughtsConfig { count: thoughts.size("count", MOST_THOUGHTS)?, projector })
        })?;
        let codi = fields.opt_object("codi", CodiPrompt::read)?;
        if codi.is_some() && method != Some(Method::Distill) {
            return Err(fields.error("codi", "belongs to method distill"));
        }
        if thoughts.is_none() && matches!(method, Some(Method::Coconut | Method::Distill)) {
            return Err(fields.error("thoughts", "is missing"));
        }
        if latent_head.is_none() && matches!(method, None | Some(Method::Colar)) {
            return Err(fields.error("latent_head", "is missing"));
        }
        Ok(Self {
            embeds_std,
            merge,
            latent_head,
            thoughts,
            thinking_separator,
            method,
            codi,
            chat_template: fields.opt_str("chat_template")?.map(str::to_owned),
            extra: map
                .iter()
                .filter(|(name, _)| !known.contains(&name.as_str()))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
        })
    }

    /// The JSON form.
    pub fn to_json(&self) -> Value {
        let mut json = json!({
            "embeds_std": shortest(self.embeds_std),
            "merge": self.merge.name(),
            "thinking_separator": self.thinking_separator,
        });
        if let Value::Object(map) = &mut json {
            if let Some(head) = self.latent_head {
                let head = json!({
                    "intermediate_size": head.intermediate_size,
                    "deterministic": head.deterministic,
                });
                map.insert("latent_head".into(), head);
            }
            if let Some(thoughts) = self.thoughts {
                let mut json = json!({"count": thoughts.count, "projector": thoughts.projector.is_some()});
                let shape = thoughts.projector.unwrap_or_default();
                if let Some(size) = shape.intermediate_size {
                    json["projector_size"] = size.into();
                }
                if shape.norm {
                    json["projector_norm"] = true.into();
                }
                map.insert("thoughts".into(), json);
            }
            if let Some(codi) = &self.codi {
                map.insert("codi".into(), json!({"first": codi.first, "begin": codi.begin, "end": codi.end}));
            }
            if let Some(method) = self.method {
                map.insert("method".into(), json!(method.name()));
            }
            if let Some(template) = &self.chat_template {
                map.insert("chat_template".into(), json!(template));
            }
            map.extend(self.extra.clone());
        }
        json
    }

    /// Writes `colar.json` into the directory `dir`.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) naming the file.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let text = format!("{:#}\n", self.to_json());
        write_atomic(&dir.join(COLAR_FILE), |out| out.write_all(text.as_bytes()))
    }
}

/// The field `name` as one of `variants`, if it is there.
fn named<T: Copy>(
    fields: &Fields<'_>,
    name: &str,
    variants: &[T],
    name_of: impl Fn(T) -> &'static str,
) -> Result<Option<T>> {
    let Some(text) = fields.opt_str(name)? else { return Ok(None) };
    match variants.iter().find(|&&variant| name_of(variant) == text) {
        Some(&variant) => Ok(Some(variant)),
        None => {
            let known: Vec<&str> = variants.iter().map(|&variant| name_of(variant)).collect();
            let what = format!("\"{}\" is not one of {}", one_line(text), known.join(", "));
            Err(fields.error(name, what))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: Value) -> Result<ColarConfig> {
        ColarConfig::from_map(Path::new("c/colar.json"), json.as_object().unwrap())
    }

    #[test]
    fn what_is_written_is_read_back_unknown_fields_too() {
        let dir = tempfile::tempdir().unwrap();
        let config = ColarConfig {
            embeds_std: 0.018,
            merge: Merge::Mean,
            latent_head: Some(LatentHeadConfig { intermediate_size: 40, deterministic: true }),
            thoughts: None,
            thinking_separator: "###".into(),
            method: Some(Method::Colar),
            codi: None,
            chat_template: Some("{{ messages[0].content }}".into()),
            extra: json!({"c_max": 5}).as_object().unwrap().clone(),
        };
        config.save(dir.path()).unwrap();
        assert_eq!(ColarConfig::load(dir.path()).unwrap(), config);
        let thoughts = ColarConfig {
            latent_head: None,
            thoughts: Some(ThoughtsConfig { count: 6, projector: Some(ProjectorConfig::default()) }),
            method: Some(Method::Distill),
            ..config.clone()
        };
        thoughts.save(dir.path()).unwrap();
        assert_eq!(ColarConfig::load(dir.path()).unwrap(), thoughts);
        let shape = ProjectorConfig { intermediate_size: Some(7), norm: true };
        let codi = ColarConfig {
            thoughts: Some(ThoughtsConfig { count: 6, projector: Some(shape) }),
            codi: Some(CodiPrompt { first: vec![1, 2], begin: 3, end: 4 }),
            ..thoughts
        };
        codi.save(dir.path()).unwrap();
        assert_eq!(ColarConfig::load(dir.path()).unwrap(), codi);
        assert_eq!(config.to_json()["embeds_std"].to_string(), "0.018");
    }

    #[test]
    fn the_golden_heads_have_the_tensors_of_their_config() {
        use crate::files::weights::Weights;
        use crate::model::config::ModelConfig;
        for model in ["llama-tiny", "qwen2-tiny"] {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(model);
            let config = ColarConfig::load(&dir.join("adapter")).unwrap();
            assert_eq!((config.embeds_std, config.merge, config.method), (0.05, Merge::Sqrt, None));
            let weights = Weights::open_file(&dir.join("adapter").join(LATENT_HEAD_FILE)).unwrap();
            let hidden_size = ModelConfig::load(&dir).unwrap().hidden_size;
            let tensors = config.latent_head.unwrap().weights(hidden_size);
            assert_eq!(tensors.len(), weights.names().count());
            for w in tensors {
                weights.get(&w.name, &w.shape).unwrap();
            }
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let head = json!({"intermediate_size": 4});
        assert!(parse(json!({"embeds_std": 0.1, "latent_head": head})).is_ok());
        for (json, field) in [
            (json!({"latent_head": head}), "embeds_std: is missing"),
            (json!({"latent_head": head, "embeds_std": 1e-60}), "embeds_std: is out of range"),
            (json!({"embeds_std": 0.1}), "latent_head: is missing"),
            (json!({"embeds_std": 0.1, "latent_head": {}}), "latent_head.intermediate_size: is missing"),
            (
                json!({"embeds_std": 0.1, "latent_head": head, "merge": "max"}),
                "merge: \"max\" is not one of sqrt, mean",
            ),
            (
                json!({"embeds_std": 0.1, "latent_head": head, "method": "x"}),
                "method: \"x\" is not one of colar, cot, icot, coconut, distill",
            ),
            (
                json!({"embeds_std": 0.1, "latent_head": head, "thinking_separator": ""}),
                "thinking_separator: ",
            ),
            (json!({"embeds_std": 0.1, "method": "coconut"}), "thoughts: is missing"),
            (
                json!({"embeds_std": 0.1, "method": "distill", "thoughts": {"count": 6}, "codi": {"begin": 1}}),
                "codi.end: must be one token id",
            ),
            (
                json!({"embeds_std": 0.1, "method": "cot", "codi": {"begin": 1, "end": 2}}),
                "codi: belongs to method distill",
            ),
            (
                json!({"embeds_std": 0.1, "method": "coconut", "thoughts": {"count": 0}}),
                "thoughts.count: must be a whole number from 1 to 1024, not 0",
            ),
        ] {
            let error = parse(json).unwrap_err().to_string();
            assert!(error.starts_with(&format!("c/colar.json: {field}")), "{error}");
        }
    }
}
