//! Gradients with activations in bf16, against float32 arithmetic on the same rounded operands: those of activations
//! are rounded once, those of weights are float32 sums.

use colar_engine::device::cpu::CpuDevice;
use colar_engine::device::prelude::*;
use colar_engine::device::{
    CrossEntropyGrads, Dtype, LatentLoss, LatentPolicyGrads, LatentWeights, PolicyElement, PolicyObjective,
    PolicyTerms, Upstream,
};
use proptest::prelude::*;

use super::bf16::{ROUNDING, close, device, empty, rounded, up};
use super::common::gradient::norm;
use super::common::host::{Host, poisoned, read};
use super::output::{less_labels, logits, softmax};
use super::{config, dtype, size};

/// Float32 results of the same operands, of sums over `terms` terms of order 1.
fn close_sums(what: &str, got: &[f32], want: &[f32], terms: usize) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let bound = 1e-5 * (f64::from(want).abs() + (terms as f64).sqrt() + 1.0);
        let error = (f64::from(got) - f64::from(want)).abs();
        assert!(error <= bound, "{what}, {i}: {got} instead of {want}");
    }
}

fn cpu() -> CpuDevice {
    CpuDevice::new(1).unwrap()
}

/// Losses of labels and their gradients, for either upstream.
fn labels(
    [rows, hidden, vocab]: [usize; 3],
    weight: Dtype,
    chunk: usize,
    policy: bool,
    seed: u64,
) -> Result<(), TestCaseError> {
    let (d, c) = (device().clone().with_loss_chunks(chunk), cpu());
    let h = rounded(rows, hidden, seed);
    let (w, host) = Host::normal(vocab, hidden, 0.5, seed + 1).adopt(&d, weight);
    let host = host.rounded();
    // One to three ids, the first of them twice where there are three.
    let (mut ids, mut offsets) = (Vec::new(), vec![0u32]);
    for r in 0..rows {
        let id = |i: usize| ((r * 31 + i * 7 + seed as usize) % vocab) as u32;
        ids.extend((0..1 + r % 3).map(|i| id(i % 2)));
        offsets.push(ids.len() as u32);
    }
    let scale = Host::normal(rows, 1, 1.0, seed + 2);
    let element = |r: usize| PolicyElement {
        old: -3.0 - (r % 4) as f32,
        reference: -4.0,
        advantage: scale.values[r],
        weight: 0.5,
    };
    let elements: Vec<PolicyElement> = (0..rows).map(element).collect();
    let elements = Host::new(rows, 4, bytemuck::cast_slice(&elements).to_vec());
    // A clip so wide that no rounding carries a ratio across it.
    let objective = PolicyObjective { clip_eps: 1e9, kl_weight: 0.1 };

    let before = Host::normal(vocab, hidden, 1.0, seed + 3);
    let (scale_d, terms_d) = (scale.up(&d), elements.up(&d));
    let upstream = if policy {
        Upstream::Policy(PolicyTerms { rows: &terms_d, objective })
    } else {
        Upstream::Scale(&scale_d)
    };
    let (mut loss, mut dh, mut dw) = (poisoned(&d, rows, 1), empty(rows, hidden), before.up(&d));
    let (ids_d, offsets_d) = (d.index(&ids).unwrap(), d.index(&offsets).unwrap());
    let grads = CrossEntropyGrads { upstream, dh: &mut dh, dw: Some(&mut dw) };
    d.cross_entropy(&up(&h), &w, &ids_d, &offsets_d, &mut loss, Some(grads)).unwrap();

    let (scale_c, terms_c) = (scale.up(&c), elements.up(&c));
    let upstream = if policy {
        Upstream::Policy(PolicyTerms { rows: &terms_c, objective })
    } else {
        Upstream::Scale(&scale_c)
    };
    let (mut want, mut want_dh, mut want_dw) =
        (poisoned(&c, rows, 1), poisoned(&c, rows, hidden), before.up(&c));
    let (ids_c, offsets_c) = (c.index(&ids).unwrap(), c.index(&offsets).unwrap());
    let grads = CrossEntropyGrads { upstream, dh: &mut want_dh, dw: Some(&mut want_dw) };
    c.cross_entropy(&h.up(&c), &host.up(&c), &ids_c, &offsets_c, &mut want, Some(grads)).unwrap();

    let want_loss = read(&c, &want);
    close_sums("loss", &read(&d, &loss), &want_loss, hidden);
    prop_assert_eq!(dh.dtype(), Dtype::Bf16);
    // Each gradient of a logit is rounded to bf16, once, before its products, by an error of its own: the errors add up
    // like the terms of the products would if their signs were drawn, however much of the sum itself cancels.
    let slopes: Vec<f64> = (0..rows)
        .map(|r| match policy {
            true => f64::from(element(r).gradient(-want_loss[r], objective)),
            false => f64::from(scale.values[r]),
        })
        .collect();
    let squares =
        |m: &Host| -> Vec<f64> { (0..m.rows).map(|i| m.row(i).iter().map(|x| x * x).sum()).collect() };
    let (of_h, of_w) = (squares(&h), squares(&host));
    let (mut terms_dh, mut terms_dw) = (0.0, 0.0);
    for (r, slope) in slopes.iter().enumerate() {
        let labels = &ids[offsets[r] as usize..offsets[r + 1] as usize];
        for (v, g) in less_labels(&softmax(&logits(&h, &host, r)), labels).into_iter().enumerate() {
            terms_dh += (slope * g).powi(2) * of_w[v];
            terms_dw += (slope * g).powi(2) * of_h[r];
        }
    }
    // If a probability is nearly 1, the gradient of its logit is little more than float32's own error.
    let float = 1e-5 * slopes.iter().map(|s| s * s).sum::<f64>().sqrt();
    let (dh, dw, want_dh, want_dw) = (read(&d, &dh), read(&d, &dw), read(&c, &want_dh), read(&c, &want_dw));
    // The result of dh is rounded as well.
    let whole = norm(&want_dh);
    for (what, got, want, bound) in [
        ("dh", dh, &want_dh, ROUNDING * (2.0 * terms_dh.sqrt() + whole) + float),
        ("dw", dw, &want_dw, 2.0 * ROUNDING * terms_dw.sqrt() + 1e-6 * norm(&want_dw) + float),
    ] {
        let gaps: Vec<f32> = got.iter().zip(want).map(|(a, b)| a - b).collect();
        let gap = norm(&gaps);
        prop_assert!(gap <= bound, "{}: off by {}, beyond {}", what, gap, bound);
    }
    Ok(())
}

proptest! {
    #![proptest_config(config(48))]

    /// Weights are rounded to bf16 as operands, and their gradients are float32.
    #[test]
    fn products(
        m in size(), n in size(), k in size(), weight in dtype(),
        beta in prop::sample::select(vec![0.0f32, 1.0]), seed in any::<u32>(),
    ) {
        let (d, c, seed) = (device(), cpu(), u64::from(seed));
        let [dy, x] = [(n, 0), (k, 1)].map(|(cols, i)| rounded(m, cols, seed + i));
        let (w, host) = Host::normal(n, k, 1.0, seed + 2).adopt(d, weight);
        let before = rounded(m, k, seed + 3);
        let (mut dx, mut want) = (up(&before), before.up(&c));
        d.matmul_nn(0.5, &up(&dy), &w, beta, &mut dx).unwrap();
        c.matmul_nn(0.5, &dy.up(&c), &host.rounded().up(&c), beta, &mut want).unwrap();
        close("matmul_nn", &dx, &read(&c, &want), 1e-4);

        let before = Host::normal(n, k, 1.0, seed + 4);
        let (mut dw, mut want) = (before.up(d), before.up(&c));
        d.matmul_tn(0.5, &up(&dy), &up(&x), beta, &mut dw).unwrap();
        c.matmul_tn(0.5, &dy.up(&c), &x.up(&c), beta, &mut want).unwrap();
        close_sums("matmul_tn", &read(d, &dw), &read(&c, &want), m);
    }

    #[test]
    fn rows(
        rows in prop_oneof![size(), Just(600)], cols in size(), vocab in size(), seed in any::<u32>(),
    ) {
        let (d, c, seed) = (device(), cpu(), u64::from(seed));
        let dy = rounded(rows, cols, seed);
        let bias = Host::normal(1, cols, 1.0, seed + 1);
        let (mut db, mut want) = (bias.up(d), bias.up(&c));
        d.add_bias_backward(&up(&dy), &mut db).unwrap();
        c.add_bias_backward(&dy.up(&c), &mut want).unwrap();
        close_sums("add_bias_backward", &read(d, &db), &read(&c, &want), rows);

        let ids: Vec<u32> = (0..2 * rows).map(|i| ((i * i + seed as usize) % vocab) as u32).collect();
        let offsets: Vec<u32> = (0..=rows as u32).map(|r| 2 * r).collect();
        let (scale, before) = (Host::normal(rows, 1, 1.0, seed + 2), Host::normal(vocab, cols, 1.0, seed + 3));
        let (mut dtable, mut want) = (before.up(d), before.up(&c));
        let (ids_d, offsets_d) = (d.index(&ids).unwrap(), d.index(&offsets).unwrap());
        d.gather_merge_backward(&up(&dy), &ids_d, &offsets_d, &scale.up(d), &mut dtable).unwrap();
        c.gather_merge_backward(&dy.up(&c), &ids, &offsets, &scale.up(&c), &mut want).unwrap();
        close_sums("gather_merge_backward", &read(d, &dtable), &read(&c, &want), 2 * rows);
    }

    #[test]
    fn latents(
        rows in size(), cols in size(), deterministic in any::<bool>(),
        loss in prop::sample::select(vec![LatentLoss::Nll, LatentLoss::Mse, LatentLoss::MseExpected]),
        seed in any::<u32>(),
    ) {
        let (d, c, seed) = (device(), cpu(), u64::from(seed));
        let [mu, eps, target, before] = [0, 1, 2, 3].map(|i| rounded(rows, cols, seed + i));
        let mut log_sigma = rounded(rows, cols, seed + 4);
        // Some beyond the bounds.
        log_sigma.values.iter_mut().step_by(7).for_each(|x| *x = 30.0);
        let given = !deterministic;
        let (mine_ls, their_ls) = (up(&log_sigma), log_sigma.up(&c));
        let (mine_ls, their_ls) = (given.then_some(&mine_ls), given.then_some(&their_ls));

        let ([mut dmu, mut dls], [mut want_mu, mut want_ls]) =
            ([up(&before), up(&before)], [before.up(&c), before.up(&c)]);
        d.reparameterise_backward(&up(&target), mine_ls, &up(&eps), &mut dmu, Some(&mut dls)).unwrap();
        c.reparameterise_backward(&target.up(&c), their_ls, &eps.up(&c), &mut want_mu, Some(&mut want_ls)).unwrap();
        close("reparameterise_backward, mu", &dmu, &read(&c, &want_mu), 1e-6);
        close("reparameterise_backward, log_sigma", &dls, &read(&c, &want_ls), 1e-5);

        let weights = LatentWeights { loss, loss_scale: 0.3, entropy_scale: -0.2 };
        let (mut stats, mut want_stats) = (poisoned(d, rows, 3), poisoned(&c, rows, 3));
        let (mine_eps, their_eps) = (up(&eps), eps.up(&c));
        let grads = Some((&mut dmu, given.then_some(&mut dls)));
        d.latent_loss(weights, &up(&mu), mine_ls, Some(&mine_eps), &up(&target), &mut stats, grads).unwrap();
        let (their_mu, their_target) = (mu.up(&c), target.up(&c));
        let grads = Some((&mut want_mu, given.then_some(&mut want_ls)));
        c.latent_loss(weights, &their_mu, their_ls, Some(&their_eps), &their_target, &mut want_stats, grads)
            .unwrap();
        for (got, want) in read(d, &stats).iter().zip(read(&c, &want_stats)) {
            prop_assert!((got - want).abs() <= 2e-5 * want.abs() + 1e-4, "{} instead of {}", got, want);
        }
        close("latent_loss, dmu", &dmu, &read(&c, &want_mu), 1e-4);
        close("latent_loss, dlog_sigma", &dls, &read(&c, &want_ls), 1e-4);
    }

    #[test]
    fn logprobs(rows in size(), cols in size(), seed in any::<u32>()) {
        let (d, c, seed) = (device(), cpu(), u64::from(seed));
        let [mu, mut log_sigma, latents] = [0, 1, 2].map(|i| rounded(rows, cols, seed + i));
        log_sigma.values.iter_mut().step_by(7).for_each(|x| *x = 30.0);
        let (mut stats, mut want) = (poisoned(d, rows, 3), poisoned(&c, rows, 3));
        let (their_mu, their_ls, their_latents) = (mu.up(&c), log_sigma.up(&c), latents.up(&c));
        c.latent_logprob(&their_mu, &their_ls, &their_latents, &mut want, None).unwrap();
        // Ratios within the clip and beyond it on either side.
        let logprob = read(&c, &want);
        let elements: Vec<PolicyElement> = (0..rows)
            .map(|r| PolicyElement {
                old: logprob[3 * r] + [0.0, 0.5, -0.5][r % 3],
                reference: logprob[3 * r] + [0.3, -0.2][r % 2],
                advantage: [0.7, -1.2][r % 2],
                weight: 0.5,
            })
            .collect();
        let elements = Host::new(rows, 4, bytemuck::cast_slice(&elements).to_vec());
        let objective = PolicyObjective { clip_eps: 0.2, kl_weight: 0.3 };

        let (mut dmu, mut dls, terms) = (empty(rows, cols), empty(rows, cols), elements.up(d));
        let terms = PolicyTerms { rows: &terms, objective };
        let grads = LatentPolicyGrads { terms, entropy_scale: -0.2, dmu: &mut dmu, dlog_sigma: &mut dls };
        d.latent_logprob(&up(&mu), &up(&log_sigma), &up(&latents), &mut stats, Some(grads)).unwrap();
        let (mut want_mu, mut want_ls) = (poisoned(&c, rows, cols), poisoned(&c, rows, cols));
        let terms = elements.up(&c);
        let terms = PolicyTerms { rows: &terms, objective };
        let grads = LatentPolicyGrads { terms, entropy_scale: -0.2, dmu: &mut want_mu, dlog_sigma: &mut want_ls };
        c.latent_logprob(&their_mu, &their_ls, &their_latents, &mut want, Some(grads)).unwrap();
        for (got, want) in read(d, &stats).iter().zip(read(&c, &want)) {
            prop_assert!((got - want).abs() <= 2e-5 * want.abs() + 1e-4, "{} instead of {}", got, want);
        }
        close("latent_logprob, dmu", &dmu, &read(&c, &want_mu), 1e-4);
        close("latent_logprob, dlog_sigma", &dls, &read(&c, &want_ls), 1e-4);
    }

    /// Few rows and many, in one chunk and in several of one row or more.
    #[test]
    fn labels_of_either_upstream(
        rows in size(), hidden in size(), vocab in size(), weight in dtype(),
        chunk in prop::sample::select(vec![1usize, 1000, 1 << 20]), policy in any::<bool>(), seed in any::<u32>(),
    ) {
        labels([rows, hidden, vocab], weight, chunk, policy, u64::from(seed))?;
    }
}

/// More rows than a chunk's multiple.
#[test]
fn labels_in_chunks_of_whole_tiles() {
    labels([300, 40, 50], Dtype::F32, 50 * 140, false, 1).unwrap();
}
