//! Whole rows: the compression merge, gathers, scatters, sums and biases.

use super::memory::MemoryOps;
use super::shape::{Checked, TensorInfo, check_below, check_offsets};
use crate::Result;

/// Operations that move or add whole rows.
///
/// `T` is the number of packed rows, `H` the hidden size.
pub trait RowOps: MemoryOps {
    /// The compression merge (spec section 2): row `r` of `out[R,H]` is
    /// `scale[r,0] · Σ table[ids[i]]` over `i` in `offsets[r] .. offsets[r+1]`.
    fn gather_merge(
        &self,
        table: &Self::Tensor,
        ids: &Self::Index,
        offsets: &Self::Index,
        scale: &Self::Tensor,
        out: &mut Self::Tensor,
    ) -> Result<()>;
    /// Adds the gradient of [`gather_merge`](RowOps::gather_merge) to `dtable`.
    fn gather_merge_backward(
        &self,
        dout: &Self::Tensor,
        ids: &Self::Index,
        offsets: &Self::Index,
        scale: &Self::Tensor,
        dtable: &mut Self::Tensor,
    ) -> Result<()>;
    /// `out[n,:] = alpha · src[rows[n],:]`.
    fn gather_rows(
        &self,
        alpha: f32,
        src: &Self::Tensor,
        rows: &Self::Index,
        out: &mut Self::Tensor,
    ) -> Result<()>;
    /// `dst[rows[n],:] += alpha · src[n,:]`; the rows must be distinct.
    fn scatter_add_rows(
        &self,
        alpha: f32,
        src: &Self::Tensor,
        rows: &Self::Index,
        dst: &mut Self::Tensor,
    ) -> Result<()>;
    /// `dst[rows[n],:] = alpha · src[n,:]`; the rows must be distinct. With alpha 1 this appends to
    /// a key or value cache.
    fn scatter_rows(
        &self,
        alpha: f32,
        src: &Self::Tensor,
        rows: &Self::Index,
        dst: &mut Self::Tensor,
    ) -> Result<()>;
    /// `y += x`, element by element.
    fn add(&self, x: &Self::Tensor, y: &mut Self::Tensor) -> Result<()>;
    /// `y[t,:] += bias[0,:]`.
    fn add_bias(&self, y: &mut Self::Tensor, bias: &Self::Tensor) -> Result<()>;
    /// `db[0,:] += Σ_t dy[t,:]`.
    fn add_bias_backward(&self, dy: &Self::Tensor, db: &mut Self::Tensor) -> Result<()>;
}

/// Goes over the rows of `out`.
pub(crate) fn check_gather_merge<T: TensorInfo>(
    table: &T,
    ids: &[u32],
    offsets: &[u32],
    scale: &T,
    out: &T,
) -> Result<Checked> {
    let merged = Checked { op: "gather_merge", rows: out.rows(), cols: table.cols() };
    merged.same("out", out)?;
    check_merged(merged, table, ids, offsets, scale)
}

/// Goes over the rows of `dout`.
pub(crate) fn check_gather_merge_backward<T: TensorInfo>(
    dout: &T,
    ids: &[u32],
    offsets: &[u32],
    scale: &T,
    dtable: &T,
) -> Result<Checked> {
    let merged = Checked { op: "gather_merge_backward", rows: dout.rows(), cols: dtable.cols() };
    merged.same("dout", dout)?;
    check_merged(merged, dtable, ids, offsets, scale)
}

fn check_merged<T: TensorInfo>(
    merged: Checked,
    table: &T,
    ids: &[u32],
    offsets: &[u32],
    scale: &T,
) -> Result<Checked> {
    merged.per_row("scale", scale, 1)?;
    check_offsets(merged.op, offsets, merged.rows, ids.len())?;
    check_below(merged.op, "ids", ids, table.rows())?;
    Ok(merged)
}

/// Goes over the rows of `out`.
pub(crate) fn check_gather_rows<T: TensorInfo>(src: &T, rows: &[u32], out: &T) -> Result<Checked> {
    let gathered = Checked { op: "gather_rows", rows: rows.len(), cols: src.cols() };
    gathered.same("out", out)?;
    check_below(gathered.op, "rows", rows, src.rows())?;
    Ok(gathered)
}

/// Goes over the rows of `src`.
pub(crate) fn check_scatter_add_rows<T: TensorInfo>(src: &T, rows: &[u32], dst: &T) -> Result<Checked> {
    check_scattered("scatter_add_rows", src, rows, dst)
}

/// Goes over the rows of `src`.
pub(crate) fn check_scatter_rows<T: TensorInfo>(src: &T, rows: &[u32], dst: &T) -> Result<Checked> {
    check_scattered("scatter_rows", src, rows, dst)
}

fn check_scattered<T: TensorInfo>(op: &'static str, src: &T, rows: &[u32], dst: &T) -> Result<Checked> {
    let scattered = Checked { op, rows: rows.len(), cols: dst.cols() };
    scattered.same("src", src)?;
    check_below(op, "rows", rows, dst.rows())?;
    Ok(scattered)
}

pub(crate) fn check_add<T: TensorInfo>(x: &T, y: &T) -> Result<Checked> {
    let all = Checked::of("add", y);
    all.same("x", x)?;
    Ok(all)
}

pub(crate) fn check_add_bias<T: TensorInfo>(y: &T, bias: &T) -> Result<Checked> {
    let all = Checked::of("add_bias", y);
    all.row("bias", bias)?;
    Ok(all)
}

pub(crate) fn check_add_bias_backward<T: TensorInfo>(dy: &T, db: &T) -> Result<Checked> {
    let all = Checked::of("add_bias_backward", dy);
    all.row("db", db)?;
    Ok(all)
}
