//! RMSNorm and LayerNorm.

use colar_engine::Result;
use colar_engine::device::prelude::*;

use super::{Float64, Float64Tensor, refused};

/// Added to the variance in LayerNorm.
const LAYER_NORM_EPS: f64 = 1e-5;

impl NormOps for Float64 {
    fn rms_norm(
        &self,
        x: &Float64Tensor,
        w: &Float64Tensor,
        eps: f32,
        out: &mut Float64Tensor,
    ) -> Result<()> {
        rms_norm(x, w, eps.into(), out);
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

    fn layer_norm(
        &self,
        x: &Float64Tensor,
        w: &Float64Tensor,
        b: &Float64Tensor,
        out: &mut Float64Tensor,
    ) -> Result<()> {
        layer_norm(x, w, b, LAYER_NORM_EPS, out);
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
}

/// `out = x / sqrt(mean(x²) + eps) · w`, by groups of as many columns as `w` has.
fn rms_norm(x: &Float64Tensor, w: &Float64Tensor, eps: f64, out: &mut Float64Tensor) {
    assert!(
        w.rows == 1 && x.cols.is_multiple_of(w.cols),
        "w is [{}, {}], x has {} columns",
        w.rows,
        w.cols,
        x.cols
    );
    for (x, out) in x.row_pairs(out) {
        for (x, out) in x.chunks_exact(w.cols).zip(out.chunks_exact_mut(w.cols)) {
            let r = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + eps).sqrt();
            for ((out, x), w) in out.iter_mut().zip(x).zip(&w.values) {
                *out = x * r * w;
            }
        }
    }
}

/// LayerNorm with weight and bias.
fn layer_norm(x: &Float64Tensor, w: &Float64Tensor, b: &Float64Tensor, eps: f64, out: &mut Float64Tensor) {
    assert_eq!((w.cols, b.cols), (x.cols, x.cols));
    for (x, out) in x.row_pairs(out) {
        let n = x.len() as f64;
        let mean = x.iter().sum::<f64>() / n;
        let r = 1.0 / (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n + eps).sqrt();
        for (((out, x), w), b) in out.iter_mut().zip(x).zip(&w.values).zip(&b.values) {
            *out = (x - mean) * r * w + b;
        }
    }
}
