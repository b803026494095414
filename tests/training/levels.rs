//! Training runs leave the weights, moments and metrics that are pinned here, with vectors of any width and any
//! number of threads: packing, forward, backward, losses, AdamW, sampled latents and tokens, and rewards.

use std::path::Path;

use colar_engine::device::cpu::CpuDevice;

use crate::common::levels;
use crate::common::runs::{Left, left, materials, policy};
use crate::exact::SUPERVISED;

/// Kinds of runs and the checksums of what they leave.
const PINNED: [(&str, u32); 3] = [("lora", 0x03fa_431b), ("full", 0x7ae6_3cda), ("rl", 0xc01f_ef8a)];

/// The checksum of the tensors and of the metrics, which no directory's name is in.
fn checksum(left: &Left) -> u32 {
    let mut sum = 0;
    for (name, bytes) in &left.files {
        // The header, whose length comes first, may name the engine's version.
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        sum = crc32c::crc32c_append(sum, name.as_bytes());
        sum = crc32c::crc32c_append(sum, &bytes[8 + header..]);
    }
    for line in &left.metrics {
        sum = crc32c::crc32c_append(sum, line.to_string().as_bytes());
    }
    sum
}

fn run(dir: &Path, kind: &str, threads: usize) -> u32 {
    let text = materials(dir)
        + &match kind {
            "lora" => SUPERVISED.to_owned() + "max-steps = 2\n",
            "full" => SUPERVISED.to_owned() + "max-steps = 1\nfull = true\n",
            _ => policy() + "max-steps = 2\n",
        };
    checksum(&left(CpuDevice::new(threads).unwrap(), dir, &format!("{kind}-{threads}"), &text))
}

#[test]
fn runs_leave_the_pinned_bits_on_any_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    for threads in [1, 2, 3, 7] {
        let got = PINNED.map(|(kind, _)| (kind, run(dir.path(), kind, threads)));
        assert!(got == PINNED, "{threads} threads, {}: {got:#x?}", levels::in_force());
    }
}

#[test]
fn runs_leave_the_pinned_bits_at_every_level() {
    levels::others("levels::runs_leave_the_pinned_bits_on_any_number_of_threads");
}
