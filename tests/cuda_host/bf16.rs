//! Activations in bf16: the kernels' results on rounded operands agree with float32 arithmetic on the same
//! operands, up to the rounding of the result.

use std::sync::OnceLock;

use colar_engine::Error;
use colar_engine::device::cpu::CpuDevice;
use colar_engine::device::cuda::{CudaDevice, CudaTensor};
use colar_engine::device::prelude::*;
use colar_engine::device::{Dropout, Dtype, HeadShape, Span};
use half::bf16;
use proptest::prelude::*;

use super::common::driver::{TestDriver, kernels};
use super::common::host::{Host, read};
use super::{config, dtype, size};

/// Half a unit in the last place of bf16 is at most 2⁻⁸ of a value; results are rounded once.
pub const ROUNDING: f64 = 1.0 / 256.0;

pub fn device() -> &'static CudaDevice<TestDriver> {
    static DEVICE: OnceLock<CudaDevice<TestDriver>> = OnceLock::new();
    DEVICE.get_or_init(|| kernels(Dtype::Bf16, 0xbf16))
}

/// Normal values that bf16 holds exactly.
pub fn rounded(rows: usize, cols: usize, seed: u64) -> Host {
    Host::normal(rows, cols, 1.0, seed).rounded()
}

pub fn up(x: &Host) -> CudaTensor<TestDriver> {
    let t = device().activations(x.rows, x.cols, &x.values).unwrap();
    assert_eq!(t.dtype(), Dtype::Bf16);
    t
}

/// A result of the right dtype, every element within a rounding of float32's, `slack` for sums that cancel.
pub fn close(what: &str, got: &CudaTensor<TestDriver>, want: &[f32], slack: f64) {
    assert_eq!(got.dtype(), Dtype::Bf16, "{what}");
    for (i, (&got, &want)) in read(device(), got).iter().zip(want).enumerate() {
        let error = (f64::from(got) - f64::from(want)).abs();
        assert!(error <= ROUNDING * f64::from(want).abs() + slack, "{what}, {i}: {got} instead of {want}");
    }
}

pub fn empty(rows: usize, cols: usize) -> CudaTensor<TestDriver> {
    device().empty(rows, cols).unwrap()
}

proptest! {
    #![proptest_config(config(48))]

    #[test]
    fn layers(rows in 1..20usize, cols in size(), seed in any::<u32>()) {
        let (d, seed, c) = (device(), u64::from(seed), CpuDevice::new(1).unwrap());
        let [x, y] = [0, 1].map(|i| rounded(rows, cols, seed + i));
        let [w, b] = [2, 3].map(|i| Host::normal(1, cols, 1.0, seed + i));
        let (mut mine, mut theirs) = (empty(rows, cols), c.empty(rows, cols).unwrap());
        d.rms_norm(&up(&x), &w.up(d), 1e-5, &mut mine).unwrap();
        c.rms_norm(&x.up(&c), &w.up(&c), 1e-5, &mut theirs).unwrap();
        close("rms_norm", &mine, &read(&c, &theirs), 1e-6);

        let (mut sum, mut want_sum) = (empty(rows, cols), c.empty(rows, cols).unwrap());
        d.add_rms_norm(&up(&x), &up(&y), &w.up(d), 1e-5, &mut sum, &mut mine).unwrap();
        c.add_rms_norm(&x.up(&c), &y.up(&c), &w.up(&c), 1e-5, &mut want_sum, &mut theirs).unwrap();
        close("add_rms_norm, sum", &sum, &read(&c, &want_sum), 0.0);
        // The norm is of the rounded sum.
        let sum = Host::new(rows, cols, read(d, &sum));
        c.rms_norm(&sum.up(&c), &w.up(&c), 1e-5, &mut theirs).unwrap();
        close("add_rms_norm", &mine, &read(&c, &theirs), 1e-6);

        d.layer_norm(&up(&x), &w.up(d), &b.up(d), &mut mine).unwrap();
        c.layer_norm(&x.up(&c), &w.up(&c), &b.up(&c), &mut theirs).unwrap();
        close("layer_norm", &mine, &read(&c, &theirs), 1e-4);

        d.swiglu(&up(&x), &up(&y), &mut mine).unwrap();
        c.swiglu(&x.up(&c), &y.up(&c), &mut theirs).unwrap();
        close("swiglu", &mine, &read(&c, &theirs), 1e-6);
        d.gelu(&up(&x), &mut mine).unwrap();
        c.gelu(&x.up(&c), &mut theirs).unwrap();
        close("gelu", &mine, &read(&c, &theirs), 1e-6);
        d.reparameterise(&up(&x), Some(&up(&y)), &up(&y), 0.5, &mut mine).unwrap();
        c.reparameterise(&x.up(&c), Some(&y.up(&c)), &y.up(&c), 0.5, &mut theirs).unwrap();
        close("reparameterise", &mine, &read(&c, &theirs), 1e-5);
        let dropout = Dropout { p: 0.3, key: seed, counter: [5, 1, 0x100] };
        d.dropout(dropout, &up(&x), 0.0, &mut mine).unwrap();
        c.dropout(dropout, &x.up(&c), 0.0, &mut theirs).unwrap();
        close("dropout", &mine, &read(&c, &theirs), 1e-6);
    }

    /// Weights' gradients are float32 sums.
    #[test]
    fn layers_backward(rows in 1..20usize, cols in size(), seed in any::<u32>()) {
        let (d, seed, c) = (device(), u64::from(seed), CpuDevice::new(1).unwrap());
        let [x, y, dout] = [0, 1, 2].map(|i| rounded(rows, cols, seed + i));
        let [w, b] = [3, 4].map(|i| Host::normal(1, cols, 1.0, seed + i));
        let same = |what: &str, got: &CudaTensor<TestDriver>, want: &[f32], slack: f32| {
            assert_eq!(got.dtype(), Dtype::F32, "{what}");
            for (got, want) in read(d, got).iter().zip(want) {
                assert!((got - want).abs() <= slack * (1.0 + want.abs()), "{what}: {got} instead of {want}");
            }
        };

        let (mut dx, mut want_dx) = (up(&y), y.up(&c));
        let (mut dw, mut want_dw) = (w.up(d), w.up(&c));
        d.rms_norm_backward(&up(&dout), &up(&x), &w.up(d), 1e-5, &mut dx, Some(&mut dw)).unwrap();
        c.rms_norm_backward(&dout.up(&c), &x.up(&c), &w.up(&c), 1e-5, &mut want_dx, Some(&mut want_dw)).unwrap();
        close("rms_norm_backward, dx", &dx, &read(&c, &want_dx), 1e-4);
        same("rms_norm_backward, dw", &dw, &read(&c, &want_dw), 1e-5);

        let (mut db, mut want_db) = (b.up(d), b.up(&c));
        d.layer_norm_backward(&up(&dout), &up(&x), &w.up(d), &mut dx, Some((&mut dw, &mut db))).unwrap();
        let params = Some((&mut want_dw, &mut want_db));
        c.layer_norm_backward(&dout.up(&c), &x.up(&c), &w.up(&c), &mut want_dx, params).unwrap();
        // Of two equal columns 1/σ is 316, and what it multiplies cancels.
        close("layer_norm_backward, dx", &dx, &read(&c, &want_dx), 1e-3);
        same("layer_norm_backward, dw", &dw, &read(&c, &want_dw), 1e-4);
        same("layer_norm_backward, db", &db, &read(&c, &want_db), 1e-5);

        d.gelu_backward(&up(&dout), &up(&x), &mut dx).unwrap();
        c.gelu_backward(&dout.up(&c), &x.up(&c), &mut want_dx).unwrap();
        close("gelu_backward", &dx, &read(&c, &want_dx), 1e-6);
        let (mut dgate, mut dup) = (up(&x), up(&y));
        let (mut want_dgate, mut want_dup) = (x.up(&c), y.up(&c));
        d.swiglu_backward(&up(&dout), &mut dgate, &mut dup).unwrap();
        c.swiglu_backward(&dout.up(&c), &mut want_dgate, &mut want_dup).unwrap();
        close("swiglu_backward, gate", &dgate, &read(&c, &want_dgate), 1e-6);
        close("swiglu_backward, up", &dup, &read(&c, &want_dup), 1e-6);
    }

    #[test]
    fn products(
        m in prop_oneof![1..20usize, Just(40)], n in size(), k in size(), weight in dtype(),
        beta in prop::sample::select(vec![0.0f32, 1.0]), seed in any::<u32>(),
    ) {
        let (d, seed, c) = (device(), u64::from(seed), CpuDevice::new(1).unwrap());
        let (x, y) = (rounded(m, k, seed), rounded(m, n, seed + 1));
        let w = Host::normal(n, k, 1.0, seed + 2);
        let (mut mine, mut theirs) = (up(&y), y.up(&c));
        let (mine_w, host) = w.adopt(d, weight);
        d.matmul_nt(0.5, &up(&x), &mine_w, beta, &mut mine).unwrap();
        // With few rows weights are widened, with many they are rounded to what the tensor cores multiply.
        let host = if m > 16 { host.rounded() } else { host };
        c.matmul_nt(0.5, &x.up(&c), &host.up(&c), beta, &mut theirs).unwrap();
        close("matmul_nt", &mine, &read(&c, &theirs), 1e-4);
    }

    /// A frozen weight is rounded to bf16 once, and is read only; nothing is left to mix.
    #[test]
    fn frozen(rows in size(), cols in size(), weight in dtype(), seed in any::<u32>()) {
        let d = device();
        let (w, host) = Host::normal(rows, cols, 1.0, u64::from(seed)).adopt(d, weight);
        let mut w = d.freeze(w).unwrap();
        let want: Vec<f32> = host.values.iter().map(|&x| bf16::from_f32(x).to_f32()).collect();
        assert_eq!((w.dtype(), read(d, &w)), (Dtype::Bf16, want));
        assert!(d.clear(&mut w).is_err());
    }

    /// Losses come from logits that keep float32, whether few rows or many are multiplied.
    #[test]
    fn losses(rows in prop_oneof![1..20usize, Just(40)], vocab in size(), k in size(), seed in any::<u32>()) {
        let (d, seed, c) = (device(), u64::from(seed), CpuDevice::new(1).unwrap());
        let h = rounded(rows, k, seed);
        let w = Host::normal(vocab, k, 1.0, seed + 1);
        let labels: Vec<u32> = (0..rows).map(|r| ((r * 31 + 7) % vocab) as u32).collect();
        let offsets: Vec<u32> = (0..=rows as u32).collect();
        let (mut mine, mut theirs) = (d.zeros(rows, 1).unwrap(), c.zeros(rows, 1).unwrap());
        let (ids, cuts) = (d.index(&labels).unwrap(), d.index(&offsets).unwrap());
        d.cross_entropy(&up(&h), &w.adopt(d, Dtype::Bf16).0, &ids, &cuts, &mut mine, None).unwrap();
        c.cross_entropy(&h.up(&c), &w.adopt(&c, Dtype::Bf16).0, &labels, &offsets, &mut theirs, None).unwrap();
        for (mine, theirs) in read(d, &mine).iter().zip(read(&c, &theirs)) {
            assert!((mine - theirs).abs() <= 1e-4 * (1.0 + theirs.abs()), "{mine} instead of {theirs}");
        }
    }

    #[test]
    fn rows(n in 1..40usize, cols in size(), weight in dtype(), seed in any::<u32>()) {
        let (d, seed, c) = (device(), u64::from(seed), CpuDevice::new(1).unwrap());
        let table = Host::normal(50, cols, 1.0, seed);
        let at: Vec<u32> = (0..n as u32).map(|i| (i * 17 + seed as u32) % 50).collect();
        let (mut mine, mut theirs) = (empty(n, cols), c.empty(n, cols).unwrap());
        d.gather_rows(0.5, &table.adopt(d, weight).0, &d.index(&at).unwrap(), &mut mine).unwrap();
        c.gather_rows(0.5, &table.adopt(&c, weight).0, &at, &mut theirs).unwrap();
        close("gather_rows", &mine, &read(&c, &theirs), 0.0);
        let offsets: Vec<u32> = (0..=n as u32).step_by(1).collect();
        let scale = Host::normal(n, 1, 1.0, seed + 1);
        let (ids, cuts) = (d.index(&at).unwrap(), d.index(&offsets).unwrap());
        d.gather_merge(&table.adopt(d, weight).0, &ids, &cuts, &scale.up(d), &mut mine).unwrap();
        c.gather_merge(&table.adopt(&c, weight).0, &at, &offsets, &scale.up(&c), &mut theirs).unwrap();
        close("gather_merge", &mine, &read(&c, &theirs), 0.0);
    }

    /// Of heads that the tensor cores do not take; [`super::flash`] has the others.
    #[test]
    fn attention(
        kv_heads in 1..3usize, group in 1..4usize, head_dim in prop_oneof![Just(16), 1..32usize, 33..48usize],
        q_len in 1..40usize, before in 0..60usize, seed in any::<u32>(),
    ) {
        let (d, seed, c) = (device(), u64::from(seed), CpuDevice::new(1).unwrap());
        let shape = HeadShape { heads: kv_heads * group, kv_heads, head_dim };
        let k_len = q_len + before;
        let spans = [Span { q_start: 0, q_len, k_start: 0, k_len }];
        let q = rounded(q_len, shape.q_width(), seed);
        let [k, v] = [1, 2].map(|i| rounded(k_len, shape.kv_width(), seed + i));
        let (mut mine, mut theirs) = (empty(q_len, q.cols), c.empty(q_len, q.cols).unwrap());
        d.attention(shape, &spans, &up(&q), &up(&k), &up(&v), &mut mine, None).unwrap();
        c.attention(shape, &spans, &q.up(&c), &k.up(&c), &v.up(&c), &mut theirs, None).unwrap();
        close("attention", &mine, &read(&c, &theirs), 1e-4);
    }

    #[test]
    fn attention_backward(
        kv_heads in 1..3usize, group in 1..4usize, head_dim in prop_oneof![Just(16), 1..32usize, 33..48usize],
        q_len in 1..40usize, before in 0..60usize, seed in any::<u32>(),
    ) {
        let (d, seed, c) = (device(), u64::from(seed), CpuDevice::new(1).unwrap());
        let shape = HeadShape { heads: kv_heads * group, kv_heads, head_dim };
        let k_len = q_len + before;
        let spans = [Span { q_start: 0, q_len, k_start: 0, k_len }];
        let [q, dout] = [0, 1].map(|i| rounded(q_len, shape.q_width(), seed + i));
        let [k, v] = [2, 3].map(|i| rounded(k_len, shape.kv_width(), seed + i));
        let (mut out, mut lse) = (empty(q_len, q.cols), d.zeros(q_len, shape.heads).unwrap());
        let [my_q, my_k, my_v, my_dout] = [&q, &k, &v, &dout].map(up);
        d.attention(shape, &spans, &my_q, &my_k, &my_v, &mut out, Some(&mut lse)).unwrap();
        let [mut dq, mut dk, mut dv] = [&q, &k, &v].map(|x| empty(x.rows, x.cols));
        d.attention_backward(
            shape, &spans, &my_q, &my_k, &my_v, &out, &lse, &my_dout, &mut dq, &mut dk, &mut dv,
        ).unwrap();
        // From the same rounded output.
        let out = Host::new(q_len, q.cols, read(d, &out)).up(&c);
        let lse = Host::new(q_len, shape.heads, read(d, &lse)).up(&c);
        let [q, k, v, dout] = [q, k, v, dout].map(|x| x.up(&c));
        let [mut want_dq, mut want_dk, mut want_dv] = [&q, &k, &v].map(|x| c.empty(x.rows(), x.cols()).unwrap());
        c.attention_backward(
            shape, &spans, &q, &k, &v, &out, &lse, &dout, &mut want_dq, &mut want_dk, &mut want_dv,
        ).unwrap();
        close("dq", &dq, &read(&c, &want_dq), 1e-4);
        close("dk", &dk, &read(&c, &want_dk), 1e-4);
        close("dv", &dv, &read(&c, &want_dv), 1e-4);
    }

    #[test]
    fn rotary_append(
        n in 1..10usize, kv_heads in 1..4usize, group in 1..5usize, half in prop_oneof![1..40usize, Just(32)],
        biased in any::<bool>(), seed in any::<u32>(),
    ) {
        let (d, seed, c) = (device(), u64::from(seed), CpuDevice::new(1).unwrap());
        let widths = [group * kv_heads, kv_heads, kv_heads].map(|heads| heads * 2 * half);
        let parts = [0, 1, 2].map(|i| rounded(n, widths[i], seed + i as u64));
        let cache = [3, 4].map(|i| rounded(n + 5, widths[2], seed + i));
        let biases = [0, 1, 2].map(|i| Host::normal(1, widths[i], 1.0, seed + 5 + i as u64));
        let positions: Vec<u32> = (0..n as u32).map(|r| (r * 37) % 2048).collect();
        let rows: Vec<u32> = (0..n as u32).map(|r| n as u32 + 4 - r).collect();
        let frequencies = Host::new(1, half, (0..half).map(|j| 1e4f32.powf(-(j as f32) / half as f32)).collect());

        let (mut mine, mut theirs) = (parts.each_ref().map(up), parts.each_ref().map(|x| x.up(&c)));
        let (mut my_cache, mut their_cache) = (cache.each_ref().map(up), cache.each_ref().map(|x| x.up(&c)));
        let (my_biases, their_biases) = (biases.each_ref().map(|b| b.up(d)), biases.each_ref().map(|b| b.up(&c)));
        let (my_rows, my_positions) = (d.index(&rows).unwrap(), d.index(&positions).unwrap());
        let given = my_biases.each_ref().map(|b| biased.then_some(b));
        let (qkv, to) = (mine.each_mut(), my_cache.each_mut());
        d.rotary_append(qkv, given, &my_positions, &frequencies.up(d), &my_rows, to).unwrap();
        let given = their_biases.each_ref().map(|b| biased.then_some(b));
        let (qkv, to) = (theirs.each_mut(), their_cache.each_mut());
        c.rotary_append(qkv, given, &positions, &frequencies.up(&c), &rows, to).unwrap();
        close("rotary_append, q", &mine[0], &read(&c, &theirs[0]), 1e-5);
        close("rotary_append, keys", &my_cache[0], &read(&c, &their_cache[0]), 1e-5);
        close("rotary_append, values", &my_cache[1], &read(&c, &their_cache[1]), 1e-5);
    }

    #[test]
    fn rotary(rows in 1..10usize, heads in 1..6usize, half in 1..40usize, seed in any::<u32>()) {
        let (d, seed, c) = (device(), u64::from(seed), CpuDevice::new(1).unwrap());
        let x = rounded(rows, heads * 2 * half, seed);
        let positions: Vec<u32> = (0..rows as u32).map(|r| (r * 37) % 2048).collect();
        let frequencies = Host::new(1, half, (0..half).map(|j| 1e4f32.powf(-(j as f32) / half as f32)).collect());
        let (mut mine, mut theirs) = (up(&x), x.up(&c));
        d.rotary(&mut mine, &d.index(&positions).unwrap(), &frequencies.up(d), 1.0).unwrap();
        c.rotary(&mut theirs, &positions, &frequencies.up(&c), 1.0).unwrap();
        close("rotary", &mine, &read(&c, &theirs), 1e-5);
    }
}

/// The sums of a weight's gradient stand in shared memory; what does not fit there is refused, and needs it only
/// where the gradient is wanted.
#[test]
fn norms_too_wide() {
    let (d, cols) = (device(), 60_000);
    let (x, w) = (rounded(1, cols, 1), Host::full(1, cols, 1.0).up(d));
    let (mut dx, mut dw) = (up(&x), d.zeros(1, cols).unwrap());
    d.rms_norm_backward(&up(&x), &up(&x), &w, 1e-5, &mut dx, None).unwrap();
    let error = d.rms_norm_backward(&up(&x), &up(&x), &w, 1e-5, &mut dx, Some(&mut dw)).unwrap_err();
    assert!(matches!(error, Error::Shape { op: "rms_norm_backward", .. }), "{error}");
}
