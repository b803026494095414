//! The embedded default: everything that `colar-engine train` needs when it is given nothing.
//!
//! A run directory is filled stage by stage: a data set of arithmetic word problems and a small model
//! with random weights; a CoT run; a CoLaR run from its checkpoint; reinforcement learning from that; a
//! table of all three on held-out questions. Every stage is skipped where it is already complete, so a run that
//! was cut off goes on.

use std::path::PathBuf;

use super::batch::ChunkLabels;
use super::materials::{Materials, word_problems};
use super::options::{self, LatentNoise, Monitor, TrainFlags};
use super::progress::Progress;
use super::rl::RlTrainer;
use super::schedule::Schedule;
use super::stop::Stop;
use super::trainer::Trainer;
use crate::data::{self, Sample, synth};
use crate::device::Device;
use crate::eval::{EvalOptions, Evaluation, TableRow, evaluate, table};
use crate::files::atomic::write_atomic;
use crate::files::hidden::clean_tree;
use crate::files::lock::DirLock;
use crate::infer::{Loaded, Sampling};
use crate::model::config::ModelConfig;
use crate::model::prompt::Method;
use crate::{Error, Result};

/// The supervised stages of training, in order, with their directories.
const STAGES: [(Method, &str); 2] = [(Method::Cot, "cot"), (Method::Colar, "colar")];

/// The directory of the stage of reinforcement learning.
const RL: &str = "rl";

/// Seconds that the stages took, and the questions at the end: seed 0 on two cores of an AMD EPYC (Genoa),
/// 2026-11-26. On other machines all are longer or shorter, in much the same proportions.
const SECONDS: [(&str, f64); 4] = [("cot", 105.3), ("colar", 197.3), (RL, 33.4), ("questions", 8.1)];

/// The time from the end of a training stage to the end of the run, as a multiple of the stage's own. It is an
/// estimate, from a run that was timed.
pub fn time_after(stage: &str) -> f64 {
    let seconds = |(_, seconds): &(&str, f64)| *seconds;
    let at = SECONDS.iter().position(|(name, _)| *name == stage).unwrap_or(SECONDS.len() - 1);
    SECONDS[at + 1..].iter().map(seconds).sum::<f64>() / seconds(&SECONDS[at])
}

/// The compression factor that it trains.
const RL_COMPRESSION_FACTOR: &str = "2";

/// Compression factors of the table.
const TABLE_COMPRESSION_FACTORS: [&str; 4] = ["1", "2", "3", "5"];

/// Questions that are evaluated together.
pub(crate) const EVAL_BATCH: usize = 128;

/// Options of the default run.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbeddedOptions {
    /// Run directory.
    pub out: PathBuf,
    /// Seed of data, weights, order and draws.
    pub seed: u64,
    /// Whether to go on with a run that was cut off.
    pub resume: bool,
    /// Divides the number of steps and of samples, for a quick look.
    pub shorten: u64,
}

/// Events of the run.
pub enum Stage<'a> {
    /// Data and model are there: samples of the three splits, and weights of the model.
    Prepared {
        /// Training, validation and test samples.
        samples: [usize; 3],
        /// Number of weights.
        parameters: u64,
    },
    /// A training stage goes on.
    Training(&'a str, Progress),
    /// A row of the table is done.
    Evaluated(&'a TableRow),
}

impl EmbeddedOptions {
    fn materials(&self) -> Materials {
        Materials::at(&self.out)
    }

    /// The flags of a stage. They were chosen on the validation split.
    fn stage(&self, method: Method, name: &str) -> TrainFlags {
        let steps = if method == Method::Colar { 1500 } else { 700 };
        let steps = (steps / self.shorten).max(2);
        let given = TrainFlags {
            method: Some(method),
            model: Some(self.materials().model()),
            data: Some(self.materials().data("train")),
            val: Some(self.materials().data("val")),
            out: Some(self.out.join(name)),
            monitor: Some(Monitor::Accuracy),
            save_top_k: Some(1),
            val_every: Some(steps.div_ceil(4)),
            save_every: Some(steps.div_ceil(4)),
            lr: Some(2e-3),
            seed: Some(self.seed),
            ..supervised(steps)
        };
        match method {
            Method::Cot | Method::Icot | Method::Coconut | Method::Distill => given,
            Method::Colar => TrainFlags {
                init: Some(self.out.join("cot").join("best")),
                freeze_embedding: Some(true),
                // Keeps sigma at about 0.13: reinforcement learning explores by it.
                entropy_weight: Some(-0.1),
                ..given.over(latents())
            },
        }
    }
}

/// The flags of any supervised run of the embedded model that lasts `steps` steps.
pub(crate) fn supervised(steps: u64) -> TrainFlags {
    TrainFlags {
        full: Some(true),
        batch_size: Some(48),
        max_steps: Some(steps),
        warmup: Some(steps / 20),
        schedule: Some(Schedule::Cosine),
        ..TrainFlags::default()
    }
}

/// The flags of its training in latents.
pub(crate) fn latents() -> TrainFlags {
    TrainFlags {
        c_max: Some(5),
        // Expectations in place of draws: the same gradient on average, with less noise in the few steps there are.
        chunk_labels: Some(ChunkLabels::Mean),
        latent_noise: Some(LatentNoise::Expected),
        latent_weight: Some(3.0),
        ..TrainFlags::default()
    }
}

impl EmbeddedOptions {
    /// The flags of reinforcement learning, chosen on the validation split as well.
    fn rl(&self) -> TrainFlags {
        let steps = (40 / self.shorten).max(2);
        TrainFlags {
            stage: Some(options::Stage::Rl),
            model: Some(self.materials().model()),
            adapter: Some(self.out.join("colar").join("best")),
            data: Some(self.materials().data("train")),
            val: Some(self.materials().data("val")),
            out: Some(self.out.join(RL)),
            full: Some(true),
            freeze_embedding: Some(true),
            cf: Some(RL_COMPRESSION_FACTOR.to_owned()),
            punish_latent_length: Some(true),
            // Large groups of questions and a tie to the start: the gradient of the latents is mostly noise,
            // and a small model that follows it forgets how to calculate.
            batch_size: Some(32),
            exp_batch_size: Some(128),
            kl_weight: Some(0.2),
            max_latents: Some(32),
            max_steps: Some(steps),
            lr: Some(4e-5),
            schedule: Some(Schedule::Cosine),
            val_every: Some(steps.div_ceil(4)),
            val_samples: Some(500),
            save_every: Some(steps.div_ceil(4)),
            save_top_k: Some(1),
            seed: Some(self.seed),
            ..TrainFlags::default()
        }
    }
}

/// Runs the embedded default to its end and returns its table.
///
/// # Errors
/// A run directory that is in use (without `resume`), I/O errors, and errors of training,
/// [`Error::Interrupted`] among them where `stop` was requested.
pub fn run<D: Device>(
    device: &D,
    options: &EmbeddedOptions,
    stop: &Stop,
    on_stage: &mut (dyn FnMut(Stage<'_>) + Send),
) -> Result<Vec<TableRow>> {
    if !options.resume && options.out.join("data").exists() {
        return Err(Error::usage(format!(
            "{} holds a run already; `resume` goes on with it, another `out` starts afresh",
            options.out.display()
        )));
    }
    // Its parts have settings of their own, in directories beneath; only a run of `model` and `data` has them here.
    let settings = options.out.join("config.toml");
    if settings.exists() {
        return Err(Error::usage(format!(
            "{} holds a run with a model and data of its own; `config` {} with `resume` goes on with it",
            options.out.display(),
            settings.display()
        )));
    }
    let lock = DirLock::take(&options.out)?;
    clean_tree(&options.out)?;
    prepare(options, on_stage)?;
    for (method, name) in STAGES {
        let resolved = options.stage(method, name).resolve()?;
        let mut trainer = Trainer::new(device.clone(), resolved, options.resume)?;
        trainer.stop_on(stop);
        trainer.run(&mut |p| on_stage(Stage::Training(name, p)))?;
    }
    let mut trainer = RlTrainer::new(device.clone(), options.rl().resolve_rl()?, options.resume)?;
    trainer.stop_on(stop);
    trainer.run(&mut |p| on_stage(Stage::Training(RL, p)))?;
    lock.check()?;
    join_metrics(options)?;
    let rows = evaluate_all(device, options, on_stage)?;
    lock.check()?;
    table::write_json(&options.out.join("table.json"), &rows)?;
    #[cfg(feature = "plots")]
    crate::eval::plot::write(
        &options.out.join("table.svg"),
        "Accuracy against reasoning length, held-out questions",
        &rows,
    )?;
    Ok(rows)
}

/// Makes the data set and the model, unless they are there.
fn prepare(options: &EmbeddedOptions, on_stage: &mut (dyn FnMut(Stage<'_>) + Send)) -> Result<()> {
    let materials = options.materials();
    materials.make_data(|| {
        let splits = synth::generate(&word_problems(options.seed, options.shorten))?;
        Ok(vec![("train", splits.train), ("val", splits.val), ("test", splits.test)])
    })?;
    materials.make_model(options.seed)?;
    let count = |split: &str| Ok::<_, Error>(data::load(materials.data(split), None)?.len());
    on_stage(Stage::Prepared {
        samples: [count("train")?, count("val")?, count("test")?],
        parameters: ModelConfig::load(&materials.model())?.num_parameters(),
    });
    Ok(())
}

/// Puts the metrics of all stages into one file, each line with its stage.
fn join_metrics(options: &EmbeddedOptions) -> Result<()> {
    let mut joined = String::new();
    for name in STAGES.iter().map(|(_, name)| *name).chain([RL]) {
        let path = options.out.join(name).join("metrics.jsonl");
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        for line in text.lines() {
            let rest = line.strip_prefix('{').unwrap_or(line);
            joined.push_str(&format!("{{\"stage\":\"{name}\",{rest}\n"));
        }
    }
    write_atomic(&options.out.join("metrics.jsonl"), |w| w.write_all(joined.as_bytes()))
}

fn evaluate_all<D: Device>(
    device: &D,
    options: &EmbeddedOptions,
    on_stage: &mut (dyn FnMut(Stage<'_>) + Send),
) -> Result<Vec<TableRow>> {
    let test = data::load(options.materials().data("test"), None)?;
    let mut rows = Vec::new();
    let mut add = |stage: &str, method: Method, compression_factors: &[&str]| -> Result<()> {
        let checkpoint = options.out.join(stage).join("best");
        let loaded = Loaded::new(device.clone(), &options.materials().model(), Some(&checkpoint))?;
        for compression_factor in compression_factors {
            let evaluation = evaluate_one(&loaded, &test, method, compression_factor)?;
            let row = TableRow::from_runs(method, compression_factor, &[evaluation])
                .ok_or_else(|| Error::other("the evaluation came back empty"))?;
            let row = if stage == RL { row.after_rl() } else { row };
            on_stage(Stage::Evaluated(&row));
            rows.push(row);
        }
        Ok(())
    };
    for (method, name) in STAGES {
        let compression_factors = if method == Method::Colar {
            &TABLE_COMPRESSION_FACTORS[..]
        } else {
            &TABLE_COMPRESSION_FACTORS[..1]
        };
        add(name, method, compression_factors)?;
    }
    add(RL, Method::Colar, &[RL_COMPRESSION_FACTOR])?;
    Ok(rows)
}

/// Deterministic generation over all samples.
fn evaluate_one<D: Device>(
    loaded: &Loaded<D>,
    samples: &[Sample],
    method: Method,
    compression_factor: &str,
) -> Result<Evaluation> {
    let options = EvalOptions {
        method,
        compression_factor: compression_factor.to_owned(),
        sampling: Sampling::default().greedy(),
        batch_size: EVAL_BATCH,
        ..EvalOptions::default()
    };
    evaluate(loaded, samples, &options, &mut |_| Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_has_been_timed() {
        let stages = STAGES.iter().map(|(_, name)| *name).chain([RL]);
        assert!(stages.eq(SECONDS[..SECONDS.len() - 1].iter().map(|(name, _)| *name)));
        assert!((time_after("cot") * SECONDS[0].1 - 238.8).abs() < 1e-9);
        assert!((time_after(RL) * SECONDS[2].1 - 8.1).abs() < 1e-9);
    }
}
