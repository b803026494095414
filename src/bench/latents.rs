//! Timings of the latents of one sequence, the step that CoLaR repeats most.

use std::path::Path;

use serde::Serialize;

use super::opened::weight_bytes;
use crate::Result;
use crate::device::Device;
use crate::infer::{Loaded, Request, Sampling};
use crate::model::colar_config::COLAR_FILE;
use crate::model::config::ModelConfig;
use crate::model::latent_head::LatentHeadConfig;
use crate::model::lora::LoraMode;
use crate::model::open::{Additions, open_frozen};

/// Timings of latents.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LatentsTiming {
    /// Whether the device's decoder drew them, not its operations one by one.
    pub by_decoder: bool,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Latents drawn.
    pub latents: usize,
    /// Latents a second: the draw, the pass through the model and the draw of the end.
    pub latents_per_s: f64,
    /// Bytes of weights that a latent reads at most: the draw of the end may spare a part of the output matrix.
    pub weight_bytes: usize,
    /// Weight bytes times latents a second, in 1e9 bytes a second.
    pub weight_gb_per_s: f64,
}

/// Opens a model directory with a checkpoint over it; where that has no latent head, with a new one as wide as
/// the model.
///
/// # Errors
/// One line naming the file or tensor at fault.
pub fn open_with_head<D: Device>(device: D, model: &Path, adapter: Option<&Path>) -> Result<Loaded<D>> {
    let intermediate_size = ModelConfig::load(model)?.hidden_size;
    let new = LatentHeadConfig { intermediate_size, deterministic: false };
    let stored = adapter.unwrap_or(model).join(COLAR_FILE).exists();
    let additions = Additions { latent_head: (!stored).then_some(new), ..Additions::default() };
    let lora = LoraMode::best_for(&device);
    let opened = device.scope(|| open_frozen(&device, model, adapter, &additions, lora))?;
    Ok(Loaded::from_opened(device, opened))
}

/// Times exactly `count` latents after a question; a few are drawn before, untimed.
///
/// # Errors
/// A model without a latent head, and errors of the device.
pub fn latents<D: Device>(loaded: &Loaded<D>, question: &str, count: usize) -> Result<LatentsTiming> {
    let mut request = Request::question(question, "2");
    // The latents do not end before they must: the separator is out of the question.
    request.sampling =
        Sampling { max_latents: 4, max_new_tokens: 1, separator_bias: -1e4, ..Sampling::default() };
    loaded.generate(std::slice::from_ref(&request), &mut |_| ())?;
    request.sampling.max_latents = count;
    let generations = loaded.generate(std::slice::from_ref(&request), &mut |_| ())?;
    let (mut drawn, mut seconds, mut prompt_tokens) = (0, 0.0, 0);
    for g in &generations {
        (drawn, prompt_tokens) = (g.n_latents, g.prompt_tokens);
        seconds = g.latents_ms * 1e-3;
    }
    let (rate, weight_bytes) = (drawn as f64 / seconds, weight_bytes(&loaded.opened, true));
    let by_decoder = match loaded.opened.model.for_decoder() {
        Some(model) => loaded.device.decoder(model, 1)?.is_some(),
        None => false,
    };
    Ok(LatentsTiming {
        by_decoder,
        prompt_tokens,
        latents: drawn,
        latents_per_s: rate,
        weight_bytes,
        weight_gb_per_s: weight_bytes as f64 * rate / 1e9,
    })
}
