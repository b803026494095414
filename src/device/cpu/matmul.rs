//! Matrix products: the forward of a linear layer and its two backwards.
//!
//! An output is cut into tiles, each computed whole by one thread (`panels`): one product
//! shared between threads would have them wait for each other. Weights in 16 bits stay so in memory, where
//! they may be a mapped file; a tile widens the block of weights that it needs into scratch that stays in the
//! second-level cache, and multiplies from there. Few rows go to [`gemv`], which widens in registers.
//!
//! An element is summed in the same order whatever tile it falls in, so its bits depend on the factors and on
//! whether there are few rows, unless the device's [form](RowForm) says that there are many, and on nothing else.

use super::buffer::CpuTensor;
use super::mat::Mat;
use super::panels::{Factor, Tile};
use super::par::{self, SharedMut};
use super::simd::Element;
use super::{CpuDevice, gemv};
use crate::Result;
use crate::device::RowForm;
use crate::device::matmul::{MatmulOps, MatmulShape, check_matmul_nn, check_matmul_nt, check_matmul_tn};

impl MatmulOps for CpuDevice {
    fn matmul_nt(
        &self,
        alpha: f32,
        x: &CpuTensor,
        w: &CpuTensor,
        beta: f32,
        y: &mut CpuTensor,
    ) -> Result<()> {
        let MatmulShape { op, t, n, k } = check_matmul_nt(x, w, y)?;
        matmul_nt_in(self.form, t, n, k, alpha, x.f32(op)?, w.mat(), beta, y.f32_mut(op)?);
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
        let MatmulShape { op, t, n, k } = check_matmul_nn(dy, w, dx)?;
        matmul_nn(t, n, k, alpha, dy.f32(op)?, w.mat(), beta, dx.f32_mut(op)?);
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
        let MatmulShape { op, t, n, k } = check_matmul_tn(dy, x, dw)?;
        matmul_tn(t, n, k, alpha, dy.f32(op)?, x.f32(op)?, beta, dw.f32_mut(op)?);
        Ok(())
    }
}

/// The widest tile of an output, in columns.
const WIDE_TILE: usize = 192;

/// The tallest tile of an output, in rows. A tile packs (and widens) its weights anew, so it should be tall.
const TALL_TILE: usize = 768;

/// No output is cut into tiles below this height for the sake of more tiles.
const LOW_TILE: usize = 192;

/// With several threads, an output is cut into about so many tiles for each at least, unless they would be too
/// small: some slack for a thread that comes late.
const TILES_PER_THREAD: usize = 4;

/// Multiply-adds below which a tile is not worth a thread's attention.
const TILE_WORK: usize = 1 << 19;

/// The width of a tile is a multiple of this: a panel of AVX-512, three of AVX2.
const EDGE: usize = 48;

/// `y[m,n] = beta·y + alpha · x[m,k]·w[n,k]ᵀ`: a linear layer. With `beta` 0 the old `y` is not read.
///
/// # Panics
/// When a slice does not have the length that its shape says.
#[allow(clippy::too_many_arguments)]
pub fn matmul_nt(m: usize, n: usize, k: usize, alpha: f32, x: &[f32], w: Mat<'_>, beta: f32, y: &mut [f32]) {
    matmul_nt_in(RowForm::ByCount, m, n, k, alpha, x, w, beta, y);
}

/// [`matmul_nt`] in a form.
#[allow(clippy::too_many_arguments)]
pub(crate) fn matmul_nt_in(
    form: RowForm,
    m: usize,
    n: usize,
    k: usize,
    alpha: f32,
    x: &[f32],
    w: Mat<'_>,
    beta: f32,
    y: &mut [f32],
) {
    check(x.len(), y.len(), w.len(), [m * k, m * n, n * k]);
    if form == RowForm::ByCount && m <= gemv::MAX_ROWS {
        return match w {
            Mat::F32(w) => gemv::gemv_nt(m, n, k, alpha, x, w, beta, y),
            Mat::Bf16(w) => gemv::gemv_nt(m, n, k, alpha, x, w, beta, y),
            Mat::F16(w) => gemv::gemv_nt(m, n, k, alpha, x, w, beta, y),
        };
    }
    let x = Factor::Straight { data: x, stride: k };
    match w {
        Mat::F32(w) => tiled(m, n, k, alpha, x, Factor::Turned { data: w, stride: k }, beta, y),
        Mat::Bf16(w) => tiled(m, n, k, alpha, x, Factor::Turned { data: w, stride: k }, beta, y),
        Mat::F16(w) => tiled(m, n, k, alpha, x, Factor::Turned { data: w, stride: k }, beta, y),
    }
}

/// `dx[m,k] = beta·dx + alpha · dy[m,n]·w[n,k]`: the gradient that a linear layer passes on. With `beta` 0
/// the old `dx` is not read.
///
/// # Panics
/// When a slice does not have the length that its shape says.
#[allow(clippy::too_many_arguments)]
pub fn matmul_nn(
    m: usize,
    n: usize,
    k: usize,
    alpha: f32,
    dy: &[f32],
    w: Mat<'_>,
    beta: f32,
    dx: &mut [f32],
) {
    check(dy.len(), dx.len(), w.len(), [m * n, m * k, n * k]);
    let dy = Factor::Straight { data: dy, stride: n };
    match w {
        Mat::F32(w) => tiled(m, k, n, alpha, dy, Factor::Straight { data: w, stride: k }, beta, dx),
        Mat::Bf16(w) => tiled(m, k, n, alpha, dy, Factor::Straight { data: w, stride: k }, beta, dx),
        Mat::F16(w) => tiled(m, k, n, alpha, dy, Factor::Straight { data: w, stride: k }, beta, dx),
    }
}

/// `dw[n,k] = beta·dw + alpha · dy[m,n]ᵀ·x[m,k]`: the gradient of a linear layer's weights. With `beta` 0
/// the old `dw` is not read.
///
/// # Panics
/// When a slice does not have the length that its shape says.
#[allow(clippy::too_many_arguments)]
pub fn matmul_tn(m: usize, n: usize, k: usize, alpha: f32, dy: &[f32], x: &[f32], beta: f32, dw: &mut [f32]) {
    check(dy.len(), dw.len(), x.len(), [m * n, n * k, m * k]);
    let dy = Factor::Turned { data: dy, stride: n };
    tiled(n, k, m, alpha, dy, Factor::Straight { data: x, stride: k }, beta, dw);
}

fn check(left: usize, out: usize, right: usize, want: [usize; 3]) {
    assert_eq!([left, out, right], want, "lengths of the left factor, the product and the right factor");
}

/// `out[rows, cols] = beta·out + alpha · left·right`, each element a sum of `inner` products, cut into tiles
/// that run in parallel.
#[allow(clippy::too_many_arguments)]
fn tiled<T: Element>(
    rows: usize,
    cols: usize,
    inner: usize,
    alpha: f32,
    left: Factor<'_, f32>,
    right: Factor<'_, T>,
    beta: f32,
    out: &mut [f32],
) {
    if rows == 0 || cols == 0 {
        return;
    }
    if inner == 0 {
        return match beta {
            0.0 => out.fill(0.0),
            _ => out.iter_mut().for_each(|y| *y *= beta),
        };
    }
    let (tall, wide) = tile_size(rows, cols, inner, par::threads());
    let across = cols.div_ceil(wide);
    let out = SharedMut::new(out);
    par::for_tasks(rows.div_ceil(tall) * across, |i| {
        let (r, c) = (i / across * tall, i % across * wide);
        let (rows, part) = (r..(r + tall).min(rows), c..(c + wide).min(cols));
        let tile = Tile { out: &out, width: cols, rows, cols: part, inner, alpha, beta, left, right };
        // SAFETY: tiles share no element, and each is one task's.
        unsafe { tile.run() };
    });
}

/// The height and width of the tiles of an output.
fn tile_size(rows: usize, cols: usize, inner: usize, threads: usize) -> (usize, usize) {
    let work = rows.saturating_mul(cols).saturating_mul(inner);
    let most = if threads == 1 { 1 } else { threads * TILES_PER_THREAD };
    let want = (work / TILE_WORK).clamp(1, most);
    let down = rows.div_ceil(TALL_TILE);
    let across = cols.div_ceil(WIDE_TILE).max(cols.div_ceil(EDGE).min(want.div_ceil(down)));
    let down = down.max((rows / LOW_TILE).min(want.div_ceil(across)));
    (rows.div_ceil(down), cols.div_ceil(across).next_multiple_of(EDGE))
}

#[cfg(test)]
mod tests;
