//! Every operation of the CPU device, forward and backward, through the device interface.
//!
//! `cargo bench --bench ops [-- FILTER]`. Shapes are those of SmolLM2-135M: `train` is a packed batch of
//! four sequences of 128 rows, `decode` one row with 512 positions in the cache. Frozen weights are bf16
//! in a mapped file. Throughput counts the bytes that must be moved at least, or for products and
//! attention the operations, two a multiply-add. One operation's operands mostly stay in cache between
//! its runs: `cpu_primitives` measures products whose weights come from memory.

#[path = "../tests/common/host.rs"]
#[allow(dead_code)]
mod host;

use std::time::Duration;

use colar_engine::device::cpu::{CpuDevice, CpuTensor};
use colar_engine::device::prelude::*;
use colar_engine::device::{
    AdamW, AdamWTensor, CrossEntropyGrads, Draw, Dropout, Dtype, HeadShape, LatentLoss, LatentWeights, Span,
    TokenChoice, Upstream,
};
use colar_engine::model::rope::{RopeConfig, RopeScaling};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use host::Host;

const HIDDEN: usize = 576;
const INNER: usize = 1536;
const VOCAB: usize = 49_152;
const HEADS: HeadShape = HeadShape { heads: 9, kv_heads: 3, head_dim: 64 };
const SEQUENCES: usize = 4;
const LENGTH: usize = 128;
const EPS: f32 = 1e-5;

/// The two kinds of work: rows of activations, and the name in a benchmark's id.
const WORK: [(&str, usize); 2] = [("train", SEQUENCES * LENGTH), ("decode", 1)];

fn device() -> CpuDevice {
    CpuDevice::new(0).unwrap()
}

fn rows(d: &CpuDevice, rows: usize, cols: usize) -> CpuTensor {
    Host::normal(rows, cols, 1.0, (rows * cols) as u64).up(d)
}

fn weight(d: &CpuDevice, rows: usize, cols: usize) -> CpuTensor {
    Host::normal(rows, cols, 0.02, 7).adopt(d, Dtype::Bf16).0
}

/// Floats in matrices of these shapes, in bytes.
fn floats(shapes: &[(usize, usize)]) -> Throughput {
    Throughput::Bytes(shapes.iter().map(|(r, c)| 4 * (r * c) as u64).sum())
}

fn group<'a>(c: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut g = c.benchmark_group(name);
    g.sample_size(10).sampling_mode(SamplingMode::Flat);
    g.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(600));
    g
}

/// One benchmark: `f` is run inside the device's scope, as everything is.
fn bench(
    g: &mut BenchmarkGroup<'_, WallTime>,
    d: &CpuDevice,
    id: &str,
    work: Throughput,
    mut f: impl FnMut() -> colar_engine::Result<()> + Send,
) {
    g.throughput(work);
    g.bench_function(id, |b| d.scope(|| b.iter(|| f().unwrap())));
}

fn products(c: &mut Criterion) {
    let d = device();
    let mut g = group(c, "product");
    for (name, out, input) in
        [("q_proj", HIDDEN, HIDDEN), ("gate_proj", INNER, HIDDEN), ("down_proj", HIDDEN, INNER)]
    {
        let w = weight(&d, out, input);
        for (work, t) in WORK {
            let operations = Throughput::Elements((2 * t * out * input) as u64);
            let (x, mut y) = (rows(&d, t, input), rows(&d, t, out));
            bench(&mut g, &d, &format!("{name}/forward/{work}"), operations.clone(), || {
                d.matmul_nt(1.0, &x, &w, 0.0, &mut y)
            });
            if work == "decode" {
                continue;
            }
            let (dy, mut dx, mut dw) = (rows(&d, t, out), rows(&d, t, input), rows(&d, out, input));
            bench(&mut g, &d, &format!("{name}/input_gradient/{work}"), operations.clone(), || {
                d.matmul_nn(1.0, &dy, &w, 0.0, &mut dx)
            });
            bench(&mut g, &d, &format!("{name}/weight_gradient/{work}"), operations, || {
                d.matmul_tn(1.0, &dy, &x, 0.0, &mut dw)
            });
        }
    }
    let (t, mut db) = (SEQUENCES * LENGTH, rows(&d, 1, HIDDEN));
    let mut y = rows(&d, t, HIDDEN);
    let bias = rows(&d, 1, HIDDEN);
    let moved = floats(&[(2 * t, HIDDEN)]);
    bench(&mut g, &d, "bias/forward/train", moved, || d.add_bias(&mut y, &bias));
    let dy = rows(&d, t, HIDDEN);
    let moved = floats(&[(t, HIDDEN)]);
    bench(&mut g, &d, "bias/backward/train", moved, || d.add_bias_backward(&dy, &mut db));
}

fn row_moves(c: &mut Criterion) {
    let d = device();
    let mut g = group(c, "rows");
    let table = weight(&d, VOCAB, HIDDEN);
    for (work, t) in WORK {
        // Chunks of two tokens.
        let ids: Vec<u32> = (0..2 * t as u32).map(|i| i * 7919 % VOCAB as u32).collect();
        let offsets: Vec<u32> = (0..=t as u32).map(|r| 2 * r).collect();
        let (ids, offsets) = (d.index(&ids).unwrap(), d.index(&offsets).unwrap());
        let scale = rows(&d, t, 1);
        let mut out = rows(&d, t, HIDDEN);
        // Two rows of bf16 in, one of float32 out.
        let moved = floats(&[(2 * t, HIDDEN)]);
        bench(&mut g, &d, &format!("gather_merge/forward/{work}"), moved.clone(), || {
            d.gather_merge(&table, &ids, &offsets, &scale, &mut out)
        });
        if work == "train" {
            let dout = rows(&d, t, HIDDEN);
            let mut dtable = d.zeros(VOCAB, HIDDEN).unwrap();
            bench(&mut g, &d, "gather_merge/backward/train", floats(&[(5 * t, HIDDEN)]), || {
                d.gather_merge_backward(&dout, &ids, &offsets, &scale, &mut dtable)
            });
        }
        let some = d.index(&(0..t as u32).rev().collect::<Vec<_>>()).unwrap();
        let src = rows(&d, t, HIDDEN);
        bench(&mut g, &d, &format!("gather_rows/{work}"), moved.clone(), || {
            d.gather_rows(1.0, &src, &some, &mut out)
        });
        let mut dst = rows(&d, t, HIDDEN);
        bench(&mut g, &d, &format!("scatter_rows/{work}"), moved, || {
            d.scatter_rows(1.0, &src, &some, &mut dst)
        });
        let thrice = floats(&[(3 * t, HIDDEN)]);
        bench(&mut g, &d, &format!("scatter_add_rows/{work}"), thrice.clone(), || {
            d.scatter_add_rows(1.0, &src, &some, &mut dst)
        });
        bench(&mut g, &d, &format!("add/{work}"), thrice, || d.add(&src, &mut dst));
    }
}

fn norms(c: &mut Criterion) {
    let d = device();
    let mut g = group(c, "norm");
    let (w, b) = (rows(&d, 1, HIDDEN), rows(&d, 1, HIDDEN));
    for (work, t) in WORK {
        let (x, delta, dout) = (rows(&d, t, HIDDEN), rows(&d, t, HIDDEN), rows(&d, t, HIDDEN));
        let (mut sum, mut out, mut dx) = (rows(&d, t, HIDDEN), rows(&d, t, HIDDEN), rows(&d, t, HIDDEN));
        let (mut dw, mut db) = (rows(&d, 1, HIDDEN), rows(&d, 1, HIDDEN));
        let moved = |n: usize| floats(&[(n * t, HIDDEN)]);
        bench(&mut g, &d, &format!("rms_norm/forward/{work}"), moved(2), || {
            d.rms_norm(&x, &w, EPS, &mut out)
        });
        bench(&mut g, &d, &format!("add_rms_norm/forward/{work}"), moved(4), || {
            d.add_rms_norm(&x, &delta, &w, EPS, &mut sum, &mut out)
        });
        bench(&mut g, &d, &format!("layer_norm/forward/{work}"), moved(2), || {
            d.layer_norm(&x, &w, &b, &mut out)
        });
        if work == "decode" {
            continue;
        }
        bench(&mut g, &d, "rms_norm/backward/train", moved(4), || {
            d.rms_norm_backward(&dout, &x, &w, EPS, &mut dx, None)
        });
        bench(&mut g, &d, "rms_norm/backward_with_weight/train", moved(4), || {
            d.rms_norm_backward(&dout, &x, &w, EPS, &mut dx, Some(&mut dw))
        });
        bench(&mut g, &d, "layer_norm/backward/train", moved(3), || {
            d.layer_norm_backward(&dout, &x, &w, &mut dx, Some((&mut dw, &mut db)))
        });
    }
}

fn attention(c: &mut Criterion) {
    let d = device();
    let mut g = group(c, "attention");
    let (qw, kw) = (HEADS.q_width(), HEADS.kv_width());
    let frequencies = RopeConfig { theta: 100_000.0, scaling: RopeScaling::None }.inv_freq(HEADS.head_dim);
    let inv_freq = d.upload(1, frequencies.len(), &frequencies).unwrap();
    for (work, t) in WORK {
        let positions: Vec<u32> = (0..t as u32).map(|r| r % LENGTH as u32).collect();
        let positions = d.index(&positions).unwrap();
        let mut q = rows(&d, t, qw);
        bench(&mut g, &d, &format!("rotary/{work}"), floats(&[(2 * t, qw)]), || {
            d.rotary(&mut q, &positions, &inv_freq, 1.0)
        });
    }
    let t = SEQUENCES * LENGTH;
    let spans: Vec<Span> = (0..SEQUENCES)
        .map(|i| Span { q_start: i * LENGTH, q_len: LENGTH, k_start: i * LENGTH, k_len: LENGTH })
        .collect();
    let (q, k, v, dout) = (rows(&d, t, qw), rows(&d, t, kw), rows(&d, t, kw), rows(&d, t, qw));
    let (mut out, mut lse) = (rows(&d, t, qw), rows(&d, t, HEADS.heads));
    // Half of all pairs are seen; scores and sums take 2·head_dim operations each.
    let pairs = SEQUENCES * LENGTH * (LENGTH + 1) / 2;
    let operations = |products: usize| Throughput::Elements((2 * products * pairs * qw) as u64);
    bench(&mut g, &d, "forward/train", operations(2), || {
        d.attention(HEADS, &spans, &q, &k, &v, &mut out, Some(&mut lse))
    });
    let (mut dq, mut dk, mut dv) = (rows(&d, t, qw), rows(&d, t, kw), rows(&d, t, kw));
    bench(&mut g, &d, "backward/train", operations(5), || {
        d.attention_backward(HEADS, &spans, &q, &k, &v, &out, &lse, &dout, &mut dq, &mut dk, &mut dv)
    });
    let one = [Span { q_start: 0, q_len: 1, k_start: 0, k_len: t }];
    let (q, mut out) = (rows(&d, 1, qw), rows(&d, 1, qw));
    bench(&mut g, &d, "forward/decode", floats(&[(2 * t, kw)]), || {
        d.attention(HEADS, &one, &q, &k, &v, &mut out, None)
    });
}

fn activations(c: &mut Criterion) {
    let d = device();
    let mut g = group(c, "activation");
    for (work, t) in WORK {
        let (x, dout) = (rows(&d, t, INNER), rows(&d, t, INNER));
        let (mut gate, mut up, mut out) = (rows(&d, t, INNER), rows(&d, t, INNER), rows(&d, t, INNER));
        let moved = |n: usize| floats(&[(n * t, INNER)]);
        bench(&mut g, &d, &format!("swiglu/forward/{work}"), moved(3), || d.swiglu(&x, &dout, &mut out));
        bench(&mut g, &d, &format!("gelu/forward/{work}"), moved(2), || d.gelu(&x, &mut out));
        if work == "decode" {
            continue;
        }
        bench(&mut g, &d, "gelu/backward/train", moved(3), || d.gelu_backward(&dout, &x, &mut out));
        let dropout = Dropout { p: 0.1, key: 0, counter: [0, 1, 0x100] };
        bench(&mut g, &d, "dropout/train", moved(2), || d.dropout(dropout, &x, 0.0, &mut out));
        // In place: the inputs are written anew each time, as the gradients of gradients run away.
        bench(&mut g, &d, "swiglu/backward_and_copies/train", moved(9), || {
            d.clear(&mut gate)?;
            d.add(&x, &mut gate)?;
            d.clear(&mut up)?;
            d.add(&x, &mut up)?;
            d.swiglu_backward(&dout, &mut gate, &mut up)
        });
    }
}

fn latents(c: &mut Criterion) {
    let d = device();
    let mut g = group(c, "latent");
    for (work, t) in WORK {
        // A third of a batch's rows are latents.
        let n = t.div_ceil(3);
        let draws: Vec<Draw> = (0..n as u32).map(|i| Draw { key: 1, counter: [0, i] }).collect();
        let (mu, ls, target) = (rows(&d, n, HIDDEN), rows(&d, n, HIDDEN), rows(&d, n, HIDDEN));
        let (mut eps, mut z) = (rows(&d, n, HIDDEN), rows(&d, n, HIDDEN));
        bench(&mut g, &d, &format!("normal/{work}"), Throughput::Elements((n * HIDDEN) as u64), || {
            d.normal(&draws, &mut eps)
        });
        bench(&mut g, &d, &format!("reparameterise/{work}"), floats(&[(4 * n, HIDDEN)]), || {
            d.reparameterise(&mu, Some(&ls), &eps, 1.0, &mut z)
        });
        if work == "decode" {
            continue;
        }
        let (mut dmu, mut dls, mut per_row) = (rows(&d, n, HIDDEN), rows(&d, n, HIDDEN), rows(&d, n, 3));
        bench(&mut g, &d, "reparameterise/backward/train", floats(&[(7 * n, HIDDEN)]), || {
            d.reparameterise_backward(&z, Some(&ls), &eps, &mut dmu, Some(&mut dls))
        });
        for loss in [LatentLoss::Nll, LatentLoss::Mse, LatentLoss::MseExpected] {
            let weights = LatentWeights { loss, loss_scale: 1e-3, entropy_scale: -1e-6 };
            let id = format!("loss/{loss:?}/train");
            bench(&mut g, &d, &id, floats(&[(6 * n, HIDDEN)]), || {
                let grads = Some((&mut dmu, Some(&mut dls)));
                d.latent_loss(weights, &mu, Some(&ls), Some(&eps), &target, &mut per_row, grads)
            });
        }
    }
}

fn output_head(c: &mut Criterion) {
    let d = device();
    let mut g = group(c, "output");
    let w = weight(&d, VOCAB, HIDDEN);
    // Fewer rows than `train` has: with the gradient of the matrix, one run takes a second.
    let n = 128;
    let h = rows(&d, n, HIDDEN);
    let ids = d.index(&(0..n as u32).map(|i| i * 379).collect::<Vec<_>>()).unwrap();
    let offsets = d.index(&(0..=n as u32).collect::<Vec<_>>()).unwrap();
    let (mut loss, row_scale) = (rows(&d, n, 1), rows(&d, n, 1));
    let product = 2 * n * VOCAB * HIDDEN;
    bench(&mut g, &d, "cross_entropy/forward/train", Throughput::Elements(product as u64), || {
        d.cross_entropy(&h, &w, &ids, &offsets, &mut loss, None)
    });
    let (mut dh, mut dw) = (rows(&d, n, HIDDEN), d.zeros(VOCAB, HIDDEN).unwrap());
    bench(&mut g, &d, "cross_entropy/backward/train", Throughput::Elements(2 * product as u64), || {
        let grads = CrossEntropyGrads { upstream: Upstream::Scale(&row_scale), dh: &mut dh, dw: None };
        d.cross_entropy(&h, &w, &ids, &offsets, &mut loss, Some(grads))
    });
    let both = Throughput::Elements(3 * product as u64);
    bench(&mut g, &d, "cross_entropy/backward_with_weight/train", both, || {
        let grads =
            CrossEntropyGrads { upstream: Upstream::Scale(&row_scale), dh: &mut dh, dw: Some(&mut dw) };
        d.cross_entropy(&h, &w, &ids, &offsets, &mut loss, Some(grads))
    });
    let one = rows(&d, 1, HIDDEN);
    let head = Throughput::Bytes((2 * VOCAB * HIDDEN) as u64);
    for (name, temperature, top_p) in [("greedy", 0.0, 1.0), ("sampled", 1.0, 1.0), ("top_p", 1.0, 0.9)] {
        let choice = TokenChoice { temperature, top_p, draw: Draw { key: 3, counter: [0, 0] } };
        bench(&mut g, &d, &format!("choose_tokens/{name}/decode"), head.clone(), || {
            d.choose_tokens(&one, &w, &[choice], None).map(drop)
        });
    }
    // A likely token's scan sees the whole vocabulary, an unlikely one's ends early.
    for (name, bias) in [("likely", 60.0), ("unlikely", 0.0)] {
        let choice = TokenChoice { temperature: 1.0, top_p: 1.0, draw: Draw { key: 3, counter: [0, 0] } };
        bench(&mut g, &d, &format!("token_event/{name}/decode"), head.clone(), || {
            d.token_event(&one, &w, 42, &[choice], bias).map(drop)
        });
    }
}

fn optimizer(c: &mut Criterion) {
    let d = device();
    let mut g = group(c, "optimizer");
    // As many weights as adapters of rank 128 on q and v of thirty layers.
    let shape = (30 * (128 * (2 * HIDDEN + HIDDEN + 192)) / HIDDEN, HIDDEN);
    let (mut value, grad) = (rows(&d, shape.0, shape.1), rows(&d, shape.0, shape.1));
    let (mut m, mut v) = (d.zeros(shape.0, shape.1).unwrap(), d.zeros(shape.0, shape.1).unwrap());
    let hyper = AdamW::new(1e-5, 0.01, 1);
    bench(&mut g, &d, "adamw", floats(&[(7 * shape.0, shape.1)]), || {
        let (value, m, v) = (&mut value, &mut m, &mut v);
        d.adamw(&hyper, &mut [AdamWTensor { value, grad: &grad, m, v }])
    });
    bench(&mut g, &d, "sum_squares", floats(&[shape]), || d.sum_squares(&[&grad]).map(drop));
}

criterion_group!(
    benches,
    products,
    row_moves,
    norms,
    attention,
    activations,
    latents,
    output_head,
    optimizer
);
criterion_main!(benches);
