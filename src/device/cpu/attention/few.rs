//! Attention of few queries to many keys: decoding.
//!
//! Keys and values are read once and used for all queries that share them, so they are read as they lie: a
//! score is a dot product along a key. Where there are many keys, threads share them in chunks; each chunk
//! gives its own maximum, sum and weighted values, which are then joined in order.

use std::cell::RefCell;

use pulp::{Simd, WithSimd};

use super::pass::Forward;
use super::softmax::{padded, soften};
use crate::device::attention::Span;
use crate::device::cpu::par::{self, SharedMut};
use crate::device::cpu::product::Product;
use crate::device::cpu::simd::{LANES, dispatch, load, parts, store, total};

/// The most rows (queries times the heads that share their keys) that are few.
pub(super) const MAX_ROWS: usize = 8;

/// Keys that one task looks at.
const CHUNK: usize = 256;

thread_local! {
    /// Maxima, sums and values of all chunks, on the thread that called.
    static PARTS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    /// Scores of one chunk.
    static SCORES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// One span's queries against all its keys, for one head of keys.
struct Unit {
    span: Span,
    kv_head: usize,
    chunks: usize,
    /// Where its parts begin: `[chunks, rows, head_dim + 2]`.
    parts: usize,
}

/// Attention of spans that have at most [`MAX_ROWS`] rows each.
pub(super) fn run(all: &Forward<'_>, spans: &[Span]) {
    let (mut units, mut tasks, mut len) = (Vec::new(), Vec::new(), 0);
    for &span in spans {
        for kv_head in 0..all.shape.kv_heads {
            let chunks = span.k_len.div_ceil(CHUNK);
            tasks.extend((0..chunks).map(|chunk| (units.len(), chunk)));
            units.push(Unit { span, kv_head, chunks, parts: len });
            len += chunks * span.q_len * all.shape.group() * (all.shape.head_dim + 2);
        }
    }
    let mut parts = PARTS.take();
    parts.resize(parts.len().max(len), 0.0);
    let shared = SharedMut::new(&mut parts);
    par::for_tasks(tasks.len(), |i| {
        let (unit, chunk) = (&units[tasks[i].0], tasks[i].1);
        let mut scores = SCORES.take();
        let rows = unit.span.q_len * all.shape.group();
        let each = rows * (all.shape.head_dim + 2);
        let at = unit.parts + chunk * each;
        // SAFETY: every pair of unit and chunk has a part of its own.
        let part = unsafe { shared.slice(at..at + each) };
        dispatch(Chunk { all, unit, chunk, part: &mut *part, scores: &mut scores });
        if unit.chunks == 1 {
            join(all, unit, part);
        }
        SCORES.set(scores);
    });
    let long: Vec<&Unit> = units.iter().filter(|unit| unit.chunks > 1).collect();
    par::for_tasks(long.len(), |i| {
        let unit = long[i];
        let each = unit.span.q_len * all.shape.group() * (all.shape.head_dim + 2);
        // SAFETY: every unit has parts of its own, and the loop that wrote them is over.
        join(all, unit, unsafe { shared.slice(unit.parts..unit.parts + unit.chunks * each) });
    });
    PARTS.set(parts);
}

/// One chunk of keys of one unit.
struct Chunk<'a> {
    all: &'a Forward<'a>,
    unit: &'a Unit,
    chunk: usize,
    /// `[rows, head_dim]` values, then `[rows, 2]` maxima and sums.
    part: &'a mut [f32],
    scores: &'a mut Vec<f32>,
}

impl WithSimd for Chunk<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Forward { shape, scale, q, v, .. } = self.all;
        let (span, kv_head, group) = (self.unit.span, self.unit.kv_head, shape.group());
        let first = self.chunk * CHUNK;
        let keys = (span.k_len - first).min(CHUNK);
        let width = padded(keys);
        let rows = span.q_len * group;
        self.scores.resize(self.scores.len().max(rows * width), 0.0);
        let scores = &mut self.scores[..rows * width];
        let (values, stats) = self.part.split_at_mut(rows * shape.head_dim);

        // Row r is query r / group of head r % group.
        let query = |r: usize| q.row(span.q_start + r / group, shape.columns(kv_head * group + r % group));
        let mut r = 0;
        while r < rows {
            let scores = &mut scores[r * width..];
            match rows - r {
                1 => self.all.score(simd, [query(r)], span.k_start + first, keys, kv_head, scores, width),
                2 => {
                    let queries = [query(r), query(r + 1)];
                    self.all.score(simd, queries, span.k_start + first, keys, kv_head, scores, width);
                }
                _ => {
                    let queries = [query(r), query(r + 1), query(r + 2)];
                    self.all.score(simd, queries, span.k_start + first, keys, kv_head, scores, width);
                }
            }
            r += 3;
        }
        for (r, (row, stats)) in scores.chunks_exact_mut(width).zip(stats.chunks_exact_mut(2)).enumerate() {
            let sees = span.sees(r / group).saturating_sub(first).min(keys);
            let (max, sum) = if sees > 0 {
                soften(simd, row, sees, *scale)
            } else {
                row.fill(0.0);
                (f32::NEG_INFINITY, 0.0)
            };
            stats.copy_from_slice(&[max, sum]);
        }
        let product = Product {
            rows,
            cols: shape.head_dim,
            inner: keys,
            a: scores,
            a_row: width,
            a_col: 1,
            b: v.from(span.k_start + first, kv_head * shape.head_dim),
            b_row: v.stride(),
            c: values.as_mut_ptr(),
            c_row: shape.head_dim,
            add: false,
        };
        // SAFETY: `values` is [rows, head_dim] and borrowed by this task alone.
        unsafe { product.run(simd) };
    }
}

impl Forward<'_> {
    /// `scores[r * width + j] = queries[r]·key j` for `keys` keys from row `first` on.
    #[allow(clippy::too_many_arguments)]
    #[inline(always)]
    fn score<S: Simd, const R: usize>(
        &self,
        simd: S,
        queries: [&[f32]; R],
        first: usize,
        keys: usize,
        kv_head: usize,
        scores: &mut [f32],
        width: usize,
    ) {
        let columns = self.shape.columns(kv_head);
        let mut j = 0;
        while j + 4 <= keys {
            let mut lines = [&queries[0][..0]; 4];
            for (i, line) in lines.iter_mut().enumerate() {
                *line = self.k.row(first + j + i, columns.clone());
            }
            let sums = dots(simd, queries, lines);
            for (r, sums) in sums.iter().enumerate() {
                scores[r * width + j..][..4].copy_from_slice(sums);
            }
            j += 4;
        }
        for j in j..keys {
            let line = self.k.row(first + j, columns.clone());
            for (r, sums) in dots(simd, queries, [line]).iter().enumerate() {
                scores[r * width + j] = sums[0];
            }
        }
    }
}

/// The dot products of `R` with `J` slices of one length.
#[inline(always)]
fn dots<S: Simd, const R: usize, const J: usize>(simd: S, a: [&[f32]; R], b: [&[f32]; J]) -> [[f32; J]; R] {
    let len = a[0].len();
    let whole = len - len % LANES;
    // Lanes are independent, so narrow vectors take some of them at a time and have the registers that it takes.
    let mut lanes = [[[0.0; LANES]; J]; R];
    for first in (0..parts::<S>()).map(|part| part * S::F32_LANES) {
        let mut sums = [[simd.splat_f32s(0.0); J]; R];
        let (mut x, mut y) = ([simd.splat_f32s(0.0); R], [simd.splat_f32s(0.0); J]);
        for at in (first..whole).step_by(LANES) {
            for (x, a) in x.iter_mut().zip(a) {
                *x = load(simd, a, at);
            }
            for (y, b) in y.iter_mut().zip(b) {
                *y = load(simd, b, at);
            }
            add_products(simd, x, y, &mut sums);
        }
        let at = whole + first;
        if at < len {
            let here = (len - at).min(S::F32_LANES);
            let mask = simd.mask_between_m32s(0, here as u32);
            for (x, a) in x.iter_mut().zip(a) {
                // SAFETY: the mask covers the rest of the slice, or a whole vector of it.
                *x = unsafe { simd.mask_load_ptr_f32s(mask, a[at..].as_ptr()) };
            }
            for (y, b) in y.iter_mut().zip(b) {
                // SAFETY: as above; the slices have one length.
                *y = unsafe { simd.mask_load_ptr_f32s(mask, b[at..].as_ptr()) };
            }
            add_products(simd, x, y, &mut sums);
        }
        for (lanes, sums) in lanes.iter_mut().zip(sums) {
            for (lanes, sum) in lanes.iter_mut().zip(sums) {
                store(simd, lanes, first, sum);
            }
        }
    }
    lanes.map(|lanes| lanes.map(total))
}

#[inline(always)]
fn add_products<S: Simd, const R: usize, const J: usize>(
    simd: S,
    x: [S::f32s; R],
    y: [S::f32s; J],
    sums: &mut [[S::f32s; J]; R],
) {
    for (x, sums) in x.into_iter().zip(sums) {
        for (y, sum) in y.into_iter().zip(sums) {
            *sum = simd.mul_add_f32s(x, y, *sum);
        }
    }
}

/// Joins a unit's chunks into rows of the output.
fn join(all: &Forward<'_>, unit: &Unit, parts: &[f32]) {
    let (dim, group) = (all.shape.head_dim, all.shape.group());
    let rows = unit.span.q_len * group;
    let each = rows * (dim + 2);
    let stats = |chunk: usize, r: usize| {
        let at = chunk * each + rows * dim + 2 * r;
        (parts[at], parts[at + 1])
    };
    for r in 0..rows {
        let (row, head) = (unit.span.q_start + r / group, unit.kv_head * group + r % group);
        let max = (0..unit.chunks).map(|c| stats(c, r).0).fold(f32::NEG_INFINITY, f32::max);
        // A chunk that is not seen has a sum of 0 and a maximum of −∞: weight 0.
        let weight = |chunk: usize| libm::expf(stats(chunk, r).0 - max);
        let sum: f32 = (0..unit.chunks).map(|c| weight(c) * stats(c, r).1).sum();
        all.set_lse(row, head, max + libm::logf(sum));
        // SAFETY: spans share no rows, and each row and head is in one unit.
        let out = unsafe { all.out.row(row, all.shape.columns(head)) };
        for chunk in 0..unit.chunks {
            let factor = weight(chunk) / sum;
            let values = &parts[chunk * each + r * dim..][..dim];
            if chunk == 0 {
                out.iter_mut().zip(values).for_each(|(o, v)| *o = factor * v);
            } else {
                out.iter_mut().zip(values).for_each(|(o, v)| *o += factor * v);
            }
        }
    }
}
