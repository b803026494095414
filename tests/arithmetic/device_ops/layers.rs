//! Norms, rotary embedding and activations.

use colar_engine::device::prelude::*;
use proptest::prelude::*;

use super::common::host::{Host, close, poisoned, read};
use super::{TOLERANCE, config, device, size};

/// Elementwise results with the magnitude their rounding is measured against.
type Want = Vec<(f64, f64)>;

/// Adds the old content of an output that an operation adds to.
fn plus(before: &Host, want: Want) -> Want {
    let sum = |(&old, (x, m)): (&f32, (f64, f64))| (f64::from(old) + x, m + f64::from(old).abs());
    before.values.iter().zip(want).map(sum).collect()
}

/// Normalised rows of RMSNorm (`centred` false) or LayerNorm, with 1/σ of each row.
fn normalised(x: &Host, eps: f64, centred: bool) -> Vec<(Vec<f64>, f64)> {
    let n = x.cols as f64;
    (0..x.rows)
        .map(|r| {
            let row = x.row(r);
            let mean = if centred { row.iter().sum::<f64>() / n } else { 0.0 };
            let inverse = 1.0 / (row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n + eps).sqrt();
            (row.iter().map(|x| (x - mean) * inverse).collect(), inverse)
        })
        .collect()
}

/// The gradient of a norm at its input: r·(g − mean(g) − n·mean(g·n)), without mean(g) for RMSNorm.
fn norm_backward(dout: &Host, w: &Host, rows: &[(Vec<f64>, f64)], centred: bool) -> Want {
    let mut want = Want::new();
    for (t, (normal, inverse)) in rows.iter().enumerate() {
        let g: Vec<f64> = dout.row(t).iter().zip(w.row(0)).map(|(d, w)| d * w).collect();
        let cols = g.len() as f64;
        let mean = if centred { g.iter().sum::<f64>() / cols } else { 0.0 };
        let along = g.iter().zip(normal).map(|(g, n)| g * n).sum::<f64>() / cols;
        // The subtracted means were summed from terms of this size.
        let size = g.iter().map(|g| g.abs()).sum::<f64>() / cols;
        for (g, n) in g.iter().zip(normal) {
            let magnitude = inverse * (g.abs() + size + n.abs() * size * (1.0 + n.abs()));
            want.push((inverse * (g - mean - n * along), magnitude));
        }
    }
    want
}

/// Σ_t dout·n, the gradient of a norm's weight.
fn weight_backward(dout: &Host, rows: &[(Vec<f64>, f64)]) -> Want {
    (0..dout.cols)
        .map(|c| {
            let terms = || rows.iter().enumerate().map(|(t, (n, _))| dout.at(t, c) * n[c]);
            (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>() + dout.at(0, c).abs())
        })
        .collect()
}

/// RMSNorm of whole rows, with a residual, and of groups of columns: the same values in rows `groups` times as wide.
fn rms_norms<D: Device>(d: &D, rows: usize, cols: usize, groups: usize, seed: u64) {
    let (wide, narrow) = (cols * groups, rows * groups);
    let eps = 1e-5f32;
    let [x, delta, dout] = [0, 1, 2].map(|i| Host::normal(narrow, cols, 1.0, seed + i));
    let up = |h: &Host| Host::new(rows, wide, h.values.clone()).up(d);
    let w = Host::normal(1, cols, 1.0, seed + 3);
    let scaled = |rows: &[(Vec<f64>, f64)]| -> Want {
        rows.iter().flat_map(|(n, _)| n.iter().zip(w.row(0)).map(|(n, w)| (n * w, (n * w).abs()))).collect()
    };
    let normal = normalised(&x, f64::from(eps), false);
    let mut out = poisoned(d, rows, wide);
    d.rms_norm(&up(&x), &w.up(d), eps, &mut out).unwrap();
    close("rms_norm", &read(d, &out), &scaled(&normal), TOLERANCE);

    let sum: Vec<f32> = x.values.iter().zip(&delta.values).map(|(x, y)| x + y).collect();
    let (mut got_sum, mut out) = (poisoned(d, narrow, cols), poisoned(d, narrow, cols));
    d.add_rms_norm(&x.up(d), &delta.up(d), &w.up(d), eps, &mut got_sum, &mut out).unwrap();
    assert_eq!(read(d, &got_sum), sum, "add_rms_norm: sum");
    let of_sum = normalised(&Host::new(narrow, cols, sum), f64::from(eps), false);
    close("add_rms_norm", &read(d, &out), &scaled(&of_sum), TOLERANCE);

    for with_weight in [true, false] {
        let (mut dx, mut dw) = (up(&delta), w.up(d));
        let wanted = with_weight.then_some(&mut dw);
        d.rms_norm_backward(&up(&dout), &up(&x), &w.up(d), eps, &mut dx, wanted).unwrap();
        let want = plus(&delta, norm_backward(&dout, &w, &normal, false));
        close("rms_norm_backward, dx", &read(d, &dx), &want, TOLERANCE);
        if with_weight {
            let want = plus(&w, weight_backward(&dout, &normal));
            close("rms_norm_backward, dw", &read(d, &dw), &want, TOLERANCE);
        }
    }
}

fn layer_norms<D: Device>(d: &D, rows: usize, cols: usize, seed: u64) {
    // A mean far from zero, where a variance by difference of squares would lose its digits.
    let mut x = Host::normal(rows, cols, 1.0, seed);
    x.values.iter_mut().for_each(|x| *x += 30.0);
    let dout = Host::normal(rows, cols, 1.0, seed + 1);
    let [w, b] = [2, 3].map(|i| Host::normal(1, cols, 1.0, seed + i));
    let normal = normalised(&x, 1e-5, true);
    // The mean is a float32 number near 30 and its rounding is magnified by 1/σ.
    let shift = |inverse: f64| 30.0 * inverse;
    let mut want = Want::new();
    for (n, inverse) in &normal {
        for (c, n) in n.iter().enumerate() {
            want.push((n * w.at(0, c) + b.at(0, c), (n.abs() + shift(*inverse)) * w.at(0, c).abs() + 1.0));
        }
    }
    let mut out = poisoned(d, rows, cols);
    d.layer_norm(&x.up(d), &w.up(d), &b.up(d), &mut out).unwrap();
    close("layer_norm", &read(d, &out), &want, TOLERANCE);

    for with_params in [true, false] {
        let mut dx = poisoned(d, rows, cols);
        let (mut dw, mut db) = (w.up(d), b.up(d));
        let params = with_params.then_some((&mut dw, &mut db));
        d.layer_norm_backward(&dout.up(d), &x.up(d), &w.up(d), &mut dx, params).unwrap();
        let mut want = norm_backward(&dout, &w, &normal, true);
        for (i, (_, size)) in want.iter_mut().enumerate() {
            *size *= 1.0 + shift(normal[i / cols].1);
        }
        close("layer_norm_backward, dx", &read(d, &dx), &want, TOLERANCE);
        if with_params {
            let mut want = plus(&w, weight_backward(&dout, &normal));
            for (c, (_, size)) in want.iter_mut().enumerate() {
                *size += (0..rows).map(|t| dout.at(t, c).abs() * shift(normal[t].1)).sum::<f64>();
            }
            close("layer_norm_backward, dw", &read(d, &dw), &want, TOLERANCE);
            let sums = (0..cols)
                .map(|c| {
                    let column = || (0..rows).map(|t| dout.at(t, c));
                    (column().sum::<f64>(), column().map(f64::abs).sum::<f64>())
                })
                .collect();
            close("layer_norm_backward, db", &read(d, &db), &plus(&b, sums), TOLERANCE);
        }
    }
}

fn rotary<D: Device>(d: &D, rows: usize, heads: usize, half: usize, seed: u64) {
    let (cols, width) = (heads * 2 * half, 2 * half);
    let x = Host::normal(rows, cols, 1.0, seed);
    let positions: Vec<u32> = (0..rows as u32).map(|r| (r * 37) % 2048).collect();
    let inv_freq: Vec<f32> = (0..half).map(|j| 10_000f32.powf(-(j as f32) / half as f32)).collect();
    for direction in [1.0f32, -1.0] {
        let mut got = x.up(d);
        let frequencies = d.upload(1, half, &inv_freq).unwrap();
        d.rotary(&mut got, &d.index(&positions).unwrap(), &frequencies, direction).unwrap();
        let mut want = Want::new();
        for (r, &position) in positions.iter().enumerate() {
            for c in 0..cols {
                let (head, e) = (c / width * width, c % width);
                // The angle is a float32 product, as in the models' own code.
                let angle = f64::from(position as f32 * inv_freq[e % half]);
                let (sin, cos) = angle.sin_cos();
                let (a, b) = (x.at(r, head + e % half), x.at(r, head + e % half + half));
                let sin = sin * f64::from(direction);
                want.push((if e < half { a * cos - b * sin } else { b * cos + a * sin }, a.abs() + b.abs()));
            }
        }
        close("rotary", &read(d, &got), &want, TOLERANCE);
    }
}

/// Against the operations that it joins; where it rounds less often, the results differ by roundings.
fn rotary_append<D: Device>(
    d: &D,
    n: usize,
    [heads, kv_heads, half]: [usize; 3],
    biased: [bool; 3],
    seed: u64,
) {
    let widths = [heads, kv_heads, kv_heads].map(|heads| heads * 2 * half);
    let part = |i: usize, rows: usize| Host::normal(rows, widths[i], 1.0, seed + i as u64);
    let bias = |i: usize| biased[i].then(|| Host::normal(1, widths[i], 1.0, seed + 10 + i as u64).up(d));
    let biases = [0, 1, 2].map(bias);
    let positions = d.index(&(0..n as u32).map(|r| (r * 37) % 2048).collect::<Vec<_>>()).unwrap();
    // Distinct rows of a cache with some more, in no order.
    let held = 2 * n + 3;
    let rows: Vec<u32> = (0..n).map(|r| ((r * 2 + seed as usize) % held) as u32).collect();
    let rows_on = d.index(&rows).unwrap();
    let inv_freq: Vec<f32> = (0..half).map(|j| 10_000f32.powf(-(j as f32) / half as f32)).collect();
    let inv_freq = d.upload(1, half, &inv_freq).unwrap();

    let [mut q, mut k, mut v] = [0, 1, 2].map(|i| part(i, n).up(d));
    let [mut keys, mut values] = [1, 2].map(|i| part(i, held).up(d));
    let given = [0, 1, 2].map(|i| biases[i].as_ref());
    let cache = [&mut keys, &mut values];
    d.rotary_append([&mut q, &mut k, &mut v], given, &positions, &inv_freq, &rows_on, cache).unwrap();

    let [mut want_q, mut want_k, mut want_v] = [0, 1, 2].map(|i| part(i, n).up(d));
    for (x, bias) in [&mut want_q, &mut want_k, &mut want_v].into_iter().zip(given) {
        if let Some(bias) = bias {
            d.add_bias(x, bias).unwrap();
        }
    }
    d.rotary(&mut want_q, &positions, &inv_freq, 1.0).unwrap();
    d.rotary(&mut want_k, &positions, &inv_freq, 1.0).unwrap();
    let [mut want_keys, mut want_values] = [1, 2].map(|i| part(i, held).up(d));
    d.scatter_rows(1.0, &want_k, &rows_on, &mut want_keys).unwrap();
    d.scatter_rows(1.0, &want_v, &rows_on, &mut want_values).unwrap();
    let pairs = [("q", &q, &want_q), ("keys", &keys, &want_keys), ("values", &values, &want_values)];
    for (name, got, want) in pairs {
        let want: Want = read(d, want).into_iter().map(|x| (f64::from(x), 1.0)).collect();
        close(&format!("rotary_append, {name}"), &read(d, got), &want, TOLERANCE);
    }
}

fn activations<D: Device>(d: &D, x: Host, up: Host, dout: Host) {
    let (rows, cols) = (x.rows, x.cols);
    let each = |f: &dyn Fn(f64, f64, f64) -> (f64, f64)| -> Want {
        let at = |i: usize| (i / cols, i % cols);
        (0..rows * cols)
            .map(|i| {
                let (r, c) = at(i);
                f(x.at(r, c), up.at(r, c), dout.at(r, c))
            })
            .collect()
    };
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let mut out = poisoned(d, rows, cols);
    d.swiglu(&x.up(d), &up.up(d), &mut out).unwrap();
    let want = each(&|g, u, _| (g * sigmoid(g) * u, (g * sigmoid(g) * u).abs() + 1e-30));
    close("swiglu", &read(d, &out), &want, TOLERANCE);

    // Φ of a very negative number is the difference of two numbers near ½.
    let phi = |x: f64| 0.5 * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2));
    let density = |x: f64| (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
    let mut out = poisoned(d, rows, cols);
    d.gelu(&x.up(d), &mut out).unwrap();
    close("gelu", &read(d, &out), &each(&|x, _, _| (x * phi(x), x.abs())), TOLERANCE);
    let mut dx = poisoned(d, rows, cols);
    d.gelu_backward(&dout.up(d), &x.up(d), &mut dx).unwrap();
    let want = each(&|x, _, o| (o * (phi(x) + x * density(x)), o.abs()));
    close("gelu_backward", &read(d, &dx), &want, TOLERANCE);

    let (mut dgate, mut dup) = (x.up(d), up.up(d));
    d.swiglu_backward(&dout.up(d), &mut dgate, &mut dup).unwrap();
    let slope = |g: f64| sigmoid(g) * (1.0 + g * (1.0 - sigmoid(g)));
    let want = each(&|g, u, o| (o * u * slope(g), (o * u).abs() * sigmoid(g) * (1.0 + g.abs()) + 1e-30));
    close("swiglu_backward, gate", &read(d, &dgate), &want, TOLERANCE);
    let want = each(&|g, _, o| (o * g * sigmoid(g), 1e-30));
    close("swiglu_backward, up", &read(d, &dup), &want, TOLERANCE);
}

proptest! {
    #![proptest_config(config(48))]

    #[test]
    fn rms_norm(rows in size(), cols in size(), groups in 1..5usize, seed in any::<u32>()) {
        device().scope(|| rms_norms(device(), rows, cols, groups, u64::from(seed)));
    }

    #[test]
    fn layer_norm(rows in size(), cols in size(), seed in any::<u32>()) {
        device().scope(|| layer_norms(device(), rows, cols, u64::from(seed)));
    }

    #[test]
    fn rotary_and_append(
        n in size(), kv_heads in 1..4usize, group in 1..5usize, half in prop_oneof![1..40usize, Just(32), Just(64)],
        biased in any::<[bool; 3]>(), seed in any::<u32>(),
    ) {
        let heads = [kv_heads * group, kv_heads, half];
        device().scope(|| rotary_append(device(), n, heads, biased, u64::from(seed)));
    }

    #[test]
    fn rotary_embedding(rows in size(), heads in 1..6usize, half in 1..40usize, seed in any::<u32>()) {
        device().scope(|| rotary(device(), rows, heads, half, u64::from(seed)));
    }

    #[test]
    fn activation_functions(rows in size(), cols in size(), spread in 0.1f32..20.0, seed in any::<u32>()) {
        let seed = u64::from(seed);
        let x = Host::normal(rows, cols, spread, seed);
        let [up, dout] = [1, 2].map(|i| Host::normal(rows, cols, 1.0, seed + i));
        device().scope(|| activations(device(), x, up, dout));
    }
}

/// Far out, where exp overflows or vanishes.
#[test]
fn activations_at_extremes() {
    let x = vec![0.0, -0.0, 1e-30, -1e-30, 20.0, -20.0, 87.0, -87.0, 90.0, -90.0, 1e4, -1e4];
    let ones = Host::full(1, x.len(), 1.0);
    activations(device(), Host::new(1, x.len(), x), ones.clone(), ones);
}

/// Enough rows for every thread to have several parts.
#[test]
fn larger_norms() {
    device().scope(|| {
        rms_norms(device(), 200, 576, 1, 1);
        layer_norms(device(), 200, 576, 2);
        rms_norms(device(), 1300, 5, 1, 3);
        rms_norms(device(), 70, 128, 24, 3);
        layer_norms(device(), 1300, 5, 4);
    });
}
