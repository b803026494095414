//! Layers with weights: linear with bias and adapter, and the latent head whole.

use colar_engine::device::Dropout;
use colar_engine::device::prelude::*;
use colar_engine::model::latent_head::LatentHead;
use colar_engine::model::latent_head::LatentHeadConfig;
use colar_engine::model::linear::{Linear, Lora};
use colar_engine::model::params::{Grads, ParamId, Params};
use colar_engine::model::weight_spec::{Group, Groups, WeightSpec};

use super::common::float64::Float64;
use super::common::gradient::{check_inputs, weighted};
use super::common::host::{Host, poisoned, read};
use super::cpu;

/// A weight that is trained, whatever its group.
fn spec(name: &str, rows: usize, cols: usize) -> WeightSpec {
    WeightSpec::matrix(name, [rows, cols], Group::Adapter)
}

#[test]
fn linear_with_bias_and_adapter() {
    linear(&cpu(), None);
}

#[test]
fn linear_with_dropout_before_its_adapter() {
    linear(&cpu(), Some(Dropout { p: 0.4, key: 5, counter: [2, 1, 0x100] }));
}

fn linear<D: Device>(d: &D, dropout: Option<Dropout>) {
    let (rows, input, output, rank) = (7, 19, 23, 5);
    // x, W, b, A, B
    let inputs = [
        Host::normal(rows, input, 1.0, 1),
        Host::normal(output, input, 0.3, 2),
        Host::normal(1, output, 1.0, 3),
        Host::normal(rank, input, 0.3, 4),
        Host::normal(output, rank, 0.3, 5),
    ];
    let weights = Host::normal(rows, output, 1.0, 6);
    let mut params = Params::default();
    let ids: Vec<ParamId> = ["w", "b", "lora_a", "lora_b"]
        .into_iter()
        .zip(&inputs[1..])
        .map(|(name, x)| params.add(spec(name, x.rows, x.cols), x.up(d)))
        .collect();
    let lora = Lora { a: ids[2], b: ids[3], scale: 0.25, dropout };
    let layer = Linear { weight: ids[0], bias: Some(ids[1]), lora: Some(lora) };

    let mut grads = Grads::new(d, &params, Groups::ALL).unwrap();
    let x = inputs[0].up(d);
    let (_, saved) = layer.forward(d, &params, &x).unwrap();
    let mut dx = poisoned(d, rows, input);
    layer.backward(d, &params, &mut grads, &x, &saved, &weights.up(d), Some((&mut dx, 0.0))).unwrap();
    let mut gradients = vec![read(d, &dx)];
    gradients.extend(ids.iter().map(|&id| read(d, grads.get(id).unwrap())));
    // A second backward adds to both.
    layer.backward(d, &params, &mut grads, &x, &saved, &weights.up(d), Some((&mut dx, 1.0))).unwrap();
    let twice: Vec<f32> = gradients[0].iter().map(|g| g * 2.0).collect();
    assert!(super::common::relative(&read(d, &dx), &twice) < 1e-6);
    let twice: Vec<f32> = gradients[4].iter().map(|g| g * 2.0).collect();
    assert!(super::common::relative(&read(d, grads.get(ids[3]).unwrap()), &twice) < 1e-6);

    let wide = Float64::default();
    check_inputs("linear", &inputs, &gradients, |x| {
        let mut params = Params::default();
        for x in &x[1..] {
            params.add(spec("", x.rows(), x.cols()), x.clone());
        }
        let (y, _) = layer.forward(&wide, &params, &x[0]).unwrap();
        weighted(&weights, &y)
    });
}

#[test]
fn latent_head() {
    head(&cpu(), false);
}

#[test]
fn deterministic_latent_head() {
    head(&cpu(), true);
}

fn head<D: Device>(d: &D, deterministic: bool) {
    let (rows, hidden, inner) = (6, 20, 33);
    let config = LatentHeadConfig { intermediate_size: inner, deterministic };
    let mut params = Params::default();
    let head = LatentHead::random(d, &mut params, &config, hidden, 7).unwrap();
    assert_eq!(head.deterministic(), deterministic);
    // All weights away from their initial values, of which a LayerNorm's 1 and 0 are special.
    let ids: Vec<ParamId> = params.iter().map(|(id, _)| id).collect();
    let mut inputs = vec![Host::normal(rows, hidden, 1.0, 8)];
    for (i, (_, p)) in params.iter().enumerate() {
        let (rows, cols) = if let [r, c] = *p.shape { (r, c) } else { (1, p.shape[0]) };
        inputs.push(Host::normal(rows, cols, if rows == 1 { 0.7 } else { 0.3 }, 9 + i as u64));
    }
    let outputs = [Host::normal(rows, hidden, 1.0, 30), Host::normal(rows, hidden, 1.0, 31)];

    for (&id, x) in ids.iter().zip(&inputs[1..]) {
        d.write(params.get_mut(id), &x.values).unwrap();
    }
    let mut grads = Grads::new(d, &params, Groups::ALL).unwrap();
    let (dist, saved) = head.forward(d, &params, inputs[0].up(d)).unwrap();
    assert_eq!(dist.log_sigma.is_none(), deterministic);
    let dls = (!deterministic).then(|| outputs[1].up(d));
    let dh = head.backward(d, &params, &mut grads, &saved, &outputs[0].up(d), dls.as_ref()).unwrap();
    let mut gradients = vec![read(d, &dh)];
    gradients.extend(ids.iter().map(|&id| read(d, grads.get(id).unwrap())));

    let wide = Float64::default();
    check_inputs("latent head", &inputs, &gradients, |x| {
        let mut params = Params::default();
        let head = LatentHead::random(&wide, &mut params, &config, hidden, 7).unwrap();
        for (&id, x) in ids.iter().zip(&x[1..]) {
            params.get_mut(id).clone_from(x);
        }
        let (dist, _) = head.forward(&wide, &params, x[0].clone()).unwrap();
        let spread = dist.log_sigma.map_or(0.0, |ls| weighted(&outputs[1], &ls));
        weighted(&outputs[0], &dist.mu) + spread
    });
}
