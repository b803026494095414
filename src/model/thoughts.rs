//! Continuous thoughts (spec section 11): positions after a question whose input is not a token.
//!
//! The input embedding of a thought is the final hidden state (after the last RMSNorm) of the position
//! before it (Coconut: Hao et al., arXiv 2412.06769), or a projection of it (CODI: Shen et al., arXiv
//! 2502.21074, and the baseline "distill" of the CoLaR paper):
//!
//! ```text
//! z = W2·gelu(W1·h + b1) + b2          W1, W2: [H, H]; gelu exact (erf)
//! ```
//!
//! The projector of CODI's own checkpoints has another width within, W1: [I, H] and W2: [H, I], and a LayerNorm of z.
//!
//! A thought is deterministic, so the model needs no more than their number and the projector.

use super::latent_head::uniform_values;
use super::linear::Linear;
use super::params::{Grads, ParamId, Params};
use super::weight_spec::{Group, Role, WeightSpec};
use crate::Result;
use crate::device::{Device, TensorInfo};
use crate::files::weights::Weights;

/// The name of the projector's weights in a checkpoint: float32, shaped as [`ProjectorConfig::weights`] says.
pub const PROJECTOR_FILE: &str = "thought_projector.safetensors";

/// First of the Philox streams of a new projector; those of the latent head begin at 0, those of
/// adapters at 0x100.
const STREAM: u32 = 0x80;

/// How a model thinks in continuous thoughts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThoughtsConfig {
    /// Thoughts after the question.
    pub count: usize,
    /// The projector that stands between a hidden state and the thought that it becomes, if one does.
    pub projector: Option<ProjectorConfig>,
}

/// The shape of a projector.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProjectorConfig {
    /// The width I of its inner layer; `None`: that of the model.
    pub intermediate_size: Option<usize>,
    /// Whether it ends in a LayerNorm (eps 1e-5, affine).
    pub norm: bool,
}

/// The continuous thoughts of a model.
#[derive(Debug, Clone)]
pub struct Thoughts {
    /// Thoughts after the question.
    pub count: usize,
    /// Turns a hidden state into a thought; without it the state itself is the thought.
    pub projector: Option<Projector>,
}

impl Thoughts {
    /// Their description in a checkpoint.
    pub fn config(&self) -> ThoughtsConfig {
        ThoughtsConfig { count: self.count, projector: self.projector.as_ref().map(|p| p.config) }
    }
}

/// The structure of the projector; its numbers are in [`Params`].
#[derive(Debug, Clone)]
pub struct Projector {
    /// Its shape.
    pub config: ProjectorConfig,
    /// `[I, H]` with bias.
    pub fc0: Linear,
    /// `[H, I]` with bias.
    pub fc2: Linear,
    /// Factors and bias of the LayerNorm, if it has one.
    pub norm: Option<(ParamId, ParamId)>,
}

/// Values kept for the backward pass of the projector.
pub struct ProjectorSaved<D: Device> {
    h: D::Tensor,
    inner: D::Tensor,
    gelu: D::Tensor,
    /// The input of the LayerNorm, if there is one.
    outer: Option<D::Tensor>,
}

impl ProjectorConfig {
    /// The weights of a projector of a model of width `hidden`, in files and in [`Params`].
    pub fn weights(&self, hidden: usize) -> Vec<WeightSpec> {
        let inner = self.intermediate_size.unwrap_or(hidden);
        let name = |layer: &str, part: &str| format!("thought_projector.{layer}.{part}");
        let bias = |layer: &str, len| WeightSpec::bias(name(layer, "bias"), len, Group::Projector);
        let linear = |layer: &str, [out, input]: [usize; 2]| {
            [WeightSpec::matrix(name(layer, "weight"), [out, input], Group::Projector), bias(layer, out)]
        };
        let norm = [WeightSpec::norm(name("norm", "weight"), hidden, Group::Projector), bias("norm", hidden)];
        let mut layers = vec![linear("fc.0", [inner, hidden]), linear("fc.2", [hidden, inner])];
        layers.extend(self.norm.then_some(norm));
        layers.into_iter().flatten().collect()
    }
}

impl Projector {
    /// Adds its tensors to `params`, each with the values that `values` gives for its index.
    fn add<D: Device>(
        device: &D,
        params: &mut Params<D>,
        hidden: usize,
        config: ProjectorConfig,
        values: impl Fn(usize, &WeightSpec) -> Result<Vec<f32>>,
    ) -> Result<Self> {
        let mut ids = Vec::new();
        for (i, w) in config.weights(hidden).into_iter().enumerate() {
            let [rows, cols] = w.dims();
            let value = device.upload(rows, cols, &values(i, &w)?)?;
            ids.push(params.add(w, value));
        }
        let linear = |i: usize| Linear { weight: ids[i], bias: Some(ids[i + 1]), lora: None };
        let norm = config.norm.then(|| (ids[4], ids[5]));
        Ok(Projector { config, fc0: linear(0), fc2: linear(2), norm })
    }

    /// Reads the projector of a model of hidden size `hidden` from [`PROJECTOR_FILE`], as float32 copies.
    ///
    /// # Errors
    /// A missing tensor, a wrong shape, or an error of the device.
    pub fn load<D: Device>(
        device: &D,
        params: &mut Params<D>,
        weights: &Weights,
        hidden: usize,
        config: ProjectorConfig,
    ) -> Result<Self> {
        Self::add(device, params, hidden, config, |_, w| Ok(weights.get(&w.name, &w.shape)?.to_f32_vec()))
    }

    /// A new projector: weights and biases uniform in ±1/√fan_in, which is PyTorch's default (Kaiming, a = √5), a LayerNorm 1
    /// and 0.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn random<D: Device>(
        device: &D,
        params: &mut Params<D>,
        hidden: usize,
        config: ProjectorConfig,
        seed: u64,
    ) -> Result<Self> {
        let inner = config.intermediate_size.unwrap_or(hidden);
        Self::add(device, params, hidden, config, |i, w| match (i, w.role) {
            (_, Role::Norm) => Ok(vec![1.0; w.numel()]),
            (4.., _) => Ok(vec![0.0; w.numel()]),
            _ => {
                let bound = 1.0 / (if i < 2 { hidden } else { inner } as f32).sqrt();
                Ok(uniform_values(w.numel(), bound, seed, STREAM + i as u32))
            }
        })
    }

    /// Hidden states `[N, H]` to thoughts `[N, H]`.
    ///
    /// # Errors
    /// Shape mismatches and errors of the device.
    pub fn forward<D: Device>(
        &self,
        device: &D,
        params: &Params<D>,
        h: D::Tensor,
    ) -> Result<(D::Tensor, ProjectorSaved<D>)> {
        let (inner, _) = self.fc0.forward(device, params, &h)?;
        let mut gelu = device.empty(inner.rows(), inner.cols())?;
        device.gelu(&inner, &mut gelu)?;
        let (outer, _) = self.fc2.forward(device, params, &gelu)?;
        let Some((weight, bias)) = self.norm else {
            return Ok((outer, ProjectorSaved { h, inner, gelu, outer: None }));
        };
        let mut z = device.empty(outer.rows(), outer.cols())?;
        device.layer_norm(&outer, params.get(weight), params.get(bias), &mut z)?;
        Ok((z, ProjectorSaved { h, inner, gelu, outer: Some(outer) }))
    }

    /// Adds to the gradients of the projector, given that of the thoughts (`dz[N, H]`), and returns that of
    /// the hidden states, `[N, H]`.
    ///
    /// # Errors
    /// Shape mismatches and errors of the device.
    pub fn backward<D: Device>(
        &self,
        device: &D,
        params: &Params<D>,
        grads: &mut Grads<D>,
        saved: &ProjectorSaved<D>,
        dz: &D::Tensor,
    ) -> Result<D::Tensor> {
        let ProjectorSaved { h, inner, gelu, outer } = saved;
        let douter = match (self.norm, outer) {
            (Some((weight, bias)), Some(outer)) => {
                let mut douter = device.empty(outer.rows(), outer.cols())?;
                let affine = grads.pair_mut(weight, bias);
                device.layer_norm_backward(dz, outer, params.get(weight), &mut douter, affine)?;
                Some(douter)
            }
            _ => None,
        };
        let dz = douter.as_ref().unwrap_or(dz);
        let mut dgelu = device.empty(gelu.rows(), gelu.cols())?;
        self.fc2.backward(device, params, grads, gelu, &None, dz, Some((&mut dgelu, 0.0)))?;
        let mut dinner = device.empty(inner.rows(), inner.cols())?;
        device.gelu_backward(&dgelu, inner, &mut dinner)?;
        let mut dh = device.empty(h.rows(), h.cols())?;
        self.fc0.backward(device, params, grads, h, &None, &dinner, Some((&mut dh, 0.0)))?;
        Ok(dh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::CpuDevice;
    use crate::device::prelude::*;
    use crate::files::safetensors::TensorData;
    use crate::files::safetensors::save_safetensors;

    #[test]
    fn its_tensors_are_those_of_the_file() {
        let device = CpuDevice::new(1).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(PROJECTOR_FILE);
        let stored: Vec<(String, Vec<usize>, Vec<f32>)> = ProjectorConfig::default()
            .weights(2)
            .into_iter()
            .enumerate()
            .map(|(i, w)| {
                let values = (0..w.numel()).map(|j| (10 * i + j) as f32).collect();
                (w.name, w.shape, values)
            })
            .collect();
        let names: Vec<&str> = stored.iter().map(|(name, ..)| name.as_str()).collect();
        let expected = ["fc.0.weight", "fc.0.bias", "fc.2.weight", "fc.2.bias"];
        assert_eq!(names, expected.map(|n| format!("thought_projector.{n}")));
        let write = |tensors: &[(String, Vec<usize>, Vec<f32>)]| {
            let tensors: Vec<_> =
                tensors.iter().map(|(n, s, v)| (n.clone(), s.clone(), TensorData::F32(v))).collect();
            save_safetensors(&path, &tensors, &[]).unwrap();
            Weights::open_file(&path).unwrap()
        };
        let mut params = Params::default();
        let projector =
            Projector::load(&device, &mut params, &write(&stored), 2, ProjectorConfig::default()).unwrap();
        let read = |id| device.read(params.get(id)).unwrap();
        assert_eq!(read(projector.fc0.weight), [0.0, 1.0, 2.0, 3.0]);
        assert_eq!(read(projector.fc2.bias.unwrap()), [30.0, 31.0]);
        let short = write(&stored[..3]);
        let shape = ProjectorConfig::default();
        let error =
            Projector::load(&device, &mut Params::default(), &short, 2, shape).unwrap_err().to_string();
        assert!(error.contains("thought_projector.fc.2.bias: is missing"), "{error}");
    }

    #[test]
    fn a_new_one_is_uniform_and_of_its_seed() {
        let device = CpuDevice::new(1).unwrap();
        let new = |seed| {
            let mut params = Params::default();
            Projector::random(&device, &mut params, 64, ProjectorConfig::default(), seed).unwrap();
            let values: Vec<Vec<f32>> = params.iter().map(|(_, p)| device.read(&p.value).unwrap()).collect();
            values
        };
        let (a, b) = (new(1), new(2));
        assert_eq!(a, new(1));
        assert_eq!(a.iter().map(Vec::len).collect::<Vec<_>>(), [4096, 64, 4096, 64]);
        for (a, b) in a.iter().zip(&b) {
            assert_ne!(a, b);
            let largest = a.iter().fold(0f32, |m, x| m.max(x.abs()));
            assert!((0.1..=0.125).contains(&largest), "{largest}");
        }
        assert_ne!(a[0], a[2]);
        // of a uniform number in ±b the variance is b²/3
        let variance = a[0].iter().map(|x| f64::from(x * x)).sum::<f64>() / 4096.0;
        assert!((variance * 3.0 * 64.0 - 1.0).abs() < 0.05, "{variance}");
    }

    /// Two hidden units by hand: z = W2·gelu(W1·h + b1) + b2.
    #[test]
    fn forward_follows_its_formula() {
        let device = CpuDevice::new(1).unwrap();
        let mut params = Params::default();
        let values = [vec![1.0, 0.0, 0.5, -1.0], vec![0.0, 0.25], vec![2.0, 1.0, 0.0, -1.0], vec![0.5, 1.0]];
        let shape = ProjectorConfig::default();
        let projector = Projector::add(&device, &mut params, 2, shape, |i, _| Ok(values[i].clone())).unwrap();
        let h = device.upload(1, 2, &[1.0, -0.5]).unwrap();
        let (z, _) = projector.forward(&device, &params, h).unwrap();
        // inner = (1, 0.5 + 0.5 + 0.25); gelu(1) = 0.8413447, gelu(1.25) = 1.1179377
        let z = device.read(&z).unwrap();
        let want = [2.0 * 0.841_344_7 + 1.117_937_7 + 0.5, -1.117_937_7 + 1.0];
        assert!(z.iter().zip(want).all(|(z, w)| (z - w).abs() < 1e-6), "{z:?} instead of {want:?}");
    }
}
