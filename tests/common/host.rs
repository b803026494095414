//! Matrices on the host, and comparisons with float64 references.

use colar_engine::device::Dtype;
use colar_engine::device::prelude::*;
use colar_engine::files::safetensors::{TensorSpec, write_safetensors};
use colar_engine::files::weights::Weights;
use colar_engine::random::Stream;
use half::{bf16, f16};

/// A row-major float32 matrix on the host.
#[derive(Debug, Clone)]
pub struct Host {
    pub rows: usize,
    pub cols: usize,
    pub values: Vec<f32>,
}

impl Host {
    pub fn new(rows: usize, cols: usize, values: Vec<f32>) -> Self {
        assert_eq!(values.len(), rows * cols);
        Host { rows, cols, values }
    }

    /// Independent standard normal values, times `scale`.
    pub fn normal(rows: usize, cols: usize, scale: f32, seed: u64) -> Self {
        let mut stream = Stream::new(seed, 0x4057);
        Host::new(rows, cols, (0..rows * cols).map(|_| stream.normal() * scale).collect())
    }

    /// The same value everywhere.
    pub fn full(rows: usize, cols: usize, value: f32) -> Self {
        Host::new(rows, cols, vec![value; rows * cols])
    }

    /// The nearest values that bf16 holds.
    pub fn rounded(mut self) -> Self {
        self.values.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32());
        self
    }

    /// An element in float64.
    pub fn at(&self, row: usize, col: usize) -> f64 {
        f64::from(self.values[row * self.cols + col])
    }

    /// A row in float64.
    pub fn row(&self, row: usize) -> Vec<f64> {
        (0..self.cols).map(|c| self.at(row, c)).collect()
    }

    /// A float32 copy on the device.
    pub fn up<D: Device>(&self, device: &D) -> D::Tensor {
        device.upload(self.rows, self.cols, &self.values).unwrap()
    }

    /// The same matrix as a weight of a mapped file in `dtype`, and what its elements were rounded to.
    pub fn adopt<D: Device>(&self, device: &D, dtype: Dtype) -> (D::Tensor, Host) {
        let rounded: Vec<f32> = self
            .values
            .iter()
            .map(|&x| match dtype {
                Dtype::F32 => x,
                Dtype::Bf16 => bf16::from_f32(x).to_f32(),
                Dtype::F16 => f16::from_f32(x).to_f32(),
            })
            .collect();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights.safetensors");
        let spec = TensorSpec { name: "w".into(), shape: vec![self.rows, self.cols], dtype };
        write_safetensors(&path, &[spec], &[], |_, out| {
            for &x in &rounded {
                match dtype {
                    Dtype::F32 => out.write_all(&x.to_le_bytes())?,
                    Dtype::Bf16 => out.write_all(&bf16::from_f32(x).to_le_bytes())?,
                    Dtype::F16 => out.write_all(&f16::from_f32(x).to_le_bytes())?,
                }
            }
            Ok(())
        })
        .unwrap();
        // The mapping outlives the directory entry.
        let tensor = device.adopt(Weights::open_file(&path).unwrap().tensor("w").unwrap()).unwrap();
        (tensor, Host::new(self.rows, self.cols, rounded))
    }
}

/// An output buffer full of NaN: whatever an operation fails to write, or reads first, shows.
pub fn poisoned<D: Device>(device: &D, rows: usize, cols: usize) -> D::Tensor {
    Host::full(rows, cols, f32::NAN).up(device)
}

/// A tensor's values.
pub fn read<D: Device>(device: &D, t: &D::Tensor) -> Vec<f32> {
    device.read(t).unwrap()
}

/// Fails unless every element agrees: |got − want| ≤ `tolerance` · (|want| + its entry of `scale`),
/// where the scale is the sum of the magnitudes that were added up to the element.
pub fn close(what: &str, got: &[f32], want: &[(f64, f64)], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: number of elements");
    for (i, (&got, &(want, scale))) in got.iter().zip(want).enumerate() {
        let error = (f64::from(got) - want).abs();
        let bound = tolerance * (want.abs() + scale);
        assert!(
            error <= bound,
            "{what}, element {i}: {got} instead of {want}, off by {error:.1e} > {bound:.1e}"
        );
    }
}
