//! Several adapters over one model by the kernels: what a request gives does not depend on its company, and is what it gives
//! where its adapter is the only one.
//!
//! Schedulers are compared, as the decoder generates in their place where a model has no adapter beside its weights. On the
//! CPU alone: a GPU's library chooses its products by their number of rows.

use std::sync::Arc;

use colar_engine::device::cuda::CudaDevice;
use colar_engine::device::cuda::host::HostDriver;
use colar_engine::device::{Device, Dtype};
use colar_engine::infer::Loaded;
use colar_engine::model::lora::LoraMode;
use colar_engine::model::open::Additions;
use colar_engine::model::prompt::Method;
use colar_engine::{Generation, Prompt, Request, Sampling, SchedulerOptions};

use super::common::adapters::Adapters;

fn request(name: Option<&str>, seed: u64) -> Request {
    let method = name.map_or(Method::Cot, Adapters::method);
    let compression_factor = if method == Method::Colar { "2" } else { "1" }.to_owned();
    let sampling = Sampling::default().seed(seed).separator_bias(3.0).max_latents(3).max_cot_tokens(2);
    let text = "Tom has 3 boxes.".to_owned();
    Request::new(Prompt::Question { text, method, compression_factor })
        .sampling(sampling.max_new_tokens(2))
        .trace(method.has_vectors())
        .adapter(name.map(str::to_owned))
}

fn run<D: Device>(loaded: &Arc<Loaded<D>>, requests: &[Request], prefill: usize) -> Vec<Generation> {
    let options = SchedulerOptions::default().cache_positions(512).prefill_tokens(prefill);
    let scheduler = Arc::clone(loaded).scheduler(options).unwrap();
    let handles: Vec<_> = requests.iter().map(|r| scheduler.submit(r).unwrap()).collect();
    handles.into_iter().map(|h| h.wait().unwrap().generation).collect()
}

fn assert_same(got: &Generation, want: &Generation, what: &str) {
    assert_eq!((got.n_latents, &got.token_ids), (want.n_latents, &want.token_ids), "{what}");
    assert_eq!(got.trace, want.trace, "{what}: the latents are others");
}

/// `alone`: whether bits are those of a model with the one adapter too, which rounds the bias of a projection with the
/// rotation, in one step.
fn several(model: &str, dtype: Dtype, alone: bool) {
    let adapters = Adapters::over(model);
    let device = || CudaDevice::new(HostDriver::new(2, 0xada).unwrap(), dtype);
    let bare = Loaded::new(device(), &adapters.model, None).unwrap();
    let loaded = Arc::new(bare.with_adapters(&adapters.all, &Additions::default()).unwrap());
    let names = std::iter::once(None).chain(adapters.all.iter().map(|(name, _)| Some(name.as_str())));
    let names: Vec<Option<&str>> = names.collect();
    let requests: Vec<Request> = names.iter().zip(0..).map(|(name, seed)| request(*name, seed)).collect();
    let together = run(&loaded, &requests, 23);
    let closed = loaded.generate(&requests, &mut |_| ()).unwrap();
    for ((name, request), (got, closed)) in names.iter().zip(&requests).zip(together.iter().zip(&closed)) {
        let what = format!("{model}, {dtype}, {name:?}");
        assert_same(got, &run(&loaded, std::slice::from_ref(request), 128)[0], &what);
        assert_same(closed, got, &what);
        if alone {
            let checkpoint = name.map(|name| adapters.dir(name));
            let only = Loaded::with_lora(device(), &adapters.model, checkpoint, Some(LoraMode::Apart));
            let request = request.clone().adapter(None);
            assert_same(got, &run(&Arc::new(only.unwrap()), &[request], 128)[0], &what);
        }
    }
}

#[test]
fn several_adapters_in_float32() {
    several("llama-tiny", Dtype::F32, true);
}

#[test]
fn several_adapters_in_bf16() {
    several("llama-tiny", Dtype::Bf16, true);
}

/// Projections with biases.
#[test]
fn several_adapters_beside_biases() {
    several("qwen2-tiny", Dtype::F32, true);
    several("qwen2-tiny", Dtype::Bf16, false);
}
