//! Operations on whole rows: the merge, gathers, scatters and biases.

use colar_engine::Result;
use colar_engine::device::prelude::*;

use super::{Float64, Float64Tensor, refused};

impl RowOps for Float64 {
    fn gather_merge(
        &self,
        table: &Float64Tensor,
        ids: &Vec<u32>,
        offsets: &Vec<u32>,
        scale: &Float64Tensor,
        out: &mut Float64Tensor,
    ) -> Result<()> {
        gather_merge(table, ids, offsets, scale, out);
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
        gather_rows(alpha.into(), src, rows, out);
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
        scatter_rows(alpha.into(), src, rows, dst);
        Ok(())
    }

    fn add(&self, x: &Float64Tensor, y: &mut Float64Tensor) -> Result<()> {
        add(x, y);
        Ok(())
    }

    fn add_bias(&self, y: &mut Float64Tensor, bias: &Float64Tensor) -> Result<()> {
        add_bias(y, bias);
        Ok(())
    }

    fn add_bias_backward(&self, _: &Float64Tensor, _: &mut Float64Tensor) -> Result<()> {
        refused("add_bias_backward")
    }
}

/// `out[r] = scale[r] · Σ table[ids[i]]` over `i` in `offsets[r]..offsets[r + 1]`.
fn gather_merge(
    table: &Float64Tensor,
    ids: &[u32],
    offsets: &[u32],
    scale: &Float64Tensor,
    out: &mut Float64Tensor,
) {
    assert_eq!((out.cols, scale.rows, offsets.len()), (table.cols, out.rows, out.rows + 1));
    for (r, &scale) in scale.values.iter().enumerate() {
        let out = out.row_mut(r);
        out.fill(0.0);
        for &id in &ids[offsets[r] as usize..offsets[r + 1] as usize] {
            out.iter_mut().zip(table.row(id as usize)).for_each(|(o, x)| *o += scale * x);
        }
    }
}

/// `out[n] = alpha · src[rows[n]]`.
fn gather_rows(alpha: f64, src: &Float64Tensor, rows: &[u32], out: &mut Float64Tensor) {
    assert_eq!((out.rows, out.cols), (rows.len(), src.cols));
    for (n, &row) in rows.iter().enumerate() {
        out.row_mut(n).iter_mut().zip(src.row(row as usize)).for_each(|(o, x)| *o = alpha * x);
    }
}

/// `dst[rows[n]] = alpha · src[n]`.
fn scatter_rows(alpha: f64, src: &Float64Tensor, rows: &[u32], dst: &mut Float64Tensor) {
    assert_eq!((src.rows, src.cols), (rows.len(), dst.cols));
    for (n, &row) in rows.iter().enumerate() {
        dst.row_mut(row as usize).iter_mut().zip(src.row(n)).for_each(|(d, x)| *d = alpha * x);
    }
}

/// `y += x`.
fn add(x: &Float64Tensor, y: &mut Float64Tensor) {
    x.like(y);
    y.values.iter_mut().zip(&x.values).for_each(|(y, x)| *y += x);
}

/// `y[t] += bias`.
fn add_bias(y: &mut Float64Tensor, bias: &Float64Tensor) {
    assert_eq!((bias.rows, bias.cols), (1, y.cols));
    for y in y.values.chunks_exact_mut(bias.cols) {
        y.iter_mut().zip(&bias.values).for_each(|(y, b)| *y += b);
    }
}
