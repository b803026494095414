//! The operations of the device: forward ones are computed, backward ones refused.

use colar_engine::device::decoder::{DecoderModel, NoDecoder};
use colar_engine::device::{
    AdamW, AdamWTensor, CrossEntropyGrads, Description, Device, Draw, Dtype, HeadShape, LatentPolicyGrads,
    LatentWeights, Need, Span, TensorInfo, TokenChoice,
};
use colar_engine::files::mapped::MappedTensor;
use colar_engine::{Error, Result};

use super::{Float64, Float64Tensor, attention, latent, layers, output, products, rows};

/// Added to the variance in LayerNorm.
const LAYER_NORM_EPS: f64 = 1e-5;

/// The error of an operation that no forward pass of training has.
fn refused<T>(operation: &str) -> Result<T> {
    Err(Error::other(format!("{operation}: in float64 there are forward passes only")))
}

/// Fails where gradients are asked for.
fn forward_only<T>(operation: &str, grads: Option<T>) -> Result<()> {
    if grads.is_some() { refused(operation) } else { Ok(()) }
}

impl Device for Float64 {
    type Tensor = Float64Tensor;
    type Index = Vec<u32>;
    type Late = f64;
    type Decoder<'a> = NoDecoder;

    fn name(&self) -> &'static str {
        "float64"
    }

    fn description(&self) -> Description {
        Description { hardware: "float64 reference".into(), driver: None }
    }

    fn scope<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        f()
    }

    fn compute_dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn maps_weights(&self) -> bool {
        false
    }

    // ---- memory ---------------------------------------------------------------------------------

    fn reserve(&self, _: &[Need]) -> Result<()> {
        Ok(())
    }

    fn empty(&self, rows: usize, cols: usize) -> Result<Float64Tensor> {
        Ok(Float64Tensor::poisoned(rows, cols))
    }

    fn zeros(&self, rows: usize, cols: usize) -> Result<Float64Tensor> {
        Ok(Float64Tensor::new(rows, cols, vec![0.0; rows * cols]))
    }

    fn upload(&self, rows: usize, cols: usize, values: &[f32]) -> Result<Float64Tensor> {
        Ok(Float64Tensor::widened(rows, cols, values))
    }

    fn adopt(&self, tensor: MappedTensor) -> Result<Float64Tensor> {
        let (rows, cols) = match *tensor.shape() {
            [n] => (1, n),
            [r, c] => (r, c),
            _ => return refused("adopt"),
        };
        self.upload(rows, cols, &tensor.to_f32_vec())
    }

    fn widen(&self, t: Float64Tensor) -> Result<Float64Tensor> {
        Ok(t)
    }

    fn freeze(&self, t: Float64Tensor) -> Result<Float64Tensor> {
        Ok(t)
    }

    fn index(&self, values: &[u32]) -> Result<Vec<u32>> {
        Ok(values.to_vec())
    }

    /// The nearest float32 numbers; the numbers themselves are kept for [`Float64::take_reads`].
    fn read(&self, t: &Float64Tensor) -> Result<Vec<f32>> {
        self.reads.lock().unwrap().push(t.values.clone());
        Ok(t.values.iter().map(|&x| x as f32).collect())
    }

    fn write(&self, t: &mut Float64Tensor, values: &[f32]) -> Result<()> {
        *t = Float64Tensor::widened(t.rows(), t.cols(), values);
        Ok(())
    }

    fn copy(&self, from: &Float64Tensor, to: &mut Float64Tensor) -> Result<()> {
        from.like(to);
        to.values.copy_from_slice(&from.values);
        Ok(())
    }

    fn clear(&self, t: &mut Float64Tensor) -> Result<()> {
        t.values.fill(0.0);
        Ok(())
    }

    // ---- products -------------------------------------------------------------------------------

    fn matmul_nt(
        &self,
        alpha: f32,
        x: &Float64Tensor,
        w: &Float64Tensor,
        beta: f32,
        y: &mut Float64Tensor,
    ) -> Result<()> {
        products::matmul_nt(alpha.into(), x, w, beta.into(), y);
        Ok(())
    }

    fn matmul_nn(
        &self,
        _: f32,
        _: &Float64Tensor,
        _: &Float64Tensor,
        _: f32,
        _: &mut Float64Tensor,
    ) -> Result<()> {
        refused("matmul_nn")
    }

    fn matmul_tn(
        &self,
        _: f32,
        _: &Float64Tensor,
        _: &Float64Tensor,
        _: f32,
        _: &mut Float64Tensor,
    ) -> Result<()> {
        refused("matmul_tn")
    }

    fn add_bias(&self, y: &mut Float64Tensor, bias: &Float64Tensor) -> Result<()> {
        products::add_bias(y, bias);
        Ok(())
    }

    fn add_bias_backward(&self, _: &Float64Tensor, _: &mut Float64Tensor) -> Result<()> {
        refused("add_bias_backward")
    }

    // ---- rows -----------------------------------------------------------------------------------

    fn gather_merge(
        &self,
        table: &Float64Tensor,
        ids: &Vec<u32>,
        offsets: &Vec<u32>,
        scale: &Float64Tensor,
        out: &mut Float64Tensor,
    ) -> Result<()> {
        rows::gather_merge(table, ids, offsets, scale, out);
        Ok(())
    }

    fn gather_merge_backward(
        &self,
        _: &Float64Tensor,
        _: &Vec<u32>,
        _: &Vec<u32>,
        _: &Float64Tensor,
        _: &mut Float64Tensor,
    ) -> Result<()> {
        refused("gather_merge_backward")
    }

    fn gather_rows(
        &self,
        alpha: f32,
        src: &Float64Tensor,
        rows: &Vec<u32>,
        out: &mut Float64Tensor,
    ) -> Result<()> {
        rows::gather_rows(alpha.into(), src, rows, out);
        Ok(())
    }

    fn scatter_add_rows(&self, _: f32, _: &Float64Tensor, _: &Vec<u32>, _: &mut Float64Tensor) -> Result<()> {
        refused("scatter_add_rows")
    }

    fn scatter_rows(
        &self,
        alpha: f32,
        src: &Float64Tensor,
        rows: &Vec<u32>,
        dst: &mut Float64Tensor,
    ) -> Result<()> {
        rows::scatter_rows(alpha.into(), src, rows, dst);
        Ok(())
    }

    fn add(&self, x: &Float64Tensor, y: &mut Float64Tensor) -> Result<()> {
        rows::add(x, y);
        Ok(())
    }

    // ---- layers ---------------------------------------------------------------------------------

    fn rms_norm(
        &self,
        x: &Float64Tensor,
        w: &Float64Tensor,
        eps: f32,
        out: &mut Float64Tensor,
    ) -> Result<()> {
        layers::rms_norm(x, w, eps.into(), out);
        Ok(())
    }

    fn add_rms_norm(
        &self,
        x: &Float64Tensor,
        delta: &Float64Tensor,
        w: &Float64Tensor,
        eps: f32,
        sum: &mut Float64Tensor,
        out: &mut Float64Tensor,
    ) -> Result<()> {
        self.copy(x, sum)?;
        self.add(delta, sum)?;
        self.rms_norm(sum, w, eps, out)
    }

    fn rms_norm_backward(
        &self,
        _: &Float64Tensor,
        _: &Float64Tensor,
        _: &Float64Tensor,
        _: f32,
        _: &mut Float64Tensor,
        _: Option<&mut Float64Tensor>,
    ) -> Result<()> {
        refused("rms_norm_backward")
    }

    fn rotary(
        &self,
        x: &mut Float64Tensor,
        positions: &Vec<u32>,
        inv_freq: &Float64Tensor,
        direction: f32,
    ) -> Result<()> {
        layers::rotary(x, positions, inv_freq, direction.into());
        Ok(())
    }

    fn attention(
        &self,
        shape: HeadShape,
        spans: &[Span],
        q: &Float64Tensor,
        k: &Float64Tensor,
        v: &Float64Tensor,
        out: &mut Float64Tensor,
        lse: Option<&mut Float64Tensor>,
    ) -> Result<()> {
        forward_only("attention", lse)?;
        attention::attention(shape, spans, [q, k, v], out);
        Ok(())
    }

    fn attention_backward(
        &self,
        _: HeadShape,
        _: &[Span],
        _: &Float64Tensor,
        _: &Float64Tensor,
        _: &Float64Tensor,
        _: &Float64Tensor,
        _: &Float64Tensor,
        _: &Float64Tensor,
        _: &mut Float64Tensor,
        _: &mut Float64Tensor,
        _: &mut Float64Tensor,
    ) -> Result<()> {
        refused("attention_backward")
    }

    fn swiglu(&self, gate: &Float64Tensor, up: &Float64Tensor, out: &mut Float64Tensor) -> Result<()> {
        layers::swiglu(gate, up, out);
        Ok(())
    }

    fn swiglu_backward(&self, _: &Float64Tensor, _: &mut Float64Tensor, _: &mut Float64Tensor) -> Result<()> {
        refused("swiglu_backward")
    }

    // ---- latent head ----------------------------------------------------------------------------

    fn gelu(&self, x: &Float64Tensor, out: &mut Float64Tensor) -> Result<()> {
        layers::gelu(x, out);
        Ok(())
    }

    fn gelu_backward(&self, _: &Float64Tensor, _: &Float64Tensor, _: &mut Float64Tensor) -> Result<()> {
        refused("gelu_backward")
    }

    fn layer_norm(
        &self,
        x: &Float64Tensor,
        w: &Float64Tensor,
        b: &Float64Tensor,
        out: &mut Float64Tensor,
    ) -> Result<()> {
        layers::layer_norm(x, w, b, LAYER_NORM_EPS, out);
        Ok(())
    }

    fn layer_norm_backward(
        &self,
        _: &Float64Tensor,
        _: &Float64Tensor,
        _: &Float64Tensor,
        _: &mut Float64Tensor,
        _: Option<(&mut Float64Tensor, &mut Float64Tensor)>,
    ) -> Result<()> {
        refused("layer_norm_backward")
    }

    fn normal(&self, draws: &[Draw], out: &mut Float64Tensor) -> Result<()> {
        latent::normal(draws, out);
        Ok(())
    }

    fn reparameterise(
        &self,
        mu: &Float64Tensor,
        log_sigma: Option<&Float64Tensor>,
        eps: &Float64Tensor,
        temperature: f32,
        out: &mut Float64Tensor,
    ) -> Result<()> {
        latent::reparameterise(mu, log_sigma, eps, temperature.into(), out);
        Ok(())
    }

    /// The targets of the first call are those of all later ones: they are constants to the objective, so a finite
    /// difference must keep them fixed while the embeddings that they were made of move.
    fn latent_loss(
        &self,
        weights: LatentWeights,
        mu: &Float64Tensor,
        log_sigma: Option<&Float64Tensor>,
        eps: Option<&Float64Tensor>,
        target: &Float64Tensor,
        per_row: &mut Float64Tensor,
        grads: Option<(&mut Float64Tensor, Option<&mut Float64Tensor>)>,
    ) -> Result<()> {
        forward_only("latent_loss", grads)?;
        let mut first = self.targets.lock().unwrap();
        let target = first.get_or_insert_with(|| target.clone());
        latent::latent_loss(weights.loss, mu, log_sigma, eps, target, per_row);
        Ok(())
    }

    fn latent_logprob(
        &self,
        mu: &Float64Tensor,
        log_sigma: &Float64Tensor,
        latents: &Float64Tensor,
        per_row: &mut Float64Tensor,
        grads: Option<LatentPolicyGrads<'_, Self>>,
    ) -> Result<()> {
        forward_only("latent_logprob", grads)?;
        latent::latent_logprob(mu, log_sigma, latents, per_row);
        Ok(())
    }

    fn reparameterise_backward(
        &self,
        _: &Float64Tensor,
        _: Option<&Float64Tensor>,
        _: &Float64Tensor,
        _: &mut Float64Tensor,
        _: Option<&mut Float64Tensor>,
    ) -> Result<()> {
        refused("reparameterise_backward")
    }

    // ---- output head ----------------------------------------------------------------------------

    fn cross_entropy(
        &self,
        h: &Float64Tensor,
        w: &Float64Tensor,
        ids: &Vec<u32>,
        offsets: &Vec<u32>,
        loss: &mut Float64Tensor,
        grads: Option<CrossEntropyGrads<'_, Self>>,
    ) -> Result<()> {
        forward_only("cross_entropy", grads)?;
        output::cross_entropy(h, w, ids, offsets, loss);
        Ok(())
    }

    fn choose_tokens(
        &self,
        _: &Float64Tensor,
        _: &Float64Tensor,
        _: &[TokenChoice],
        _: Option<(u32, f32)>,
    ) -> Result<Vec<u32>> {
        refused("choose_tokens")
    }

    fn token_event(
        &self,
        _: &Float64Tensor,
        _: &Float64Tensor,
        _: u32,
        _: &[TokenChoice],
        _: f32,
    ) -> Result<Vec<bool>> {
        refused("token_event")
    }

    fn decoder<'a>(&'a self, _: DecoderModel<'a, Self>, _: usize) -> Result<Option<NoDecoder>> {
        Ok(None)
    }

    // ---- optimiser ------------------------------------------------------------------------------

    fn sum_squares(&self, _: &[&Float64Tensor]) -> Result<f64> {
        refused("sum_squares")
    }

    fn adamw(&self, _: &AdamW, _: &mut [AdamWTensor<'_, Self>]) -> Result<()> {
        refused("adamw")
    }

    fn adamw_clipped(
        &self,
        _: &AdamW,
        _: f32,
        _: &[&Float64Tensor],
        _: &mut [AdamWTensor<'_, Self>],
    ) -> Result<f64> {
        refused("adamw_clipped")
    }

    fn late(&self, number: &f64) -> Result<f64> {
        Ok(*number)
    }
}
