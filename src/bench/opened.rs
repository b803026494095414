//! The models that timed steps run on.

use std::path::Path;

use crate::Result;
use crate::device::{Device, TensorInfo};
use crate::model::adapter::AdapterConfig;
use crate::model::config::ModelConfig;
use crate::model::latent_head::LatentHeadConfig;
use crate::model::open::{Additions, Opened, open};
use crate::model::weight_spec::{Group, Groups};

/// The weights that a timed training step trains.
pub(super) const TRAINED: Groups = Groups::of(&[Group::Adapter, Group::LatentHead]);

/// Opens a bare model with a new adapter and a new latent head, `head_size` wide within (as wide as the model
/// where `None`).
pub(super) fn open_for_training<D: Device>(
    device: &D,
    model: &Path,
    lora: &AdapterConfig,
    head_size: Option<usize>,
) -> Result<Opened<D>> {
    let config = ModelConfig::load(model)?;
    let latent_head =
        LatentHeadConfig { intermediate_size: head_size.unwrap_or(config.hidden_size), deterministic: false };
    let additions =
        Additions { lora: Some(lora.clone()), latent_head: Some(latent_head), ..Additions::default() };
    open(device, model, None, &additions, TRAINED)
}

/// Bytes of the weights that a decoded token or latent reads, a tied matrix counted once.
pub(super) fn weight_bytes<D: Device>(opened: &Opened<D>, latent: bool) -> usize {
    let read = opened.model.params.iter().filter(|(_, p)| latent || p.group != Group::LatentHead);
    read.map(|(_, p)| p.value.rows() * p.value.cols() * p.value.dtype().size()).sum()
}
