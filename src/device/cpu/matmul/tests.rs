use half::{bf16, f16};
use proptest::prelude::*;

use super::*;
use crate::device::cpu::testing::numbers;

/// Checks `got = beta·old + alpha·(sum over p of a(i,p)·b(p,j))`, where `old` is `None` for `beta` 0.
#[allow(clippy::too_many_arguments)]
fn check(
    what: &str,
    [rows, cols, inner]: [usize; 3],
    (alpha, beta): (f32, f32),
    a: impl Fn(usize, usize) -> f32,
    b: impl Fn(usize, usize) -> f32,
    old: &[f32],
    got: &[f32],
) {
    for i in 0..rows {
        for j in 0..cols {
            let terms = (0..inner).map(|p| f64::from(a(i, p)) * f64::from(b(p, j)));
            let (dot, size) = terms.fold((0.0, 0.0), |(d, s), t| (d + t, s + t.abs()));
            let old = if beta == 0.0 { 0.0 } else { f64::from(beta) * f64::from(old[i * cols + j]) };
            let want = old + f64::from(alpha) * dot;
            let bound = 1e-6 * (f64::from(alpha.abs()) * size + old.abs());
            let got = f64::from(got[i * cols + j]);
            assert!(
                (got - want).abs() <= bound,
                "{what} {rows}x{cols}x{inner} at {i},{j}: {got}, not {want}"
            );
        }
    }
}

fn check_all(m: usize, n: usize, k: usize) {
    let (x, w, dy) = (numbers(m * k, 1), numbers(n * k, 2), numbers(m * n, 3));
    let b: Vec<bf16> = w.iter().map(|&w| bf16::from_f32(w)).collect();
    let h: Vec<f16> = w.iter().map(|&w| f16::from_f32(w)).collect();
    for (alpha, beta) in [(1.0, 0.0), (0.5, 1.0), (-2.0, 0.25)] {
        let fresh = |len| if beta == 0.0 { vec![f32::NAN; len] } else { numbers(len, 4) };
        for w_mat in [Mat::F32(&w), Mat::Bf16(&b), Mat::F16(&h)] {
            let mut y = fresh(m * n);
            matmul_nt(m, n, k, alpha, &x, w_mat, beta, &mut y);
            let (a, b) = (|i, p| x[i * k + p], |p, j| w[j * k + p]);
            check("nt", [m, n, k], (alpha, beta), a, b, &fresh(m * n), &y);

            let mut dx = fresh(m * k);
            matmul_nn(m, n, k, alpha, &dy, w_mat, beta, &mut dx);
            let (a, b) = (|i, p| dy[i * n + p], |p, j| w[p * k + j]);
            check("nn", [m, k, n], (alpha, beta), a, b, &fresh(m * k), &dx);
        }
        let mut dw = fresh(n * k);
        matmul_tn(m, n, k, alpha, &dy, &x, beta, &mut dw);
        let (a, b) = (|i, p| dy[p * n + i], |p, j| x[p * k + j]);
        check("tn", [n, k, m], (alpha, beta), a, b, &fresh(n * k), &dw);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn agrees_with_f64(m in 0usize..70, n in 0usize..70, k in 0usize..150) {
        check_all(m, n, k);
    }
}

#[test]
fn agrees_with_f64_where_there_are_many_tiles_and_blocks() {
    check_all(401, 97, 389);
    check_all(67, 50, 1300);
    check_all(1201, 20, 65);
    check_all(17, 1100, 130);
    check_all(50, 90, 1201);
}

#[test]
fn the_bits_do_not_depend_on_the_number_of_threads() {
    let (m, n, k) = (211, 640, 500);
    let x: Vec<f32> = numbers(m * k, 1).iter().map(|x| x.sin()).collect();
    let dy: Vec<f32> = numbers(m * n, 2).iter().map(|x| x.cos()).collect();
    let w: Vec<bf16> = numbers(n * k, 3).iter().map(|&w| bf16::from_f32(w)).collect();
    let run = |threads| {
        let (mut y, mut dx, mut dw) = (vec![f32::NAN; m * n], vec![f32::NAN; m * k], vec![f32::NAN; n * k]);
        par::Pool::new(threads).unwrap().install(|| {
            matmul_nt(m, n, k, 1.0, &x, Mat::Bf16(&w), 0.0, &mut y);
            matmul_nn(m, n, k, 1.0, &dy, Mat::Bf16(&w), 0.0, &mut dx);
            matmul_tn(m, n, k, 1.0, &dy, &x, 0.0, &mut dw);
        });
        [y, dx, dw]
    };
    let one = run(1);
    for threads in [2, 3, 5, 7] {
        assert!(one == run(threads), "{threads} threads");
    }
}

#[test]
fn large_outputs_give_every_thread_a_tile_and_small_ones_stay_whole() {
    assert_eq!(tile_size(20, 32, 32, 4), (20, 48));
    for (rows, cols, inner) in [(1200, 1536, 576), (2560, 128, 128), (49152, 576, 64), (600, 576, 128)] {
        for threads in [1, 2, 4, 7] {
            let (tall, wide) = tile_size(rows, cols, inner, threads);
            assert!(tall <= TALL_TILE && wide <= WIDE_TILE && wide % EDGE == 0);
            assert!(threads == 1 || rows.div_ceil(tall) * cols.div_ceil(wide) >= 2 * threads);
        }
    }
}
