use proptest::prelude::*;

use super::*;
use crate::device::cpu::par::Pool;

/// Queries, keys and values side by side in one buffer, as a fused projection leaves them.
struct Case {
    shape: HeadShape,
    scale: f32,
    spans: Vec<Span>,
    qkv: Vec<f32>,
}

impl Case {
    /// One span per length pair (queries, keys), packed one after the other with a gap of a row, in rows
    /// that are the keys' and, for the last q_len of them, the queries' too.
    fn new(shape: HeadShape, lens: &[(usize, usize)], seed: u64) -> Self {
        let mut row = 1;
        let mut spans = Vec::new();
        for &(q_len, k_len) in lens {
            spans.push(Span { q_start: row + k_len - q_len, q_len, k_start: row, k_len });
            row += k_len + 1;
        }
        let mut case = Case { shape, scale: 0.3, spans, qkv: Vec::new() };
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        case.qkv = std::iter::repeat_with(next).take(row * case.stride()).collect();
        case
    }

    fn rows(&self) -> usize {
        self.qkv.len() / self.stride()
    }

    fn widths(&self) -> [usize; 3] {
        let HeadShape { heads, kv_heads, head_dim } = self.shape;
        [heads * head_dim, kv_heads * head_dim, kv_heads * head_dim]
    }

    /// Three columns more than are used.
    fn stride(&self) -> usize {
        self.widths().iter().sum::<usize>() + 3
    }

    fn columns(&self) -> [Columns<'_>; 3] {
        let [q, k, _] = self.widths();
        [0, q, q + k].map(|at| Columns::new(&self.qkv[at..], self.stride()))
    }

    /// Output, in rows of `heads * head_dim`, and log-sum-exp; poison where nothing is written.
    fn forward(&self) -> (Vec<f32>, Vec<f32>) {
        let width = self.widths()[0];
        let (mut out, mut lse) =
            (vec![f32::NAN; self.rows() * width], vec![f32::NAN; self.rows() * self.shape.heads]);
        let [q, k, v] = self.columns();
        let to = ColumnsMut::new(&mut out, width);
        attention(self.shape, self.scale, &self.spans, q, k, v, to, Some(&mut lse));
        (out, lse)
    }

    /// The gradients, side by side as the inputs.
    fn backward(&self, dout: &[f32]) -> Vec<f32> {
        let (out, lse) = self.forward();
        let mut grads = vec![f32::NAN; self.qkv.len()];
        let [q, k, v] = self.columns();
        let [dq, dk, dv] = ColumnsMut::split(&mut grads, self.stride(), self.widths());
        let [out, dout] = [&out, dout].map(|x| Columns::new(x, self.widths()[0]));
        attention_backward(self.shape, self.scale, &self.spans, q, k, v, out, &lse, dout, dq, dk, dv);
        grads
    }

    /// The definition, in f64, from any inputs: output and log-sum-exp.
    fn exact(&self, qkv: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let HeadShape { heads, head_dim, .. } = self.shape;
        let [width, k_width, _] = self.widths();
        let mut out = vec![f64::NAN; self.rows() * width];
        let mut lse = vec![f64::NAN; self.rows() * heads];
        for s in &self.spans {
            for i in 0..s.q_len {
                for h in 0..heads {
                    let row = s.q_start + i;
                    let kv = h / self.shape.group() * head_dim;
                    let q = &qkv[row * self.stride() + h * head_dim..][..head_dim];
                    let key =
                        |j: usize, at: usize| &qkv[(s.k_start + j) * self.stride() + at + kv..][..head_dim];
                    let scores: Vec<f64> = (0..s.sees(i))
                        .map(|j| key(j, width).iter().zip(q).map(|(k, q)| k * q).sum::<f64>())
                        .map(|s| s * f64::from(self.scale))
                        .collect();
                    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
                    lse[row * heads + h] = max + sum.ln();
                    let out = &mut out[row * width + h * head_dim..][..head_dim];
                    out.fill(0.0);
                    for (j, s) in scores.iter().enumerate() {
                        let p = (s - max).exp() / sum;
                        out.iter_mut().zip(key(j, width + k_width)).for_each(|(o, v)| *o += p * v);
                    }
                }
            }
        }
        (out, lse)
    }

    fn dout(&self) -> Vec<f32> {
        (0..self.rows() * self.widths()[0]).map(|i| ((i * 7 % 31) as f32 - 15.0) / 16.0).collect()
    }

    /// Compares the forward with the definition; poison must stay where poison is due.
    fn check_forward(&self) {
        let (out, lse) = self.forward();
        let wide: Vec<f64> = self.qkv.iter().map(|&x| x.into()).collect();
        let (want, want_lse) = self.exact(&wide);
        close("out", &out, &want, 2e-6);
        close("lse", &lse, &want_lse, 4e-6);
    }

    /// The gradients by the formulas of the module, written plainly in f64; NaN where none is due.
    fn exact_backward(&self, dout: &[f32]) -> Vec<f64> {
        let HeadShape { heads, head_dim, .. } = self.shape;
        let [width, k_width, _] = self.widths();
        let qkv: Vec<f64> = self.qkv.iter().map(|&x| x.into()).collect();
        let (out, lse) = self.exact(&qkv);
        let mut grads = vec![f64::NAN; qkv.len()];
        for s in &self.spans {
            for row in s.k_start..s.k_start + s.k_len {
                grads[row * self.stride() + width..][..2 * k_width].fill(0.0);
            }
            for row in s.q_start..s.q_start + s.q_len {
                grads[row * self.stride()..][..width].fill(0.0);
            }
            for (i, h) in (0..s.q_len).flat_map(|i| (0..heads).map(move |h| (i, h))) {
                let row = s.q_start + i;
                let (q_at, o_at) = (row * self.stride() + h * head_dim, row * width + h * head_dim);
                let dot = |a: &dyn Fn(usize) -> f64, b: &dyn Fn(usize) -> f64| {
                    (0..head_dim).map(|d| a(d) * b(d)).sum::<f64>()
                };
                let grad = |d: usize| f64::from(dout[o_at + d]);
                let out_dot = dot(&grad, &|d| out[o_at + d]);
                for j in 0..s.sees(i) {
                    let k_at = (s.k_start + j) * self.stride() + width + h / self.shape.group() * head_dim;
                    let v_at = k_at + k_width;
                    let score = f64::from(self.scale) * dot(&|d| qkv[q_at + d], &|d| qkv[k_at + d]);
                    let p = (score - lse[row * heads + h]).exp();
                    let ds = f64::from(self.scale) * p * (dot(&grad, &|d| qkv[v_at + d]) - out_dot);
                    for d in 0..head_dim {
                        grads[q_at + d] += ds * qkv[k_at + d];
                        grads[k_at + d] += ds * qkv[q_at + d];
                        grads[v_at + d] += p * grad(d);
                    }
                }
            }
        }
        grads
    }
}

/// Within `tolerance` of the largest value, and NaN exactly where NaN is wanted.
fn close(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    let size = want.iter().filter(|x| !x.is_nan()).fold(1.0, |m: f64, x| m.max(x.abs()));
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let off = (f64::from(got) - want).abs();
        assert!(
            (got.is_nan() && want.is_nan()) || off <= tolerance * size,
            "{what}[{i}] = {got}, not {want}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn agrees_with_the_definition(
        kv_heads in 1usize..4,
        group in 1usize..4,
        head_dim in 1usize..70,
        lens in prop::collection::vec((0usize..50, 0usize..30), 0..4),
        seed: u64,
    ) {
        let shape = HeadShape { heads: kv_heads * group, kv_heads, head_dim };
        let lens: Vec<_> = lens.into_iter().map(|(q, more)| (q, q + more)).collect();
        let case = Case::new(shape, &lens, seed);
        case.check_forward();
        let dout = case.dout();
        close("gradient", &case.backward(&dout), &case.exact_backward(&dout), 4e-6);
    }
}

#[test]
fn long_sequences_and_chunks_of_keys() {
    let shape = HeadShape { heads: 6, kv_heads: 2, head_dim: 32 };
    let case = Case::new(shape, &[(1, 255), (1, 256), (2, 1025), (2, 257), (600, 700), (1, 1)], 7);
    case.check_forward();
    let dout = case.dout();
    close("gradient", &case.backward(&dout), &case.exact_backward(&dout), 4e-6);
}

#[test]
fn gradients_agree_with_finite_differences() {
    let shape = HeadShape { heads: 4, kv_heads: 2, head_dim: 5 };
    let case = Case::new(shape, &[(9, 9), (3, 11)], 3);
    let dout = case.dout();
    let got = case.backward(&dout);
    let loss = |qkv: &[f64]| -> f64 {
        let (out, _) = case.exact(qkv);
        out.iter().zip(&dout).filter(|(o, _)| !o.is_nan()).map(|(o, &d)| o * f64::from(d)).sum()
    };
    let mut qkv: Vec<f64> = case.qkv.iter().map(|&x| x.into()).collect();
    let mut compared = 0;
    for at in 0..qkv.len() {
        let (x, h) = (qkv[at], 1e-5);
        qkv[at] = x + h;
        let above = loss(&qkv);
        qkv[at] = x - h;
        let slope = (above - loss(&qkv)) / (2.0 * h);
        qkv[at] = x;
        if got[at].is_nan() {
            assert_eq!(slope, 0.0, "no gradient at {at}");
        } else {
            assert!((f64::from(got[at]) - slope).abs() < 2e-6, "at {at}: {}, not {slope}", got[at]);
            compared += 1;
        }
    }
    assert_eq!(compared, 12 * 20 + 20 * 20);
}

#[test]
fn the_bits_do_not_depend_on_threads_or_on_company() {
    let shape = HeadShape { heads: 9, kv_heads: 3, head_dim: 64 };
    let lens = [(1, 700), (150, 150), (2, 90), (40, 40), (31, 64)];
    let together = Case::new(shape, &lens, 11);
    let dout = together.dout();
    let run =
        |threads| Pool::new(threads).unwrap().install(|| (together.forward(), together.backward(&dout)));
    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    let ((out, lse), grads) = run(1);
    for threads in [2, 5] {
        let ((out2, lse2), grads2) = run(threads);
        assert_eq!(bits(&out), bits(&out2));
        assert_eq!(bits(&lse), bits(&lse2));
        assert_eq!(bits(&grads), bits(&grads2));
    }
    for span in &together.spans {
        let alone = Case { spans: vec![*span], qkv: together.qkv.clone(), shape, scale: together.scale };
        let (out2, _) = alone.forward();
        let rows = span.q_start * 9 * 64..(span.q_start + span.q_len) * 9 * 64;
        assert_eq!(bits(&out[rows.clone()]), bits(&out2[rows]));
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let shape = HeadShape { heads: 2, kv_heads: 1, head_dim: 4 };
    let good = Span { q_start: 0, q_len: 4, k_start: 0, k_len: 4 };
    let run = |shape: HeadShape, scale, spans: &[Span]| {
        let (q, kv) = (vec![0.0; 8 * 8], vec![0.0; 8 * 4]);
        let (mut out, mut lse) = (vec![0.0; 8 * 8], vec![0.0; 8 * 2]);
        let (q, kv) = (Columns::new(&q, 8), Columns::new(&kv, 4));
        let spans = spans.to_vec();
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let out = ColumnsMut::new(&mut out, 8);
            attention(shape, scale, &spans, q, kv, kv, out, Some(&mut lse));
        }))
        .is_ok()
    };
    assert!(run(shape, 1.0, &[good]));
    assert!(run(shape, 1.0, &[Span { q_start: 4, ..good }, good]));
    assert!(!run(shape, 1.0, &[Span { q_start: 3, ..good }, good]));
    assert!(!run(shape, 1.0, &[Span { q_start: 5, ..good }]));
    assert!(!run(shape, 1.0, &[Span { k_start: 5, ..good }]));
    assert!(!run(shape, 1.0, &[Span { k_len: 3, ..good }]));
    assert!(!run(shape, 1.0, &[Span { q_start: usize::MAX, ..good }]));
    assert!(!run(shape, 0.0, &[good]));
    assert!(!run(HeadShape { kv_heads: 2, ..shape }, 1.0, &[good]));
    assert!(!run(HeadShape { kv_heads: 0, ..shape }, 1.0, &[good]));
    assert!(!run(HeadShape { heads: 3, ..shape }, 1.0, &[good]));
}
