//! `bench decode`: tokens and latents of one sequence.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;

use super::common::{DeviceArgs, as_json, with_setting};
use crate::Result;
use crate::bench::{self, DecodeOptions, DecodeTiming, LatentsTiming, Setting, Timer};
use crate::cli::terminal;
use crate::device::{Device, DeviceTask};
use crate::infer::Loaded;

/// Seconds for which the copy is timed.
const COPY_SECONDS: f64 = 0.3;

/// One sequence: greedy, the end of sequence ignored, and on request a chain of latents
#[derive(Debug, Args)]
pub struct DecodeArgs {
    /// Model directory
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Prompt, continued without a template; the question before latents
    #[arg(
        long,
        default_value = "Question: Tom has 3 boxes with 24 pens each. How many pens? Let's think step by step:"
    )]
    prompt: String,
    /// Tokens to produce
    #[arg(long, value_name = "N", default_value_t = 128)]
    new_tokens: usize,
    /// Also draw this many latents, with a new latent head where the model has none
    #[arg(long, value_name = "N", default_value_t = 0)]
    latents: usize,
    #[command(flatten)]
    on: DeviceArgs,
    /// Do not time a large copy, which takes twice half a gigabyte, to compare with
    #[arg(long)]
    no_copy: bool,
}

/// The results of the measurement.
struct Measured {
    setting: Setting,
    first_token_s: f64,
    tokens: DecodeTiming,
    latents: Option<LatentsTiming>,
    copy_gb_per_s: Option<f64>,
}

struct DecodeTask<'a> {
    args: &'a DecodeArgs,
    started: Instant,
}

impl DeviceTask for DecodeTask<'_> {
    type Output = Measured;

    fn run<D: Device>(self, device: D) -> Result<Measured> {
        let DecodeTask { args, started } = self;
        let setting = Setting::of(&device);
        let loaded = Loaded::new(device.clone(), &args.model, None)?;
        let config = loaded.opened.model.transformer.config.clone();
        let options = DecodeOptions { prompt: args.prompt.clone(), new_tokens: args.new_tokens };
        let mut first_token_s = 0.0;
        let first = &mut || first_token_s = started.elapsed().as_secs_f64();
        let tokens = bench::decode(&loaded, &options, first)?;
        drop(loaded);
        // Opened once more, as a new latent head changes the weights that a decoder takes.
        let time = || {
            let loaded = bench::open_with_head(device.clone(), &args.model, None)?;
            bench::latents(&loaded, &args.prompt, args.latents)
        };
        let latents = (args.latents > 0).then(time).transpose()?;
        let copy = || {
            let bytes = bench::copy_bytes(&config);
            device.scope(|| bench::copy_ceiling(&mut Timer::new(&device)?, bytes, COPY_SECONDS))
        };
        let copy_gb_per_s = (!args.no_copy).then(copy).transpose()?;
        Ok(Measured { setting, first_token_s, tokens, latents, copy_gb_per_s })
    }
}

/// Runs `bench decode`; `started` is when the process began.
///
/// # Errors
/// Bad model files, and errors of the device.
pub fn run(args: &DecodeArgs, started: Instant) -> Result<()> {
    let m = args.on.run(DecodeTask { args, started })?;
    let share = |speed: f64| m.copy_gb_per_s.map(|copy| speed / copy);
    if args.on.json {
        let mut line = with_setting(&m.setting, &m.tokens)?;
        line["start_to_first_token_s"] = m.first_token_s.into();
        line["copy_gb_per_s"] = m.copy_gb_per_s.into();
        line["share_of_copy"] = share(m.tokens.weight_gb_per_s).into();
        if let Some(latents) = &m.latents {
            line["latents"] = as_json(latents)?;
            line["latents"]["share_of_copy"] = share(latents.weight_gb_per_s).into();
        }
        terminal::line(format!("{line}"))?;
        return Ok(());
    }
    let of_copy = |speed: f64| match share(speed) {
        Some(share) => format!(", {:.0} % of a copy's speed", 100.0 * share),
        None => String::new(),
    };
    let t = &m.tokens;
    terminal::line(format!("device   {}", m.setting.hardware))?;
    terminal::line(format!(
        "prefill  {:8.1} tokens/s over {} tokens",
        t.prefill_tokens_per_s, t.prompt_tokens
    ))?;
    terminal::line(format!(
        "decode   {:8.1} tokens/s over {} tokens; {:.1} GB/s of weights ({:.0} MB a token){}",
        t.decode_tokens_per_s,
        t.new_tokens,
        t.weight_gb_per_s,
        t.weight_bytes as f64 / 1e6,
        of_copy(t.weight_gb_per_s)
    ))?;
    if let Some(l) = &m.latents {
        terminal::line(format!(
            "latents  {:8.1} latents/s over {}; {:.1} GB/s of weights (at most {:.0} MB a latent){}",
            l.latents_per_s,
            l.latents,
            l.weight_gb_per_s,
            l.weight_bytes as f64 / 1e6,
            of_copy(l.weight_gb_per_s)
        ))?;
    }
    if let Some(copy) = m.copy_gb_per_s {
        terminal::line(format!("copy     {copy:8.1} GB/s, read and written"))?;
    }
    terminal::line(format!("first token {:.3} s after the start", m.first_token_s))?;
    Ok(())
}
