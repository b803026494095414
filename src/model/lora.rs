//! LoRA adapters of a decoder (spec section 7): attached beside its projections, or merged into them.

use serde::Deserialize;

use super::adapter::{Adapted, AdapterConfig, LoraTarget, PEFT_PREFIX, magnitude};
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
    for i in 0..transformer.layers.len() {
        for &target in &config.target_modules {
            let Some(Adapted { r, scale }) = config.adapted(&target.module(i)) else { continue };
            let [a, b] = transformer.config.projection(target).adapter(i, r);
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
            let lora = Lora { a: add(a, &a_values)?, b: add(b, &b_values)?, scale, dropout: None };
            transformer.layers[i].projections_mut()[target as usize].lora = Some(lora);
        }
    }
    Ok(())
}

/// Whether a checkpoint's adapter is merged into the weights when a model is loaded to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum LoraMode {
    /// Added to the weights: nothing is left to compute beside them, but they must be copies.
    Merge,
    /// Kept beside the weights, which stay those of the model's file.
    Apart,
}

from_name!(LoraMode, "lora");

impl LoraMode {
    /// The choice that suits a device: [`Merge`](LoraMode::Merge) where weights are copied anyway, and
    /// [`Apart`](LoraMode::Apart) where they stay in the mapped file.
    #[doc(hidden)]
    pub fn best_for<D: Device>(device: &D) -> Self {
        if device.maps_weights() { LoraMode::Apart } else { LoraMode::Merge }
    }
}

/// The weight `name` with its adapter of `file` merged in, W + scale·B·A in float32, the rows scaled to their magnitudes where
/// the adapter has such (DoRA); `weight` itself, adopted, where it has no adapter.
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
    let Some(Adapted { r, scale }) = config.adapted(stem).filter(|_| name.ends_with(".weight")) else {
        return Ok(w);
    };
    let mut w = device.widen(w)?;
    let a = file.get(&a, &[r, w.cols()])?.to_f32_vec();
    let b = file.get(&b, &[w.rows(), r])?.to_f32_vec();
    // The product that every device has takes its second operand by rows: B · (Aᵀ)ᵀ.
    let a: Vec<f32> = (0..w.cols()).flat_map(|c| a.iter().skip(c).step_by(w.cols()).copied()).collect();
    let (a, b) = (device.upload(w.cols(), r, &a)?, device.upload(w.rows(), r, &b)?);
    device.matmul_nt(scale, &b, &a, 1.0, &mut w)?;
    if !config.use_dora {
        return Ok(w);
    }
    let magnitudes = file.get(&magnitude(stem), &[w.rows()])?.to_f32_vec();
    let mut values = device.read(&w)?;
    for (row, &magnitude) in values.chunks_exact_mut(w.cols()).zip(&magnitudes) {
        let norm = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        let factor = f64::from(magnitude) / norm;
        row.iter_mut().for_each(|x| *x = (f64::from(*x) * factor) as f32);
    }
    device.upload(w.rows(), w.cols(), &values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::MemoryOps;
    use crate::device::cpu::CpuDevice;
    use crate::files::safetensors::{Dtype, TensorData, save_safetensors};

    /// DoRA's merged weight has rows of the learned magnitudes, in the direction of W + scale·B·A.
    #[test]
    fn rows_have_their_magnitudes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("adapter_model.safetensors");
        let name = "model.layers.0.self_attn.q_proj";
        let (a, b, m) = ([1.0f32, -2.0, 0.5], [0.25f32, 3.0], [2.0f32, 0.125]);
        let tensor = |what: &str, shape: Vec<usize>, x| {
            (format!("{PEFT_PREFIX}{name}.{what}"), shape, TensorData::F32(x))
        };
        let tensors = [
            tensor("lora_A.weight", vec![1, 3], &a),
            tensor("lora_B.weight", vec![2, 1], &b),
            tensor("lora_magnitude_vector", vec![2], &m),
        ];
        save_safetensors(&path, &tensors, &[]).unwrap();
        let file = Weights::open_file(&path).unwrap();
        let w = [0.5f32, 1.0, -1.0, 2.0, 0.0, 1.0];
        let words: Vec<u64> = w
            .chunks(2)
            .map(|pair| u64::from(pair[0].to_bits()) | u64::from(pair[1].to_bits()) << 32)
            .collect();
        let weight = MappedTensor::in_memory(Dtype::F32, &[2, 3], words.into()).unwrap();
        let device = CpuDevice::new(1).unwrap();
        let config = AdapterConfig {
            r: 1,
            lora_alpha: 2.0,
            target_modules: vec![LoraTarget::QProj],
            use_dora: true,
            ..AdapterConfig::default()
        };
        let merged = merge(&device, &format!("{name}.weight"), weight.clone(), &config, &file).unwrap();
        let got = device.read(&merged).unwrap();
        for row in 0..2 {
            let plain: Vec<f64> = (0..3)
                .map(|col| f64::from(w[3 * row + col]) + 2.0 * f64::from(b[row]) * f64::from(a[col]))
                .collect();
            let norm = plain.iter().map(|x| x * x).sum::<f64>().sqrt();
            for col in 0..3 {
                let want = f64::from(m[row]) * plain[col] / norm;
                assert!((f64::from(got[3 * row + col]) - want).abs() <= 1e-6 * want.abs(), "{row}, {col}");
            }
        }
        let other = merge(&device, "model.layers.0.self_attn.k_proj.weight", weight, &config, &file).unwrap();
        assert_eq!(device.read(&other).unwrap(), w);
    }
}
