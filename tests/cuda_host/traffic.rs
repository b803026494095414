//! The traffic of kernels is counted right, here of kernels whose requests are known; and two of ours move what they need.

use colar_engine::device::Dtype;
use colar_engine::device::cuda::CudaDevice;
use colar_engine::device::cuda::driver::{Arg, Driver, Launch, Limits};
use colar_engine::device::cuda::host::observed_library::lines_of;
use colar_engine::device::cuda::host::traffic::{Access, Site, Traffic};
use colar_engine::device::cuda::host::{HostDriver, HostMemory, faults};
use colar_engine::device::decoder::{Decoder, DecoderModel};
use colar_engine::device::prelude::*;
use colar_engine::files::safetensors::Dtype as FileDtype;
use colar_engine::model::kv_cache::KvCache;

use super::common::accesses::counting_library;
use super::common::host::Host;
use super::decoder::{Shape, choice, model};

fn driver(blocks: u32) -> HostDriver {
    // SAFETY: the library was compiled of this tree's kernels.
    unsafe { HostDriver::counting(2, counting_library(), blocks) }.unwrap()
}

fn zeros(d: &HostDriver, bytes: usize) -> HostMemory {
    let memory = d.alloc(bytes).unwrap();
    d.zero(&memory).unwrap();
    memory
}

/// The traffic of `fault_traffic` of this kind.
fn of_kind(d: &HostDriver, kind: u32, blocks: u32) -> Traffic {
    let (values, out) = (zeros(d, 4 * 512), zeros(d, 4 * 64 * blocks as usize));
    let args = [Arg::U32(kind), Arg::from(&values), Arg::from(&out)];
    let launch = Launch {
        kernel: &faults::fault_traffic,
        grid: [blocks, 1],
        block: 64,
        shared: 0,
        args: &args,
        together: false,
    };
    // SAFETY: the buffers have what the kernel reads and writes.
    unsafe { d.launch(&launch) }.unwrap();
    let mut counted = d.take_traffic();
    assert_eq!(counted.len(), 1);
    counted.remove(0)
}

/// The one place that accesses memory so.
fn site(traffic: &Traffic, shared: bool, access: Access) -> &Site {
    let mut found = traffic.sites.iter().filter(|site| site.shared == shared && site.access == access);
    let first = found.next().expect("an access");
    assert!(found.next().is_none(), "{traffic:?}");
    first
}

#[test]
fn requests_of_global_memory_are_counted_in_sectors() {
    let d = driver(1);
    // Of two warps: bytes a lane, sectors taken, and the fewest.
    for (kind, bytes, sectors, least) in
        [(0, 4, 8.0, 8.0), (1, 4, 64.0, 8.0), (2, 2, 4.0, 4.0), (3, 16, 32.0, 32.0)]
    {
        let traffic = of_kind(&d, kind, 1);
        let read = site(&traffic, false, Access::Read);
        let counts = (read.bytes, read.requests, read.lanes, read.sectors, read.least_sectors);
        assert_eq!(counts, (bytes, 2.0, 64.0, sectors, least), "kind {kind}");
        // Every sector is another one here.
        assert_eq!((traffic.block_read, traffic.read), (sectors, sectors), "kind {kind}");
        let written = site(&traffic, false, Access::Write);
        assert_eq!((written.sectors, traffic.written), (8.0, 8.0), "kind {kind}");
        assert_eq!((traffic.products, traffic.barriers), (0.0, 0.0), "kind {kind}");
        assert_eq!(traffic.phases, [[1.0, 1.0]], "kind {kind}");
    }
}

#[test]
fn requests_of_shared_memory_are_counted_in_wavefronts() {
    let d = driver(1);
    // Words 16 bytes apart lie in eight banks; 16 bytes a lane go by quarters of a warp, and every other place conflicts.
    for (kind, bytes, wavefronts, least) in [(4, 4, 8.0, 2.0), (5, 16, 8.0, 8.0), (6, 16, 16.0, 8.0)] {
        let traffic = of_kind(&d, kind, 1);
        let read = site(&traffic, true, Access::Read);
        let counts = (read.bytes, read.requests, read.wavefronts, read.least_wavefronts);
        assert_eq!(counts, (bytes, 2.0, wavefronts, least), "kind {kind}");
        assert_eq!(traffic.barriers, 1.0);
    }
}

#[test]
fn products_and_loops_that_end_apart_are_counted() {
    let d = driver(1);
    assert_eq!(of_kind(&d, 7, 1).products, 2.0);
    let traffic = of_kind(&d, 8, 1);
    let reads: Vec<&Site> = traffic.sites.iter().filter(|s| !s.shared && s.access == Access::Read).collect();
    let [mut looped, mut together] = reads[..] else { panic!("{reads:?}") };
    if looped.requests < together.requests {
        (looped, together) = (together, looped);
    }
    // A request a round for the lanes that are still there, and afterwards one for all.
    assert_eq!((looped.requests, looped.lanes, looped.sectors), (64.0, 2.0 * 528.0, 64.0));
    assert_eq!((together.requests, together.lanes), (2.0, 64.0));
    assert_eq!(traffic.phases, [[1.0, 1.0], [32.0, 1.0]]);
}

/// Two of eight blocks stand for all: what each block touches alone counts eight times, what all touch once.
#[test]
fn some_blocks_stand_for_all() {
    for kind in [0, 1, 5, 6] {
        let (all, some) = (of_kind(&driver(8), kind, 8), of_kind(&driver(2), kind, 8));
        assert_eq!((all.blocks_seen, some.blocks_seen), (8.0, 2.0));
        assert_eq!((all.read, all.written), (some.read, some.written), "kind {kind}");
        assert_eq!((all.block_read, all.block_written), (some.block_read, some.block_written), "kind {kind}");
        for figure in [|s: &Site| s.requests, |s: &Site| s.sectors, |s: &Site| s.wavefronts] {
            let of = |t: &Traffic, shared| t.sum(shared, figure);
            assert_eq!([of(&all, false), of(&all, true)], [of(&some, false), of(&some, true)], "kind {kind}");
        }
    }
}

/// The places of a kernel's launches, each with its line.
fn lines(traffic: &[Traffic], kernel: &str) -> Vec<(String, Site)> {
    let sites = traffic.iter().filter(|t| t.kernel.starts_with(kernel)).flat_map(|t| t.sites.clone());
    let sites: Vec<Site> = sites.collect();
    let places: Vec<u64> = sites.iter().map(|site| site.place).collect();
    let named = lines_of(counting_library(), &places).into_iter().zip(sites);
    named.map(|(line, site)| (line.expect("addr2line, of binutils"), site)).collect()
}

/// Rows that begin at multiples of 16 bytes are read and written 16 bytes at a time.
#[test]
fn norms_take_whole_requests() {
    let driver = driver(1);
    let device = CudaDevice::new(driver.clone(), Dtype::Bf16);
    for (cols, wide) in [(512, true), (500, false)] {
        let [x, w] =
            [Host::normal(1, cols, 1.0, 1), Host::normal(1, cols, 1.0, 2)].map(|host| host.up(&device));
        let mut rounded = device.empty(1, cols).unwrap();
        device.gather_rows(1.0, &x, &device.index(&[0]).unwrap(), &mut rounded).unwrap();
        let mut out = device.empty(1, cols).unwrap();
        driver.take_traffic();
        device.rms_norm(&rounded, &w, 1e-5, &mut out).unwrap();
        let found = lines(&driver.take_traffic(), "rms_norm_bf16");
        let global = found.iter().filter(|(_, site)| !site.shared);
        let narrow = global.clone().filter(|(_, site)| site.bytes < 16).count();
        assert_eq!(narrow == 0, wide, "{found:?}");
        // The row twice, the weights and the result.
        let bytes: f64 = global.map(|(_, site)| site.lanes * f64::from(site.bytes)).sum();
        assert_eq!(bytes, cols as f64 * (2.0 + 2.0 + 4.0 + 2.0), "{found:?}");
    }
}

/// Lanes that read the first halves of their activations at once, beside eight columns of bf16 weights, do not meet in a bank.
#[test]
fn activations_of_a_decoder_do_not_conflict() {
    let shape = Shape {
        hidden: 512,
        heads: 4,
        kv_heads: 2,
        head_dim: 64,
        inner: 512,
        head_inner: 512,
        vocab: 64,
        bias: false,
        qk_norm: false,
        deterministic: false,
    };
    let driver = driver(1).with_limits(Limits { blocks: 2, shared: 227 << 10, threads: 64 });
    let device = CudaDevice::new(driver.clone(), Dtype::Bf16);
    let of = model(&device, &shape, FileDtype::Bf16);
    let mut cache = KvCache::new(&device, &of.transformer.config, 1, 4).unwrap();
    let weights = DecoderModel { head: None, ..of.for_decoder().unwrap() };
    let mut decoder = device.decoder(weights, 1).unwrap().expect("a decoder");
    driver.take_traffic();
    let fed = [(cache.rows(0), 7)];
    decoder.tokens(cache.lend(), &fed, &[choice(9, 0)], None).unwrap();
    let found = lines(&driver.take_traffic(), "decode_bf16_1");
    let staged = found.iter().filter(|(line, s)| line.contains("stream.cuh") && s.shared && s.bytes == 16);
    let (taken, least) = staged.fold((0.0, 0.0), |(taken, least), (_, site)| {
        (taken + site.wavefronts, least + site.least_wavefronts)
    });
    assert!(least > 0.0 && taken == least, "{taken} of {least}: {found:?}");
}
