//! `experiment table1`, from an empty or unfinished directory to its report.

use super::comparison::{Comparison, embedded_plan, located, questions};
use super::event::{ExperimentEvent, Listener};
use super::existing::TABLE1;
use super::measure::{Measured, kept};
use super::plan::Table1Options;
use super::questions::Asked;
use super::report::{self, Table1};
use super::search::{ComparisonPart, Progress, ReadyPart};
use super::train::{Ended, ended, train};
use super::variants::Variant;
use super::written::write_report;
use super::{existing, jobs, materials, plot};
use crate::files::hidden::clean_tree;
use crate::files::lock::DirLock;
use crate::train::TrainFlags;
use crate::train::materials::Materials;
use crate::{Error, Result};

/// Trains the missing runs of the comparison, tests them, and writes `table1.md`, `table1.json` and `table1.svg` into
/// its directory.
///
/// # Errors
/// Before any training: [`Error::Usage`] for settings that cannot be, a directory that holds something else, that
/// another process works in, or a run of other settings; bad model or data files. Later errors of training and
/// evaluation.
pub fn table1(options: Table1Options, on_event: &Listener<'_>) -> Result<Table1> {
    let experiment = Experiment::open(options)?;
    let p = &experiment.comparison.plan;
    let shape = experiment.comparison.shape();
    let (jobs, threads) = p.machine.split(p.embedded);
    on_event(ExperimentEvent::Planned { parts: shape.parts().len(), jobs, threads });
    let board = Progress::new(shape, p.variants.iter().map(|v| v.name).collect());
    let board = jobs::work(jobs, board, |job, task| experiment.perform(job, task, on_event))?;
    let chosen = (0..p.variants.len())
        .map(|v| board.chosen(v).zip(board.found(v)).ok_or_else(|| Error::other("a search is incomplete")))
        .collect::<Result<Vec<_>>>()?;
    let sizes: Vec<usize> = experiment.comparison.tests.iter().map(|t| t.samples.len()).collect();
    let table = report::collect(p, &chosen, &sizes, |variant, lr, seed, test, compression_factor| {
        experiment.result(variant, lr, seed, test, compression_factor)
    })?;
    let svg = plot::table1(&table)?;
    experiment.lock.check()?;
    on_event(ExperimentEvent::Written(write_report(&p.root, "table1", &table.markdown(), &table, &svg)?));
    Ok(table)
}

/// A comparison with its data, in a directory that no other process works in.
struct Experiment {
    comparison: Comparison,
    lock: DirLock,
}

impl Experiment {
    /// Reads and checks all input before anything is trained.
    fn open(options: Table1Options) -> Result<Self> {
        let mut options = located(options)?;
        let root = options.out.clone();
        existing::check_root(&root, TABLE1, None)?;
        // Given files are read first: if one is bad, nothing else has been made.
        let mut tests = questions(&options.tests)?;
        let mut lock = None;
        let given = match &options.given {
            Some(given) => given.clone(),
            None => {
                // Checked before anything is made.
                let plan = embedded_plan(&options)?;
                existing::check_root(&root, TABLE1, Some(&existing::settings(&plan)))?;
                lock = Some(DirLock::take(&root)?);
                existing::mark(&root, TABLE1, &existing::settings(&plan))?;
                let (given, own) =
                    materials::make(&Materials::at(&root), options.sampling.seed, options.shorten)?;
                if tests.is_empty() {
                    tests = questions(&own)?;
                    options.tests = own;
                }
                given
            }
        };
        let comparison = Comparison::new(options, given.clone(), &given, tests)?;
        let lock = lock.map_or_else(|| DirLock::take(&root), Ok)?;
        existing::mark(&root, TABLE1, &existing::settings(&comparison.plan))?;
        clean_tree(&root)?;
        Ok(Experiment { comparison, lock })
    }

    fn perform(&self, job: usize, task: ReadyPart, on_event: &Listener<'_>) -> Result<Option<f64>> {
        self.lock.check()?;
        let (p, part, lr) = (&self.comparison.plan, task.part, self.comparison.plan.lrs[task.lr]);
        let name = self.name(part);
        let mut outcome = None;
        let (new, result) = match part {
            ComparisonPart::WarmUp { .. } if p.warm_updates == 0 => (false, String::new()),
            ComparisonPart::WarmUp { seed } => {
                let flags = p.warm_flags(p.seeds[seed]);
                let (new, end) = self.train(job, &name, flags, on_event)?;
                if end == Ended::Diverged {
                    return Err(Error::other(format!("{name} diverged: give a smaller `warm_lr`")));
                }
                (new, String::new())
            }
            ComparisonPart::Search { variant, .. } => {
                let (v, seed) = (p.variants[variant], p.seeds[0]);
                let (new, end) = self.train(job, &name, p.run_flags(v, lr, seed), on_event)?;
                match end {
                    Ended::Diverged => (new, "diverged".to_owned()),
                    Ended::Trained => {
                        let (asked, accuracy) = self.validate(job, &name, v, lr, on_event)?;
                        outcome = Some(accuracy);
                        (new || asked, format!("validation accuracy {:.1} %", 100.0 * accuracy))
                    }
                }
            }
            ComparisonPart::Train { variant, seed } => {
                let v = p.variants[variant];
                let (new, end) = self.train(job, &name, p.run_flags(v, lr, p.seeds[seed]), on_event)?;
                if end == Ended::Diverged {
                    return Err(Error::other(format!(
                        "{name} diverged at the learning rate {lr:e} that the first seed chose: leave it out of `lrs`"
                    )));
                }
                (new, String::new())
            }
            ComparisonPart::Test { variant, seed, test, compression_factor } => {
                let v = p.variants[variant];
                let compression_factor = &v.compression_factors(&p.compression_factors)[compression_factor];
                let (new, m) = self.ask(
                    job,
                    &name,
                    &self.comparison.question_set(v, lr, seed, Some(test), compression_factor),
                    on_event,
                )?;
                (new, format!("accuracy {:.1} %, #L {:.1}", 100.0 * m.accuracy, m.mean_length))
            }
        };
        on_event(ExperimentEvent::Finished { job, name: new.then_some(name), result });
        Ok(outcome)
    }

    /// The name of a part.
    fn name(&self, part: ComparisonPart) -> String {
        let p = &self.comparison.plan;
        match part {
            ComparisonPart::WarmUp { seed } => format!("warm-up, seed {}", p.seeds[seed]),
            ComparisonPart::Search { variant, lr } => {
                format!("{}, lr {:e}, seed {}", p.variants[variant].name, p.lrs[lr], p.seeds[0])
            }
            ComparisonPart::Train { variant, seed } => {
                format!("{}, seed {}", p.variants[variant].name, p.seeds[seed])
            }
            ComparisonPart::Test { variant, seed, test, compression_factor } => {
                let (v, test) = (p.variants[variant], &p.tests[test].name);
                let compression_factor = match v.method.fixed_compression_factor() {
                    Some(_) => String::new(),
                    None => format!(" c = {}", p.compression_factors[compression_factor]),
                };
                format!("{}{compression_factor} on {test}, seed {}", v.name, p.seeds[seed])
            }
        }
    }

    /// Trains a run unless it is done; returns whether it trained.
    fn train(
        &self,
        job: usize,
        name: &str,
        flags: TrainFlags,
        on_event: &Listener<'_>,
    ) -> Result<(bool, Ended)> {
        let dir = flags.out.clone().unwrap_or_default();
        if let Some(end) = ended(&dir)? {
            return Ok((false, end));
        }
        on_event(ExperimentEvent::Begun { job, name: name.to_owned() });
        Ok((true, train(flags, job, on_event)?))
    }

    /// Greedy accuracy on the validation split: the mean over the compression factors of the table.
    fn validate(
        &self,
        job: usize,
        name: &str,
        v: &'static Variant,
        lr: f32,
        on_event: &Listener<'_>,
    ) -> Result<(bool, f64)> {
        let (mut asked, mut sum) = (false, 0.0);
        let compression_factors = v.compression_factors(&self.comparison.plan.compression_factors);
        for compression_factor in &compression_factors {
            let (new, m) = self.ask(
                job,
                name,
                &self.comparison.question_set(v, lr, 0, None, compression_factor),
                on_event,
            )?;
            asked |= new;
            sum += m.accuracy;
        }
        Ok((asked, sum / compression_factors.len() as f64))
    }

    fn ask(
        &self,
        job: usize,
        name: &str,
        q: &Asked<'_>,
        on_event: &Listener<'_>,
    ) -> Result<(bool, Measured)> {
        let m = &self.comparison.plan.machine;
        q.ask(job, name, m, m.split(self.comparison.plan.embedded).1, on_event)
    }

    /// The figures of a finished test.
    fn result(
        &self,
        variant: usize,
        lr: f32,
        seed: usize,
        test: usize,
        compression_factor: &str,
    ) -> Result<Measured> {
        let q = self.comparison.question_set(
            self.comparison.plan.variants[variant],
            lr,
            seed,
            Some(test),
            compression_factor,
        );
        kept(&q.file, &q.setting).ok_or_else(|| Error::other(format!("{}: is gone", q.file.display())))
    }
}
