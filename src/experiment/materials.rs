//! Model and data of the embedded comparison.
//!
//! The same word problems and the same small model as `train` without arguments, with two differences. Reasoning ends
//! where the answer is known: checks are there for reinforcement learning to drop, and no method here knows rewards.
//! And each step is a step of its own, since implicit CoT and Coconut take steps away. Two test sets, as the paper
//! has easy and hard ones: `test`, drawn like the training data, and `hard`, of four steps only.

use std::collections::HashSet;

use super::inputs::{Given, TestSet};
use crate::Result;
use crate::data::Sample;
use crate::data::synth::{self, SynthConfig};
use crate::train::materials::{Materials, word_problems};

/// Steps of the hard problems: the most that training has.
const HARD_STEPS: u32 = 4;

/// Its test sets.
const TESTS: [&str; 2] = ["test", "hard"];

/// Makes data and model in the directory `materials`, unless they are there, and says where they are.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) naming the file.
pub(super) fn make(materials: &Materials, seed: u64, shorten: u64) -> Result<(Given, Vec<TestSet>)> {
    materials.make_data(|| sets(seed, shorten))?;
    materials.make_model(seed)?;
    let tests = TESTS.map(|name| TestSet { name: name.to_owned(), file: materials.data(name) });
    Ok((given(materials), tests.to_vec()))
}

/// Model and data, whether or not they are made yet.
pub(super) fn given(materials: &Materials) -> Given {
    Given { model: materials.model(), data: materials.data("train"), val: materials.data("val") }
}

fn sets(seed: u64, shorten: u64) -> Result<Vec<(&'static str, Vec<Sample>)>> {
    let config = SynthConfig { check_percent: 0, ..word_problems(seed, shorten) };
    let splits = synth::generate(&config)?;
    let mut known: HashSet<String> = HashSet::new();
    for sample in splits.train.iter().chain(&splits.val).chain(&splits.test) {
        known.insert(numbers(sample));
    }
    // One in twenty or so is known already; surplus problems are dropped.
    let more =
        SynthConfig { train: 0, val: 0, test: 2 * config.test, min_steps: HARD_STEPS, ..config.clone() };
    let drawn = synth::generate(&SynthConfig { max_steps: HARD_STEPS, seed: seed.wrapping_add(1), ..more })?;
    let hard = drawn.test.into_iter().filter(|s| !known.contains(&numbers(s))).take(config.test).collect();
    let sets = [("train", splits.train), ("val", splits.val), ("test", splits.test), ("hard", hard)];
    Ok(sets.map(|(name, samples)| (name, samples.into_iter().map(apart).collect())).to_vec())
}

/// The calculation from its first result on, as a key. Those that differ in the order of the first two numbers share
/// it, so a few more problems than necessary count as the same.
fn numbers(sample: &Sample) -> String {
    let steps = sample.steps.concat();
    steps.split_once('=').map_or(String::new(), |(_, rest)| rest.to_owned())
}

/// The sample with every step as an entry of its own.
fn apart(sample: Sample) -> Sample {
    let steps = sample.steps.iter().flat_map(|s| s.split_terminator(';')).map(str::to_owned).collect();
    Sample { steps, ..sample }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_stand_apart_and_hard_problems_are_new_and_long() {
        let sets = sets(3, 20).unwrap();
        let of = |name: &str| &sets.iter().find(|(n, _)| *n == name).unwrap().1;
        assert_eq!(["train", "val", "test", "hard"].map(|n| of(n).len()), [2_000, 25, 50, 50]);
        let known: HashSet<String> = of("train").iter().chain(of("test")).map(numbers).collect();
        for s in of("hard") {
            assert_eq!(s.steps.len(), 4);
            assert!(!known.contains(&numbers(s)));
        }
        for (_, samples) in &sets {
            for s in samples {
                assert!((2..=4).contains(&s.steps.len()), "{s:?}");
                let last = s.steps.last().unwrap();
                assert!(last.ends_with(&format!("={}>>", s.answer)), "the steps end with its answer: {s:?}");
            }
        }
    }
}
