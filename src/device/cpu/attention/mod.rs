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
//! follow from shapes alone and sums go over [`LANES`](super::simd::LANES) lanes, so no bit depends on the number of
//! threads or on the width of vectors.

use super::CpuDevice;
use super::buffer::CpuTensor;
use super::par::SharedMut;
use crate::Result;
use crate::device::RowForm;
use crate::device::attention::{AttentionOps, check_attention, check_attention_backward};
use crate::device::shape::TensorInfo;

mod backward;
mod check;
mod columns;
mod few;
mod forward;
mod pass;
mod softmax;
#[cfg(test)]
mod tests;

pub use crate::device::attention::{HeadShape, Span};
pub use backward::attention_backward;
pub use columns::{Columns, ColumnsMut};

use check::check;
use pass::Forward;

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
        attention_in(self.form, shape, shape.scale(), spans, q, k, v, columns_mut(op, out)?, lse);
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

/// Attention of every span, into its rows of `out`; other rows are left as they are.
///
/// `q` and `out` have rows of at least `heads * head_dim` numbers, `k` and `v` of `kv_heads * head_dim`.
/// `lse`, `[rows of out, heads]`, receives the log-sum-exps that [`attention_backward`] needs.
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
    attention_in(RowForm::ByCount, shape, scale, spans, q, k, v, out, lse);
}

/// [`attention`] in a form.
#[allow(clippy::too_many_arguments)]
fn attention_in(
    form: RowForm,
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
    let is_few = |s: &Span| form == RowForm::ByCount && s.q_len * shape.group() <= few::MAX_ROWS;
    let (few, many): (Vec<Span>, Vec<Span>) = spans.iter().filter(|s| s.q_len > 0).partition(|s| is_few(s));
    few::run(&all, &few);
    forward::run(&all, &many);
}
