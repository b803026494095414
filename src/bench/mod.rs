//! Timings of whole steps, for comparison with other engines on the same weights, and of single operations,
//! beside the ceilings of the device.

mod decode;
mod kernels;
mod latents;
mod memory;
mod rl;
mod setting;
mod timer;
mod train;

pub use decode::{DecodeOptions, DecodeTiming, decode};
pub use kernels::{
    Bound, Case, Ceilings, KernelOptions, KernelReport, KernelRow, Product, copy_bytes, copy_ceiling,
    kernels, product_ceiling, table,
};
pub use latents::{LatentsTiming, latents, open_with_head};
pub use rl::{RlStepOptions, RlStepTiming, rl_step};
pub use setting::Setting;
pub use timer::{Timer, Timing, Work};
pub use train::{Sequences, StepBatch, StepOptions, StepTiming, train_step};

use std::path::Path;

use crate::Result;
use crate::device::{Device, TensorInfo};
use crate::model::adapter::AdapterConfig;
use crate::model::config::ModelConfig;
use crate::model::latent_head::LatentHeadConfig;
use crate::model::open::{Additions, Opened, open};
use crate::model::weight_spec::{Group, Groups};

/// The weights that a timed training step trains.
const TRAINED: Groups = Groups::of(&[Group::Adapter, Group::LatentHead]);

/// Opens a bare model with a new adapter and a new latent head, `head_size` wide within (as wide as the model
/// where `None`).
fn open_for_training<D: Device>(
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

/// The median of some seconds; 0 of none.
fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    match seconds.len() {
        0 => 0.0,
        n if n % 2 == 1 => seconds[n / 2],
        n => 0.5 * (seconds[n / 2 - 1] + seconds[n / 2]),
    }
}

/// Bytes of the weights that a decoded token or latent reads, a tied matrix counted once.
fn weight_bytes<D: Device>(opened: &Opened<D>, latent: bool) -> usize {
    let read = opened.model.params.iter().filter(|(_, p)| latent || p.group != Group::LatentHead);
    read.map(|(_, p)| p.value.rows() * p.value.cols() * p.value.dtype().size()).sum()
}
