//! `init`: a model directory with random weights.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::terminal;
use crate::data::synth;
use crate::files::safetensors::Dtype;
use crate::files::staged::{StagedDir, is_vacant};
use crate::model::config::ModelConfig;
use crate::model::init::{INITIALIZER_RANGE, RandomInit, write_random_model};
use crate::model::presets::Preset;
use crate::model::tokenizer::Tokenizer;
use crate::{Error, Result};

/// Make a model directory with random weights, for benchmarks and tests of any shape
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  colar-engine init --config llama-3.2-1b --out models/random-1b
  colar-engine init --config tiny --tokenizer tokenizer.json --out models/tiny
  colar-engine init --config my-config.json --dtype f32 --seed 7 --out models/mine")]
pub struct InitArgs {
    /// A known shape or a file of config.json's form
    #[arg(long, value_name = "NAME|FILE", help = format!(
        "A known shape or a file of config.json's form. Known: {}", Preset::names()
    ))]
    pub config: String,
    /// The directory to make; it must not exist or be empty
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// A tokenizer.json to copy (with a tokenizer_config.json beside it); `tiny` takes its vocabulary
    /// [default: that of the embedded word problems]
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// Seed of the weights
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// How weights are stored [default: f32 for tiny, the file's torch_dtype or bf16 for others]
    #[arg(long)]
    pub dtype: Option<DtypeArg>,
}

/// The values of `--dtype`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DtypeArg {
    /// bfloat16
    Bf16,
    /// float32
    F32,
    /// float16
    F16,
}

impl From<DtypeArg> for Dtype {
    fn from(arg: DtypeArg) -> Self {
        match arg {
            DtypeArg::Bf16 => Dtype::Bf16,
            DtypeArg::F32 => Dtype::F32,
            DtypeArg::F16 => Dtype::F16,
        }
    }
}

/// Runs `init`.
///
/// # Errors
/// [`Error::Usage`] for an unknown shape or an `--out` that is in use; [`Error::File`] for a malformed
/// config or tokenizer or one that does not fit the other; [`Error::Io`] if writing fails. Nothing is
/// left at `--out` then.
pub fn run(args: &InitArgs) -> Result<()> {
    if args.out.exists() && !is_vacant(&args.out) {
        return Err(Error::usage(format!("--out {} is not an empty directory", args.out.display())));
    }
    let preset = Preset::from_name(&args.config);
    let mut config = match preset {
        Some(preset) => preset.config(),
        None => load_config(Path::new(&args.config))?,
    };
    if let Some(path) = &args.tokenizer {
        let tokenizer = load_tokenizer(path)?;
        if preset == Some(Preset::Tiny) {
            config.vocab_size = tokenizer.vocab_size();
            config.eos_token_ids.retain(|&id| (id as usize) < config.vocab_size);
            config.eos_token_ids = vec![tokenizer.eos(&config)?.append];
        }
        tokenizer.check_fits(config.vocab_size)?;
    }
    let own = synth::tokenizer::vocabulary().len();
    if args.tokenizer.is_none() {
        if preset == Some(Preset::Tiny) {
            config.vocab_size = own;
        } else if config.vocab_size < own {
            let what = format!(
                "has vocab_size {}, the default tokenizer {own}: give --tokenizer",
                config.vocab_size
            );
            return Err(Error::file(&args.config, what));
        }
    }
    let dtype = args.dtype.map(Dtype::from).or(config.torch_dtype).unwrap_or(Dtype::Bf16);
    let staged = StagedDir::create(&args.out)?;
    write_random_model(
        staged.path(),
        &config,
        &RandomInit { dtype, std: INITIALIZER_RANGE, seed: args.seed },
    )?;
    if let Some(path) = &args.tokenizer {
        copy(path, &staged.path().join("tokenizer.json"))?;
        let settings = settings_beside(path);
        if settings.exists() {
            copy(&settings, &staged.path().join("tokenizer_config.json"))?;
        }
    } else {
        synth::write_tokenizer(staged.path())?;
    }
    staged.commit()?;
    terminal::note(format!(
        "{}: a {} model of {} random weights in {}",
        args.out.display(),
        config.model_type.model_type(),
        config.num_parameters(),
        dtype.name()
    ));
    Ok(())
}

fn load_config(path: &Path) -> Result<ModelConfig> {
    if path.exists() {
        return ModelConfig::load_file(path);
    }
    let known = Preset::names();
    Err(Error::usage(format!("--config {}: neither a file nor one of {known}", path.display())))
}

/// The tokenizer at `path` with the end token named beside it.
fn load_tokenizer(path: &Path) -> Result<Tokenizer> {
    let settings = settings_beside(path);
    let tokenizer = Tokenizer::load_file(path)?;
    if settings.exists() { tokenizer.with_settings(&settings) } else { Ok(tokenizer) }
}

fn settings_beside(path: &Path) -> PathBuf {
    path.with_file_name("tokenizer_config.json")
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map(|_| ()).map_err(Error::io(from))
}
