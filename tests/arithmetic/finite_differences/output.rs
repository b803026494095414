//! The losses: latent (three forms, entropy, deterministic head), the reparameterised draw, and
//! cross-entropy with sampled and with mean labels.

use colar_engine::device::{
    CrossEntropyGrads, Device, LatentLoss, LatentPolicyGrads, LatentWeights, PolicyElement, PolicyObjective,
    PolicyTerms, Upstream,
};

use super::common::gradient::{check, weighted};
use super::common::host::{Host, poisoned, read};
use super::{STEP, TOLERANCE, cpu};

const ROWS: usize = 5;
const WIDTH: usize = 19;

#[test]
fn latent_losses() {
    for loss in [LatentLoss::Nll, LatentLoss::Mse, LatentLoss::MseExpected] {
        for entropy in [0.0, -0.3] {
            latent_loss(&cpu(), loss, entropy, false);
        }
    }
}

#[test]
fn latent_losses_of_the_deterministic_head() {
    // The likelihood of a standard deviation of 1e-9 has no meaningful finite difference.
    for loss in [LatentLoss::Mse, LatentLoss::MseExpected] {
        latent_loss(&cpu(), loss, 0.0, true);
    }
}

fn latent_loss<D: Device>(d: &D, loss: LatentLoss, entropy: f32, deterministic: bool) {
    let mut inputs = vec![Host::normal(ROWS, WIDTH, 1.0, 1), Host::normal(ROWS, WIDTH, 0.5, 2)];
    inputs.truncate(if deterministic { 1 } else { 2 });
    let (eps, target) = (Host::normal(ROWS, WIDTH, 1.0, 3), Host::normal(ROWS, WIDTH, 1.0, 4));
    let weights = LatentWeights { loss, loss_scale: 0.7, entropy_scale: entropy };
    let run = |x: &[Host], grads: bool| {
        let mut per_row = poisoned(d, ROWS, 3);
        let (mut dmu, mut dls) = (poisoned(d, ROWS, WIDTH), poisoned(d, ROWS, WIDTH));
        let log_sigma = x.get(1).map(|x| x.up(d));
        let wanted = grads.then_some((&mut dmu, log_sigma.is_some().then_some(&mut dls)));
        let (eps, target) = (eps.up(d), target.up(d));
        d.latent_loss(weights, &x[0].up(d), log_sigma.as_ref(), Some(&eps), &target, &mut per_row, wanted)
            .unwrap();
        let sums = read(d, &per_row).chunks(3).fold([0.0; 3], |s, row| {
            let row = [0, 1, 2].map(|i| f64::from(row[i]));
            [s[0] + row[0], s[1] + row[1], s[2] + row[2]]
        });
        assert_eq!(sums[2], 0.0, "no log_sigma is near its bounds");
        // The means over D become the sums that the gradients belong to.
        let total = (0.7 * sums[0] + f64::from(entropy) * sums[1]) * WIDTH as f64;
        (total, [read(d, &dmu), read(d, &dls)])
    };
    let (_, gradients) = run(&inputs, true);
    let what = format!("{loss:?}, entropy {entropy}");
    check(&what, &inputs, &gradients[..inputs.len()], STEP, TOLERANCE, |x| run(x, false).0);
}

#[test]
fn reparameterised_draw() {
    reparameterise(&cpu());
}

fn reparameterise<D: Device>(d: &D) {
    let inputs = [Host::normal(ROWS, WIDTH, 1.0, 5), Host::normal(ROWS, WIDTH, 0.5, 6)];
    let (eps, weights) = (Host::normal(ROWS, WIDTH, 1.0, 7), Host::normal(ROWS, WIDTH, 1.0, 8));
    let (mut dmu, mut dls) = (d.zeros(ROWS, WIDTH).unwrap(), d.zeros(ROWS, WIDTH).unwrap());
    let log_sigma = inputs[1].up(d);
    for _ in 0..2 {
        // Twice, since the gradients are added.
        d.reparameterise_backward(&weights.up(d), Some(&log_sigma), &eps.up(d), &mut dmu, Some(&mut dls))
            .unwrap();
    }
    let halves = [read(d, &dmu), read(d, &dls)].map(|g| g.iter().map(|g| g / 2.0).collect::<Vec<_>>());
    check("reparameterise", &inputs, &halves, STEP, TOLERANCE, |x| {
        let mut out = poisoned(d, ROWS, WIDTH);
        d.reparameterise(&x[0].up(d), Some(&x[1].up(d)), &eps.up(d), 1.0, &mut out).unwrap();
        weighted(&weights, &read(d, &out))
    });
}

#[test]
fn cross_entropy_of_sampled_labels() {
    cross_entropy(&cpu(), &[4, 0, 11, 4, 36], &[0, 1, 2, 3, 4, 5]);
}

#[test]
fn cross_entropy_of_mean_labels() {
    // A chunk may hold a token twice.
    cross_entropy(&cpu(), &[4, 0, 11, 4, 36, 36, 7, 2], &[0, 1, 4, 6, 7, 8]);
}

fn cross_entropy<D: Device>(d: &D, ids: &[u32], offsets: &[u32]) {
    let vocab = 37;
    let inputs = [Host::normal(ROWS, WIDTH, 1.0, 9), Host::normal(vocab, WIDTH, 0.5, 10)];
    let row_scale = Host::normal(ROWS, 1, 1.0, 11);
    let (ids, offsets) = (d.index(ids).unwrap(), d.index(offsets).unwrap());
    let mut loss = poisoned(d, ROWS, 1);
    let mut dh = poisoned(d, ROWS, WIDTH);
    let mut dw = d.zeros(vocab, WIDTH).unwrap();
    let scale = row_scale.up(d);
    let grads = CrossEntropyGrads { upstream: Upstream::Scale(&scale), dh: &mut dh, dw: Some(&mut dw) };
    let (h, w) = (inputs[0].up(d), inputs[1].up(d));
    d.cross_entropy(&h, &w, &ids, &offsets, &mut loss, Some(grads)).unwrap();
    let gradients = [read(d, &dh), read(d, &dw)];
    check("cross_entropy", &inputs, &gradients, STEP, TOLERANCE, |x| {
        let mut loss = poisoned(d, ROWS, 1);
        d.cross_entropy(&x[0].up(d), &x[1].up(d), &ids, &offsets, &mut loss, None).unwrap();
        weighted(&row_scale, &read(d, &loss))
    });
}

/// Elements on both sides of the clip and with both signs of the advantage, around `logprobs`.
fn elements(logprobs: &[f32]) -> Vec<PolicyElement> {
    let offsets = [0.05f32, -0.05, -0.6, 0.6, 0.02];
    let advantages = [1.3f32, -0.8, 0.9, -1.1, 0.4];
    (logprobs.iter().zip(offsets).zip(advantages))
        .map(|((&lp, offset), advantage)| PolicyElement {
            old: lp + offset,
            reference: lp - 0.3,
            advantage,
            weight: 0.5 + advantage.abs(),
        })
        .collect()
}

const OBJECTIVE: PolicyObjective = PolicyObjective { clip_eps: 0.2, kl_weight: 0.15 };

/// The weighted objective in float64, from log-probabilities.
fn policy_loss(elements: &[PolicyElement], logprobs: &[f32]) -> f64 {
    let each = elements.iter().zip(logprobs).map(|(e, &lp)| {
        let ratio = (f64::from(lp) - f64::from(e.old)).exp();
        let a = f64::from(e.advantage);
        let gap = f64::from(e.reference) - f64::from(lp);
        let surrogate = (ratio * a).min(ratio.clamp(0.8, 1.2) * a);
        f64::from(e.weight) * (-surrogate + f64::from(OBJECTIVE.kl_weight) * (gap.exp() - gap - 1.0))
    });
    each.sum()
}

fn upload<D: Device>(d: &D, elements: &[PolicyElement]) -> D::Tensor {
    d.upload(elements.len(), 4, bytemuck::cast_slice(elements)).unwrap()
}

#[test]
fn policy_of_latents() {
    for entropy in [0.0, -0.3] {
        latent_policy(&cpu(), entropy);
    }
}

fn latent_policy<D: Device>(d: &D, entropy: f32) {
    let inputs = [Host::normal(ROWS, WIDTH, 1.0, 21), Host::normal(ROWS, WIDTH, 0.3, 22)];
    let latents = Host::normal(ROWS, WIDTH, 1.0, 23);
    let forward = |x: &[Host]| {
        let mut per_row = poisoned(d, ROWS, 3);
        d.latent_logprob(&x[0].up(d), &x[1].up(d), &latents.up(d), &mut per_row, None).unwrap();
        let rows = read(d, &per_row);
        let column = |c: usize| rows.chunks(3).map(|r| r[c]).collect::<Vec<f32>>();
        (column(0), column(1))
    };
    let elements = elements(&forward(&inputs).0);
    let rows = upload(d, &elements);
    let (mut dmu, mut dls) = (poisoned(d, ROWS, WIDTH), poisoned(d, ROWS, WIDTH));
    let terms = PolicyTerms { rows: &rows, objective: OBJECTIVE };
    let grads = LatentPolicyGrads { terms, entropy_scale: entropy, dmu: &mut dmu, dlog_sigma: &mut dls };
    let mut per_row = poisoned(d, ROWS, 3);
    let (mu, ls) = (inputs[0].up(d), inputs[1].up(d));
    d.latent_logprob(&mu, &ls, &latents.up(d), &mut per_row, Some(grads)).unwrap();
    let gradients = [read(d, &dmu), read(d, &dls)];
    check(&format!("latent policy, entropy {entropy}"), &inputs, &gradients, STEP / 10.0, TOLERANCE, |x| {
        let (logprobs, entropies) = forward(x);
        let sum: f64 = entropies.iter().map(|&e| f64::from(e)).sum();
        policy_loss(&elements, &logprobs) + f64::from(entropy) * WIDTH as f64 * sum
    });
}

#[test]
fn policy_of_answers() {
    answer_policy(&cpu());
}

fn answer_policy<D: Device>(d: &D) {
    let vocab = 37;
    let inputs = [Host::normal(ROWS, WIDTH, 0.5, 24), Host::normal(vocab, WIDTH, 0.3, 25)];
    let ids = d.index(&[4, 0, 11, 4, 36]).unwrap();
    let offsets = d.index(&[0, 1, 2, 3, 4, 5]).unwrap();
    let forward = |x: &[Host]| {
        let mut loss = poisoned(d, ROWS, 1);
        d.cross_entropy(&x[0].up(d), &x[1].up(d), &ids, &offsets, &mut loss, None).unwrap();
        read(d, &loss).iter().map(|l| -l).collect::<Vec<f32>>()
    };
    let elements = elements(&forward(&inputs));
    let rows = upload(d, &elements);
    let upstream = Upstream::Policy(PolicyTerms { rows: &rows, objective: OBJECTIVE });
    let (mut loss, mut dh) = (poisoned(d, ROWS, 1), poisoned(d, ROWS, WIDTH));
    let mut dw = d.zeros(vocab, WIDTH).unwrap();
    let grads = CrossEntropyGrads { upstream, dh: &mut dh, dw: Some(&mut dw) };
    let (h, w) = (inputs[0].up(d), inputs[1].up(d));
    d.cross_entropy(&h, &w, &ids, &offsets, &mut loss, Some(grads)).unwrap();
    let gradients = [read(d, &dh), read(d, &dw)];
    check("answer policy", &inputs, &gradients, STEP / 10.0, TOLERANCE, |x| {
        policy_loss(&elements, &forward(x))
    });
}
