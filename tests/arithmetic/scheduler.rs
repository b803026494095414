//! The scheduler: what a request gives is what it gives alone, and it comes and goes as it is asked to.

mod arrivals;
mod life;

use std::sync::{Arc, OnceLock};

use colar_engine::device::cpu::CpuDevice;
use colar_engine::infer::Loaded;
use colar_engine::{Generation, Request, Sampling};

use crate::common::golden;

/// A golden model with its latent head.
pub fn loaded() -> &'static Arc<Loaded<CpuDevice>> {
    static LOADED: OnceLock<Arc<Loaded<CpuDevice>>> = OnceLock::new();
    LOADED.get_or_init(|| {
        let dir = golden("llama-tiny");
        Arc::new(Loaded::new(CpuDevice::new(2).unwrap(), &dir, Some(&dir.join("adapter"))).unwrap())
    })
}

pub fn alone(request: &Request) -> Generation {
    loaded().generate(std::slice::from_ref(request), &mut |_| ()).unwrap().remove(0)
}

/// Asserts that two generations are the same to the bit: tokens, and of each latent its nearest tokens, whose cosines
/// are as many digits of it as there are.
pub fn assert_same(got: &Generation, want: &Generation) {
    let bits = |g: &Generation| -> Vec<Vec<(u32, u32)>> {
        g.trace.iter().map(|latent| latent.iter().map(|t| (t.id, t.cosine.to_bits())).collect()).collect()
    };
    assert_eq!((got.n_latents, &got.token_ids), (want.n_latents, &want.token_ids), "{}", want.question);
    assert_eq!((&got.text, got.finished), (&want.text, want.finished));
    assert_eq!(bits(got), bits(want), "{}", want.question);
}

/// A request whose latents never end by themselves.
pub fn endless(max_latents: usize) -> Request {
    let sampling = Sampling::default().separator_bias(-1e4).max_latents(max_latents).max_new_tokens(4);
    Request::question("How many?", "2").sampling(sampling)
}
