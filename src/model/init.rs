//! Model directories with random weights.
//!
//! For benchmarks and tests of any shape, and as the beginning of a model trained from nothing. Weights
//! are initialised as in `transformers`: normal with standard deviation 0.02, norms 1, biases 0.
//!
//! Every element is a function of seed, tensor and place alone, so a directory is the same whatever
//! the number of threads, and the same seed gives float32 and bfloat16 weights that differ by the
//! rounding only. A model larger than memory can be written: numbers are made in blocks as the file
//! is written. Files are split as on the hub, [`MAX_SHARD_BYTES`] to a shard.

use std::path::Path;

use half::{bf16, f16};
use rayon::prelude::*;
use serde_json::json;
use statrs::distribution::ContinuousCDF;

use super::config::ModelConfig;
use super::weight_spec::{Role, WeightSpec};
use crate::Result;
use crate::files::atomic::write_atomic;
use crate::files::safetensors::{Dtype, TensorSpec, write_safetensors};
use crate::files::weights::{INDEX_FILE, WEIGHTS_FILE};
use crate::random::Philox;

/// Standard deviation of a matrix's elements.
pub const INITIALIZER_RANGE: f32 = 0.02;
/// The size above which weights are split, as `transformers` does.
pub const MAX_SHARD_BYTES: u64 = 5_000_000_000;

/// Elements made at a time: enough to keep all threads busy, little enough to stay in memory.
const BLOCK: usize = 1 << 22;
/// Elements one thread makes at a time.
const PIECE: usize = 1 << 14;
/// Fourth word of the counter, which keeps these draws apart from others of the same seed.
const STREAM: u32 = u32::from_le_bytes(*b"init");

/// How random weights are made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RandomInit {
    /// How they are stored.
    pub dtype: Dtype,
    /// Standard deviation of a matrix's elements, [`INITIALIZER_RANGE`] by convention.
    pub std: f32,
    /// Key of the draws.
    pub seed: u64,
}

/// Writes `config.json` and random weights for `config` into the directory `dir`, which must
/// exist.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) naming the file that cannot be written.
pub fn write_random_model(dir: &Path, config: &ModelConfig, init: &RandomInit) -> Result<()> {
    let config = ModelConfig { torch_dtype: Some(init.dtype), ..config.clone() };
    let text = format!("{:#}\n", config.to_json());
    write_atomic(&dir.join("config.json"), |out| out.write_all(text.as_bytes()))?;
    write_random_weights(dir, &config, init, MAX_SHARD_BYTES)
}

/// Writes random weights, in shards of at most `max_shard_bytes` (or one tensor, if that is larger).
///
/// # Errors
/// As [`write_random_model`].
pub fn write_random_weights(
    dir: &Path,
    config: &ModelConfig,
    init: &RandomInit,
    max_shard_bytes: u64,
) -> Result<()> {
    match init.dtype {
        Dtype::F32 => write_encoded(dir, config, init, max_shard_bytes, f32::to_le_bytes),
        Dtype::Bf16 => write_encoded(dir, config, init, max_shard_bytes, |x| bf16::from_f32(x).to_le_bytes()),
        Dtype::F16 => write_encoded(dir, config, init, max_shard_bytes, |x| f16::from_f32(x).to_le_bytes()),
    }
}

/// [`write_random_weights`] with `encode` making the `N` bytes of an element of `dtype`.
fn write_encoded<const N: usize>(
    dir: &Path,
    config: &ModelConfig,
    init: &RandomInit,
    max_shard_bytes: u64,
    encode: impl Fn(f32) -> [u8; N],
) -> Result<()> {
    let source = Source::new(init, encode);
    let dtype = init.dtype;
    let specs = config.weights().into_iter().map(|w| {
        let WeightSpec { name, shape, role, .. } = w;
        (role, TensorSpec { name, shape, dtype })
    });
    // The tensor's number in the whole model is part of the counter, so shards do not matter.
    let mut shards: Vec<Vec<Numbered>> = vec![Vec::new()];
    let (mut filled, mut total) = (0u64, 0u64);
    for (number, (role, spec)) in (0u32..).zip(specs) {
        // The bounds of `ModelConfig` keep every product far below 2^64.
        let bytes = spec.bytes().unwrap_or(usize::MAX) as u64;
        if filled > 0 && filled + bytes > max_shard_bytes {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        total += bytes;
        if let Some(shard) = shards.last_mut() {
            shard.push(Numbered { number, role, spec });
        }
    }
    if let [only] = shards.as_slice() {
        return source.write(&dir.join(WEIGHTS_FILE), only);
    }
    let mut weight_map = serde_json::Map::new();
    for (place, shard) in shards.iter().enumerate() {
        let file = format!("model-{:05}-of-{:05}.safetensors", place + 1, shards.len());
        source.write(&dir.join(&file), shard)?;
        weight_map.extend(shard.iter().map(|t| (t.spec.name.clone(), json!(file))));
    }
    let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
    write_atomic(&dir.join(INDEX_FILE), |out| writeln!(out, "{index:#}"))
}

/// A tensor to write.
struct Numbered {
    /// Its number within the model.
    number: u32,
    role: Role,
    spec: TensorSpec,
}

/// Where elements come from, encoded as `N` bytes each.
struct Source<const N: usize> {
    philox: Philox,
    one: [u8; N],
    zero: [u8; N],
    /// The 65,536 values of a matrix's elements: the middles of as many equally likely slices of the
    /// normal distribution.
    normals: Vec<[u8; N]>,
}

impl<const N: usize> Source<N> {
    fn new(init: &RandomInit, encode: impl Fn(f32) -> [u8; N]) -> Self {
        let normals = quantiles().map(|x| encode(x * init.std)).collect();
        Self { philox: Philox::new(init.seed), one: encode(1.0), zero: encode(0.0), normals }
    }

    /// Writes one weights file.
    fn write(&self, path: &Path, tensors: &[Numbered]) -> Result<()> {
        let specs: Vec<TensorSpec> = tensors.iter().map(|t| t.spec.clone()).collect();
        let mut bytes = Vec::new();
        write_safetensors(path, &specs, &[("format", "pt")], |index, out| {
            let Numbered { number, role, spec } = &tensors[index];
            let elements: usize = spec.shape.iter().product();
            for start in (0..elements).step_by(BLOCK) {
                bytes.resize(BLOCK.min(elements - start) * N, 0);
                bytes.par_chunks_mut(PIECE * N).enumerate().for_each(|(piece, bytes)| {
                    self.fill(*role, *number, start + piece * PIECE, bytes);
                });
                out.write_all(&bytes)?;
            }
            Ok(())
        })
    }

    /// Fills `bytes` with the elements from place `start` on, a multiple of eight, of the tensor of this role and
    /// number.
    fn fill(&self, role: Role, tensor: u32, start: usize, bytes: &mut [u8]) {
        let constant = match role {
            Role::Norm => Some(&self.one),
            Role::Bias => Some(&self.zero),
            Role::Matrix => None,
        };
        if let Some(constant) = constant {
            bytes.chunks_exact_mut(N).for_each(|element| element.copy_from_slice(constant));
            return;
        }
        for (group, bytes) in bytes.chunks_mut(8 * N).enumerate() {
            let group = start as u64 / 8 + group as u64;
            // Four random words give eight elements, sixteen bits each.
            let words = self.philox.block([group as u32, (group >> 32) as u32, tensor, STREAM]);
            let halves = words.iter().flat_map(|word| [word & 0xffff, word >> 16]);
            for (element, half) in bytes.chunks_exact_mut(N).zip(halves) {
                element.copy_from_slice(&self.normals[half as usize]);
            }
        }
    }
}

/// The standard normal distribution in 65,536 equally likely values, ascending.
///
/// A weight's start needs no more, and a table is some ten times as fast as the transformation that
/// draws latents. Their standard deviation is 1 - 1e-5 and the largest is 4.32.
fn quantiles() -> impl Iterator<Item = f32> {
    let standard = statrs::distribution::Normal::standard();
    (0..1u32 << 16)
        .map(move |slice| standard.inverse_cdf((f64::from(slice) + 0.5) / f64::from(1u32 << 16)) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::weights::Weights;
    use crate::model::presets::Preset;

    fn make(dtype: Dtype, seed: u64, max_shard_bytes: u64) -> (tempfile::TempDir, Weights) {
        let dir = tempfile::tempdir().unwrap();
        let config = ModelConfig { vocab_size: 65, ..Preset::Qwen25_1_5b.config() };
        let config = ModelConfig { hidden_size: 24, intermediate_size: 36, num_hidden_layers: 2, ..config };
        let config = ModelConfig { bos_token_id: None, eos_token_ids: vec![], ..config };
        write_random_weights(
            dir.path(),
            &config,
            &RandomInit { dtype, std: INITIALIZER_RANGE, seed },
            max_shard_bytes,
        )
        .unwrap();
        let weights = Weights::open(dir.path()).unwrap();
        for w in config.weights() {
            assert_eq!(weights.get(&w.name, &w.shape).unwrap().dtype(), dtype);
        }
        assert_eq!(weights.names().count(), config.weights().len());
        (dir, weights)
    }

    fn all(weights: &Weights) -> Vec<(String, Vec<f32>)> {
        let of = |name: &str| (name.to_owned(), weights.tensor(name).unwrap().to_f32_vec());
        weights.names().map(of).collect()
    }

    #[test]
    fn weights_depend_on_the_seed_alone() {
        let (_dir, whole) = make(Dtype::F32, 1, u64::MAX);
        let (dir, sharded) = make(Dtype::F32, 1, 100_000);
        assert!(dir.path().join(INDEX_FILE).exists() && !dir.path().join(WEIGHTS_FILE).exists());
        let whole = all(&whole);
        assert_eq!(whole, all(&sharded));
        let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(whole, one_thread.install(|| all(&make(Dtype::F32, 1, u64::MAX).1)));
        assert_ne!(whole, all(&make(Dtype::F32, 2, u64::MAX).1));
        let rounded = |x: &f32| bf16::from_f32(*x).to_f32();
        let expected: Vec<_> =
            whole.iter().map(|(name, x)| (name.clone(), x.iter().map(rounded).collect::<Vec<_>>())).collect();
        assert_eq!(expected, all(&make(Dtype::Bf16, 1, u64::MAX).1));
    }

    #[test]
    fn matrices_are_normal_norms_one_biases_zero() {
        let (_dir, weights) = make(Dtype::F32, 3, u64::MAX);
        let mut drawn = Vec::new();
        for (name, x) in all(&weights) {
            if name.ends_with("norm.weight") {
                assert!(x.iter().all(|&x| x == 1.0), "{name}");
            } else if name.ends_with("bias") {
                assert!(x.iter().all(|&x| x == 0.0), "{name}");
            } else {
                drawn.extend(x);
            }
        }
        let n = drawn.len() as f64;
        let mean = drawn.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let std = (drawn.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n).sqrt();
        // Four standard errors.
        assert!(mean.abs() < 4.0 * 0.02 / n.sqrt(), "{mean} of {n}");
        assert!((std / 0.02 - 1.0).abs() < 4.0 / (2.0 * n).sqrt(), "{std} of {n}");
        // No element says anything of the next, nor of the one in the next group of eight.
        for lag in [1, 8] {
            let product = |pair: &[f32]| f64::from(pair[0]) * f64::from(pair[lag]) / (0.02 * 0.02);
            let correlation = drawn.windows(lag + 1).map(product).sum::<f64>() / n;
            assert!(correlation.abs() < 4.0 / n.sqrt(), "lag {lag}: {correlation} of {n}");
        }
    }

    #[test]
    fn the_table_is_a_standard_normal() {
        let values: Vec<f64> = quantiles().map(f64::from).collect();
        assert!(values.len() == 65_536 && values.is_sorted());
        let variance = values.iter().map(|x| x * x).sum::<f64>() / 65_536.0;
        // Computed with Python's statistics.NormalDist.
        assert!((variance - 0.999_979_718_65).abs() < 1e-7, "{variance}");
        assert!((values[55_138] - 1.000_008_243_4).abs() < 1e-6, "{}", values[55_138]);
        assert!((values[65_535] - 4.324_919_040_8).abs() < 1e-6, "{}", values[65_535]);
    }
}
