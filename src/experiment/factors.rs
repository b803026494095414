//! `experiment factors`: the effect of the compression factor in the prompt, for factors of training and others.

pub(super) mod report;

use std::path::{Path, PathBuf};

use serde_json::json;

pub use report::{FactorRow, FactorsReport};

use super::event::{ExperimentEvent, Listener};
use super::existing::{FACTORS, TABLE1};
use super::figures::Figures;
use super::inputs::{Machine, TestSet, absolute};
use super::jobs::{Board, work};
use super::measure::{Measured, Setting, read_json};
use super::questions::{Asked, Questions};
use super::report::Table1;
use super::variants::Variant;
use super::written::{within, write_report};
use super::{existing, plot};
use crate::data::{AnswerRule, VerifierKind};
use crate::eval::EvalOptions;
use crate::files::hidden::clean_tree;
use crate::files::lock::DirLock;
use crate::infer::Sampling;
use crate::model::checkpoint_dir;
use crate::model::config::ModelConfig;
use crate::model::prompt::Method;
use crate::train::TrainFlags;
use crate::train::embedded::EVAL_BATCH;
use crate::{Error, Result};

/// The checkpoints to evaluate, one a seed.
#[derive(Debug, Clone)]
pub enum FactorsSource {
    /// The checkpoints of a method of the comparison in the report's own directory, on its test sets.
    Table1(&'static Variant),
    /// Given checkpoints over a given model.
    Checkpoints {
        /// The model directory.
        model: PathBuf,
        /// The checkpoints.
        adapters: Vec<PathBuf>,
    },
}

/// The options of `experiment factors`.
#[derive(Debug, Clone)]
pub struct FactorsOptions {
    /// The directory of the report, and of the comparison if its checkpoints are evaluated.
    pub out: PathBuf,
    /// The checkpoints.
    pub source: FactorsSource,
    /// Test sets; those of the comparison unless given.
    pub tests: Vec<TestSet>,
    /// The compression factors to ask at, as text.
    pub compression_factors: Vec<String>,
    /// Sampling settings; checkpoint k draws under `seed + k`, a checkpoint of a comparison under its own seed.
    pub sampling: Sampling,
    /// The verifier that judges answers.
    pub verifier: VerifierKind,
    /// Which part of a generated text is its answer.
    pub answer_rule: AnswerRule,
    /// Questions that run together; `None`: as many as suits the model.
    pub batch_size: Option<usize>,
    /// The machine that performs the runs.
    pub machine: Machine,
}

/// A checkpoint to evaluate.
struct Subject {
    checkpoint: PathBuf,
    /// The directory of its figures.
    figures: PathBuf,
    seed: u64,
}

/// Evaluates the checkpoints at every factor and writes `factors.md`, `factors.json` and `factors.svg`.
///
/// # Errors
/// [`Error::Usage`] for empty lists, a checkpoint without latents, a directory that holds something else or that
/// another process works in; bad files; errors of generation.
pub fn factors(options: FactorsOptions, on_event: &Listener<'_>) -> Result<FactorsReport> {
    let ready = Ready::open(options)?;
    let o = &ready.options;
    let (jobs, threads) = o.machine.split(ready.small);
    let mut parts = Vec::new();
    for factor in 0..o.compression_factors.len() {
        for subject in 0..ready.subjects.len() {
            parts.extend((0..ready.tests.len()).map(|test| FactorPart { factor, subject, test }));
        }
    }
    on_event(ExperimentEvent::Planned { parts: parts.len(), jobs, threads });
    let list = List { open: parts.into_iter().rev().collect(), done: Vec::new() };
    let done = work(jobs, list, |job, part| ready.ask(job, threads, part, on_event))?.done;
    let rows = (0..o.compression_factors.len()).map(|factor| ready.row(factor, &done)).collect();
    let report = FactorsReport {
        checkpoints: ready.subjects.iter().map(|s| within(&o.out, &s.checkpoint)).collect(),
        tests: o.tests.iter().zip(&ready.tests).map(|(t, q)| (t.name.clone(), q.samples.len())).collect(),
        sampling: o.sampling,
        rows,
    };
    let svg = plot::factors(&report)?;
    ready.lock.check()?;
    on_event(ExperimentEvent::Written(write_report(&o.out, "factors", &report.markdown(), &report, &svg)?));
    Ok(report)
}

/// One evaluation: the places of its factor, checkpoint and test set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FactorPart {
    factor: usize,
    subject: usize,
    test: usize,
}

/// Parts that do not depend on each other.
struct List {
    open: Vec<FactorPart>,
    done: Vec<(FactorPart, Measured)>,
}

impl Board for List {
    type Part = FactorPart;
    type Outcome = Measured;

    fn take(&mut self) -> Option<FactorPart> {
        self.open.pop()
    }

    fn put(&mut self, part: FactorPart, outcome: Measured) -> Result<()> {
        self.done.push((part, outcome));
        Ok(())
    }
}

/// All input, read and checked, before the first evaluation.
struct Ready {
    options: FactorsOptions,
    model: PathBuf,
    subjects: Vec<Subject>,
    tests: Vec<Questions>,
    /// Factors of training, where the runs' configurations still say them.
    trained: Vec<usize>,
    /// Whether runs go side by side by default.
    small: bool,
    lock: DirLock,
}

impl Ready {
    fn open(mut o: FactorsOptions) -> Result<Self> {
        if o.compression_factors.is_empty() {
            return Err(Error::usage("`compression_factors` is empty"));
        }
        o.sampling.validate()?;
        o.tests = o.tests.iter().map(TestSet::absolute).collect::<Result<_>>()?;
        if let FactorsSource::Checkpoints { model, adapters } = &mut o.source {
            *model = absolute(model)?;
            *adapters = adapters.iter().map(|path| absolute(path)).collect::<Result<_>>()?;
        }
        let root = o.out.clone();
        let (model, subjects, small) = match &o.source {
            FactorsSource::Table1(variant) => {
                existing::check_root(&root, TABLE1, None)?;
                let path = root.join("table1.json");
                if !path.exists() {
                    return Err(Error::usage(format!(
                        "{} is no finished comparison: finish it with table1 first, or give `model` and `adapters`",
                        root.display()
                    )));
                }
                let table: Table1 = read_json(&path)?;
                if o.tests.is_empty() {
                    let tests = table.tests.iter();
                    o.tests = tests
                        .map(|(name, file, _)| TestSet { name: name.clone(), file: root.join(file) })
                        .collect();
                }
                let found = table.search.iter().find(|f| f.method == variant.name).ok_or_else(|| {
                    Error::usage(format!("{} has no method {}", path.display(), variant.name))
                })?;
                let subject = |(checkpoint, &seed): (&PathBuf, &u64)| {
                    let checkpoint = root.join(checkpoint);
                    // Beside the figures of the comparison, which need not be measured again.
                    let figures = checkpoint.parent().unwrap_or(&root).join("figures");
                    Subject { checkpoint, figures, seed }
                };
                let subjects: Vec<Subject> =
                    found.checkpoints.iter().zip(&table.seeds).map(subject).collect();
                let model = root.join(&table.model);
                let small = model == root.join("model");
                (model, subjects, small)
            }
            FactorsSource::Checkpoints { model, adapters } => {
                if adapters.is_empty() {
                    return Err(Error::usage("`adapters` is needed with `model`"));
                }
                let settings = json!({"adapters": adapters});
                existing::check_root(&root, FACTORS, Some(&settings))?;
                let subject = |(k, checkpoint): (usize, &PathBuf)| Subject {
                    checkpoint: checkpoint.clone(),
                    figures: root.join("figures").join(k.to_string()),
                    seed: o.sampling.seed.wrapping_add(k as u64),
                };
                (model.clone(), adapters.iter().enumerate().map(subject).collect(), false)
            }
        };
        if o.tests.is_empty() {
            return Err(Error::usage("`tests` is needed with `model`"));
        }
        let tests = o.tests.iter().map(|t| Questions::load(&t.file)).collect::<Result<Vec<_>>>()?;
        let config = ModelConfig::load(&model)?;
        for s in &subjects {
            let stored = checkpoint_dir::read(&checkpoint_dir::find(&s.checkpoint)?, &model, &config, None)?;
            if stored.head.is_none() {
                return Err(Error::usage(format!(
                    "{}: has no latent head, hence no compression factor",
                    s.checkpoint.display()
                )));
            }
        }
        let trained = subjects.first().map(|s| trained_factors(&s.checkpoint)).unwrap_or_default();
        let lock = DirLock::take(&root)?;
        clean_tree(&root)?;
        if let FactorsSource::Checkpoints { adapters, .. } = &o.source {
            existing::mark(&root, FACTORS, &json!({"adapters": adapters}))?;
        }
        Ok(Ready { options: o, model, subjects, tests, trained, small, lock })
    }

    fn ask(&self, job: usize, threads: usize, part: FactorPart, on_event: &Listener<'_>) -> Result<Measured> {
        self.lock.check()?;
        let (o, s, q) = (&self.options, &self.subjects[part.subject], &self.tests[part.test]);
        let (test, compression_factor) = (&o.tests[part.test].name, &o.compression_factors[part.factor]);
        let setting = Setting {
            method: Method::Colar,
            compression_factor: compression_factor.clone(),
            sampling: Sampling { seed: s.seed, ..o.sampling },
            verifier: o.verifier,
            answer_rule: o.answer_rule,
            n: q.samples.len(),
            data: q.checksum,
        };
        let asked = Asked {
            model: &self.model,
            checkpoint: s.checkpoint.clone(),
            questions: q,
            file: setting.file(&s.figures, test),
            setting,
            batch: o.batch_size.unwrap_or(if self.small {
                EVAL_BATCH
            } else {
                EvalOptions::default().batch_size
            }),
        };
        let name = format!("c = {compression_factor} on {test}, seed {}", s.seed);
        let (new, m) = asked.ask(job, &name, &o.machine, threads, on_event)?;
        let result = format!("accuracy {:.1} %, #L {:.1}", 100.0 * m.accuracy, m.mean_length);
        on_event(ExperimentEvent::Finished { job, name: new.then_some(name), result });
        Ok(m)
    }

    fn row(&self, factor: usize, done: &[(FactorPart, Measured)]) -> FactorRow {
        let compression_factor = self.options.compression_factors[factor].clone();
        let figures = |test: usize| {
            let of = |subject| {
                done.iter().find(|(p, _)| *p == FactorPart { factor, subject, test }).map(|(_, m)| m.clone())
            };
            let by_seed: Vec<Measured> = (0..self.subjects.len()).filter_map(of).collect();
            Figures::of_measured(&self.options.tests[test].name, &by_seed)
        };
        FactorRow {
            trained: compression_factor
                .parse::<f64>()
                .is_ok_and(|c| self.trained.iter().any(|&t| t as f64 == c)),
            results: (0..self.tests.len()).filter_map(figures).collect(),
            compression_factor,
        }
    }
}

/// The factors of the run that made a checkpoint, by the configuration beside it.
fn trained_factors(checkpoint: &Path) -> Vec<usize> {
    let config = checkpoint.parent().map(|run| run.join("config.toml"));
    let flags = config.and_then(|path| TrainFlags::from_toml(&path).ok());
    flags.and_then(|flags| flags.cf_list).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trained_factors_are_those_of_the_run() {
        let dir = tempfile::tempdir().unwrap();
        let best = dir.path().join("best");
        assert_eq!(trained_factors(&best), Vec::<usize>::new());
        std::fs::write(dir.path().join("config.toml"), "cf-list = [1, 2, 4]\n").unwrap();
        assert_eq!(trained_factors(&best), [1, 2, 4]);
    }
}
