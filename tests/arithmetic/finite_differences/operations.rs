//! Operations of the decoder: merge, rotary embedding, norms, attention, activations.

use colar_engine::device::prelude::*;
use colar_engine::device::{HeadShape, Span};
use colar_engine::model::rope::{RopeConfig, RopeScaling};

use super::common::float64::{Float64, Float64Tensor};
use super::common::gradient::{check_inputs, weighted};
use super::common::host::{Host, poisoned, read};
use super::cpu;

#[test]
fn gather_merge() {
    merge(&cpu());
}

fn merge<D: Device>(d: &D) {
    // Chunks of one, of several and of the same token twice; one token occurs in many.
    let (ids, offsets) = ([3u32, 1, 3, 0, 3, 3, 2, 6], [0u32, 1, 3, 6, 8]);
    let table = Host::normal(7, 13, 1.0, 1);
    let scale = Host::new(4, 1, vec![1.0, 0.707, 0.577, 0.5]);
    let weights = Host::normal(4, 13, 1.0, 2);
    let mut dtable = d.zeros(7, 13).unwrap();
    let index = |ids: &[u32]| d.index(ids).unwrap();
    d.gather_merge_backward(&weights.up(d), &index(&ids), &index(&offsets), &scale.up(d), &mut dtable)
        .unwrap();
    let wide = Float64::default();
    check_inputs("gather_merge", &[table], &[read(d, &dtable)], |x| {
        let mut out = Float64Tensor::poisoned(4, 13);
        wide.gather_merge(&x[0], &ids.to_vec(), &offsets.to_vec(), &scale.up(&wide), &mut out).unwrap();
        weighted(&weights, &out)
    });
}

#[test]
fn rotary_default() {
    rotary(&cpu(), RopeScaling::None);
}

#[test]
fn rotary_llama3() {
    let scaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 64.0,
    };
    rotary(&cpu(), scaling);
}

/// The objective is a weighted sum of products of rotated queries and keys, as attention forms them.
fn rotary<D: Device>(d: &D, scaling: RopeScaling) {
    let (rows, head_dim, heads) = (5, 16, 2);
    let cols = heads * head_dim;
    let frequencies = RopeConfig { theta: 10_000.0, scaling }.inv_freq(head_dim);
    let frequencies = Host::new(1, frequencies.len(), frequencies);
    let positions = [[0, 1, 2, 40, 1000], [7, 3, 0, 41, 999]];
    let inputs = [Host::normal(rows, cols, 1.0, 3), Host::normal(rows, cols, 1.0, 4)];
    let pairs = Host::normal(rows, rows, 1.0, 5);
    let turn = |x: &Host, which: usize, direction: f32| {
        let mut t = x.up(d);
        d.rotary(&mut t, &d.index(&positions[which]).unwrap(), &frequencies.up(d), direction).unwrap();
        Host::new(rows, cols, read(d, &t))
    };
    // The gradient at a rotated query is the weighted sum of the rotated keys, and the other way round.
    let mut gradients = Vec::new();
    for which in 0..2 {
        let other = turn(&inputs[1 - which], 1 - which, 1.0);
        let weight = |i: usize, j: usize| if which == 0 { pairs.at(i, j) } else { pairs.at(j, i) };
        let at_rotated: Vec<f32> = (0..rows * cols)
            .map(|e| (0..rows).map(|j| weight(e / cols, j) * other.at(j, e % cols)).sum::<f64>() as f32)
            .collect();
        gradients.push(turn(&Host::new(rows, cols, at_rotated), which, -1.0).values);
    }
    let wide = Float64::default();
    check_inputs("rotary", &inputs, &gradients, |x| {
        let [mut q, mut k] = [x[0].clone(), x[1].clone()];
        for (t, positions) in [&mut q, &mut k].into_iter().zip(&positions) {
            wide.rotary(t, &positions.to_vec(), &frequencies.up(&wide), 1.0).unwrap();
        }
        // products[i, j] = ⟨q[i], k[j]⟩
        let mut products = Float64Tensor::poisoned(rows, rows);
        wide.matmul_nt(1.0, &q, &k, 0.0, &mut products).unwrap();
        weighted(&pairs, &products)
    });
}

#[test]
fn rms_norm() {
    for (rows, cols) in [(1, 1), (3, 17), (9, 64)] {
        rms_norm_of(&cpu(), rows, cols, cols);
    }
}

/// As of the queries and keys of a block whose heads are normalised.
#[test]
fn rms_norm_of_heads() {
    for (rows, heads, dim) in [(1, 2, 1), (3, 5, 6), (4, 3, 16)] {
        rms_norm_of(&cpu(), rows, heads * dim, dim);
    }
}

/// Of every `size` columns.
fn rms_norm_of<D: Device>(d: &D, rows: usize, cols: usize, size: usize) {
    // A large eps, so that its place in the formula matters.
    let eps = 0.1;
    let inputs = [Host::normal(rows, cols, 1.0, 6), Host::normal(1, size, 1.0, 7)];
    let weights = Host::normal(rows, cols, 1.0, 8);
    let (mut dx, mut dw) = (d.zeros(rows, cols).unwrap(), d.zeros(1, size).unwrap());
    let [x, w] = [inputs[0].up(d), inputs[1].up(d)];
    d.rms_norm_backward(&weights.up(d), &x, &w, eps, &mut dx, Some(&mut dw)).unwrap();
    let wide = Float64::default();
    check_inputs("rms_norm", &inputs, &[read(d, &dx), read(d, &dw)], |x| {
        let mut out = Float64Tensor::poisoned(rows, cols);
        wide.rms_norm(&x[0], &x[1], eps, &mut out).unwrap();
        weighted(&weights, &out)
    });
}

#[test]
fn layer_norm() {
    for (rows, cols) in [(3, 17), (9, 64)] {
        layer_norm_of(&cpu(), rows, cols);
    }
}

fn layer_norm_of<D: Device>(d: &D, rows: usize, cols: usize) {
    let inputs =
        [Host::normal(rows, cols, 1.0, 9), Host::normal(1, cols, 1.0, 10), Host::normal(1, cols, 1.0, 11)];
    let weights = Host::normal(rows, cols, 1.0, 12);
    let mut dx = poisoned(d, rows, cols);
    let (mut dw, mut db) = (d.zeros(1, cols).unwrap(), d.zeros(1, cols).unwrap());
    let [x, w] = [inputs[0].up(d), inputs[1].up(d)];
    d.layer_norm_backward(&weights.up(d), &x, &w, &mut dx, Some((&mut dw, &mut db))).unwrap();
    let gradients = [read(d, &dx), read(d, &dw), read(d, &db)];
    let wide = Float64::default();
    check_inputs("layer_norm", &inputs, &gradients, |x| {
        let mut out = Float64Tensor::poisoned(rows, cols);
        wide.layer_norm(&x[0], &x[1], &x[2], &mut out).unwrap();
        weighted(&weights, &out)
    });
}

#[test]
fn attention() {
    let d = cpu();
    for (heads, kv_heads) in [(1, 1), (4, 2), (6, 1), (9, 3)] {
        for lens in [&[1][..], &[17], &[33], &[1, 17, 2, 33]] {
            attention_of(&d, HeadShape { heads, kv_heads, head_dim: 12 }, lens);
        }
    }
    // Two blocks of keys and more, the shapes of real heads.
    attention_of(&d, HeadShape { heads: 3, kv_heads: 1, head_dim: 64 }, &[131, 70]);
}

fn attention_of<D: Device>(d: &D, shape: HeadShape, lens: &[usize]) {
    let mut spans = Vec::new();
    let mut rows = 0;
    for &len in lens {
        spans.push(Span { q_start: rows, q_len: len, k_start: rows, k_len: len });
        rows += len;
    }
    let (qw, kw) = (shape.q_width(), shape.kv_width());
    let inputs =
        [Host::normal(rows, qw, 1.0, 13), Host::normal(rows, kw, 1.0, 14), Host::normal(rows, kw, 1.0, 15)];
    let weights = Host::normal(rows, qw, 1.0, 16);
    let [q, k, v] = [&inputs[0], &inputs[1], &inputs[2]].map(|x| x.up(d));
    let (mut out, mut lse) = (poisoned(d, rows, qw), poisoned(d, rows, shape.heads));
    d.attention(shape, &spans, &q, &k, &v, &mut out, Some(&mut lse)).unwrap();
    let (mut dq, mut dk, mut dv) = (poisoned(d, rows, qw), poisoned(d, rows, kw), poisoned(d, rows, kw));
    d.attention_backward(shape, &spans, &q, &k, &v, &out, &lse, &weights.up(d), &mut dq, &mut dk, &mut dv)
        .unwrap();
    let gradients = [read(d, &dq), read(d, &dk), read(d, &dv)];
    let what = format!("attention {shape:?} over {lens:?}");
    let wide = Float64::default();
    let objective = |[q, k, v]: [&Float64Tensor; 3]| {
        let mut out = Float64Tensor::poisoned(rows, qw);
        wide.attention(shape, &spans, q, k, v, &mut out, None).unwrap();
        weighted(&weights, &out)
    };
    if rows == lens.len() {
        // A lone position attends to itself whatever its query and key are.
        for g in &gradients[..2] {
            assert!(g.iter().all(|g| g.abs() < 1e-6), "{what}: {g:?}");
        }
        let [q, k] = [&inputs[0], &inputs[1]].map(Float64Tensor::from);
        check_inputs(&what, &inputs[2..], &gradients[2..], |x| objective([&q, &k, &x[0]]));
    } else {
        check_inputs(&what, &inputs, &gradients, |x| objective([&x[0], &x[1], &x[2]]));
    }
}

#[test]
fn swiglu() {
    swiglu_of(&cpu());
}

fn swiglu_of<D: Device>(d: &D) {
    let (rows, cols) = (5, 37);
    let inputs = [Host::normal(rows, cols, 2.0, 17), Host::normal(rows, cols, 1.0, 18)];
    let weights = Host::normal(rows, cols, 1.0, 19);
    let [mut gate, mut up] = [inputs[0].up(d), inputs[1].up(d)];
    d.swiglu_backward(&weights.up(d), &mut gate, &mut up).unwrap();
    let wide = Float64::default();
    check_inputs("swiglu", &inputs, &[read(d, &gate), read(d, &up)], |x| {
        let mut out = Float64Tensor::poisoned(rows, cols);
        wide.swiglu(&x[0], &x[1], &mut out).unwrap();
        weighted(&weights, &out)
    });
}

#[test]
fn gelu() {
    gelu_of(&cpu());
}

fn gelu_of<D: Device>(d: &D) {
    let (rows, cols) = (5, 37);
    let x = Host::normal(rows, cols, 2.0, 20);
    let weights = Host::normal(rows, cols, 1.0, 21);
    let mut dx = poisoned(d, rows, cols);
    d.gelu_backward(&weights.up(d), &x.up(d), &mut dx).unwrap();
    let wide = Float64::default();
    check_inputs("gelu", &[x], &[read(d, &dx)], |x| {
        let mut out = Float64Tensor::poisoned(rows, cols);
        wide.gelu(&x[0], &mut out).unwrap();
        weighted(&weights, &out)
    });
}
