//! RMSNorm and LayerNorm, forward and backward.
//!
//! With r = 1/sqrt(mean(x²) + eps), RMSNorm is y = x·r·w and its gradient
//! dx = r·(g − x·r²·mean(g·x)) where g = dy·w; r is recomputed in the backward pass, which costs
//! less than keeping it. The weights' gradients are column sums over all rows: columns are divided
//! among the threads, so each sum runs in row order whatever the number of threads.

use super::math::{dot, sum_squares};
use super::par;
use super::simd::dispatch;

/// Rows a task should at least have, for rows of `cols` floats.
pub(super) fn row_grain(cols: usize) -> usize {
    (8192 / cols.max(1)).max(1)
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

pub(super) fn rms_norm(x: &[f32], w: &[f32], eps: f32, out: &mut [f32]) {
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
pub(super) fn add_rms_norm(x: &[f32], delta: &[f32], w: &[f32], eps: f32, sum: &mut [f32], out: &mut [f32]) {
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
pub(super) fn rms_norm_backward(
    dout: &[f32],
    x: &[f32],
    w: &[f32],
    eps: f32,
    dx: &mut [f32],
    dw: Option<&mut [f32]>,
) {
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
    columns(dw, |first, dw| {
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

/// Divides the columns of one row among the threads, in cache lines.
pub(super) fn columns(row: &mut [f32], body: impl Fn(usize, &mut [f32]) + Sync) {
    const LINE: usize = 16;
    par::split_rows(row, LINE, 2, |first, part| body(first * LINE, part));
}

/// Mean and 1/sqrt(variance + 1e-5) of a row.
fn moments(row: &[f32]) -> (f32, f32) {
    let n = row.len() as f64;
    let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let var = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
    (mean as f32, 1.0 / (var as f32 + super::LAYER_NORM_EPS).sqrt())
}

pub(super) fn layer_norm(x: &[f32], w: &[f32], b: &[f32], out: &mut [f32]) {
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
pub(super) fn layer_norm_backward(
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
    columns(dw, |first, dw| {
        for (t, &(mean, r)) in stats.iter().enumerate() {
            let at = t * cols + first;
            for ((dw, &d), &x) in dw.iter_mut().zip(&dout[at..]).zip(&x[at..]) {
                *dw += d * (x - mean) * r;
            }
        }
    });
    super::rows::add_column_sums(dout, cols, db);
}
