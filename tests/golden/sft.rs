//! Golden parity of the supervised objective: every case that the authors' code computed, losses and
//! every gradient, in float32 (spec section 9).

use std::path::Path;

use colar_engine::device::prelude::*;
use colar_engine::device::{Dtype, LatentLoss};
use colar_engine::files::weights::Weights;
use colar_engine::model::open::{Additions, open};
use colar_engine::model::params::Grads;
use colar_engine::model::prompt::{Method, training};
use colar_engine::model::weight_spec::{Group, Groups};
use colar_engine::train::batch::{Batch, Packing};
use colar_engine::train::sft::{Counts, LossSums, Noise, Objective, run};
use serde_json::Value;

use crate::common::{self, Bounds, Compared, golden};

fn check_model<D: Device>(device: &D, name: &str) {
    let dir = golden(name);
    let cases: Value = serde_json::from_slice(&std::fs::read(dir.join("sft.json")).unwrap()).unwrap();
    let vectors = Weights::open_file(&dir.join("sft.safetensors")).unwrap();
    let mut gradients = 0;
    for case in cases["cases"].as_array().unwrap() {
        gradients += check_case(device, &dir, &cases, case, &vectors);
    }
    let listed = vectors.names().filter(|n| n.contains(".grad.")).count();
    assert_eq!(gradients, listed, "every golden gradient was compared");
}

fn check_case<D: Device>(device: &D, dir: &Path, cases: &Value, case: &Value, vectors: &Weights) -> usize {
    let key = case["key"].as_str().unwrap();
    let full = key == "full";
    let cf = case["cf"].as_u64().unwrap() as usize;
    let sample = common::sample(&cases["samples"][case["sample"].as_u64().unwrap() as usize]);
    let trained = if full { Groups::ALL } else { Groups::of(&[Group::Adapter, Group::LatentHead]) };
    // The full case is fine-tuning of the bare model, whose head comes from the checkpoint all the same.
    let checkpoint = if full { common::head_only(dir) } else { common::Dir::Given(dir.join("adapter")) };
    let mut opened = open(device, dir, Some(checkpoint.path()), &Additions::default(), trained).unwrap();
    opened.model.embeds_std = cases["embeds_std"].as_f64().unwrap() as f32;

    let segments = training(
        &opened.tokenizer,
        opened.separator,
        opened.eos.append,
        Method::Colar,
        &sample,
        &cf.to_string(),
    )
    .unwrap();
    let mut batch = Batch::new();
    batch.push(
        Packing { method: Method::Colar, compression_factor: cf, merge: opened.model.merge },
        &segments,
        None,
    );
    // The labels that the authors' code drew.
    let labels: Vec<i64> = common::ints(&dir.join("sft.safetensors"), &format!("{key}.labels"));
    let drawn: Vec<u32> = labels.iter().filter(|&&l| l >= 0).map(|&l| l as u32).collect();
    for (i, &label) in drawn.iter().enumerate() {
        let (a, b) = (batch.label_offsets[i] as usize, batch.label_offsets[i + 1] as usize);
        assert!(batch.label_ids[a..b].contains(&label), "{key}: label {i} is not of its chunk");
    }
    let positions: Vec<u32> = (1..labels.len()).filter(|&t| labels[t] >= 0).map(|t| t as u32 - 1).collect();
    assert_eq!(batch.ce_rows, positions, "{key}: labelled positions");
    batch.label_offsets = (0..=drawn.len() as u32).collect();
    batch.label_ids = drawn;

    let bounds = Bounds::of(device);
    let nll = case["loss"] == "nll";
    let objective = Objective {
        latent_loss: if nll { LatentLoss::Nll } else { LatentLoss::Mse },
        ..Objective::default()
    };
    let eps = common::activations(device, vectors, &format!("{}.eps", key.replace("nll", "mse")));
    let mut grads = Grads::new(device, &opened.model.params, trained).unwrap();
    let losses = run(
        device,
        &opened.model,
        &objective,
        &batch,
        &Noise::Given(&eps),
        Counts::of([&batch]),
        Some(&mut grads),
    )
    .unwrap();
    let mut sums = LossSums::default();
    sums.add(&losses);
    let expect = |what: &str, got: f64| {
        if let Some(want) = common::scalar(vectors, &format!("{key}.{what}")) {
            let error = (got - want).abs() / want.abs();
            assert!(error < bounds.loss, "{key} {what}: {got} instead of {want}, relative error {error:.1e}");
        }
    };
    expect("ce_loss", sums.mean_ce());
    expect("latent_loss", sums.mean_latent());
    expect("entropy", sums.mean_entropy());
    expect("total_loss", sums.total(&objective));

    let (mut compared, mut all) = (0, Compared::new(bounds));
    for (id, param) in opened.model.params.iter() {
        let Some(grad) = grads.get(id) else { continue };
        let name = format!("{key}.grad.{}", param.name);
        if !vectors.contains(&name) {
            // Of the nll cases only some hold gradients; the count at the end misses none that exist.
            assert!(nll, "{name} is missing");
            continue;
        }
        let want = vectors.tensor(&name).unwrap_or_else(|e| panic!("{e}")).to_f32_vec();
        all.add(&name, &device.read(grad).unwrap(), &want);
        compared += 1;
    }
    all.finish(key);
    compared
}

common::golden_models!(check_model);

/// Activations, and the gradients of them, rounded to bf16.
#[test]
#[cfg(cuda_host)]
fn llama_tiny_by_the_kernels_in_bf16() {
    check_model(&common::driver::kernels(Dtype::Bf16, 1), "llama-tiny");
}

#[test]
#[cfg(cuda_host)]
fn qwen2_tiny_by_the_kernels_in_bf16() {
    check_model(&common::driver::kernels(Dtype::Bf16, 2), "qwen2-tiny");
}
