//! Shared by the test programs: the golden fixtures and comparisons.
#![allow(dead_code)]

#[cfg(cuda_host)]
pub mod accesses;
pub mod adapters;
pub mod cli;
#[cfg(cuda_host)]
pub mod driver;
pub mod float64;
pub mod gradient;
pub mod host;
pub mod levels;
pub mod runs;

use std::path::{Path, PathBuf};

use colar_engine::data::Sample;
use colar_engine::device::Dtype;
use colar_engine::device::cpu::CpuDevice;
use colar_engine::device::prelude::*;
use colar_engine::files::weights::Weights;
use serde_json::Value;

/// The repository: where it was built, unless `COLAR_TEST_ROOT` names another place.
pub fn root() -> PathBuf {
    std::env::var_os("COLAR_TEST_ROOT").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into()).into()
}

/// The directory of a golden model.
pub fn golden(name: &str) -> PathBuf {
    root().join("tests/golden").join(name)
}

/// ‖got − want‖ / ‖want‖.
pub fn relative(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let gap = norm(&mut got.iter().zip(want).map(|(&a, &b)| f64::from(a) - f64::from(b)));
    gap / norm(&mut want.iter().map(|&x| f64::from(x))).max(1e-9)
}

/// A sample of the golden files, whose steps are one string.
pub fn sample(v: &Value) -> Sample {
    let text = |k: &str| v[k].as_str().unwrap().to_owned();
    Sample {
        question: text("question"),
        steps: text("steps").split('\n').map(str::to_owned).collect(),
        answer: text("answer"),
    }
}

/// A directory, given or temporary.
pub enum Dir {
    Given(PathBuf),
    Made(tempfile::TempDir),
}

impl Dir {
    pub fn path(&self) -> &Path {
        match self {
            Dir::Given(p) => p,
            Dir::Made(d) => d.path(),
        }
    }
}

/// The checkpoint of a golden model without its adapter.
pub fn head_only(model: &Path) -> Dir {
    let dir = tempfile::tempdir().unwrap();
    for file in ["colar.json", "latent_head.safetensors"] {
        std::fs::copy(model.join("adapter").join(file), dir.path().join(file)).unwrap();
    }
    Dir::Made(dir)
}

/// A one-element tensor of a golden file, if it is there.
pub fn scalar(vectors: &Weights, name: &str) -> Option<f64> {
    vectors.contains(name).then(|| f64::from(vectors.tensor(name).unwrap().to_f32_vec()[0]))
}

/// A float tensor on the device.
pub fn tensor<D: Device>(device: &D, vectors: &Weights, name: &str) -> D::Tensor {
    let t = vectors.tensor(name).unwrap();
    let (rows, cols) = if let [r, c] = *t.shape() { (r, c) } else { (1, t.numel()) };
    device.upload(rows, cols, &t.to_f32_vec()).unwrap()
}

/// As [`tensor`], in the dtype of activations.
pub fn activations<D: Device>(device: &D, vectors: &Weights, name: &str) -> D::Tensor {
    let wide = tensor(device, vectors, name);
    let all: Vec<u32> = (0..wide.rows() as u32).collect();
    let mut out = device.empty(wide.rows(), wide.cols()).unwrap();
    device.gather_rows(1.0, &wide, &device.index(&all).unwrap(), &mut out).unwrap();
    out
}

/// Tolerances of golden values, as ratios of norms (spec section 9).
///
/// In bf16 the gradients of the query projections are the least exact: softmax passes on differences of what is nearly
/// equal. No one rounding does it: those of the golden models' float32 matrices, of the residual stream and of
/// attention's result each make up to 1e-2, and the others together as much.
#[derive(Clone, Copy)]
pub struct Bounds {
    /// Of losses and log-probabilities.
    pub loss: f64,
    /// Of the gradient of all weights together.
    pub gradient: f64,
    /// Of the gradient of one weight.
    pub weight: f64,
    /// A rounding of a number of order 1.
    pub rounding: f64,
}

impl Bounds {
    /// The tolerances for a device's compute dtype.
    pub fn of<D: Device>(device: &D) -> Self {
        match device.compute_dtype() {
            Dtype::Bf16 => {
                Bounds { loss: 2e-2, gradient: 2e-2, weight: 5e-2, rounding: f64::from(half::bf16::EPSILON) }
            }
            _ => Bounds { loss: 1e-5, gradient: 1e-4, weight: 1e-4, rounding: f64::from(f32::EPSILON) },
        }
    }
}

/// Compares gradients, weight by weight and all together.
pub struct Compared {
    bounds: Bounds,
    squares: [f64; 2],
}

impl Compared {
    pub fn new(bounds: Bounds) -> Self {
        Compared { bounds, squares: [0.0; 2] }
    }

    pub fn add(&mut self, name: &str, got: &[f32], want: &[f32]) {
        let error = relative(got, want);
        assert!(error < self.bounds.weight, "{name}: relative error {error:.1e}");
        for (&got, &want) in got.iter().zip(want) {
            self.squares[0] += (f64::from(got) - f64::from(want)).powi(2);
            self.squares[1] += f64::from(want).powi(2);
        }
    }

    pub fn finish(self, case: &str) {
        let error = (self.squares[0] / self.squares[1].max(1e-18)).sqrt();
        assert!(error < self.bounds.gradient, "{case}: relative error {error:.1e} of the whole gradient");
    }
}

/// An int64 tensor of a golden file, which holds token ids or masks.
pub fn ints(file: &Path, name: &str) -> Vec<i64> {
    let bytes = std::fs::read(file).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let data = tensors.tensor(name).unwrap();
    assert_eq!(data.dtype(), safetensors::Dtype::I64);
    data.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Tests of both golden models by `check(device, name)`: on the CPU, and by the kernels with float32 activations.
#[allow(unused_macros)]
macro_rules! golden_models {
    ($check:path) => {
        #[test]
        fn llama_tiny() {
            $check(&$crate::common::cpu(), "llama-tiny");
        }

        #[test]
        fn qwen2_tiny() {
            $check(&$crate::common::cpu(), "qwen2-tiny");
        }

        #[test]
        #[cfg(cuda_host)]
        fn llama_tiny_by_the_kernels() {
            $check(&$crate::common::driver::kernels(colar_engine::device::Dtype::F32, 1), "llama-tiny");
        }

        #[test]
        #[cfg(cuda_host)]
        fn qwen2_tiny_by_the_kernels() {
            $check(&$crate::common::driver::kernels(colar_engine::device::Dtype::F32, 2), "qwen2-tiny");
        }
    };
}
#[allow(unused_imports)]
pub(crate) use golden_models;

/// The CPU, two threads.
pub fn cpu() -> CpuDevice {
    CpuDevice::new(2).unwrap()
}
