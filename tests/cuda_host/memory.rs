//! The memory a run needs: named when it does not fit, and never less than the run takes.

use colar_engine::device::Dtype;
use colar_engine::device::cuda::CudaDevice;
use colar_engine::device::cuda::host::HostDriver;
use colar_engine::infer::Loaded;
use colar_engine::train::score::{ScoreOptions, score};
use colar_engine::{Request, Result};

use super::common::{golden, sample};
use super::models::cases;

type Model = Loaded<CudaDevice<HostDriver>>;

const MIB: usize = 1 << 20;

fn load(driver: HostDriver, dtype: Dtype) -> Result<Model> {
    let dir = golden("llama-tiny");
    Loaded::new(CudaDevice::new(driver, dtype), &dir, Some(&dir.join("adapter")))
}

/// Questions of different lengths, two of them equal.
fn requests(max_new_tokens: usize) -> Vec<Request> {
    let questions = ["1+1?", "Tom has 3 boxes with 24 pens each. He gives 10 away.", "1+1?", "And 7?"];
    let request = |text: &&str| {
        let mut request = Request::question(*text, "2").greedy();
        (request.sampling.max_latents, request.sampling.max_new_tokens) = (3, max_new_tokens);
        request
    };
    questions.iter().map(request).collect()
}

fn scored(model: &Model, batch_tokens: usize) -> Result<()> {
    let samples: Vec<_> = cases("llama-tiny")["samples"].as_array().unwrap().iter().map(sample).collect();
    let options = ScoreOptions::default().compression_factor(2).batch_tokens(batch_tokens);
    score(model, &samples, &options, &mut |_| Ok(())).map(drop)
}

/// The line that a run without room fails with.
fn line(result: Result<()>) -> String {
    let line = result.unwrap_err().to_string();
    assert!(line.starts_with("cuda-host: ") && !line.contains('\n'), "{line}");
    line
}

fn has(line: &str, parts: &[&str]) {
    for part in parts {
        assert!(line.contains(part), "{part:?} is not in {line:?}");
    }
}

#[test]
fn what_does_not_fit_is_said_by_name() {
    let limited = |bytes| HostDriver::limited(1, 0, bytes).unwrap();
    let weights = load(HostDriver::new(1, 0).unwrap(), Dtype::F32).unwrap().opened.weight_bytes();
    let small = line(load(limited(weights / 2), Dtype::F32).map(drop));
    has(&small, &["the weights", "are free", "`dtype` bf16"]);

    // Half the dtype is half the memory.
    load(limited(weights * 3 / 4), Dtype::Bf16).unwrap();

    let model = load(limited(weights + MIB), Dtype::F32).unwrap();
    let run = |new| model.generate(&requests(new), &mut |_| ()).map(drop);
    run(4).unwrap();
    let long = line(run(100_000));
    has(
        &long,
        &["the key-value cache of 1000", "positions for a batch of 4", "the activations of a prefill of"],
    );
    has(&long, &["are free", "beside the weights", "`batch_size`", "`max_latents`", "`max_new_tokens`"]);
    // The failed run has left no buffers behind.
    run(4).unwrap();

    let tight = load(limited(weights + MIB / 16), Dtype::F32).unwrap();
    has(&line(scored(&tight, 2048)), &["the activations of a pass of", "`batch_tokens`"]);
}

#[test]
fn what_is_set_aside_suffices_and_is_not_wasted() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        for run in ["generate", "score"] {
            let driver = HostDriver::new(1, 0).unwrap();
            let model = load(driver.clone(), dtype).unwrap();
            let weights = model.opened.weight_bytes();
            match run {
                "generate" => drop(model.generate(&requests(16), &mut |_| ()).unwrap()),
                _ => scored(&model, 2048).unwrap(),
            }
            let (took, reserved) = (driver.most_bytes() - weights, driver.reserved_bytes());
            let said = format!("{run} in {dtype:?}: {took} bytes, {reserved} set aside");
            assert!(took <= reserved, "{said}");
            assert!(reserved <= 2 * took, "{said}");
        }
    }
}
