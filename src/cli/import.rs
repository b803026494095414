//! `import`: a checkpoint of other code as one of ours.

use std::path::PathBuf;

use clap::Args;

use super::terminal;
use crate::files::atomic::StagedDir;
use crate::model::checkpoint_dir;
use crate::model::config::ModelConfig;
use crate::{Error, Result};

/// Turn a checkpoint of the authors' code into a checkpoint directory
///
/// Reads what PyTorch Lightning wrote (`checkpoints/NAME.ckpt`, with `hparams.yaml` beside it or in the directory above)
/// for the methods colar, cot, icot, coconut and distill under LoRA. Nothing that is in the file is run. `generate`, `eval`, `score`
/// and `train --init` take such a file as it is; as a directory it opens in PEFT too.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  colar-engine import colar/checkpoints/last.ckpt --model models/Llama-3.2-1B-Instruct --out checkpoints/colar
  colar-engine generate --model models/Llama-3.2-1B-Instruct --adapter checkpoints/colar --cf 5")]
pub struct ImportArgs {
    /// The checkpoint
    #[arg(value_name = "FILE.ckpt")]
    pub file: PathBuf,
    /// The model directory that it was trained over
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// The directory to make; it must not exist or be empty
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// The unit of latents that it was trained with [default: the authors' constant for the model that hparams.yaml names]
    #[arg(long, value_name = "STD", value_parser = positive)]
    pub embeds_std: Option<f32>,
}

/// Runs `import`.
///
/// # Errors
/// [`Error::Usage`] for an `--out` that is in use or a directory in place of the file; errors of the file, of its settings and of
/// the model. Nothing is left at `--out` then.
pub fn run(args: &ImportArgs) -> Result<()> {
    if args.file.is_dir() {
        return Err(Error::usage(format!("{} is a directory, not a file to import", args.file.display())));
    }
    if std::fs::read_dir(&args.out).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Error::usage(format!("--out {} is not empty", args.out.display())));
    }
    let model = ModelConfig::load(&args.model)?;
    let stored =
        checkpoint_dir::read(&checkpoint_dir::find(&args.file)?, &args.model, &model, args.embeds_std)?;
    let staged = StagedDir::create(&args.out)?;
    stored.write(staged.path(), &args.model)?;
    staged.commit()?;
    terminal::note(format!("imported {} as {}", args.file.display(), args.out.display()));
    Ok(())
}

/// A standard deviation.
fn positive(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(x) if x.is_normal() && x > 0.0 => Ok(x),
        Ok(_) => Err("must be a number above 0".to_owned()),
        Err(e) => Err(e.to_string()),
    }
}
