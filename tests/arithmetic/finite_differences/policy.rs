//! The whole policy objective on the golden models: every trained tensor, with clipped and unclipped
//! elements, divergence and entropy.

use colar_engine::device::Device;
use colar_engine::device::cpu::CpuDevice;
use colar_engine::infer::Trace;
use colar_engine::model::open::{Additions, open};
use colar_engine::model::params::{Grads, ParamId};
use colar_engine::random::Stream;
use colar_engine::train::rl::objective::{PolicyLossOptions, PolicyPass, run};
use colar_engine::train::rl::{Episode, PolicyStats};

use super::common::gradient::{derivative, direction, dot, norm};
use super::common::{Dir, golden, head_only};
use super::cpu;

/// Largest error, of a gradient's norm, as for the supervised objective.
const TOLERANCE: f64 = 2e-3;
/// The change of a log-probability that the step should make: far above its rounding, and far below the distance of
/// every ratio from the clip's edges.
const MOVE: f64 = 0.02;

/// Rollouts of different lengths, with advantages of both signs; the first and the last of the same prompt.
fn episodes(width: usize) -> (Vec<Episode>, Vec<f32>) {
    let mut draw = Stream::new(4, 4);
    let mut first_latent = 0;
    let mut made = Vec::new();
    for (i, (n_latents, tokens)) in [(3, 4), (1, 2), (5, 3)].into_iter().enumerate() {
        let mut ids = |n: usize| (0..n).map(|_| draw.below(100) as u32).collect::<Vec<u32>>();
        let trace = Trace {
            prompt: if i == 1 { ids(6) } else { (20..27).collect() },
            first_latent,
            latent_logprobs: vec![0.0; n_latents],
            entropy: vec![0.0; n_latents],
            answer: ids(tokens),
            answer_logprobs: vec![0.0; tokens],
        };
        first_latent += n_latents;
        let advantage = [1.2, -0.9, 0.4][i];
        made.push(Episode { group: 0, trace, reference: None, correct: true, reward: 1.0, advantage });
    }
    let latents = (0..first_latent * width).map(|_| draw.normal()).collect();
    (made, latents)
}

/// Gives the episodes old and reference log-probabilities at some distance from those of `pass`, so that
/// the clip holds some elements and no element is near its edge.
fn set_old(episodes: &mut [Episode], pass: &PolicyPass) {
    let offsets = [0.05f32, -0.05, 0.6, -0.6, 0.02];
    let (mut latent, mut answer) = (pass.latent.iter(), pass.answer.iter());
    let mut at = 0;
    let mut shifted = |values: &mut std::slice::Iter<'_, f32>, n: usize| -> Vec<f32> {
        let each = values.by_ref().take(n);
        each.map(|&lp| {
            at += 1;
            lp + offsets[at % offsets.len()]
        })
        .collect()
    };
    for e in episodes {
        e.trace.latent_logprobs = shifted(&mut latent, e.trace.latent_logprobs.len());
        e.trace.answer_logprobs = shifted(&mut answer, e.trace.answer.len());
        let away = |old: &[f32]| old.iter().map(|lp| lp - 0.2).collect();
        e.reference = Some((away(&e.trace.latent_logprobs), away(&e.trace.answer_logprobs)));
    }
}

fn check(name: &str, full: bool, average_per_token_loss: bool) {
    let dir = golden(name);
    let device = cpu();
    let trained = move |n: &str| full || n.contains("lora") || n.contains("latent_policy");
    let checkpoint = if full { head_only(&dir) } else { Dir::Given(dir.join("adapter")) };
    let mut opened = open(&device, &dir, Some(checkpoint.path()), &Additions::default(), &trained).unwrap();
    let width = opened.model.transformer.config.hidden_size;
    let options = PolicyLossOptions {
        average_per_token_loss,
        kl_weight: 0.2,
        entropy_weight: -0.3,
        ..Default::default()
    };
    let (mut episodes, latents) = episodes(width);
    let latents = device.upload(latents.len() / width, width, &latents).unwrap();
    let go = |model: &_, episodes: &[Episode], grads: Option<&mut Grads<CpuDevice>>| {
        let listed: Vec<&Episode> = episodes.iter().collect();
        let pass = run(&device, model, &options, &latents, &listed, listed.len(), grads).unwrap();
        assert_eq!(pass.bounded, 0);
        pass
    };
    let pass = go(&opened.model, &episodes, None);
    set_old(&mut episodes, &pass);
    let total = |pass: &PolicyPass| {
        let listed: Vec<&Episode> = episodes.iter().collect();
        let stats = PolicyStats::of(&options, &listed, listed.len(), pass);
        assert!(stats.clipped > 0 && stats.clipped < stats.elements);
        let entropy = pass.entropy.iter().map(|&x| f64::from(x)).sum::<f64>() / pass.entropy.len() as f64;
        stats.total(&options) + f64::from(options.entropy_weight) * entropy
    };

    let mut grads = Grads::new(&device, &opened.model.params, trained).unwrap();
    go(&opened.model, &episodes, Some(&mut grads));
    let ids: Vec<ParamId> = grads.ids().collect();
    for id in ids {
        let gradient = device.read(grads.get(id).unwrap()).unwrap();
        let (what, values) = {
            let (_, param) = opened.model.params.iter().find(|(i, _)| *i == id).unwrap();
            (param.name.clone(), device.read(&param.value).unwrap())
        };
        let (size, rms) = (norm(&gradient), norm(&values) / (values.len() as f64).sqrt());
        assert!(size > 0.0, "{what}: no gradient");
        for seed in 0..2 {
            let d = direction(values.len(), 100 + seed);
            let mut passed = |h: f64| {
                let moved: Vec<f32> =
                    values.iter().zip(&d).map(|(&x, &d)| x + (h * f64::from(d)) as f32).collect();
                device.write(opened.model.params.get_mut(id), &moved).unwrap();
                go(&opened.model, &episodes, None)
            };
            let probe = 1e-3 * rms.max(1e-2);
            let (here, there) = (passed(0.0), passed(probe));
            let logprobs = |pass: &PolicyPass| [pass.latent.clone(), pass.answer.clone()].concat();
            let furthest = (logprobs(&here).iter().zip(logprobs(&there)))
                .fold(1e-6, |most, (a, b)| f64::max(most, f64::from((a - b).abs())));
            let h = MOVE / furthest * probe;
            let mut at = |h: f64| total(&passed(h));
            let measured = derivative(h, &mut at);
            at(0.0);
            let error = (measured - dot(&gradient, &d)).abs() / size;
            assert!(
                error < TOLERANCE,
                "{what}, direction {seed}: slope {measured} but the gradient says {}, error {error:.1e}",
                dot(&gradient, &d)
            );
        }
    }
}

#[test]
fn adapter_and_head() {
    check("llama-tiny", false, true);
    check("qwen2-tiny", false, false);
}

#[test]
fn every_weight() {
    check("llama-tiny", true, false);
}

#[test]
fn every_weight_of_a_tied_model_with_biases() {
    check("qwen2-tiny", true, true);
}
