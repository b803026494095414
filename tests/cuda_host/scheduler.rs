//! The scheduler over the kernels: what a request gives does not depend on its company, nor on the cut of its prompt.
//!
//! It is compared with itself, as the decoder generates in its place where requests are few. On the CPU alone: a GPU's
//! library chooses its products by their number of rows.

use std::sync::Arc;

use colar_engine::device::cuda::CudaDevice;
use colar_engine::device::cuda::host::HostDriver;
use colar_engine::device::{Device, Dtype};
use colar_engine::infer::Loaded;
use colar_engine::{Generation, Request, Sampling, SchedulerOptions};

use super::common::golden;

fn run<D: Device>(
    loaded: &Arc<Loaded<D>>,
    requests: &[Request],
    options: SchedulerOptions,
) -> Vec<Generation> {
    let scheduler = Arc::clone(loaded).scheduler(options).unwrap();
    let handles: Vec<_> = requests.iter().map(|r| scheduler.submit(r).unwrap()).collect();
    handles.into_iter().map(|h| h.wait().unwrap().generation).collect()
}

fn company_changes_nothing(dtype: Dtype) {
    let dir = golden("llama-tiny");
    let device = CudaDevice::new(HostDriver::new(2, 0x5c4e).unwrap(), dtype);
    let loaded = Arc::new(Loaded::new(device, &dir, Some(&dir.join("adapter"))).unwrap());
    let sampling = Sampling::default().separator_bias(3.0).max_latents(3).max_new_tokens(2);
    let request = |text: &str, seed| Request::question(text, "2").sampling(sampling.seed(seed)).trace(true);
    // Ends of prompts that alone would be few rows, and prompts that share their beginning.
    let requests =
        [request("Tom has 3 boxes.", 1), request("1+1?", 2), request("Tom has 3 boxes. How many pens?", 3)];
    let options = SchedulerOptions::default().cache_positions(512).kept_prompts(1);
    let together = run(&loaded, &requests, options.clone().prefill_tokens(7));
    for (request, got) in requests.iter().zip(&together) {
        let want = run(&loaded, std::slice::from_ref(request), options.clone()).remove(0);
        assert_eq!((got.n_latents, &got.token_ids), (want.n_latents, &want.token_ids), "{dtype}");
        assert_eq!(got.trace, want.trace, "{dtype}: the latents are others");
        assert_eq!(got.trace.len(), got.n_latents);
    }
}

#[test]
fn company_changes_nothing_in_float32() {
    company_changes_nothing(Dtype::F32);
}

#[test]
fn company_changes_nothing_in_bf16() {
    company_changes_nothing(Dtype::Bf16);
}
