//! AdamW and the sum of squares.

use colar_engine::device::prelude::*;
use colar_engine::device::{AdamW, AdamWTensor};
use proptest::prelude::*;

use super::common::host::{Host, close, read};
use super::{TOLERANCE, config, device, size};

/// Ten steps over two tensors of different shapes, with clipping, against the published recurrence.
fn adamw<D: Device>(d: &D, shapes: [(usize, usize); 2], weight_decay: f32, seed: u64) {
    let start: Vec<Host> =
        shapes.iter().zip(seed..).map(|(&(r, c), seed)| Host::normal(r, c, 0.5, seed)).collect();
    let mut values: Vec<D::Tensor> = start.iter().map(|x| x.up(d)).collect();
    let zeros = || shapes.iter().map(|&(r, c)| d.zeros(r, c).unwrap()).collect::<Vec<_>>();
    let (mut m, mut v) = (zeros(), zeros());
    struct Reference {
        w: f64,
        m: f64,
        v: f64,
        travelled: f64,
    }
    let mut reference: Vec<Vec<Reference>> = start
        .iter()
        .map(|x| {
            let at = |&w: &f32| Reference { w: f64::from(w), m: 0.0, v: 0.0, travelled: 0.0 };
            x.values.iter().map(at).collect()
        })
        .collect();
    let hyper =
        AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay, step: 0, grad_scale: 0.5 };
    let wide = f64::from;
    let (b1, b2) = (wide(hyper.beta1), wide(hyper.beta2));
    for step in 1..=10u64 {
        let grads: Vec<Host> = shapes
            .iter()
            .zip(0..)
            .map(|(&(r, c), i)| Host::normal(r, c, 0.1, seed + 100 * step + i))
            .collect();
        let uploaded: Vec<D::Tensor> = grads.iter().map(|g| g.up(d)).collect();
        let mut tensors: Vec<AdamWTensor<'_, D>> = values
            .iter_mut()
            .zip(&uploaded)
            .zip(m.iter_mut().zip(v.iter_mut()))
            .map(|((value, grad), (m, v))| AdamWTensor { value, grad, m, v })
            .collect();
        d.adamw(&AdamW { step, ..hyper }, &mut tensors).unwrap();
        for (reference, grads) in reference.iter_mut().zip(&grads) {
            for (r, &g) in reference.iter_mut().zip(&grads.values) {
                let g = wide(g) * wide(hyper.grad_scale);
                r.m = b1 * r.m + (1.0 - b1) * g;
                r.v = b2 * r.v + (1.0 - b2) * g * g;
                let (mh, vh) = (r.m / (1.0 - b1.powi(step as i32)), r.v / (1.0 - b2.powi(step as i32)));
                let change = wide(hyper.lr) * (wide(weight_decay) * r.w + mh / (vh.sqrt() + 1e-8));
                r.w -= change;
                r.travelled += change.abs();
            }
        }
    }
    for (i, reference) in reference.iter().enumerate() {
        // Moments carry sums of both signs; 0.05 is the size of a scaled gradient.
        let all = |f: &dyn Fn(&Reference) -> (f64, f64)| reference.iter().map(f).collect::<Vec<_>>();
        close("m", &read(d, &m[i]), &all(&|r| (r.m, 0.05)), TOLERANCE);
        close("v", &read(d, &v[i]), &all(&|r| (r.v, 0.05 * 0.05)), TOLERANCE);
        close("value", &read(d, &values[i]), &all(&|r| (r.w, r.travelled)), TOLERANCE);
    }
}

fn squares<D: Device>(d: &D, shapes: &[(usize, usize)], seed: u64) {
    let hosts: Vec<Host> =
        shapes.iter().zip(seed..).map(|(&(r, c), seed)| Host::normal(r, c, 1.0, seed)).collect();
    let tensors: Vec<D::Tensor> = hosts.iter().map(|x| x.up(d)).collect();
    let got = d.sum_squares(&tensors.iter().collect::<Vec<_>>()).unwrap();
    let want: f64 = hosts.iter().flat_map(|x| &x.values).map(|&x| f64::from(x).powi(2)).sum();
    // Squares and sums in float64: nothing of float32 may show.
    assert!((got - want).abs() <= 1e-12 * want, "{got} instead of {want}");
}

proptest! {
    #![proptest_config(config(32))]

    #[test]
    fn ten_steps_of_adamw(
        rows in size(), cols in size(),
        weight_decay in prop::sample::select(vec![0.0f32, 0.01, 0.3]),
        seed in any::<u32>(),
    ) {
        device().scope(|| adamw(device(), [(rows, cols), (1, rows)], weight_decay, u64::from(seed)));
    }

    #[test]
    fn sums_of_squares(shapes in prop::collection::vec((size(), size()), 0..4), seed in any::<u32>()) {
        device().scope(|| squares(device(), &shapes, u64::from(seed)));
    }
}

#[test]
fn a_large_sum_of_squares() {
    device().scope(|| squares(device(), &[(700, 613), (1, 3)], 1));
}

/// Tensors about as long as the pieces that a device may cut them into, an empty one and a single number between.
#[test]
fn sums_of_squares_at_the_edges_of_pieces() {
    let shapes = [(1, 8191), (0, 5), (1, 8192), (1, 1), (1, 8193), (2, 8192), (3, 5461), (4, 4096)];
    device().scope(|| squares(device(), &shapes, 2));
}

#[test]
fn adamw_over_large_tensors() {
    device().scope(|| adamw(device(), [(3, 8193), (2, 8192)], 0.01, 3));
}

/// Without a gradient AdamW is weight decay alone, from the first step to a very late one.
#[test]
fn adamw_without_gradient_decays() {
    let d = device();
    for step in [1, 1000, u64::MAX] {
        let mut value = Host::full(1, 9, 2.0).up(d);
        let (grad, mut m, mut v) = (d.zeros(1, 9).unwrap(), d.zeros(1, 9).unwrap(), d.zeros(1, 9).unwrap());
        let hyper =
            AdamW { lr: 0.1, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.5, step, grad_scale: 1.0 };
        let mut tensors = [AdamWTensor { value: &mut value, grad: &grad, m: &mut m, v: &mut v }];
        d.adamw(&hyper, &mut tensors).unwrap();
        assert!(read(d, &value).iter().all(|&x| (x - 1.9).abs() < 1e-6), "step {step}");
    }
}

/// A clipped step is the step with the factor that the norm gives, and none where a number is not finite.
fn clipped<D: Device>(d: &D, clip: f32, spoiled: Option<(bool, f32)>) {
    let shapes = [(3, 2731), (1, 9), (2, 8192)];
    let hyper = AdamW { grad_scale: 0.5, ..AdamW::new(1e-2, 0.1, 3) };
    let normal = |seed: u64| -> Vec<Host> {
        shapes.iter().zip(seed..).map(|(&(r, c), seed)| Host::normal(r, c, 1.0, seed)).collect()
    };
    let (mut grads, mut losses) = (normal(10), Host::normal(7, 3, 1.0, 20));
    if let Some((gradient, value)) = spoiled {
        let into = if gradient { &mut grads[2] } else { &mut losses };
        *into.values.last_mut().unwrap() = value;
    }
    let grads: Vec<D::Tensor> = grads.iter().map(|x| x.up(d)).collect();
    let watched = losses.up(d);
    let state = |seed| -> Vec<D::Tensor> { normal(seed).iter().map(|x| x.up(d)).collect() };
    let squares = |seed: u64| -> Vec<D::Tensor> {
        let positive = |mut x: Host| {
            x.values.iter_mut().for_each(|x| *x = x.abs());
            x.up(d)
        };
        normal(seed).into_iter().map(positive).collect()
    };
    let norm = d.sum_squares(&grads.iter().collect::<Vec<_>>()).unwrap().sqrt();
    let all = |tensors: &[Vec<D::Tensor>; 3]| -> Vec<Vec<u32>> {
        let bits = |t| read(d, t).iter().map(|x| x.to_bits()).collect();
        tensors.iter().flatten().map(bits).collect()
    };
    let step = |late: bool| -> (Option<f64>, Vec<Vec<u32>>) {
        let mut tensors = [state(30), state(40), squares(50)];
        let [values, m, v] = &mut tensors;
        let zipped = values.iter_mut().zip(&grads).zip(m.iter_mut().zip(v.iter_mut()));
        let mut listed: Vec<AdamWTensor<'_, D>> =
            zipped.map(|((value, grad), (m, v))| AdamWTensor { value, grad, m, v }).collect();
        let got = if late {
            Some(d.late(&d.adamw_clipped(&hyper, clip, &[&watched], &mut listed).unwrap()).unwrap())
        } else if spoiled.is_none() {
            d.adamw(&hyper.clipped(norm, clip), &mut listed).unwrap();
            None
        } else {
            None
        };
        (got, all(&tensors))
    };
    let (_, want) = step(false);
    let (got, left) = step(true);
    assert!(left == want, "clip {clip}, {spoiled:?}: not the step with the norm's factor");
    match spoiled {
        None => assert_eq!(got, Some(norm)),
        Some(_) => assert!(got.is_some_and(|norm| !norm.is_finite()), "{spoiled:?}: {got:?}"),
    }
}

#[test]
fn clipped_steps() {
    let d = device();
    d.scope(|| {
        // Never, not here, and by far.
        for clip in [0.0, 1e6, 0.25] {
            clipped(d, clip, None);
        }
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            clipped(d, 1.0, Some((true, value)));
            clipped(d, 0.0, Some((false, value)));
        }
    });
}
