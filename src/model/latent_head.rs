//! The latent head (spec section 4): from a hidden state to the distribution of the next latent.
//!
//! ```text
//! x = LayerNorm(W2·gelu(W1·h + b1) + b2)      mu = Wm·x + bm      log_sigma = Ws·x + bs
//! ```

use super::linear::Linear;
use super::params::{Grads, ParamId, Params};
use super::weight_spec::{Group, Role, WeightSpec};
use crate::device::{Device, TensorInfo};
use crate::files::weights::Weights;
use crate::random::Philox;
use crate::{Error, Result};

/// The shape of a latent head (spec section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LatentHeadConfig {
    /// Width I of its hidden layers.
    pub intermediate_size: usize,
    /// Whether it has no variance of its own (no `log_std`): the ablation DL.
    pub deterministic: bool,
}

impl LatentHeadConfig {
    /// Every tensor of `latent_head.safetensors` for a model of width `hidden_size`: weight and bias of each layer.
    pub fn weights(&self, hidden_size: usize) -> Vec<WeightSpec> {
        let (h, i) = (hidden_size, self.intermediate_size);
        let name = |layer: &str, part: &str| format!("latent_policy.{layer}.{part}");
        let bias = |layer, len| WeightSpec::bias(name(layer, "bias"), len, Group::LatentHead);
        let linear = |layer, [out, input]: [usize; 2]| {
            [WeightSpec::matrix(name(layer, "weight"), [out, input], Group::LatentHead), bias(layer, out)]
        };
        // fc.3 is the LayerNorm.
        let norm = [WeightSpec::norm(name("fc.3", "weight"), i, Group::LatentHead), bias("fc.3", i)];
        let mut layers = vec![linear("fc.0", [i, h]), linear("fc.2", [i, i]), norm, linear("mean", [h, i])];
        if !self.deterministic {
            layers.push(linear("log_std", [h, i]));
        }
        layers.into_iter().flatten().collect()
    }
}

/// The structure of the latent head; its numbers are in [`Params`].
#[derive(Debug, Clone)]
pub struct LatentHead {
    pub(super) fc0: Linear,
    pub(super) fc2: Linear,
    pub(super) norm: (ParamId, ParamId),
    pub(super) mean: Linear,
    /// `None` in the deterministic head.
    pub(super) log_std: Option<Linear>,
}

/// The distribution of `N` latents: `mu[N, D]` and, unless deterministic, `log_sigma[N, D]`.
pub struct LatentDist<D: Device> {
    /// Means, in units of `embeds_std`.
    pub mu: D::Tensor,
    /// Logarithms of the standard deviations, unbounded.
    pub log_sigma: Option<D::Tensor>,
}

/// Values for the backward pass of the head.
pub struct LatentHeadSaved<D: Device> {
    h: D::Tensor,
    inner: D::Tensor,
    gelu: D::Tensor,
    outer: D::Tensor,
    x: D::Tensor,
}

impl<D: Device> LatentHeadSaved<D> {
    /// The hidden states that went in, `[N, H]`.
    pub fn into_input(self) -> D::Tensor {
        self.h
    }
}

impl LatentHead {
    fn from_ids(ids: &[ParamId]) -> Result<Self> {
        let linear = |i: usize| Linear { weight: ids[i], bias: Some(ids[i + 1]), lora: None };
        if ids.len() < 8 {
            return Err(Error::other("the latent head lacks tensors"));
        }
        Ok(LatentHead {
            fc0: linear(0),
            fc2: linear(2),
            norm: (ids[4], ids[5]),
            mean: linear(6),
            log_std: (ids.len() > 8).then(|| linear(8)),
        })
    }

    /// Reads the head from `latent_head.safetensors` (spec section 8), as float32 copies.
    ///
    /// # Errors
    /// A missing tensor, a wrong shape, or an error of the device.
    pub fn load<D: Device>(
        device: &D,
        params: &mut Params<D>,
        weights: &Weights,
        config: &LatentHeadConfig,
        hidden: usize,
    ) -> Result<Self> {
        let mut ids = Vec::new();
        for w in config.weights(hidden) {
            let values = weights.get(&w.name, &w.shape)?.to_f32_vec();
            let [rows, cols] = w.dims();
            let value = device.upload(rows, cols, &values)?;
            ids.push(params.add(w, value));
        }
        Self::from_ids(&ids)
    }

    /// A new head: weights and biases uniform in ±1/√fan_in, the LayerNorm 1 and 0.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn random<D: Device>(
        device: &D,
        params: &mut Params<D>,
        config: &LatentHeadConfig,
        hidden: usize,
        seed: u64,
    ) -> Result<Self> {
        let mut ids = Vec::new();
        let mut of_norm = false;
        for (i, w) in config.weights(hidden).into_iter().enumerate() {
            let [rows, cols] = w.dims();
            let fan_in = if i < 2 { hidden } else { config.intermediate_size };
            // A bias follows the weight that it belongs to.
            of_norm = w.role == Role::Norm || of_norm && w.role == Role::Bias;
            let values = match w.role {
                Role::Norm => vec![1.0; cols],
                Role::Bias if of_norm => vec![0.0; cols],
                _ => uniform_values(w.numel(), 1.0 / (fan_in as f32).sqrt(), seed, i as u32),
            };
            let value = device.upload(rows, cols, &values)?;
            ids.push(params.add(w, value));
        }
        Self::from_ids(&ids)
    }

    /// Whether the head has no log_sigma.
    pub fn deterministic(&self) -> bool {
        self.log_std.is_none()
    }

    /// Width of the inner layers.
    pub fn intermediate_size<D: Device>(&self, params: &Params<D>) -> usize {
        params.get(self.fc0.weight).rows()
    }

    /// Hidden states `[N, H]` to the distribution of the next latents `[N, H]`.
    ///
    /// # Errors
    /// Shape mismatches and errors of the device.
    pub fn forward<D: Device>(
        &self,
        device: &D,
        params: &Params<D>,
        h: D::Tensor,
    ) -> Result<(LatentDist<D>, LatentHeadSaved<D>)> {
        let (inner, _) = self.fc0.forward(device, params, &h)?;
        let mut gelu = device.empty(inner.rows(), inner.cols())?;
        device.gelu(&inner, &mut gelu)?;
        let (outer, _) = self.fc2.forward(device, params, &gelu)?;
        let mut x = device.empty(outer.rows(), outer.cols())?;
        device.layer_norm(&outer, params.get(self.norm.0), params.get(self.norm.1), &mut x)?;
        let (mu, _) = self.mean.forward(device, params, &x)?;
        let log_sigma = match &self.log_std {
            Some(l) => Some(l.forward(device, params, &x)?.0),
            None => None,
        };
        Ok((LatentDist { mu, log_sigma }, LatentHeadSaved { h, inner, gelu, outer, x }))
    }

    /// Adds to the gradients of the head and returns that of the hidden states, `[N, H]`.
    ///
    /// # Errors
    /// Shape mismatches and errors of the device.
    pub fn backward<D: Device>(
        &self,
        device: &D,
        params: &Params<D>,
        grads: &mut Grads<D>,
        saved: &LatentHeadSaved<D>,
        dmu: &D::Tensor,
        dlog_sigma: Option<&D::Tensor>,
    ) -> Result<D::Tensor> {
        let LatentHeadSaved { h, inner, gelu, outer, x } = saved;
        let mut dx = device.empty(x.rows(), x.cols())?;
        self.mean.backward(device, params, grads, x, &None, dmu, Some((&mut dx, 0.0)))?;
        if let (Some(log_std), Some(dls)) = (&self.log_std, dlog_sigma) {
            log_std.backward(device, params, grads, x, &None, dls, Some((&mut dx, 1.0)))?;
        }
        let mut douter = device.empty(x.rows(), x.cols())?;
        let affine = grads.pair_mut(self.norm.0, self.norm.1);
        device.layer_norm_backward(&dx, outer, params.get(self.norm.0), &mut douter, affine)?;
        let mut dgelu = dx;
        self.fc2.backward(device, params, grads, gelu, &None, &douter, Some((&mut dgelu, 0.0)))?;
        let mut dinner = douter;
        device.gelu_backward(&dgelu, inner, &mut dinner)?;
        let mut dh = device.empty(h.rows(), h.cols())?;
        self.fc0.backward(device, params, grads, h, &None, &dinner, Some((&mut dh, 0.0)))?;
        Ok(dh)
    }
}

/// `n` numbers uniform in ±bound: stream `stream` of `seed`.
pub(crate) fn uniform_values(n: usize, bound: f32, seed: u64, stream: u32) -> Vec<f32> {
    let philox = Philox::new(seed);
    (0..n.div_ceil(4))
        .flat_map(|block| philox.uniforms([block as u32, stream, 0, 2]))
        .take(n)
        .map(|u| (2.0 * u - 1.0) * bound)
        .collect()
}
