//! Buffers that do not fit together are an error that names the operation, whichever buffer it is.

use colar_engine::Error;
use colar_engine::device::prelude::*;
use colar_engine::device::{
    AdamW, AdamWTensor, CrossEntropyGrads, Draw, Dropout, Dtype, HeadShape, LatentLoss, LatentPolicyGrads,
    LatentWeights, PolicyObjective, PolicyTerms, Span, TokenChoice, Upstream,
};

use super::common::host::{Host, read};
use super::device;

type Result = colar_engine::Result<()>;

/// Runs `f` on buffers of the right shapes, which must work; then with each buffer in turn one row
/// or one column larger or smaller, which must be refused.
fn buffers<D: Device>(
    d: &D,
    op: &str,
    right: &[(usize, usize)],
    free: &[(usize, isize, isize)],
    f: impl Fn(&mut [D::Tensor]) -> Result,
) {
    let make = |shapes: &[(usize, usize)]| -> Vec<D::Tensor> {
        shapes.iter().map(|&(r, c)| d.zeros(r, c).unwrap()).collect()
    };
    f(&mut make(right)).unwrap_or_else(|e| panic!("{op}: {e}"));
    for which in 0..right.len() {
        for (rows, cols) in [(1, 0), (-1, 0), (0, 1), (0, -1)] {
            // Some shapes of some operands are free: what they do not fix, no one checks.
            if free.contains(&(which, rows, cols)) {
                continue;
            }
            let mut wrong = right.to_vec();
            let (r, c) = right[which];
            wrong[which] = (r.checked_add_signed(rows).unwrap(), c.checked_add_signed(cols).unwrap());
            refused(op, &format!("operand {which} [{r}, {c}] made {:?}", wrong[which]), f(&mut make(&wrong)));
        }
    }
}

fn refused(op: &str, what: &str, result: Result) {
    match result {
        Err(Error::Shape { op: named, what: said }) => {
            assert_eq!(named, op);
            assert!(!said.is_empty() && !said.contains('\n'), "{op}: {said}");
        }
        Err(other) => panic!("{op}, {what}: {other:?}"),
        Ok(()) => panic!("{op}, {what}: accepted"),
    }
}

/// A device may do it by the operations that it joins, and then one of these is named.
#[test]
fn rotary_append() {
    let d = device();
    let (n, half, held) = (3, 3, 5);
    let (wide, narrow) = (4 * half, 2 * half);
    let caches = [(held, narrow), (held, narrow)];
    let qkv = [(n, wide), (n, narrow), (n, narrow)];
    let right = [&qkv[..], &[(1, wide), (1, narrow), (1, narrow), (1, half)], &caches].concat();
    let run = |shapes: &[(usize, usize)], positions: usize, rows: &[u32]| -> Result {
        let mut b: Vec<_> = shapes.iter().map(|&(r, c)| d.zeros(r, c).unwrap()).collect();
        let [q, k, v, q_bias, k_bias, v_bias, inv_freq, keys, values] = &mut b[..] else { unreachable!() };
        let (positions, rows) = (d.index(&vec![7; positions])?, d.index(rows)?);
        let biases = [Some(&*q_bias), Some(&*k_bias), Some(&*v_bias)];
        d.rotary_append([q, k, v], biases, &positions, inv_freq, &rows, [keys, values])
    };
    let refuses = |what: &str, result: Result| {
        assert!(matches!(result, Err(Error::Shape { .. })), "rotary_append, {what}: {result:?}");
    };
    run(&right, n, &[4, 0, 2]).unwrap();
    for which in 0..right.len() {
        for (rows, cols) in [(1, 0), (-1, 0), (0, 1), (0, -1)] {
            // A cache may be longer.
            if which >= 7 && rows == 1 {
                continue;
            }
            let mut wrong = right.clone();
            let (r, c) = right[which];
            wrong[which] = (r.checked_add_signed(rows).unwrap(), c.checked_add_signed(cols).unwrap());
            refuses(&format!("operand {which} made {:?}", wrong[which]), run(&wrong, n, &[4, 0, 2]));
        }
    }
    refuses("too few positions", run(&right, n - 1, &[4, 0, 2]));
    refuses("too many rows", run(&right, n, &[4, 0, 2, 1]));
    refuses("a row past the cache", run(&right, n, &[5, 0, 2]));
}

#[test]
fn products() {
    let d = device();
    let (m, n, k) = (3, 4, 5);
    buffers(d, "matmul_nt", &[(m, k), (n, k), (m, n)], &[], |b| {
        let [x, w, y] = b else { unreachable!() };
        d.matmul_nt(1.0, x, w, 0.0, y)
    });
    buffers(d, "matmul_nn", &[(m, n), (n, k), (m, k)], &[], |b| {
        let [dy, w, dx] = b else { unreachable!() };
        d.matmul_nn(1.0, dy, w, 0.0, dx)
    });
    buffers(d, "matmul_tn", &[(m, n), (m, k), (n, k)], &[], |b| {
        let [dy, x, dw] = b else { unreachable!() };
        d.matmul_tn(1.0, dy, x, 0.0, dw)
    });
    buffers(d, "add_bias", &[(m, n), (1, n)], &[(0, 1, 0), (0, -1, 0)], |b| {
        let [y, bias] = b else { unreachable!() };
        d.add_bias(y, bias)
    });
    buffers(d, "add_bias_backward", &[(m, n), (1, n)], &[(0, 1, 0), (0, -1, 0)], |b| {
        let [dy, db] = b else { unreachable!() };
        d.add_bias_backward(dy, db)
    });
}

#[test]
fn rows() {
    let d = device();
    let (ids, offsets) = (d.index(&[0, 5, 2, 5]).unwrap(), d.index(&[0, 1, 3, 4]).unwrap());
    // The table may have more rows than the ids need.
    buffers(d, "gather_merge", &[(6, 4), (3, 1), (3, 4)], &[(0, 1, 0)], |b| {
        let [table, scale, out] = b else { unreachable!() };
        d.gather_merge(table, &ids, &offsets, scale, out)
    });
    buffers(d, "gather_merge_backward", &[(3, 4), (3, 1), (6, 4)], &[(2, 1, 0)], |b| {
        let [dout, scale, dtable] = b else { unreachable!() };
        d.gather_merge_backward(dout, &ids, &offsets, scale, dtable)
    });
    for bad in [&[0u32, 2, 1, 4][..], &[1, 2, 3, 4], &[0, 1, 2, 3], &[0, 1, 3, 5], &[0, 4], &[]] {
        let [table, scale] = [Host::full(6, 4, 0.0).up(d), Host::full(3, 1, 1.0).up(d)];
        let (mut out, mut dtable) = (d.zeros(3, 4).unwrap(), d.zeros(6, 4).unwrap());
        let bad_offsets = d.index(bad).unwrap();
        let result = d.gather_merge(&table, &ids, &bad_offsets, &scale, &mut out);
        refused("gather_merge", &format!("offsets {bad:?}"), result);
        let result = d.gather_merge_backward(&out, &ids, &bad_offsets, &scale, &mut dtable);
        refused("gather_merge_backward", &format!("offsets {bad:?}"), result);
    }
    let at = d.index(&[5, 0]).unwrap();
    buffers(d, "gather_rows", &[(6, 4), (2, 4)], &[(0, 1, 0)], |b| {
        let [src, out] = b else { unreachable!() };
        d.gather_rows(1.0, src, &at, out)
    });
    buffers(d, "scatter_add_rows", &[(2, 4), (6, 4)], &[(1, 1, 0)], |b| {
        let [src, dst] = b else { unreachable!() };
        d.scatter_add_rows(1.0, src, &at, dst)
    });
    buffers(d, "scatter_rows", &[(2, 4), (6, 4)], &[(1, 1, 0)], |b| {
        let [src, dst] = b else { unreachable!() };
        d.scatter_rows(1.0, src, &at, dst)
    });
    buffers(d, "add", &[(2, 4), (2, 4)], &[], |b| {
        let [x, y] = b else { unreachable!() };
        d.add(x, y)
    });
}

#[test]
fn layers() {
    let d = device();
    let same = (3, 8);
    buffers(d, "rms_norm", &[same, (1, 8), same], &[], |b| {
        let [x, w, out] = b else { unreachable!() };
        d.rms_norm(x, w, 1e-5, out)
    });
    buffers(d, "add_rms_norm", &[same, same, (1, 8), same, same], &[], |b| {
        let [x, delta, w, sum, out] = b else { unreachable!() };
        d.add_rms_norm(x, delta, w, 1e-5, sum, out)
    });
    buffers(d, "rms_norm_backward", &[same, same, (1, 8), same, (1, 8)], &[], |b| {
        let [dout, x, w, dx, dw] = b else { unreachable!() };
        d.rms_norm_backward(dout, x, w, 1e-5, dx, Some(dw))
    });
    buffers(d, "layer_norm", &[same, (1, 8), (1, 8), same], &[], |b| {
        let [x, w, bias, out] = b else { unreachable!() };
        d.layer_norm(x, w, bias, out)
    });
    buffers(d, "layer_norm_backward", &[same, same, (1, 8), same, (1, 8), (1, 8)], &[], |b| {
        let [dout, x, w, dx, dw, db] = b else { unreachable!() };
        d.layer_norm_backward(dout, x, w, dx, Some((dw, db)))
    });
    let positions = d.index(&[0, 1, 2]).unwrap();
    // One frequency for a head of two fits rows of eight as well as two for heads of four.
    buffers(d, "rotary", &[same, (1, 2)], &[(1, 0, -1)], |b| {
        let [x, inv_freq] = b else { unreachable!() };
        d.rotary(x, &positions, inv_freq, 1.0)
    });
    buffers(d, "swiglu", &[same, same, same], &[], |b| {
        let [gate, up, out] = b else { unreachable!() };
        d.swiglu(gate, up, out)
    });
    buffers(d, "swiglu_backward", &[same, same, same], &[], |b| {
        let [dout, gate, up] = b else { unreachable!() };
        d.swiglu_backward(dout, gate, up)
    });
    buffers(d, "dropout", &[same, same], &[], |b| {
        let [x, out] = b else { unreachable!() };
        d.dropout(Dropout { p: 0.5, key: 1, counter: [0, 1, 2] }, x, 1.0, out)
    });
    buffers(d, "gelu", &[same, same], &[], |b| {
        let [x, out] = b else { unreachable!() };
        d.gelu(x, out)
    });
    buffers(d, "gelu_backward", &[same, same, same], &[], |b| {
        let [dout, x, dx] = b else { unreachable!() };
        d.gelu_backward(dout, x, dx)
    });
}

#[test]
fn attention() {
    let d = device();
    let shape = HeadShape { heads: 4, kv_heads: 2, head_dim: 3 };
    let spans = [
        Span { q_start: 0, q_len: 2, k_start: 0, k_len: 2 },
        Span { q_start: 2, q_len: 3, k_start: 2, k_len: 3 },
    ];
    let (q, kv, lse) = ((5, 12), (5, 6), (5, 4));
    buffers(d, "attention", &[q, kv, kv, q, lse], &[], |b| {
        let [q, k, v, out, lse] = b else { unreachable!() };
        d.attention(shape, &spans, q, k, v, out, Some(lse))
    });
    buffers(d, "attention_backward", &[q, kv, kv, q, lse, q, q, kv, kv], &[], |b| {
        let [q, k, v, out, lse, dout, dq, dk, dv] = b else { unreachable!() };
        d.attention_backward(shape, &spans, q, k, v, out, lse, dout, dq, dk, dv)
    });

    let attend = |shape: HeadShape, spans: &[Span]| {
        let [q, k, v] = [(5, shape.q_width()), (5, shape.kv_width()), (5, shape.kv_width())]
            .map(|(r, c)| d.zeros(r, c).unwrap());
        let mut out = d.zeros(5, shape.q_width()).unwrap();
        let mut lse = d.zeros(5, shape.heads).unwrap();
        let forward = d.attention(shape, spans, &q, &k, &v, &mut out, Some(&mut lse));
        let (mut dq, mut dk, mut dv) = (
            d.zeros(5, shape.q_width()).unwrap(),
            d.zeros(5, shape.kv_width()).unwrap(),
            d.zeros(5, shape.kv_width()).unwrap(),
        );
        let dout = d.zeros(5, shape.q_width()).unwrap();
        let backward =
            d.attention_backward(shape, spans, &q, &k, &v, &out, &lse, &dout, &mut dq, &mut dk, &mut dv);
        (forward, backward)
    };
    let span = |q_start, q_len, k_start, k_len| Span { q_start, q_len, k_start, k_len };
    for bad in [
        span(0, 6, 0, 6),
        span(1, 5, 0, 5),
        span(0, 5, 1, 5),
        span(0, 3, 0, 2),
        span(usize::MAX, 2, 0, 2),
        span(0, 1, usize::MAX, 1),
    ] {
        let (forward, backward) = attend(shape, &[bad]);
        refused("attention", &format!("{bad:?}"), forward);
        refused("attention_backward", &format!("{bad:?}"), backward);
    }
    // Two spans that write the same rows.
    let (forward, backward) = attend(shape, &[span(0, 3, 0, 3), span(2, 3, 2, 3)]);
    refused("attention", "overlapping spans", forward);
    refused("attention_backward", "overlapping spans", backward);
    // A cache may be read by two sequences; a gradient of it may not be written by two.
    let (forward, backward) = attend(shape, &[span(0, 2, 0, 3), span(2, 2, 0, 3)]);
    forward.unwrap();
    refused("attention_backward", "overlapping keys", backward);
    for (heads, kv_heads, head_dim) in [(4, 3, 3), (4, 0, 3), (4, 2, 0), (0, 2, 3), (2, 4, 3)] {
        let bad = HeadShape { heads, kv_heads, head_dim };
        let (forward, backward) = attend(bad, &spans);
        refused("attention", &format!("{bad:?}"), forward);
        refused("attention_backward", &format!("{bad:?}"), backward);
    }
}

#[test]
fn latents() {
    let d = device();
    let same = (3, 8);
    let draws = [Draw { key: 1, counter: [0, 0] }; 3];
    buffers(d, "normal", &[same], &[(0, 0, 1), (0, 0, -1)], |b| d.normal(&draws, &mut b[0]));
    buffers(d, "reparameterise", &[same, same, same, same], &[], |b| {
        let [mu, ls, eps, out] = b else { unreachable!() };
        d.reparameterise(mu, Some(ls), eps, 1.0, out)
    });
    buffers(d, "reparameterise_backward", &[same; 5], &[], |b| {
        let [dz, ls, eps, dmu, dls] = b else { unreachable!() };
        d.reparameterise_backward(dz, Some(ls), eps, dmu, Some(dls))
    });
    let weights = LatentWeights { loss: LatentLoss::Mse, loss_scale: 1.0, entropy_scale: 0.0 };
    buffers(d, "latent_loss", &[same, same, same, same, (3, 3), same, same], &[], |b| {
        let [mu, ls, eps, target, per_row, dmu, dls] = b else { unreachable!() };
        d.latent_loss(weights, mu, Some(ls), Some(eps), target, per_row, Some((dmu, Some(dls))))
    });
    let objective = PolicyObjective { clip_eps: 0.2, kl_weight: 0.0 };
    buffers(d, "latent_logprob", &[same, same, same, (3, 3), (3, 4), same, same], &[], |b| {
        let [mu, ls, latents, per_row, rows, dmu, dls] = b else { unreachable!() };
        let terms = PolicyTerms { rows, objective };
        let grads = LatentPolicyGrads { terms, entropy_scale: 0.0, dmu, dlog_sigma: dls };
        d.latent_logprob(mu, ls, latents, per_row, Some(grads))
    });
}

#[test]
fn output_head() {
    let d = device();
    let (ids, offsets) = (d.index(&[0, 5, 2, 5]).unwrap(), d.index(&[0, 1, 3, 4]).unwrap());
    buffers(d, "cross_entropy", &[(3, 4), (6, 4), (3, 1), (3, 1), (3, 4), (6, 4)], &[], |b| {
        let [h, w, loss, row_scale, dh, dw] = b else { unreachable!() };
        let upstream = Upstream::Scale(row_scale);
        let grads = CrossEntropyGrads { upstream, dh, dw: Some(dw) };
        d.cross_entropy(h, w, &ids, &offsets, loss, Some(grads))
    });
    let objective = PolicyObjective { clip_eps: 0.2, kl_weight: 0.0 };
    buffers(d, "cross_entropy", &[(3, 4), (6, 4), (3, 1), (3, 4), (3, 4)], &[(1, 1, 0)], |b| {
        let [h, w, loss, rows, dh] = b else { unreachable!() };
        let upstream = Upstream::Policy(PolicyTerms { rows, objective });
        d.cross_entropy(h, w, &ids, &offsets, loss, Some(CrossEntropyGrads { upstream, dh, dw: None }))
    });
    buffers(d, "cross_entropy", &[(3, 4), (6, 4), (3, 1)], &[(1, 1, 0)], |b| {
        let [h, w, loss] = b else { unreachable!() };
        d.cross_entropy(h, w, &ids, &offsets, loss, None)
    });
    for (ids, offsets) in [(&[0u32, 6, 2, 5][..], &[0u32, 1, 3, 4][..]), (&[0, 5, 2, 5], &[0, 0, 3, 4])] {
        let (h, w) = (d.zeros(3, 4).unwrap(), d.zeros(6, 4).unwrap());
        let mut loss = d.zeros(3, 1).unwrap();
        let (ids, offsets) = (d.index(ids).unwrap(), d.index(offsets).unwrap());
        refused("cross_entropy", "labels", d.cross_entropy(&h, &w, &ids, &offsets, &mut loss, None));
    }
    let choice = TokenChoice { temperature: 1.0, top_p: 0.9, draw: Draw { key: 1, counter: [0, 0] } };
    let choices = [choice; 3];
    let more_tokens = &[(1, 1, 0), (1, -1, 0)];
    buffers(d, "choose_tokens", &[(3, 4), (6, 4)], more_tokens, |b| {
        d.choose_tokens(&b[0], &b[1], &choices, None).map(drop)
    });
    buffers(d, "token_event", &[(3, 4), (6, 4)], more_tokens, |b| {
        d.token_event(&b[0], &b[1], 2, &choices, 0.0).map(drop)
    });
    let (h, w) = (d.zeros(3, 4).unwrap(), d.zeros(6, 4).unwrap());
    refused("choose_tokens", "token", d.choose_tokens(&h, &w, &choices, Some((6, 1.0))).map(drop));
    refused("token_event", "token", d.token_event(&h, &w, 6, &choices, 0.0).map(drop));
    let nothing = d.zeros(0, 4).unwrap();
    refused("choose_tokens", "no vocabulary", d.choose_tokens(&h, &nothing, &choices, None).map(drop));
}

#[test]
fn optimiser_and_memory() {
    let d = device();
    let hyper =
        AdamW { lr: 0.1, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, step: 1, grad_scale: 1.0 };
    buffers(d, "adamw", &[(3, 4); 4], &[], |b| {
        let [value, grad, m, v] = b else { unreachable!() };
        d.adamw(&hyper, &mut [AdamWTensor { value, grad, m, v }])
    });
    let mut t = d.zeros(2, 3).unwrap();
    refused("write", "values", d.write(&mut t, &[0.0; 5]));
    refused("copy", "to", d.copy(&d.zeros(3, 2).unwrap(), &mut t));
    assert!(matches!(d.upload(2, 3, &[0.0; 7]), Err(Error::Shape { .. })));
    for (rows, cols) in [(usize::MAX, 2), (usize::MAX / 4, 3), (1 << 40, 1 << 40)] {
        assert!(matches!(d.empty(rows, cols), Err(Error::Shape { op: "empty", .. })));
        assert!(matches!(d.zeros(rows, cols), Err(Error::Shape { op: "zeros", .. })));
    }
}

/// Weights of a mapped file are read only, and 16 bits wide only where an operation says so.
#[test]
fn mapped_weights() {
    let d = device();
    let (mut w, _) = Host::normal(3, 4, 1.0, 1).adopt(d, Dtype::Bf16);
    let x = d.zeros(3, 4).unwrap();
    refused("add", "a mapped output", d.add(&x, &mut w));
    refused("clear", "a mapped output", d.clear(&mut w));
    refused("write", "a mapped output", d.write(&mut w, &[0.0; 12]));
    let mut y = d.zeros(3, 4).unwrap();
    refused("add", "bf16 where float32 is needed", d.add(&w, &mut y));
    refused("gelu", "bf16 where float32 is needed", d.gelu(&w, &mut y));
}

/// No rows are no work, and no panic.
#[test]
fn empty_batches() {
    let d = device();
    let none = || d.zeros(0, 4).unwrap();
    let w = d.zeros(6, 4).unwrap();
    let row = d.zeros(1, 4).unwrap();
    let index = |values: &[u32]| d.index(values).unwrap();
    d.matmul_nt(1.0, &none(), &w, 0.0, &mut d.zeros(0, 6).unwrap()).unwrap();
    d.add_bias(&mut none(), &row).unwrap();
    d.gather_merge(&w, &index(&[]), &index(&[0]), &d.zeros(0, 1).unwrap(), &mut none()).unwrap();
    d.gather_rows(1.0, &w, &index(&[]), &mut none()).unwrap();
    d.rms_norm(&none(), &row, 1e-5, &mut none()).unwrap();
    d.layer_norm(&none(), &row, &row, &mut none()).unwrap();
    let shape = HeadShape { heads: 2, kv_heads: 1, head_dim: 2 };
    let kv = d.zeros(0, 2).unwrap();
    d.attention(shape, &[], &none(), &kv, &kv, &mut none(), None).unwrap();
    let (x, mut dx) = (none(), none());
    let [mut dw, mut db] = [(); 2].map(|()| Host::full(1, 4, 1.0).up(d));
    d.rms_norm_backward(&x, &x, &row, 1e-5, &mut dx, Some(&mut dw)).unwrap();
    d.layer_norm_backward(&x, &x, &row, &mut dx, Some((&mut dw, &mut db))).unwrap();
    assert_eq!((read(d, &dw), read(d, &db)), (vec![1.0; 4], vec![1.0; 4]));
    d.gelu_backward(&x, &x, &mut dx).unwrap();
    d.swiglu_backward(&x, &mut none(), &mut dx).unwrap();
    let (lse, mut dk, mut dv) = (d.zeros(0, 2).unwrap(), d.zeros(0, 2).unwrap(), d.zeros(0, 2).unwrap());
    d.attention_backward(shape, &[], &x, &kv, &kv, &x, &lse, &x, &mut dx, &mut dk, &mut dv).unwrap();
    let mut loss = d.zeros(0, 1).unwrap();
    d.cross_entropy(&none(), &w, &index(&[]), &index(&[0]), &mut loss, None).unwrap();
    assert!(d.choose_tokens(&none(), &w, &[], None).unwrap().is_empty());
    assert!(d.token_event(&none(), &w, 0, &[], 0.0).unwrap().is_empty());
    assert_eq!(d.sum_squares(&[]).unwrap(), 0.0);
    let mut dw = Host::full(6, 4, 1.0).up(d);
    d.matmul_tn(1.0, &d.zeros(0, 6).unwrap(), &none(), 1.0, &mut dw).unwrap();
    assert_eq!(d.read(&dw).unwrap(), [1.0; 24]);
    d.matmul_tn(1.0, &d.zeros(0, 6).unwrap(), &none(), 0.0, &mut dw).unwrap();
    assert_eq!(d.read(&dw).unwrap(), [0.0; 24]);
    d.matmul_tn(1.0, &d.zeros(0, 6).unwrap(), &none(), 0.5, &mut dw).unwrap();
    d.matmul_nn(1.0, &d.zeros(0, 6).unwrap(), &w, 0.0, &mut none()).unwrap();
    let mut db = Host::full(1, 4, 2.0).up(d);
    d.add_bias_backward(&none(), &mut db).unwrap();
    assert_eq!(d.read(&db).unwrap(), [2.0; 4]);
    let mut dtable = Host::full(6, 4, 2.0).up(d);
    let scale = d.zeros(0, 1).unwrap();
    d.gather_merge_backward(&none(), &index(&[]), &index(&[0]), &scale, &mut dtable).unwrap();
    assert_eq!(d.read(&dtable).unwrap(), [2.0; 24]);
    let upstream = Upstream::Scale(&scale);
    let (mut dh, mut loss) = (none(), d.zeros(0, 1).unwrap());
    let grads = CrossEntropyGrads { upstream, dh: &mut dh, dw: Some(&mut dtable) };
    d.cross_entropy(&none(), &w, &index(&[]), &index(&[0]), &mut loss, Some(grads)).unwrap();
    assert_eq!(d.read(&dtable).unwrap(), [2.0; 24]);
    let (mut dmu, mut dls) = (none(), none());
    d.reparameterise_backward(&none(), Some(&none()), &none(), &mut dmu, Some(&mut dls)).unwrap();
    d.latent_logprob(&none(), &none(), &none(), &mut d.zeros(0, 3).unwrap(), None).unwrap();
    let hyper = AdamW::new(0.1, 0.0, 1);
    d.adamw(&hyper, &mut []).unwrap();
    let [mut value, grad, mut m, mut v] = [none(), none(), none(), none()];
    d.adamw(&hyper, &mut [AdamWTensor { value: &mut value, grad: &grad, m: &mut m, v: &mut v }]).unwrap();
    assert_eq!(d.sum_squares(&[&grad]).unwrap(), 0.0);
}
