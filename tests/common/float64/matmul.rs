//! Products.

use colar_engine::Result;
use colar_engine::device::prelude::*;

use super::{Float64, Float64Tensor, refused};

impl MatmulOps for Float64 {
    fn matmul_nt(
        &self,
        alpha: f32,
        x: &Float64Tensor,
        w: &Float64Tensor,
        beta: f32,
        y: &mut Float64Tensor,
    ) -> Result<()> {
        matmul_nt(alpha.into(), x, w, beta.into(), y);
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
}

/// Rows of `w` that one pass over a row of `x` multiplies.
const BLOCK: usize = 4;
/// Partial sums of a dot product, which the compiler keeps in a vector.
const LANES: usize = 8;

/// `y = beta·y + alpha · x·wᵀ`.
pub(super) fn matmul_nt(alpha: f64, x: &Float64Tensor, w: &Float64Tensor, beta: f64, y: &mut Float64Tensor) {
    assert_eq!((x.cols, y.cols), (w.cols, w.rows));
    let k = x.cols;
    pulp::Arch::new().dispatch(
        #[inline(always)]
        || {
            for (x, y) in x.row_pairs(y) {
                let mut blocks = y.chunks_exact_mut(BLOCK);
                let mut w = w.values.chunks_exact(BLOCK * k);
                for (y, w) in blocks.by_ref().zip(w.by_ref()) {
                    let rows: [&[f64]; BLOCK] = std::array::from_fn(|i| &w[i * k..(i + 1) * k]);
                    store(alpha, beta, &dots(x, rows), y);
                }
                for (y, w) in blocks.into_remainder().iter_mut().zip(w.remainder().chunks_exact(k)) {
                    store(alpha, beta, &dots(x, [w]), std::slice::from_mut(y));
                }
            }
        },
    );
}

#[inline(always)]
fn store(alpha: f64, beta: f64, products: &[f64], y: &mut [f64]) {
    for (y, p) in y.iter_mut().zip(products) {
        // Values that are overwritten may be NaN.
        *y = if beta == 0.0 { alpha * p } else { beta * *y + alpha * p };
    }
}

/// The dot products of `x` with each of `rows`.
#[inline(always)]
fn dots<const N: usize>(x: &[f64], rows: [&[f64]; N]) -> [f64; N] {
    let mut lanes = [[0.0; LANES]; N];
    let whole = x.len() - x.len() % LANES;
    for at in (0..whole).step_by(LANES) {
        let x = &x[at..at + LANES];
        for (lanes, row) in lanes.iter_mut().zip(&rows) {
            let row = &row[at..at + LANES];
            for l in 0..LANES {
                lanes[l] += x[l] * row[l];
            }
        }
    }
    std::array::from_fn(|i| {
        let rest = x[whole..].iter().zip(&rows[i][whole..]).map(|(a, b)| a * b).sum::<f64>();
        lanes[i].iter().sum::<f64>() + rest
    })
}
