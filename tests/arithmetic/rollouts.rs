//! Rollouts share their prefill, and record the log-probabilities that a policy update computes.

use colar_engine::data::Sample;
use colar_engine::device::cpu::CpuDevice;
use colar_engine::infer::{Generation, Loaded};
use colar_engine::random::Stream;
use colar_engine::train::rl::objective::{PolicyLossOptions, run};
use colar_engine::train::rl::{Episode, Experience, PolicyStats, Reward, Scored};
use colar_engine::{Prompt, Request, Sampling};

use crate::common::golden;

const GROUP: usize = 4;

/// Tolerance of a log-probability in float32: the same sums are taken in two orders.
const LOGPROB: f32 = 1e-4;

/// A reward that differs from rollout to rollout.
struct Length;

impl Reward for Length {
    fn score(&self, rollout: &Generation, gold: &str) -> Scored {
        assert_eq!(gold, "gold");
        Scored { correct: true, reward: 1.0 / (1 + rollout.n_latents + rollout.answer_tokens) as f32 }
    }
}

fn loaded(name: &str) -> Loaded<CpuDevice> {
    let dir = golden(name);
    Loaded::new(CpuDevice::new(2).unwrap(), &dir, Some(&dir.join("adapter"))).unwrap()
}

fn questions() -> Vec<Sample> {
    ["Tom has 3 boxes with 24 pens each.", "1+1?", "A shop has 12 apples and sells 5."]
        .map(|q| Sample { question: q.to_owned(), steps: Vec::new(), answer: "gold".to_owned() })
        .to_vec()
}

fn sampling() -> Sampling {
    Sampling::default().max_latents(7).max_new_tokens(6).separator_bias(3.0)
}

fn experience(loaded: &Loaded<CpuDevice>, sampling: Sampling) -> Experience<CpuDevice> {
    let samples = questions();
    let asked: Vec<&Sample> = samples.iter().collect();
    Experience::gather(loaded, &asked, GROUP, "2", sampling, &Length, &mut Stream::new(8, 1)).unwrap()
}

/// A group that shares its prefill draws what each of its members would draw alone.
#[test]
fn a_shared_prompt_changes_nothing() {
    let loaded = loaded("llama-tiny");
    let batch = experience(&loaded, sampling());
    let mut seeds = Stream::new(8, 1);
    let mut lengths = std::collections::BTreeSet::new();
    for (i, together) in batch.generations.iter().enumerate() {
        let request = Request::question(questions()[i / GROUP].question.clone(), "2")
            .sampling(sampling().seed(seeds.next_u64()));
        assert!(matches!(request.prompt, Prompt::Question { .. }));
        let alone = &loaded.generate(&[request], &mut |_| ()).unwrap()[0];
        assert_eq!((alone.n_latents, &alone.token_ids), (together.n_latents, &together.token_ids));
        lengths.insert(alone.n_latents);
    }
    assert!(lengths.len() > 2, "the rollouts have different lengths: {lengths:?}");
}

/// The rollout's own log-probabilities are those of a teacher-forced pass, so the ratios of a first
/// minibatch are 1, whatever temperature and nucleus the rollout was drawn with.
#[test]
fn recorded_logprobs_are_teacher_forced_ones() {
    for name in ["llama-tiny", "qwen2-tiny"] {
        let loaded = loaded(name);
        for sampling in
            [sampling(), sampling().latent_temperature(0.5).temperature(1.5).top_p(0.4), sampling().greedy()]
        {
            let experience = experience(&loaded, sampling);
            let episodes: Vec<&Episode> = experience.episodes.iter().collect();
            let options = PolicyLossOptions::default();
            let (device, model) = (&loaded.device, &loaded.opened.model);
            let latents = &experience.latents;
            let pass = run(device, model, &options, latents, &episodes, episodes.len(), None).unwrap();
            let old = |f: &dyn Fn(&Episode) -> Vec<f32>| -> Vec<f32> {
                episodes.iter().flat_map(|e| f(e)).collect()
            };
            for (what, old, new) in [
                ("latent", old(&|e| e.trace.latent_logprobs.clone()), &pass.latent),
                ("answer", old(&|e| e.trace.answer_logprobs.clone()), &pass.answer),
                ("entropy", old(&|e| e.trace.entropy.clone()), &pass.entropy),
            ] {
                assert_eq!(old.len(), new.len());
                for (i, (a, b)) in old.iter().zip(new).enumerate() {
                    assert!((a - b).abs() < LOGPROB, "{name} {what} {i}: {a} in the rollout, {b} forced");
                }
            }
            let stats = PolicyStats::of(&options, &episodes, episodes.len(), &pass);
            assert!(stats.ratio_deviation < f64::from(LOGPROB) && stats.clipped == 0, "{stats:?}");
        }
    }
}

#[test]
fn groups_are_compared_within_themselves() {
    let loaded = loaded("llama-tiny");
    let experience = experience(&loaded, sampling());
    assert_eq!(experience.episodes.len(), 3 * GROUP);
    for (g, group) in experience.episodes.chunks(GROUP).enumerate() {
        assert!(group.iter().all(|e| e.group == g && e.trace.prompt == group[0].trace.prompt));
        let sum: f32 = group.iter().map(|e| e.advantage).sum();
        assert!(sum.abs() < 1e-5, "{sum}");
        for (a, b) in group.iter().zip(&group[1..]) {
            assert_eq!(a.reward < b.reward, a.advantage < b.advantage);
        }
    }
    let separator = loaded.opened.separator;
    assert!(experience.episodes.iter().all(|e| e.trace.answer[0] == separator));
}

#[test]
fn only_latents_are_rolled_out() {
    let loaded = loaded("llama-tiny");
    let plain = Request::new(Prompt::Plain("Tom has".to_owned()));
    for requests in [&[][..], &[plain][..]] {
        let error = loaded.rollout(requests).err().unwrap().to_string();
        assert!(error.contains("latents"), "{error}");
    }
}
