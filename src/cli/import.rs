//! `import`: a checkpoint of other code as one of ours.

use std::path::PathBuf;

use clap::Args;

use super::terminal;
use crate::files::staged::{StagedDir, is_vacant};
use crate::files::weights::Weights;
use crate::model::checkpoint_dir;
use crate::model::codi::{self, CodiOptions};
use crate::model::config::ModelConfig;
use crate::{Error, Result};

/// Turn a checkpoint of other code into a checkpoint directory
///
/// A .ckpt is one of CoLaR's authors, as PyTorch Lightning wrote it, with `hparams.yaml` beside it or in the directory above: the
/// methods colar, cot, icot, coconut and distill under LoRA. Nothing that is in the file is run. `generate`, `eval`, `score`
/// and `train --init` take such a file as it is; as a directory it opens in PEFT too.
///
/// A .safetensors file, or a directory with model.safetensors, is one of CODI or SIM-CoT over a llama, with LoRA and a projector. It
/// becomes a model directory of its own, of method distill, which answers in CODI's prompts.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  colar-engine import colar/checkpoints/last.ckpt --model models/Llama-3.2-1B-Instruct --out checkpoints/colar
  colar-engine generate --model models/Llama-3.2-1B-Instruct --adapter checkpoints/colar --cf 5
  colar-engine import SIM_COT-LLaMA3-CODI-1B --model models/Llama-3.2-1B-Instruct --out models/sim-cot
  colar-engine eval --model models/sim-cot --data test.jsonl --greedy")]
pub struct ImportArgs {
    /// The checkpoint
    #[arg(value_name = "FILE|DIR")]
    pub file: PathBuf,
    /// The model directory that it was trained over
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// The directory to make; it must not exist or be empty
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// The unit of latents that it was trained with, of a .ckpt [default: the authors' constant for the model that hparams.yaml
    /// names]
    #[arg(long, value_name = "STD")]
    pub embeds_std: Option<f32>,
    /// Numerator of the adapter's scale, of CODI, whose files do not say it [default: 32, that of their scripts]
    #[arg(long, value_name = "ALPHA")]
    pub lora_alpha: Option<f32>,
    /// Thoughts after a question, of CODI, whose files do not say it [default: 6, that of their scripts]
    #[arg(long, value_name = "N")]
    pub thoughts: Option<usize>,
}

/// Runs `import`.
///
/// # Errors
/// [`Error::Usage`] for an `--out` that is in use and for options of the other kind of checkpoint; errors of the file, of its
/// settings and of the model. Nothing is left at `--out` then.
pub fn run(args: &ImportArgs) -> Result<()> {
    if args.out.exists() && !is_vacant(&args.out) {
        return Err(Error::usage(format!("--out {} is not empty", args.out.display())));
    }
    let is_codi = args.file.is_dir() || args.file.extension().is_some_and(|end| end == "safetensors");
    let strange = [
        ("embeds-std", args.embeds_std.is_some() && is_codi),
        ("lora-alpha", args.lora_alpha.is_some() && !is_codi),
        ("thoughts", args.thoughts.is_some() && !is_codi),
    ];
    if let Some((flag, _)) = strange.iter().find(|(_, given)| *given) {
        let kind = if is_codi { "safetensors, of CODI" } else { ".ckpt" };
        return Err(Error::usage(format!("--{flag} says nothing about a checkpoint in {kind}")));
    }
    let staged = if is_codi {
        let weights =
            if args.file.is_dir() { Weights::open(&args.file) } else { Weights::open_file(&args.file) }?;
        let default = CodiOptions::default();
        let options = CodiOptions {
            lora_alpha: args.lora_alpha.map_or(default.lora_alpha, f64::from),
            thoughts: args.thoughts.unwrap_or(default.thoughts),
        };
        let staged = StagedDir::create(&args.out)?;
        codi::import(&weights, &args.model, options, staged.path())?;
        staged
    } else {
        let model = ModelConfig::load(&args.model)?;
        let stored =
            checkpoint_dir::read(&checkpoint_dir::find(&args.file)?, &args.model, &model, args.embeds_std)?;
        let staged = StagedDir::create(&args.out)?;
        stored.write(staged.path(), &args.model)?;
        staged
    };
    staged.commit()?;
    terminal::note(format!("imported {} as {}", args.file.display(), args.out.display()));
    Ok(())
}
