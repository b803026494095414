//! The gradients of attention.

use std::cell::RefCell;

use pulp::{Simd, WithSimd};

use super::check::check;
use super::columns::{Columns, ColumnsMut};
use super::softmax::padded;
use crate::device::attention::{HeadShape, Span};
use crate::device::cpu::math::{dot, exp_f32s};
use crate::device::cpu::par;
use crate::device::cpu::product::Product;
use crate::device::cpu::simd::{LANES, dispatch, load, store};
use crate::device::cpu::transpose::transpose;

/// Queries whose probabilities are worked on at a time: enough that adding a block's part to the gradients of
/// keys and values costs little beside computing it, few enough to waste little above the diagonal.
const BLOCK: usize = 16;

thread_local! {
    /// Transposed keys and values, a block of scores and one of their gradients.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// The gradients of [`super::attention`] with respect to queries, keys and values, given its inputs, its
/// output `out`, its `lse` (`[rows of q, heads]`) and the gradient `dout` of the output.
///
/// The rows of the spans in `dq`, `dk` and `dv` are overwritten; others are left as they are.
///
/// # Panics
/// As [`super::attention`], and when spans share rows of keys.
#[allow(clippy::too_many_arguments)]
pub fn attention_backward(
    shape: HeadShape,
    scale: f32,
    spans: &[Span],
    q: Columns<'_>,
    k: Columns<'_>,
    v: Columns<'_>,
    out: Columns<'_>,
    lse: &[f32],
    dout: Columns<'_>,
    dq: ColumnsMut<'_>,
    dk: ColumnsMut<'_>,
    dv: ColumnsMut<'_>,
) {
    check(shape, scale, spans, &[&q, &out, &dout], &[&k, &v], &[&dq], &[&dk, &dv]);
    let rows = spans.iter().map(|s| s.q_start + s.q_len).max().unwrap_or(0);
    assert!(rows * shape.heads <= lse.len(), "lse is not [rows, {}]", shape.heads);
    let all = Backward { shape, scale, q, k, v, out, lse, dout, dq, dk, dv };
    par::for_tasks(spans.len() * shape.kv_heads, |i| {
        let (span, kv_head) = (spans[i / shape.kv_heads], i % shape.kv_heads);
        let mut scratch = SCRATCH.take();
        dispatch(BackwardTask { all: &all, span, kv_head, scratch: &mut scratch });
        SCRATCH.set(scratch);
    });
}

/// The operands that all tasks share.
struct Backward<'a> {
    shape: HeadShape,
    scale: f32,
    q: Columns<'a>,
    k: Columns<'a>,
    v: Columns<'a>,
    out: Columns<'a>,
    lse: &'a [f32],
    dout: Columns<'a>,
    dq: ColumnsMut<'a>,
    dk: ColumnsMut<'a>,
    dv: ColumnsMut<'a>,
}

/// One head of keys and values of one span, with all heads of queries that share it.
struct BackwardTask<'a> {
    all: &'a Backward<'a>,
    span: Span,
    kv_head: usize,
    scratch: &'a mut Vec<f32>,
}

impl WithSimd for BackwardTask<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Backward { shape, q, k, v, out, dout, dq, dk, dv, .. } = self.all;
        let (dim, span) = (shape.head_dim, self.span);
        let own = shape.columns(self.kv_head);
        for row in span.k_start..span.k_start + span.k_len {
            // SAFETY: spans share no rows of keys, and each head of keys is in one task.
            unsafe {
                dk.row(row, own.clone()).fill(0.0);
                dv.row(row, own.clone()).fill(0.0);
            }
        }
        let width = padded(span.k_len);
        self.scratch.resize(self.scratch.len().max(2 * (dim + BLOCK) * width), 0.0);
        let (turned_k, rest) = self.scratch.split_at_mut(dim * width);
        let (turned_v, rest) = rest.split_at_mut(dim * width);
        let (p, ds) = rest[..2 * BLOCK * width].split_at_mut(BLOCK * width);
        transpose(span.k_len, dim, k.from(span.k_start, own.start), k.stride(), turned_k, width);
        transpose(span.k_len, dim, v.from(span.k_start, own.start), v.stride(), turned_v, width);

        for head in self.kv_head * shape.group()..(self.kv_head + 1) * shape.group() {
            let columns = shape.columns(head);
            for first in (0..span.q_len).step_by(BLOCK) {
                let rows = (span.q_len - first).min(BLOCK);
                let (row, seen) = (span.q_start + first, span.sees(first + rows - 1));
                let (q_block, dout_block) = (q.from(row, columns.start), dout.from(row, columns.start));

                // s = q·kᵀ and p' = o'·vᵀ, on whole vectors of keys.
                let cols = seen.next_multiple_of(LANES);
                for (a, a_row, b, c) in
                    [(q_block, q.stride(), &*turned_k, &mut *p), (dout_block, dout.stride(), turned_v, ds)]
                {
                    let c = c.as_mut_ptr();
                    let product = Product {
                        rows,
                        cols,
                        inner: dim,
                        a,
                        a_row,
                        a_col: 1,
                        b,
                        b_row: width,
                        c,
                        c_row: width,
                        add: false,
                    };
                    // SAFETY: both blocks of scratch hold BLOCK rows of `width`.
                    unsafe { product.run(simd) };
                }
                for r in 0..rows {
                    let line = r * width..r * width + cols;
                    let out_dot = dot(out.row(row + r, columns.clone()), dout.row(row + r, columns.clone()));
                    let lse = self.all.lse[(row + r) * shape.heads + head];
                    let (p, ds) = (&mut p[line.clone()], &mut ds[line]);
                    self.all.row(simd, p, ds, span.sees(first + r), lse, out_dot);
                }
                // k' += s'ᵀ·q and v' += pᵀ·o'.
                for (a, b, b_row, c) in
                    [(&*ds, q_block, q.stride(), dk), (&*p, dout_block, dout.stride(), dv)]
                {
                    let product = Product {
                        rows: seen,
                        cols: dim,
                        inner: rows,
                        a,
                        a_row: 1,
                        a_col: width,
                        b,
                        b_row,
                        c: c.at(span.k_start, seen, own.clone()),
                        c_row: c.stride(),
                        add: true,
                    };
                    // SAFETY: as for the zeros above.
                    unsafe { product.run(simd) };
                }
                // q' = s'·k.
                let product = Product {
                    rows,
                    cols: dim,
                    inner: seen,
                    a: ds,
                    a_row: width,
                    a_col: 1,
                    b: k.from(span.k_start, own.start),
                    b_row: k.stride(),
                    c: dq.at(row, rows, columns.clone()),
                    c_row: dq.stride(),
                    add: false,
                };
                // SAFETY: spans share no rows of queries, and each head is in one task.
                unsafe { product.run(simd) };
            }
        }
    }
}

impl Backward<'_> {
    /// One query: `p` holds q·k and becomes the probabilities, `ds` holds o'·v and becomes s'. Both are 0 from
    /// `sees` on.
    #[inline(always)]
    fn row<S: Simd>(&self, simd: S, p: &mut [f32], ds: &mut [f32], sees: usize, lse: f32, out_dot: f32) {
        p[sees..].fill(f32::NEG_INFINITY);
        ds[sees..].fill(0.0);
        let scale = simd.splat_f32s(self.scale);
        let (lse, out_dot) = (simd.splat_f32s(-lse), simd.splat_f32s(out_dot));
        for at in (0..p.len()).step_by(S::F32_LANES) {
            let prob = exp_f32s(simd, simd.mul_add_f32s(load(simd, p, at), scale, lse));
            let slope = simd.sub_f32s(load(simd, ds, at), out_dot);
            store(simd, p, at, prob);
            store(simd, ds, at, simd.mul_f32s(simd.mul_f32s(prob, scale), slope));
        }
    }
}
