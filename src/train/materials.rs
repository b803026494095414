//! Materials of the embedded runs: data sets of arithmetic word problems and a small model with random
//! weights, in one directory.

use std::path::{Path, PathBuf};

use crate::Result;
use crate::data::synth::{self, SynthConfig};
use crate::data::{self, Sample};
use crate::files::safetensors::Dtype;
use crate::files::staged::StagedDir;
use crate::model::config::ModelConfig;
use crate::model::init::{RandomInit, write_random_model};
use crate::model::presets::Preset;

/// Standard deviation of the model's first weights. The customary 0.02 is meant for widths of thousands; at
/// 128 it takes twice the steps to the same loss.
const INIT_STD: f32 = 0.06;

/// The places of data sets and model in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Materials {
    root: PathBuf,
}

impl Materials {
    /// The materials in the directory `root`; nothing is made yet.
    pub fn at(root: &Path) -> Self {
        Materials { root: root.to_owned() }
    }

    /// The file of a data set: `data/NAME.jsonl`.
    pub fn data(&self, name: &str) -> PathBuf {
        self.root.join("data").join(format!("{name}.jsonl"))
    }

    /// The model directory.
    pub fn model(&self) -> PathBuf {
        self.root.join("model")
    }

    /// Makes the data sets, unless they are there: all of them or none.
    ///
    /// # Errors
    /// Errors of `sets`; [`Error::Io`](crate::Error::Io) naming the file.
    pub fn make_data(&self, sets: impl FnOnce() -> Result<Vec<(&'static str, Vec<Sample>)>>) -> Result<()> {
        let dir = self.root.join("data");
        if dir.exists() {
            return Ok(());
        }
        let staged = StagedDir::create(&dir)?;
        for (name, samples) in sets()? {
            data::write_jsonl(staged.path().join(format!("{name}.jsonl")), &samples)?;
        }
        staged.commit()
    }

    /// Makes the model, unless it is there: random weights of this seed, and the tokenizer of the word problems.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) naming the file.
    pub fn make_model(&self, seed: u64) -> Result<()> {
        let dir = self.model();
        if dir.exists() {
            return Ok(());
        }
        let config =
            ModelConfig { vocab_size: synth::tokenizer::vocabulary().len(), ..Preset::Tiny.config() };
        let staged = StagedDir::create(&dir)?;
        write_random_model(staged.path(), &config, &RandomInit { dtype: Dtype::F32, std: INIT_STD, seed })?;
        synth::write_tokenizer(staged.path())?;
        staged.commit()
    }
}

/// The embedded data set of a seed, its splits cut to a `shorten`th for a quick look.
pub(crate) fn word_problems(seed: u64, shorten: u64) -> SynthConfig {
    let d = SynthConfig::default();
    let short = |n: usize| (n as u64 / shorten.max(1)).max(8) as usize;
    SynthConfig { seed, train: short(d.train), val: short(d.val), test: short(d.test), ..d }
}
