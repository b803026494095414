//! Operations of the decoder: merge, rotary embedding, norms, attention, activations.

use colar_engine::device::{Device, HeadShape, Span};
use colar_engine::model::rope::{RopeConfig, RopeScaling};

use super::common::gradient::{check, weighted};
use super::common::host::{Host, poisoned, read};
use super::{STEP, TOLERANCE, cpu};

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
    let (ids, offsets) = (d.index(&ids).unwrap(), d.index(&offsets).unwrap());
    let mut dtable = d.zeros(7, 13).unwrap();
    d.gather_merge_backward(&weights.up(d), &ids, &offsets, &scale.up(d), &mut dtable).unwrap();
    check("gather_merge", &[table], &[read(d, &dtable)], STEP, TOLERANCE, |x| {
        let mut out = poisoned(d, 4, 13);
        d.gather_merge(&x[0].up(d), &ids, &offsets, &scale.up(d), &mut out).unwrap();
        weighted(&weights, &read(d, &out))
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
    let inv_freq = d.upload(1, frequencies.len(), &frequencies).unwrap();
    let positions = [d.index(&[0, 1, 2, 40, 1000]).unwrap(), d.index(&[7, 3, 0, 41, 999]).unwrap()];
    let inputs = [Host::normal(rows, cols, 1.0, 3), Host::normal(rows, cols, 1.0, 4)];
    let pairs = Host::normal(rows, rows, 1.0, 5);
    let turn = |x: &Host, which: usize, direction: f32| {
        let mut t = x.up(d);
        d.rotary(&mut t, &positions[which], &inv_freq, direction).unwrap();
        Host::new(rows, cols, read(d, &t))
    };
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let objective = |x: &[Host]| {
        let (q, k) = (turn(&x[0], 0, 1.0), turn(&x[1], 1, 1.0));
        let pair = |i: usize| (i / rows, i % rows);
        (0..rows * rows)
            .map(|i| pairs.at(pair(i).0, pair(i).1) * product(&q.row(pair(i).0), &k.row(pair(i).1)))
            .sum()
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
    check("rotary", &inputs, &gradients, STEP, TOLERANCE, objective);
}

#[test]
fn rms_norm() {
    for (rows, cols) in [(1, 1), (3, 17), (9, 64)] {
        rms_norm_of(&cpu(), rows, cols);
    }
}

fn rms_norm_of<D: Device>(d: &D, rows: usize, cols: usize) {
    // A large eps, so that its place in the formula matters.
    let eps = 0.1;
    let inputs = [Host::normal(rows, cols, 1.0, 6), Host::normal(1, cols, 1.0, 7)];
    let weights = Host::normal(rows, cols, 1.0, 8);
    let (mut dx, mut dw) = (d.zeros(rows, cols).unwrap(), d.zeros(1, cols).unwrap());
    let [x, w] = [inputs[0].up(d), inputs[1].up(d)];
    d.rms_norm_backward(&weights.up(d), &x, &w, eps, &mut dx, Some(&mut dw)).unwrap();
    check("rms_norm", &inputs, &[read(d, &dx), read(d, &dw)], STEP, TOLERANCE, |x| {
        let mut out = poisoned(d, rows, cols);
        d.rms_norm(&x[0].up(d), &x[1].up(d), eps, &mut out).unwrap();
        weighted(&weights, &read(d, &out))
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
    check("layer_norm", &inputs, &gradients, STEP, TOLERANCE, |x| {
        let mut out = poisoned(d, rows, cols);
        d.layer_norm(&x[0].up(d), &x[1].up(d), &x[2].up(d), &mut out).unwrap();
        weighted(&weights, &read(d, &out))
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
    let forward = |x: &[Host]| {
        let mut out = poisoned(d, rows, qw);
        let mut lse = poisoned(d, rows, shape.heads);
        let (q, k, v) = (x[0].up(d), x[1].up(d), x[2].up(d));
        d.attention(shape, &spans, &q, &k, &v, &mut out, Some(&mut lse)).unwrap();
        (out, lse)
    };
    let (out, lse) = forward(&inputs);
    let (mut dq, mut dk, mut dv) = (poisoned(d, rows, qw), poisoned(d, rows, kw), poisoned(d, rows, kw));
    let [q, k, v] = [&inputs[0], &inputs[1], &inputs[2]].map(|x| x.up(d));
    d.attention_backward(shape, &spans, &q, &k, &v, &out, &lse, &weights.up(d), &mut dq, &mut dk, &mut dv)
        .unwrap();
    let gradients = [read(d, &dq), read(d, &dk), read(d, &dv)];
    let what = format!("attention {shape:?} over {lens:?}");
    if rows == lens.len() {
        // A lone position attends to itself whatever its query and key are.
        for g in &gradients[..2] {
            assert!(g.iter().all(|g| g.abs() < 1e-6), "{what}: {g:?}");
        }
        check(&what, &inputs[2..], &gradients[2..], STEP, TOLERANCE, |x| {
            weighted(&weights, &read(d, &forward(&[inputs[0].clone(), inputs[1].clone(), x[0].clone()]).0))
        });
    } else {
        check(&what, &inputs, &gradients, STEP, TOLERANCE, |x| weighted(&weights, &read(d, &forward(x).0)));
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
    check("swiglu", &inputs, &[read(d, &gate), read(d, &up)], STEP, TOLERANCE, |x| {
        let mut out = poisoned(d, rows, cols);
        d.swiglu(&x[0].up(d), &x[1].up(d), &mut out).unwrap();
        weighted(&weights, &read(d, &out))
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
    check("gelu", &[x], &[read(d, &dx)], STEP, TOLERANCE, |x| {
        let mut out = poisoned(d, rows, cols);
        d.gelu(&x[0].up(d), &mut out).unwrap();
        weighted(&weights, &read(d, &out))
    });
}
