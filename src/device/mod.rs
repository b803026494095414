//! What a device can do, and the devices.
//!
//! Everything above this module (layers, losses, generation, training) is written once, against
//! [`Device`]. A device owns memory, in the form of [`Device::Tensor`] (a row-major matrix of
//! floats) and [`Device::Index`] (a vector of `u32`), and performs operations on it. The operations
//! are those of the engine, not of a tensor library: each is as coarse as the kernel one would
//! write for it by hand, so a backend never has to guess what could be fused.
//!
//! # Rules that hold for every operation
//!
//! * Activations have the device's compute dtype (float32 on `cpu`); trained weights, gradients,
//!   optimiser state, losses and log-sum-exps are float32; weights that are not trained keep the dtype of
//!   their file, and at inference have the form that [`Device::freeze`] gives them.
//! * Outputs are passed in and overwritten, unless the operation says that it adds.
//! * Shapes and dtypes are checked where a buffer enters an operation, and nowhere else; a
//!   mismatch is [`Error::Shape`](crate::Error::Shape) with both sides named.
//! * Equal inputs give equal bits on the same device with the same number of threads.
//! * An operation may run later than it returns; only [`Device::read`], [`Device::late`] and
//!   the operations that return host values wait.

mod choice;
pub mod cpu;
pub mod cuda;
pub mod decoder;
mod need;
mod open;
mod policy;
mod shape;

pub use choice::{ComputeDtype, DeviceKind};
pub use need::{Need, Room, Stay};
pub use open::{DeviceTask, run_on_device};
pub use policy::{PolicyElement, PolicyLoss, PolicyObjective, PolicyTerms};
pub(crate) use shape::{
    check, check_attention, check_below, check_disjoint, check_len, check_offsets, elements,
};

use std::time::{Duration, Instant};

pub use crate::files::safetensors::Dtype;

use decoder::{Decoder, DecoderModel};

use crate::Result;
use crate::files::mapped::MappedTensor;

/// What every device's matrix can tell about itself.
pub trait TensorInfo: Send + Sync {
    /// Number of rows.
    fn rows(&self) -> usize;
    /// Number of columns; rows are contiguous.
    fn cols(&self) -> usize;
    /// Element type.
    fn dtype(&self) -> Dtype;
}

/// What a device is made of.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Description {
    /// The processor, as its maker calls it.
    pub hardware: String,
    /// The version of what drives it, where something does.
    pub driver: Option<String>,
}

/// Attention geometry: `heads` query heads share `kv_heads` key and value heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
}

impl HeadShape {
    /// Width of a row of queries.
    pub fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of a row of keys or of values.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Query heads that share a head of keys and values.
    pub(crate) fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// The columns of one head.
    pub(crate) fn columns(&self, head: usize) -> std::ops::Range<usize> {
        head * self.head_dim..(head + 1) * self.head_dim
    }
}

/// One sequence's part in an attention call.
///
/// Query `i` of the span sees keys `0 ..= k_len - q_len + i` of the span: causal, aligned at the
/// end. A packed training batch has `k_start == q_start`; with a cache, `k_start` is the sequence's
/// place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First query row.
    pub q_start: usize,
    /// Query rows.
    pub q_len: usize,
    /// First key and value row.
    pub k_start: usize,
    /// Key and value rows; at least `q_len`.
    pub k_len: usize,
}

impl Span {
    /// How many keys query `i` sees.
    pub(crate) fn sees(&self, i: usize) -> usize {
        self.k_len - self.q_len + i + 1
    }
}

/// Where the draws of one row come from: counter-based, so the same key and counter give the same
/// numbers on every device and in every batch (spec section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw {
    /// Philox key: the request's seed.
    pub key: u64,
    /// Philox counter words 1 and 2: what is drawn, and the position it is drawn for.
    pub counter: [u32; 2],
}

/// How a token is chosen from its logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenChoice {
    /// Softmax temperature; 0 takes the arg max.
    pub temperature: f32,
    /// Nucleus mass kept, in (0, 1]; 1 keeps everything.
    pub top_p: f32,
    /// Source of the uniform number.
    pub draw: Draw,
}

/// The scalar factors of one latent loss (spec section 3).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LatentWeights {
    /// Which distance is minimised.
    pub loss: LatentLoss,
    /// Factor of the loss's gradient, for instance `latent_weight / (positions * D)`.
    pub loss_scale: f32,
    /// Factor of the entropy's gradient, for instance `entropy_weight / (positions * D)`.
    pub entropy_scale: f32,
}

/// The latent losses of spec section 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LatentLoss {
    /// Negative log-likelihood of the target under N(mu, sigma).
    Nll,
    /// Squared distance of a reparameterised sample ("soft-MSE").
    Mse,
    /// Expectation of [`LatentLoss::Mse`] over its noise: (mu − target)² + sigma².
    MseExpected,
}

/// Hyper-parameters of one AdamW step (spec section 7).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Step number, counted from 1, for the bias correction.
    pub step: u64,
    /// Factor on every gradient before use: gradient clipping.
    pub grad_scale: f32,
}

impl AdamW {
    /// Step `step` of the paper's optimiser: betas 0.9 and 0.999, eps 1e-8, gradients as they are.
    pub fn new(lr: f32, weight_decay: f32, step: u64) -> Self {
        AdamW { lr, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay, step, grad_scale: 1.0 }
    }

    /// The step with its gradients, whose norm is `norm`, scaled down to a norm of `clip`; 0 never clips.
    pub fn clipped(self, norm: f64, clip: f32) -> Self {
        let clip = f64::from(clip);
        let scale = if clip > 0.0 && norm > clip { clip / norm } else { 1.0 };
        AdamW { grad_scale: self.grad_scale * scale as f32, ..self }
    }
}

/// One tensor's share in [`Device::adamw`]; all four have the same shape and are float32.
pub struct AdamWTensor<'a, D: Device> {
    /// The weights, updated.
    pub value: &'a mut D::Tensor,
    /// Their gradient.
    pub grad: &'a D::Tensor,
    /// First moment, updated.
    pub m: &'a mut D::Tensor,
    /// Second moment, updated.
    pub v: &'a mut D::Tensor,
}

/// A place to compute: memory and the operations of the engine.
///
/// `T` is the number of packed rows (tokens or latents), `H` the hidden size, `V` the vocabulary,
/// `N` a number of selected rows.
pub trait Device: Clone + Send + Sync + Sized + 'static {
    /// A row-major matrix of floats on the device.
    type Tensor: TensorInfo;
    /// A vector of `u32` on the device.
    type Index: Send + Sync;
    /// A number that may not be computed yet.
    type Late: Send;
    /// What decodes a few sequences faster than the operations below one by one.
    type Decoder<'a>: Decoder<Self>;

    /// Short name, as on the command line.
    fn name(&self) -> &'static str;

    /// What it is made of, for reports of measurements.
    fn description(&self) -> Description;

    /// Runs `lead`, then `f`, and gives the time that the device took from the end of the one to the end of the
    /// other. A device that works behind the host's back goes from `lead` straight into `f` if `lead` keeps it
    /// busy for as long as the host needs to ask for all of `f`.
    ///
    /// # Errors
    /// Those of `lead` and `f`, and what the device says of their work.
    fn time(&self, lead: impl FnOnce() -> Result<()>, f: impl FnOnce() -> Result<()>) -> Result<Duration> {
        lead()?;
        let start = Instant::now();
        f()?;
        Ok(start.elapsed())
    }

    /// Runs `f` where the device works best: on `cpu`, inside its thread pool. Every sequence of
    /// operations should be wrapped once, at the outermost level.
    fn scope<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R;

    /// Dtype of activations.
    fn compute_dtype(&self) -> Dtype;

    /// Whether an adopted matrix stays in its mapped file, so that changing its values costs memory.
    fn maps_weights(&self) -> bool;

    // ---- memory -----------------------------------------------------------------------------

    /// Makes sure, before a run, that what it takes is there, and sets memory aside for the parts that come
    /// and go with it. Does nothing on `cpu`, where the operating system finds memory as it is touched.
    ///
    /// # Errors
    /// When the parts do not fit: each by name and size, how much is free, and what needs less.
    fn reserve(&self, needs: &[Need]) -> Result<()>;

    /// The most bytes that buffers of this device ever took together; `None` where they are the process's own
    /// memory.
    fn peak_bytes(&self) -> Result<Option<usize>> {
        Ok(None)
    }

    /// An activation buffer of the compute dtype; its content is undefined.
    fn empty(&self, rows: usize, cols: usize) -> Result<Self::Tensor>;
    /// A float32 buffer of zeros.
    fn zeros(&self, rows: usize, cols: usize) -> Result<Self::Tensor>;
    /// An activation buffer of the compute dtype, of zeros.
    fn cleared(&self, rows: usize, cols: usize) -> Result<Self::Tensor> {
        let mut t = self.empty(rows, cols)?;
        self.clear(&mut t)?;
        Ok(t)
    }
    /// Copies host values, row-major, into a new float32 buffer.
    fn upload(&self, rows: usize, cols: usize, values: &[f32]) -> Result<Self::Tensor>;
    /// Makes a mapped file's tensor usable in the dtype of the file; on `cpu` nothing is copied.
    /// A one-dimensional tensor becomes one row.
    fn adopt(&self, tensor: MappedTensor) -> Result<Self::Tensor>;
    /// The same values as float32 that may be written, converted on the device: what a weight becomes
    /// that is trained, or that an adapter is merged into.
    fn widen(&self, t: Self::Tensor) -> Result<Self::Tensor>;
    /// The form in which inference multiplies a weight matrix, for one that nothing will change: on
    /// CUDA devices in the compute dtype, converted on the device, so that no product there mixes
    /// dtypes; on `cpu` as it is. One that has that form already passes through.
    fn freeze(&self, t: Self::Tensor) -> Result<Self::Tensor>;
    /// Copies host indices.
    fn index(&self, values: &[u32]) -> Result<Self::Index>;
    /// Copies a tensor to the host as float32.
    fn read(&self, t: &Self::Tensor) -> Result<Vec<f32>>;
    /// Overwrites a float32 tensor with host values.
    fn write(&self, t: &mut Self::Tensor, values: &[f32]) -> Result<()>;
    /// `to = from`, of the same shape and dtype.
    fn copy(&self, from: &Self::Tensor, to: &mut Self::Tensor) -> Result<()>;
    /// Sets every element to zero.
    fn clear(&self, t: &mut Self::Tensor) -> Result<()>;

    // ---- matrix products --------------------------------------------------------------------

    /// `y[T,N] = beta·y + alpha · x[T,K] · w[N,K]ᵀ`: a linear layer forward.
    fn matmul_nt(
        &self,
        alpha: f32,
        x: &Self::Tensor,
        w: &Self::Tensor,
        beta: f32,
        y: &mut Self::Tensor,
    ) -> Result<()>;
    /// `dx[T,K] = beta·dx + alpha · dy[T,N] · w[N,K]`: gradient of a linear layer's input.
    fn matmul_nn(
        &self,
        alpha: f32,
        dy: &Self::Tensor,
        w: &Self::Tensor,
        beta: f32,
        dx: &mut Self::Tensor,
    ) -> Result<()>;
    /// `dw[N,K] = beta·dw + alpha · dy[T,N]ᵀ · x[T,K]`: gradient of a linear layer's weight.
    fn matmul_tn(
        &self,
        alpha: f32,
        dy: &Self::Tensor,
        x: &Self::Tensor,
        beta: f32,
        dw: &mut Self::Tensor,
    ) -> Result<()>;
    /// `y[t,:] += bias[0,:]`.
    fn add_bias(&self, y: &mut Self::Tensor, bias: &Self::Tensor) -> Result<()>;
    /// `db[0,:] += Σ_t dy[t,:]`.
    fn add_bias_backward(&self, dy: &Self::Tensor, db: &mut Self::Tensor) -> Result<()>;

    // ---- rows -------------------------------------------------------------------------------

    /// The compression merge (spec section 2): row `r` of `out[R,H]` is
    /// `scale[r,0] · Σ table[ids[i]]` over `i` in `offsets[r] .. offsets[r+1]`.
    fn gather_merge(
        &self,
        table: &Self::Tensor,
        ids: &Self::Index,
        offsets: &Self::Index,
        scale: &Self::Tensor,
        out: &mut Self::Tensor,
    ) -> Result<()>;
    /// Adds the gradient of [`gather_merge`](Device::gather_merge) to `dtable`.
    fn gather_merge_backward(
        &self,
        dout: &Self::Tensor,
        ids: &Self::Index,
        offsets: &Self::Index,
        scale: &Self::Tensor,
        dtable: &mut Self::Tensor,
    ) -> Result<()>;
    /// `out[n,:] = alpha · src[rows[n],:]`.
    fn gather_rows(
        &self,
        alpha: f32,
        src: &Self::Tensor,
        rows: &Self::Index,
        out: &mut Self::Tensor,
    ) -> Result<()>;
    /// `dst[rows[n],:] += alpha · src[n,:]`; the rows must be distinct.
    fn scatter_add_rows(
        &self,
        alpha: f32,
        src: &Self::Tensor,
        rows: &Self::Index,
        dst: &mut Self::Tensor,
    ) -> Result<()>;
    /// `dst[rows[n],:] = alpha · src[n,:]`; the rows must be distinct. With alpha 1 this appends to
    /// a key or value cache.
    fn scatter_rows(
        &self,
        alpha: f32,
        src: &Self::Tensor,
        rows: &Self::Index,
        dst: &mut Self::Tensor,
    ) -> Result<()>;
    /// `y += x`, element by element.
    fn add(&self, x: &Self::Tensor, y: &mut Self::Tensor) -> Result<()>;

    // ---- layers -----------------------------------------------------------------------------

    /// RMSNorm: `out[t,:] = x[t,:] / sqrt(mean(x[t,:]²) + eps) · w`.
    fn rms_norm(&self, x: &Self::Tensor, w: &Self::Tensor, eps: f32, out: &mut Self::Tensor) -> Result<()>;
    /// Fused residual addition and RMSNorm: `sum = x + delta`, `out = RMSNorm(sum)`.
    fn add_rms_norm(
        &self,
        x: &Self::Tensor,
        delta: &Self::Tensor,
        w: &Self::Tensor,
        eps: f32,
        sum: &mut Self::Tensor,
        out: &mut Self::Tensor,
    ) -> Result<()>;
    /// Adds the gradient of [`rms_norm`](Device::rms_norm) at `x` to `dx`, and that of the weight
    /// to `dw` where given.
    fn rms_norm_backward(
        &self,
        dout: &Self::Tensor,
        x: &Self::Tensor,
        w: &Self::Tensor,
        eps: f32,
        dx: &mut Self::Tensor,
        dw: Option<&mut Self::Tensor>,
    ) -> Result<()>;
    /// Rotary embedding in place on `x[T, heads·head_dim]` (the half-split form of the Hugging Face
    /// models). `inv_freq` is `[1, head_dim/2]`; `direction` is 1 forward and −1 for the gradient.
    fn rotary(
        &self,
        x: &mut Self::Tensor,
        positions: &Self::Index,
        inv_freq: &Self::Tensor,
        direction: f32,
    ) -> Result<()>;
    /// What stands between the projections `q[T, q_width]`, `k` and `v` (`[T, kv_width]`) of a cached block and
    /// its attention: adds each bias that is given (`[1, width]`), rotates `q` in place and `k` as
    /// [`rotary`](Device::rotary) does forward, and writes row `t` of `k` and of `v` to row `rows[t]` of the
    /// cached `[keys, values]`; the rows must be distinct. What it leaves in `k` and `v` is undefined.
    ///
    /// It is the composition of [`add_bias`](Device::add_bias), [`rotary`](Device::rotary) and
    /// [`scatter_rows`](Device::scatter_rows); a device that can do it in one pass rounds in between less often.
    fn rotary_append(
        &self,
        [q, k, v]: [&mut Self::Tensor; 3],
        biases: [Option<&Self::Tensor>; 3],
        positions: &Self::Index,
        inv_freq: &Self::Tensor,
        rows: &Self::Index,
        [keys, values]: [&mut Self::Tensor; 2],
    ) -> Result<()> {
        for (x, bias) in [&mut *q, &mut *k, &mut *v].into_iter().zip(biases) {
            if let Some(bias) = bias {
                self.add_bias(x, bias)?;
            }
        }
        self.rotary(q, positions, inv_freq, 1.0)?;
        self.rotary(k, positions, inv_freq, 1.0)?;
        self.scatter_rows(1.0, k, rows, keys)?;
        self.scatter_rows(1.0, v, rows, values)
    }
    /// Causal grouped-query attention over spans: `q`, `out` are `[Tq, q_width]`, `k`, `v` are
    /// `[Tk, kv_width]`; `lse[Tq, heads]` receives the log-sum-exp rows a backward needs.
    #[allow(clippy::too_many_arguments)]
    fn attention(
        &self,
        shape: HeadShape,
        spans: &[Span],
        q: &Self::Tensor,
        k: &Self::Tensor,
        v: &Self::Tensor,
        out: &mut Self::Tensor,
        lse: Option<&mut Self::Tensor>,
    ) -> Result<()>;
    /// Gradient of [`attention`](Device::attention). The rows of the spans are overwritten in `dq`, `dk` and `dv`;
    /// others are left as they are. No two spans may share a row of keys.
    #[allow(clippy::too_many_arguments)]
    fn attention_backward(
        &self,
        shape: HeadShape,
        spans: &[Span],
        q: &Self::Tensor,
        k: &Self::Tensor,
        v: &Self::Tensor,
        out: &Self::Tensor,
        lse: &Self::Tensor,
        dout: &Self::Tensor,
        dq: &mut Self::Tensor,
        dk: &mut Self::Tensor,
        dv: &mut Self::Tensor,
    ) -> Result<()>;
    /// SwiGLU: `out = silu(gate) · up`.
    fn swiglu(&self, gate: &Self::Tensor, up: &Self::Tensor, out: &mut Self::Tensor) -> Result<()>;
    /// Gradient of [`swiglu`](Device::swiglu) in place: on entry `gate` and `up` hold the inputs,
    /// on exit their gradients.
    fn swiglu_backward(
        &self,
        dout: &Self::Tensor,
        gate: &mut Self::Tensor,
        up: &mut Self::Tensor,
    ) -> Result<()>;

    // ---- latent head (spec section 4) ---------------------------------------------------------

    /// Exact GELU: `out = x · Φ(x)`.
    fn gelu(&self, x: &Self::Tensor, out: &mut Self::Tensor) -> Result<()>;
    /// `dx = dout · gelu'(x)`.
    fn gelu_backward(&self, dout: &Self::Tensor, x: &Self::Tensor, dx: &mut Self::Tensor) -> Result<()>;
    /// LayerNorm with affine parameters, eps 1e-5.
    fn layer_norm(
        &self,
        x: &Self::Tensor,
        w: &Self::Tensor,
        b: &Self::Tensor,
        out: &mut Self::Tensor,
    ) -> Result<()>;
    /// Gradient of [`layer_norm`](Device::layer_norm): `dx` is overwritten, `dw` and `db` are added to.
    fn layer_norm_backward(
        &self,
        dout: &Self::Tensor,
        x: &Self::Tensor,
        w: &Self::Tensor,
        dx: &mut Self::Tensor,
        params: Option<(&mut Self::Tensor, &mut Self::Tensor)>,
    ) -> Result<()>;
    /// Standard normal noise `[rows, cols]`: row `r` from `draws[r]`.
    fn normal(&self, draws: &[Draw], out: &mut Self::Tensor) -> Result<()>;
    /// `out = mu + exp(log_sigma)·temperature·eps`, the reparameterised latent. Without `log_sigma`
    /// (deterministic head) sigma is 1e-9. `log_sigma` is bounded as in
    /// [`LOG_SIGMA_RANGE`](crate::model::latent_head::LOG_SIGMA_RANGE).
    fn reparameterise(
        &self,
        mu: &Self::Tensor,
        log_sigma: Option<&Self::Tensor>,
        eps: &Self::Tensor,
        temperature: f32,
        out: &mut Self::Tensor,
    ) -> Result<()>;
    /// Latent loss and entropy (spec section 3), forward and backward in one pass.
    ///
    /// `per_row[N,3]` receives, per position, the mean over D of the loss, the mean of the entropy,
    /// and the number of elements whose log_sigma was bounded. `dmu` and `dlog_sigma` are
    /// overwritten with `loss_scale · ∂Σloss + entropy_scale · ∂Σentropy`, sums over all elements.
    #[allow(clippy::too_many_arguments)]
    fn latent_loss(
        &self,
        weights: LatentWeights,
        mu: &Self::Tensor,
        log_sigma: Option<&Self::Tensor>,
        eps: Option<&Self::Tensor>,
        target: &Self::Tensor,
        per_row: &mut Self::Tensor,
        grads: Option<(&mut Self::Tensor, Option<&mut Self::Tensor>)>,
    ) -> Result<()>;
    /// Log-probabilities of given latents `[N,D]` (in units of `embeds_std`) under N(mu, sigma), and
    /// the gradient of the policy objective on them, in one pass (spec section 6).
    ///
    /// `per_row[N,3]` receives, per latent, the mean over D of the log-density, the mean of the
    /// entropy, and the number of elements whose log_sigma was bounded. The gradients are
    /// overwritten.
    fn latent_logprob(
        &self,
        mu: &Self::Tensor,
        log_sigma: &Self::Tensor,
        latents: &Self::Tensor,
        per_row: &mut Self::Tensor,
        grads: Option<LatentPolicyGrads<'_, Self>>,
    ) -> Result<()>;
    /// Adds the gradient that reaches a reparameterised sample to `dmu` and `dlog_sigma`.
    fn reparameterise_backward(
        &self,
        dz: &Self::Tensor,
        log_sigma: Option<&Self::Tensor>,
        eps: &Self::Tensor,
        dmu: &mut Self::Tensor,
        dlog_sigma: Option<&mut Self::Tensor>,
    ) -> Result<()>;

    // ---- output head --------------------------------------------------------------------------

    /// Output head with cross-entropy, in chunks, so that no `[N, V]` matrix ever exists.
    ///
    /// The label of row `n` is uniform over `ids[offsets[n] .. offsets[n+1]]`: one id for a sampled
    /// label, the whole chunk for the mean form (spec section 3). `loss[n,0]` receives
    /// `logsumexp − mean(label logits)`: of a sampled label, its negative log-probability. `dh` is
    /// overwritten, `dw` added to.
    #[allow(clippy::too_many_arguments)]
    fn cross_entropy(
        &self,
        h: &Self::Tensor,
        w: &Self::Tensor,
        ids: &Self::Index,
        offsets: &Self::Index,
        loss: &mut Self::Tensor,
        grads: Option<CrossEntropyGrads<'_, Self>>,
    ) -> Result<()>;
    /// Chooses one token a row of `h[B,H]` from the logits `h·wᵀ`; `bias` is added to one token's
    /// logit in every row.
    fn choose_tokens(
        &self,
        h: &Self::Tensor,
        w: &Self::Tensor,
        choices: &[TokenChoice],
        bias: Option<(u32, f32)>,
    ) -> Result<Vec<u32>>;
    /// Draws, per row of `h[B,H]`, only the event "the token is `token`" (spec section 5, 2), with
    /// the same distribution as [`choose_tokens`](Device::choose_tokens) at top-p 1. The scan of the
    /// vocabulary stops as soon as the event is decided.
    fn token_event(
        &self,
        h: &Self::Tensor,
        w: &Self::Tensor,
        token: u32,
        choices: &[TokenChoice],
        bias: f32,
    ) -> Result<Vec<bool>>;

    /// A decoder of a model for `rows` sequences, or as many of them as it takes at a time, where the device has one.
    ///
    /// # Errors
    /// Weights that do not fit each other, and what the device says.
    fn decoder<'a>(&'a self, model: DecoderModel<'a, Self>, rows: usize)
    -> Result<Option<Self::Decoder<'a>>>;

    /// Bytes that a [`decoder`](Device::decoder) takes, with what up to `steps` latents of each sequence leave; 0
    /// where there is none.
    fn decoder_bytes(&self, _model: &DecoderModel<'_, Self>, _rows: usize, _steps: usize) -> usize {
        0
    }

    // ---- optimiser ----------------------------------------------------------------------------

    /// Sum of the squares of all elements of all tensors, accumulated in float64.
    fn sum_squares(&self, tensors: &[&Self::Tensor]) -> Result<f64>;
    /// One AdamW step over all tensors.
    fn adamw(&self, hyper: &AdamW, tensors: &mut [AdamWTensor<'_, Self>]) -> Result<()>;
    /// One AdamW step over all tensors, [clipped](AdamW::clipped) to `clip` by the norm of all their gradients,
    /// without waiting for that. Nothing is changed where a gradient or an element of `watched`, float32 tensors
    /// such as the losses that the gradients are of, is not finite. Gives the norm of the gradients, or what is
    /// not finite if nothing was changed, for [`late`](Device::late).
    fn adamw_clipped(
        &self,
        hyper: &AdamW,
        clip: f32,
        watched: &[&Self::Tensor],
        tensors: &mut [AdamWTensor<'_, Self>],
    ) -> Result<Self::Late>;
    /// Waits for a number.
    fn late(&self, number: &Self::Late) -> Result<f64>;
}

/// What [`Device::cross_entropy`] differentiates.
pub struct CrossEntropyGrads<'a, D: Device> {
    /// What reaches each row's loss.
    pub upstream: Upstream<'a, D>,
    /// `[N,H]`: gradient of the hidden states, overwritten.
    pub dh: &'a mut D::Tensor,
    /// `[V,H]`: gradient of the output matrix, added to; `None` where it is frozen.
    pub dw: Option<&'a mut D::Tensor>,
}

/// What is made of the rows' losses of [`Device::cross_entropy`].
pub enum Upstream<'a, D: Device> {
    /// A weighted sum: `[N,1]`, a factor a row.
    Scale(&'a D::Tensor),
    /// The policy objective on the log-probabilities of sampled labels.
    Policy(PolicyTerms<'a, D>),
}

/// What [`Device::latent_logprob`] differentiates.
pub struct LatentPolicyGrads<'a, D: Device> {
    /// The objective, an element a latent.
    pub terms: PolicyTerms<'a, D>,
    /// Factor of the entropy's gradient, for instance `entropy_weight / (latents * D)`.
    pub entropy_scale: f32,
    /// `[N,D]`: gradient of mu.
    pub dmu: &'a mut D::Tensor,
    /// `[N,D]`: gradient of log_sigma.
    pub dlog_sigma: &'a mut D::Tensor,
}
