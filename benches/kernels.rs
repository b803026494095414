//! The table of `colar-engine bench kernels` under criterion, for comparisons from one change to the next.
//!
//! `cargo bench --bench kernels [-- FILTER]`. `COLAR_BENCH_DEVICE` names the device (`cpu`, `cuda`, `cuda-host`),
//! `COLAR_BENCH_CONFIG` the model whose shapes are taken (`llama-3.2-1b`).

use std::time::Duration;

use clap::ValueEnum;
use colar_engine::bench::{Timer, table};
use colar_engine::device::prelude::*;
use colar_engine::device::{DeviceKind, DeviceTask, run_on_device};
use colar_engine::model::presets::Preset;
use colar_engine::{Error, Result};
use criterion::{Criterion, SamplingMode, Throughput};

fn variable(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

struct Kernels(Preset);

impl DeviceTask for Kernels {
    type Output = ();

    fn run<D: Device>(self, device: D) -> Result<()> {
        let mut criterion = Criterion::default().configure_from_args();
        let cases = table(&device, &self.0.config());
        let mut timer = Timer::new(&device)?;
        let mut group = criterion.benchmark_group(device.name());
        group.sample_size(10).sampling_mode(SamplingMode::Flat);
        group.warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(400));
        for case in &cases {
            group.throughput(Throughput::Bytes(case.bytes));
            // The operands are made when the filter has let the row through, and once.
            let (mut work, mut next) = (None, 0);
            group.bench_function(case.name(), |b| {
                let work = work.get_or_insert_with(|| case.work(&device).unwrap());
                b.iter_custom(|calls| {
                    let first = next;
                    next += calls as usize;
                    device.scope(|| timer.run(calls as usize, first, work)).unwrap()
                });
            });
        }
        group.finish();
        criterion.final_summary();
        Ok(())
    }
}

fn main() -> Result<()> {
    let device = variable("COLAR_BENCH_DEVICE", "cpu");
    let device = DeviceKind::from_str(&device, false)
        .map_err(|e| Error::usage(format!("COLAR_BENCH_DEVICE {device}: {e}")))?;
    let config = variable("COLAR_BENCH_CONFIG", Preset::Llama32_1b.name());
    let preset = Preset::from_name(&config)
        .ok_or_else(|| Error::usage(format!("COLAR_BENCH_CONFIG {config}: no such model")))?;
    run_on_device(device, None, 0, Kernels(preset))
}
