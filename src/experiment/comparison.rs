//! A comparison with its data: the plan, the questions, and where the figures of each of its evaluations lie.

use super::existing::{self, TABLE1};
use super::inputs::{Given, TestSet, absolute};
use super::materials;
use super::measure::Setting;
use super::plan::{Plan, Table1Options};
use super::questions::{Asked, Questions};
use super::search::Shape;
use super::variants::Variant;
use crate::data::load;
use crate::eval::EvalOptions;
use crate::infer::Sampling;
use crate::model::config::ModelConfig;
use crate::model::tokenizer::Tokenizer;
use crate::train::embedded::EVAL_BATCH;
use crate::train::materials::Materials;
use crate::{Error, Result};

/// A comparison whose data have been read and checked.
pub(super) struct Comparison {
    pub plan: Plan,
    /// Validation questions.
    pub val: Questions,
    /// The questions of each of the plan's test sets.
    pub tests: Vec<Questions>,
}

impl Comparison {
    /// Plans the comparison of `given`, whose files are read from `files`; of the embedded ones these may lie elsewhere.
    ///
    /// # Errors
    /// [`Error::Usage`] for settings that cannot be, a directory of another experiment, or a run of other settings; bad
    /// model or data files.
    pub fn new(
        options: Table1Options,
        given: Given,
        files: &Given,
        questions: Vec<Questions>,
    ) -> Result<Self> {
        let samples = load(&files.data, None)?.len();
        let val = Questions::load(&files.val)?;
        ModelConfig::load(&files.model)?;
        Tokenizer::load(&files.model)?;
        let tests = options.tests.clone();
        let plan = Plan::new(options, given, tests, samples)?;
        if let Some(init) = plan.init.as_ref().filter(|init| !init.is_dir()) {
            return Err(Error::usage(format!("`init` {}: is no checkpoint", init.display())));
        }
        existing::check_root(&plan.root, TABLE1, Some(&existing::settings(&plan)))?;
        existing::check_runs(&plan)?;
        Ok(Comparison { plan, val, tests: questions })
    }

    /// The numbers of its parts.
    pub fn shape(&self) -> Shape {
        let p = &self.plan;
        let factors = |v: &&Variant| v.compression_factors(&p.compression_factors).len();
        Shape {
            seeds: p.seeds.len(),
            lrs: p.lrs.len(),
            tests: p.tests.len(),
            compression_factors: p.variants.iter().map(factors).collect(),
        }
    }

    /// The questions for a run and the file of their figures; `test` `None` is the validation split, answered greedily.
    pub fn question_set(
        &self,
        v: &'static Variant,
        lr: f32,
        seed: usize,
        test: Option<usize>,
        compression_factor: &str,
    ) -> Asked<'_> {
        let p = &self.plan;
        let (name, set, sampling) = match test {
            Some(test) => (p.tests[test].name.as_str(), &self.tests[test], p.sampling),
            None => ("validation", &self.val, p.sampling.greedy()),
        };
        let run = p.run_dir(v, lr, p.seeds[seed]);
        let setting = Setting {
            method: v.method,
            compression_factor: compression_factor.to_owned(),
            sampling: Sampling { seed: p.seeds[seed], ..sampling },
            verifier: p.verifier,
            answer_rule: p.answer_rule,
            n: set.samples.len(),
            data: set.checksum,
        };
        Asked {
            model: &p.given.model,
            checkpoint: run.join("best"),
            questions: set,
            file: setting.file(&run.join("figures"), name),
            setting,
            batch: if p.embedded { EVAL_BATCH } else { EvalOptions::default().batch_size },
        }
    }
}

/// The options with every path absolute: the experiment's files name them, and are read from other working directories.
///
/// # Errors
/// [`Error::Io`] without a working directory; [`Error::Usage`] without methods.
pub(super) fn located(mut options: Table1Options) -> Result<Table1Options> {
    options.given = options.given.as_ref().map(Given::absolute).transpose()?;
    options.tests = options.tests.iter().map(TestSet::absolute).collect::<Result<_>>()?;
    options.init = options.init.as_deref().map(absolute).transpose()?;
    if options.variants.is_empty() {
        return Err(Error::usage("`variants` is empty"));
    }
    Ok(options)
}

/// Reads the test sets.
///
/// # Errors
/// A bad file.
pub(super) fn questions(tests: &[TestSet]) -> Result<Vec<Questions>> {
    tests.iter().map(|t| Questions::load(&t.file)).collect()
}

/// The plan of the embedded comparison as far as it is known before its data are made.
///
/// # Errors
/// [`Error::Usage`] for values that no run can have.
pub(super) fn embedded_plan(options: &Table1Options) -> Result<Plan> {
    let root = &options.out;
    let stand_in = TestSet { name: "test".into(), file: root.clone() };
    let tests = if options.tests.is_empty() { vec![stand_in] } else { options.tests.clone() };
    Plan::new(options.clone(), materials::given(&Materials::at(root)), tests, 1)
}
