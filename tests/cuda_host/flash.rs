//! Attention in bf16 on the tensor cores, against `cpu` in float32 on the same operands.
//!
//! Beside float32's, the kernel makes two roundings: of every probability, before it meets its value, and of the
//! result. Half a unit in the last place of bf16 is at most 2⁻⁸ of a number: hence the bound of [`Case::check`]. On a GPU
//! the tensor cores' sums are cut off besides ([`truncation`]).

use colar_engine::device::cpu::CpuDevice;
use colar_engine::device::cuda::CudaDevice;
use colar_engine::device::prelude::*;
use colar_engine::device::{Dtype, HeadShape, Span};
use colar_engine::random::Stream;
use half::bf16;

use super::common::driver::{TestDriver, kernels, on_gpu};
use super::common::host::{Host, read};

const ROUNDING: f64 = 1.0 / 256.0;

/// The most that a GPU's tensor cores are off in a sum of so many products, relative to the sum of their magnitudes.
///
/// An instruction aligns 16 exact products and the sum so far to the largest of the 17 and cuts off what lies below 2⁻²³
/// of it, where `cuda-host` rounds to the nearest (Fasi et al., "Numerical behavior of NVIDIA tensor cores", PeerJ
/// Computer Science 7:e330, 2021).
fn truncation(products: usize) -> f64 {
    if on_gpu() { products.div_ceil(16) as f64 * 17.0 * 2f64.powi(-23) } else { 0.0 }
}

pub fn device(seed: u64) -> CudaDevice<TestDriver> {
    kernels(Dtype::Bf16, seed)
}

/// Spans over buffers in which every row that belongs to none of them is NaN.
pub struct Case {
    pub shape: HeadShape,
    pub spans: Vec<Span>,
    pub q: Host,
    pub k: Host,
    pub v: Host,
}

impl Case {
    /// Spans of `(queries, keys before them)`; between them rows of queries and of keys that are not used, and in
    /// the cache the spans stand in the opposite order. `values` draws the elements of q, k and v.
    pub fn new(shape: HeadShape, lens: &[(usize, usize)], mut values: impl FnMut() -> f32) -> Case {
        let (mut spans, mut q_rows, mut k_rows) = (Vec::new(), 0, 0);
        for (i, &(q_len, before)) in lens.iter().enumerate() {
            spans.push(Span { q_start: q_rows + i % 2, q_len, k_start: 0, k_len: before + q_len });
            q_rows += q_len + i % 3 + 1;
        }
        for (i, span) in spans.iter_mut().enumerate().rev() {
            span.k_start = k_rows + i % 3;
            k_rows += span.k_len + 3;
        }
        let mut held = |rows: usize, width: usize, ranges: &[(usize, usize)]| {
            let mut x = Host::full(rows, width, f32::NAN);
            for &(start, len) in ranges {
                let part = &mut x.values[start * width..(start + len) * width];
                part.iter_mut().for_each(|x| *x = bf16::from_f32(values()).to_f32());
            }
            x
        };
        let queries: Vec<_> = spans.iter().map(|s| (s.q_start, s.q_len)).collect();
        let keys: Vec<_> = spans.iter().map(|s| (s.k_start, s.k_len)).collect();
        let q = held(q_rows, shape.q_width(), &queries);
        let [k, v] = [(); 2].map(|()| held(k_rows, shape.kv_width(), &keys));
        Case { shape, spans, q, k, v }
    }

    /// `out` and `lse` of the kernels, where nothing was written NaN.
    fn run(&self, d: &CudaDevice<TestDriver>, spans: &[Span], want_lse: bool) -> [Vec<f32>; 2] {
        let up = |x: &Host| d.activations(x.rows, x.cols, &x.values).unwrap();
        let (q, k, v) = (up(&self.q), up(&self.k), up(&self.v));
        let mut out = up(&Host::full(self.q.rows, self.q.cols, f32::NAN));
        let mut lse = Host::full(self.q.rows, self.shape.heads, f32::NAN).up(d);
        let wanted = want_lse.then_some(&mut lse);
        d.attention(self.shape, spans, &q, &k, &v, &mut out, wanted).unwrap();
        [read(d, &out), read(d, &lse)]
    }

    /// For each row and head the most that a GPU's scores are off, and the number of keys that it sees.
    fn scores(&self) -> Vec<[f64; 2]> {
        let HeadShape { heads, kv_heads, head_dim } = self.shape;
        let mut all = vec![[0.0, 0.0]; self.q.rows * heads];
        for span in &self.spans {
            for (i, head) in (0..span.q_len).flat_map(|i| (0..heads).map(move |head| (i, head))) {
                let (row, kv) = (span.q_start + i, head * kv_heads / heads);
                let q = &self.q.values[row * self.q.cols + head * head_dim..][..head_dim];
                let keys = span.k_len - span.q_len + i + 1;
                let size = |key: usize| {
                    let k = &self.k.values[(span.k_start + key) * self.k.cols + kv * head_dim..][..head_dim];
                    q.iter().zip(k).map(|(q, k)| f64::from((q * k).abs())).sum::<f64>()
                };
                let largest = (0..keys).map(size).fold(0.0, f64::max) / (head_dim as f64).sqrt();
                all[row * heads + head] = [truncation(head_dim) * largest, keys as f64];
            }
        }
        all
    }

    /// Compares with `cpu`; returns `out`.
    fn check(&self, d: &CudaDevice<TestDriver>) -> Vec<f32> {
        let [out, lse] = self.run(d, &self.spans, true);
        let c = CpuDevice::new(2).unwrap();
        // The second time with |v|, for the magnitudes that were summed.
        let size = Host::new(self.v.rows, self.v.cols, self.v.values.iter().map(|v| v.abs()).collect());
        let reference = |v: &Host| {
            let mut out = c.empty(self.q.rows, self.q.cols).unwrap();
            let mut lse = c.zeros(self.q.rows, self.shape.heads).unwrap();
            let (q, k, v) = (self.q.up(&c), self.k.up(&c), v.up(&c));
            c.attention(self.shape, &self.spans, &q, &k, &v, &mut out, Some(&mut lse)).unwrap();
            [read(&c, &out), read(&c, &lse)]
        };
        let ([want, want_lse], [sizes, _]) = (reference(&self.v), reference(&size));
        let scores = self.scores();
        let mut inside = vec![false; self.q.rows];
        self.spans.iter().for_each(|s| inside[s.q_start..s.q_start + s.q_len].fill(true));
        for (row, &inside) in inside.iter().enumerate() {
            for i in row * self.q.cols..(row + 1) * self.q.cols {
                if !inside {
                    assert!(out[i].is_nan(), "row {row} of no span was written");
                    continue;
                }
                let (got, want, size) = (f64::from(out[i]), f64::from(want[i]), f64::from(sizes[i]));
                let [score, keys] = scores[row * self.shape.heads + i % self.q.cols / self.shape.head_dim];
                // A score that is off by x changes probabilities by factors of at most e^2x.
                let cut = (2.0 * score).exp_m1() + truncation(keys as usize);
                let bound = ROUNDING * (want.abs() + size) + (1e-5 + cut) * size;
                assert!(
                    (got - want).abs() <= bound,
                    "{:?}, row {row}, column {}: {got} instead of {want}, bound {bound:.1e}",
                    self.shape,
                    i % self.q.cols
                );
            }
            for i in row * self.shape.heads..(row + 1) * self.shape.heads {
                let (got, want) = (f64::from(lse[i]), f64::from(want_lse[i]));
                if !inside {
                    assert!(got.is_nan(), "row {row} of no span has a log-sum-exp");
                    continue;
                }
                let bound = 1e-6 * want.abs() + 4e-6 + scores[i][0];
                assert!((got - want).abs() <= bound, "{:?}, row {row}: lse {got}, not {want}", self.shape);
            }
        }
        out
    }
}

pub fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

pub fn normal(seed: u64) -> impl FnMut() -> f32 {
    let mut stream = Stream::new(seed, 0xF1A5);
    move || stream.normal()
}

#[test]
fn every_width_and_group() {
    let lens = [(1, 0), (15, 2), (16, 0), (17, 64), (63, 0), (64, 31), (65, 0), (129, 7), (1, 70), (0, 9)];
    for (i, head_dim) in [32, 48, 64, 80, 96, 112, 128].into_iter().enumerate() {
        let group = [1, 3, 4, 7, 8, 3, 1][i];
        let kv_heads = 1 + usize::from(group < 4);
        let shape = HeadShape { heads: kv_heads * group, kv_heads, head_dim };
        // Few rows a head need many queries; many heads show the tiles in few.
        let lens = if group < 4 { &lens[..] } else { &lens[..5] };
        let case = Case::new(shape, lens, normal(i as u64));
        let out = case.check(&device(i as u64));
        // Again, with the threads in another order and no log-sum-exp.
        let [again, lse] = case.run(&device(99 + i as u64), &case.spans, false);
        assert!(bits(&out) == bits(&again), "the same call gave other bits");
        assert!(lse.iter().all(|x| x.is_nan()));
    }
}

/// Enough blocks for the large tiles, short and long spans in one launch; each span's bits are those it has
/// alone, in small tiles.
#[test]
fn large_tiles() {
    for (head_dim, group) in [(64, 4), (128, 3)] {
        let shape = HeadShape { heads: 8 * group, kv_heads: 8, head_dim };
        let lens: Vec<_> =
            (0..34).map(|i| (6 + i % 3, i * 5 % 23)).chain([(70, 0), (1, 90), (33, 40)]).collect();
        let case = Case::new(shape, &lens, normal(head_dim as u64));
        let d = device(41);
        let together = case.check(&d);
        for at in [0, 13, 34, 36] {
            let span = case.spans[at];
            let [alone, _] = case.run(&d, &[span], false);
            let rows = span.q_start * case.q.cols..(span.q_start + span.q_len) * case.q.cols;
            assert!(bits(&alone[rows.clone()]) == bits(&together[rows]), "span {at} of {shape:?}");
        }
    }
}

/// Scores far beyond where an exponential overflows, of both signs; the values make all of them exact.
#[test]
fn large_scores() {
    let mut stream = Stream::new(5, 6);
    let shape = HeadShape { heads: 2, kv_heads: 1, head_dim: 64 };
    let lens = [(40, 0), (70, 50)];
    let mut case = Case::new(shape, &lens, || stream.below(17) as f32 - 8.0);
    let mut normal = normal(8);
    let values = |v: &mut f32| *v = if v.is_nan() { *v } else { bf16::from_f32(normal()).to_f32() };
    case.v.values.iter_mut().for_each(values);
    for scale in [1.0, 8.0] {
        let larger = |x: &Host| Host::new(x.rows, x.cols, x.values.iter().map(|x| x * scale).collect());
        let (q, k, v) = (larger(&case.q), larger(&case.k), case.v.clone());
        Case { shape, spans: case.spans.clone(), q, k, v }.check(&device(7));
    }
}

/// A key that a row does not see yet changes none of its bits, wherever the steps and tiles end.
#[test]
fn nothing_of_later_keys() {
    let shape = HeadShape { heads: 3, kv_heads: 1, head_dim: 64 };
    let mut case = Case::new(shape, &[(90, 20)], normal(9));
    let d = device(11);
    let [before, _] = case.run(&d, &case.spans, false);
    let span = case.spans[0];
    for cut in [21, 63, 64, 65, 100] {
        for x in [&mut case.k, &mut case.v] {
            let from = (span.k_start + cut) * x.cols;
            let to = (span.k_start + span.k_len) * x.cols;
            x.values[from..to].iter_mut().for_each(|x| *x = -*x);
        }
        let [after, _] = case.run(&d, &case.spans, false);
        let seeing = (0..span.q_len).find(|i| span.k_len - span.q_len + i + 1 > cut).unwrap();
        let split = (span.q_start + seeing) * case.q.cols;
        assert!(bits(&before[..split]) == bits(&after[..split]), "keys from {cut}");
        let end = (span.q_start + span.q_len) * case.q.cols;
        assert!(bits(&before[split..end]) != bits(&after[split..end]), "keys from {cut} count for nothing");
        for x in [&mut case.k, &mut case.v] {
            let from = (span.k_start + cut) * x.cols;
            let to = (span.k_start + span.k_len) * x.cols;
            x.values[from..to].iter_mut().for_each(|x| *x = -*x);
        }
    }
}
