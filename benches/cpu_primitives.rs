//! Speed of the CPU device's primitives beside the machine's ceilings.
//!
//! `cargo bench --bench cpu_primitives [-- FILTER]`. Weights are read round robin from more memory than caches
//! hold, as decoding does; activations stay in cache, as they do there too. Products count two operations a
//! multiply-add. `COLAR_THREADS` sets the number of threads (one per core without it).

use std::hint::black_box;
use std::time::Duration;

use colar_engine::device::cpu::attention::{
    Columns, ColumnsMut, HeadShape, Span, attention, attention_backward,
};
use colar_engine::device::cpu::mat::Mat;
use colar_engine::device::cpu::matmul::{matmul_nn, matmul_nt, matmul_tn};
use colar_engine::device::cpu::{math, par, simd};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;

/// Weights to stream through: more than the last-level cache of most machines.
const STREAM: usize = 400 << 20;

/// Rows and columns of SmolLM2-135M's matrices.
const SHAPES: [(usize, usize); 5] = [(576, 576), (192, 576), (1536, 576), (576, 1536), (49152, 576)];

fn numbers(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i % 61) as f32 / 61.0 - 0.5).collect()
}

fn weights(len: usize) -> Vec<bf16> {
    (0..len).map(|i| bf16::from_f32((i % 61) as f32 / 610.0 - 0.05)).collect()
}

/// The ceilings: reading memory, multiply-adds in registers, and a loop with nothing in it.
fn ceilings(c: &mut Criterion) {
    let mut group = c.benchmark_group("ceiling");
    let data = vec![1u64; STREAM / 8];
    group.throughput(Throughput::Bytes(STREAM as u64));
    group.bench_function("read", |b| {
        b.iter(|| {
            par::sum_blocks(data.len(), 1 << 16, |range| {
                let block = &data[range];
                simd::dispatch(
                    #[inline(always)]
                    || block.iter().fold(0u64, |sum, x| sum.wrapping_add(*x)) as f64,
                )
            })
        });
    });
    const STEPS: u64 = 10_000;
    const LANES: usize = 16;
    const CHAINS: usize = 12;
    let tasks = 8 * par::threads();
    group.throughput(Throughput::Elements(2 * STEPS * (LANES * CHAINS * tasks) as u64));
    group.bench_function("multiply_add", |b| {
        b.iter(|| {
            par::for_tasks(tasks, |_| {
                struct Chains;
                impl pulp::WithSimd for Chains {
                    type Output = f32;
                    #[inline(always)]
                    fn with_simd<S: pulp::Simd>(self, simd: S) -> f32 {
                        let x = black_box(simd.splat_f32s(0.5));
                        let per_step = LANES / S::F32_LANES.min(LANES);
                        let mut sums = [simd.splat_f32s(0.0); CHAINS];
                        for _ in 0..STEPS as usize * per_step {
                            for sum in &mut sums {
                                *sum = simd.mul_add_e_f32s(*sum, x, x);
                            }
                        }
                        let mut all = sums[0];
                        for sum in &sums[1..] {
                            all = simd.add_f32s(all, *sum);
                        }
                        simd.reduce_sum_f32s(all)
                    }
                }
                black_box(simd::dispatch(Chains));
            });
        });
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("empty_loop", |b| {
        b.iter(|| {
            par::for_blocks(1 << 20, 1, |range| {
                black_box(range);
            });
        });
    });
}

/// Products with one or a few rows: each weight once from memory.
fn few_rows(c: &mut Criterion) {
    let mut group = c.benchmark_group("few_rows");
    let data = weights(STREAM / 2);
    let mut next = 0;
    let mut product = |m: usize, (n, k): (usize, usize), x: &[f32], y: &mut [f32]| {
        if next + n * k > data.len() {
            next = 0;
        }
        let w = &data[next..next + n * k];
        next += n * k;
        matmul_nt(m, n, k, 1.0, &x[..m * k], Mat::Bf16(w), 0.0, &mut y[..m * n]);
    };
    let (x, mut y) = (numbers(32 * 1536), vec![0.0; 32 * 49152]);
    for (n, k) in SHAPES {
        group.throughput(Throughput::Bytes((2 * n * k) as u64));
        group.bench_function(format!("1x{n}x{k}"), |b| b.iter(|| product(1, (n, k), &x, &mut y)));
    }
    let [square, narrow, up, down, head] = SHAPES;
    let layer = [square, narrow, narrow, square, up, up, down];
    let bytes = 2 * (30 * layer.iter().map(|(n, k)| n * k).sum::<usize>() + head.0 * head.1);
    for m in [1, 2, 4, 8, 16, 32] {
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(format!("all_of_a_step_{m}_rows"), |b| {
            b.iter(|| {
                for shape in std::iter::repeat_n(layer, 30).flatten() {
                    product(m, shape, &x, &mut y);
                }
                product(m, head, &x, &mut y);
            });
        });
    }
}

/// Products with many rows: forward, and both backwards.
fn many_rows(c: &mut Criterion) {
    let mut group = c.benchmark_group("many_rows");
    let shapes = [
        (1200, 1536, 576),
        (1200, 576, 1536),
        (1200, 576, 576),
        (1200, 128, 576),
        (40, 576, 576),
        (2560, 384, 128),
    ];
    for (m, n, k) in shapes {
        let (x, dy, w) = (numbers(m * k), numbers(m * n), weights(n * k));
        let wide: Vec<f32> = w.iter().map(|w| w.to_f32()).collect();
        let (mut y, mut dx, mut dw) = (vec![0.0; m * n], vec![0.0; m * k], vec![0.0; n * k]);
        group.throughput(Throughput::Elements(2 * (m * n * k) as u64));
        for (dtype, w) in [("bf16", Mat::Bf16(&w)), ("f32", Mat::F32(&wide))] {
            group.bench_function(format!("nt_{dtype}_{m}x{n}x{k}"), |b| {
                b.iter(|| matmul_nt(m, n, k, 1.0, &x, w, 0.0, &mut y));
            });
            group.bench_function(format!("nn_{dtype}_{m}x{n}x{k}"), |b| {
                b.iter(|| matmul_nn(m, n, k, 1.0, &dy, w, 0.0, &mut dx));
            });
        }
        group.bench_function(format!("tn_{m}x{n}x{k}"), |b| {
            b.iter(|| matmul_tn(m, n, k, 1.0, &dy, &x, 0.0, &mut dw));
        });
    }
}

/// Attention of the embedded default model, of SmolLM2-135M in training, and in decoding.
fn attentions(c: &mut Criterion) {
    let mut group = c.benchmark_group("attention");
    let small = HeadShape { heads: 4, kv_heads: 4, head_dim: 32 };
    let smol = HeadShape { heads: 9, kv_heads: 3, head_dim: 64 };
    let cases = [
        ("64_of_40", small, 64, 40, 40),
        ("8_of_150", smol, 8, 150, 150),
        ("1_of_2000", smol, 1, 2000, 2000),
        ("decode_1_of_200", smol, 1, 1, 200),
        ("decode_16_of_200", smol, 16, 1, 200),
        ("decode_1_of_4000", smol, 1, 1, 4000),
    ];
    for (name, shape, spans, q_len, k_len) in cases {
        let spans: Vec<Span> =
            (0..spans).map(|i| Span { q_start: i * q_len, q_len, k_start: i * k_len, k_len }).collect();
        let (rows, keys) = (spans.len() * q_len, spans.len() * k_len);
        let (width, kv_width) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        let (q, k, v) = (numbers(rows * width), numbers(keys * kv_width), numbers(keys * kv_width));
        let (mut out, mut lse) = (vec![0.0; q.len()], vec![0.0; rows * shape.heads]);
        let scale = 1.0 / (shape.head_dim as f32).sqrt();
        let (columns, kv_columns) = (|x| Columns::new(x, width), |x| Columns::new(x, kv_width));
        // Two products forward and five backward, of the pairs at or below the diagonal.
        let pairs: usize = spans.iter().map(|_| (0..q_len).map(|i| k_len - i).sum::<usize>()).sum();
        let product = 2 * (pairs * width) as u64;
        match q_len {
            1 => group.throughput(Throughput::Bytes(8 * k.len() as u64)),
            _ => group.throughput(Throughput::Elements(2 * product)),
        };
        group.bench_function(format!("forward_{name}"), |b| {
            b.iter(|| {
                let (q, k, v) = (columns(&q), kv_columns(&k), kv_columns(&v));
                attention(shape, scale, &spans, q, k, v, ColumnsMut::new(&mut out, width), Some(&mut lse));
            });
        });
        if q_len > 1 {
            let (mut dq, mut dk, mut dv) = (q.clone(), k.clone(), v.clone());
            group.throughput(Throughput::Elements(5 * product));
            group.bench_function(format!("backward_{name}"), |b| {
                b.iter(|| {
                    attention_backward(
                        shape,
                        scale,
                        &spans,
                        columns(&q),
                        kv_columns(&k),
                        kv_columns(&v),
                        columns(&out),
                        &lse,
                        columns(&q),
                        ColumnsMut::new(&mut dq, width),
                        ColumnsMut::new(&mut dk, kv_width),
                        ColumnsMut::new(&mut dv, kv_width),
                    );
                });
            });
        }
    }
}

/// Functions over slices, on one thread.
fn functions(c: &mut Criterion) {
    let mut group = c.benchmark_group("functions");
    let (x, y) = (numbers(49152), numbers(49152));
    let (mut out, mut out2) = (x.clone(), x.clone());
    group.throughput(Throughput::Elements(x.len() as u64));
    group.bench_function("exp", |b| b.iter(|| math::exp(&x, 0.1, 1.0, &mut out)));
    group.bench_function("log_sum_exp", |b| b.iter(|| math::log_sum_exp(&x)));
    group.bench_function("dot", |b| b.iter(|| math::dot(&x, &y)));
    group.bench_function("swiglu", |b| b.iter(|| math::swiglu(&x, &y, &mut out)));
    group.bench_function("swiglu_backward", |b| {
        b.iter(|| math::swiglu_backward(&x, &y, &x, &mut out, &mut out2));
    });
}

fn all(c: &mut Criterion) {
    let threads = std::env::var("COLAR_THREADS").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    let pool = par::Pool::new(threads).expect("threads to measure with");
    pool.install(|| {
        ceilings(c);
        few_rows(c);
        many_rows(c);
        attentions(c);
        functions(c);
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800));
    targets = all
}
criterion_main!(benches);
