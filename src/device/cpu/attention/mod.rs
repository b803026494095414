//! Causal attention over sequences of any length, grouped heads, forward and backward.
//!
//! One definition serves training (packed sequences, no padding), prefill and decoding with a cache: a
//! [`Span`] says which rows of the queries belong to a sequence and which rows of the keys and values it sees.
//! Query i of a span sees keys `0..=k_len - q_len + i` of it.
//!
//! For a head with queries q, keys k and values v, all rows of `head_dim` numbers:
//!
//! ```text
//! s_ij = scale · q_i·k_j        p_ij = exp(s_ij − lse_i)     out_i = Σ_j p_ij v_j
//! lse_i = ln Σ_j exp(s_ij)
//! ```
//!
//! and, with o' the gradient of out and D_i = o'_i·out_i,
//!
//! ```text
//! p'_ij = o'_i·v_j              s'_ij = scale · p_ij (p'_ij − D_i)
//! q'_i = Σ_j s'_ij k_j          k'_j = Σ_i s'_ij q_i         v'_j = Σ_i p_ij o'_i
//! ```
//!
//! Nothing the size of all probabilities is kept: the backward computes them again from `lse`. Query heads
//! share the keys and values of head `head / (heads / kv_heads)`.
//!
//! How it is cut: many queries (`forward`, `backward`) work in blocks of a few queries against all keys
//! they see, so a block's scores stay in cache and its softmax is exact in two passes; keys are transposed
//! once per head, so that vectors run along them. Few queries (`few`), the case of decoding, read keys
//! and values once, as they lie, and cut long sequences into chunks of keys for the threads to share. All cuts
//! follow from shapes alone and sums go over [`LANES`] lanes, so no bit depends on the number of threads or on the
//! width of vectors.

use std::ops::Range;

use pulp::Simd;

use super::CpuDevice;
use super::buffer::CpuTensor;
use super::math::exp_f32s;
use super::par::SharedMut;
use super::simd::{LANES, lanes, load, store, total, with_parts};
use crate::Result;
use crate::device::attention::{AttentionOps, check_attention, check_attention_backward};
use crate::device::shape::TensorInfo;

mod backward;
mod columns;
mod few;
mod forward;
#[cfg(test)]
mod tests;

pub use crate::device::attention::{HeadShape, Span};
pub use backward::attention_backward;
pub use columns::{Columns, ColumnsMut};

impl AttentionOps for CpuDevice {
    fn attention(
        &self,
        shape: HeadShape,
        spans: &[Span],
        q: &CpuTensor,
        k: &CpuTensor,
        v: &CpuTensor,
        out: &mut CpuTensor,
        lse: Option<&mut CpuTensor>,
    ) -> Result<()> {
        let op = check_attention(shape, spans, [q, k, v], out, lse.as_deref())?.op;
        let lse = lse.map(|lse| lse.f32_mut(op)).transpose()?;
        let [q, k, v] = [columns(op, q)?, columns(op, k)?, columns(op, v)?];
        attention(shape, shape.scale(), spans, q, k, v, columns_mut(op, out)?, lse);
        Ok(())
    }

    fn attention_backward(
        &self,
        shape: HeadShape,
        spans: &[Span],
        q: &CpuTensor,
        k: &CpuTensor,
        v: &CpuTensor,
        out: &CpuTensor,
        lse: &CpuTensor,
        dout: &CpuTensor,
        dq: &mut CpuTensor,
        dk: &mut CpuTensor,
        dv: &mut CpuTensor,
    ) -> Result<()> {
        let results = [&*dq, &*dk, &*dv];
        let op = check_attention_backward(shape, spans, [q, k, v, out], lse, dout, results)?.op;
        attention_backward(
            shape,
            shape.scale(),
            spans,
            columns(op, q)?,
            columns(op, k)?,
            columns(op, v)?,
            columns(op, out)?,
            lse.f32(op)?,
            columns(op, dout)?,
            columns_mut(op, dq)?,
            columns_mut(op, dk)?,
            columns_mut(op, dv)?,
        );
        Ok(())
    }
}

/// A whole matrix as columns.
fn columns<'a>(op: &'static str, t: &'a CpuTensor) -> Result<Columns<'a>> {
    Ok(Columns::new(t.f32(op)?, t.cols()))
}

/// As [`columns()`], for writing.
fn columns_mut<'a>(op: &'static str, t: &'a mut CpuTensor) -> Result<ColumnsMut<'a>> {
    let stride = t.cols();
    Ok(ColumnsMut::new(t.f32_mut(op)?, stride))
}

/// What all tasks of a forward share.
struct Forward<'a> {
    shape: HeadShape,
    scale: f32,
    q: Columns<'a>,
    k: Columns<'a>,
    v: Columns<'a>,
    out: ColumnsMut<'a>,
    /// `[rows of q, heads]`
    lse: Option<SharedMut<'a, f32>>,
}

impl Forward<'_> {
    /// Writes a row's log-sum-exp where it is wanted.
    fn set_lse(&self, row: usize, head: usize, value: f32) {
        if let Some(lse) = &self.lse {
            let at = row * self.shape.heads + head;
            // SAFETY: the task that owns (row, head) of the output owns this element too.
            unsafe { lse.slice(at..at + 1)[0] = value };
        }
    }
}

/// Attention of every span, into its rows of `out`; other rows are left as they are.
///
/// `q` and `out` have rows of at least `heads * head_dim` numbers, `k` and `v` of `kv_heads * head_dim`.
/// `lse`, `[rows of out, heads]`, receives what [`attention_backward`] needs.
///
/// # Panics
/// When a span's rows or a row's columns are not there, when spans share rows of the output, when a span has
/// more queries than keys, when `kv_heads` does not divide `heads`, or when `scale` is not positive.
#[allow(clippy::too_many_arguments)]
pub fn attention(
    shape: HeadShape,
    scale: f32,
    spans: &[Span],
    q: Columns<'_>,
    k: Columns<'_>,
    v: Columns<'_>,
    out: ColumnsMut<'_>,
    lse: Option<&mut [f32]>,
) {
    check(shape, scale, spans, &[&q], &[&k, &v], &[&out], &[]);
    if let Some(lse) = &lse {
        let rows = spans.iter().map(|s| s.q_start + s.q_len).max().unwrap_or(0);
        assert!(rows * shape.heads <= lse.len(), "lse is not [rows, {}]", shape.heads);
    }
    let all = Forward { shape, scale, q, k, v, out, lse: lse.map(SharedMut::new) };
    let (few, many): (Vec<Span>, Vec<Span>) =
        spans.iter().filter(|s| s.q_len > 0).partition(|s| s.q_len * shape.group() <= few::MAX_ROWS);
    few::run(&all, &few);
    forward::run(&all, &many);
}

/// Checks all that the unsafe code of this module relies on.
fn check(
    shape: HeadShape,
    scale: f32,
    spans: &[Span],
    q: &[&Columns<'_>],
    kv: &[&Columns<'_>],
    q_out: &[&ColumnsMut<'_>],
    kv_out: &[&ColumnsMut<'_>],
) {
    let HeadShape { heads, kv_heads, head_dim } = shape;
    assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads), "{heads} heads over {kv_heads}");
    assert!(scale > 0.0, "scale {scale}");
    for s in spans {
        assert!(s.q_len <= s.k_len, "{} queries, {} keys", s.q_len, s.k_len);
        q.iter().for_each(|q| q.check(s.q_start, s.q_len, heads * head_dim));
        kv.iter().for_each(|k| k.check(s.k_start, s.k_len, kv_heads * head_dim));
        q_out.iter().for_each(|q| q.check(s.q_start, s.q_len, heads * head_dim));
        kv_out.iter().for_each(|k| k.check(s.k_start, s.k_len, kv_heads * head_dim));
    }
    apart(spans.iter().map(|s| s.q_start..s.q_start + s.q_len));
    if !kv_out.is_empty() {
        apart(spans.iter().map(|s| s.k_start..s.k_start + s.k_len));
    }
}

/// Asserts that no two ranges meet.
fn apart(ranges: impl Iterator<Item = Range<usize>>) {
    let mut ranges: Vec<_> = ranges.filter(|r| !r.is_empty()).collect();
    ranges.sort_by_key(|r| r.start);
    assert!(ranges.is_sorted_by(|a, b| a.end <= b.start), "spans share rows");
}

/// The length of a scratch row for `len` scores: a multiple of [`LANES`], and none of 512 bytes, which would crowd
/// a column of rows into a few sets of the cache.
fn padded(len: usize) -> usize {
    let len = len.next_multiple_of(LANES);
    if len.is_multiple_of(128) { len + LANES } else { len }
}

/// Scores s of a row become `exp(scale·s − max)`, those from `sees` on 0. Returns max, the largest `scale·s`,
/// and the sum of the exponentials. The row is a multiple of [`LANES`] long; it sees at least one key.
#[inline(always)]
fn soften<S: Simd>(simd: S, row: &mut [f32], sees: usize, scale: f32) -> (f32, f32) {
    row[sees..].fill(f32::NEG_INFINITY);
    with_parts!(S, PARTS => soften_parts::<S, PARTS>(simd, row, scale))
}

/// [`soften`] for a row whose unseen scores are −∞.
#[inline(always)]
fn soften_parts<S: Simd, const PARTS: usize>(simd: S, row: &mut [f32], scale: f32) -> (f32, f32) {
    let mut max = simd.splat_f32s(f32::NEG_INFINITY);
    for at in (0..row.len()).step_by(S::F32_LANES) {
        max = simd.max_f32s(load(simd, row, at), max);
    }
    let max = scale * simd.reduce_max_f32s(max);
    let (factor, shift) = (simd.splat_f32s(scale), simd.splat_f32s(-max));
    let mut sums = [simd.splat_f32s(0.0); PARTS];
    for at in (0..row.len()).step_by(LANES) {
        for (part, sum) in sums.iter_mut().enumerate() {
            let at = at + part * S::F32_LANES;
            let p = exp_f32s(simd, simd.mul_add_f32s(load(simd, row, at), factor, shift));
            *sum = simd.add_f32s(*sum, p);
            store(simd, row, at, p);
        }
    }
    (max, total(lanes(simd, sums)))
}
