//! Rotary position embedding, and the step of a cached block that it is part of.

use super::rows::RowOps;
use super::shape::{TensorInfo, check, check_below, check_len};
use crate::{Error, Result};

/// Rotary embedding in the half-split form of the Hugging Face models.
pub trait RotaryOps: RowOps {
    /// Rotary embedding in place on `x[T, heads·head_dim]`. `inv_freq` is `[1, head_dim/2]`; `direction` is 1
    /// forward and −1 for the gradient.
    fn rotary(
        &self,
        x: &mut Self::Tensor,
        positions: &Self::Index,
        inv_freq: &Self::Tensor,
        direction: f32,
    ) -> Result<()>;
    /// The work between the projections `q[T, q_width]`, `k` and `v` (`[T, kv_width]`) of a cached block and
    /// its attention: adds each bias that is given (`[1, width]`), rotates `q` in place and `k` as
    /// [`rotary`](RotaryOps::rotary) does forward, and writes row `t` of `k` and of `v` to row `rows[t]` of the
    /// cached `[keys, values]`; the rows must be distinct. The contents of `k` and `v` afterwards are undefined.
    ///
    /// It is the composition of [`add_bias`](RowOps::add_bias), [`rotary`](RotaryOps::rotary) and
    /// [`scatter_rows`](RowOps::scatter_rows); a device that can do it in one pass rounds in between less often.
    fn rotary_append(
        &self,
        [q, k, v]: [&mut Self::Tensor; 3],
        biases: [Option<&Self::Tensor>; 3],
        positions: &Self::Index,
        inv_freq: &Self::Tensor,
        rows: &Self::Index,
        [keys, values]: [&mut Self::Tensor; 2],
    ) -> Result<()> {
        for (x, bias) in [&mut *q, &mut *k, &mut *v].into_iter().zip(biases) {
            if let Some(bias) = bias {
                self.add_bias(x, bias)?;
            }
        }
        self.rotary(q, positions, inv_freq, 1.0)?;
        self.rotary(k, positions, inv_freq, 1.0)?;
        self.scatter_rows(1.0, k, rows, keys)?;
        self.scatter_rows(1.0, v, rows, values)
    }
}

/// A rotation whose operands fit together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RotaryShape {
    /// The operation, for errors that follow.
    pub op: &'static str,
    /// Rows that turn.
    pub rows: usize,
    /// Heads of a row.
    pub heads: usize,
    /// Half the width of a head.
    pub half: usize,
}

/// Rows without columns, or without frequencies to turn by, have no heads.
pub(crate) fn check_rotary<T: TensorInfo>(x: &T, positions: &[u32], inv_freq: &T) -> Result<RotaryShape> {
    let (op, rows, cols, half) = ("rotary", x.rows(), x.cols(), inv_freq.cols());
    check_len(op, "positions", positions.len(), rows)?;
    if inv_freq.rows() != 1 || !cols.is_multiple_of(2 * half.max(1)) {
        return Err(Error::Shape { op, what: format!("{half} frequencies do not fit rows of {cols}") });
    }
    Ok(RotaryShape { op, rows, heads: cols / (2 * half.max(1)), half })
}

/// An append to a cache whose operands fit together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RotaryAppendShape {
    /// The operation, for errors that follow.
    pub op: &'static str,
    /// Rows that are appended.
    pub rows: usize,
    /// Heads of a row of queries.
    pub heads: usize,
    /// Heads of a row of keys and of values.
    pub kv_heads: usize,
    /// Half the width of a head.
    pub half: usize,
}

pub(crate) fn check_rotary_append<T: TensorInfo>(
    [q, k, v]: [&T; 3],
    biases: [Option<&T>; 3],
    positions: &[u32],
    inv_freq: &T,
    rows: &[u32],
    [keys, values]: [&T; 2],
) -> Result<RotaryAppendShape> {
    let (op, n, half) = ("rotary_append", q.rows(), inv_freq.cols());
    let (q_width, width) = (q.cols(), k.cols());
    check(op, "inv_freq", inv_freq, 1, half)?;
    let fits = |cols: usize| half > 0 && cols > 0 && cols.is_multiple_of(2 * half);
    if !fits(q_width) || !fits(width) {
        let what = format!("{half} frequencies do not fit rows of {q_width} and {width}");
        return Err(Error::Shape { op, what });
    }
    check(op, "k", k, n, width)?;
    check(op, "v", v, n, width)?;
    check_len(op, "positions", positions.len(), n)?;
    check_len(op, "rows", rows.len(), n)?;
    check(op, "keys", keys, keys.rows(), width)?;
    check(op, "values", values, values.rows(), width)?;
    check_below(op, "rows", rows, keys.rows().min(values.rows()))?;
    let names = ["the bias of q", "the bias of k", "the bias of v"];
    for ((name, bias), cols) in names.into_iter().zip(biases).zip([q_width, width, width]) {
        bias.map_or(Ok(()), |bias| check(op, name, bias, 1, cols))?;
    }
    Ok(RotaryAppendShape { op, rows: n, heads: q_width / (2 * half), kv_heads: width / (2 * half), half })
}
