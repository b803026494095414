//! The checks that buffers pass when they enter an operation.

use super::{HeadShape, Span, TensorInfo};
use crate::{Error, Result};

/// Fails unless `t` has the shape `[rows, cols]`.
pub(crate) fn check(
    op: &'static str,
    name: &str,
    t: &impl TensorInfo,
    rows: usize,
    cols: usize,
) -> Result<()> {
    if t.rows() == rows && t.cols() == cols {
        return Ok(());
    }
    Err(Error::Shape { op, what: format!("{name} is [{}, {}], needs [{rows}, {cols}]", t.rows(), t.cols()) })
}

/// Fails unless a vector has `needed` entries.
pub(crate) fn check_len(op: &'static str, name: &str, len: usize, needed: usize) -> Result<()> {
    if len == needed {
        return Ok(());
    }
    Err(Error::Shape { op, what: format!("{name} has {len} entries, needs {needed}") })
}

/// Number of elements of a matrix, refusing what no memory could hold.
pub(crate) fn elements(op: &'static str, rows: usize, cols: usize) -> Result<usize> {
    rows.checked_mul(cols)
        .filter(|n| *n <= isize::MAX as usize / 8)
        .ok_or_else(|| Error::Shape { op, what: format!("[{rows}, {cols}] is larger than memory") })
}

/// Fails unless every index is below `limit`.
pub(crate) fn check_below(op: &'static str, name: &str, index: &[u32], limit: usize) -> Result<()> {
    match index.iter().max() {
        Some(&max) if max as usize >= limit => {
            Err(Error::Shape { op, what: format!("{name} holds {max}, the limit is {limit}") })
        }
        _ => Ok(()),
    }
}

/// Fails unless `offsets` cuts `ids` into `rows` consecutive parts.
pub(crate) fn check_offsets(op: &'static str, offsets: &[u32], rows: usize, ids: usize) -> Result<()> {
    check_len(op, "offsets", offsets.len(), rows + 1)?;
    let ordered = offsets.windows(2).all(|w| w[0] <= w[1]);
    if offsets[0] != 0 || !ordered || offsets[rows] as usize != ids {
        return Err(Error::Shape { op, what: format!("offsets do not cut {ids} ids into {rows} rows") });
    }
    Ok(())
}

/// Fails unless heads group evenly and every span lies within its operands, apart from the others.
pub(crate) fn check_attention(
    op: &'static str,
    shape: HeadShape,
    spans: &[Span],
    q: &impl TensorInfo,
    k: &impl TensorInfo,
    v: &impl TensorInfo,
) -> Result<()> {
    let HeadShape { heads, kv_heads, head_dim } = shape;
    if heads == 0 || kv_heads == 0 || head_dim == 0 || !heads.is_multiple_of(kv_heads) {
        return Err(Error::Shape { op, what: format!("{shape:?} is no grouping of heads") });
    }
    check(op, "q", q, q.rows(), shape.q_width())?;
    check(op, "k", k, k.rows(), shape.kv_width())?;
    check(op, "v", v, k.rows(), shape.kv_width())?;
    let fits = |start: usize, len: usize, rows: usize| start.checked_add(len).is_some_and(|end| end <= rows);
    for s in spans {
        if !fits(s.q_start, s.q_len, q.rows()) || !fits(s.k_start, s.k_len, k.rows()) || s.k_len < s.q_len {
            return Err(Error::Shape {
                op,
                what: format!("{s:?} does not fit {} query and {} key rows", q.rows(), k.rows()),
            });
        }
    }
    check_disjoint(op, "queries", spans.iter().map(|s| (s.q_start, s.q_len)).collect())
}

/// Fails if two ranges `(start, len)` meet: spans are computed by different threads, and what each
/// writes must be its own.
pub(crate) fn check_disjoint(op: &'static str, name: &str, mut ranges: Vec<(usize, usize)>) -> Result<()> {
    ranges.retain(|&(_, len)| len > 0);
    ranges.sort_unstable();
    match ranges.windows(2).find(|w| w[0].0 + w[0].1 > w[1].0) {
        Some(w) => Err(Error::Shape { op, what: format!("{name} of two spans meet at row {}", w[1].0) }),
        None => Ok(()),
    }
}
