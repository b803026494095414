//! Dropout: the same elements on every device, whatever the shape.

use colar_engine::device::Dropout;
use colar_engine::device::prelude::*;
use colar_engine::random::Philox;
use proptest::prelude::*;

use super::common::host::{Host, poisoned, read};
use super::{config, device, size};

/// The elements of `x` that stay, scaled; every other one is 0.
fn kept(dropout: Dropout, x: &Host) -> Vec<f32> {
    let philox = Philox::new(dropout.key);
    let [first, second, third] = dropout.counter;
    let scale = 1.0 / (1.0 - dropout.p);
    let at = |r: usize, c: usize| {
        let words = philox.uniforms([c as u32 / 4, first.wrapping_add(r as u32), second, third]);
        if words[c % 4] >= dropout.p { x.values[r * x.cols + c] * scale } else { 0.0 }
    };
    (0..x.rows).flat_map(|r| (0..x.cols).map(move |c| (r, c))).map(|(r, c)| at(r, c)).collect()
}

/// One product of float32 an element and one sum, which round alike everywhere: equal to the bit.
fn check<D: Device>(d: &D, dropout: Dropout, x: &Host, before: &Host) {
    let kept = kept(dropout, x);
    let mut out = poisoned(d, x.rows, x.cols);
    d.dropout(dropout, &x.up(d), 0.0, &mut out).unwrap();
    assert_eq!(read(d, &out), kept);
    let mut out = before.up(d);
    d.dropout(dropout, &x.up(d), 1.0, &mut out).unwrap();
    let sums: Vec<f32> = before.values.iter().zip(&kept).map(|(b, k)| b + k).collect();
    assert_eq!(read(d, &out), sums);
}

proptest! {
    #![proptest_config(config(48))]

    #[test]
    fn elements_follow_from_the_counter(
        rows in size(), cols in size(), p in prop_oneof![Just(0.0), Just(0.99), 0.0f32..0.99], key in any::<u64>(),
        counter in any::<[u32; 3]>(), seed in any::<u32>(),
    ) {
        let [x, before] = [0, 1].map(|i| Host::normal(rows, cols, 1.0, u64::from(seed) + i));
        device().scope(|| check(device(), Dropout { p, key, counter }, &x, &before));
    }
}

/// As many stay as should: of n elements n·(1 − p), within five standard deviations.
#[test]
fn the_share_is_that_asked_for() {
    let (rows, cols) = (64, 128);
    let x = Host::full(rows, cols, 1.0);
    for p in [0.05f32, 0.5, 0.9] {
        let dropout = Dropout { p, key: 3, counter: [0, 1, 0x100] };
        let mut out = poisoned(device(), rows, cols);
        device().scope(|| device().dropout(dropout, &x.up(device()), 0.0, &mut out)).unwrap();
        let stay = read(device(), &out).iter().filter(|&&x| x != 0.0).count() as f64;
        let (n, q) = ((rows * cols) as f64, 1.0 - f64::from(p));
        assert!((stay - n * q).abs() < 5.0 * (n * q * f64::from(p)).sqrt(), "{p}: {stay} of {n}");
    }
}
