//! The losses: latent (three forms, entropy, deterministic head), the reparameterised draw, and
//! cross-entropy with sampled and with mean labels.

use colar_engine::device::prelude::*;
use colar_engine::device::{
    CrossEntropyGrads, LatentLoss, LatentPolicyGrads, LatentWeights, PolicyElement, PolicyObjective,
    PolicyTerms, Upstream,
};

use super::common::float64::policy::policy_loss;
use super::common::float64::{Float64, Float64Tensor};
use super::common::gradient::{check_inputs, weighted};
use super::common::host::{Host, poisoned, read};
use super::cpu;

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
    let mut per_row = poisoned(d, ROWS, 3);
    let (mut dmu, mut dls) = (poisoned(d, ROWS, WIDTH), poisoned(d, ROWS, WIDTH));
    let (mu, log_sigma) = (inputs[0].up(d), inputs.get(1).map(|x| x.up(d)));
    let grads = Some((&mut dmu, log_sigma.is_some().then_some(&mut dls)));
    let noise = eps.up(d);
    d.latent_loss(weights, &mu, log_sigma.as_ref(), Some(&noise), &target.up(d), &mut per_row, grads)
        .unwrap();
    let gradients = [read(d, &dmu), read(d, &dls)];
    let what = format!("{loss:?}, entropy {entropy}");
    let wide = Float64::default();
    let (eps, target) = (eps.up(&wide), target.up(&wide));
    check_inputs(&what, &inputs, &gradients[..inputs.len()], |x| {
        let mut per_row = Float64Tensor::poisoned(ROWS, 3);
        wide.latent_loss(weights, &x[0], x.get(1), Some(&eps), &target, &mut per_row, None).unwrap();
        let [losses, entropies, hits] = [0, 1, 2].map(|c| per_row.column(c).iter().sum::<f64>());
        assert_eq!(hits, 0.0, "no log_sigma is near its bounds");
        // The means over D become the sums that the gradients belong to.
        (f64::from(0.7f32) * losses + f64::from(entropy) * entropies) * WIDTH as f64
    });
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
    let wide = Float64::default();
    let eps = eps.up(&wide);
    check_inputs("reparameterise", &inputs, &halves, |x| {
        let mut out = Float64Tensor::poisoned(ROWS, WIDTH);
        wide.reparameterise(&x[0], Some(&x[1]), &eps, 1.0, &mut out).unwrap();
        weighted(&weights, &out)
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
    let mut loss = poisoned(d, ROWS, 1);
    let mut dh = poisoned(d, ROWS, WIDTH);
    let mut dw = d.zeros(vocab, WIDTH).unwrap();
    let scale = row_scale.up(d);
    let grads = CrossEntropyGrads { upstream: Upstream::Scale(&scale), dh: &mut dh, dw: Some(&mut dw) };
    let (h, w) = (inputs[0].up(d), inputs[1].up(d));
    d.cross_entropy(&h, &w, &d.index(ids).unwrap(), &d.index(offsets).unwrap(), &mut loss, Some(grads))
        .unwrap();
    let gradients = [read(d, &dh), read(d, &dw)];
    let (wide, ids, offsets) = (Float64::default(), ids.to_vec(), offsets.to_vec());
    check_inputs("cross_entropy", &inputs, &gradients, |x| {
        let mut loss = Float64Tensor::poisoned(ROWS, 1);
        wide.cross_entropy(&x[0], &x[1], &ids, &offsets, &mut loss, None).unwrap();
        weighted(&row_scale, &loss)
    });
}

/// Elements on both sides of the clip and with both signs of the advantage, around `logprobs`.
fn elements(logprobs: &[f64]) -> Vec<PolicyElement> {
    let offsets = [0.05f32, -0.05, -0.6, 0.6, 0.02];
    let advantages = [1.3f32, -0.8, 0.9, -1.1, 0.4];
    (logprobs.iter().map(|&lp| lp as f32).zip(offsets).zip(advantages))
        .map(|((lp, offset), advantage)| PolicyElement {
            old: lp + offset,
            reference: lp - 0.3,
            advantage,
            weight: 0.5 + advantage.abs(),
        })
        .collect()
}

const OBJECTIVE: PolicyObjective = PolicyObjective { clip_eps: 0.2, kl_weight: 0.15 };

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
    let wide = Float64::default();
    let wide_latents = latents.up(&wide);
    let forward = |mu: &Float64Tensor, log_sigma: &Float64Tensor| {
        let mut per_row = Float64Tensor::poisoned(ROWS, 3);
        wide.latent_logprob(mu, log_sigma, &wide_latents, &mut per_row, None).unwrap();
        per_row
    };
    let elements = elements(&forward(&inputs[0].up(&wide), &inputs[1].up(&wide)).column(0));
    let rows = upload(d, &elements);
    let (mut dmu, mut dls) = (poisoned(d, ROWS, WIDTH), poisoned(d, ROWS, WIDTH));
    let terms = PolicyTerms { rows: &rows, objective: OBJECTIVE };
    let grads = LatentPolicyGrads { terms, entropy_scale: entropy, dmu: &mut dmu, dlog_sigma: &mut dls };
    let mut per_row = poisoned(d, ROWS, 3);
    let (mu, ls) = (inputs[0].up(d), inputs[1].up(d));
    d.latent_logprob(&mu, &ls, &latents.up(d), &mut per_row, Some(grads)).unwrap();
    let gradients = [read(d, &dmu), read(d, &dls)];
    check_inputs(&format!("latent policy, entropy {entropy}"), &inputs, &gradients, |x| {
        let per_row = forward(&x[0], &x[1]);
        let (loss, _) = policy_loss(&elements, &per_row.column(0), OBJECTIVE);
        loss + f64::from(entropy) * WIDTH as f64 * per_row.column(1).iter().sum::<f64>()
    });
}

#[test]
fn policy_of_answers() {
    answer_policy(&cpu());
}

fn answer_policy<D: Device>(d: &D) {
    let vocab = 37;
    let inputs = [Host::normal(ROWS, WIDTH, 0.5, 24), Host::normal(vocab, WIDTH, 0.3, 25)];
    let (ids, offsets) = (vec![4, 0, 11, 4, 36], vec![0, 1, 2, 3, 4, 5]);
    let wide = Float64::default();
    let forward = |h: &Float64Tensor, w: &Float64Tensor| {
        let mut loss = Float64Tensor::poisoned(ROWS, 1);
        wide.cross_entropy(h, w, &ids, &offsets, &mut loss, None).unwrap();
        loss.values.iter().map(|l| -l).collect::<Vec<f64>>()
    };
    let elements = elements(&forward(&inputs[0].up(&wide), &inputs[1].up(&wide)));
    let rows = upload(d, &elements);
    let upstream = Upstream::Policy(PolicyTerms { rows: &rows, objective: OBJECTIVE });
    let (mut loss, mut dh) = (poisoned(d, ROWS, 1), poisoned(d, ROWS, WIDTH));
    let mut dw = d.zeros(vocab, WIDTH).unwrap();
    let grads = CrossEntropyGrads { upstream, dh: &mut dh, dw: Some(&mut dw) };
    let (h, w) = (inputs[0].up(d), inputs[1].up(d));
    let (at, ends) = (d.index(&ids).unwrap(), d.index(&offsets).unwrap());
    d.cross_entropy(&h, &w, &at, &ends, &mut loss, Some(grads)).unwrap();
    let gradients = [read(d, &dh), read(d, &dw)];
    check_inputs("answer policy", &inputs, &gradients, |x| {
        policy_loss(&elements, &forward(&x[0], &x[1]), OBJECTIVE).0
    });
}
