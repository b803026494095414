//! Generation that is cancelled where the decoder makes it: it ends with the steps that are under way, gives what there is by
//! then, and leaves nothing behind.

use std::sync::atomic::{AtomicBool, Ordering};

use colar_engine::device::Dtype;
use colar_engine::device::cuda::CudaDevice;
use colar_engine::device::cuda::host::HostDriver;
use colar_engine::device::prelude::*;
use colar_engine::infer::Loaded;
use colar_engine::{Event, Generation, Request, Sampling};

use super::common::{golden, head_only};

/// Latents that the decoder draws before the host hears of them.
const STEPS: usize = 64;
/// More than that.
const LATENTS: usize = 70;

type Model = Loaded<CudaDevice<HostDriver>>;

/// A model without an adapter beside its weights, whose batches the decoder takes.
fn load(driver: HostDriver) -> Model {
    let model = golden("llama-tiny");
    let device = CudaDevice::new(driver, Dtype::F32);
    let loaded = Loaded::new(device, &model, Some(head_only(&model).path())).unwrap();
    let weights = loaded.opened.model.for_decoder().unwrap();
    assert!(loaded.device.decoder(weights, requests().len()).unwrap().is_some());
    loaded
}

/// Requests whose latents never end by themselves.
fn requests() -> Vec<Request> {
    let sampling = Sampling::default().separator_bias(-1e4).max_new_tokens(5);
    let ask = |text: &str, latents, seed| {
        Request::question(text, "2").sampling(sampling.max_latents(latents).seed(seed)).trace(true)
    };
    vec![ask("How many?", LATENTS, 1), ask("How many pens has Tom?", LATENTS, 2), ask("And hens?", 3, 3)]
}

/// Runs the requests and cancels them at the first event that `ends` them.
fn until(model: &Model, ends: impl Fn(&Event) -> bool + Sync) -> Vec<Generation> {
    let cancelled = AtomicBool::new(false);
    let made = model.generate_cancellable(&requests(), None, &cancelled, &mut |event| {
        if ends(&event) {
            cancelled.store(true, Ordering::Relaxed);
        }
    });
    made.unwrap()
}

#[test]
fn the_decoder_ends_with_the_steps_under_way_and_leaves_nothing_behind() {
    let driver = HostDriver::new(2, 0xca).unwrap();
    let model = load(driver.clone());
    let whole = until(&model, |_| false);
    assert_eq!(whole.iter().map(|g| g.n_latents).collect::<Vec<_>>(), [LATENTS, LATENTS, 3]);
    assert!(whole.iter().all(|g| g.token_ids.len() >= 2), "{whole:?}");
    let begins = |made: &[Generation]| {
        for (got, whole) in made.iter().zip(&whole) {
            // The bits of a latent are those of its cosines.
            assert_eq!(got.trace, whole.trace[..got.n_latents]);
            assert!(whole.token_ids.starts_with(&got.token_ids), "{got:?}");
        }
    };

    // Room for one run, and not for what another would leave of its cache: keys and values of two layers, 32 wide.
    let cache = 2 * 2 * 32 * size_of::<f32>() * whole.len() * LATENTS;
    let bytes = model.opened.weight_bytes() + driver.reserved_bytes() + cache / 2;
    let model = load(HostDriver::limited(2, 0xca, bytes).unwrap());
    for _ in 0..3 {
        let made = until(&model, |event| matches!(event, Event::Latent { number: 2, .. }));
        assert_eq!(made.iter().map(|g| g.n_latents).collect::<Vec<_>>(), [STEPS, STEPS, 3]);
        assert!(made.iter().all(|g| g.token_ids.is_empty() && !g.finished));
        begins(&made);
        let made = until(&model, |event| matches!(event, Event::Token { .. }));
        assert!(made.iter().all(|g| g.token_ids.len() == 1 && !g.finished), "{made:?}");
        begins(&made);
    }
    let again = until(&model, |_| false);
    begins(&again);
    for (again, whole) in again.iter().zip(&whole) {
        assert_eq!((again.n_latents, &again.token_ids), (whole.n_latents, &whole.token_ids));
    }
}
