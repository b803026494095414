//! Results that must agree with the device `cpu` to the bit: the noise of a seed, and with it tokens and events.

use colar_engine::device::cpu::CpuDevice;
use colar_engine::device::cuda::CudaDevice;
use colar_engine::device::prelude::*;
use colar_engine::device::{Draw, Dtype, TokenChoice};
use colar_engine::random::Stream;

use super::common::driver::{TestDriver, kernels};
use super::common::host::{Host, poisoned, read};
use super::device;

fn cpu() -> CpuDevice {
    CpuDevice::new(1).unwrap()
}

#[test]
fn noise_has_the_bits_of_the_cpu() {
    let draws: Vec<Draw> = (0..40u64)
        .map(|i| Draw {
            key: i.wrapping_mul(0x9E37_79B9_7F4A_7C15),
            counter: [0x10 + i as u32 % 3, i as u32],
        })
        .collect();
    for cols in [1, 2, 3, 4, 5, 64, 1030] {
        let noise = |bits: Vec<f32>| bits.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        let mut mine = poisoned(device(), draws.len(), cols);
        device().normal(&draws, &mut mine).unwrap();
        let mut theirs = poisoned(&cpu(), draws.len(), cols);
        cpu().normal(&draws, &mut theirs).unwrap();
        assert_eq!(noise(read(device(), &mine)), noise(read(&cpu(), &theirs)), "{cols} columns");
    }
}

/// Logits that are exact on both devices, so that only a draw within a rounding of a boundary could differ.
#[test]
fn tokens_and_events_are_those_of_the_cpu() {
    for (vocab, seed) in [(1, 1), (2, 2), (31, 3), (33, 4), (300, 5), (2500, 6)] {
        let rows = 24;
        let mut stream = Stream::new(seed, 9);
        let w = Host::new(vocab, 1, (0..vocab).map(|_| stream.below(33) as f32 * 0.25 - 4.0).collect());
        let h = Host::full(rows, 1, 1.0);
        let token = stream.below(vocab as u64) as u32;
        for (temperature, top_p) in
            [(1.0, 1.0), (0.7, 0.9), (2.0, 0.999), (1.0, 0.3), (0.0, 0.9), (1e-30, 0.5)]
        {
            let choice =
                |i: u32| TokenChoice { temperature, top_p, draw: Draw { key: seed, counter: [0x12, i] } };
            let choices: Vec<TokenChoice> = (0..rows as u32).map(choice).collect();
            let at = format!("vocabulary {vocab}, temperature {temperature}, top-p {top_p}");
            let bias = Some((token, 1.5));
            let mine = device().choose_tokens(&h.up(device()), &w.up(device()), &choices, bias).unwrap();
            let theirs = cpu().choose_tokens(&h.up(&cpu()), &w.up(&cpu()), &choices, bias).unwrap();
            assert_eq!(mine, theirs, "{at}");
            let mine = device().token_event(&h.up(device()), &w.up(device()), token, &choices, 1.5).unwrap();
            let theirs = cpu().token_event(&h.up(&cpu()), &w.up(&cpu()), token, &choices, 1.5).unwrap();
            assert_eq!(mine, theirs, "{at}");
        }
    }
}

/// Decoding far into a text: the keys are cut into parts, which change nothing but roundings.
#[test]
fn long_caches_are_cut_into_parts() {
    use colar_engine::device::{HeadShape, Span};
    let shape = HeadShape { heads: 4, kv_heads: 2, head_dim: 32 };
    let lens = [1usize, 255, 256, 257, 700];
    let (mut spans, mut keys) = (Vec::new(), 0);
    for (i, &len) in lens.iter().enumerate() {
        spans.push(Span { q_start: i, q_len: 1, k_start: keys, k_len: len });
        keys += len;
    }
    let q = Host::normal(lens.len(), shape.q_width(), 1.0, 1);
    let [k, v] = [2, 3].map(|seed| Host::normal(keys, shape.kv_width(), 1.0, seed));
    fn run<D: Device>(d: &D, shape: HeadShape, spans: &[Span], [q, k, v]: [&Host; 3]) -> [Vec<f32>; 2] {
        let (mut out, mut lse) = (poisoned(d, q.rows, q.cols), poisoned(d, q.rows, shape.heads));
        d.attention(shape, spans, &q.up(d), &k.up(d), &v.up(d), &mut out, Some(&mut lse)).unwrap();
        [read(d, &out), read(d, &lse)]
    }
    let mine = run(device(), shape, &spans, [&q, &k, &v]);
    let theirs = run(&cpu(), shape, &spans, [&q, &k, &v]);
    for (mine, theirs) in mine.iter().zip(&theirs) {
        for (a, b) in mine.iter().zip(theirs) {
            assert!((a - b).abs() <= 1e-5, "{a} instead of {b}");
        }
    }
}

/// Sums of many rows into one, whatever the order in which blocks and threads run.
#[test]
fn gradients_have_the_same_bits_every_time() {
    use colar_engine::device::{CrossEntropyGrads, Upstream};
    let (rows, cols, vocab) = (700, 37, 23);
    let [dout, h] = [1, 2].map(|seed| Host::normal(rows, cols, 1.0, seed));
    let (w, scale) = (Host::normal(vocab, cols, 0.5, 3), Host::normal(rows, 1, 1.0, 4));
    let ids: Vec<u32> = (0..rows).map(|r| (r * r % vocab) as u32).collect();
    let offsets: Vec<u32> = (0..=rows as u32).collect();
    let run = |d: &CudaDevice<TestDriver>| {
        let (ids, offsets) = (d.index(&ids).unwrap(), d.index(&offsets).unwrap());
        let (dout, scale) = (dout.up(d), scale.up(d));
        let mut dtable = d.zeros(vocab, cols).unwrap();
        d.gather_merge_backward(&dout, &ids, &offsets, &scale, &mut dtable).unwrap();
        let mut db = d.zeros(1, cols).unwrap();
        d.add_bias_backward(&dout, &mut db).unwrap();
        let [mut loss, mut dh] = [1, cols].map(|cols| poisoned(d, rows, cols));
        let grads =
            CrossEntropyGrads { upstream: Upstream::Scale(&scale), dh: &mut dh, dw: Some(&mut dtable) };
        d.cross_entropy(&h.up(d), &w.up(d), &ids, &offsets, &mut loss, Some(grads)).unwrap();
        let squares = d.sum_squares(&[&dout, &dtable, &db, &dh, &loss]).unwrap();
        let bits: Vec<u32> =
            [&dtable, &db, &dh, &loss].into_iter().flat_map(|t| read(d, t)).map(f32::to_bits).collect();
        (bits, squares.to_bits())
    };
    let first = run(device());
    assert!(first == run(device()), "the same device");
    assert!(first == run(&kernels(Dtype::F32, 99)), "another order");
}
