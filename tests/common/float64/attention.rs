//! Causal grouped-query attention.

use colar_engine::Result;
use colar_engine::device::prelude::*;
use colar_engine::device::{HeadShape, Span};

use super::{Float64, Float64Tensor, forward_only, refused};

impl AttentionOps for Float64 {
    fn attention(
        &self,
        shape: HeadShape,
        spans: &[Span],
        q: &Float64Tensor,
        k: &Float64Tensor,
        v: &Float64Tensor,
        out: &mut Float64Tensor,
        lse: Option<&mut Float64Tensor>,
    ) -> Result<()> {
        forward_only("attention", lse)?;
        attention(shape, spans, [q, k, v], out);
        Ok(())
    }

    fn attention_backward(
        &self,
        _: HeadShape,
        _: &[Span],
        _: &Float64Tensor,
        _: &Float64Tensor,
        _: &Float64Tensor,
        _: &Float64Tensor,
        _: &Float64Tensor,
        _: &Float64Tensor,
        _: &mut Float64Tensor,
        _: &mut Float64Tensor,
        _: &mut Float64Tensor,
    ) -> Result<()> {
        refused("attention_backward")
    }
}

/// See [`AttentionOps::attention`]; without log-sum-exps.
fn attention(shape: HeadShape, spans: &[Span], [q, k, v]: [&Float64Tensor; 3], out: &mut Float64Tensor) {
    assert_eq!((q.cols, k.cols, v.cols), (shape.q_width(), shape.kv_width(), shape.kv_width()));
    q.like(out);
    let group = shape.heads / shape.kv_heads;
    let columns = |head: usize| head * shape.head_dim..(head + 1) * shape.head_dim;
    let scale = 1.0 / (shape.head_dim as f64).sqrt();
    let mut weights = Vec::new();
    for span in spans {
        for (i, head) in (0..span.q_len).flat_map(|i| (0..shape.heads).map(move |head| (i, head))) {
            let (row, of_kv) = (span.q_start + i, columns(head / group));
            let keys = span.k_start..span.k_start + span.k_len - span.q_len + i + 1;
            let query = &q.row(row)[columns(head)];
            weights.clear();
            weights.extend(keys.clone().map(|key| scale * dot(query, &k.row(key)[of_kv.clone()])));
            softmax(&mut weights);
            let out = &mut out.row_mut(row)[columns(head)];
            out.fill(0.0);
            for (key, p) in keys.zip(&weights) {
                out.iter_mut().zip(&v.row(key)[of_kv.clone()]).for_each(|(o, v)| *o += p * v);
            }
        }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn softmax(x: &mut [f64]) {
    let largest = x.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(x));
    x.iter_mut().for_each(|x| *x = (*x - largest).exp());
    let sum = x.iter().sum::<f64>();
    x.iter_mut().for_each(|x| *x /= sum);
}
