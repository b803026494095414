//! Timings of whole steps, for comparison with other engines on the same weights.
//!
//! Single operations are timed by the criterion benchmarks under `benches/`.

mod decode;
mod rl;
mod train;

pub use decode::{DecodeOptions, DecodeTiming, decode};
pub use rl::{RlStepOptions, RlStepTiming, rl_step};
pub use train::{StepOptions, StepTiming, train_step};

use std::path::Path;

use crate::Result;
use crate::device::Device;
use crate::model::adapter::AdapterConfig;
use crate::model::colar_config::LatentHeadConfig;
use crate::model::config::ModelConfig;
use crate::model::open::{Additions, Opened, open};

/// Whether a timed training step trains the weight of this name: adapter and latent head.
fn trained(name: &str) -> bool {
    name.contains(".lora_") || name.starts_with("latent_policy.")
}

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
    open(device, model, None, &additions, &trained)
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
