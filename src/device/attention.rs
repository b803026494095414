//! Causal grouped-query attention, forward and backward.

use super::memory::MemoryOps;
use super::shape::{Checked, TensorInfo, check};
use crate::{Error, Result};

/// Attention geometry: `heads` query heads share `kv_heads` key and value heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
}

impl HeadShape {
    /// Width of a row of queries.
    pub fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of a row of keys or of values.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Query heads that share a head of keys and values.
    pub(crate) fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Factor of the products of queries and keys.
    pub(crate) fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// The columns of one head.
    pub(crate) fn columns(&self, head: usize) -> std::ops::Range<usize> {
        head * self.head_dim..(head + 1) * self.head_dim
    }
}

/// One sequence's part in an attention call.
///
/// Query `i` of the span sees keys `0 ..= k_len - q_len + i` of the span: causal, aligned at the
/// end. A packed training batch has `k_start == q_start`; with a cache, `k_start` is the sequence's
/// place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First query row.
    pub q_start: usize,
    /// Query rows.
    pub q_len: usize,
    /// First key and value row.
    pub k_start: usize,
    /// Key and value rows; at least `q_len`.
    pub k_len: usize,
}

impl Span {
    /// How many keys query `i` sees.
    pub(crate) fn sees(&self, i: usize) -> usize {
        self.k_len - self.q_len + i + 1
    }
}

/// Attention over packed sequences and over caches.
pub trait AttentionOps: MemoryOps {
    /// Causal grouped-query attention over spans: `q`, `out` are `[Tq, q_width]`, `k`, `v` are
    /// `[Tk, kv_width]`; `lse[Tq, heads]` receives the log-sum-exp rows a backward needs.
    #[allow(clippy::too_many_arguments)]
    fn attention(
        &self,
        shape: HeadShape,
        spans: &[Span],
        q: &Self::Tensor,
        k: &Self::Tensor,
        v: &Self::Tensor,
        out: &mut Self::Tensor,
        lse: Option<&mut Self::Tensor>,
    ) -> Result<()>;
    /// Gradient of [`attention`](AttentionOps::attention). The rows of the spans are overwritten in `dq`, `dk` and
    /// `dv`; others are left as they are. No two spans may share a row of keys.
    #[allow(clippy::too_many_arguments)]
    fn attention_backward(
        &self,
        shape: HeadShape,
        spans: &[Span],
        q: &Self::Tensor,
        k: &Self::Tensor,
        v: &Self::Tensor,
        out: &Self::Tensor,
        lse: &Self::Tensor,
        dout: &Self::Tensor,
        dq: &mut Self::Tensor,
        dk: &mut Self::Tensor,
        dv: &mut Self::Tensor,
    ) -> Result<()>;
}

/// Goes over `q`.
pub(crate) fn check_attention<T: TensorInfo>(
    shape: HeadShape,
    spans: &[Span],
    [q, k, v]: [&T; 3],
    out: &T,
    lse: Option<&T>,
) -> Result<Checked> {
    let queries = Checked::of("attention", q);
    check_spans(queries.op, shape, spans, [q, k, v])?;
    queries.same("out", out)?;
    lse.map_or(Ok(()), |lse| queries.per_row("lse", lse, shape.heads))?;
    Ok(queries)
}

/// Goes over `q`; `inputs` are q, k, v and out.
pub(crate) fn check_attention_backward<T: TensorInfo>(
    shape: HeadShape,
    spans: &[Span],
    [q, k, v, out]: [&T; 4],
    lse: &T,
    dout: &T,
    [dq, dk, dv]: [&T; 3],
) -> Result<Checked> {
    let queries = Checked::of("attention_backward", q);
    let op = queries.op;
    check_spans(op, shape, spans, [q, k, v])?;
    queries.same("out", out)?;
    queries.same("dout", dout)?;
    queries.same("dq", dq)?;
    check(op, "dk", dk, k.rows(), shape.kv_width())?;
    check(op, "dv", dv, k.rows(), shape.kv_width())?;
    queries.per_row("lse", lse, shape.heads)?;
    check_disjoint(op, "keys", spans.iter().map(|s| (s.k_start, s.k_len)).collect())?;
    Ok(queries)
}

/// Fails unless heads group evenly and every span lies within its operands, apart from the others.
fn check_spans<T: TensorInfo>(
    op: &'static str,
    shape: HeadShape,
    spans: &[Span],
    [q, k, v]: [&T; 3],
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

/// Fails if two ranges `(start, len)` meet: spans are computed by different threads, and each must
/// write rows of its own.
fn check_disjoint(op: &'static str, name: &str, mut ranges: Vec<(usize, usize)>) -> Result<()> {
    ranges.retain(|&(_, len)| len > 0);
    ranges.sort_unstable();
    match ranges.windows(2).find(|w| w[0].0 + w[0].1 > w[1].0) {
        Some(w) => Err(Error::Shape { op, what: format!("{name} of two spans meet at row {}", w[1].0) }),
        None => Ok(()),
    }
}
