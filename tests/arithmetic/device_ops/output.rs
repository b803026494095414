//! Cross-entropy, token choice, and the end-of-latent event.

use colar_engine::device::prelude::*;
use colar_engine::device::{
    CrossEntropyGrads, Draw, Dtype, PolicyElement, PolicyObjective, PolicyTerms, TokenChoice, Upstream,
};
use colar_engine::random::{Philox, Stream};
use proptest::prelude::*;

use super::common::host::{Host, close, poisoned, read};
use super::{DRAWS, config, device, dtype, size};

/// Exponentials of rounded logits.
const TOLERANCE: f64 = 1e-5;

pub fn softmax(logits: &[f64]) -> Vec<f64> {
    let top = logits.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
    let total: f64 = logits.iter().map(|l| (l - top).exp()).sum();
    logits.iter().map(|l| (l - top).exp() / total).collect()
}

/// The gradients of a row's loss in its logits: their softmax less the mean of its labels.
pub fn less_labels(p: &[f64], labels: &[u32]) -> Vec<f64> {
    let mut less = p.to_vec();
    labels.iter().for_each(|&t| less[t as usize] -= 1.0 / labels.len() as f64);
    less
}

fn log_sum_exp(logits: &[f64]) -> f64 {
    let top = logits.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
    top + logits.iter().map(|l| (l - top).exp()).sum::<f64>().ln()
}

pub fn logits(h: &Host, w: &Host, row: usize) -> Vec<f64> {
    (0..w.rows).map(|v| h.row(row).iter().zip(w.row(v)).map(|(a, b)| a * b).sum()).collect()
}

fn cross_entropy<D: Device>(d: &D, [rows, hidden, vocab]: [usize; 3], weight: Dtype, seed: u64) {
    let h = Host::normal(rows, hidden, 1.0, seed);
    let (w, w_host) = Host::normal(vocab, hidden, 0.5, seed + 1).adopt(d, weight);
    let mut stream = Stream::new(seed, 3);
    let (mut ids, mut offsets) = (Vec::new(), vec![0u32]);
    for _ in 0..rows {
        for _ in 0..1 + stream.below(5) {
            ids.push(stream.below(vocab as u64) as u32);
        }
        offsets.push(ids.len() as u32);
    }
    let row_scale = Host::normal(rows, 1, 1.0, seed + 2);
    let mut want_loss = Vec::new();
    let mut want_dh = vec![(0.0, 0.0); rows * hidden];
    let dw_before = Host::normal(vocab, hidden, 1.0, seed + 3);
    let mut want_dw: Vec<(f64, f64)> =
        dw_before.values.iter().map(|&x| (f64::from(x), f64::from(x.abs()))).collect();
    for r in 0..rows {
        let logits = logits(&h, &w_host, r);
        let label = &ids[offsets[r] as usize..offsets[r + 1] as usize];
        let mean = label.iter().map(|&t| logits[t as usize]).sum::<f64>() / label.len() as f64;
        let lse = log_sum_exp(&logits);
        // A logit's rounding grows with its terms, of order √hidden at most here.
        let size = lse.abs() + mean.abs() + (hidden as f64).sqrt();
        want_loss.push((lse - mean, size));
        let plain = softmax(&logits);
        let p = less_labels(&plain, label);
        let scale = row_scale.at(r, 0);
        for v in 0..vocab {
            let share = (plain[v] + (p[v] - plain[v]).abs()) * scale.abs() * (1.0 + size);
            for e in 0..hidden {
                let (g, at) = (scale * p[v] * w_host.at(v, e), &mut want_dh[r * hidden + e]);
                *at = (at.0 + g, at.1 + share * w_host.at(v, e).abs());
                let (g, at) = (scale * p[v] * h.at(r, e), &mut want_dw[v * hidden + e]);
                *at = (at.0 + g, at.1 + share * h.at(r, e).abs());
            }
        }
    }
    let (d_ids, d_offsets, scale) = (d.index(&ids).unwrap(), d.index(&offsets).unwrap(), row_scale.up(d));
    for (with_grads, with_dw) in [(false, false), (true, true), (true, false)] {
        let (mut loss, mut dh, mut dw) = (poisoned(d, rows, 1), poisoned(d, rows, hidden), dw_before.up(d));
        let grads = with_grads.then_some(CrossEntropyGrads {
            upstream: Upstream::Scale(&scale),
            dh: &mut dh,
            dw: with_dw.then_some(&mut dw),
        });
        d.cross_entropy(&h.up(d), &w, &d_ids, &d_offsets, &mut loss, grads).unwrap();
        close("loss", &read(d, &loss), &want_loss, TOLERANCE);
        if with_grads {
            close("dh", &read(d, &dh), &want_dh, TOLERANCE);
        }
        if with_dw {
            close("dw", &read(d, &dw), &want_dw, TOLERANCE);
        }
    }
}

/// The policy objective on sampled labels is a weighted sum whose factors are its slopes at the losses.
fn policy<D: Device>(d: &D, [rows, hidden, vocab]: [usize; 3], seed: u64) {
    let h = Host::normal(rows, hidden, 1.0, seed);
    let w = Host::normal(vocab, hidden, 0.5, seed + 1).up(d);
    let mut stream = Stream::new(seed, 4);
    let ids: Vec<u32> = (0..rows).map(|_| stream.below(vocab as u64) as u32).collect();
    let (ids, offsets) = (d.index(&ids).unwrap(), d.index(&(0..=rows as u32).collect::<Vec<_>>()).unwrap());
    let run = |upstream: Upstream<'_, D>| {
        let (mut loss, mut dh) = (poisoned(d, rows, 1), poisoned(d, rows, hidden));
        let mut dw = d.zeros(vocab, hidden).unwrap();
        let grads = CrossEntropyGrads { upstream, dh: &mut dh, dw: Some(&mut dw) };
        d.cross_entropy(&h.up(d), &w, &ids, &offsets, &mut loss, Some(grads)).unwrap();
        [read(d, &loss), read(d, &dh), read(d, &dw)]
    };
    let mut loss = poisoned(d, rows, 1);
    d.cross_entropy(&h.up(d), &w, &ids, &offsets, &mut loss, None).unwrap();
    let logprob: Vec<f32> = read(d, &loss).iter().map(|l| -l).collect();
    // Ratios within the clip and beyond it on either side, of advantages of either sign.
    let elements: Vec<PolicyElement> = (0..rows)
        .map(|r| PolicyElement {
            old: logprob[r] + [0.0, 0.5, -0.5][r % 3],
            reference: logprob[r] + [0.3, -0.2][r % 2],
            advantage: [0.7, -1.2, 0.0, 0.7, -1.2][r % 5],
            weight: 0.25,
        })
        .collect();
    for kl_weight in [0.0, 0.3] {
        let objective = PolicyObjective { clip_eps: 0.2, kl_weight };
        let scale: Vec<f32> =
            elements.iter().zip(&logprob).map(|(e, &l)| -e.gradient(l, objective)).collect();
        let want = run(Upstream::Scale(&d.upload(rows, 1, &scale).unwrap()));
        let terms = d.upload(rows, 4, bytemuck::cast_slice(&elements)).unwrap();
        let got = run(Upstream::Policy(PolicyTerms { rows: &terms, objective }));
        assert_eq!(got[0], want[0], "the upstream changes nothing of the losses");
        for (what, got, want) in [("dh", &got[1], &want[1]), ("dw", &got[2], &want[2])] {
            // Sums of both signs over the vocabulary, or the rows.
            let size = if what == "dh" { 1.0 } else { rows as f64 };
            let want: Vec<_> = want.iter().map(|&x| (f64::from(x), size)).collect();
            close(&format!("policy, {what}"), got, &want, TOLERANCE);
        }
    }
}

/// An output matrix whose logits for a hidden state of ones in its first column are given, exactly.
fn head(logits: &[f32], hidden: usize) -> Host {
    let mut w = Host::full(logits.len(), hidden, 0.0);
    for (v, &l) in logits.iter().enumerate() {
        w.values[v * hidden + v % hidden] = l;
    }
    w
}

fn choice(temperature: f32, top_p: f32, seed: u64, i: u32) -> TokenChoice {
    TokenChoice { temperature, top_p, draw: Draw { key: seed, counter: [0x12, i] } }
}

fn choose<D: Device>(
    d: &D,
    logits: &[f32],
    temperature: f32,
    top_p: f32,
    bias: Option<(u32, f32)>,
) -> Vec<usize> {
    let choices: Vec<TokenChoice> = (0..DRAWS as u32).map(|i| choice(temperature, top_p, 77, i)).collect();
    let (h, w) = (Host::full(DRAWS, 8, 1.0).up(d), head(logits, 8).up(d));
    let mut counts = vec![0; logits.len()];
    for token in d.choose_tokens(&h, &w, &choices, bias).unwrap() {
        counts[token as usize] += 1;
    }
    counts
}

fn events<D: Device>(d: &D, logits: &[f32], token: u32, temperature: f32, bias: f32) -> usize {
    let choices: Vec<TokenChoice> = (0..DRAWS as u32).map(|i| choice(temperature, 1.0, 78, i)).collect();
    let (h, w) = (Host::full(DRAWS, 8, 1.0).up(d), head(logits, 8).up(d));
    d.token_event(&h, &w, token, &choices, bias).unwrap().into_iter().filter(|&e| e).count()
}

fn probabilities(logits: &[f32], temperature: f32, bias: Option<(u32, f32)>) -> Vec<f64> {
    let mut l: Vec<f64> = logits.iter().map(|&l| f64::from(l)).collect();
    if let Some((token, b)) = bias {
        l[token as usize] += f64::from(b);
    }
    softmax(&l.iter().map(|l| l / f64::from(temperature)).collect::<Vec<_>>())
}

/// Tokens of the nucleus, most likely first, and their mass.
fn nucleus(p: &[f64], top_p: f32) -> (Vec<usize>, f64) {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[b].total_cmp(&p[a]).then(a.cmp(&b)));
    let mut mass = 0.0;
    let last = order.iter().position(|&t| {
        mass += p[t];
        mass >= f64::from(top_p)
    });
    order.truncate(last.map_or(p.len(), |l| l + 1));
    (order, mass)
}

/// Pearson's statistic of counts against probabilities, over its degrees of freedom's mean, in
/// standard deviations.
fn excess(counts: &[usize], p: &[f64]) -> f64 {
    let n: usize = counts.iter().sum();
    let mut chi = 0.0;
    for (&c, p) in counts.iter().zip(p) {
        let expected = n as f64 * p;
        assert!(expected > 0.0 || c == 0);
        chi += if expected > 0.0 { (c as f64 - expected).powi(2) / expected } else { 0.0 };
    }
    let freedom = p.iter().filter(|&&p| p > 0.0).count() as f64 - 1.0;
    (chi - freedom) / (2.0 * freedom.max(1.0)).sqrt()
}

const LOGITS: [f32; 13] = [0.5, -1.0, 2.0, 0.0, 1.5, 1.5, -0.5, 0.25, 1.0, -2.0, 0.75, 1.25, 2.0];

#[test]
fn tokens_are_drawn_with_their_probabilities() {
    for temperature in [0.5, 1.0, 2.0] {
        for bias in [None, Some((4, 1.0)), Some((0, -1.0))] {
            let counts = choose(device(), &LOGITS, temperature, 1.0, bias);
            let e = excess(&counts, &probabilities(&LOGITS, temperature, bias));
            assert!(e.abs() < 4.0, "temperature {temperature}, bias {bias:?}: {e} in {counts:?}");
        }
    }
}

#[test]
fn the_nucleus_is_kept_and_renormalised() {
    for top_p in [0.999, 0.9, 0.5, 0.25] {
        for temperature in [0.5, 1.0, 2.0] {
            let p = probabilities(&LOGITS, temperature, None);
            let (kept, mass) = nucleus(&p, top_p);
            let share: Vec<f64> =
                (0..p.len()).map(|t| if kept.contains(&t) { p[t] / mass } else { 0.0 }).collect();
            let counts = choose(device(), &LOGITS, temperature, top_p, None);
            let e = excess(&counts, &share);
            assert!(e.abs() < 4.0, "top-p {top_p}, temperature {temperature}: {e} in {counts:?}");
        }
    }
    // Of equals the first are kept: a quarter of ten equals is three of them.
    let counts = choose(device(), &[1.0; 10], 1.0, 0.25, None);
    assert_eq!(counts[3..], [0; 7]);
    assert!(counts[..3].iter().all(|&c| c > DRAWS / 4), "{counts:?}");
    // A tiny top-p is greedy.
    for top_p in [1e-3, 1e-7, f32::MIN_POSITIVE] {
        let counts = choose(device(), &LOGITS, 1.0, top_p, None);
        assert_eq!(counts[2], DRAWS, "top-p {top_p}: {counts:?}");
    }
}

/// The separator is drawn as a token would be: the same frequencies.
#[test]
fn events_have_the_frequencies_of_tokens() {
    for temperature in [0.5, 1.0, 2.0] {
        for bias in [0.0, 1.5] {
            for token in 0..LOGITS.len() as u32 {
                let added = (bias != 0.0).then_some((token, bias));
                let p = probabilities(&LOGITS, temperature, added)[token as usize];
                let deviation = (DRAWS as f64 * p * (1.0 - p)).sqrt();
                let event = events(device(), &LOGITS, token, temperature, bias) as f64;
                let drawn = choose(device(), &LOGITS, temperature, 1.0, added)[token as usize] as f64;
                for (how, count) in [("event", event), ("token", drawn)] {
                    let off = (count - DRAWS as f64 * p) / deviation;
                    assert!(off.abs() < 4.5, "{how} {token}, temperature {temperature}: {off} deviations");
                }
            }
        }
    }
}

/// The event is u < p for the uniform number u of the draw, wherever in the vocabulary the token and
/// its rivals stand; only where u is within a rounding of p may it go either way.
fn events_exactly<D: Device>(d: &D, [rows, hidden, vocab]: [usize; 3], weight: Dtype, seed: u64) {
    let h = Host::normal(rows, hidden, 1.0, seed);
    let (w, w_host) = Host::normal(vocab, hidden, 1.5 / (hidden as f32).sqrt(), seed + 1).adopt(d, weight);
    let token = Stream::new(seed, 5).below(vocab as u64) as u32;
    let bias = 4.0;
    let choices: Vec<TokenChoice> =
        (0..rows as u32).map(|i| choice([1.0, 0.6, 3.0][i as usize % 3], 1.0, seed, i)).collect();
    let got = d.token_event(&h.up(d), &w, token, &choices, bias).unwrap();
    for (r, choice) in choices.iter().enumerate() {
        let mut logits = logits(&h, &w_host, r);
        logits[token as usize] += f64::from(bias);
        let scaled: Vec<f64> = logits.iter().map(|l| l / f64::from(choice.temperature)).collect();
        let p = softmax(&scaled)[token as usize];
        let [c0, c1] = choice.draw.counter;
        let u = f64::from(Philox::new(choice.draw.key).uniforms([0, c0, c1, 1])[0]);
        assert!(got[r] == (u < p) || (u - p).abs() < 1e-4 * p, "row {r}: u {u}, p {p}, event {}", got[r]);
    }
}

/// At temperature 0 both take the largest logit, the first of equals.
fn greedy<D: Device>(d: &D, h: &Host, w: &D::Tensor, w_host: &Host, exact: bool) {
    let choices = vec![choice(0.0, 0.9, 1, 0); h.rows];
    let chosen = d.choose_tokens(&h.up(d), w, &choices, None).unwrap();
    for (r, &chosen) in chosen.iter().enumerate() {
        let logits = logits(h, w_host, r);
        let best = logits.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
        if exact {
            assert_eq!(chosen as usize, logits.iter().position(|&l| l == best).unwrap(), "row {r}");
        } else {
            assert!(best - logits[chosen as usize] < 1e-5, "row {r}");
        }
    }
    let mut tokens: Vec<u32> = chosen.clone();
    tokens.extend([0, w_host.rows as u32 / 2, w_host.rows as u32 - 1]);
    for token in tokens {
        let events = d.token_event(&h.up(d), w, token, &choices, 0.0).unwrap();
        for (r, event) in events.into_iter().enumerate() {
            assert_eq!(event, chosen[r] == token, "row {r}, token {token}, chosen {}", chosen[r]);
        }
    }
}

/// Whole numbers, so that logits are exact and equals are many.
fn small_integers(rows: usize, cols: usize, seed: u64) -> Host {
    let mut stream = Stream::new(seed, 6);
    Host::new(rows, cols, (0..rows * cols).map(|_| stream.below(3) as f32 - 1.0).collect())
}

proptest! {
    #![proptest_config(config(32))]

    #[test]
    fn cross_entropy_forward_and_backward(
        rows in size(), hidden in size(), vocab in size(), weight in dtype(), seed in any::<u32>(),
    ) {
        device().scope(|| cross_entropy(device(), [rows, hidden, vocab], weight, u64::from(seed)));
    }

    #[test]
    fn policies_on_labels(
        rows in size(), hidden in size(), vocab in size(), seed in any::<u32>(),
    ) {
        device().scope(|| policy(device(), [rows, hidden, vocab], u64::from(seed)));
    }

    #[test]
    fn events_are_decided_by_their_uniform_number(
        rows in size(), hidden in size(),
        vocab in prop_oneof![size(), Just(2048), Just(2049), Just(5000)],
        weight in dtype(), seed in any::<u32>(),
    ) {
        device().scope(|| events_exactly(device(), [rows.min(30), hidden, vocab], weight, u64::from(seed)));
    }

    #[test]
    fn greedy_choice_takes_the_first_of_equals(
        rows in 1..12usize, hidden in size(),
        vocab in prop_oneof![size(), Just(2049), Just(4500)],
        weight in dtype(), seed in any::<u32>(),
    ) {
        let seed = u64::from(seed);
        let h = small_integers(rows, hidden, seed);
        let (w, w_host) = small_integers(vocab, hidden, seed + 1).adopt(device(), weight);
        device().scope(|| greedy(device(), &h, &w, &w_host, true));
        // Fractions, every row of the matrix there twice: equals whose logits were rounded.
        let h = Host::normal(rows, hidden, 1.0, seed + 2);
        let half = Host::normal(vocab.div_ceil(2), hidden, 1.0, seed + 3);
        let mut twice = half.values.clone();
        twice.extend(&half.values);
        twice.truncate(vocab * hidden);
        let (w, w_host) = Host::new(vocab, hidden, twice).adopt(device(), weight);
        device().scope(|| greedy(device(), &h, &w, &w_host, false));
    }
}

/// As the temperature goes to 0, draws become the greedy choice, and nothing overflows on the way.
#[test]
fn low_temperatures_are_greedy() {
    let logits = [30.0f32, -4.0, 31.0, 2.0, -50.0];
    for temperature in [1e-3, 1e-10, 1e-30, 1e-37, f32::MIN_POSITIVE, 1e-45] {
        for top_p in [1.0, 0.9, 1e-6] {
            let counts = choose(device(), &logits, temperature, top_p, None);
            assert_eq!(counts[2], DRAWS, "temperature {temperature}, top-p {top_p}: {counts:?}");
        }
        for token in 0..5 {
            let count = events(device(), &logits, token, temperature, 0.0);
            assert_eq!(count, if token == 2 { DRAWS } else { 0 }, "temperature {temperature}, {token}");
        }
        // Two equals share all draws, at any temperature.
        let counts = choose(device(), &[7.0, 9.0, 9.0], temperature, 1.0, None);
        assert!(counts[0] == 0 && counts[1].abs_diff(DRAWS / 2) < 130, "{temperature}: {counts:?}");
        let count = events(device(), &[7.0, 9.0, 9.0], 1, temperature, 0.0);
        assert!(count.abs_diff(DRAWS / 2) < 130, "temperature {temperature}: {count} events");
    }
}

/// Logits as large as float32 sums of large weights make them.
#[test]
fn large_logits_do_not_overflow() {
    let logits = [1000.0f32, 999.0, -1000.0, 0.0];
    let p = probabilities(&logits, 1.0, None);
    let counts = choose(device(), &logits, 1.0, 1.0, None);
    assert!((counts[0] as f64 - DRAWS as f64 * p[0]).abs() < 130.0, "{counts:?}");
    for token in 0..4 {
        let count = events(device(), &logits, token, 1.0, 0.0) as f64;
        assert!((count - DRAWS as f64 * p[token as usize]).abs() < 130.0, "token {token}: {count}");
    }
}

/// No token can be drawn from logits that are not numbers; the first row that has some is named.
#[test]
fn logits_that_are_not_finite_are_an_error() {
    let d = device();
    let w = Host::normal(300, 8, 1.0, 5);
    for (row, bad) in [(2, f32::NAN), (0, f32::INFINITY), (4, f32::NEG_INFINITY)] {
        let mut h = Host::normal(5, 8, 1.0, 6);
        h.values[row * 8 + 3] = bad;
        for (temperature, top_p) in [(0.0, 1.0), (1.0, 1.0), (1.0, 0.9)] {
            let choices = vec![choice(temperature, top_p, 7, 0); 5];
            let error = d.choose_tokens(&h.up(d), &w.up(d), &choices, None).unwrap_err();
            assert!(
                matches!(error, colar_engine::Error::Logits { row: r } if r == row),
                "{row}, {bad}: {error}"
            );
        }
    }
    // One row of the output matrix is enough.
    let mut w = w;
    w.values[299 * 8] = f32::NAN;
    let h = Host::normal(1, 8, 1.0, 6);
    assert!(d.choose_tokens(&h.up(d), &w.up(d), &[choice(1.0, 1.0, 7, 0)], None).is_err());
}

/// Past one chunk of logits and several tiles of vocabulary.
#[test]
fn a_larger_vocabulary() {
    device().scope(|| cross_entropy(device(), [131, 24, 33_000], Dtype::Bf16, 4));
}
