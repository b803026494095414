//! Grouped-query attention over spans, of packed batches and of caches.

use colar_engine::device::prelude::*;
use colar_engine::device::{HeadShape, Span};
use proptest::prelude::*;

use super::common::host::{Host, close, poisoned, read};
use super::{config, device};

/// Sums of exponentials of rounded scores.
const TOLERANCE: f64 = 1e-5;

pub struct Case {
    pub shape: HeadShape,
    pub spans: Vec<Span>,
    pub q: Host,
    pub k: Host,
    pub v: Host,
    pub dout: Host,
}

/// The result of the reference; rows outside every span keep their place and are not compared.
pub struct Want {
    pub out: Vec<(f64, f64)>,
    pub lse: Vec<(f64, f64)>,
    pub dq: Vec<(f64, f64)>,
    pub dk: Vec<(f64, f64)>,
    pub dv: Vec<(f64, f64)>,
}

fn add(to: &mut (f64, f64), term: f64, size: f64) {
    *to = (to.0 + term, to.1 + size);
}

pub fn reference(c: &Case) -> Want {
    let HeadShape { heads, kv_heads, head_dim } = c.shape;
    let (qw, kw) = (c.shape.q_width(), c.shape.kv_width());
    let zeros = |n: usize| vec![(0.0, 0.0); n];
    let mut want = Want {
        out: zeros(c.q.rows * qw),
        lse: zeros(c.q.rows * heads),
        dq: zeros(c.q.rows * qw),
        dk: zeros(c.k.rows * kw),
        dv: zeros(c.k.rows * kw),
    };
    let scale = 1.0 / (head_dim as f64).sqrt();
    for span in &c.spans {
        for i in 0..span.q_len {
            for head in 0..heads {
                let (r, q0) = (span.q_start + i, head * head_dim);
                let k0 = head / (heads / kv_heads) * head_dim;
                let seen = span.k_len - span.q_len + i + 1;
                let dot = |a: &Host, ar: usize, a0: usize, b: &Host, br: usize, b0: usize| {
                    (0..head_dim).map(|e| a.at(ar, a0 + e) * b.at(br, b0 + e)).sum::<f64>()
                };
                let scores: Vec<f64> =
                    (0..seen).map(|j| scale * dot(&c.q, r, q0, &c.k, span.k_start + j, k0)).collect();
                let top = scores.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
                let lse = top + scores.iter().map(|s| (s - top).exp()).sum::<f64>().ln();
                want.lse[r * heads + head] = (lse, 1.0);
                let p: Vec<f64> = scores.iter().map(|s| (s - lse).exp()).collect();
                let dp: Vec<f64> =
                    (0..seen).map(|j| dot(&c.dout, r, q0, &c.v, span.k_start + j, k0)).collect();
                let mean: f64 = p.iter().zip(&dp).map(|(p, d)| p * d).sum();
                let spread: f64 = p.iter().zip(&dp).map(|(p, d)| p * d.abs()).sum::<f64>() + 1.0;
                for j in 0..seen {
                    let row = span.k_start + j;
                    let ds = scale * p[j] * (dp[j] - mean);
                    let size = scale * p[j] * (dp[j].abs() + spread);
                    for e in 0..head_dim {
                        let (v, g) = (c.v.at(row, k0 + e), c.dout.at(r, q0 + e));
                        add(&mut want.out[r * qw + q0 + e], p[j] * v, p[j] * v.abs());
                        add(&mut want.dv[row * kw + k0 + e], p[j] * g, p[j] * g.abs());
                        let (k, q) = (c.k.at(row, k0 + e), c.q.at(r, q0 + e));
                        add(&mut want.dq[r * qw + q0 + e], ds * k, size * k.abs());
                        add(&mut want.dk[row * kw + k0 + e], ds * q, size * q.abs());
                    }
                }
            }
        }
    }
    want
}

fn check<D: Device>(d: &D, c: &Case, backward: bool) {
    let want = reference(c);
    let what = |name: &str| format!("{name}, {:?}, {:?}", c.shape, c.spans);
    let [q, k, v] = [&c.q, &c.k, &c.v].map(|x| x.up(d));
    let mut out = poisoned(d, c.q.rows, c.q.cols);
    d.attention(c.shape, &c.spans, &q, &k, &v, &mut out, None).unwrap();
    close(&what("attention without lse"), &read(d, &out), &want.out, TOLERANCE);
    let mut out = poisoned(d, c.q.rows, c.q.cols);
    let mut lse = poisoned(d, c.q.rows, c.shape.heads);
    d.attention(c.shape, &c.spans, &q, &k, &v, &mut out, Some(&mut lse)).unwrap();
    close(&what("attention"), &read(d, &out), &want.out, TOLERANCE);
    close(&what("lse"), &read(d, &lse), &want.lse, TOLERANCE);
    if !backward {
        return;
    }
    let mut dq = poisoned(d, c.q.rows, c.q.cols);
    let (mut dk, mut dv) = (poisoned(d, c.k.rows, c.k.cols), poisoned(d, c.k.rows, c.k.cols));
    let dout = c.dout.up(d);
    d.attention_backward(c.shape, &c.spans, &q, &k, &v, &out, &lse, &dout, &mut dq, &mut dk, &mut dv)
        .unwrap();
    close(&what("dq"), &read(d, &dq), &want.dq, TOLERANCE);
    close(&what("dk"), &read(d, &dk), &want.dk, TOLERANCE);
    close(&what("dv"), &read(d, &dv), &want.dv, TOLERANCE);
}

/// Heads in groups, head widths that fill no vector, sequence lengths around every block size.
fn shapes() -> impl Strategy<Value = HeadShape> {
    (1..4usize, 1..4usize, prop_oneof![1..9usize, Just(16), 17..40usize, Just(64)])
        .prop_map(|(kv_heads, group, head_dim)| HeadShape { heads: kv_heads * group, kv_heads, head_dim })
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![Just(1), 2..18usize, 30..36usize, 60..70usize, Just(130)]
}

fn case(shape: HeadShape, spans: Vec<Span>, q_rows: usize, k_rows: usize, seed: u64) -> Case {
    let (qw, kw) = (shape.q_width(), shape.kv_width());
    Case {
        shape,
        spans,
        q: Host::normal(q_rows, qw, 1.0, seed),
        k: Host::normal(k_rows, kw, 1.0, seed + 1),
        v: Host::normal(k_rows, kw, 1.0, seed + 2),
        dout: Host::normal(q_rows, qw, 1.0, seed + 3),
    }
}

proptest! {
    #![proptest_config(config(40))]

    #[test]
    fn packed_sequences(
        shape in shapes(),
        lens in prop::collection::vec(length(), 1..4),
        seed in any::<u32>(),
    ) {
        let mut rows = 0;
        let spans = lens.iter().map(|&len| {
            rows += len;
            Span { q_start: rows - len, q_len: len, k_start: rows - len, k_len: len }
        });
        let spans: Vec<Span> = spans.collect();
        let case = case(shape, spans, rows, rows, u64::from(seed));
        device().scope(|| check(device(), &case, true));
    }

    /// Slots of a cache, in any order, of which only a part is filled.
    #[test]
    fn cached_sequences(
        shape in shapes(),
        lens in prop::collection::vec((length(), prop_oneof![Just(1), 1..9usize]), 1..4),
        seed in any::<u32>(),
    ) {
        let capacity = 160;
        let (mut rows, slots) = (0, lens.len());
        let mut spans = Vec::new();
        for (i, &(k_len, q_len)) in lens.iter().enumerate() {
            let q_len = q_len.min(k_len);
            spans.push(Span { q_start: rows, q_len, k_start: (slots - 1 - i) * capacity, k_len });
            rows += q_len;
        }
        let mut case = case(shape, spans, rows, slots * capacity, u64::from(seed));
        // Rows beyond a sequence's length are never read.
        let kw = shape.kv_width();
        for row in 0..case.k.rows {
            let held = case.spans.iter().any(|s| (s.k_start..s.k_start + s.k_len).contains(&row));
            if !held {
                case.k.values[row * kw..][..kw].fill(f32::NAN);
                case.v.values[row * kw..][..kw].fill(f32::NAN);
            }
        }
        device().scope(|| check(device(), &case, false));
    }
}

/// The widest heads, backward too, with keys before the queries of a span, and of a span without queries.
#[test]
fn wide_heads_and_long_keys() {
    for (head_dim, group) in [(128, 2), (99, 3), (8, 5)] {
        let shape = HeadShape { heads: 2 * group, kv_heads: 2, head_dim };
        let (mut spans, mut q_rows, mut k_rows) = (Vec::new(), 0, 0);
        for (q_len, k_len) in [(40, 75), (0, 3), (1, 34), (33, 33), (5, 70)] {
            spans.push(Span { q_start: q_rows, q_len, k_start: k_rows, k_len });
            (q_rows, k_rows) = (q_rows + q_len, k_rows + k_len);
        }
        let case = case(shape, spans, q_rows, k_rows, head_dim as u64);
        device().scope(|| check(device(), &case, true));
    }
}

/// Scores so large that their exponentials overflow unless shifted first.
#[test]
fn large_scores() {
    let shape = HeadShape { heads: 2, kv_heads: 1, head_dim: 8 };
    let spans = vec![Span { q_start: 0, q_len: 40, k_start: 0, k_len: 40 }];
    let mut case = case(shape, spans, 40, 40, 7);
    case.q.values.iter_mut().for_each(|x| *x = (*x * 64.0).round());
    case.k.values.iter_mut().for_each(|x| *x = x.round());
    // Scores are then exact but for one rounding of some hundred, which is 1e-5 in the exponent.
    let want = reference(&case);
    let [q, k, v] = [&case.q, &case.k, &case.v].map(|x| x.up(device()));
    let mut out = poisoned(device(), 40, 16);
    let mut lse = poisoned(device(), 40, 2);
    device().attention(case.shape, &case.spans, &q, &k, &v, &mut out, Some(&mut lse)).unwrap();
    close("out", &read(device(), &out), &want.out, 1e-4);
    close("lse", &read(device(), &lse), &want.lse, 1e-6);
}
