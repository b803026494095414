//! Attention of many queries: training and prefill.

use std::cell::RefCell;
use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::pass::Forward;
use super::softmax::{padded, soften};
use crate::device::attention::Span;
use crate::device::cpu::par;
use crate::device::cpu::product::Product;
use crate::device::cpu::simd::{LANES, dispatch};
use crate::device::cpu::transpose::transpose;

/// Queries whose scores are worked on at a time. All see the keys of the last of them, so more would waste
/// work above the diagonal, and fewer would leave the products' registers empty.
const BLOCK: usize = 8;

/// With more keys than this, blocks grow to [`LONG_BLOCK`]: little is wasted then, and the keys no
/// longer stay in the first-level cache from one block to the next.
const LONG: usize = 512;
const LONG_BLOCK: usize = 32;

/// The most queries of one task, so that a long sequence is shared between threads.
const QUERIES: usize = 512;

/// Below so many tasks, heads that share keys go to tasks of their own, although each then transposes them.
const TASKS: usize = 16;

thread_local! {
    /// Transposed keys and a block of scores.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Some heads with common keys and some queries of one span.
struct ForwardTask<'a> {
    all: &'a Forward<'a>,
    span: Span,
    heads: Range<usize>,
    queries: Range<usize>,
    scratch: &'a mut Vec<f32>,
}

/// Attention of any spans.
pub(super) fn run(all: &Forward<'_>, spans: &[Span]) {
    let shape = all.shape;
    let mut tasks = Vec::new();
    let together = if spans.len() * shape.kv_heads < TASKS { 1 } else { shape.group() };
    for &span in spans {
        for first in (0..span.q_len).step_by(QUERIES) {
            for head in (0..shape.heads).step_by(together) {
                tasks.push((span, head..head + together, first..(first + QUERIES).min(span.q_len)));
            }
        }
    }
    par::for_tasks(tasks.len(), |i| {
        let (span, heads, queries) = tasks[i].clone();
        let mut scratch = SCRATCH.take();
        dispatch(ForwardTask { all, span, heads, queries, scratch: &mut scratch });
        SCRATCH.set(scratch);
    });
}

impl WithSimd for ForwardTask<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Forward { shape, scale, q, k, v, out, .. } = self.all;
        let (dim, span) = (shape.head_dim, self.span);
        let kv_column = self.heads.start / shape.group() * dim;
        let keys = span.sees(self.queries.end - 1);
        let width = padded(keys);
        let block = if keys > LONG { LONG_BLOCK } else { BLOCK };
        self.scratch.resize(self.scratch.len().max((dim + block) * width), 0.0);
        let (turned, scores) = self.scratch.split_at_mut(dim * width);
        transpose(keys, dim, k.from(span.k_start, kv_column), k.stride(), turned, width);

        for head in self.heads.clone() {
            for first in self.queries.clone().step_by(block) {
                let rows = (self.queries.end - first).min(block);
                let seen = span.sees(first + rows - 1);
                let row = span.q_start + first;
                let product = Product {
                    rows,
                    cols: seen.next_multiple_of(LANES),
                    inner: dim,
                    a: q.from(row, head * dim),
                    a_row: q.stride(),
                    a_col: 1,
                    b: turned,
                    b_row: width,
                    c: scores.as_mut_ptr(),
                    c_row: width,
                    add: false,
                };
                // SAFETY: the scratch holds `block` rows of `width` scores.
                unsafe { product.run(simd) };

                let mut sums = [0.0; LONG_BLOCK];
                for (r, sum) in sums[..rows].iter_mut().enumerate() {
                    let scores = &mut scores[r * width..][..seen.next_multiple_of(LANES)];
                    let (max, total) = soften(simd, scores, span.sees(first + r), *scale);
                    self.all.set_lse(row + r, head, max + libm::logf(total));
                    *sum = total;
                }
                let product = Product {
                    rows,
                    cols: dim,
                    inner: seen,
                    a: scores,
                    a_row: width,
                    a_col: 1,
                    b: v.from(span.k_start, kv_column),
                    b_row: v.stride(),
                    c: out.at(row, rows, shape.columns(head)),
                    c_row: out.stride(),
                    add: false,
                };
                // SAFETY: spans share no rows, and a task's queries and heads are its own.
                unsafe { product.run(simd) };
                for (r, sum) in sums[..rows].iter().enumerate() {
                    // SAFETY: as above.
                    let out = unsafe { out.row(row + r, shape.columns(head)) };
                    out.iter_mut().for_each(|o| *o /= sum);
                }
            }
        }
    }
}
