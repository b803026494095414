//! The losses: latent (three forms, entropy, deterministic head), the reparameterised draw, and
//! cross-entropy with sampled and with mean labels.

use colar_engine::device::{CrossEntropyGrads, Device, LatentLoss, LatentWeights};

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
    let grads = CrossEntropyGrads { row_scale: &scale, dh: &mut dh, dw: Some(&mut dw) };
    let (h, w) = (inputs[0].up(d), inputs[1].up(d));
    d.cross_entropy(&h, &w, &ids, &offsets, &mut loss, Some(grads)).unwrap();
    let gradients = [read(d, &dh), read(d, &dw)];
    check("cross_entropy", &inputs, &gradients, STEP, TOLERANCE, |x| {
        let mut loss = poisoned(d, ROWS, 1);
        d.cross_entropy(&x[0].up(d), &x[1].up(d), &ids, &offsets, &mut loss, None).unwrap();
        weighted(&row_scale, &read(d, &loss))
    });
}
