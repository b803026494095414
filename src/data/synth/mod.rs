//! The embedded data set: arithmetic word problems, made from a seed.
//!
//! A first run must show compressed reasoning work without a download and within minutes, so the
//! problems are as small as they can be while still needing reasoning: two to four steps, each feeding
//! the next, numbers that are single tokens, and stories of a few templates (`story`) over a
//! vocabulary of their own ([`tokenizer`]). A model that skips the steps has to guess.
//!
//! Most problems go on after the answer is known: their steps check the last one by its inverse, as people and
//! language models do. The check helps nobody here, and a model trained on such steps mostly writes it, so
//! reinforcement learning has something to shorten.
//!
//! Accuracy on the test set means something only if its problems are new. So no two splits share a
//! calculation: the same numbers under the same operations never occur in both, whatever story is told
//! around them; sums and products that differ in the order of the first two numbers count as the same.
//! The held-out splits are drawn first and do not change with the size of the training set.

mod calculation;
mod story;
pub mod tokenizer;

use std::collections::HashSet;
use std::path::Path;

use super::Sample;
use crate::files::atomic::write_atomic;
use crate::random::Stream;
use crate::{Error, Result};
use calculation::Calculation;
pub use tokenizer::{tokenizer_config_json, tokenizer_json};

/// Settings of the generator. The same settings always give the same splits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SynthConfig {
    /// Seed of all draws.
    pub seed: u64,
    /// Training problems.
    pub train: usize,
    /// Validation problems, for choosing checkpoints and settings.
    pub val: usize,
    /// Test problems, for reported figures only.
    pub test: usize,
    /// Fewest steps of a problem; at least 1.
    pub min_steps: u32,
    /// Most steps of a problem; at most [`MAX_STEPS`].
    pub max_steps: u32,
    /// Largest number that occurs, results included; from 8 to [`MAX_VALUE`]. Up to 59 every number
    /// is a single token of [`tokenizer_json`].
    pub max_value: u32,
    /// Percentage of problems that check their last step; at most 100.
    pub check_percent: u32,
}

/// The largest allowed [`SynthConfig::max_steps`].
pub const MAX_STEPS: u32 = 16;
/// The largest allowed [`SynthConfig::max_value`].
pub const MAX_VALUE: u32 = 9_999;

impl Default for SynthConfig {
    /// 40,000 problems to train, 500 to validate, 1,000 to test; 2 to 4 steps, results below 60; three problems in
    /// four check their last step.
    fn default() -> Self {
        SynthConfig {
            seed: 0,
            train: 40_000,
            val: 500,
            test: 1_000,
            min_steps: 2,
            max_steps: 4,
            max_value: 59,
            check_percent: 75,
        }
    }
}

/// The generated problems. No calculation occurs in two splits and no question twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Splits {
    /// For training.
    pub train: Vec<Sample>,
    /// For choosing checkpoints and settings.
    pub val: Vec<Sample>,
    /// For reported figures only.
    pub test: Vec<Sample>,
}

/// High half of the stream ids used here, so that other draws from the same seed stay apart.
const STREAMS: u64 = 0x0da7_a5e7 << 32;

/// Added to a split's stream id to get the stream of its checks.
const CHECKS: u64 = 16;

/// Writes `tokenizer.json` and `tokenizer_config.json` into the directory `dir`.
///
/// # Errors
/// [`Error::Io`] naming the file.
pub fn write_tokenizer(dir: &Path) -> Result<()> {
    for (name, text) in
        [("tokenizer.json", tokenizer_json()), ("tokenizer_config.json", tokenizer_config_json())]
    {
        write_atomic(&dir.join(name), |out| out.write_all(text.as_bytes()))?;
    }
    Ok(())
}

/// Makes the splits of `config`.
///
/// # Errors
/// [`Error::Usage`] if a bound is out of range or the bounds allow fewer distinct problems than asked for.
pub fn generate(config: &SynthConfig) -> Result<Splits> {
    check(config)?;
    let mut maker = Maker { config, held_out: HashSet::new(), questions: HashSet::new() };
    let test = maker.split("test", config.test, STREAMS, true)?;
    let val = maker.split("val", config.val, STREAMS + 1, true)?;
    let train = maker.split("train", config.train, STREAMS + 2, false)?;
    Ok(Splits { train, val, test })
}

fn check(config: &SynthConfig) -> Result<()> {
    let SynthConfig { min_steps, max_steps, max_value, .. } = *config;
    if min_steps == 0 || min_steps > max_steps || max_steps > MAX_STEPS {
        return Err(Error::usage(format!(
            "problems of {min_steps} to {max_steps} steps cannot be made; choose from 1 to {MAX_STEPS}"
        )));
    }
    if config.check_percent > 100 {
        return Err(Error::usage(format!("{} % of chains cannot be checked", config.check_percent)));
    }
    if !(8..=MAX_VALUE).contains(&max_value) {
        return Err(Error::usage(format!("the largest value is {max_value}; choose from 8 to {MAX_VALUE}")));
    }
    Ok(())
}

/// Draws problems and remembers which ones were made.
struct Maker<'a> {
    config: &'a SynthConfig,
    /// Keys of the calculations that the held-out splits use.
    held_out: HashSet<String>,
    /// All questions so far.
    questions: HashSet<String>,
}

impl Maker<'_> {
    /// Draws in a row that may repeat an earlier problem before the supply counts as exhausted.
    const PATIENCE: usize = 2_000;

    /// The next `count` problems; held-out ones use each calculation once and keep it from later splits.
    fn split(&mut self, name: &str, count: usize, stream: u64, hold_out: bool) -> Result<Vec<Sample>> {
        let mut draw = Stream::new(self.config.seed, stream);
        // A stream of its own: the problems do not depend on how many problems are checked.
        let mut checks = Stream::new(self.config.seed, stream + CHECKS);
        let mut samples = Vec::new();
        while samples.len() < count {
            let Some(sample) = self.sample(&mut draw, &mut checks, hold_out) else {
                return Err(Error::usage(format!(
                    "these bounds allow no more than about {} distinct {name} problems, not {count}; \
                     allow more steps or larger values",
                    samples.len()
                )));
            };
            samples.push(sample);
        }
        Ok(samples)
    }

    /// A problem not made before; `None` if none turns up.
    fn sample(&mut self, draw: &mut Stream, checks: &mut Stream, hold_out: bool) -> Option<Sample> {
        let SynthConfig { min_steps, max_steps, max_value, .. } = *self.config;
        // Drawn once, not with every attempt: a scarce length must not give way to a plentiful one.
        let steps = min_steps + draw.below(u64::from(max_steps - min_steps) + 1) as u32;
        for _ in 0..Self::PATIENCE {
            let calculation = Calculation::draw(draw, steps, max_value);
            let key = calculation.key();
            if self.held_out.contains(&key) {
                continue;
            }
            let question = story::tell(&calculation, draw);
            if !self.questions.insert(question.clone()) {
                continue;
            }
            if hold_out {
                self.held_out.insert(key);
            }
            let steps = vec![calculation.steps(checks.below(100) < u64::from(self.config.check_percent))];
            return Some(Sample { question, steps, answer: calculation.result().to_string() });
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> SynthConfig {
        SynthConfig { seed: 3, train: 3_000, val: 300, test: 300, ..SynthConfig::default() }
    }

    #[test]
    fn the_seed_decides_everything() {
        let splits = generate(&small()).unwrap();
        assert_eq!(splits, generate(&small()).unwrap());
        assert_eq!((splits.train.len(), splits.val.len(), splits.test.len()), (3_000, 300, 300));
        let other = generate(&SynthConfig { seed: 4, ..small() }).unwrap();
        assert_ne!(splits.test, other.test);
        let larger = generate(&SynthConfig { train: 4_000, ..small() }).unwrap();
        assert_eq!((&splits.test, &splits.val), (&larger.test, &larger.val));
        assert_eq!(splits.train, larger.train[..3_000]);
    }

    /// The numbers and operations of a calculation, apart from how `calculation` writes keys.
    fn operations(sample: &Sample) -> String {
        steps(sample).map(|step| step.trim_matches(['<', '>']).split('=').next().unwrap()).collect()
    }

    /// The steps of a sample, one by one.
    fn steps(sample: &Sample) -> impl Iterator<Item = &str> {
        sample.steps[0].split_terminator(';')
    }

    #[test]
    fn splits_share_no_question_and_no_calculation() {
        let splits = generate(&SynthConfig { check_percent: 0, ..small() }).unwrap();
        let sets = [&splits.train, &splits.val, &splits.test];
        let all: Vec<&Sample> = sets.iter().flat_map(|set| set.iter()).collect();
        let questions: HashSet<&str> = all.iter().map(|sample| sample.question.as_str()).collect();
        assert_eq!(questions.len(), all.len(), "a question occurs twice");
        let calculations = sets.map(|set| set.iter().map(operations).collect::<HashSet<String>>());
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            assert!(calculations[a].is_disjoint(&calculations[b]), "splits {a} and {b} share a calculation");
        }
    }

    #[test]
    fn steps_are_right_and_feed_each_other() {
        let config = SynthConfig { check_percent: 0, ..small() };
        let splits = generate(&config).unwrap();
        let mut lengths = HashSet::new();
        for sample in splits.train.iter().chain(&splits.val).chain(&splits.test) {
            let mut last = None;
            assert!(sample.steps.len() == 1 && sample.steps[0].ends_with(';'));
            for step in steps(sample) {
                let step = step.strip_prefix("<<").unwrap().strip_suffix(">>").unwrap();
                let (left, result) = step.split_once('=').unwrap();
                let operator = left.find(['+', '-', '*', '/']).unwrap();
                let number = |text: &str| text.parse::<u32>().unwrap();
                let (a, b, result) =
                    (number(&left[..operator]), number(&left[operator + 1..]), number(result));
                match left.as_bytes()[operator] {
                    b'+' => assert_eq!(a + b, result),
                    b'-' => assert_eq!(a - b, result),
                    b'*' => assert_eq!(a * b, result),
                    _ => assert_eq!(a, b * result),
                }
                assert!(last.is_none_or(|last| last == a), "{sample:?}");
                assert!([a, b, result].iter().all(|&n| (1..=config.max_value).contains(&n)), "{sample:?}");
                last = Some(result);
            }
            assert_eq!(last.map(|last| last.to_string()).as_deref(), Some(sample.answer.as_str()));
            lengths.insert(steps(sample).count());
        }
        assert_eq!(lengths, HashSet::from([2, 3, 4]));
    }

    #[test]
    fn most_problems_check_their_last_step() {
        let plain = generate(&SynthConfig { check_percent: 0, ..small() }).unwrap();
        let most = generate(&small()).unwrap();
        let all = |splits: Splits| [splits.train, splits.val, splits.test].concat();
        let (plain, most) = (all(plain), all(most));
        let mut checked = 0;
        for (a, b) in plain.iter().zip(&most) {
            assert_eq!((&a.question, &a.answer), (&b.question, &b.answer));
            let check = b.steps[0].strip_prefix(&a.steps[0]).unwrap();
            checked += usize::from(!check.is_empty());
            // The check starts from the answer, and ends where the last step began.
            assert!(check.is_empty() || check.starts_with(&format!("<<{}", a.answer)), "{b:?}");
        }
        let share = checked as f64 / most.len() as f64;
        assert!((share - 0.75).abs() < 0.03, "{share}");
        assert!(generate(&SynthConfig { check_percent: 101, ..small() }).is_err());
    }

    #[test]
    fn the_data_set_of_a_seed_is_pinned() {
        let splits = generate(&SynthConfig { train: 2, val: 2, test: 4, ..SynthConfig::default() }).unwrap();
        insta::assert_json_snapshot!([splits.test, splits.val, splits.train].concat());
    }

    #[test]
    fn impossible_bounds_are_refused() {
        for (change, expected) in [
            (SynthConfig { min_steps: 0, ..small() }, "problems of 0 to 4 steps cannot be made"),
            (SynthConfig { min_steps: 5, ..small() }, "problems of 5 to 4 steps cannot be made"),
            (SynthConfig { max_steps: u32::MAX, ..small() }, "steps cannot be made"),
            (SynthConfig { max_value: 7, ..small() }, "the largest value is 7"),
            (SynthConfig { max_value: u32::MAX, ..small() }, "choose from 8 to 9999"),
            (
                SynthConfig { min_steps: 1, max_steps: 1, max_value: 8, test: usize::MAX, ..small() },
                "distinct test problems",
            ),
        ] {
            let message = generate(&change).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn extreme_bounds_work() {
        for (min_steps, max_steps, max_value) in
            [(1, 1, 59), (MAX_STEPS, MAX_STEPS, 8), (1, MAX_STEPS, MAX_VALUE)]
        {
            let config =
                SynthConfig { min_steps, max_steps, max_value, train: 50, val: 10, test: 10, ..small() };
            assert_eq!(generate(&config).unwrap().train.len(), 50);
        }
    }
}
