//! Noise, the reparameterised draw, and the latent losses with their bounds.

use colar_engine::device::prelude::*;
use colar_engine::device::{
    DETERMINISTIC_SIGMA, Draw, LOG_SIGMA_RANGE, LatentLoss, LatentPolicyGrads, LatentWeights, PolicyElement,
    PolicyObjective, PolicyTerms,
};
use proptest::prelude::*;

use super::common::host::{Host, close, poisoned, read};
use super::{config, device, size};

/// Exponentials of log_sigma, and their squares.
const TOLERANCE: f64 = 1e-5;

/// log_sigma with some elements beyond either bound.
fn log_sigmas(rows: usize, cols: usize, seed: u64) -> Host {
    let mut ls = Host::normal(rows, cols, 1.0, seed);
    for (i, x) in ls.values.iter_mut().enumerate() {
        match i % 11 {
            3 => *x -= 40.0,
            7 => *x += 30.0,
            _ => {}
        }
    }
    ls
}

/// log_sigma after its bounds, and whether they were met.
fn bound(log_sigma: f64) -> (f64, bool) {
    let (low, high) = (f64::from(LOG_SIGMA_RANGE.0), f64::from(LOG_SIGMA_RANGE.1));
    (log_sigma.clamp(low, high), log_sigma < low || log_sigma > high)
}

struct Case {
    mu: Host,
    log_sigma: Option<Host>,
    eps: Host,
    target: Host,
}

impl Case {
    fn new(rows: usize, cols: usize, deterministic: bool, seed: u64) -> Self {
        Case {
            mu: Host::normal(rows, cols, 1.0, seed),
            log_sigma: (!deterministic).then(|| log_sigmas(rows, cols, seed + 1)),
            eps: Host::normal(rows, cols, 1.0, seed + 2),
            target: Host::normal(rows, cols, 1.0, seed + 3),
        }
    }

    /// log_sigma of element i after its bounds, and whether its gradient is cut.
    fn sigma(&self, i: usize) -> (f64, bool) {
        match &self.log_sigma {
            Some(ls) => bound(f64::from(ls.values[i])),
            None => (f64::from(DETERMINISTIC_SIGMA).ln(), true),
        }
    }
}

fn draws<D: Device>(d: &D, case: &Case, temperature: f32) {
    let (rows, cols) = (case.mu.rows, case.mu.cols);
    let (mu, eps) = (case.mu.up(d), case.eps.up(d));
    let log_sigma = case.log_sigma.as_ref().map(|x| x.up(d));
    let mut z = poisoned(d, rows, cols);
    d.reparameterise(&mu, log_sigma.as_ref(), &eps, temperature, &mut z).unwrap();
    let each = |f: &dyn Fn(usize) -> (f64, f64)| (0..rows * cols).map(f).collect::<Vec<_>>();
    let f = |x: &Host, i: usize| f64::from(x.values[i]);
    let want = each(&|i| {
        let noise = case.sigma(i).0.exp() * f64::from(temperature) * f(&case.eps, i);
        (f(&case.mu, i) + noise, f(&case.mu, i).abs() + noise.abs())
    });
    close("reparameterise", &read(d, &z), &want, TOLERANCE);

    // The gradients are added to what is there.
    let dz = &case.target;
    let (mut dmu, mut dls) = (case.mu.up(d), case.eps.up(d));
    let wanted = log_sigma.is_some().then_some(&mut dls);
    d.reparameterise_backward(&dz.up(d), log_sigma.as_ref(), &eps, &mut dmu, wanted).unwrap();
    let want = each(&|i| (f(&case.mu, i) + f(dz, i), f(&case.mu, i).abs() + f(dz, i).abs()));
    close("reparameterise_backward, mu", &read(d, &dmu), &want, TOLERANCE);
    let want = each(&|i| {
        let (ls, cut) = case.sigma(i);
        let term = if cut { 0.0 } else { f(dz, i) * ls.exp() * f(&case.eps, i) };
        (f(&case.eps, i) + term, f(&case.eps, i).abs() + term.abs())
    });
    close("reparameterise_backward, log_sigma", &read(d, &dls), &want, TOLERANCE);
}

fn losses<D: Device>(d: &D, case: &Case, loss: LatentLoss) {
    let (rows, cols) = (case.mu.rows, case.mu.cols);
    let weights = LatentWeights { loss, loss_scale: 0.3, entropy_scale: -0.2 };
    let half_log_tau = 0.5 * std::f64::consts::TAU.ln();
    // Loss, slope at mu, slope at log_sigma, and the size of what the loss was summed from.
    let element = |i: usize| -> [f64; 4] {
        let (ls, _) = case.sigma(i);
        let sigma = ls.exp();
        let gap = f64::from(case.mu.values[i]) - f64::from(case.target.values[i]);
        let size = f64::from(case.mu.values[i]).abs() + f64::from(case.target.values[i]).abs();
        match loss {
            LatentLoss::Nll => {
                let (z, zs) = (gap / sigma, size / sigma);
                [0.5 * z * z + ls + half_log_tau, z / sigma, 1.0 - z * z, zs * zs + ls.abs() + 1.0]
            }
            LatentLoss::Mse => {
                let noise = sigma * f64::from(case.eps.values[i]);
                let r = gap + noise;
                [r * r, 2.0 * r, 2.0 * r * noise, (size + noise.abs()).powi(2)]
            }
            LatentLoss::MseExpected => {
                let var = sigma * sigma;
                [gap * gap + var, 2.0 * gap, 2.0 * var, size * size + var]
            }
        }
    };
    for with_grads in [true, false] {
        let log_sigma = case.log_sigma.as_ref().map(|x| x.up(d));
        let mut per_row = poisoned(d, rows, 3);
        let (mut dmu, mut dls) = (poisoned(d, rows, cols), poisoned(d, rows, cols));
        let grads = with_grads.then_some((&mut dmu, log_sigma.is_some().then_some(&mut dls)));
        // Only the sampled form needs noise.
        let eps = case.eps.up(d);
        let eps = (loss == LatentLoss::Mse).then_some(&eps);
        let (mu, target) = (case.mu.up(d), case.target.up(d));
        d.latent_loss(weights, &mu, log_sigma.as_ref(), eps, &target, &mut per_row, grads).unwrap();
        let mut want = Vec::new();
        for r in 0..rows {
            let row = || r * cols..(r + 1) * cols;
            let mean = |f: &dyn Fn(usize) -> f64| row().map(f).sum::<f64>() / cols as f64;
            want.push((mean(&|i| element(i)[0]), mean(&|i| element(i)[3])));
            want.push((mean(&|i| 0.5 + half_log_tau + case.sigma(i).0), mean(&|i| case.sigma(i).0.abs())));
            let hits = row().filter(|&i| case.log_sigma.is_some() && case.sigma(i).1).count();
            want.push((hits as f64, 0.0));
        }
        close(&format!("{loss:?}, per row"), &read(d, &per_row), &want, TOLERANCE);
        if !with_grads {
            continue;
        }
        let f = |x: &Host, i: usize| f64::from(x.values[i]).abs();
        let want: Vec<_> = (0..rows * cols)
            .map(|i| {
                let [_, slope, _, size] = element(i);
                let unit = match loss {
                    LatentLoss::Nll => (f(&case.mu, i) + f(&case.target, i)) / (2.0 * case.sigma(i).0).exp(),
                    _ => 2.0 * size.sqrt(),
                };
                (0.3 * slope, unit)
            })
            .collect();
        close(&format!("{loss:?}, dmu"), &read(d, &dmu), &want, TOLERANCE);
        if case.log_sigma.is_some() {
            let want: Vec<_> = (0..rows * cols)
                .map(|i| {
                    let [_, _, slope, size] = element(i);
                    // Beyond its bounds log_sigma does not matter, to loss or entropy.
                    if case.sigma(i).1 { (0.0, 0.0) } else { (0.3 * slope - 0.2, 2.0 * size + 1.0) }
                })
                .collect();
            close(&format!("{loss:?}, dlog_sigma"), &read(d, &dls), &want, TOLERANCE);
        }
    }
}

/// Log-densities and the gradient of a policy objective on them.
fn logprobs<D: Device>(d: &D, case: &Case) {
    let (rows, cols) = (case.mu.rows, case.mu.cols);
    let half_log_tau = 0.5 * std::f64::consts::TAU.ln();
    let f = |x: &Host, i: usize| f64::from(x.values[i]);
    let z = |i: usize| (f(&case.target, i) - f(&case.mu, i)) / case.sigma(i).0.exp();
    let size = |i: usize| (f(&case.target, i).abs() + f(&case.mu, i).abs()) / case.sigma(i).0.exp();
    let (mu, target) = (case.mu.up(d), case.target.up(d));
    let log_sigma = case.log_sigma.as_ref().unwrap().up(d);
    let mut per_row = poisoned(d, rows, 3);
    d.latent_logprob(&mu, &log_sigma, &target, &mut per_row, None).unwrap();
    let mut want = Vec::new();
    for r in 0..rows {
        let mean = |f: &dyn Fn(usize) -> f64| (r * cols..(r + 1) * cols).map(f).sum::<f64>() / cols as f64;
        want.push((
            mean(&|i| -0.5 * z(i) * z(i) - case.sigma(i).0 - half_log_tau),
            mean(&|i| size(i) * size(i) + case.sigma(i).0.abs() + 1.0),
        ));
        want.push((mean(&|i| 0.5 + half_log_tau + case.sigma(i).0), mean(&|i| case.sigma(i).0.abs())));
        want.push(((r * cols..(r + 1) * cols).filter(|&i| case.sigma(i).1).count() as f64, 0.0));
    }
    let logprob = read(d, &per_row);
    close("latent_logprob, per row", &logprob, &want, TOLERANCE);

    // Where old and new agree the ratio is 1: the gradient is −weight · advantage a log-probability.
    let elements: Vec<PolicyElement> = (0..rows)
        .map(|r| PolicyElement { old: logprob[3 * r], reference: 0.0, advantage: 0.7, weight: 0.5 })
        .collect();
    let objective = PolicyObjective { clip_eps: 0.2, kl_weight: 0.0 };
    assert!(elements.iter().zip(0..).all(|(e, r)| e.gradient(logprob[3 * r], objective) == -0.35));
    policy_gradients(d, case, &elements, objective, &logprob);
    // Ratios within the clip and beyond it on either side, of advantages of either sign, tied to a reference.
    let elements: Vec<PolicyElement> = (0..rows)
        .map(|r| PolicyElement {
            old: logprob[3 * r] + [0.0, 0.5, -0.5][r % 3],
            reference: logprob[3 * r] + [0.3, -0.2][r % 2],
            advantage: [0.7, -1.2, 0.0, 0.7, -1.2][r % 5],
            weight: 0.25,
        })
        .collect();
    policy_gradients(d, case, &elements, PolicyObjective { clip_eps: 0.2, kl_weight: 0.3 }, &logprob);
}

/// The gradient of an objective whose slope at each log-probability `PolicyElement` knows.
fn policy_gradients<D: Device>(
    d: &D,
    case: &Case,
    elements: &[PolicyElement],
    objective: PolicyObjective,
    logprob: &[f32],
) {
    let (rows, cols) = (case.mu.rows, case.mu.cols);
    let f = |x: &Host, i: usize| f64::from(x.values[i]);
    let z = |i: usize| (f(&case.target, i) - f(&case.mu, i)) / case.sigma(i).0.exp();
    let size = |i: usize| (f(&case.target, i).abs() + f(&case.mu, i).abs()) / case.sigma(i).0.exp();
    let (mu, target) = (case.mu.up(d), case.target.up(d));
    let log_sigma = case.log_sigma.as_ref().unwrap().up(d);
    let terms = d.upload(rows, 4, bytemuck::cast_slice(elements)).unwrap();
    let (mut dmu, mut dls) = (poisoned(d, rows, cols), poisoned(d, rows, cols));
    let mut again = poisoned(d, rows, 3);
    let grads = LatentPolicyGrads {
        terms: PolicyTerms { rows: &terms, objective },
        entropy_scale: -0.2,
        dmu: &mut dmu,
        dlog_sigma: &mut dls,
    };
    d.latent_logprob(&mu, &log_sigma, &target, &mut again, Some(grads)).unwrap();
    assert_eq!(read(d, &again), logprob, "gradients change nothing of what is returned");
    let upstream = |i: usize| {
        let row = i / cols;
        f64::from(elements[row].gradient(logprob[3 * row], objective)) / cols as f64
    };
    let each = |f: &dyn Fn(usize) -> (f64, f64)| (0..rows * cols).map(f).collect::<Vec<_>>();
    let want = each(&|i| {
        let inverse = (-case.sigma(i).0).exp();
        (upstream(i) * z(i) * inverse, upstream(i).abs() * size(i) * inverse)
    });
    close("latent_logprob, dmu", &read(d, &dmu), &want, TOLERANCE);
    let want = each(&|i| {
        let slope = upstream(i) * (z(i) * z(i) - 1.0) - 0.2;
        if case.sigma(i).1 { (0.0, 0.0) } else { (slope, upstream(i).abs() * size(i) * size(i) + 1.0) }
    });
    close("latent_logprob, dlog_sigma", &read(d, &dls), &want, TOLERANCE);
}

proptest! {
    #![proptest_config(config(48))]

    #[test]
    fn latent_logprobs(rows in size(), cols in size(), seed in any::<u32>()) {
        let case = Case::new(rows, cols, false, u64::from(seed));
        device().scope(|| logprobs(device(), &case));
    }

    #[test]
    fn reparameterised_draws(
        rows in size(), cols in size(), deterministic in any::<bool>(),
        temperature in prop::sample::select(vec![1.0f32, 0.5, 0.0]),
        seed in any::<u32>(),
    ) {
        let case = Case::new(rows, cols, deterministic, u64::from(seed));
        device().scope(|| draws(device(), &case, temperature));
    }

    #[test]
    fn latent_losses(
        rows in size(), cols in size(), deterministic in any::<bool>(),
        loss in prop::sample::select(vec![LatentLoss::Nll, LatentLoss::Mse, LatentLoss::MseExpected]),
        seed in any::<u32>(),
    ) {
        let case = Case::new(rows, cols, deterministic, u64::from(seed));
        device().scope(|| losses(device(), &case, loss));
    }
}

/// A NaN must stay a NaN: a guard that hides it would let training go on.
#[test]
fn nan_passes_through() {
    let mut case = Case::new(2, 5, false, 1);
    case.log_sigma.as_mut().unwrap().values[6] = f32::NAN;
    let d = device();
    let log_sigma = case.log_sigma.as_ref().map(|x| x.up(d));
    let mut z = poisoned(d, 2, 5);
    d.reparameterise(&case.mu.up(d), log_sigma.as_ref(), &case.eps.up(d), 1.0, &mut z).unwrap();
    let nans: Vec<usize> =
        read(d, &z).iter().enumerate().filter(|(_, x)| x.is_nan()).map(|(i, _)| i).collect();
    assert_eq!(nans, [6]);
    for loss in [LatentLoss::Nll, LatentLoss::Mse, LatentLoss::MseExpected] {
        let mut per_row = poisoned(d, 2, 3);
        let weights = LatentWeights { loss, loss_scale: 1.0, entropy_scale: 0.0 };
        let (mu, eps, target) = (case.mu.up(d), case.eps.up(d), case.target.up(d));
        d.latent_loss(weights, &mu, log_sigma.as_ref(), Some(&eps), &target, &mut per_row, None).unwrap();
        let row = read(d, &per_row);
        assert!(row[0].is_finite() && row[3].is_nan(), "{loss:?}: {row:?}");
    }
}

fn noise<D: Device>(d: &D, draws: &[Draw], cols: usize) -> Host {
    let mut out = poisoned(d, draws.len(), cols);
    d.normal(draws, &mut out).unwrap();
    Host::new(draws.len(), cols, read(d, &out))
}

/// Numbers that every device must give for these keys and counters, found by another program.
#[test]
fn noise_is_that_of_its_key_and_counter() {
    let draws = [Draw { key: 7, counter: [0x10, 3] }, Draw { key: 0x1234_5678_9abc_def0, counter: [1, 2] }];
    let pinned = [
        [
            0.953_063,
            -1.128_983,
            0.739_974_9,
            -1.963_99,
            0.010_506_16,
            -0.046_637_91,
            -0.554_300_9,
            -0.349_866_1,
        ],
        [
            0.278_646_1,
            1.088_812,
            0.800_446_6,
            -0.031_559_94,
            0.604_665_7,
            -0.103_013_5,
            -1.249_199,
            -0.441_056_8,
        ],
    ];
    // A row does not depend on its neighbours, nor its beginning on its length.
    for cols in [1, 3, 4, 7, 8, 100] {
        let both = noise(device(), &draws, cols);
        for (i, pinned) in pinned.iter().enumerate() {
            let alone = noise(device(), &draws[i..=i], cols);
            assert_eq!(both.values[i * cols..(i + 1) * cols], alone.values);
            for (got, want) in alone.values.iter().zip(pinned) {
                assert!((got - want).abs() < 1e-6, "{got} instead of {want}");
            }
        }
    }
}

/// Mean, variance, skewness and kurtosis within five standard errors; rows, keys and counters
/// uncorrelated.
#[test]
fn noise_is_standard_normal() {
    let (rows, cols) = (400, 512);
    let draws: Vec<Draw> =
        (0..rows as u32).map(|i| Draw { key: u64::from(i % 20), counter: [i / 20 % 4, i / 80] }).collect();
    let x = noise(device(), &draws, cols);
    let n = (rows * cols) as f64;
    let moment = |p: i32| x.values.iter().map(|&x| f64::from(x).powi(p)).sum::<f64>() / n;
    for (power, want, variance) in [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0f64)] {
        let got = moment(power);
        let bound = 5.0 * (variance / n).sqrt();
        assert!((got - want).abs() < bound, "moment {power} is {got}, bound {bound}");
    }
    let correlation =
        |a: usize, b: usize| (0..cols).map(|c| x.at(a, c) * x.at(b, c)).sum::<f64>() / (cols as f64).sqrt();
    for other in 1..rows {
        assert!(correlation(0, other).abs() < 5.0, "rows 0 and {other}");
    }
}
