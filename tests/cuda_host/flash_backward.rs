//! The gradients of attention in bf16 on the tensor cores, against `cpu` in float32 on the same operands.
//!
//! Beside float32's, the kernels make two roundings: of every probability or slope, before its second product, and
//! of the result: hence the bound of [`check`], of the magnitudes that were summed.

use colar_engine::device::HeadShape;
use colar_engine::device::cpu::CpuDevice;
use colar_engine::device::cuda::CudaDevice;
use colar_engine::device::prelude::*;
use half::bf16;

use super::attention::{self, reference};
use super::common::driver::TestDriver;
use super::common::host::{Host, read};
use super::flash::{Case, bits, device, normal};

const ROUNDING: f64 = 1.0 / 256.0;

/// A case with the gradient of its output, NaN in rows of no span, and the output and log-sum-exps of its forward.
struct Gradient {
    case: attention::Case,
    out: Host,
    lse: Host,
}

impl Gradient {
    fn new(case: Case, d: &CudaDevice<TestDriver>, mut values: impl FnMut() -> f32) -> Gradient {
        let Case { shape, spans, q, k, v } = case;
        let mut dout = q.clone();
        let rounded = |x: &mut f32| *x = if x.is_nan() { *x } else { bf16::from_f32(values()).to_f32() };
        dout.values.iter_mut().for_each(rounded);
        let case = attention::Case { shape, spans, q, k, v, dout };
        let [q, k, v] =
            [&case.q, &case.k, &case.v].map(|x| d.activations(x.rows, x.cols, &x.values).unwrap());
        let nans = Host::full(case.q.rows, case.q.cols, f32::NAN);
        let mut out = d.activations(nans.rows, nans.cols, &nans.values).unwrap();
        let mut lse = Host::full(nans.rows, shape.heads, f32::NAN).up(d);
        d.attention(shape, &case.spans, &q, &k, &v, &mut out, Some(&mut lse)).unwrap();
        let out = Host::new(nans.rows, nans.cols, read(d, &out));
        let lse = Host::new(nans.rows, shape.heads, read(d, &lse));
        Gradient { case, out, lse }
    }

    /// dq, dk and dv, where nothing was written NaN; `up` makes activations.
    fn run<D: Device>(&self, d: &D, up: impl Fn(&Host) -> D::Tensor) -> [Vec<f32>; 3] {
        let c = &self.case;
        let [q, k, v, out, dout] = [&c.q, &c.k, &c.v, &self.out, &c.dout].map(&up);
        let results = [&c.q, &c.k, &c.v].map(|x| up(&Host::full(x.rows, x.cols, f32::NAN)));
        let [mut dq, mut dk, mut dv] = results;
        let lse = self.lse.up(d);
        d.attention_backward(c.shape, &c.spans, &q, &k, &v, &out, &lse, &dout, &mut dq, &mut dk, &mut dv)
            .unwrap();
        [read(d, &dq), read(d, &dk), read(d, &dv)]
    }

    fn on(&self, d: &CudaDevice<TestDriver>) -> [Vec<f32>; 3] {
        self.run(d, |x| d.activations(x.rows, x.cols, &x.values).unwrap())
    }

    /// Compares with `cpu`; returns the gradients.
    fn check(&self, d: &CudaDevice<TestDriver>) -> [Vec<f32>; 3] {
        let c = CpuDevice::new(2).unwrap();
        let (got, want) = (self.on(d), self.run(&c, |x| x.up(&c)));
        let sizes = reference(&self.case);
        for (name, got, want, sizes) in [
            ("dq", &got[0], &want[0], &sizes.dq),
            ("dk", &got[1], &want[1], &sizes.dk),
            ("dv", &got[2], &want[2], &sizes.dv),
        ] {
            for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
                if want.is_nan() {
                    assert!(got.is_nan(), "{name}, {i}: a row of no span was written");
                    continue;
                }
                let error = (f64::from(got) - f64::from(want)).abs();
                // Where a probability underflows, either may have zero.
                let bound = ROUNDING * (f64::from(want).abs() + sizes[i].1) + 1e-30;
                assert!(
                    error <= bound,
                    "{name}, {:?}, element {i}: {got} instead of {want}, bound {bound:.1e}",
                    self.case.shape
                );
            }
            // Roundings have no direction: over all elements they are far below their bounds.
            let square = |x: f32| f64::from(x).powi(2);
            let inside = || got.iter().zip(want).filter(|(_, want)| !want.is_nan());
            let off: f64 = inside().map(|(got, want)| square(got - want)).sum();
            let norm: f64 = inside().map(|(_, want)| square(*want)).sum();
            assert!(
                off.sqrt() <= 0.01 * norm.sqrt(),
                "{name}, {:?}: {off:.1e} of {norm:.1e}",
                self.case.shape
            );
        }
        got
    }
}

#[test]
fn every_width_and_group() {
    let lens = [(1, 3), (15, 2), (31, 0), (33, 64), (63, 0), (64, 31), (65, 0), (129, 7), (2, 190), (1, 140)];
    for (i, head_dim) in [32, 48, 64, 80, 96, 112, 128].into_iter().enumerate() {
        let group = [1, 3, 4, 7, 8, 3, 1][i];
        let kv_heads = 1 + usize::from(group < 4);
        let shape = HeadShape { heads: kv_heads * group, kv_heads, head_dim };
        let lens = if group < 4 { &lens[..] } else { &lens[..5] };
        let d = device(i as u64);
        let gradient = Gradient::new(Case::new(shape, lens, normal(i as u64)), &d, normal(50 + i as u64));
        let got = gradient.check(&d);
        // Again, with the threads in another order.
        let again = gradient.on(&device(99 + i as u64));
        for (a, b) in got.iter().zip(&again) {
            assert!(bits(a) == bits(b), "the same call gave other bits");
        }
    }
}

/// A span's gradients have the bits that they have alone, and keys without queries none.
#[test]
fn spans_apart() {
    let shape = HeadShape { heads: 6, kv_heads: 2, head_dim: 64 };
    let d = device(3);
    let lens = [(70, 9), (0, 20), (140, 0), (17, 33)];
    let mut gradient = Gradient::new(Case::new(shape, &lens, normal(3)), &d, normal(4));
    let together = gradient.check(&d);
    let spans = std::mem::take(&mut gradient.case.spans);
    for span in spans {
        gradient.case.spans = vec![span];
        let alone = gradient.on(&d);
        let queries = (span.q_start, span.q_len, gradient.case.q.cols);
        let keys = (span.k_start, span.k_len, gradient.case.k.cols);
        for (i, (start, len, cols)) in [queries, keys, keys].into_iter().enumerate() {
            let part = start * cols..(start + len) * cols;
            assert!(bits(&alone[i][part.clone()]) == bits(&together[i][part.clone()]), "{span:?}");
            assert!(i == 0 || span.q_len > 0 || together[i][part].iter().all(|&x| x == 0.0), "{span:?}");
        }
    }
}

/// Scores far beyond where an exponential overflows, of both signs.
#[test]
fn large_scores() {
    let shape = HeadShape { heads: 2, kv_heads: 1, head_dim: 64 };
    let mut case = Case::new(shape, &[(40, 0), (70, 50)], normal(5));
    case.q.values.iter_mut().for_each(|x| *x = (*x * 8.0).round());
    case.k.values.iter_mut().for_each(|x| *x = (*x * 8.0).round());
    let d = device(7);
    Gradient::new(case, &d, normal(6)).check(&d);
}
