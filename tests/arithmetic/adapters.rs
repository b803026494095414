//! Several adapters over one model in one batch: what a request gives is what it gives where its adapter is the only one.

use std::sync::{Arc, OnceLock};

use colar_engine::device::cpu::CpuDevice;
use colar_engine::infer::Loaded;
use colar_engine::model::lora::LoraMode;
use colar_engine::model::open::Additions;
use colar_engine::{Engine, EngineOptions, Generation, Method, Prompt, Request, Sampling, SchedulerOptions};
use proptest::prelude::*;

use crate::common::adapters::Adapters;
use crate::common::golden;
use crate::scheduler::assert_same;

type Model = Loaded<CpuDevice>;

fn adapters() -> &'static Adapters {
    static ADAPTERS: OnceLock<Adapters> = OnceLock::new();
    ADAPTERS.get_or_init(|| Adapters::over("llama-tiny"))
}

fn together() -> &'static Arc<Model> {
    static LOADED: OnceLock<Arc<Model>> = OnceLock::new();
    LOADED.get_or_init(|| {
        let Adapters { model, all, .. } = adapters();
        let bare = Loaded::new(CpuDevice::new(2).unwrap(), model, None).unwrap();
        Arc::new(bare.with_adapters(all, &Additions::default()).unwrap())
    })
}

/// Names of the models that requests may ask: the bare one and all adapters.
fn names() -> Vec<Option<String>> {
    let all = adapters().all.iter().map(|(name, _)| Some(name.clone()));
    std::iter::once(None).chain(all).collect()
}

fn request(name: Option<&str>, text: &str, seed: u64) -> Request {
    let method = name.map_or(Method::Cot, Adapters::method);
    let compression_factor = if method == Method::Colar { "2" } else { "1" }.to_owned();
    let sampling = Sampling::default().seed(seed).separator_bias(3.0).max_latents(5).max_cot_tokens(6);
    Request::new(Prompt::Question { text: text.to_owned(), method, compression_factor })
        .sampling(sampling.max_new_tokens(5))
        .trace(method.has_vectors())
        .adapter(name.map(str::to_owned))
}

fn alone(request: &Request) -> Generation {
    together().generate(std::slice::from_ref(request), &mut |_| ()).unwrap().remove(0)
}

/// A model loaded with one adapter, and no other, gives the same to the bit, and each gives something else.
#[test]
fn one_of_several_is_the_only_one() {
    let text = "Tom has 3 boxes of 24 pens. How many pens has he?";
    let mut requests = Vec::new();
    for seed in 0..2 {
        requests.extend(names().iter().map(|name| request(name.as_deref(), text, seed)));
    }
    let got = together().generate(&requests, &mut |_| ()).unwrap();
    let mut said = Vec::new();
    for (request, got) in requests.iter().zip(&got) {
        let checkpoint = request.adapter.as_ref().map(|name| adapters().dir(name));
        let device = CpuDevice::new(1).unwrap();
        let only = Loaded::with_lora(device, &adapters().model, checkpoint, Some(LoraMode::Apart)).unwrap();
        let want = only.generate(&[request.clone().adapter(None)], &mut |_| ()).unwrap().remove(0);
        assert_same(got, &want);
        said.push((got.token_ids.clone(), got.trace.clone()));
    }
    for i in 0..said.len() {
        assert!(!said[..i].contains(&said[i]), "{:?} says what another says", requests[i].adapter);
    }
}

fn asked() -> impl Strategy<Value = Request> {
    // Some prompts share their beginnings, under one adapter or under different ones.
    let texts = vec![
        "How many?",
        "Read the question twice, think about what is asked, and answer. How many pens?",
        "Read the question twice, think about what is asked, and answer. How many hens?",
    ];
    (prop::sample::select(names()), prop::sample::select(texts), 0u64..9)
        .prop_map(|(name, text, seed)| request(name.as_deref(), text, seed))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    /// In any company of other adapters, and any order, a request gives to the bit what it gives alone.
    #[test]
    fn company_of_other_adapters_changes_nothing(
        requests in prop::collection::vec(asked(), 1..20),
        running in 1usize..21,
        tokens in 1usize..80,
        kept in 0usize..4,
    ) {
        let options = SchedulerOptions::default();
        let options = options.max_running(running).prefill_tokens(tokens).kept_prompts(kept).gather_steps(0);
        let scheduler = Arc::clone(together()).scheduler(options).unwrap();
        let handles: Vec<_> = requests.iter().map(|r| scheduler.submit(r).unwrap()).collect();
        for (request, handle) in requests.iter().zip(handles) {
            assert_same(&handle.wait().unwrap().generation, &alone(request));
        }
    }
}

/// Rows of the cache belong to the adapter that they were computed under.
#[test]
fn a_prompt_is_shared_under_one_adapter_alone() {
    let scheduler = Arc::clone(together()).scheduler(SchedulerOptions::default()).unwrap();
    let text = "Read the question twice, and answer with one number only. How many pens?";
    let shared = |name: Option<&str>| {
        let request = request(name, text, 1);
        let done = scheduler.submit(&request).unwrap().wait().unwrap();
        assert_same(&done.generation, &alone(&request));
        (done.usage.shared_prompt_tokens, done.usage.prompt_tokens)
    };
    // Prompts of one method are the same text.
    for name in [Some("golden"), Some("every"), Some("head"), None, Some("words")] {
        assert_eq!(shared(name).0, 0, "{name:?}");
        let (again, all) = shared(name);
        assert_eq!(again, all, "{name:?}");
    }
}

#[test]
fn an_engine_speaks_for_the_adapter_that_it_was_chosen_for() {
    let Adapters { model, all, .. } = adapters();
    let mut options = EngineOptions::new(model).threads(2);
    for (name, dir) in all {
        options = options.named_adapter(name, dir);
    }
    let engine = Engine::with_options(&options).unwrap();
    assert_eq!(engine.adapters(), all.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>());
    assert_eq!((engine.default_method(), engine.has_latent_head()), (None, false));
    for (name, dir) in all {
        let own = engine.with_adapter(name).unwrap();
        assert_eq!(own.default_method(), Some(Adapters::method(name)));
        assert_eq!(own.has_latent_head(), Adapters::method(name) == Method::Colar);
        assert!(own.loaded().contains(dir.to_str().unwrap()), "{}", own.loaded());
        let named = request(Some(name), "How many?", 4);
        let want = alone(&named);
        let unnamed = named.clone().adapter(None);
        // By its name, or as the engine's own.
        for (engine, request) in [(&engine, &named), (&own, &unnamed), (&own, &named)] {
            assert_same(&engine.generate(request).unwrap(), &want);
            let scheduler = engine.scheduler(SchedulerOptions::default()).unwrap();
            assert_same(&scheduler.submit(request).unwrap().wait().unwrap().generation, &want);
        }
    }
    let error = engine.with_adapter("none").err().unwrap().to_string();
    assert!(
        error.starts_with("`adapter`: there is no \"none\"") && error.contains("\"golden\", \"every\""),
        "{error}"
    );
    let unknown = request(None, "How many?", 1).adapter(Some("other".to_owned()));
    assert_eq!(engine.generate(&unknown).unwrap_err().exit_code(), 2);
    let scheduler = engine.scheduler(SchedulerOptions::default()).unwrap();
    let error = scheduler.submit(&unknown).unwrap_err().to_string();
    assert!(error.contains("there is no \"other\""), "{error}");
    // An adapter without a head for what is asked.
    let latents = Request::question("How many?", "2").adapter(Some("words".to_owned()));
    let error = scheduler.submit(&latents).unwrap_err().to_string();
    assert!(error.contains("no latent head"), "{error}");
}

#[test]
fn adapters_that_do_not_go_together_are_refused() {
    let Adapters { model, .. } = adapters();
    let golden_adapter = adapters().dir("golden");
    let refused = |options: EngineOptions, code: u8, words: &[&str]| {
        let error = Engine::with_options(&options.threads(1)).err().unwrap();
        let said = error.to_string();
        assert_eq!(error.exit_code(), code, "{said}");
        assert!(words.iter().all(|word| said.contains(word)) && !said.contains('\n'), "{said}");
    };
    let one = || EngineOptions::new(model).named_adapter("one", golden_adapter);
    refused(one().named_adapter("one", golden_adapter), 2, &["`adapters`", "\"one\""]);
    refused(one().named_adapter("", golden_adapter), 2, &["`adapters`", "\"\" is no name"]);
    refused(one().adapter(golden_adapter), 2, &["`adapter`", "`adapters`"]);
    refused(one().lora(LoraMode::Merge), 2, &["`lora`", "stay apart"]);
    // Of another model.
    let other = golden("qwen2-tiny").join("adapter");
    let path = other.join("adapter_model.safetensors");
    refused(one().named_adapter("other", &other), 1, &[path.to_str().unwrap(), "hidden_size 64"]);
    // Weights of its own, and what must be merged.
    refused(
        one().named_adapter("whole", golden("qwen3-tiny")),
        2,
        &["qwen3-tiny", "the weights of a whole model"],
    );
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden_adapter).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    let config = dir.path().join("adapter_config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("\"use_dora\": false", "\"use_dora\": true")).unwrap();
    magnitudes(dir.path());
    refused(
        one().named_adapter("dora", dir.path()),
        2,
        &[dir.path().to_str().unwrap(), "magnitudes of DoRA"],
    );
}

/// Adds the magnitudes of DoRA to an adapter of queries and values.
fn magnitudes(dir: &std::path::Path) {
    use colar_engine::files::safetensors::{TensorData, save_safetensors};
    use colar_engine::files::weights::Weights;

    let file = dir.join("adapter_model.safetensors");
    let mut tensors = Vec::new();
    let weights = Weights::open_file(&file).unwrap();
    for name in weights.names() {
        let tensor = weights.tensor(name).unwrap();
        tensors.push((name.to_owned(), tensor.shape().to_vec(), tensor.to_f32_vec()));
        if let Some(module) = name.strip_suffix(".lora_B.weight") {
            let out = tensor.shape()[0];
            tensors.push((format!("{module}.lora_magnitude_vector"), vec![out], vec![1.0; out]));
        }
    }
    drop(weights);
    let data: Vec<_> = tensors.iter().map(|(n, s, x)| (n.clone(), s.clone(), TensorData::F32(x))).collect();
    save_safetensors(&file, &data, &[]).unwrap();
}
