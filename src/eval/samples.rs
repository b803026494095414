//! Several answers to each question: whether one of k is right, what most of them say, and how right they are by how
//! long they thought.

use serde::Serialize;

use super::accuracy::Evaluation;
use super::stats::estimate;
use crate::data::Verifier;

/// An answer, as far as it counts here.
#[derive(Debug, Clone, PartialEq)]
struct Answer {
    text: Option<String>,
    right: bool,
    length: usize,
}

/// The answers of several runs over a data set, by question.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Samples {
    by_question: Vec<Vec<Answer>>,
}

/// A share of questions, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Share {
    /// The answers that it looks at.
    pub k: usize,
    /// The mean over questions.
    pub mean: f64,
    /// Half the width of its 95 % confidence interval over questions (Student's t); absent for one question.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ci: Option<f64>,
}

/// The answers of a range of reasoning lengths.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LengthBin {
    /// The shortest #L.
    pub from: usize,
    /// The longest.
    pub to: usize,
    /// Share of right answers.
    pub accuracy: f64,
    /// Answers.
    pub n: usize,
}

impl Samples {
    /// Adds the answers of a run, whose questions are those of the runs before.
    pub fn add(&mut self, run: &Evaluation) {
        self.by_question.resize(self.by_question.len().max(run.outcomes.len()), Vec::new());
        for (answers, o) in self.by_question.iter_mut().zip(&run.outcomes) {
            let g = &o.generation;
            answers.push(Answer { text: g.answer.clone(), right: o.correct, length: g.n_latents });
        }
    }

    /// The probability that one of `k` answers is right, unbiased: of n answers of which c are right,
    /// 1 − C(n − c, k) / C(n, k) (Chen et al., arXiv 2107.03374), mean over questions. `None` if a question has fewer
    /// than `k` answers.
    pub fn pass_at(&self, k: usize) -> Option<Share> {
        let of = |answers: &Vec<Answer>| {
            let (n, c) = (answers.len(), answers.iter().filter(|a| a.right).count());
            (k > 0 && k <= n).then(|| pass_at(n, c, k))
        };
        share(k, &self.by_question.iter().map(of).collect::<Option<Vec<_>>>()?)
    }

    /// Whether the answer that most of a question's answers agree in is right, mean over questions. Two answers are the
    /// same where `verifier` takes one for the other; texts without an answer have no vote; of answers that tie, each
    /// counts for its share.
    pub fn majority(&self, verifier: &dyn Verifier) -> Option<Share> {
        let k = self.by_question.iter().map(Vec::len).min()?;
        share(k, &self.by_question.iter().map(|answers| majority(answers, verifier)).collect::<Vec<_>>())
    }

    /// Accuracy by #L: the answers in at most `bins` ranges of lengths that hold about as many of them each. Answers
    /// of one length are in one range.
    pub fn by_length(&self, bins: usize) -> Vec<LengthBin> {
        let mut all: Vec<(usize, bool)> =
            self.by_question.iter().flatten().map(|a| (a.length, a.right)).collect();
        all.sort_unstable();
        let mut found = Vec::new();
        let mut start = 0;
        for bin in 1..=bins {
            let mut end = all.len() * bin / bins.max(1);
            while end > 0 && end < all.len() && all[end].0 == all[end - 1].0 {
                end += 1;
            }
            if end <= start {
                continue;
            }
            let part = &all[start..end];
            let right = part.iter().filter(|(_, right)| *right).count();
            found.push(LengthBin {
                from: part[0].0,
                to: part[part.len() - 1].0,
                accuracy: right as f64 / part.len() as f64,
                n: part.len(),
            });
            start = end;
        }
        found
    }
}

fn share(k: usize, values: &[f64]) -> Option<Share> {
    let e = estimate(values)?;
    Some(Share { k, mean: e.mean, ci: e.half_width })
}

/// 1 − C(n − c, k) / C(n, k), as a product that cannot overflow.
fn pass_at(n: usize, c: usize, k: usize) -> f64 {
    if n - c < k {
        return 1.0;
    }
    1.0 - (n - c + 1..=n).map(|i| 1.0 - k as f64 / i as f64).product::<f64>()
}

/// The share of right ones among the answers with most votes.
fn majority(answers: &[Answer], verifier: &dyn Verifier) -> f64 {
    // A candidate's text, its votes, and whether it is right.
    let mut candidates: Vec<(&str, usize, bool)> = Vec::new();
    for answer in answers {
        let Some(text) = answer.text.as_deref() else { continue };
        match candidates.iter_mut().find(|(candidate, ..)| verifier.is_correct(text, candidate)) {
            Some((_, votes, _)) => *votes += 1,
            None => candidates.push((text, 1, answer.right)),
        }
    }
    let most = candidates.iter().map(|(_, votes, _)| *votes).max().unwrap_or(0);
    let (mut right, mut tied) = (0, 0);
    for (_, _, is_right) in candidates.iter().filter(|(_, votes, _)| *votes == most) {
        tied += 1;
        right += usize::from(*is_right);
    }
    if tied == 0 { 0.0 } else { right as f64 / tied as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::verify::ExactMatch;

    fn answer(text: &str, right: bool, length: usize) -> Answer {
        Answer { text: (!text.is_empty()).then(|| text.to_owned()), right, length }
    }

    /// The share of the subsets of `k` of `n` answers, `c` of them right, that hold a right one, by counting.
    fn counted(n: usize, c: usize, k: usize) -> f64 {
        let of_size = (0u32..1 << n).filter(|set| set.count_ones() as usize == k);
        let (mut all, mut hit) = (0, 0);
        for set in of_size {
            all += 1;
            hit += u32::from(set & ((1 << c) - 1) != 0);
        }
        f64::from(hit) / f64::from(all)
    }

    #[test]
    fn pass_at_k_is_the_share_of_subsets_with_a_right_answer() {
        for n in 1..=8 {
            for c in 0..=n {
                for k in 1..=n {
                    let (got, want) = (pass_at(n, c, k), counted(n, c, k));
                    // Nine products of numbers below 1, each rounded once.
                    assert!((got - want).abs() < 1e-14, "n {n} c {c} k {k}: {got} {want}");
                }
            }
        }
        // Where factorials would overflow.
        assert!((pass_at(2000, 1, 1000) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn a_question_with_too_few_answers_has_no_pass_at_k() {
        let samples = Samples {
            by_question: vec![vec![answer("1", true, 1), answer("2", false, 1)], vec![answer("1", true, 1)]],
        };
        assert_eq!(samples.pass_at(2), None);
        assert_eq!(samples.pass_at(0), None);
        assert_eq!(samples.pass_at(1).map(|s| (s.mean, s.k)), Some((0.75, 1)));
        assert_eq!(Samples::default().pass_at(1), None);
    }

    #[test]
    fn the_majority_is_counted_by_the_verifier() {
        let of = |answers: &[Answer]| majority(answers, &ExactMatch);
        let (right, wrong, none) = (answer("72", true, 1), answer("71", false, 1), answer("", false, 1));
        let same = answer("72.0", true, 1);
        assert_eq!(of(&[wrong.clone(), right.clone(), same]), 1.0);
        assert_eq!(of(&[wrong.clone(), right.clone(), wrong.clone()]), 0.0);
        assert_eq!(of(&[wrong.clone(), right.clone()]), 0.5, "a tie");
        assert_eq!(of(&[none.clone(), none.clone(), right]), 1.0, "no answer has no vote");
        assert_eq!(of(&[none]), 0.0);
        assert_eq!(of(&[]), 0.0);
    }

    #[test]
    fn ranges_of_length_hold_like_numbers_of_answers() {
        let lengths = [3, 3, 3, 3, 5, 6, 7, 9];
        let answers = lengths.iter().map(|&length| vec![answer("1", length < 6, length)]).collect();
        let samples = Samples { by_question: answers };
        let bins = samples.by_length(2);
        assert_eq!(bins.iter().map(|b| (b.from, b.to, b.n)).collect::<Vec<_>>(), [(3, 3, 4), (5, 9, 4)]);
        assert_eq!((bins[0].accuracy, bins[1].accuracy), (1.0, 0.25));
        // A length is never split, and no range is empty.
        assert_eq!(samples.by_length(8).iter().map(|b| b.n).collect::<Vec<_>>(), [4, 1, 1, 1, 1]);
        assert_eq!(samples.by_length(1).len(), 1);
        assert!(samples.by_length(0).is_empty() && Samples::default().by_length(3).is_empty());
    }
}
