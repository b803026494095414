//! Operations that move or add whole rows: the compression merge, gathers, scatters and biases.
//!
//! Scatters may meet one destination row many times (a token that occurs often), so they divide the
//! columns, not the rows, among the threads: each destination element is summed in source order by
//! one thread.

use super::buffer::CpuTensor;
use super::mat::Mat;
use super::par::{self, SharedMut, row_grain};
use super::simd::dispatch;
use super::{CpuDevice, CpuIndex};
use crate::Result;
use crate::device::rows::{
    RowOps, check_add, check_add_bias, check_add_bias_backward, check_gather_merge,
    check_gather_merge_backward, check_gather_rows, check_scatter_add_rows, check_scatter_rows,
};
use crate::device::shape::Checked;

impl RowOps for CpuDevice {
    fn gather_merge(
        &self,
        table: &CpuTensor,
        ids: &CpuIndex,
        offsets: &CpuIndex,
        scale: &CpuTensor,
        out: &mut CpuTensor,
    ) -> Result<()> {
        let Checked { op, cols, .. } = check_gather_merge(table, ids, offsets, scale, out)?;
        gather_merge(table.mat(), cols, ids, offsets, scale.f32(op)?, out.f32_mut(op)?);
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
        let Checked { op, cols, .. } = check_gather_merge_backward(dout, ids, offsets, scale, dtable)?;
        gather_merge_backward(dout.f32(op)?, cols, ids, offsets, scale.f32(op)?, dtable.f32_mut(op)?);
        Ok(())
    }

    fn gather_rows(&self, alpha: f32, src: &CpuTensor, rows: &CpuIndex, out: &mut CpuTensor) -> Result<()> {
        let Checked { op, cols, .. } = check_gather_rows(src, rows, out)?;
        gather_rows(alpha, src.mat(), cols, rows, out.f32_mut(op)?);
        Ok(())
    }

    fn scatter_add_rows(
        &self,
        alpha: f32,
        src: &CpuTensor,
        rows: &CpuIndex,
        dst: &mut CpuTensor,
    ) -> Result<()> {
        let Checked { op, cols, .. } = check_scatter_add_rows(src, rows, dst)?;
        scatter_rows(alpha, src.f32(op)?, cols, rows, true, dst.f32_mut(op)?);
        Ok(())
    }

    fn scatter_rows(&self, alpha: f32, src: &CpuTensor, rows: &CpuIndex, dst: &mut CpuTensor) -> Result<()> {
        let Checked { op, cols, .. } = check_scatter_rows(src, rows, dst)?;
        scatter_rows(alpha, src.f32(op)?, cols, rows, false, dst.f32_mut(op)?);
        Ok(())
    }

    fn add(&self, x: &CpuTensor, y: &mut CpuTensor) -> Result<()> {
        let op = check_add(x, y)?.op;
        add(x.f32(op)?, y.f32_mut(op)?);
        Ok(())
    }

    fn add_bias(&self, y: &mut CpuTensor, bias: &CpuTensor) -> Result<()> {
        let op = check_add_bias(y, bias)?.op;
        add_bias(y.f32_mut(op)?, bias.f32(op)?);
        Ok(())
    }

    fn add_bias_backward(&self, dy: &CpuTensor, db: &mut CpuTensor) -> Result<()> {
        let Checked { op, cols, .. } = check_add_bias_backward(dy, db)?;
        add_column_sums(dy.f32(op)?, cols, db.f32_mut(op)?);
        Ok(())
    }
}

/// `y += alpha · row` of a matrix of any dtype.
fn add_row(table: Mat<'_>, at: usize, alpha: f32, y: &mut [f32]) {
    let n = y.len();
    match table {
        Mat::F32(t) => add_scaled(alpha, &t[at..at + n], y),
        Mat::Bf16(t) => {
            let t = &t[at..at + n];
            dispatch(
                #[inline(always)]
                || {
                    for (y, &x) in y.iter_mut().zip(t) {
                        *y += alpha * f32::from_bits(u32::from(x.to_bits()) << 16);
                    }
                },
            );
        }
        Mat::F16(t) => {
            for (y, &x) in y.iter_mut().zip(&t[at..at + n]) {
                *y += alpha * x.to_f32();
            }
        }
    }
}

/// `y += alpha · x`.
pub(super) fn add_scaled(alpha: f32, x: &[f32], y: &mut [f32]) {
    dispatch(
        #[inline(always)]
        || {
            for (y, &x) in y.iter_mut().zip(x) {
                *y += alpha * x;
            }
        },
    );
}

/// `out[r] = scale[r] · Σ table[ids[offsets[r]..offsets[r+1]]]` (spec section 2). The sum is formed
/// first and scaled once, as in the reference.
pub(super) fn gather_merge(
    table: Mat<'_>,
    cols: usize,
    ids: &[u32],
    offsets: &[u32],
    scale: &[f32],
    out: &mut [f32],
) {
    par::split_rows(out, cols, row_grain(cols), |first, rows| {
        for (i, out) in rows.chunks_exact_mut(cols).enumerate() {
            let r = first + i;
            out.fill(0.0);
            for &id in &ids[offsets[r] as usize..offsets[r + 1] as usize] {
                add_row(table, id as usize * cols, 1.0, out);
            }
            let scale = scale[r];
            if scale != 1.0 {
                dispatch(
                    #[inline(always)]
                    || out.iter_mut().for_each(|x| *x *= scale),
                );
            }
        }
    });
}

/// `dtable[ids[i]] += scale[r] · dout[r]` for every `i` of row `r`.
pub(super) fn gather_merge_backward(
    dout: &[f32],
    cols: usize,
    ids: &[u32],
    offsets: &[u32],
    scale: &[f32],
    dtable: &mut [f32],
) {
    let dtable = SharedMut::new(dtable);
    par::for_blocks(cols, 32, |part| {
        for (r, ends) in offsets.windows(2).enumerate() {
            let dout = &dout[r * cols..][part.clone()];
            for &id in &ids[ends[0] as usize..ends[1] as usize] {
                let at = id as usize * cols;
                // SAFETY: this block of columns belongs to this task alone, in every row.
                let d = unsafe { dtable.slice(at + part.start..at + part.end) };
                add_scaled(scale[r], dout, d);
            }
        }
    });
}

/// `out[n] = alpha · src[rows[n]]`.
pub(super) fn gather_rows(alpha: f32, src: Mat<'_>, cols: usize, rows: &[u32], out: &mut [f32]) {
    par::split_rows(out, cols, row_grain(cols), |first, part| {
        for (out, &row) in part.chunks_exact_mut(cols).zip(&rows[first..]) {
            let at = row as usize * cols;
            match src {
                Mat::F32(src) if alpha == 1.0 => out.copy_from_slice(&src[at..at + cols]),
                _ => {
                    out.fill(0.0);
                    add_row(src, at, alpha, out);
                }
            }
        }
    });
}

/// `dst[rows[n]] = keep·dst[rows[n]] + alpha · src[n]` for distinct rows.
pub(super) fn scatter_rows(alpha: f32, src: &[f32], cols: usize, rows: &[u32], keep: bool, dst: &mut [f32]) {
    let dst = SharedMut::new(dst);
    par::for_blocks(cols, 64, |part| {
        for (src, &row) in src.chunks_exact(cols).zip(rows) {
            let at = row as usize * cols;
            // SAFETY: this block of columns belongs to this task alone, in every row.
            let d = unsafe { dst.slice(at + part.start..at + part.end) };
            let src = &src[part.clone()];
            if !keep && alpha == 1.0 {
                d.copy_from_slice(src);
                continue;
            }
            if !keep {
                d.fill(0.0);
            }
            add_scaled(alpha, src, d);
        }
    });
}

/// `y[t] += bias`.
pub(super) fn add_bias(y: &mut [f32], bias: &[f32]) {
    let cols = bias.len();
    par::split_rows(y, cols, row_grain(cols), |_, rows| {
        rows.chunks_exact_mut(cols).for_each(|y| add_scaled(1.0, bias, y));
    });
}

/// `sums += Σ_t x[t]`.
pub(super) fn add_column_sums(x: &[f32], cols: usize, sums: &mut [f32]) {
    par::split_columns(sums, |first, sums| {
        for row in x.chunks_exact(cols) {
            add_scaled(1.0, &row[first..first + sums.len()], sums);
        }
    });
}

/// `y += x`.
pub(super) fn add(x: &[f32], y: &mut [f32]) {
    par::split_rows(y, 1, 16384, |first, y| add_scaled(1.0, &x[first..first + y.len()], y));
}
