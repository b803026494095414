//! Model directories with random weights.
//!
//! For benchmarks and tests of any shape, and as the beginning of a model trained from nothing. Weights
//! are what `transformers` initialises with: normal with standard deviation 0.02, norms 1, biases 0.
//!
//! Every number is a function of seed, tensor and place alone, so a directory is the same whatever
//! the number of threads, and the same seed gives float32 and bfloat16 weights that differ by the
//! rounding only. A model larger than memory can be written: numbers are made in blocks as the file
//! is written. Files are split as on the hub, [`MAX_SHARD_BYTES`] to a shard.

use std::path::Path;

use half::{bf16, f16};
use rayon::prelude::*;
use serde_json::json;

use super::config::ModelConfig;
use super::weights::{INDEX_FILE, WEIGHTS_FILE};
use crate::Result;
use crate::files::atomic::write_atomic;
use crate::files::safetensors::{Dtype, TensorSpec, write_safetensors};
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

/// Writes `config.json` and random weights in `dtype` for `config` into the directory `dir`, which must
/// exist.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) naming the file that cannot be written.
pub fn write_random_model(dir: &Path, config: &ModelConfig, dtype: Dtype, seed: u64) -> Result<()> {
    let config = ModelConfig { torch_dtype: Some(dtype), ..config.clone() };
    let text = format!("{:#}\n", config.to_json());
    write_atomic(&dir.join("config.json"), |out| out.write_all(text.as_bytes()))?;
    write_random_weights(dir, &config, dtype, seed, MAX_SHARD_BYTES)
}

/// Writes random weights, in shards of at most `max_shard_bytes` (or one tensor, if that is larger).
///
/// # Errors
/// As [`write_random_model`].
pub fn write_random_weights(
    dir: &Path,
    config: &ModelConfig,
    dtype: Dtype,
    seed: u64,
    max_shard_bytes: u64,
) -> Result<()> {
    let specs = config.tensors().into_iter().map(|(name, shape)| TensorSpec { name, shape, dtype });
    // The tensor's number in the whole model is part of the counter, so shards do not matter.
    let mut shards: Vec<Vec<(u32, TensorSpec)>> = vec![Vec::new()];
    let (mut filled, mut total) = (0u64, 0u64);
    for (number, spec) in (0u32..).zip(specs) {
        // The bounds of `ModelConfig` keep every product far below 2^64.
        let bytes = spec.bytes().unwrap_or(usize::MAX) as u64;
        if filled > 0 && filled + bytes > max_shard_bytes {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        total += bytes;
        if let Some(shard) = shards.last_mut() {
            shard.push((number, spec));
        }
    }
    if let [only] = shards.as_slice() {
        return write_shard(&dir.join(WEIGHTS_FILE), only, seed);
    }
    let mut weight_map = serde_json::Map::new();
    for (place, shard) in shards.iter().enumerate() {
        let file = format!("model-{:05}-of-{:05}.safetensors", place + 1, shards.len());
        write_shard(&dir.join(&file), shard, seed)?;
        weight_map.extend(shard.iter().map(|(_, spec)| (spec.name.clone(), json!(file))));
    }
    let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
    write_atomic(&dir.join(INDEX_FILE), |out| writeln!(out, "{index:#}"))
}

/// Writes one weights file.
fn write_shard(path: &Path, tensors: &[(u32, TensorSpec)], seed: u64) -> Result<()> {
    let specs: Vec<TensorSpec> = tensors.iter().map(|(_, spec)| spec.clone()).collect();
    let philox = Philox::new(seed);
    write_safetensors(path, &specs, &[("format", "pt")], |index, out| {
        let (number, spec) = &tensors[index];
        let initial = Initial::of(&spec.name);
        let four = |group: u64| initial.four(&philox, *number, group);
        let elements: usize = spec.shape.iter().product();
        let mut bytes = Vec::new();
        for start in (0..elements).step_by(BLOCK) {
            let count = BLOCK.min(elements - start);
            bytes.resize(count * spec.dtype.size(), 0);
            let piece = PIECE * spec.dtype.size();
            bytes.par_chunks_mut(piece).enumerate().for_each(|(index, piece)| {
                let first = (start + index * PIECE) as u64;
                match spec.dtype {
                    Dtype::F32 => fill(piece, first, four, f32::to_le_bytes),
                    Dtype::Bf16 => fill(piece, first, four, |x| bf16::from_f32(x).to_le_bytes()),
                    Dtype::F16 => fill(piece, first, four, |x| f16::from_f32(x).to_le_bytes()),
                }
            });
            out.write_all(&bytes)?;
        }
        Ok(())
    })
}

/// Fills `bytes` with elements from place `first` on, a multiple of four.
fn fill<const N: usize>(
    bytes: &mut [u8],
    first: u64,
    four: impl Fn(u64) -> [f32; 4],
    encode: impl Fn(f32) -> [u8; N],
) {
    for (group, bytes) in bytes.chunks_mut(4 * N).enumerate() {
        for (element, x) in bytes.chunks_exact_mut(N).zip(four(first / 4 + group as u64)) {
            element.copy_from_slice(&encode(x));
        }
    }
}

/// What the elements of a tensor are initialised to.
#[derive(Clone, Copy)]
enum Initial {
    Ones,
    Zeros,
    Normal,
}

impl Initial {
    /// The rule for the tensor `name`.
    fn of(name: &str) -> Self {
        if name.ends_with("norm.weight") {
            Initial::Ones
        } else if name.ends_with(".bias") {
            Initial::Zeros
        } else {
            Initial::Normal
        }
    }

    /// The four elements from place `4 * group` on of tensor number `tensor`.
    fn four(self, philox: &Philox, tensor: u32, group: u64) -> [f32; 4] {
        match self {
            Initial::Ones => [1.0; 4],
            Initial::Zeros => [0.0; 4],
            Initial::Normal => {
                let counter = [group as u32, (group >> 32) as u32, tensor, STREAM];
                philox.normals(counter).map(|x| x * INITIALIZER_RANGE)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::presets::Preset;
    use crate::model::weights::Weights;

    fn make(dtype: Dtype, seed: u64, max_shard_bytes: u64) -> (tempfile::TempDir, Weights) {
        let dir = tempfile::tempdir().unwrap();
        let config = ModelConfig { vocab_size: 65, ..Preset::Qwen25_1_5b.config() };
        let config = ModelConfig { hidden_size: 24, intermediate_size: 36, num_hidden_layers: 2, ..config };
        let config = ModelConfig { bos_token_id: None, eos_token_ids: vec![], ..config };
        write_random_weights(dir.path(), &config, dtype, seed, max_shard_bytes).unwrap();
        let weights = Weights::open(dir.path()).unwrap();
        for (name, shape) in config.tensors() {
            assert_eq!(weights.get(&name, &shape).unwrap().dtype(), dtype);
        }
        assert_eq!(weights.names().count(), config.tensors().len());
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
        drawn.sort_by(f32::total_cmp);
        drawn.dedup();
        // float32 values collide now and then; repeated blocks would halve the number.
        assert!(drawn.len() as f64 > 0.95 * n);
    }
}
