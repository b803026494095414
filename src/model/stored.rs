//! The content of a checkpoint before any of it is on a device: settings and weights, in whichever form they are stored.

use std::path::Path;

use super::adapter::{ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, AdapterConfig};
use super::colar_config::{COLAR_FILE, ColarConfig, LATENT_HEAD_FILE};
use super::config::ModelConfig;
use super::thoughts::PROJECTOR_FILE;
use crate::files::atomic::write_atomic;
use crate::files::json::one_line;
use crate::files::safetensors::{TensorData, save_safetensors};
use crate::files::weights::{Access, Weights};
use crate::{Error, Result};

/// The parts of a checkpoint (spec section 8) but for weights of a whole model.
#[derive(Debug, Default)]
pub struct Stored {
    /// The adapter and its weights, which have PEFT's names.
    pub adapter: Option<(AdapterConfig, Weights)>,
    /// The settings; a plain adapter of PEFT's has none.
    pub colar: Option<ColarConfig>,
    /// The latent head's weights.
    pub head: Option<Weights>,
    /// The weights of the projector of thoughts.
    pub projector: Option<Weights>,
}

impl Stored {
    /// Maps the checkpoint directory `dir` over the model directory `model_dir`, of the configuration `model`.
    ///
    /// # Errors
    /// A missing or malformed file, or an adapter of another model: one line naming the file.
    pub fn of_directory(dir: &Path, model_dir: &Path, model: &ModelConfig) -> Result<Self> {
        let adapter = if dir.join(ADAPTER_CONFIG_FILE).exists() {
            let adapter = AdapterConfig::load(dir)?;
            let weights =
                adapter.open_weights(dir, model).map_err(|e| unfit(e, &adapter, model_dir, model))?;
            Some((adapter, weights))
        } else {
            None
        };
        let colar = if dir.join(COLAR_FILE).exists() { Some(ColarConfig::load(dir)?) } else { None };
        let open = |wanted: bool, file: &str| {
            let path = dir.join(file);
            (wanted && path.exists()).then(|| Weights::open_file(&path)).transpose()
        };
        let head = open(colar.as_ref().is_some_and(|c| c.latent_head.is_some()), LATENT_HEAD_FILE)?;
        let thoughts = colar.as_ref().and_then(|c| c.thoughts);
        let projector = open(thoughts.is_some_and(|t| t.projector.is_some()), PROJECTOR_FILE)?;
        Ok(Self { adapter, colar, head, projector })
    }

    /// The same, whose weights come out of their files in the way of `access`.
    #[must_use]
    pub fn accessed(self, access: Access) -> Self {
        let accessed = |weights: Weights| weights.accessed(access);
        Self {
            adapter: self.adapter.map(|(adapter, weights)| (adapter, accessed(weights))),
            colar: self.colar,
            head: self.head.map(accessed),
            projector: self.projector.map(accessed),
        }
    }

    /// Writes the files of a checkpoint into the directory `dir`, all tensors in float32. `base` is the model that it is for.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn write(&self, dir: &Path, base: &Path) -> Result<()> {
        if let Some((adapter, weights)) = &self.adapter {
            let base_model_name_or_path = Some(base.display().to_string());
            let adapter = AdapterConfig { base_model_name_or_path, ..adapter.clone() };
            let text = format!("{:#}\n", adapter.to_json());
            write_atomic(&dir.join(ADAPTER_CONFIG_FILE), |out| out.write_all(text.as_bytes()))?;
            copy(weights, &dir.join(ADAPTER_WEIGHTS_FILE))?;
        }
        for (weights, file) in [(&self.head, LATENT_HEAD_FILE), (&self.projector, PROJECTOR_FILE)] {
            if let Some(weights) = weights {
                copy(weights, &dir.join(file))?;
            }
        }
        self.colar.as_ref().map_or(Ok(()), |colar| colar.save(dir))
    }
}

/// Writes all tensors of `weights` to the safetensors file `path`, in float32.
fn copy(weights: &Weights, path: &Path) -> Result<()> {
    let mut tensors = Vec::new();
    for name in weights.names() {
        let tensor = weights.tensor(name)?;
        tensors.push((name.to_owned(), tensor.shape().to_vec(), tensor.to_f32_vec()));
    }
    let listed: Vec<_> = tensors
        .iter()
        .map(|(name, shape, values)| (name.clone(), shape.clone(), TensorData::F32(values)))
        .collect();
    save_safetensors(path, &listed, &[("format", "pt")])
}

/// The error of an adapter that does not fit a model, with both named.
fn unfit(error: Error, adapter: &AdapterConfig, model_dir: &Path, config: &ModelConfig) -> Error {
    let Error::Tensor { path, tensor, what } = error else { return error };
    let trained_on = match &adapter.base_model_name_or_path {
        Some(name) => format!("the adapter was trained on {}", one_line(name)),
        None => "the adapter does not say what it was trained on".to_owned(),
    };
    let (kind, h, layers) = (config.model_type.model_type(), config.hidden_size, config.num_hidden_layers);
    let model = format!("{} is a {kind} model of hidden_size {h} with {layers} layers", model_dir.display());
    Error::Tensor { path, tensor, what: format!("{what}; {trained_on}, and {model}") }
}
