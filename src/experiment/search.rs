//! The order of a comparison: the part that comes next, and the learning rate that the search chooses.
//!
//! Nothing here knows of files or devices; every rule of the comparison that has to do with order is in this file.

use std::collections::{HashMap, HashSet};

use super::jobs::Board;
use crate::{Error, Result};

/// A part of a comparison. The numbers are places in the plan's lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum ComparisonPart {
    /// CoT training before the comparison, one a seed.
    WarmUp { seed: usize },
    /// A run of the first seed at one learning rate, and its accuracy on the validation split.
    Search { variant: usize, lr: usize },
    /// A run of a later seed at the learning rate that was chosen.
    Train { variant: usize, seed: usize },
    /// An evaluation of a finished run of that learning rate.
    Test { variant: usize, seed: usize, test: usize, compression_factor: usize },
}

/// A part that may be begun, with its learning rate's place: the one searched, or the one chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReadyPart {
    pub part: ComparisonPart,
    pub lr: usize,
}

/// The numbers of variants, seeds, rates and tests.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub seeds: usize,
    pub lrs: usize,
    pub tests: usize,
    /// Speeds of each variant.
    pub compression_factors: Vec<usize>,
}

impl Shape {
    /// Every part, in the order in which they are to begin: training before tests, which fill the end where little
    /// training is left.
    pub fn parts(&self) -> Vec<ComparisonPart> {
        let variants = 0..self.compression_factors.len();
        let mut parts: Vec<ComparisonPart> =
            (0..self.seeds).map(|seed| ComparisonPart::WarmUp { seed }).collect();
        for variant in variants.clone() {
            parts.extend((0..self.lrs).map(|lr| ComparisonPart::Search { variant, lr }));
        }
        for seed in 1..self.seeds {
            parts.extend(variants.clone().map(|variant| ComparisonPart::Train { variant, seed }));
        }
        for variant in variants {
            for seed in 0..self.seeds {
                for test in 0..self.tests {
                    parts.extend((0..self.compression_factors[variant]).map(|compression_factor| {
                        ComparisonPart::Test { variant, seed, test, compression_factor }
                    }));
                }
            }
        }
        parts
    }
}

/// The state of a comparison.
pub(super) struct Progress {
    shape: Shape,
    /// Parts that have not begun, in order.
    open: Vec<ComparisonPart>,
    done: HashSet<ComparisonPart>,
    /// Accuracy on the validation split of the runs of the search; `None` for one that diverged.
    found: HashMap<(usize, usize), Option<f64>>,
    /// Names of the variants, for errors.
    names: Vec<&'static str>,
}

impl Progress {
    /// The state before anything is done.
    pub fn new(shape: Shape, names: Vec<&'static str>) -> Self {
        let open = shape.parts();
        Progress { shape, open, done: HashSet::new(), found: HashMap::new(), names }
    }

    /// Accuracies on the validation split by learning rate; `None` while a run is missing.
    pub fn found(&self, variant: usize) -> Option<Vec<Option<f64>>> {
        (0..self.shape.lrs).map(|lr| self.found.get(&(variant, lr)).copied()).collect()
    }

    /// The learning rate of a variant, by its place: the one of highest accuracy, of equals the smallest; `None`
    /// while a run of the search is missing, and where all diverged.
    pub fn chosen(&self, variant: usize) -> Option<usize> {
        let found = self.found(variant)?;
        let best = found.iter().flatten().copied().max_by(f64::total_cmp)?;
        found.iter().position(|&a| a == Some(best))
    }

    /// The part with its learning rate, if the parts it needs are done.
    fn task(&self, part: ComparisonPart) -> Option<ReadyPart> {
        let warm = |seed| self.done.contains(&ComparisonPart::WarmUp { seed });
        let (may_begin, lr) = match part {
            ComparisonPart::WarmUp { .. } => (true, Some(0)),
            ComparisonPart::Search { lr, .. } => (warm(0), Some(lr)),
            ComparisonPart::Train { variant, seed } => (warm(seed), self.chosen(variant)),
            ComparisonPart::Test { variant, seed: 0, .. } => (true, self.chosen(variant)),
            ComparisonPart::Test { variant, seed, .. } => {
                (self.done.contains(&ComparisonPart::Train { variant, seed }), self.chosen(variant))
            }
        };
        lr.filter(|_| may_begin).map(|lr| ReadyPart { part, lr })
    }
}

impl Board for Progress {
    type Part = ReadyPart;
    /// The accuracy on the validation split of a run of the search, `None` if it diverged; `None` for other parts.
    type Outcome = Option<f64>;

    fn take(&mut self) -> Option<ReadyPart> {
        let found = self.open.iter().enumerate().find_map(|(place, part)| Some((place, self.task(*part)?)));
        let (place, task) = found?;
        self.open.remove(place);
        Some(task)
    }

    fn put(&mut self, ReadyPart { part, .. }: ReadyPart, outcome: Option<f64>) -> Result<()> {
        self.done.insert(part);
        if let ComparisonPart::Search { variant, lr } = part {
            self.found.insert((variant, lr), outcome);
            if self.found(variant).is_some_and(|found| found.iter().all(Option::is_none)) {
                let name = self.names.get(variant).copied().unwrap_or_default();
                return Err(Error::other(format!(
                    "{name} diverges at every learning rate: give smaller `lrs`"
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> Shape {
        Shape { seeds: 3, lrs: 2, tests: 2, compression_factors: vec![1, 3] }
    }

    fn progress() -> Progress {
        Progress::new(shape(), vec!["cot", "colar"])
    }

    #[test]
    fn parts_are_counted() {
        let parts = shape().parts();
        // 3 warm-ups, 2 · 2 of the search, 2 · 2 later seeds, (1 + 3) · 3 · 2 tests.
        assert_eq!(parts.len(), 3 + 4 + 4 + 24);
        assert_eq!(parts.iter().collect::<HashSet<_>>().len(), parts.len());
        let alone = Shape { seeds: 1, ..shape() };
        assert!(!alone.parts().iter().any(|p| matches!(p, ComparisonPart::Train { .. })));
    }

    fn take(p: &mut Progress) -> Option<ComparisonPart> {
        p.take().map(|task| task.part)
    }

    fn put(p: &mut Progress, part: ComparisonPart, outcome: Option<f64>) -> Result<()> {
        p.put(ReadyPart { part, lr: 0 }, outcome)
    }

    #[test]
    fn nothing_begins_before_what_it_needs() {
        let mut p = progress();
        let warm: Vec<ComparisonPart> = (0..3).map(|_| take(&mut p).unwrap()).collect();
        assert_eq!(warm, [0, 1, 2].map(|seed| ComparisonPart::WarmUp { seed }));
        assert_eq!(take(&mut p), None);
        put(&mut p, warm[1], None).unwrap();
        assert_eq!(take(&mut p), None, "the search is the first seed's");
        put(&mut p, warm[0], None).unwrap();
        let search: Vec<ComparisonPart> = std::iter::from_fn(|| take(&mut p)).collect();
        assert_eq!(search.len(), 4);
        put(&mut p, ComparisonPart::Search { variant: 1, lr: 0 }, Some(0.5)).unwrap();
        assert_eq!(take(&mut p), None, "half a search chooses nothing");
        put(&mut p, ComparisonPart::Search { variant: 1, lr: 1 }, Some(0.7)).unwrap();
        // The rate that was chosen comes with every later part.
        assert_eq!(p.take(), Some(ReadyPart { part: ComparisonPart::Train { variant: 1, seed: 1 }, lr: 1 }));
        // The third seed is not warm; the first seed's run at the chosen rate may be tested.
        let test = |seed| ComparisonPart::Test { variant: 1, seed, test: 0, compression_factor: 0 };
        assert_eq!(p.take(), Some(ReadyPart { part: test(0), lr: 1 }));
        put(&mut p, warm[2], None).unwrap();
        assert_eq!(take(&mut p), Some(ComparisonPart::Train { variant: 1, seed: 2 }));
        let tests: Vec<ComparisonPart> = std::iter::from_fn(|| take(&mut p)).collect();
        assert!(tests.iter().all(|t| matches!(t, ComparisonPart::Test { variant: 1, seed: 0, .. })));
        assert_eq!(tests.len(), 5);
        put(&mut p, ComparisonPart::Train { variant: 1, seed: 2 }, None).unwrap();
        assert_eq!(take(&mut p), Some(test(2)));
    }

    #[test]
    fn the_best_rate_wins_and_of_equals_the_smallest() {
        let search = |found: [Option<f64>; 2]| {
            let mut p = progress();
            for (lr, a) in found.into_iter().enumerate() {
                put(&mut p, ComparisonPart::Search { variant: 0, lr }, a)?;
            }
            Ok::<_, Error>(p.chosen(0))
        };
        assert_eq!(search([Some(0.5), Some(0.6)]).unwrap(), Some(1));
        assert_eq!(search([Some(0.6), Some(0.6)]).unwrap(), Some(0));
        assert_eq!(search([None, Some(0.0)]).unwrap(), Some(1));
        let error = search([None, None]).unwrap_err().to_string();
        assert!(error.starts_with("cot diverges"), "{error}");
    }
}
