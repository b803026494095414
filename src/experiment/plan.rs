//! The plan of a comparison: its runs, with their flags and directories.
//!
//! Every run of a seed starts from the same checkpoint and gets the same number of updates, batch size, schedule
//! and weight decay; a method's own table of the settings file may change its objective only, so this cannot be
//! undone by accident.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::inputs::{Given, Machine, TestSet};
use super::settings::{self, COMMON, WARM_UP};
use super::variants::Variant;
use crate::data::{AnswerRule, VerifierKind};
use crate::eval::COMPRESSION_FACTORS;
use crate::infer::Sampling;
use crate::model::prompt::Method;
use crate::train::{Schedule, TrainFlags, TrainOptions, embedded};
use crate::{Error, Result};

/// The options of `experiment table1`.
#[derive(Debug, Clone)]
pub struct Table1Options {
    /// The experiment's directory.
    pub out: PathBuf,
    /// Model and data; `None`: the embedded ones.
    pub given: Option<Given>,
    /// Test sets; of the embedded data two unless given.
    pub tests: Vec<TestSet>,
    /// The methods.
    pub variants: Vec<&'static Variant>,
    /// Training seeds: `sampling.seed`, the next, ….
    pub seeds: usize,
    /// Updates of every method; default: [`Plan::EMBEDDED_UPDATES`] for the embedded model, else a pass over the data.
    pub updates: Option<u64>,
    /// Updates of CoT before them; default: [`Plan::EMBEDDED_WARM_UPDATES`] for the embedded model, else a pass over
    /// the data.
    pub warm_updates: Option<u64>,
    /// The learning rates to search; empty: [`Plan::EMBEDDED_LRS`] or [`Plan::LRS`].
    pub lrs: Vec<f32>,
    /// Learning rate of the CoT training before them; default: [`Plan::EMBEDDED_WARM_LR`] or [`Plan::WARM_LR`].
    pub warm_lr: Option<f32>,
    /// A CoT checkpoint in place of that training.
    pub init: Option<PathBuf>,
    /// Compression factors of the table; empty: [`COMPRESSION_FACTORS`].
    pub compression_factors: Vec<String>,
    /// Flags of training by table: `common`, `warm-up`, and methods by name.
    pub settings: BTreeMap<String, TrainFlags>,
    /// Sampling settings of the tests' answers; its seed is the first training seed.
    pub sampling: Sampling,
    /// The verifier that judges answers.
    pub verifier: VerifierKind,
    /// Which part of a generated text is its answer.
    pub answer_rule: AnswerRule,
    /// Divisor of updates and of the embedded data, for a quick look.
    pub shorten: u64,
    /// The machine that performs the runs.
    pub machine: Machine,
}

/// A comparison, fully specified.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The experiment's directory.
    pub root: PathBuf,
    /// Model and data.
    pub given: Given,
    /// Whether model and data are the embedded ones.
    pub embedded: bool,
    /// Test sets, at least one.
    pub tests: Vec<TestSet>,
    /// The methods.
    pub variants: Vec<&'static Variant>,
    /// Training seeds.
    pub seeds: Vec<u64>,
    /// Updates of every method.
    pub updates: u64,
    /// Updates of CoT before them.
    pub warm_updates: u64,
    /// The learning rates to search, ascending.
    pub lrs: Vec<f32>,
    /// Learning rate of the CoT training.
    pub warm_lr: f32,
    /// A CoT checkpoint in place of that training.
    pub init: Option<PathBuf>,
    /// Compression factors of the table.
    pub compression_factors: Vec<String>,
    /// Sampling settings of the tests' answers.
    pub sampling: Sampling,
    /// The verifier that judges answers.
    pub verifier: VerifierKind,
    /// Which part of a generated text is its answer.
    pub answer_rule: AnswerRule,
    /// The divisor of the updates.
    pub shorten: u64,
    /// The machine that performs the runs.
    pub machine: Machine,
    settings: BTreeMap<String, TrainFlags>,
}

impl Plan {
    /// Learning rates searched on the embedded model.
    pub const EMBEDDED_LRS: [f32; 3] = [1e-3, 2e-3, 4e-3];
    /// Learning rates searched on a model of one's own, around the paper's 1e-4.
    pub const LRS: [f32; 3] = [5e-5, 1e-4, 2e-4];
    /// Learning rate of the CoT training of the embedded model.
    pub const EMBEDDED_WARM_LR: f32 = 2e-3;
    /// Learning rate of the CoT training of a model of one's own.
    pub const WARM_LR: f32 = 1e-4;
    /// Updates of every method on the embedded model.
    pub const EMBEDDED_UPDATES: u64 = 900;
    /// Updates of CoT before them.
    pub const EMBEDDED_WARM_UPDATES: u64 = 500;
    /// Training seeds.
    pub const SEEDS: usize = 5;

    /// Fills in defaults. `given` and `tests` are complete, `samples` are those of the training data.
    ///
    /// # Errors
    /// [`Error::Usage`] for values that no run can have.
    pub fn new(o: Table1Options, given: Given, tests: Vec<TestSet>, samples: usize) -> Result<Self> {
        let embedded = o.given.is_none();
        settings::check(&o.settings)?;
        let common = o.settings.get(COMMON).cloned().unwrap_or_default();
        let d = TrainOptions::default();
        let per_update = common.batch_size.unwrap_or(d.run.batch_size).max(1)
            * common.accumulate.unwrap_or(d.accumulate).max(1);
        let pass = samples.div_ceil(per_update) as u64;
        let short = |n: u64| if o.shorten > 1 && n > 0 { (n / o.shorten).max(2) } else { n };
        let mut lrs = match (o.lrs.is_empty(), embedded) {
            (false, _) => o.lrs,
            (true, true) => Self::EMBEDDED_LRS.to_vec(),
            (true, false) => Self::LRS.to_vec(),
        };
        lrs.sort_by(f32::total_cmp);
        lrs.dedup();
        let compression_factors = if o.compression_factors.is_empty() {
            COMPRESSION_FACTORS.map(str::to_owned).to_vec()
        } else {
            o.compression_factors
        };
        let warm = o.warm_updates.unwrap_or(if embedded { Self::EMBEDDED_WARM_UPDATES } else { pass });
        let plan = Plan {
            root: o.out,
            given,
            embedded,
            tests,
            variants: o.variants,
            seeds: (0..o.seeds as u64).map(|k| o.sampling.seed.wrapping_add(k)).collect(),
            updates: short(o.updates.unwrap_or(if embedded { Self::EMBEDDED_UPDATES } else { pass })),
            warm_updates: if o.init.is_some() { 0 } else { short(warm) },
            lrs,
            warm_lr: o.warm_lr.unwrap_or(if embedded { Self::EMBEDDED_WARM_LR } else { Self::WARM_LR }),
            init: o.init,
            compression_factors,
            sampling: o.sampling,
            verifier: o.verifier,
            answer_rule: o.answer_rule,
            shorten: o.shorten,
            machine: o.machine,
            settings: o.settings,
        };
        plan.check()?;
        Ok(plan)
    }

    fn check(&self) -> Result<()> {
        let usage = |bad: bool, what: &str| if bad { Err(Error::usage(what)) } else { Ok(()) };
        usage(self.seeds.is_empty(), "`seeds` must be at least 1")?;
        usage(self.variants.is_empty(), "`variants` is empty")?;
        usage(self.tests.is_empty(), "`tests` is needed with your own model and data")?;
        usage(self.updates == 0, "`updates` must be at least 1")?;
        let rates = self.lrs.iter().chain([&self.warm_lr]);
        usage(
            rates.into_iter().any(|lr| !(lr.is_finite() && *lr > 0.0)),
            "`lrs` and `warm_lr` must be numbers above 0",
        )?;
        let twice = |names: Vec<&str>| {
            (1..names.len()).find(|&i| names[..i].contains(&names[i])).map(|i| names[i].to_owned())
        };
        if let Some(name) = twice(self.tests.iter().map(|t| t.name.as_str()).collect()) {
            return Err(Error::usage(format!(
                "two test sets are named {name:?}: give each of `tests` a name of its own"
            )));
        }
        if let Some(cf) = twice(self.compression_factors.iter().map(String::as_str).collect()) {
            return Err(Error::usage(format!("`compression_factors` names {cf} twice")));
        }
        self.sampling.validate()?;
        for (_, flags) in self.runs() {
            flags.resolve()?;
        }
        Ok(())
    }

    /// The directory of the CoT training of a seed.
    pub fn warm_dir(&self, seed: u64) -> PathBuf {
        self.root.join("runs").join(WARM_UP).join(format!("seed{seed}"))
    }

    /// The directory of a method's run.
    pub fn run_dir(&self, variant: &Variant, lr: f32, seed: u64) -> PathBuf {
        self.root.join("runs").join(variant.name).join(format!("lr{lr:e}")).join(format!("seed{seed}"))
    }

    /// The checkpoint that all methods of a seed start from; `None`: the bare model.
    pub fn start(&self, seed: u64) -> Option<PathBuf> {
        match &self.init {
            Some(init) => Some(init.clone()),
            None => (self.warm_updates > 0).then(|| self.warm_dir(seed).join("best")),
        }
    }

    /// Every run that the plan may need, with its directory.
    pub fn runs(&self) -> Vec<(PathBuf, TrainFlags)> {
        let mut runs = Vec::new();
        for &seed in &self.seeds {
            if self.warm_updates > 0 {
                runs.push((self.warm_dir(seed), self.warm_flags(seed)));
            }
            for v in &self.variants {
                runs.extend(
                    self.lrs.iter().map(|&lr| (self.run_dir(v, lr, seed), self.run_flags(v, lr, seed))),
                );
            }
        }
        runs
    }

    /// The flags of the CoT training of a seed.
    pub fn warm_flags(&self, seed: u64) -> TrainFlags {
        let fixed = TrainFlags { method: Some(Method::Cot), lr: Some(self.warm_lr), ..TrainFlags::default() };
        self.planned(self.warm_dir(seed), seed)
            .over(fixed)
            .over(self.table(WARM_UP))
            .over(self.table(COMMON))
            .or_defaults(self.basis(self.warm_updates))
    }

    /// The flags of a method's run.
    pub fn run_flags(&self, variant: &Variant, lr: f32, seed: u64) -> TrainFlags {
        let fixed = TrainFlags {
            method: Some(variant.method),
            lr: Some(lr),
            init: self.start(seed),
            ..TrainFlags::default()
        };
        let own = if self.embedded { variant.embedded() } else { TrainFlags::default() };
        // The embeddings are the latents' targets and must not move. Methods without latents keep them frozen too,
        // so that all methods train the same weights, as they do under an adapter.
        let freeze = TrainFlags { freeze_embedding: self.embedded.then_some(true), ..TrainFlags::default() };
        self.planned(self.run_dir(variant, lr, seed), seed)
            .over(fixed)
            .over(self.table(variant.name))
            .over(variant.differs())
            .over(self.table(variant.method.name()))
            .over(self.table(COMMON))
            .or_defaults(own.over(freeze).over(self.basis(self.updates)))
    }

    /// The flags that the plan sets for every run. There is no validation within a run: the checkpoint is the one
    /// after the last update, under every method.
    fn planned(&self, out: PathBuf, seed: u64) -> TrainFlags {
        TrainFlags {
            model: Some(self.given.model.clone()),
            data: Some(self.given.data.clone()),
            out: Some(out),
            seed: Some(seed),
            device: Some(self.machine.device),
            dtype: self.machine.dtype,
            threads: Some(self.machine.split(self.embedded).1),
            no_mmap: Some(self.machine.no_mmap),
            ..TrainFlags::default()
        }
    }

    /// The default flags of every run.
    fn basis(&self, updates: u64) -> TrainFlags {
        if self.embedded {
            return embedded::supervised(updates);
        }
        TrainFlags {
            max_steps: Some(updates),
            warmup: Some(updates / 20),
            schedule: Some(Schedule::Cosine),
            ..TrainFlags::default()
        }
    }

    fn table(&self, name: &str) -> TrainFlags {
        self.settings.get(name).cloned().unwrap_or_default()
    }

    /// The options of a run, as `train` would resolve them.
    ///
    /// # Errors
    /// As [`TrainFlags::resolve`].
    pub fn options(&self, variant: &Variant, lr: f32, seed: u64) -> Result<TrainOptions> {
        self.run_flags(variant, lr, seed).resolve()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::experiment::variants;

    pub fn options() -> Table1Options {
        Table1Options {
            out: "exp".into(),
            given: None,
            tests: Vec::new(),
            variants: variants::select(&["all".to_owned()]).unwrap(),
            seeds: 3,
            updates: None,
            warm_updates: None,
            lrs: Vec::new(),
            warm_lr: None,
            init: None,
            compression_factors: Vec::new(),
            settings: BTreeMap::new(),
            sampling: Sampling { seed: 7, ..Sampling::default() },
            verifier: VerifierKind::default(),
            answer_rule: AnswerRule::default(),
            shorten: 1,
            machine: Machine { jobs: 1, threads: 1, ..Machine::default() },
        }
    }

    pub fn plan(o: Table1Options) -> Result<Plan> {
        let given = Given { model: "m".into(), data: "d".into(), val: "v".into() };
        let tests = vec![TestSet::parse("t.jsonl").unwrap(), TestSet::parse("hard=h.jsonl").unwrap()];
        Plan::new(o, given, tests, 100)
    }

    fn settings(text: &str) -> BTreeMap<String, TrainFlags> {
        toml::from_str(text).unwrap()
    }

    /// The comparison is fair: the resolved options of every run agree in all that must be equal.
    #[test]
    fn methods_of_a_seed_differ_in_their_objective_alone() {
        for o in [
            options(),
            Table1Options {
                given: Some(Given { model: "m".into(), data: "d".into(), val: "v".into() }),
                ..options()
            },
        ] {
            let plan = plan(o).unwrap();
            for &seed in &plan.seeds {
                for &lr in &plan.lrs {
                    let shared = |v: &Variant| {
                        let mut run = plan.options(v, lr, seed).unwrap().run;
                        run.out = PathBuf::new();
                        run
                    };
                    let first = shared(plan.variants[0]);
                    assert_eq!(first.lr, lr);
                    assert_eq!(first.seed, seed);
                    for v in &plan.variants {
                        assert_eq!(shared(v), first, "{}", v.name);
                        assert_eq!(plan.options(v, lr, seed).unwrap().init, plan.start(seed));
                        assert!(plan.run_flags(v, lr, seed).val.is_none());
                    }
                }
            }
        }
    }

    #[test]
    fn defaults_of_the_embedded_model_and_of_another() {
        let p = plan(options()).unwrap();
        assert_eq!((p.updates, p.warm_updates, p.seeds.clone()), (900, 500, vec![7, 8, 9]));
        assert_eq!(p.lrs, Plan::EMBEDDED_LRS);
        let colar = variants::named("colar").unwrap();
        assert_eq!(p.run_dir(colar, 2e-3, 7), PathBuf::from("exp/runs/colar/lr2e-3/seed7"));
        assert_eq!(p.run_flags(colar, 2e-3, 7).latent_weight, Some(3.0));
        assert_eq!(p.run_flags(variants::named("colar-nll").unwrap(), 2e-3, 7).latent_weight, Some(0.3));
        let given = Some(p.given.clone());
        let p = plan(Table1Options { given, shorten: 5, ..options() }).unwrap();
        // 100 samples at 8 an update, a fifth of it, and no fewer than 2.
        assert_eq!((p.updates, p.warm_updates), (2, 2));
        assert_eq!(p.run_flags(colar, 1e-4, 7).latent_weight, None);
    }

    #[test]
    fn a_checkpoint_takes_the_place_of_the_first_training() {
        let p = plan(Table1Options { init: Some("cot/best".into()), ..options() }).unwrap();
        assert_eq!((p.warm_updates, p.start(8)), (0, Some("cot/best".into())));
        let p = plan(Table1Options { warm_updates: Some(0), ..options() }).unwrap();
        assert_eq!(p.start(8), None);
        assert!(p.runs().iter().all(|(dir, _)| !dir.starts_with("exp/runs/warm-up")));
    }

    #[test]
    fn settings_change_objectives_and_what_all_share() {
        let text = "[common]\nbatch-size = 6\n[warm-up]\nweight-decay = 0.1\n[colar]\nlatent-weight = 2.0\nmerge = \"sqrt\"\n\
                    [colar-nll]\nlatent-weight = 0.5\n";
        let p = plan(Table1Options { settings: settings(text), ..options() }).unwrap();
        let flags = |name: &str| p.run_flags(variants::named(name).unwrap(), 1e-3, 7);
        assert_eq!((flags("cot").batch_size, flags("cot").weight_decay), (Some(6), None));
        assert_eq!((p.warm_flags(7).batch_size, p.warm_flags(7).weight_decay), (Some(6), Some(0.1)));
        assert_eq!((flags("colar").latent_weight, flags("cot").latent_weight), (Some(2.0), None));
        // An ablation has its method's settings, then the change that defines it, then its own.
        assert_eq!(flags("colar-nll").latent_weight, Some(0.5));
        assert_eq!(flags("colar-mp").merge, Some(crate::model::merge::Merge::Mean));
        for (text, says) in [
            ("[colar]\nbatch-size = 6", "`batch_size` in [colar] must be the same for all methods"),
            ("[common]\nlr = 1.0", "`lr` in [common] is the experiment's to set"),
            ("[codi]\nlatent-weight = 1.0", "[codi] is neither"),
            ("[common]\nkl-weight = 1.0", "`kl_weight` goes with `stage` rl"),
        ] {
            let error = plan(Table1Options { settings: settings(text), ..options() }).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(says), "{error}");
        }
    }

    #[test]
    fn impossible_values_are_refused() {
        for (o, says) in [
            (Table1Options { seeds: 0, ..options() }, "`seeds`"),
            (Table1Options { updates: Some(0), ..options() }, "`updates`"),
            (Table1Options { variants: Vec::new(), ..options() }, "`variants`"),
            (Table1Options { lrs: vec![0.0], ..options() }, "`lrs`"),
            (Table1Options { warm_lr: Some(f32::NAN), ..options() }, "`warm_lr`"),
            (
                Table1Options { compression_factors: vec!["2".into(), "2".into()], ..options() },
                "`compression_factors` names 2 twice",
            ),
        ] {
            let error = plan(o).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(says), "{error}");
        }
        for text in ["=f", "a/b=f", ".x=f", "average=f", "/"] {
            assert!(TestSet::parse(text).is_err(), "{text}");
        }
        let given = Given { model: "m".into(), data: "d".into(), val: "v".into() };
        let twice = ["a=x", "a=y"].map(|t| TestSet::parse(t).unwrap()).to_vec();
        assert!(
            Plan::new(options(), given.clone(), twice, 1).unwrap_err().to_string().contains("named \"a\"")
        );
        assert!(Plan::new(options(), given, Vec::new(), 1).unwrap_err().to_string().contains("`tests`"));
    }
}
