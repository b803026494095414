//! LoRA adapters of a decoder (spec section 7): attached beside its projections, or merged into them.

use super::adapter::{AdapterConfig, LoraTarget, PEFT_PREFIX};
use super::latent_head::uniform_values;
use super::linear::Lora;
use super::params::Params;
use super::transformer::Transformer;
use super::weight_spec::WeightSpec;
use crate::Result;
use crate::device::{Device, TensorInfo};
use crate::files::mapped::MappedTensor;
use crate::files::weights::Weights;

/// Where the values of new adapters come from.
pub enum LoraInit<'a> {
    /// A Kaiming-uniform (a = √5, which is ±1/√in), B zero.
    Random(u64),
    /// A file, with PEFT's names.
    File(&'a Weights),
}

/// Adds an adapter to each target projection of each layer. Their weights are float32 and named as
/// in the file, without PEFT's prefix.
///
/// # Errors
/// A missing tensor, a wrong shape, or an error of the device.
pub fn attach<D: Device>(
    device: &D,
    transformer: &mut Transformer<D>,
    params: &mut Params<D>,
    config: &AdapterConfig,
    init: &LoraInit<'_>,
) -> Result<()> {
    let scale = config.scale();
    for i in 0..transformer.layers.len() {
        for &target in &config.target_modules {
            let [a, b] = transformer.config.projection(target).adapter(i, config.r);
            let [a_values, b_values] = match init {
                LoraInit::Random(seed) => {
                    let stream = (i * LoraTarget::ALL.len() + target as usize) as u32;
                    let [_, input] = a.dims();
                    let bound = 1.0 / (input as f32).sqrt();
                    // The latent head's streams of the same seed start at 0.
                    [uniform_values(a.numel(), bound, *seed, 0x100 + stream), vec![0.0; b.numel()]]
                }
                LoraInit::File(weights) => {
                    let read = |w: &WeightSpec| -> Result<_> {
                        Ok(weights.get(&format!("{PEFT_PREFIX}{}", w.name), &w.shape)?.to_f32_vec())
                    };
                    [read(&a)?, read(&b)?]
                }
            };
            let mut add = |w: WeightSpec, values: &[f32]| -> Result<_> {
                let [rows, cols] = w.dims();
                let value = device.upload(rows, cols, values)?;
                Ok(params.add(w, value))
            };
            let lora = Lora { a: add(a, &a_values)?, b: add(b, &b_values)?, scale };
            transformer.layers[i].projections_mut()[target as usize].lora = Some(lora);
        }
    }
    Ok(())
}

/// Whether a checkpoint's adapter is merged into the weights when a model is loaded to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum LoraMode {
    /// Added to the weights: nothing is left to compute beside them, but they must be copies.
    Merge,
    /// Kept beside the weights, which stay those of the model's file.
    Apart,
}

impl LoraMode {
    /// The choice that suits a device: [`Merge`](LoraMode::Merge) where weights are copied anyway, and
    /// [`Apart`](LoraMode::Apart) where they stay in the mapped file.
    #[doc(hidden)]
    pub fn best_for<D: Device>(device: &D) -> Self {
        if device.maps_weights() { LoraMode::Apart } else { LoraMode::Merge }
    }
}

/// The weight `name` with its adapter of `file` merged in, W + scale·B·A in float32; `weight` itself,
/// adopted, where `file` has none for it.
///
/// # Errors
/// Errors of the file and of the device.
pub fn merge<D: Device>(
    device: &D,
    name: &str,
    weight: MappedTensor,
    config: &AdapterConfig,
    file: &Weights,
) -> Result<D::Tensor> {
    let stem = name.strip_suffix(".weight").unwrap_or(name);
    let [a, b] = ["lora_A", "lora_B"].map(|which| format!("{PEFT_PREFIX}{stem}.{which}.weight"));
    let w = device.adopt(weight)?;
    if !file.contains(&a) {
        return Ok(w);
    }
    let mut w = device.widen(w)?;
    let a = file.get(&a, &[config.r, w.cols()])?.to_f32_vec();
    let b = file.get(&b, &[w.rows(), config.r])?.to_f32_vec();
    // The product that every device has takes its second operand by rows: B · (Aᵀ)ᵀ.
    let a: Vec<f32> = (0..w.cols()).flat_map(|c| a.iter().skip(c).step_by(w.cols()).copied()).collect();
    let (a, b) = (device.upload(w.cols(), config.r, &a)?, device.upload(w.rows(), config.r, &b)?);
    device.matmul_nt(config.scale(), &b, &a, 1.0, &mut w)?;
    Ok(w)
}
