use proptest::prelude::*;

use super::*;

/// The distance of `got` from the exact `want` in units of the last place of `want` as an f32.
fn ulps(got: f32, want: f64) -> f64 {
    let nearest = want as f32;
    if nearest.is_infinite() || nearest.is_nan() {
        return if got.to_bits() == nearest.to_bits() || (got.is_nan() && nearest.is_nan()) {
            0.0
        } else {
            f64::INFINITY
        };
    }
    let size = nearest.abs().max(f32::MIN_POSITIVE);
    let ulp = f64::from(f32::from_bits(size.to_bits() + 1)) - f64::from(size);
    (f64::from(got) - want).abs() / ulp
}

#[test]
fn exp_is_within_two_ulp_everywhere() {
    // Every 97th of all floats, NaN, infinities and subnormals among them.
    let x: Vec<f32> = (0..u32::MAX / 97).map(|i| f32::from_bits(i * 97)).collect();
    let mut y = vec![f32::NAN; x.len()];
    exp(&x, 0.0, 1.0, &mut y);
    for (&x, &y) in x.iter().zip(&y) {
        let exact = f64::from(x).exp();
        let off = ulps(y, if exact < f64::from(f32::MIN_POSITIVE) { 0.0 } else { exact });
        assert!(off <= 2.0, "exp({x:e}) = {y:e}, {off} ulp off");
    }
}

#[test]
fn exp_at_its_limits() {
    let cases = [
        (f32::INFINITY, f32::INFINITY),
        (f32::NEG_INFINITY, 0.0),
        (0.0, 1.0),
        (-0.0, 1.0),
        (f32::MAX, f32::INFINITY),
        (f32::MIN, 0.0),
        (88.722_84, f32::INFINITY),
        (88.722_83, 3.402_798_5e38),
        (-87.336_55, 0.0),
        (-87.336_54, 1.175_499_7e-38),
    ];
    for (x, want) in cases {
        let mut y = [f32::NAN; 3];
        exp(&[x; 3], 0.0, 1.0, &mut y);
        assert_eq!(y, [want; 3], "exp({x})");
    }
    let mut y = [0.0; 2];
    exp(&[f32::NAN, -f32::NAN], 0.0, 1.0, &mut y);
    assert!(y.iter().all(|y| y.is_nan()));
}

#[test]
fn the_gate_and_its_gradient_agree_with_f64() {
    let gate: Vec<f32> = (-4000..4000).map(|i| i as f32 / 46.0).collect();
    let up: Vec<f32> = gate.iter().map(|x| x.sin() + 1.5).collect();
    let dout: Vec<f32> = gate.iter().map(|x| x.cos()).collect();
    let (mut out, mut s) = (vec![f32::NAN; gate.len()], vec![f32::NAN; gate.len()]);
    let (mut dgate, mut dup) = (out.clone(), out.clone());
    sigmoid(&gate, &mut s);
    swiglu(&gate, &up, &mut out);
    swiglu_backward(&gate, &up, &dout, &mut dgate, &mut dup);
    for i in 0..gate.len() {
        let [x, u, d] = [gate[i], up[i], dout[i]].map(f64::from);
        let sig = |x: f64| 1.0 / (1.0 + (-x).exp());
        let silu = |x: f64| x * sig(x);
        assert!(ulps(s[i], sig(x)) <= 4.0, "sigmoid({x}) = {}", s[i]);
        assert!(ulps(out[i], silu(x) * u) <= 6.0, "swiglu({x}, {u}) = {}", out[i]);
        assert!(ulps(dup[i], silu(x) * d) <= 6.0, "dup({x}, {d}) = {}", dup[i]);
        let h = 1e-6;
        let slope = (silu(x + h) - silu(x - h)) / (2.0 * h);
        let got = f64::from(dgate[i]);
        assert!((got - d * u * slope).abs() <= 1e-6 * (d * u).abs().max(1e-3), "dgate({x}) = {got}");
    }
}

proptest! {
    #[test]
    fn sums_agree_with_f64(x in prop::collection::vec(-30f32..30.0, 0..300), cut in 0usize..40) {
        let x = &x[cut.min(x.len())..];
        let y: Vec<f32> = x.iter().map(|x| x.cos()).collect();
        let wide = |f: &dyn Fn(f64) -> f64| x.iter().map(|&x| f(f64::from(x))).sum::<f64>();
        let size = wide(&|x| x.abs()).max(1e-3);
        prop_assert!((f64::from(sum(x)) - wide(&|x| x)).abs() <= 1e-6 * size);
        let exact: f64 = x.iter().zip(&y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
        prop_assert!((f64::from(dot(x, &y)) - exact).abs() <= 1e-6 * size);
        let squares = wide(&|x| x * x);
        prop_assert!((sum_squares(x) - squares).abs() <= 1e-6 * squares);
        prop_assert_eq!(max(x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let lse = wide(&f64::exp).ln();
        if x.is_empty() {
            prop_assert_eq!(log_sum_exp(x), f32::NEG_INFINITY);
        } else {
            prop_assert!((f64::from(log_sum_exp(x)) - lse).abs() <= 2e-6 * lse.abs().max(1.0));
        }
    }
}

#[test]
fn log_sum_exp_at_its_limits() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    for len in [1, 2, 17, 70] {
        assert_eq!(log_sum_exp(&vec![-inf; len]), -inf);
        for at in [0, len / 2, len - 1] {
            let mut row = vec![-inf; len];
            row[at] = 3.0;
            assert_eq!(log_sum_exp(&row), 3.0);
            row[at] = nan;
            assert!(log_sum_exp(&row).is_nan(), "{len} {at}");
            let mut row = vec![1.0; len];
            row[at] = inf;
            assert_eq!(log_sum_exp(&row), inf);
            row[at] = nan;
            assert!(log_sum_exp(&row).is_nan(), "{len} {at}");
        }
    }
    assert!((log_sum_exp(&[1e30, 1e30]) - 1e30).abs() < 1e24);
}
