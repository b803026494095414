//! Operations that move whole rows: the compression merge, gathers, scatters, addition.

use colar_engine::device::Dtype;
use colar_engine::device::prelude::*;
use colar_engine::random::Stream;
use proptest::prelude::*;

use super::common::host::{Host, close, poisoned, read};
use super::{TOLERANCE, config, device, dtype, size};

/// `n` row numbers below `limit`.
fn picks(n: usize, limit: usize, seed: u64) -> Vec<u32> {
    let mut stream = Stream::new(seed, 1);
    (0..n).map(|_| stream.below(limit as u64) as u32).collect()
}

fn merge<D: Device>(d: &D, rows: usize, cols: usize, vocab: usize, weight: Dtype, seed: u64) {
    let (table, host) = Host::normal(vocab, cols, 1.0, seed).adopt(d, weight);
    // Chunks of 0 to 4 tokens.
    let mut offsets = vec![0u32];
    for chunk in picks(rows, 5, seed + 1) {
        offsets.push(offsets.last().unwrap() + chunk);
    }
    let ids = picks(*offsets.last().unwrap() as usize, vocab, seed + 2);
    let scale = Host::normal(rows, 1, 1.0, seed + 3);
    let of = |r: usize| &ids[offsets[r] as usize..offsets[r + 1] as usize];
    let (d_ids, d_offsets, d_scale) = (d.index(&ids).unwrap(), d.index(&offsets).unwrap(), scale.up(d));

    let mut out = poisoned(d, rows, cols);
    d.gather_merge(&table, &d_ids, &d_offsets, &d_scale, &mut out).unwrap();
    let want: Vec<_> = (0..rows * cols)
        .map(|i| {
            let (r, c) = (i / cols, i % cols);
            let terms = || of(r).iter().map(|&t| scale.at(r, 0) * host.at(t as usize, c));
            (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>())
        })
        .collect();
    close("gather_merge", &read(d, &out), &want, TOLERANCE);

    let (dout, before) = (Host::normal(rows, cols, 1.0, seed + 4), Host::normal(vocab, cols, 1.0, seed + 5));
    let mut dtable = before.up(d);
    d.gather_merge_backward(&dout.up(d), &d_ids, &d_offsets, &d_scale, &mut dtable).unwrap();
    let mut want: Vec<_> = before.values.iter().map(|&x| (f64::from(x), f64::from(x.abs()))).collect();
    for r in 0..rows {
        for &t in of(r) {
            for c in 0..cols {
                let term = scale.at(r, 0) * dout.at(r, c);
                let (sum, size) = &mut want[t as usize * cols + c];
                (*sum, *size) = (*sum + term, *size + term.abs());
            }
        }
    }
    close("gather_merge_backward", &read(d, &dtable), &want, TOLERANCE);
}

fn gathers<D: Device>(d: &D, rows: usize, cols: usize, n: usize, weight: Dtype, alpha: f32, seed: u64) {
    let (src, host) = Host::normal(rows, cols, 1.0, seed).adopt(d, weight);
    let at = picks(n, rows, seed + 1);
    let mut out = poisoned(d, n, cols);
    d.gather_rows(alpha, &src, &d.index(&at).unwrap(), &mut out).unwrap();
    let want: Vec<_> =
        (0..n * cols).map(|i| (f64::from(alpha) * host.at(at[i / cols] as usize, i % cols), 0.0)).collect();
    close("gather_rows", &read(d, &out), &want, TOLERANCE);

    // Distinct rows for the scatters, in a random order.
    let mut order: Vec<u32> = (0..rows as u32).collect();
    Stream::new(seed, 2).shuffle(&mut order);
    order.truncate(n);
    let src = Host::normal(order.len(), cols, 1.0, seed + 2);
    let before = Host::normal(rows, cols, 1.0, seed + 3);
    let index = d.index(&order).unwrap();
    let place = |row: usize| order.iter().position(|&r| r as usize == row);
    let mut added = before.up(d);
    d.scatter_add_rows(alpha, &src.up(d), &index, &mut added).unwrap();
    // NaN in the rows that are replaced, which must not survive.
    let mut poisoned_rows = before.clone();
    for &row in &order {
        poisoned_rows.values[row as usize * cols..][..cols].fill(f32::NAN);
    }
    let mut put = poisoned_rows.up(d);
    d.scatter_rows(alpha, &src.up(d), &index, &mut put).unwrap();
    let (mut want_added, mut want_put) = (Vec::new(), Vec::new());
    for i in 0..rows * cols {
        let old = before.at(i / cols, i % cols);
        let new = place(i / cols).map(|p| f64::from(alpha) * src.at(p, i % cols));
        want_added.push((old + new.unwrap_or(0.0), old.abs() + new.unwrap_or(0.0).abs()));
        want_put.push((new.unwrap_or(old), 0.0));
    }
    close("scatter_add_rows", &read(d, &added), &want_added, TOLERANCE);
    close("scatter_rows", &read(d, &put), &want_put, TOLERANCE);
}

fn addition<D: Device>(d: &D, rows: usize, cols: usize, seed: u64) {
    let (x, y) = (Host::normal(rows, cols, 1.0, seed), Host::normal(rows, cols, 1.0, seed + 1));
    let mut sum = y.up(d);
    d.add(&x.up(d), &mut sum).unwrap();
    let want: Vec<f32> = x.values.iter().zip(&y.values).map(|(x, y)| x + y).collect();
    assert_eq!(read(d, &sum), want);
}

fn memory<D: Device>(d: &D, rows: usize, cols: usize, weight: Dtype, seed: u64) {
    let x = Host::normal(rows, cols, 1.0, seed);
    let mut t = x.up(d);
    assert_eq!(read(d, &t), x.values);
    let other = Host::normal(rows, cols, 1.0, seed + 1);
    d.write(&mut t, &other.values).unwrap();
    assert_eq!(read(d, &t), other.values);
    let mut copy = poisoned(d, rows, cols);
    d.copy(&t, &mut copy).unwrap();
    assert_eq!(read(d, &copy), other.values);
    d.clear(&mut t).unwrap();
    drop(t);
    // A buffer that is used again is zero all the same.
    poisoned(d, rows, cols);
    assert!(read(d, &d.zeros(rows, cols).unwrap()).iter().all(|&x| x == 0.0));
    let (mapped, host) = x.adopt(d, weight);
    assert_eq!(read(d, &mapped), host.values);

    // Widened it can be written; frozen it has the form of this device's products, here float32 or the file's.
    let mut wide = d.widen(mapped).unwrap();
    assert_eq!((read(d, &wide), wide.dtype()), (host.values.clone(), Dtype::F32));
    d.write(&mut wide, &x.values).unwrap();
    assert_eq!(read(d, &d.freeze(wide).unwrap()), x.values);
    let (mapped, host) = x.adopt(d, weight);
    let kept = if d.maps_weights() { mapped.dtype() } else { d.compute_dtype() };
    let frozen = d.freeze(d.freeze(mapped).unwrap()).unwrap();
    assert_eq!((read(d, &frozen), frozen.dtype()), (host.values, kept));
}

proptest! {
    #![proptest_config(config(64))]

    #[test]
    fn merging(rows in size(), cols in size(), vocab in size(), weight in dtype(), seed in any::<u32>()) {
        device().scope(|| merge(device(), rows, cols, vocab, weight, u64::from(seed)));
    }

    #[test]
    fn gathering_and_scattering(
        rows in size(), cols in size(), n in size(),
        weight in dtype(),
        alpha in prop::sample::select(vec![1.0f32, 0.018, -2.0, 0.0]),
        seed in any::<u32>(),
    ) {
        device().scope(|| gathers(device(), rows, cols, n, weight, alpha, u64::from(seed)));
    }

    #[test]
    fn adding(rows in size(), cols in size(), seed in any::<u32>()) {
        device().scope(|| addition(device(), rows, cols, u64::from(seed)));
    }

    #[test]
    fn keeping(rows in size(), cols in size(), weight in dtype(), seed in any::<u32>()) {
        device().scope(|| memory(device(), rows, cols, weight, u64::from(seed)));
    }
}
