//! The CPU device: the oracle for kernels, and the engine on machines without a GPU.
//!
//! Arithmetic is float32 throughout; frozen weights stay in the dtype of their mapped file and are
//! widened on the way into the product. Loops are plain and vectorised by the compiler for the
//! instruction set found at run time ([`simd`]); matrix products with many rows go through the
//! `gemm` crate, those with few rows through [`gemv`]. All threads come from [`par`].

mod activation;
pub mod attention;
mod buffer;
pub mod gemv;
mod latent;
pub mod math;
pub mod matmul;
mod norm;
mod optimizer;
mod output;
pub mod par;
mod policy;
pub mod product;
mod rotary;
mod rows;
pub mod simd;
#[cfg(test)]
mod testing;
pub mod transpose;

use std::sync::Arc;

pub use buffer::CpuTensor;

use buffer::Shelf;
use matmul::Mat;
use policy::policy;

use super::decoder::{DecoderModel, NoDecoder};
use super::{
    AdamW, AdamWTensor, CrossEntropyGrads, Description, Device, Draw, Dtype, HeadShape, LatentPolicyGrads,
    LatentWeights, Need, Span, TensorInfo, TokenChoice, Upstream, check, check_attention, check_below,
    check_disjoint, check_len, check_offsets, elements,
};
use crate::files::mapped::MappedTensor;
use crate::{Error, Result};

/// Added to the variance in LayerNorm (spec section 4).
const LAYER_NORM_EPS: f32 = 1e-5;

/// The CPU, with a team of threads and a store of reusable buffers. Clones share both.
#[derive(Debug, Clone)]
pub struct CpuDevice {
    pool: Arc<par::Pool>,
    shelf: Arc<Shelf>,
}

/// Indices of the CPU device: a plain vector.
pub type CpuIndex = Vec<u32>;

impl CpuDevice {
    /// A device with `threads` threads; 0 means one for each core.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn new(threads: usize) -> Result<Self> {
        Ok(CpuDevice { pool: Arc::new(par::Pool::new(threads)?), shelf: Arc::default() })
    }

    /// The number of threads in use.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }
}

/// The processor's name, where the operating system tells it.
pub(crate) fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name"));
    let name = name.map(|rest| rest.trim_start_matches([' ', '\t', ':']).trim());
    name.unwrap_or(std::env::consts::ARCH).to_owned()
}

impl Device for CpuDevice {
    type Tensor = CpuTensor;
    type Index = CpuIndex;
    type Late = f64;
    type Decoder<'a> = NoDecoder;

    fn name(&self) -> &'static str {
        "cpu"
    }

    fn description(&self) -> Description {
        let threads = self.threads();
        Description { hardware: format!("{}, {threads} threads", processor()), driver: None }
    }

    fn scope<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        self.pool.install(f)
    }

    fn compute_dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn maps_weights(&self) -> bool {
        true
    }

    fn reserve(&self, _: &[Need]) -> Result<()> {
        Ok(())
    }

    fn empty(&self, rows: usize, cols: usize) -> Result<CpuTensor> {
        let n = elements("empty", rows, cols)?;
        Ok(CpuTensor::owned(rows, cols, self.shelf.take(n, false)))
    }

    fn zeros(&self, rows: usize, cols: usize) -> Result<CpuTensor> {
        let n = elements("zeros", rows, cols)?;
        Ok(CpuTensor::owned(rows, cols, self.shelf.take(n, true)))
    }

    fn upload(&self, rows: usize, cols: usize, values: &[f32]) -> Result<CpuTensor> {
        let mut t = self.empty(rows, cols)?;
        self.write(&mut t, values)?;
        Ok(t)
    }

    fn adopt(&self, tensor: MappedTensor) -> Result<CpuTensor> {
        let (rows, cols) = match *tensor.shape() {
            [n] => (1, n),
            [r, c] => (r, c),
            _ => {
                return Err(Error::Shape {
                    op: "adopt",
                    what: format!("shape {:?} is neither a vector nor a matrix", tensor.shape()),
                });
            }
        };
        if rows == 1 {
            // Norm weights and biases: small, and their loops want float32.
            return self.upload(rows, cols, &tensor.to_f32_vec());
        }
        Ok(CpuTensor::mapped(rows, cols, tensor))
    }

    fn widen(&self, t: CpuTensor) -> Result<CpuTensor> {
        if !t.is_mapped() {
            return Ok(t);
        }
        let mut out = self.empty(t.rows(), t.cols())?;
        let to = out.f32_mut("widen")?;
        match t.mat() {
            Mat::F32(x) => to.copy_from_slice(x),
            Mat::Bf16(x) => to.iter_mut().zip(x).for_each(|(to, x)| *to = x.to_f32()),
            Mat::F16(x) => to.iter_mut().zip(x).for_each(|(to, x)| *to = x.to_f32()),
        }
        Ok(out)
    }

    fn freeze(&self, t: CpuTensor) -> Result<CpuTensor> {
        Ok(t)
    }

    fn index(&self, values: &[u32]) -> Result<CpuIndex> {
        Ok(values.to_vec())
    }

    fn read(&self, t: &CpuTensor) -> Result<Vec<f32>> {
        Ok(match t.mat() {
            Mat::F32(x) => x.to_vec(),
            Mat::Bf16(x) => x.iter().map(|x| x.to_f32()).collect(),
            Mat::F16(x) => x.iter().map(|x| x.to_f32()).collect(),
        })
    }

    fn write(&self, t: &mut CpuTensor, values: &[f32]) -> Result<()> {
        check_len("write", "values", values.len(), t.rows() * t.cols())?;
        t.f32_mut("write")?.copy_from_slice(values);
        Ok(())
    }

    fn copy(&self, from: &CpuTensor, to: &mut CpuTensor) -> Result<()> {
        check("copy", "to", to, from.rows(), from.cols())?;
        rows::copy(from.f32("copy")?, to.f32_mut("copy")?);
        Ok(())
    }

    fn clear(&self, t: &mut CpuTensor) -> Result<()> {
        t.f32_mut("clear")?.fill(0.0);
        Ok(())
    }

    fn matmul_nt(
        &self,
        alpha: f32,
        x: &CpuTensor,
        w: &CpuTensor,
        beta: f32,
        y: &mut CpuTensor,
    ) -> Result<()> {
        const OP: &str = "matmul_nt";
        let (m, n, k) = (x.rows(), w.rows(), x.cols());
        check(OP, "w", w, n, k)?;
        check(OP, "y", y, m, n)?;
        matmul::matmul_nt(m, n, k, alpha, x.f32(OP)?, w.mat(), beta, y.f32_mut(OP)?);
        Ok(())
    }

    fn matmul_nn(
        &self,
        alpha: f32,
        dy: &CpuTensor,
        w: &CpuTensor,
        beta: f32,
        dx: &mut CpuTensor,
    ) -> Result<()> {
        const OP: &str = "matmul_nn";
        let (m, n, k) = (dy.rows(), w.rows(), w.cols());
        check(OP, "dy", dy, m, n)?;
        check(OP, "dx", dx, m, k)?;
        matmul::matmul_nn(m, n, k, alpha, dy.f32(OP)?, w.mat(), beta, dx.f32_mut(OP)?);
        Ok(())
    }

    fn matmul_tn(
        &self,
        alpha: f32,
        dy: &CpuTensor,
        x: &CpuTensor,
        beta: f32,
        dw: &mut CpuTensor,
    ) -> Result<()> {
        const OP: &str = "matmul_tn";
        let (m, n, k) = (dy.rows(), dy.cols(), x.cols());
        check(OP, "x", x, m, k)?;
        check(OP, "dw", dw, n, k)?;
        matmul::matmul_tn(m, n, k, alpha, dy.f32(OP)?, x.f32(OP)?, beta, dw.f32_mut(OP)?);
        Ok(())
    }

    fn add_bias(&self, y: &mut CpuTensor, bias: &CpuTensor) -> Result<()> {
        const OP: &str = "add_bias";
        check(OP, "bias", bias, 1, y.cols())?;
        rows::add_bias(y.f32_mut(OP)?, bias.f32(OP)?);
        Ok(())
    }

    fn add_bias_backward(&self, dy: &CpuTensor, db: &mut CpuTensor) -> Result<()> {
        const OP: &str = "add_bias_backward";
        check(OP, "db", db, 1, dy.cols())?;
        rows::add_column_sums(dy.f32(OP)?, dy.cols(), db.f32_mut(OP)?);
        Ok(())
    }

    fn gather_merge(
        &self,
        table: &CpuTensor,
        ids: &CpuIndex,
        offsets: &CpuIndex,
        scale: &CpuTensor,
        out: &mut CpuTensor,
    ) -> Result<()> {
        const OP: &str = "gather_merge";
        check(OP, "out", out, out.rows(), table.cols())?;
        check(OP, "scale", scale, out.rows(), 1)?;
        check_offsets(OP, offsets, out.rows(), ids.len())?;
        check_below(OP, "ids", ids, table.rows())?;
        rows::gather_merge(table.mat(), table.cols(), ids, offsets, scale.f32(OP)?, out.f32_mut(OP)?);
        Ok(())
    }

    fn gather_merge_backward(
        &self,
        dout: &CpuTensor,
        ids: &CpuIndex,
        offsets: &CpuIndex,
        scale: &CpuTensor,
        dtable: &mut CpuTensor,
    ) -> Result<()> {
        const OP: &str = "gather_merge_backward";
        check(OP, "dout", dout, dout.rows(), dtable.cols())?;
        check(OP, "scale", scale, dout.rows(), 1)?;
        check_offsets(OP, offsets, dout.rows(), ids.len())?;
        check_below(OP, "ids", ids, dtable.rows())?;
        let cols = dtable.cols();
        rows::gather_merge_backward(dout.f32(OP)?, cols, ids, offsets, scale.f32(OP)?, dtable.f32_mut(OP)?);
        Ok(())
    }

    fn gather_rows(&self, alpha: f32, src: &CpuTensor, rows: &CpuIndex, out: &mut CpuTensor) -> Result<()> {
        const OP: &str = "gather_rows";
        check(OP, "out", out, rows.len(), src.cols())?;
        check_below(OP, "rows", rows, src.rows())?;
        rows::gather_rows(alpha, src.mat(), src.cols(), rows, out.f32_mut(OP)?);
        Ok(())
    }

    fn scatter_add_rows(
        &self,
        alpha: f32,
        src: &CpuTensor,
        rows: &CpuIndex,
        dst: &mut CpuTensor,
    ) -> Result<()> {
        const OP: &str = "scatter_add_rows";
        check(OP, "src", src, rows.len(), dst.cols())?;
        check_below(OP, "rows", rows, dst.rows())?;
        rows::scatter_rows(alpha, src.f32(OP)?, src.cols(), rows, true, dst.f32_mut(OP)?);
        Ok(())
    }

    fn scatter_rows(&self, alpha: f32, src: &CpuTensor, rows: &CpuIndex, dst: &mut CpuTensor) -> Result<()> {
        const OP: &str = "scatter_rows";
        check(OP, "src", src, rows.len(), dst.cols())?;
        check_below(OP, "rows", rows, dst.rows())?;
        rows::scatter_rows(alpha, src.f32(OP)?, src.cols(), rows, false, dst.f32_mut(OP)?);
        Ok(())
    }

    fn add(&self, x: &CpuTensor, y: &mut CpuTensor) -> Result<()> {
        const OP: &str = "add";
        check(OP, "x", x, y.rows(), y.cols())?;
        rows::add(x.f32(OP)?, y.f32_mut(OP)?);
        Ok(())
    }

    fn rms_norm(&self, x: &CpuTensor, w: &CpuTensor, eps: f32, out: &mut CpuTensor) -> Result<()> {
        const OP: &str = "rms_norm";
        check(OP, "w", w, 1, x.cols())?;
        check(OP, "out", out, x.rows(), x.cols())?;
        norm::rms_norm(x.f32(OP)?, w.f32(OP)?, eps, out.f32_mut(OP)?);
        Ok(())
    }

    fn add_rms_norm(
        &self,
        x: &CpuTensor,
        delta: &CpuTensor,
        w: &CpuTensor,
        eps: f32,
        sum: &mut CpuTensor,
        out: &mut CpuTensor,
    ) -> Result<()> {
        const OP: &str = "add_rms_norm";
        check(OP, "w", w, 1, x.cols())?;
        check(OP, "delta", delta, x.rows(), x.cols())?;
        check(OP, "sum", sum, x.rows(), x.cols())?;
        check(OP, "out", out, x.rows(), x.cols())?;
        norm::add_rms_norm(x.f32(OP)?, delta.f32(OP)?, w.f32(OP)?, eps, sum.f32_mut(OP)?, out.f32_mut(OP)?);
        Ok(())
    }

    fn rms_norm_backward(
        &self,
        dout: &CpuTensor,
        x: &CpuTensor,
        w: &CpuTensor,
        eps: f32,
        dx: &mut CpuTensor,
        dw: Option<&mut CpuTensor>,
    ) -> Result<()> {
        const OP: &str = "rms_norm_backward";
        check(OP, "w", w, 1, x.cols())?;
        check(OP, "dout", dout, x.rows(), x.cols())?;
        check(OP, "dx", dx, x.rows(), x.cols())?;
        let dw = match dw {
            Some(dw) => {
                check(OP, "dw", dw, 1, x.cols())?;
                Some(dw.f32_mut(OP)?)
            }
            None => None,
        };
        norm::rms_norm_backward(dout.f32(OP)?, x.f32(OP)?, w.f32(OP)?, eps, dx.f32_mut(OP)?, dw);
        Ok(())
    }

    fn rotary(
        &self,
        x: &mut CpuTensor,
        positions: &CpuIndex,
        inv_freq: &CpuTensor,
        direction: f32,
    ) -> Result<()> {
        const OP: &str = "rotary";
        check_len(OP, "positions", positions.len(), x.rows())?;
        let cols = x.cols();
        if inv_freq.rows() != 1 || !cols.is_multiple_of(2 * inv_freq.cols().max(1)) {
            return Err(Error::Shape {
                op: OP,
                what: format!("{} frequencies do not fit rows of {cols}", inv_freq.cols()),
            });
        }
        rotary::rotary(x.f32_mut(OP)?, cols, positions, inv_freq.f32(OP)?, direction);
        Ok(())
    }

    fn attention(
        &self,
        shape: HeadShape,
        spans: &[Span],
        q: &CpuTensor,
        k: &CpuTensor,
        v: &CpuTensor,
        out: &mut CpuTensor,
        lse: Option<&mut CpuTensor>,
    ) -> Result<()> {
        const OP: &str = "attention";
        check_attention(OP, shape, spans, q, k, v)?;
        check(OP, "out", out, q.rows(), shape.q_width())?;
        let lse = match lse {
            Some(lse) => {
                check(OP, "lse", lse, q.rows(), shape.heads)?;
                Some(lse.f32_mut(OP)?)
            }
            None => None,
        };
        let scale = attention_scale(shape);
        attention::attention(
            shape,
            scale,
            spans,
            columns(OP, q)?,
            columns(OP, k)?,
            columns(OP, v)?,
            columns_mut(OP, out)?,
            lse,
        );
        Ok(())
    }

    fn attention_backward(
        &self,
        shape: HeadShape,
        spans: &[Span],
        q: &CpuTensor,
        k: &CpuTensor,
        v: &CpuTensor,
        out: &CpuTensor,
        lse: &CpuTensor,
        dout: &CpuTensor,
        dq: &mut CpuTensor,
        dk: &mut CpuTensor,
        dv: &mut CpuTensor,
    ) -> Result<()> {
        const OP: &str = "attention_backward";
        check_attention(OP, shape, spans, q, k, v)?;
        check(OP, "out", out, q.rows(), shape.q_width())?;
        check(OP, "dout", dout, q.rows(), shape.q_width())?;
        check(OP, "dq", dq, q.rows(), shape.q_width())?;
        check(OP, "dk", dk, k.rows(), shape.kv_width())?;
        check(OP, "dv", dv, k.rows(), shape.kv_width())?;
        check(OP, "lse", lse, q.rows(), shape.heads)?;
        check_disjoint(OP, "keys", spans.iter().map(|s| (s.k_start, s.k_len)).collect())?;
        attention::attention_backward(
            shape,
            attention_scale(shape),
            spans,
            columns(OP, q)?,
            columns(OP, k)?,
            columns(OP, v)?,
            columns(OP, out)?,
            lse.f32(OP)?,
            columns(OP, dout)?,
            columns_mut(OP, dq)?,
            columns_mut(OP, dk)?,
            columns_mut(OP, dv)?,
        );
        Ok(())
    }

    fn swiglu(&self, gate: &CpuTensor, up: &CpuTensor, out: &mut CpuTensor) -> Result<()> {
        const OP: &str = "swiglu";
        check(OP, "up", up, gate.rows(), gate.cols())?;
        check(OP, "out", out, gate.rows(), gate.cols())?;
        activation::swiglu(gate.f32(OP)?, up.f32(OP)?, out.f32_mut(OP)?);
        Ok(())
    }

    fn swiglu_backward(&self, dout: &CpuTensor, gate: &mut CpuTensor, up: &mut CpuTensor) -> Result<()> {
        const OP: &str = "swiglu_backward";
        check(OP, "dout", dout, gate.rows(), gate.cols())?;
        check(OP, "up", up, gate.rows(), gate.cols())?;
        activation::swiglu_backward(dout.f32(OP)?, gate.f32_mut(OP)?, up.f32_mut(OP)?);
        Ok(())
    }

    fn gelu(&self, x: &CpuTensor, out: &mut CpuTensor) -> Result<()> {
        const OP: &str = "gelu";
        check(OP, "out", out, x.rows(), x.cols())?;
        activation::gelu(x.f32(OP)?, out.f32_mut(OP)?);
        Ok(())
    }

    fn gelu_backward(&self, dout: &CpuTensor, x: &CpuTensor, dx: &mut CpuTensor) -> Result<()> {
        const OP: &str = "gelu_backward";
        check(OP, "dout", dout, x.rows(), x.cols())?;
        check(OP, "dx", dx, x.rows(), x.cols())?;
        activation::gelu_backward(dout.f32(OP)?, x.f32(OP)?, dx.f32_mut(OP)?);
        Ok(())
    }

    fn layer_norm(&self, x: &CpuTensor, w: &CpuTensor, b: &CpuTensor, out: &mut CpuTensor) -> Result<()> {
        const OP: &str = "layer_norm";
        check(OP, "w", w, 1, x.cols())?;
        check(OP, "b", b, 1, x.cols())?;
        check(OP, "out", out, x.rows(), x.cols())?;
        norm::layer_norm(x.f32(OP)?, w.f32(OP)?, b.f32(OP)?, out.f32_mut(OP)?);
        Ok(())
    }

    fn layer_norm_backward(
        &self,
        dout: &CpuTensor,
        x: &CpuTensor,
        w: &CpuTensor,
        dx: &mut CpuTensor,
        params: Option<(&mut CpuTensor, &mut CpuTensor)>,
    ) -> Result<()> {
        const OP: &str = "layer_norm_backward";
        check(OP, "w", w, 1, x.cols())?;
        check(OP, "dout", dout, x.rows(), x.cols())?;
        check(OP, "dx", dx, x.rows(), x.cols())?;
        let params = match params {
            Some((dw, db)) => {
                check(OP, "dw", dw, 1, x.cols())?;
                check(OP, "db", db, 1, x.cols())?;
                Some((dw.f32_mut(OP)?, db.f32_mut(OP)?))
            }
            None => None,
        };
        norm::layer_norm_backward(dout.f32(OP)?, x.f32(OP)?, w.f32(OP)?, dx.f32_mut(OP)?, params);
        Ok(())
    }

    fn normal(&self, draws: &[Draw], out: &mut CpuTensor) -> Result<()> {
        const OP: &str = "normal";
        check_len(OP, "draws", draws.len(), out.rows())?;
        let cols = out.cols();
        latent::normal(draws, cols, out.f32_mut(OP)?);
        Ok(())
    }

    fn reparameterise(
        &self,
        mu: &CpuTensor,
        log_sigma: Option<&CpuTensor>,
        eps: &CpuTensor,
        temperature: f32,
        out: &mut CpuTensor,
    ) -> Result<()> {
        const OP: &str = "reparameterise";
        let log_sigma = optional(OP, "log_sigma", log_sigma, mu)?;
        check(OP, "eps", eps, mu.rows(), mu.cols())?;
        check(OP, "out", out, mu.rows(), mu.cols())?;
        latent::reparameterise(mu.f32(OP)?, log_sigma, eps.f32(OP)?, temperature, out.f32_mut(OP)?);
        Ok(())
    }

    fn latent_loss(
        &self,
        weights: LatentWeights,
        mu: &CpuTensor,
        log_sigma: Option<&CpuTensor>,
        eps: Option<&CpuTensor>,
        target: &CpuTensor,
        per_row: &mut CpuTensor,
        grads: Option<(&mut CpuTensor, Option<&mut CpuTensor>)>,
    ) -> Result<()> {
        const OP: &str = "latent_loss";
        check(OP, "target", target, mu.rows(), mu.cols())?;
        check(OP, "per_row", per_row, mu.rows(), 3)?;
        let inputs = latent::LatentInputs {
            mu: mu.f32(OP)?,
            log_sigma: optional(OP, "log_sigma", log_sigma, mu)?,
            eps: optional(OP, "eps", eps, mu)?,
            target: target.f32(OP)?,
        };
        let grads = match grads {
            Some((dmu, dls)) => {
                check(OP, "dmu", dmu, mu.rows(), mu.cols())?;
                let dls = match dls {
                    Some(dls) => {
                        check(OP, "dlog_sigma", dls, mu.rows(), mu.cols())?;
                        Some(dls.f32_mut(OP)?)
                    }
                    None => None,
                };
                Some((dmu.f32_mut(OP)?, dls))
            }
            None => None,
        };
        latent::latent_loss(weights, &inputs, mu.cols(), per_row.f32_mut(OP)?, grads);
        Ok(())
    }

    fn latent_logprob(
        &self,
        mu: &CpuTensor,
        log_sigma: &CpuTensor,
        latents: &CpuTensor,
        per_row: &mut CpuTensor,
        grads: Option<LatentPolicyGrads<'_, Self>>,
    ) -> Result<()> {
        const OP: &str = "latent_logprob";
        check(OP, "log_sigma", log_sigma, mu.rows(), mu.cols())?;
        check(OP, "latents", latents, mu.rows(), mu.cols())?;
        check(OP, "per_row", per_row, mu.rows(), 3)?;
        let grads = match grads {
            Some(g) => {
                check(OP, "dmu", g.dmu, mu.rows(), mu.cols())?;
                check(OP, "dlog_sigma", g.dlog_sigma, mu.rows(), mu.cols())?;
                Some(latent::PolicyGrads {
                    policy: policy(OP, &g.terms, mu.rows())?,
                    entropy_scale: g.entropy_scale,
                    dmu: g.dmu.f32_mut(OP)?,
                    dlog_sigma: g.dlog_sigma.f32_mut(OP)?,
                })
            }
            None => None,
        };
        latent::latent_logprob(
            mu.f32(OP)?,
            log_sigma.f32(OP)?,
            latents.f32(OP)?,
            mu.cols(),
            per_row.f32_mut(OP)?,
            grads,
        );
        Ok(())
    }

    fn reparameterise_backward(
        &self,
        dz: &CpuTensor,
        log_sigma: Option<&CpuTensor>,
        eps: &CpuTensor,
        dmu: &mut CpuTensor,
        dlog_sigma: Option<&mut CpuTensor>,
    ) -> Result<()> {
        const OP: &str = "reparameterise_backward";
        check(OP, "eps", eps, dz.rows(), dz.cols())?;
        check(OP, "dmu", dmu, dz.rows(), dz.cols())?;
        let log_sigma = optional(OP, "log_sigma", log_sigma, dz)?;
        let dls = match dlog_sigma {
            Some(dls) => {
                check(OP, "dlog_sigma", dls, dz.rows(), dz.cols())?;
                Some(dls.f32_mut(OP)?)
            }
            None => None,
        };
        latent::reparameterise_backward(dz.f32(OP)?, log_sigma, eps.f32(OP)?, dmu.f32_mut(OP)?, dls);
        Ok(())
    }

    fn cross_entropy(
        &self,
        h: &CpuTensor,
        w: &CpuTensor,
        ids: &CpuIndex,
        offsets: &CpuIndex,
        loss: &mut CpuTensor,
        grads: Option<CrossEntropyGrads<'_, Self>>,
    ) -> Result<()> {
        const OP: &str = "cross_entropy";
        let (hidden, vocab) = (h.cols(), w.rows());
        check(OP, "w", w, vocab.max(1), hidden)?;
        check(OP, "loss", loss, h.rows(), 1)?;
        check_offsets(OP, offsets, h.rows(), ids.len())?;
        check_below(OP, "ids", ids, vocab)?;
        if offsets.windows(2).any(|w| w[0] == w[1]) {
            return Err(Error::Shape { op: OP, what: "a row has no label".into() });
        }
        let grads = match grads {
            Some(g) => {
                let upstream = match &g.upstream {
                    Upstream::Scale(scale) => {
                        check(OP, "scale", *scale, h.rows(), 1)?;
                        output::Upstream::Scale(scale.f32(OP)?)
                    }
                    Upstream::Policy(terms) => output::Upstream::Policy(policy(OP, terms, h.rows())?),
                };
                check(OP, "dh", g.dh, h.rows(), hidden)?;
                let dw = match g.dw {
                    Some(dw) => {
                        check(OP, "dw", dw, vocab, hidden)?;
                        Some(dw.f32_mut(OP)?)
                    }
                    None => None,
                };
                Some(output::Grads { upstream, dh: g.dh.f32_mut(OP)?, dw })
            }
            None => None,
        };
        output::cross_entropy(hidden, vocab, h.f32(OP)?, w.mat(), ids, offsets, loss.f32_mut(OP)?, grads);
        Ok(())
    }

    fn choose_tokens(
        &self,
        h: &CpuTensor,
        w: &CpuTensor,
        choices: &[TokenChoice],
        bias: Option<(u32, f32)>,
    ) -> Result<Vec<u32>> {
        const OP: &str = "choose_tokens";
        check(OP, "w", w, w.rows(), h.cols())?;
        check_len(OP, "choices", choices.len(), h.rows())?;
        check_below(OP, "bias token", bias.map(|b| b.0).as_slice(), w.rows())?;
        if w.rows() == 0 {
            return Err(Error::Shape { op: OP, what: "there is no token to choose from".into() });
        }
        Ok(output::choose_tokens(h.cols(), w.rows(), h.f32(OP)?, w.mat(), choices, bias))
    }

    fn token_event(
        &self,
        h: &CpuTensor,
        w: &CpuTensor,
        token: u32,
        choices: &[TokenChoice],
        bias: f32,
    ) -> Result<Vec<bool>> {
        const OP: &str = "token_event";
        check(OP, "w", w, w.rows(), h.cols())?;
        check_len(OP, "choices", choices.len(), h.rows())?;
        check_below(OP, "token", &[token], w.rows())?;
        Ok(output::token_event(h.cols(), w.rows(), h.f32(OP)?, w.mat(), token, choices, bias))
    }

    fn sum_squares(&self, tensors: &[&CpuTensor]) -> Result<f64> {
        let mut sum = 0.0;
        for t in tensors {
            sum += optimizer::sum_squares(t.f32("sum_squares")?);
        }
        Ok(sum)
    }

    /// None: a step's operations follow each other without a gap here.
    fn decoder<'a>(&'a self, _: DecoderModel<'a, Self>, _: usize) -> Result<Option<NoDecoder>> {
        Ok(None)
    }

    fn adamw_clipped(
        &self,
        hyper: &AdamW,
        clip: f32,
        watched: &[&CpuTensor],
        tensors: &mut [AdamWTensor<'_, Self>],
    ) -> Result<f64> {
        let grads: Vec<&CpuTensor> = tensors.iter().map(|t| t.grad).collect();
        let norm = self.sum_squares(&grads)?.sqrt();
        if !norm.is_finite() || !self.sum_squares(watched)?.is_finite() {
            return Ok(f64::NAN);
        }
        self.adamw(&hyper.clipped(norm, clip), tensors)?;
        Ok(norm)
    }

    fn late(&self, number: &f64) -> Result<f64> {
        Ok(*number)
    }

    fn adamw(&self, hyper: &AdamW, tensors: &mut [AdamWTensor<'_, Self>]) -> Result<()> {
        const OP: &str = "adamw";
        for t in tensors {
            let (rows, cols) = (t.value.rows(), t.value.cols());
            check(OP, "grad", t.grad, rows, cols)?;
            check(OP, "m", t.m, rows, cols)?;
            check(OP, "v", t.v, rows, cols)?;
            optimizer::adamw(
                hyper,
                t.value.f32_mut(OP)?,
                t.grad.f32(OP)?,
                t.m.f32_mut(OP)?,
                t.v.f32_mut(OP)?,
            );
        }
        Ok(())
    }
}

/// An optional float32 operand of the same shape as `like`.
fn optional<'a>(
    op: &'static str,
    name: &str,
    t: Option<&'a CpuTensor>,
    like: &CpuTensor,
) -> Result<Option<&'a [f32]>> {
    let Some(t) = t else { return Ok(None) };
    check(op, name, t, like.rows(), like.cols())?;
    Ok(Some(t.f32(op)?))
}

/// A whole matrix as columns for attention.
fn columns<'a>(op: &'static str, t: &'a CpuTensor) -> Result<attention::Columns<'a>> {
    Ok(attention::Columns::new(t.f32(op)?, t.cols()))
}

/// As [`columns`], for writing.
fn columns_mut<'a>(op: &'static str, t: &'a mut CpuTensor) -> Result<attention::ColumnsMut<'a>> {
    let stride = t.cols();
    Ok(attention::ColumnsMut::new(t.f32_mut(op)?, stride))
}

fn attention_scale(shape: HeadShape) -> f32 {
    1.0 / (shape.head_dim as f32).sqrt()
}
