//! `bench serve`: requests in the scheduler.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::common::{DeviceArgs, with_setting};
use crate::bench::{self, Latencies, Quantiles, ServeOptions, ServeTiming, Setting, Spread};
use crate::cli::terminal;
use crate::data;
use crate::data::synth::{self, SynthConfig};
use crate::device::{Device, DeviceTask};
use crate::infer::SchedulerOptions;
use crate::{Error, Result};

/// Requests in the scheduler: beside closed batches, and as they come at random
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Model directory
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Checkpoint over it; without one that has a latent head, a new head draws
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Data whose questions are asked [default: word problems that are made]
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Latents of every request
    #[arg(long, value_name = "N", default_value_t = 8)]
    latents: usize,
    /// Most tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 16)]
    answer_tokens: usize,
    /// Requests at a time, a row each
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,4,8,16")]
    sizes: Vec<usize>,
    /// Poisson arrivals in percent of what the largest size served, a row each
    #[arg(long, value_name = "P,…", value_delimiter = ',', default_value = "50,90,150")]
    loads: Vec<f64>,
    /// Most requests of a row; at small sizes eight times the size
    #[arg(long, value_name = "N", default_value_t = 64)]
    requests: usize,
    /// Most tokens of prompts between two steps of the scheduler
    #[arg(long, value_name = "N", default_value_t = SchedulerOptions::default().prefill_tokens)]
    prefill_tokens: usize,
    /// Most steps that prompts wait to be read together
    #[arg(long, value_name = "N", default_value_t = SchedulerOptions::default().gather_steps)]
    gather_steps: usize,
    /// Pairs of each comparison
    #[arg(long, value_name = "N", default_value_t = 3)]
    pairs: usize,
    #[command(flatten)]
    on: DeviceArgs,
}

struct ServeTask<'a>(&'a ServeArgs, ServeOptions);

impl DeviceTask for ServeTask<'_> {
    type Output = (Setting, ServeTiming);

    fn run<D: Device>(self, device: D) -> Result<Self::Output> {
        let ServeTask(args, options) = self;
        let setting = Setting::of(&device);
        let loaded = Arc::new(bench::open_with_head(device, &args.model, args.adapter.as_deref())?);
        let timing = bench::serve(&loaded, &options, &mut |part| tracing::info!("measured: {part}"))?;
        Ok((setting, timing))
    }
}

/// Runs `bench serve`.
///
/// # Errors
/// Bad model or data files, data with fewer questions than a row has requests, and errors of the device.
pub fn run(args: &ServeArgs) -> Result<()> {
    let samples = match &args.data {
        Some(path) => data::load(path, None)?,
        None => {
            synth::generate(&SynthConfig { train: 0, val: 0, test: args.requests, ..SynthConfig::default() })?
                .test
        }
    };
    let options = ServeOptions {
        questions: samples.into_iter().map(|s| s.question).collect(),
        latents: args.latents,
        answer_tokens: args.answer_tokens,
        sizes: args.sizes.clone(),
        loads: args.loads.clone(),
        requests: args.requests,
        pairs: args.pairs,
        scheduler: SchedulerOptions::default()
            .prefill_tokens(args.prefill_tokens)
            .gather_steps(args.gather_steps),
    };
    if let (Some(path), true) = (&args.data, options.questions.len() < args.requests) {
        let there = options.questions.len();
        return Err(Error::file(path, format!("has {there} questions, and --requests is {}", args.requests)));
    }
    let (setting, timing) = args.on.run(ServeTask(args, options))?;
    if args.on.json {
        return terminal::print(&format!("{}\n", with_setting(&setting, &timing)?));
    }
    terminal::print(&table(&setting, &timing))
}

fn table(setting: &Setting, t: &ServeTiming) -> String {
    let spread = |s: &Spread| format!("{:.3} ({:.3}–{:.3})", s.median, s.least, s.most);
    let row = |q: &Quantiles| format!("{:.0} / {:.0} / {:.0}", q.p50, q.p95, q.p99);
    let latencies = |l: &Latencies| {
        format!("| {} | {} | {} |", row(&l.first_latent_ms), row(&l.first_token_ms), row(&l.whole_ms))
    };
    let mut lines = vec![
        format!("{}, {}", setting.hardware, setting.date),
        format!(
            "one request: {:.1} ms a latent, {:.1} ms a token; with the scheduler {} and {} times that (pairs: {})",
            t.steps.latent_ms,
            t.steps.token_ms,
            spread(&t.steps.latent_ratio),
            spread(&t.steps.token_ratio),
            t.steps.pairs
        ),
        String::new(),
        "| at a time | requests | closed, /s | scheduler, /s | ratio in pairs | by processor time | first latent, p50 / p95 \
         / p99 ms | first token | whole |"
            .to_owned(),
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|".to_owned(),
    ];
    lines.extend(t.sizes.iter().map(|r| {
        format!(
            "| {} | {} | {:.2} | {:.2} | {} | {} {}",
            r.size,
            r.requests,
            r.closed_per_s,
            r.scheduler_per_s,
            spread(&r.ratio),
            r.processor_ratio.as_ref().map(spread).unwrap_or_default(),
            latencies(&r.latencies)
        )
    }));
    if !t.loads.is_empty() {
        lines.push(String::new());
        lines.push(
            "| arrivals, % | requests | arrived, /s | served, /s | first latent, p50 / p95 / p99 ms | first token | whole |"
                .to_owned(),
        );
        lines.push("|---:|---:|---:|---:|---:|---:|---:|".to_owned());
    }
    lines.extend(t.loads.iter().map(|r| {
        format!(
            "| {:.0} | {} | {:.2} | {:.2} {}",
            r.percent,
            r.requests,
            r.arrived_per_s,
            r.served_per_s,
            latencies(&r.latencies)
        )
    }));
    lines.join("\n") + "\n"
}
