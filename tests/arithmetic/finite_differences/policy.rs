//! The whole policy objective on the golden models: every trained tensor, with clipped and unclipped
//! elements, divergence and entropy.

use colar_engine::device::prelude::*;
use colar_engine::device::{PolicyElement, PolicyObjective};
use colar_engine::infer::Trace;
use colar_engine::model::ColarModel;
use colar_engine::model::params::Grads;
use colar_engine::model::weight_spec::{Group, Groups};
use colar_engine::random::Stream;
use colar_engine::train::rl::objective::{PolicyLossOptions, PolicyPass, begin, run};
use colar_engine::train::rl::{Episode, PolicyStats};

use super::common::float64::Float64;
use super::common::float64::policy::policy_loss;
use super::whole::both;

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

/// The elements of a pass over all of `episodes`: their latents and their answer tokens.
fn elements(options: &PolicyLossOptions, episodes: &[Episode]) -> [Vec<PolicyElement>; 2] {
    let mut parts = [Vec::new(), Vec::new()];
    for Episode { trace, reference, advantage, .. } in episodes {
        let (of_latents, of_answer) = reference.as_ref().unwrap();
        let olds = [(&trace.latent_logprobs, of_latents), (&trace.answer_logprobs, of_answer)];
        for (part, (old, reference)) in parts.iter_mut().zip(olds) {
            let divisor = if options.average_per_token_loss { old.len() as f32 } else { 32.0 };
            let weight = 1.0 / (divisor * episodes.len() as f32);
            let pairs = old.iter().zip(reference);
            part.extend(pairs.map(|(&old, &reference)| PolicyElement {
                old,
                reference,
                advantage: *advantage,
                weight,
            }));
        }
    }
    parts
}

/// The objective in float64.
fn wide_loss(
    device: &Float64,
    model: &ColarModel<Float64>,
    options: &PolicyLossOptions,
    latents: &[f32],
    episodes: &[Episode],
) -> f64 {
    let listed: Vec<&Episode> = episodes.iter().collect();
    let width = model.transformer.config.hidden_size;
    let latents = device.upload(latents.len() / width, width, latents).unwrap();
    let pending = begin(device, model, options, &latents, &listed, listed.len(), None).unwrap();
    let [answer, latent] = pending.tensors();
    let answers: Vec<f64> = answer.values.iter().map(|loss| -loss).collect();
    let objective = PolicyObjective { clip_eps: options.clip_eps, kl_weight: options.kl_weight };
    let [of_latents, of_answers] = elements(options, episodes);
    let (latent_loss, held_latents) = policy_loss(&of_latents, &latent.column(0), objective);
    let (answer_loss, held_answers) = policy_loss(&of_answers, &answers, objective);
    let (held, all) = (held_latents + held_answers, of_latents.len() + of_answers.len());
    assert!(held > 0 && held < all, "the clip holds {held} of {all} elements");
    let entropies = latent.column(1);
    let entropy = entropies.iter().sum::<f64>() / entropies.len() as f64;
    latent_loss + answer_loss + f64::from(options.entropy_weight) * entropy
}

fn check(name: &str, full: bool, average_per_token_loss: bool) {
    let mut both = both(name, full);
    let (device, model) = (&both.device, &both.opened.model);
    let width = model.transformer.config.hidden_size;
    let options = PolicyLossOptions::default()
        .average_per_token_loss(average_per_token_loss)
        .kl_weight(0.2)
        .entropy_weight(-0.3);
    let (mut episodes, latents) = episodes(width);
    let on_cpu = device.upload(latents.len() / width, width, &latents).unwrap();
    let go = |episodes: &[Episode], grads: Option<&mut Grads<_>>| {
        let listed: Vec<&Episode> = episodes.iter().collect();
        let pass = run(device, model, &options, &on_cpu, &listed, listed.len(), grads).unwrap();
        assert_eq!(pass.bounded, 0);
        (PolicyStats::of(&options, &listed, listed.len(), &pass), pass)
    };
    let (_, pass) = go(&episodes, None);
    set_old(&mut episodes, &pass);
    let mut grads =
        both.grads(if full { Groups::ALL } else { Groups::of(&[Group::Adapter, Group::LatentHead]) });
    let (stats, pass) = go(&episodes, Some(&mut grads));
    let entropy = pass.entropy.iter().map(|&x| f64::from(x)).sum::<f64>() / pass.entropy.len() as f64;
    let total = stats.total(&options) + f64::from(options.entropy_weight) * entropy;
    both.check(total, &grads, |wide, model| wide_loss(wide, model, &options, &latents, &episodes));
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

#[test]
fn every_weight_of_a_model_with_normalised_heads() {
    check("qwen3-tiny", true, false);
}
