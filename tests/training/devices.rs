//! Training by the kernels follows training on the CPU: the losses of a supervised run and of reinforcement
//! learning, step by step.
#![cfg(cuda_host)]

use std::collections::BTreeMap;
use std::path::Path;

use colar_engine::device::Dtype;
use colar_engine::device::cpu::CpuDevice;
use colar_engine::device::prelude::*;
use colar_engine::infer::{Generation, Loaded, Prompt, Request, Sampling};
use colar_engine::model::prompt::Method;
use colar_engine::train::{Reward, RlTrainer, Scored};

use crate::common::driver::kernels;
use crate::common::runs::{flags, logged, materials, metrics, policy, run};
use crate::common::{golden, relative};

fn supervised<D: Device>(device: D, dir: &Path, name: &str, text: &str) -> Vec<Vec<f64>> {
    run(device, dir, name, text);
    logged(&dir.join(name), &["loss", "grad_norm"])
}

fn check(mine: &[Vec<f64>], theirs: &[Vec<f64>], steps: usize, tolerance: f64) {
    assert_eq!((mine.len(), theirs.len()), (steps, steps));
    for (step, (mine, theirs)) in mine.iter().zip(theirs).enumerate() {
        for (a, b) in mine.iter().zip(theirs) {
            let bound = tolerance * b.abs().max(1.0);
            assert!((a - b).abs() <= bound, "step {}: {mine:?} instead of {theirs:?}", step + 1);
        }
    }
}

const SUPERVISED: &str = "batch-size = 2\nlr = 1e-3\nwarmup = 5\ncf-list = [1, 2, 4]\n";

/// Steps in float32: LoRA, without and with dropout, and in full.
#[test]
fn supervised_steps_are_those_of_the_cpu() {
    let dir = tempfile::tempdir().unwrap();
    let text = materials(dir.path()) + SUPERVISED;
    for (name, more, steps) in [
        ("lora", "max-steps = 50\n", 50),
        ("dropout", "max-steps = 10\nlora-dropout = 0.3\n", 10),
        ("full", "max-steps = 8\nfull = true\n", 8),
    ] {
        let text = text.clone() + more;
        let theirs = supervised(CpuDevice::new(1).unwrap(), dir.path(), &format!("{name}-cpu"), &text);
        let mine = supervised(kernels(Dtype::F32, 3), dir.path(), &format!("{name}-kernels"), &text);
        check(&mine, &theirs, steps, 1e-4);
    }
}

/// Greedy tokens of the best checkpoint of a run, and the length of its reasoning.
fn written<D: Device>(device: D, run: &Path, method: Method) -> (Vec<u32>, usize) {
    let loaded = Loaded::new(device, &golden("llama-tiny"), Some(&run.join("best"))).unwrap();
    let sampling = Sampling::default().greedy().max_cot_tokens(4).max_new_tokens(4);
    let text = "Tom has 3 boxes with 24 pens each.".to_owned();
    let prompt = Prompt::Question { text, method, compression_factor: "auto".to_owned() };
    let request = Request::new(prompt).sampling(sampling);
    let generation = loaded.generate(&[request], &mut |_| ()).unwrap().remove(0);
    (generation.token_ids, generation.n_latents)
}

/// Thoughts: six steps in float32, and the text that the model writes after them.
#[test]
fn thinking_steps_are_those_of_the_cpu() {
    let dir = tempfile::tempdir().unwrap();
    let text = materials(dir.path()) + "batch-size = 2\nlr = 1e-3\nmax-steps = 6\nmonitor = \"loss\"\n";
    for (method, more, thoughts) in
        [(Method::Coconut, "stages = 2\nthoughts-per-step = 1\n", 2), (Method::Distill, "thoughts = 3\n", 3)]
    {
        let text = format!("{text}method = {:?}\n{more}", method.name());
        let names = ["cpu", "kernels"].map(|device| format!("{}-{device}", method.name()));
        let theirs = supervised(CpuDevice::new(1).unwrap(), dir.path(), &names[0], &text);
        let mine = supervised(kernels(Dtype::F32, 3), dir.path(), &names[1], &text);
        check(&mine, &theirs, 6, 1e-4);
        let run = dir.path().join(&names[0]);
        let theirs = written(CpuDevice::new(1).unwrap(), &run, method);
        assert!(theirs.1 >= thoughts);
        assert_eq!(written(kernels(Dtype::F32, 3), &run, method), theirs);
    }
}

/// With activations in bf16 the losses stay near those of float32, and so does that of validation after the run.
#[test]
fn supervised_steps_in_bf16() {
    let dir = tempfile::tempdir().unwrap();
    let text = materials(dir.path()) + SUPERVISED + "max-steps = 10\n";
    let loss = |run: Vec<Vec<f64>>| -> Vec<Vec<f64>> { run.into_iter().map(|v| vec![v[0]]).collect() };
    let theirs = loss(supervised(CpuDevice::new(1).unwrap(), dir.path(), "cpu", &text));
    let mine = loss(supervised(kernels(Dtype::Bf16, 3), dir.path(), "kernels", &text));
    check(&mine, &theirs, 10, 2e-2);
    let validation = |name: &str| -> f64 {
        let lines = metrics(&dir.path().join(name));
        let last = lines.iter().rev().find(|v| v["kind"] == "val").unwrap();
        last["loss"].as_f64().unwrap()
    };
    let (theirs, mine) = (validation("cpu"), validation("kernels"));
    assert!((mine - theirs).abs() <= 2e-2 * theirs, "validation loss {mine} instead of {theirs}");
}

fn reinforced<D: Device>(device: D, dir: &Path, name: &str, text: &str, keys: &[&str]) -> Vec<Vec<f64>> {
    run(device, dir, name, text);
    logged(&dir.join(name), keys)
}

/// Rewards that differ within every group, whatever the model says.
struct ByTokens;

impl Reward for ByTokens {
    fn score(&self, rollout: &Generation, _: &str) -> Scored {
        let sum = rollout.token_ids.iter().sum::<u32>() + rollout.n_latents as u32;
        Scored { correct: true, reward: (sum % 7) as f32 / 7.0 }
    }
}

/// The first moments of all weights after a run, which are sums of its steps' gradients.
fn moments<D: Device>(device: D, dir: &Path, name: &str, text: &str) -> BTreeMap<String, Vec<f32>> {
    let options = flags(dir, name, text).resolve_rl().unwrap();
    let mut trainer = RlTrainer::new(device, options, false).unwrap().with_reward(Box::new(ByTokens));
    trainer.run(&mut |_| ()).unwrap();
    let bytes = std::fs::read(dir.join(name).join("last/optimizer.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let first = tensors.iter().filter(|(name, _)| name.starts_with("m."));
    first
        .map(|(name, view)| {
            let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
            (name.to_owned(), values.collect())
        })
        .collect()
}

/// The gradients of five steps of reinforcement learning with all its terms, weight by weight. The divergence begins at
/// 0 and has no gradient in the first step but roundings; by the fifth it has.
#[test]
fn policy_gradients_are_those_of_the_cpu() {
    let dir = tempfile::tempdir().unwrap();
    let text =
        (materials(dir.path()) + &policy()).replace("kl-weight = 0.0", "kl-weight = 0.1") + "max-steps = 5\n";
    let theirs = moments(CpuDevice::new(1).unwrap(), dir.path(), "cpu", &text);
    let mine = moments(kernels(Dtype::F32, 3), dir.path(), "kernels", &text);
    assert!(theirs.len() > 8 && theirs.keys().eq(mine.keys()));
    for (name, theirs) in &theirs {
        assert!(theirs.iter().any(|&x| x != 0.0), "{name} has no gradient");
        let error = relative(&mine[name], theirs);
        assert!(error < 1e-4, "{name}: relative error {error:.1e}");
    }
}

/// Reinforcement learning in float32: the same rollouts, and the same steps on them; in bf16 it runs to its end. The
/// divergence is left out: it begins at 0, where its gradient is the roundings of two equal numbers.
#[test]
fn policy_steps_are_those_of_the_cpu() {
    let dir = tempfile::tempdir().unwrap();
    let text = materials(dir.path()) + &policy() + "max-steps = 6\n";
    let keys =
        ["n_latents", "answer_tokens", "entropy", "kl_latent", "latent_loss", "answer_loss", "grad_norm"];
    let theirs = reinforced(CpuDevice::new(1).unwrap(), dir.path(), "cpu", &text, &keys);
    let mine = reinforced(kernels(Dtype::F32, 3), dir.path(), "kernels", &text, &keys);
    assert!(!theirs.is_empty());
    check(&mine, &theirs, theirs.len(), 1e-4);
    let rounded = reinforced(kernels(Dtype::Bf16, 3), dir.path(), "bf16", &text, &keys);
    assert_eq!(rounded.len(), theirs.len());
    assert!(rounded.iter().flatten().all(|x| x.is_finite()));
}
