//! Attaching LoRA adapters to a decoder (spec section 7).

use super::adapter::{AdapterConfig, LoraTarget};
use super::latent_head::uniform_values;
use super::linear::{Linear, Lora};
use super::params::Params;
use super::transformer::{Layer, Transformer};
use super::weights::Weights;
use crate::Result;
use crate::device::Device;

/// PEFT's prefix to the names of adapted weights.
pub const PEFT_PREFIX: &str = "base_model.model.";

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
/// A missing tensor, a wrong shape, or what the device says.
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
            let [out, input] = target.dims(&transformer.config);
            let [a_name, b_name] = target.tensor_names(i);
            let (a_shape, b_shape) = ([config.r, input], [out, config.r]);
            let (a, b) = match init {
                LoraInit::Random(seed) => {
                    let stream = (i * LoraTarget::ALL.len() + target as usize) as u32;
                    let bound = 1.0 / (input as f32).sqrt();
                    // The latent head's streams of the same seed start at 0.
                    let a = uniform_values(config.r * input, bound, *seed, 0x100 + stream);
                    (a, vec![0.0; out * config.r])
                }
                LoraInit::File(weights) => (
                    weights.get(&a_name, &a_shape)?.to_f32_vec(),
                    weights.get(&b_name, &b_shape)?.to_f32_vec(),
                ),
            };
            let mut add = |name: &str, shape: [usize; 2], values: &[f32]| -> Result<_> {
                let value = device.upload(shape[0], shape[1], values)?;
                Ok(params.add(name.trim_start_matches(PEFT_PREFIX), &shape, value))
            };
            let lora = Lora { a: add(&a_name, a_shape, &a)?, b: add(&b_name, b_shape, &b)?, scale };
            projection(&mut transformer.layers[i], target).lora = Some(lora);
        }
    }
    Ok(())
}

fn projection(layer: &mut Layer, target: LoraTarget) -> &mut Linear {
    match target {
        LoraTarget::QProj => &mut layer.q,
        LoraTarget::KProj => &mut layer.k,
        LoraTarget::VProj => &mut layer.v,
        LoraTarget::OProj => &mut layer.o,
        LoraTarget::GateProj => &mut layer.gate,
        LoraTarget::UpProj => &mut layer.up,
        LoraTarget::DownProj => &mut layer.down,
    }
}
