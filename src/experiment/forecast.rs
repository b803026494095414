//! The time and memory that a comparison would take, from a few steps of every method, before anything is written.

use std::path::Path;

use super::comparison::{Comparison, located, questions};
use super::event::{ExperimentEvent, Listener};
use super::existing::{self, TABLE1};
use super::inputs::Given;
use super::materials;
use super::measure::kept;
use super::plan::Table1Options;
use super::search::ComparisonPart;
use super::train::end;
use crate::files::atomic::scratch_dir;
use crate::train::materials::Materials;
use crate::train::{DryRun, Monitor, TrainFlags, dry_run};
use crate::{Error, Result};

/// The work and time of a comparison. Seconds are those of one job at work by itself.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Forecast {
    /// Parts of the comparison, and how many of them are finished.
    pub parts: usize,
    /// See `parts`.
    pub finished: usize,
    /// Runs side by side.
    pub jobs: usize,
    /// CPU threads of each.
    pub threads: usize,
    /// The CoT training before the comparison, if there is one, then every method.
    pub methods: Vec<MethodForecast>,
}

/// The unfinished parts of a method.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MethodForecast {
    /// Its name, as in the table.
    pub name: String,
    /// Updates of its unfinished runs together.
    pub updates: u64,
    /// Mean seconds of an update.
    pub seconds_per_update: f64,
    /// Answers to validation and test questions that are still to be generated.
    pub answers: u64,
    /// Seconds of an answer of the model as it is before training. One that has not learnt to end its answers goes on to
    /// the limit, so this is the most that it takes.
    pub seconds_per_answer: f64,
    /// Bytes of memory of a run.
    pub bytes: usize,
}

impl MethodForecast {
    /// Seconds of all its updates.
    pub fn training_seconds(&self) -> f64 {
        self.updates as f64 * self.seconds_per_update
    }

    /// The most seconds that all its answers take.
    pub fn answering_seconds(&self) -> f64 {
        self.answers as f64 * self.seconds_per_answer
    }
}

impl Forecast {
    /// The most seconds that the unfinished parts take, shared among the jobs as if they did not slow each other.
    pub fn seconds(&self) -> f64 {
        let work = self.methods.iter().map(|m| m.training_seconds() + m.answering_seconds());
        work.sum::<f64>() / self.jobs as f64
    }
}

/// Measures a few steps and answers of every method of a comparison, and counts the parts that its directory lacks.
/// Nothing is written there.
///
/// # Errors
/// As [`table1`](super::table1) before any training, and errors of the steps.
pub fn forecast(options: Table1Options, on_event: &Listener<'_>) -> Result<Forecast> {
    let mut options = located(options)?;
    existing::check_root(&options.out, TABLE1, None)?;
    let scratch = scratch_dir()?;
    let mut tests = questions(&options.tests)?;
    // The embedded data are made anew: they follow from the seed, and the experiment may have none yet.
    let (given, files) = if let Some(given) = &options.given {
        (given.clone(), given.clone())
    } else {
        let at = Materials::at(scratch.path());
        let (files, own) = materials::make(&at, options.sampling.seed, options.shorten)?;
        if tests.is_empty() {
            tests = questions(&own)?;
            options.tests = own;
        }
        (materials::given(&Materials::at(&options.out)), files)
    };
    let comparison = Comparison::new(options, given, &files, tests)?;
    measured(&comparison, &files, scratch.path(), on_event)
}

fn measured(
    comparison: &Comparison,
    files: &Given,
    scratch: &Path,
    on_event: &Listener<'_>,
) -> Result<Forecast> {
    let p = &comparison.plan;
    let (jobs, threads) = p.machine.split(p.embedded);
    let parts = comparison.shape().parts();
    on_event(ExperimentEvent::Planned { parts: parts.len(), jobs, threads });
    let mut methods = Vec::new();
    let mut finished = 0;
    let seed = *p.seeds.first().ok_or_else(|| Error::usage("`seeds` must be at least 1"))?;
    let own = |variant: Option<usize>| match variant {
        None => ("warm-up".to_owned(), p.warm_flags(seed)),
        Some(v) => (p.variants[v].name.to_owned(), p.run_flags(p.variants[v], p.lrs[0], seed)),
    };
    for variant in std::iter::once(None).chain((0..p.variants.len()).map(Some)) {
        let of_method: Vec<Left> = parts
            .iter()
            .filter(|part| belongs(**part, variant))
            .map(|part| left(comparison, *part))
            .collect();
        finished += of_method.iter().filter(|left| left.updates + left.answers == 0).count();
        let (updates, answers) =
            of_method.iter().fold((0, 0), |sum, left| (sum.0 + left.updates, sum.1 + left.answers));
        if updates + answers == 0 {
            continue;
        }
        let (name, flags) = own(variant);
        on_event(ExperimentEvent::Begun { job: 0, name: name.clone() });
        let run = one(flags, files, scratch)?;
        on_event(ExperimentEvent::Finished {
            job: 0,
            name: Some(name.clone()),
            result: format!("{:.3} s an update", run.seconds_per_step),
        });
        methods.push(MethodForecast {
            name,
            updates,
            seconds_per_update: run.seconds_per_step,
            answers,
            seconds_per_answer: run.seconds_per_validation.unwrap_or(0.0)
                / run.start.val_samples.max(1) as f64,
            bytes: run.start.bytes,
        });
    }
    Ok(Forecast { parts: parts.len(), finished, jobs, threads, methods })
}

/// A few steps and answers of a run.
fn one(flags: TrainFlags, files: &Given, scratch: &Path) -> Result<DryRun> {
    let changed = TrainFlags {
        model: Some(files.model.clone()),
        data: Some(files.data.clone()),
        val: Some(files.val.clone()),
        monitor: Some(Monitor::Accuracy),
        out: Some(scratch.join("run")),
        // The checkpoint that it starts from may not be trained yet, and its values do not change what a step takes.
        init: flags.init.clone().filter(|init| init.exists()),
        ..TrainFlags::default()
    };
    let flags = TrainFlags { init: None, ..flags };
    dry_run(changed.over(flags).resolve()?)
}

/// Whether a part is of this method, or of the training before all for none.
fn belongs(part: ComparisonPart, of: Option<usize>) -> bool {
    match part {
        ComparisonPart::WarmUp { .. } => of.is_none(),
        ComparisonPart::Search { variant, .. }
        | ComparisonPart::Train { variant, .. }
        | ComparisonPart::Test { variant, .. } => of == Some(variant),
    }
}

/// The work that is left of a part.
struct Left {
    updates: u64,
    answers: u64,
}

fn left(comparison: &Comparison, part: ComparisonPart) -> Left {
    let p = &comparison.plan;
    let updates = |done: bool, updates: u64| if done { 0 } else { updates };
    // A later seed is trained and tested at the rate that the search chooses, which is not known before.
    let at_any_rate = |done: &dyn Fn(f32) -> bool| p.lrs.iter().any(|&lr| done(lr));
    let questions = |variant: usize, lr: f32, seed: usize, test: Option<usize>, factor: &str| {
        let asked = comparison.question_set(p.variants[variant], lr, seed, test, factor);
        if kept(&asked.file, &asked.setting).is_some() { 0 } else { asked.questions.samples.len() as u64 }
    };
    match part {
        ComparisonPart::WarmUp { .. } if p.warm_updates == 0 => Left { updates: 0, answers: 0 },
        ComparisonPart::WarmUp { seed } => {
            Left { updates: updates(end(&p.warm_dir(p.seeds[seed])).is_some(), p.warm_updates), answers: 0 }
        }
        ComparisonPart::Search { variant, lr } => {
            let (v, lr) = (p.variants[variant], p.lrs[lr]);
            let factors = v.compression_factors(&p.compression_factors);
            Left {
                updates: updates(end(&p.run_dir(v, lr, p.seeds[0])).is_some(), p.updates),
                answers: factors.iter().map(|factor| questions(variant, lr, 0, None, factor)).sum(),
            }
        }
        ComparisonPart::Train { variant, seed } => {
            let v = p.variants[variant];
            let done = at_any_rate(&|lr| end(&p.run_dir(v, lr, p.seeds[seed])).is_some());
            Left { updates: updates(done, p.updates), answers: 0 }
        }
        ComparisonPart::Test { variant, seed, test, compression_factor } => {
            let factor = &p.variants[variant].compression_factors(&p.compression_factors)[compression_factor];
            let left = p.lrs.iter().map(|&lr| questions(variant, lr, seed, Some(test), factor)).min();
            Left { updates: 0, answers: left.unwrap_or(0) }
        }
    }
}
