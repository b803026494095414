//! Training runs that must agree to the bit: weights, moments and everything they log.

use std::path::Path;

#[cfg(cuda_host)]
use colar_engine::device::Dtype;
use colar_engine::device::cpu::CpuDevice;

use crate::common::driver::threaded;
use crate::common::runs::{Left, left, materials, policy};

/// Supervised, with all that a step can have: several batches, a second forward, clipping.
pub const SUPERVISED: &str = "batch-size = 2\naccumulate = 2\nlr = 1e-3\nwarmup = 2\ncf-list = [1, 2, 4]\n\
                          pred-embed-forward-weight = 0.5\nclip = 0.5\n";

/// The text of the flags of each kind of run, of few steps.
fn kinds(dir: &Path) -> [(&'static str, String); 5] {
    let text = materials(dir);
    [
        ("lora", text.clone() + SUPERVISED + "max-steps = 3\n"),
        ("dropout", text.clone() + SUPERVISED + "max-steps = 2\nlora-dropout = 0.3\n"),
        (
            "coconut",
            text.clone()
                + "batch-size = 2\nmax-steps = 3\nmethod = \"coconut\"\nstages = 2\nlora-dropout = 0.3\n",
        ),
        ("full", text.clone() + SUPERVISED + "max-steps = 2\nfull = true\n"),
        ("rl", text + &policy() + "max-steps = 2\n"),
    ]
}

fn same(what: &str, a: &Left, b: &Left) {
    assert_eq!(a.files.keys().collect::<Vec<_>>(), b.files.keys().collect::<Vec<_>>(), "{what}");
    for (name, bytes) in &a.files {
        assert!(bytes == &b.files[name], "{what}: {name} differs");
    }
    assert_eq!(a.metrics, b.metrics, "{what}");
}

/// With layers recomputed, or run once more, everything is the same.
#[test]
fn runs_repeat_on_the_cpu() {
    let dir = tempfile::tempdir().unwrap();
    for (kind, text) in kinds(dir.path()) {
        let run = |name: &str, text: &str| {
            left(CpuDevice::new(2).unwrap(), dir.path(), &format!("{kind}-{name}"), text)
        };
        let first = run("once", &text);
        same(&format!("{kind}, twice"), &first, &run("twice", &text));
        let recomputed = text.clone() + "recompute = true\n";
        same(&format!("{kind}, recomputed"), &first, &run("recomputed", &recomputed));
    }
}

/// On CUDA devices also with any number of threads, and in whichever order the threads of a block run.
#[cfg(cuda_host)]
fn runs_repeat(dtype: Dtype) {
    let dir = tempfile::tempdir().unwrap();
    // Coconut's phases would take the kernels on the CPU minutes.
    for (kind, text) in kinds(dir.path()).into_iter().filter(|(kind, _)| *kind != "coconut") {
        let run = |name: &str, threads: usize, text: &str| {
            let device = threaded(dtype, threads, threads as u64);
            left(device, dir.path(), &format!("{kind}-{name}"), text)
        };
        let first = run("once", 1, &text);
        same(&format!("{kind}, twice"), &first, &run("twice", 3, &text));
        let recomputed = text.clone() + "recompute = true\n";
        same(&format!("{kind}, recomputed"), &first, &run("recomputed", 2, &recomputed));
    }
}

#[test]
#[cfg(cuda_host)]
fn runs_repeat_by_the_kernels() {
    runs_repeat(Dtype::F32);
}

#[test]
#[cfg(cuda_host)]
fn runs_repeat_by_the_kernels_in_bf16() {
    runs_repeat(Dtype::Bf16);
}
