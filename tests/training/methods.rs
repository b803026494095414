//! Runs of implicit CoT, Coconut and distillation: resumed after a cut, and the text their models write.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use colar_engine::device::cpu::{CpuDevice, CpuTensor};
use colar_engine::device::prelude::*;
use colar_engine::infer::{Loaded, Prompt, Request, Sampling};
use colar_engine::model::kv_cache::KvCache;
use colar_engine::model::open::{Additions, Opened, open};
use colar_engine::model::prompt::{Method, inference};
use colar_engine::model::thoughts::{Projector, Thoughts};
use colar_engine::model::transformer::ThoughtLayout;
use colar_engine::model::weight_spec::Groups;
use colar_engine::train::{Progress, TrainFlags, Trainer};

use crate::common::cli::materials;
use crate::common::{golden, relative};

fn flags(method: Method, data: &str, model: &str, out: PathBuf) -> TrainFlags {
    TrainFlags {
        method: Some(method),
        model: Some(model.into()),
        data: Some(format!("{data}/train.jsonl").into()),
        val: Some(format!("{data}/val.jsonl").into()),
        out: Some(out),
        lora_r: Some(4),
        lr: Some(1e-3),
        batch_size: Some(4),
        max_steps: Some(6),
        save_every: Some(2),
        val_every: Some(3),
        val_samples: Some(2),
        ..TrainFlags::default()
    }
}

/// Runs to the end, or to a fall after `falls` steps.
fn train(flags: TrainFlags, resume: bool, falls: Option<u64>) {
    let mut trainer = Trainer::new(CpuDevice::new(1).unwrap(), flags.resolve().unwrap(), resume).unwrap();
    let fell = catch_unwind(AssertUnwindSafe(|| {
        trainer
            .run(&mut |progress| match progress {
                Progress::Step(s) if Some(s.step) == falls => panic!("the run is cut off here"),
                _ => (),
            })
            .unwrap();
    }));
    assert_eq!(fell.is_err(), falls.is_some());
}

/// Three stages of two steps, cut off in the second, before its state was saved: the run goes on from the end of
/// the first.
#[test]
fn a_run_that_was_cut_off_between_stages_ends_with_the_same_bits() {
    let tmp = tempfile::tempdir().unwrap();
    let (data, model) = materials(tmp.path());
    for method in [Method::Icot, Method::Coconut, Method::Distill] {
        let out = |name: &str| tmp.path().join(format!("{name}-{}", method.name()));
        let of = |name: &str| flags(method, &data, &model, out(name));
        train(of("whole"), false, None);
        train(of("broken"), false, Some(3));
        train(of("broken"), true, None);
        let read = |run: &str, file: &str| std::fs::read(out(run).join(file)).unwrap();
        let mut files =
            vec!["last/adapter_model.safetensors", "last/optimizer.safetensors", "best/colar.json"];
        if method == Method::Distill {
            files.push("best/thought_projector.safetensors");
        }
        for file in files {
            assert!(read("whole", file) == read("broken", file), "{file} of {}", method.name());
        }
        let stages = |run: &str| -> Vec<(u64, Option<f64>, f64)> {
            let text = String::from_utf8(read(run, "metrics.jsonl")).unwrap();
            let values = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
            let train = values.filter(|v| v["kind"] == "train");
            train
                .map(|v| (v["step"].as_u64().unwrap(), v["stage"].as_f64(), v["loss"].as_f64().unwrap()))
                .collect()
        };
        assert_eq!(stages("whole"), stages("broken"));
        if method != Method::Distill {
            let of_steps: Vec<f64> = stages("whole").iter().filter_map(|&(_, stage, _)| stage).collect();
            assert_eq!(of_steps, [1.0, 1.0, 2.0, 2.0, 3.0, 3.0]);
        }
    }
}

/// A golden model that thinks in `count` thoughts.
fn thinker(name: &str, count: usize, projector: bool) -> Opened<CpuDevice> {
    let device = CpuDevice::new(2).unwrap();
    let dir = golden(name);
    let adapter = dir.join("adapter");
    let additions = Additions::default();
    let mut opened =
        open(&device, &dir, Some(adapter.as_path() as &Path), &additions, Groups::of(&[])).unwrap();
    let hidden = opened.model.transformer.config.hidden_size;
    let projector = projector.then(|| {
        Projector::random(&device, &mut opened.model.params, hidden, Default::default(), 7).unwrap()
    });
    opened.model.thoughts = Some(Thoughts { count, projector });
    opened
}

/// Input embeddings of tokens.
fn embed(device: &CpuDevice, opened: &Opened<CpuDevice>, ids: &[u32]) -> CpuTensor {
    let table = opened.model.params.get(opened.model.transformer.embed);
    let mut x = device.zeros(ids.len(), table.cols()).unwrap();
    device.gather_rows(1.0, table, &device.index(ids).unwrap(), &mut x).unwrap();
    x
}

/// Final hidden states of prompt, thoughts and tail in one packed pass, row by row.
fn packed(opened: &Opened<CpuDevice>, prompt: &[u32], count: usize, tail: &[u32]) -> Vec<Vec<f32>> {
    let device = CpuDevice::new(2).unwrap();
    // The rows of thoughts are not read.
    let ids = [prompt, &vec![0; count], tail].concat();
    let x = embed(&device, opened, &ids);
    let layout = ThoughtLayout::new(&device, &[[prompt.len(), tail.len()]], count).unwrap();
    let (model, projector) = (&opened.model, opened.model.thoughts.as_ref().unwrap().projector.as_ref());
    let (h, _) = model
        .transformer
        .forward_thoughts(&device, &model.params, projector, &x, &layout, None, None)
        .unwrap();
    device.read(&h).unwrap().chunks_exact(h.cols()).map(<[f32]>::to_vec).collect()
}

/// Final hidden states of the last prompt position and of each thought, one at a time from the cache.
fn cached(opened: &Opened<CpuDevice>, prompt: &[u32], count: usize) -> Vec<Vec<f32>> {
    let device = CpuDevice::new(2).unwrap();
    let model = &opened.model;
    let mut cache = KvCache::new(&device, &model.transformer.config, 1, prompt.len() + count).unwrap();
    let mut x = embed(&device, opened, prompt);
    let mut states = Vec::new();
    for _ in 0..=count {
        let extension = cache.extend(&[(0, x.rows())]).unwrap();
        let h = model.transformer.forward_cached(&device, &model.params, x, &extension, &mut cache).unwrap();
        let mut last = device.zeros(1, h.cols()).unwrap();
        let row = device.index(&[h.rows() as u32 - 1]).unwrap();
        device.gather_rows(1.0, &h, &row, &mut last).unwrap();
        states.push(device.read(&last).unwrap());
        x = match &model.thoughts.as_ref().unwrap().projector {
            Some(projector) => projector.forward(&device, &model.params, last).unwrap().0,
            None => last,
        };
    }
    states
}

/// The likeliest token after a hidden state.
fn likeliest(opened: &Opened<CpuDevice>, hidden: &[f32]) -> u32 {
    let device = CpuDevice::new(1).unwrap();
    let w = opened.model.params.get(opened.model.transformer.lm_head);
    let h = device.upload(1, hidden.len(), hidden).unwrap();
    let mut logits = device.zeros(1, w.rows()).unwrap();
    device.matmul_nt(1.0, &h, w, 0.0, &mut logits).unwrap();
    let logits = device.read(&logits).unwrap();
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32
}

/// Generation feeds thoughts one by one; a pass over the whole sequence must predict every token that it wrote.
#[test]
fn what_is_written_after_thoughts_is_what_a_whole_pass_predicts() {
    for (name, count, projected) in
        [("llama-tiny", 3, false), ("qwen2-tiny", 4, true), ("llama-tiny", 6, true)]
    {
        let method = if projected { Method::Distill } else { Method::Coconut };
        let questions = ["Tom has 3 boxes with 24 pens each.", "1+1?"];
        let prompts = {
            let thinker = thinker(name, count, projected);
            questions.map(|q| inference(&thinker.tokenizer, thinker.separator, q, "auto").unwrap())
        };
        let loaded = Loaded::from_opened(CpuDevice::new(2).unwrap(), thinker(name, count, projected));
        let sampling = Sampling::default().greedy().max_cot_tokens(5).max_new_tokens(6);
        let request = |text: &str, method: Method, compression_factor: &str| {
            let (text, compression_factor) = (text.to_owned(), compression_factor.to_owned());
            Request::new(Prompt::Question { text, method, compression_factor }).sampling(sampling)
        };
        // Reasoning text and latents run beside them in the same batch.
        let requests = [
            request(questions[0], method, "auto"),
            request("2+2?", Method::Cot, "1"),
            request("3+3?", Method::Colar, "2"),
            request(questions[1], method, "auto"),
        ];
        let written = loaded.generate(&requests, &mut |_| ()).unwrap();
        for (generation, (prompt, request)) in
            [&written[0], &written[3]].into_iter().zip(prompts.iter().zip([&requests[0], &requests[3]]))
        {
            let alone = loaded.generate(std::slice::from_ref(request), &mut |_| ()).unwrap().remove(0);
            assert_eq!((&alone.token_ids, alone.n_latents), (&generation.token_ids, generation.n_latents));
            let reasoning = generation.n_latents - count;
            let rows = packed(&loaded.opened, prompt, count, &generation.token_ids);
            for (i, &token) in generation.token_ids.iter().enumerate() {
                // At its limit reasoning is ended by a forced separator.
                if i == reasoning && reasoning == sampling.max_cot_tokens {
                    assert_eq!(token, loaded.opened.separator);
                } else {
                    let before = &rows[prompt.len() + count + i - 1];
                    assert_eq!(
                        likeliest(&loaded.opened, before),
                        token,
                        "{name}: token {i} of {generation:?}"
                    );
                }
            }
            let states = cached(&loaded.opened, prompt, count);
            assert_eq!(states.len(), count + 1);
            for (i, state) in states.iter().enumerate() {
                let gap = relative(state, &rows[prompt.len() - 1 + i]);
                assert!(gap < 1e-5, "{name}: thought {i} differs by {gap:.1e}");
            }
        }
    }
}
