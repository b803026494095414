//! `bench rl`: rollouts of one question and an update on them.

use std::path::PathBuf;

use clap::Args;

use super::common::{TrainingArgs, adapter, with_setting};
use crate::bench::{RlStepOptions, RlStepTiming, Setting, rl_step};
use crate::cli::terminal;
use crate::device::{Device, DeviceTask};
use crate::{Error, Result};

/// Rollouts of one question and an update on them, with a LoRA adapter on q_proj and v_proj
#[derive(Debug, Args)]
pub struct RlArgs {
    /// Model directory
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Training data, of which the first question is asked
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    #[command(flatten)]
    training: TrainingArgs,
    /// Rollouts of the question
    #[arg(long, value_name = "G", default_value_t = 8)]
    group_size: usize,
    /// Latents of every rollout
    #[arg(long, value_name = "N", default_value_t = 16)]
    latents: usize,
    /// Tokens of every answer
    #[arg(long, value_name = "N", default_value_t = 16)]
    answer_tokens: usize,
}

struct RlTask<'a>(&'a RlArgs);

impl DeviceTask for RlTask<'_> {
    type Output = (Setting, RlStepTiming);

    fn run<D: Device>(self, device: D) -> Result<Self::Output> {
        let RlTask(args) = self;
        let t = &args.training;
        let options = RlStepOptions {
            model: args.model.clone(),
            data: args.data.clone(),
            compression_factor: t.cf,
            group_size: args.group_size,
            n_latents: args.latents,
            answer_tokens: args.answer_tokens,
            head_size: t.head_size,
            lora: adapter(t.lora_r),
            steps: t.steps,
        };
        Ok((Setting::of(&device), rl_step(&device, &options)?))
    }
}

/// Runs `bench rl`.
///
/// # Errors
/// [`Error::Usage`] for a group of one; bad model or data files, and errors of the device.
pub fn run(args: &RlArgs) -> Result<()> {
    if args.group_size < 2 {
        return Err(Error::usage("--group-size must be at least 2"));
    }
    let (setting, timing) = args.training.on.run(RlTask(args))?;
    if args.training.on.json {
        return terminal::print(&format!("{}\n", with_setting(&setting, &timing)?));
    }
    terminal::line(format!(
        "{} rollouts of a prompt of {} tokens, {} latents and {} answer tokens: {:.3} s; update {:.3} s",
        timing.group_size,
        timing.question_tokens,
        timing.n_latents,
        timing.answer_tokens,
        timing.rollout_s,
        timing.update_s
    ))?;
    Ok(())
}
