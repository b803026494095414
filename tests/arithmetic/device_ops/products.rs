//! Matrix products and biases.

use colar_engine::device::Dtype;
use colar_engine::device::prelude::*;
use proptest::prelude::*;

use super::common::host::{Host, close, read};
use super::{TOLERANCE, config, device, dtype, size};

/// `[rows, cols]` of `beta·y + alpha · Σ_k a(r, k)·b(c, k)` with the magnitudes summed.
fn reference(
    [rows, cols, inner]: [usize; 3],
    alpha: f32,
    a: impl Fn(usize, usize) -> f64,
    b: impl Fn(usize, usize) -> f64,
    beta: f32,
    y: &Host,
) -> Vec<(f64, f64)> {
    let (alpha, beta) = (f64::from(alpha), f64::from(beta));
    let mut out = Vec::with_capacity(rows * cols);
    for r in 0..rows {
        for c in 0..cols {
            let old = if beta == 0.0 { 0.0 } else { beta * y.at(r, c) };
            let terms = (0..inner).map(|k| alpha * a(r, k) * b(c, k));
            let (sum, scale) = terms.fold((old, old.abs()), |(s, m), t| (s + t, m + t.abs()));
            out.push((sum, scale));
        }
    }
    out
}

/// Old content of the output: NaN where it must not matter.
fn old(rows: usize, cols: usize, beta: f32, seed: u64) -> Host {
    if beta == 0.0 { Host::full(rows, cols, f32::NAN) } else { Host::normal(rows, cols, 1.0, seed) }
}

fn products<D: Device>(d: &D, [m, n, k]: [usize; 3], weight: Dtype, alpha: f32, beta: f32, seed: u64) {
    let what = |op: &str| format!("{op} of m {m}, n {n}, k {k}, {weight:?}, alpha {alpha}, beta {beta}");
    let x = Host::normal(m, k, 1.0, seed);
    let dy = Host::normal(m, n, 1.0, seed + 1);
    let (w, w_host) = Host::normal(n, k, 1.0, seed + 2).adopt(d, weight);

    let before = old(m, n, beta, seed + 3);
    let mut y = before.up(d);
    d.matmul_nt(alpha, &x.up(d), &w, beta, &mut y).unwrap();
    let want = reference([m, n, k], alpha, |r, i| x.at(r, i), |c, i| w_host.at(c, i), beta, &before);
    close(&what("matmul_nt"), &read(d, &y), &want, TOLERANCE);

    let before = old(m, k, beta, seed + 4);
    let mut dx = before.up(d);
    d.matmul_nn(alpha, &dy.up(d), &w, beta, &mut dx).unwrap();
    let want = reference([m, k, n], alpha, |r, i| dy.at(r, i), |c, i| w_host.at(i, c), beta, &before);
    close(&what("matmul_nn"), &read(d, &dx), &want, TOLERANCE);

    let before = old(n, k, beta, seed + 5);
    let mut dw = before.up(d);
    d.matmul_tn(alpha, &dy.up(d), &x.up(d), beta, &mut dw).unwrap();
    let want = reference([n, k, m], alpha, |r, i| dy.at(i, r), |c, i| x.at(i, c), beta, &before);
    close(&what("matmul_tn"), &read(d, &dw), &want, TOLERANCE);
}

fn biases<D: Device>(d: &D, rows: usize, cols: usize, seed: u64) {
    let (y, bias) = (Host::normal(rows, cols, 1.0, seed), Host::normal(1, cols, 1.0, seed + 1));
    let mut out = y.up(d);
    d.add_bias(&mut out, &bias.up(d)).unwrap();
    let want: Vec<_> = (0..rows * cols)
        .map(|i| (y.at(i / cols, i % cols) + bias.at(0, i % cols), f64::from(y.values[i].abs())))
        .collect();
    close("add_bias", &read(d, &out), &want, TOLERANCE);
    let mut db = bias.up(d);
    d.add_bias_backward(&y.up(d), &mut db).unwrap();
    let want: Vec<_> = (0..cols)
        .map(|c| {
            let all = || (0..rows).map(|r| y.at(r, c)).chain([bias.at(0, c)]);
            (all().sum::<f64>(), all().map(f64::abs).sum::<f64>())
        })
        .collect();
    close("add_bias_backward", &read(d, &db), &want, TOLERANCE);
}

proptest! {
    #![proptest_config(config(64))]

    #[test]
    fn matrix_products(
        m in size(), n in size(), k in size(),
        weight in dtype(),
        alpha in prop::sample::select(vec![1.0f32, 0.25, -3.0]),
        beta in prop::sample::select(vec![0.0f32, 1.0, 0.5]),
        seed in any::<u32>(),
    ) {
        let sizes = [m, n, k];
        device().scope(|| products(device(), sizes, weight, alpha, beta, u64::from(seed)));
    }

    #[test]
    fn bias_forward_and_backward(rows in size(), cols in size(), seed in any::<u32>()) {
        device().scope(|| biases(device(), rows, cols, u64::from(seed)));
    }
}

/// Shapes of a real decoder's rows, past every tile and thread boundary.
#[test]
fn larger_products() {
    for (sizes, weight) in [
        ([1, 1536, 576], Dtype::Bf16),
        ([3, 577, 1537], Dtype::Bf16),
        ([8, 1000, 576], Dtype::F16),
        ([129, 193, 577], Dtype::Bf16),
        ([300, 260, 129], Dtype::F32),
    ] {
        device().scope(|| products(device(), sizes, weight, 1.0, 0.0, 9));
    }
}

/// Outside [`Device::scope`] operations run too.
#[test]
fn products_outside_the_scope() {
    products(device(), [5, 70, 33], Dtype::Bf16, 1.0, 1.0, 10);
}
