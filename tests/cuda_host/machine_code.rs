//! Launches against the machine code of their kernels (`docs/kernel-report.tsv`), at the limits of GPUs.
//!
//! Every launch of these tests is held against it as it is made, by the driver of `cuda-host`. Here are all kernels, and
//! launches of a size that no test runs.

use colar_engine::bench::table;
use colar_engine::device::Dtype;
use colar_engine::device::cuda::driver::Limits;
use colar_engine::device::cuda::host::{HostDriver, machine_code};
use colar_engine::device::cuda::{CudaDevice, kernel_list};
use colar_engine::device::decoder::{CachedRows, Decoder, DecoderModel};
use colar_engine::device::prelude::*;
use colar_engine::files::safetensors::Dtype as FileDtype;
use colar_engine::model::kv_cache::KvCache;
use colar_engine::model::presets::Preset;

use super::decoder::{Shape, choice, model};

/// Multiprocessors, and the shared memory that a block may have, of an A100, an RTX 3090 and an H100; the threads that
/// the driver of a GPU gives a block that has a multiprocessor for itself.
const GPUS: [Limits; 3] = [
    Limits { blocks: 108, shared: 163 << 10, threads: 256 },
    Limits { blocks: 82, shared: 99 << 10, threads: 256 },
    Limits { blocks: 132, shared: 227 << 10, threads: 256 },
];

fn device(dtype: Dtype, limits: Limits) -> CudaDevice<HostDriver> {
    let driver = HostDriver::new(2, 0xc0de).unwrap().with_limits(limits).checking_only();
    CudaDevice::new(driver, dtype)
}

/// The launches were as they must be; nothing ran, so the results, which were never written, may be refused.
fn launched<T>(what: &str, limits: Limits, result: colar_engine::Result<T>) {
    if let Err(error) = result {
        let error = error.to_string();
        assert!(error.contains("not finite"), "{what} on {limits:?}: {error}");
    }
}

#[test]
fn kernels_are_what_their_launches_take_them_for() {
    let lines = machine_code::differences(kernel_list::all());
    assert!(lines.is_empty(), "{}", lines.join("\n"));
}

#[test]
fn operations_of_inference_fit_every_gpu() {
    let mut config = Preset::Llama32_1b.config();
    config.vocab_size = 4096;
    // The least shared memory; the operations of the table do not depend on the limits otherwise.
    let limits = GPUS[1];
    let d = device(Dtype::Bf16, limits);
    for case in table(&d, &config) {
        let mut work = case.work(&d).unwrap();
        launched(&case.name(), limits, work(&d, 0));
    }
}

#[test]
fn the_decoder_fits_every_gpu() {
    let llama = Shape {
        hidden: 2048,
        heads: 32,
        kv_heads: 8,
        head_dim: 64,
        inner: 8192,
        head_inner: 2048,
        vocab: 1000,
        bias: false,
        qk_norm: false,
        deterministic: false,
    };
    for limits in GPUS {
        let d = device(Dtype::Bf16, limits);
        let of = model(&d, &llama, FileDtype::Bf16);
        for count in [1usize, 2, 4, 8] {
            let mut cache = KvCache::new(&d, &of.transformer.config, count, 4).unwrap();
            // The head is float32 here, and a decoder takes one dtype.
            let weights = DecoderModel { head: None, ..of.for_decoder().unwrap() };
            let mut decoder = d.decoder(weights, count).unwrap().expect("a decoder");
            let fed: Vec<(CachedRows, u32)> = (0..count).map(|i| (cache.rows(i), 7)).collect();
            let choices: Vec<_> = (0..count as u32).map(|i| choice(9, i)).collect();
            let what = format!("{count} sequences");
            launched(&what, limits, decoder.tokens(cache.lend(), &fed, &choices, None));
        }
    }
}
