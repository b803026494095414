//! RMSNorm and LayerNorm, forward and backward.
//!
//! With r = 1/sqrt(mean(x²) + eps), RMSNorm is y = x·r·w and its gradient
//! dx = r·(g − x·r²·mean(g·x)) where g = dy·w; r is recomputed in the backward pass, which costs
//! less than keeping it. The weights' gradients are column sums over all rows: columns are divided
//! among the threads, so each sum runs in row order whatever the number of threads.

use super::CpuDevice;
use super::buffer::CpuTensor;
use super::math::{dot, sum_squares};
use super::par::{self, row_grain};
use super::rows::add_column_sums;
use super::simd::dispatch;
use crate::Result;
use crate::device::norm::{
    LAYER_NORM_EPS, NormOps, check_add_rms_norm, check_layer_norm, check_layer_norm_backward, check_rms_norm,
    check_rms_norm_backward,
};

impl NormOps for CpuDevice {
    fn rms_norm(&self, x: &CpuTensor, w: &CpuTensor, eps: f32, out: &mut CpuTensor) -> Result<()> {
        let op = check_rms_norm(x, w, out)?.op;
        rms_norm(x.f32(op)?, w.f32(op)?, eps, out.f32_mut(op)?);
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
        let op = check_add_rms_norm(x, delta, w, sum, out)?.op;
        add_rms_norm(x.f32(op)?, delta.f32(op)?, w.f32(op)?, eps, sum.f32_mut(op)?, out.f32_mut(op)?);
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
        let op = check_rms_norm_backward(dout, x, w, dx, dw.as_deref())?.op;
        let dw = dw.map(|dw| dw.f32_mut(op)).transpose()?;
        rms_norm_backward(dout.f32(op)?, x.f32(op)?, w.f32(op)?, eps, dx.f32_mut(op)?, dw);
        Ok(())
    }

    fn layer_norm(&self, x: &CpuTensor, w: &CpuTensor, b: &CpuTensor, out: &mut CpuTensor) -> Result<()> {
        let op = check_layer_norm(x, w, b, out)?.op;
        layer_norm(x.f32(op)?, w.f32(op)?, b.f32(op)?, out.f32_mut(op)?);
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
        let given = params.as_ref().map(|(dw, db)| (&**dw, &**db));
        let op = check_layer_norm_backward(dout, x, w, dx, given)?.op;
        let params = match params {
            Some((dw, db)) => Some((dw.f32_mut(op)?, db.f32_mut(op)?)),
            None => None,
        };
        layer_norm_backward(dout.f32(op)?, x.f32(op)?, w.f32(op)?, dx.f32_mut(op)?, params);
        Ok(())
    }
}

fn inverse_rms(row: &[f32], eps: f32) -> f32 {
    1.0 / ((sum_squares(row) / row.len() as f64) as f32 + eps).sqrt()
}

#[inline(always)]
fn scale_row(x: &[f32], r: f32, w: &[f32], out: &mut [f32]) {
    for ((o, &x), &w) in out.iter_mut().zip(x).zip(w) {
        *o = x * r * w;
    }
}

fn rms_norm(x: &[f32], w: &[f32], eps: f32, out: &mut [f32]) {
    let cols = w.len();
    par::split_rows(out, cols, row_grain(cols), |first, rows| {
        for (out, x) in rows.chunks_exact_mut(cols).zip(x[first * cols..].chunks_exact(cols)) {
            let r = inverse_rms(x, eps);
            dispatch(
                #[inline(always)]
                || scale_row(x, r, w, out),
            );
        }
    });
}

/// `sum = x + delta`, `out = RMSNorm(sum)`.
fn add_rms_norm(x: &[f32], delta: &[f32], w: &[f32], eps: f32, sum: &mut [f32], out: &mut [f32]) {
    let cols = w.len();
    let out = par::SharedMut::new(out);
    par::split_rows(sum, cols, row_grain(cols), |first, rows| {
        let at = first * cols..first * cols + rows.len();
        // SAFETY: the blocks of rows that `split_rows` hands out are disjoint.
        let out = unsafe { out.slice(at.clone()) };
        let (x, delta) = (&x[at.clone()], &delta[at]);
        for (i, (sum, out)) in rows.chunks_exact_mut(cols).zip(out.chunks_exact_mut(cols)).enumerate() {
            let (x, delta) = (&x[i * cols..][..cols], &delta[i * cols..][..cols]);
            dispatch(
                #[inline(always)]
                || {
                    for ((s, &x), &d) in sum.iter_mut().zip(x).zip(delta) {
                        *s = x + d;
                    }
                },
            );
            let r = inverse_rms(sum, eps);
            dispatch(
                #[inline(always)]
                || scale_row(sum, r, w, out),
            );
        }
    });
}

/// Adds to `dx`, and to `dw` where given.
fn rms_norm_backward(dout: &[f32], x: &[f32], w: &[f32], eps: f32, dx: &mut [f32], dw: Option<&mut [f32]>) {
    let cols = w.len();
    par::split_rows(dx, cols, row_grain(cols), |first, rows| {
        let mut g = vec![0.0; cols];
        for (i, dx) in rows.chunks_exact_mut(cols).enumerate() {
            let at = (first + i) * cols;
            let (x, dout) = (&x[at..at + cols], &dout[at..at + cols]);
            let r = inverse_rms(x, eps);
            dispatch(
                #[inline(always)]
                || {
                    for ((g, &d), &w) in g.iter_mut().zip(dout).zip(w) {
                        *g = d * w;
                    }
                },
            );
            let c = r * r * r * dot(&g, x) / cols as f32;
            dispatch(
                #[inline(always)]
                || {
                    for ((dx, &g), &x) in dx.iter_mut().zip(&g).zip(x) {
                        *dx += r * g - c * x;
                    }
                },
            );
        }
    });
    let Some(dw) = dw else { return };
    let scales: Vec<f32> = x.chunks_exact(cols).map(|row| inverse_rms(row, eps)).collect();
    par::split_columns(dw, |first, dw| {
        for (t, &r) in scales.iter().enumerate() {
            let at = t * cols + first;
            let (x, dout) = (&x[at..at + dw.len()], &dout[at..at + dw.len()]);
            dispatch(
                #[inline(always)]
                || {
                    for ((dw, &d), &x) in dw.iter_mut().zip(dout).zip(x) {
                        *dw += d * x * r;
                    }
                },
            );
        }
    });
}

/// Mean and 1/sqrt(variance + 1e-5) of a row.
fn moments(row: &[f32]) -> (f32, f32) {
    let n = row.len() as f64;
    let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let var = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
    (mean as f32, 1.0 / (var as f32 + LAYER_NORM_EPS).sqrt())
}

fn layer_norm(x: &[f32], w: &[f32], b: &[f32], out: &mut [f32]) {
    let cols = w.len();
    par::split_rows(out, cols, row_grain(cols), |first, rows| {
        for (out, x) in rows.chunks_exact_mut(cols).zip(x[first * cols..].chunks_exact(cols)) {
            let (mean, r) = moments(x);
            dispatch(
                #[inline(always)]
                || {
                    for (((o, &x), &w), &b) in out.iter_mut().zip(x).zip(w).zip(b) {
                        *o = (x - mean) * r * w + b;
                    }
                },
            );
        }
    });
}

/// Overwrites `dx`; adds to `dw` and `db` where given.
fn layer_norm_backward(
    dout: &[f32],
    x: &[f32],
    w: &[f32],
    dx: &mut [f32],
    params: Option<(&mut [f32], &mut [f32])>,
) {
    let cols = w.len();
    let stats: Vec<(f32, f32)> = x.chunks_exact(cols).map(moments).collect();
    par::split_rows(dx, cols, row_grain(cols), |first, rows| {
        for (i, dx) in rows.chunks_exact_mut(cols).enumerate() {
            let at = (first + i) * cols;
            let (x, dout) = (&x[at..at + cols], &dout[at..at + cols]);
            let (mean, r) = stats[first + i];
            let (mut sum_g, mut sum_gn) = (0.0f64, 0.0f64);
            for ((&d, &w), &x) in dout.iter().zip(w).zip(x) {
                let g = f64::from(d * w);
                sum_g += g;
                sum_gn += g * f64::from((x - mean) * r);
            }
            let (mean_g, mean_gn) = ((sum_g / cols as f64) as f32, (sum_gn / cols as f64) as f32);
            for (((dx, &d), &w), &x) in dx.iter_mut().zip(dout).zip(w).zip(x) {
                *dx = r * (d * w - mean_g - (x - mean) * r * mean_gn);
            }
        }
    });
    let Some((dw, db)) = params else { return };
    par::split_columns(dw, |first, dw| {
        for (t, &(mean, r)) in stats.iter().enumerate() {
            let at = t * cols + first;
            for ((dw, &d), &x) in dw.iter_mut().zip(&dout[at..]).zip(&x[at..]) {
                *dw += d * (x - mean) * r;
            }
        }
    });
    add_column_sums(dout, cols, db);
}
