//! Matrix products: the forward of a linear layer and its two backwards.
//!
//! The arithmetic is that of the `gemm` crate, one thread a piece. It runs at about four fifths of what a
//! core can do, but shares one product between threads badly (two threads gave 1.2 to 1.7 times one), so the
//! cut into pieces is made here: tiles of the output, each computed whole by one thread. The cut depends on the
//! shapes alone, so the bits do not depend on the number of threads.
//!
//! Weights in 16 bits stay so in memory, where they may be a mapped file. A piece widens the block of weights
//! that it needs into scratch that stays in the second-level cache, and multiplies from there. Few rows go to
//! [`gemv`], which widens in registers.

use std::cell::RefCell;
use std::ops::Range;

use super::buffer::CpuTensor;
use super::mat::Mat;
use super::par::{self, SharedMut};
use super::simd::Element;
use super::transpose::transpose;
use super::{CpuDevice, gemv};
use crate::Result;
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
        matmul_nt(t, n, k, alpha, x.f32(op)?, w.mat(), beta, y.f32_mut(op)?);
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

/// Elements of widened weights that a piece holds at a time: 512 KiB, a quarter of a common second-level
/// cache, which the activations share.
const SCRATCH: usize = 128 << 10;

/// The widest tile of an output, in columns.
const WIDE_TILE: usize = 384;

/// The tallest tile of an output, in rows. A tile packs (and widens) its weights anew, so it should be tall.
const TALL_TILE: usize = 768;

/// No output is cut into tiles below this height for the sake of more tiles.
const LOW_TILE: usize = 192;

/// An output is cut into about so many tiles at least, unless they would be too small.
const TILES: usize = 16;

/// Multiply-adds below which a tile is not worth a thread's attention.
const TILE_WORK: usize = 1 << 19;

/// What the width of a tile is a multiple of: three registers of AVX-512, the height of `gemm`'s micro-tile.
const EDGE: usize = 48;

thread_local! {
    /// A block of widened weights.
    static WIDE: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// `y[m,n] = beta·y + alpha · x[m,k]·w[n,k]ᵀ`: a linear layer. With `beta` 0 what `y` held is not read.
///
/// # Panics
/// When a slice does not have the length that its shape says.
#[allow(clippy::too_many_arguments)]
pub fn matmul_nt(m: usize, n: usize, k: usize, alpha: f32, x: &[f32], w: Mat<'_>, beta: f32, y: &mut [f32]) {
    check(x.len(), y.len(), w.len(), [m * k, m * n, n * k]);
    if m <= gemv::MAX_ROWS {
        return match w {
            Mat::F32(w) => gemv::gemv_nt(m, n, k, alpha, x, w, beta, y),
            Mat::Bf16(w) => gemv::gemv_nt(m, n, k, alpha, x, w, beta, y),
            Mat::F16(w) => gemv::gemv_nt(m, n, k, alpha, x, w, beta, y),
        };
    }
    tiled(m, n, k, beta, y, |out, rows, cols| {
        let x = View { data: &x[rows.start * k..], rows: k, cols: 1 };
        let block = (SCRATCH / k / EDGE * EDGE).max(EDGE);
        let piece = |w: &[f32], cols: Range<usize>| {
            let w = View { data: w, rows: cols.len(), cols: 1 };
            gemm(out, rows.clone(), cols, n, k, alpha, x, w, beta);
        };
        match w {
            Mat::F32(w) => turned(w, k, cols, block, piece),
            Mat::Bf16(w) => turned(w, k, cols, block, piece),
            Mat::F16(w) => turned(w, k, cols, block, piece),
        }
    });
}

/// `dx[m,k] = beta·dx + alpha · dy[m,n]·w[n,k]`: the gradient that a linear layer passes on. With `beta` 0
/// what `dx` held is not read.
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
    tiled(m, k, n, beta, dx, |out, rows, cols| {
        let width = cols.len();
        let block = SCRATCH / width;
        let piece = |w: &[f32], stride: usize, inner: Range<usize>| {
            let dy = View { data: &dy[rows.start * n + inner.start..], rows: n, cols: 1 };
            let w = View { data: w, rows: stride, cols: 1 };
            // The first block of the sum meets what dx held, the others what their forerunners left.
            let beta = if inner.start == 0 { beta } else { 1.0 };
            gemm(out, rows.clone(), cols.clone(), k, inner.len(), alpha, dy, w, beta);
        };
        match w {
            Mat::F32(w) => piece(&w[cols.start..], k, 0..n),
            Mat::Bf16(w) => {
                widened(w, k, 0..n, cols.clone(), block, |w, inner| piece(w, width, inner));
            }
            Mat::F16(w) => {
                widened(w, k, 0..n, cols.clone(), block, |w, inner| piece(w, width, inner));
            }
        }
    });
}

/// `dw[n,k] = beta·dw + alpha · dy[m,n]ᵀ·x[m,k]`: the gradient of a linear layer's weights. With `beta` 0
/// what `dw` held is not read.
///
/// # Panics
/// When a slice does not have the length that its shape says.
#[allow(clippy::too_many_arguments)]
pub fn matmul_tn(m: usize, n: usize, k: usize, alpha: f32, dy: &[f32], x: &[f32], beta: f32, dw: &mut [f32]) {
    check(dy.len(), dw.len(), x.len(), [m * n, n * k, m * k]);
    tiled(n, k, m, beta, dw, |out, rows, cols| {
        let dy = View { data: &dy[rows.start..], rows: 1, cols: n };
        let x = View { data: &x[cols.start..], rows: k, cols: 1 };
        gemm(out, rows, cols, k, m, alpha, dy, x, beta);
    });
}

fn check(left: usize, out: usize, right: usize, want: [usize; 3]) {
    assert_eq!([left, out, right], want, "lengths of the left factor, the product and the right factor");
}

/// Cuts an output of `rows` by `cols`, each element a sum of `inner` products, into tiles and runs
/// `tile(out, rows, cols)` on them in parallel.
fn tiled(
    rows: usize,
    cols: usize,
    inner: usize,
    beta: f32,
    out: &mut [f32],
    tile: impl Fn(&SharedMut<'_, f32>, Range<usize>, Range<usize>) + Sync,
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
    let (tall, wide) = tile_size(rows, cols, inner);
    let across = cols.div_ceil(wide);
    let out = SharedMut::new(out);
    par::for_tasks(rows.div_ceil(tall) * across, |i| {
        let (r, c) = (i / across * tall, i % across * wide);
        tile(&out, r..(r + tall).min(rows), c..(c + wide).min(cols));
    });
}

/// The height and width of the tiles of an output. They follow from the shape and nothing else.
fn tile_size(rows: usize, cols: usize, inner: usize) -> (usize, usize) {
    let work = rows.saturating_mul(cols).saturating_mul(inner);
    let want = (work / TILE_WORK).clamp(1, TILES);
    let down = rows.div_ceil(TALL_TILE);
    let across = cols.div_ceil(WIDE_TILE).max(cols.div_ceil(EDGE).min(want.div_ceil(down)));
    let down = down.max((rows / LOW_TILE).min(want.div_ceil(across)));
    (rows.div_ceil(down), cols.div_ceil(across).next_multiple_of(EDGE))
}

/// Widens the given rows and columns of `w` (rows of `stride`) in blocks of `block` rows and runs
/// `piece(block, its rows)` on each. Blocks have rows as long as `cols`.
fn widened<T: Element>(
    w: &[T],
    stride: usize,
    rows: Range<usize>,
    cols: Range<usize>,
    block: usize,
    piece: impl Fn(&[f32], Range<usize>),
) {
    let mut wide = WIDE.take();
    let width = cols.len();
    for start in rows.clone().step_by(block) {
        let end = (start + block).min(rows.end);
        wide.resize(wide.len().max((end - start) * width), 0.0);
        let wide = &mut wide[..(end - start) * width];
        if width == stride {
            T::widen(&w[start * stride..end * stride], wide);
        } else {
            for (row, to) in (start..end).zip(wide.chunks_exact_mut(width)) {
                T::widen(&w[row * stride + cols.start..row * stride + cols.end], to);
            }
        }
        piece(wide, start..end);
    }
    WIDE.set(wide);
}

/// Widens and transposes the given rows of `w` (each of `k`) in blocks of `block` rows and runs
/// `piece(block, its rows)` on each: `[k, rows of the block]`. The general product would transpose on its own,
/// but five times slower.
fn turned<T: Element>(
    w: &[T],
    k: usize,
    rows: Range<usize>,
    block: usize,
    piece: impl Fn(&[f32], Range<usize>),
) {
    let mut wide = WIDE.take();
    for start in rows.clone().step_by(block) {
        let count = block.min(rows.end - start);
        wide.resize(wide.len().max(k * count), 0.0);
        let turned = &mut wide[..k * count];
        transpose(count, k, &w[start * k..], k, turned, count);
        piece(turned, start..start + count);
    }
    WIDE.set(wide);
}

/// A factor of a product: element (i, j) is at `i * rows + j * cols`.
#[derive(Clone, Copy)]
struct View<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
}

impl View<'_> {
    /// Asserts that a `rows` by `cols` matrix lies within the slice.
    fn bound(&self, rows: usize, cols: usize) {
        assert!((rows - 1) * self.rows + (cols - 1) * self.cols < self.data.len());
    }
}

/// `out[rows, cols] = beta·out + alpha · a·b` for a tile of an output with rows of `width`, where `a` begins
/// at the tile's first row and `b` at its first column. No extent may be 0.
#[allow(clippy::too_many_arguments)]
fn gemm(
    out: &SharedMut<'_, f32>,
    rows: Range<usize>,
    cols: Range<usize>,
    width: usize,
    inner: usize,
    alpha: f32,
    a: View<'_>,
    b: View<'_>,
    beta: f32,
) {
    a.bound(rows.len(), inner);
    b.bound(inner, cols.len());
    assert!(cols.end <= width);
    let first = out.as_ptr_at(rows.start * width + cols.start..(rows.end - 1) * width + cols.end);
    // SAFETY: the three matrices lie within their slices, as just asserted; no other task has a tile that
    // shares an element with this one. Strides are below isize::MAX, as slices are.
    unsafe {
        gemm::gemm(
            rows.len(),
            cols.len(),
            inner,
            first,
            1,
            width as isize,
            beta != 0.0,
            a.data.as_ptr(),
            a.cols as isize,
            a.rows as isize,
            b.data.as_ptr(),
            b.cols as isize,
            b.rows as isize,
            beta,
            alpha,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests;
