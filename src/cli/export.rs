//! `export`: a checkpoint as a model directory of its own.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{shown, terminal};
use crate::files::runs;
use crate::files::safetensors::Dtype;
use crate::model::export::{ExportOptions, export};
use crate::{Error, Result};

/// Write a checkpoint as a model directory: its adapter merged into the weights, in the hub's layout
///
/// transformers and other programs load it, and reason with it in words only: they know no latent head. It lies beside,
/// with colar.json, and this engine takes the directory as --model, latents and all. An adapter that PEFT made is read
/// as any checkpoint.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  colar-engine export --run runs/colar --out exported
  colar-engine export --model models/SmolLM2-135M --adapter runs/colar/best --out exported --dtype f32")]
pub struct ExportArgs {
    /// Model directory
    #[arg(long, value_name = "DIR", required_unless_present = "run")]
    model: Option<PathBuf>,
    /// Checkpoint over it, or a .ckpt of the authors' code
    #[arg(long, value_name = "DIR|FILE", requires = "model")]
    adapter: Option<PathBuf>,
    /// A run of `train`: its model, and its best checkpoint
    #[arg(long, value_name = "DIR", conflicts_with_all = ["model", "adapter"])]
    run: Option<PathBuf>,
    /// Directory to make
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Dtype of the weights
    #[arg(long, value_enum, default_value_t = Precision::Bf16)]
    dtype: Precision,
    /// Most bytes of a file of weights: a number with KB, MB or GB
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = size)]
    max_shard_size: Bytes,
}

/// Dtypes that weights are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Precision {
    /// bfloat16
    Bf16,
    /// float32
    F32,
}

/// A number of bytes, which the command line takes with its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bytes(u64);

/// Bytes, in the decimal units of the hub's tools.
fn size(text: &str) -> Result<Bytes, String> {
    let text = text.trim().to_uppercase();
    let units = [("KB", 1e3), ("MB", 1e6), ("GB", 1e9)];
    let (number, unit) = units
        .iter()
        .find_map(|(name, size)| Some((text.strip_suffix(name)?, *size)))
        .ok_or("a number with KB, MB or GB, as in 5GB")?;
    match number.trim().parse::<f64>() {
        Ok(n) if n.is_finite() && n > 0.0 => Ok(Bytes((n * unit) as u64)),
        _ => Err(format!("{:?} is no number above 0", number.trim())),
    }
}

/// Runs `export`.
///
/// # Errors
/// [`Error::Usage`] for a directory that is there already; errors of [`export`].
pub fn run(args: &ExportArgs) -> Result<()> {
    let (model, adapter) = match (&args.model, &args.run) {
        (_, Some(run)) => {
            let run = runs::at(run)?;
            (run.model, Some(run.checkpoint))
        }
        (Some(model), None) => (model.clone(), args.adapter.clone()),
        (None, None) => return Err(Error::usage("give --model or --run")),
    };
    let dtype = if args.dtype == Precision::Bf16 { Dtype::Bf16 } else { Dtype::F32 };
    let options =
        ExportOptions { model, adapter, out: args.out.clone(), dtype, shard_bytes: args.max_shard_size.0 };
    let done = export(&options)?;
    terminal::note(format!(
        "{}: {} tensors, {} in {} file{}{}",
        args.out.display(),
        done.tensors,
        shown::memory(usize::try_from(done.bytes).unwrap_or(usize::MAX)),
        done.files,
        if done.files == 1 { "" } else { "s" },
        if done.merged { ", the adapter merged" } else { "" }
    ));
    if done.latent_head {
        terminal::note(
            "note: without latent_head.safetensors, as other programs load it, the model reasons in words only",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(
            ["5GB", "1.5 mb", "10KB"].map(size),
            [5_000_000_000, 1_500_000, 10_000].map(|n| Ok(Bytes(n)))
        );
        for text in ["5", "GB", "-1GB", "0MB", "x KB", "infGB", ""] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
