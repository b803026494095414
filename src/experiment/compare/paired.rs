//! Accuracies question by question: two models that were asked the same questions differ by less than their accuracies
//! vary, since what is hard for one is mostly hard for the other.

use std::collections::BTreeMap;

use serde::Serialize;

use super::side::Side;
use crate::eval::TableRow;
use crate::eval::predictions::Prediction;
use crate::eval::stats::estimate;
use crate::model::prompt::Method;

/// The answers of a side to a data set under a method and factor, and how they differ from those of the first side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Paired {
    /// The side, by its place.
    pub side: usize,
    /// The data set, where it has a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set: Option<String>,
    /// The method of reasoning, with its compression factor.
    pub label: String,
    /// Share of right answers, mean over questions of the mean over seeds.
    pub accuracy: f64,
    /// Half the width of its 95 % confidence interval over questions (Student's t).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy_ci: Option<f64>,
    /// Questions.
    pub n: usize,
    /// Against the first side; `None` for itself, and where it has no answers to the same questions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub against: Option<Against>,
}

/// The difference from the first side over the questions that both were asked.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Against {
    /// The label of what it is compared with.
    pub label: String,
    /// Mean over questions of the difference of their shares of right answers.
    pub difference: f64,
    /// Half the width of its 95 % confidence interval over questions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ci: Option<f64>,
    /// Questions that are more often right here, and there.
    pub better: usize,
    /// Questions that are less often right here.
    pub worse: usize,
    /// Questions that both were asked.
    pub n: usize,
}

/// Shares of right answers by question; a question is known by its place and its text.
type Shares<'a> = BTreeMap<(usize, &'a str), f64>;

/// Whether answers were right, by question.
type Answers<'a> = BTreeMap<(usize, &'a str), Vec<bool>>;

/// Answers of one data set, method and factor.
struct Group<'a> {
    set: Option<&'a str>,
    label: String,
    shares: Shares<'a>,
}

/// A row for every data set, method and factor of every side. A group is compared with that of the first side which
/// has its data set and label, or where none has its label, with the first of its data set.
pub fn paired(sides: &[Side]) -> Vec<Paired> {
    let groups: Vec<Vec<Group<'_>>> = sides.iter().map(|side| groups(&side.predictions)).collect();
    let Some((first, _)) = groups.split_first() else { return Vec::new() };
    let row = |side: usize, group: &Group<'_>| {
        let values: Vec<f64> = group.shares.values().copied().collect();
        let e = estimate(&values)?;
        let of_set = || first.iter().filter(|g| g.set == group.set);
        let base = of_set().find(|g| g.label == group.label).or_else(|| of_set().next());
        Some(Paired {
            side,
            set: group.set.map(str::to_owned),
            label: group.label.clone(),
            accuracy: e.mean,
            accuracy_ci: e.half_width,
            n: values.len(),
            against: if side == 0 { None } else { base.and_then(|base| against(group, base)) },
        })
    };
    groups
        .iter()
        .enumerate()
        .flat_map(|(side, all)| all.iter().filter_map(move |group| row(side, group)))
        .collect()
}

/// The answers by data set, method and factor, in their order.
fn groups(predictions: &[Prediction]) -> Vec<Group<'_>> {
    type Key<'a> = (Option<&'a str>, Method, &'a str);
    let mut found: Vec<(Key<'_>, Answers<'_>)> = Vec::new();
    for p in predictions {
        let key: Key<'_> = (p.set.as_deref(), p.method, &p.compression_factor);
        let at = found.iter().position(|(k, _)| *k == key).unwrap_or_else(|| {
            found.push((key, BTreeMap::new()));
            found.len() - 1
        });
        found[at].1.entry((p.index, p.question.as_str())).or_default().push(p.right);
    }
    let share = |right: &Vec<bool>| right.iter().filter(|&&r| r).count() as f64 / right.len() as f64;
    found
        .iter()
        .map(|((set, method, factor), questions)| Group {
            set: *set,
            label: TableRow::name_of(*method, false, factor),
            shares: questions.iter().map(|(question, right)| (*question, share(right))).collect(),
        })
        .collect()
}

fn against(group: &Group<'_>, base: &Group<'_>) -> Option<Against> {
    let both = group.shares.iter().filter_map(|(question, share)| Some(share - base.shares.get(question)?));
    let differences: Vec<f64> = both.collect();
    let e = estimate(&differences)?;
    Some(Against {
        label: base.label.clone(),
        difference: e.mean,
        ci: e.half_width,
        better: differences.iter().filter(|&&d| d > 0.0).count(),
        worse: differences.iter().filter(|&&d| d < 0.0).count(),
        n: differences.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prediction(index: usize, seed: u64, factor: &str, right: bool) -> Prediction {
        let method = if factor == "1" { "cot" } else { "colar" };
        serde_json::from_value(serde_json::json!({
            "index": index, "method": method, "cf": factor, "seed": seed, "question": format!("q{index}"), "gold": "1",
            "prediction": null, "right": right, "text": "", "finished": true, "n_latents": 1, "answer_tokens": 1,
            "prefill_ms": 0.0, "latents_ms": 0.0, "answer_ms": 0.0,
        }))
        .unwrap()
    }

    fn side(predictions: Vec<Prediction>) -> Side {
        Side { name: String::new(), config: None, records: None, predictions }
    }

    #[test]
    fn questions_are_paired() {
        let of = |right: &[bool], factor: &str| {
            right.iter().enumerate().map(|(i, &r)| prediction(i, 0, factor, r)).collect::<Vec<_>>()
        };
        let first = side(of(&[true, true, false, false], "2"));
        let second = side([of(&[true, true, true, false, true], "2"), of(&[false; 4], "1")].concat());
        let rows = paired(&[first, second]);
        assert_eq!(
            rows.iter().map(|r| (r.side, r.label.as_str(), r.accuracy, r.n)).collect::<Vec<_>>(),
            [(0, "CoLaR c = 2", 0.5, 4), (1, "CoLaR c = 2", 0.8, 5), (1, "CoT", 0.0, 4),]
        );
        assert_eq!(rows[0].against, None);
        let better = rows[1].against.as_ref().unwrap();
        // Of the questions that both were asked: 0, 0, 1, 0. t(0.975, 3) = 3.182446, s / √4 = 0.25.
        assert_eq!((better.difference, better.better, better.worse, better.n), (0.25, 1, 0, 4));
        assert!((better.ci.unwrap() - 3.182_446_305 * 0.25).abs() < 1e-7);
        // CoT is in the second alone, and compared with what the first has.
        let worse = rows[2].against.as_ref().unwrap();
        assert_eq!((worse.label.as_str(), worse.difference, worse.worse), ("CoLaR c = 2", -0.5, 2));
    }

    #[test]
    fn seeds_are_one_question() {
        let two = |a, b| side(vec![prediction(0, 0, "2", a), prediction(0, 1, "2", b)]);
        let rows = paired(&[two(true, false), two(true, true)]);
        assert_eq!((rows[0].accuracy, rows[0].n), (0.5, 1));
        assert_eq!(rows[1].against.as_ref().map(|a| (a.difference, a.better)), Some((0.5, 1)));
        assert!(paired(&[]).is_empty() && paired(&[side(Vec::new())]).is_empty());
        // Other questions under the same numbers are no pairs.
        let mut other = two(true, true);
        other.predictions.iter_mut().for_each(|p| p.question = "another".into());
        assert_eq!(paired(&[two(true, true), other])[1].against, None);
    }
}
