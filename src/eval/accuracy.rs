//! Accuracy and reasoning length over a data set: the two figures of the paper's table 1.
//!
//! Questions of similar length share a batch, so that one long prompt does not size the cache of many
//! short ones. The answer to a question must not depend on that: its draws are keyed by the evaluation's
//! seed and its own place in the data set ([`sample_seed`]), so neither the batch size nor the order
//! of the batches moves a figure.

use crate::data::{AnswerRule, Sample, Verifier, VerifierKind};
use crate::device::Device;
use crate::infer::{Generation, Loaded, Prompt, Request, Sampling};
use crate::model::prompt::{DEFAULT_COMPRESSION_FACTOR, Method};
use crate::random::Philox;
use crate::{Error, Result};

/// The compression factors of a table where none are chosen, as the paper's table 1 has them.
pub const COMPRESSION_FACTORS: [&str; 3] = ["1", "2", "5"];

/// Settings of an evaluation.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct EvalOptions {
    /// The method of reasoning.
    pub method: Method,
    /// The compression factor that prompts state, as text (an integer, a fraction or `auto`), or the one that
    /// [`Method::fixed_compression_factor`] gives.
    pub compression_factor: String,
    /// Sampling settings; the seed is the evaluation's, from which every question's own is derived.
    pub sampling: Sampling,
    /// Questions that run together; at least 1.
    pub batch_size: usize,
    /// The verifier that judges answers.
    pub verifier: VerifierKind,
    /// Which part of a generated text is its answer.
    pub answer_rule: AnswerRule,
}

setters!(EvalOptions {
    method: Method,
    sampling: Sampling,
    batch_size: usize,
    verifier: VerifierKind,
    answer_rule: AnswerRule,
});
setters!(EvalOptions into { compression_factor: String });

impl Default for EvalOptions {
    fn default() -> Self {
        EvalOptions {
            method: Method::Colar,
            compression_factor: DEFAULT_COMPRESSION_FACTOR.to_owned(),
            sampling: Sampling::default(),
            batch_size: 32,
            verifier: VerifierKind::default(),
            answer_rule: AnswerRule::default(),
        }
    }
}

/// One question with the generation that answered it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Outcome {
    /// The question as asked.
    pub question: String,
    /// The gold answer.
    pub gold: String,
    /// The model's generation.
    pub generation: Generation,
    /// Whether its answer is the gold one by [`EvalOptions::verifier`]; false without an answer.
    pub correct: bool,
}

/// The figures of one run over a data set.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Evaluation {
    /// Questions.
    pub n: usize,
    /// Questions answered correctly.
    pub correct: usize,
    /// `correct / n`, from 0 to 1.
    pub accuracy: f64,
    /// Mean reasoning length #L: latents, thoughts and tokens of reasoning text.
    pub mean_length: f64,
    /// The same over correctly answered questions; `None` where there are none.
    pub mean_length_correct: Option<f64>,
    /// Mean tokens of the answer, the end of sequence included.
    pub mean_answer_tokens: f64,
    /// Share of answers that a limit ended and not the model, from 0 to 1.
    pub unfinished: f64,
    /// Every question, in the order of the data set.
    pub outcomes: Vec<Outcome>,
}

/// Word 2 of the counter under which questions' seeds are drawn.
const PURPOSE: u32 = 0x20;

/// The seed of question `index` in a run of seed `seed`: words 0 and 1 of the Philox block at
/// `[index, index >> 32, 0x20, 0]`.
pub fn sample_seed(seed: u64, index: usize) -> u64 {
    let index = index as u64;
    let [low, high, ..] = Philox::new(seed).block([index as u32, (index >> 32) as u32, PURPOSE, 0]);
    u64::from(low) | u64::from(high) << 32
}

/// Tokens of every question's prompt.
///
/// # Errors
/// Those with which [`evaluate`] would end before its first batch.
pub fn prompt_tokens<D: Device>(
    loaded: &Loaded<D>,
    samples: &[Sample],
    options: &EvalOptions,
) -> Result<Vec<usize>> {
    if samples.is_empty() {
        return Err(Error::usage("there is nothing to evaluate: the data set is empty"));
    }
    if options.batch_size == 0 {
        return Err(Error::usage("the batch size must be at least 1"));
    }
    if !loaded.escape_marks {
        loaded.opened.marks.check_questions(samples)?;
    }
    let tokens = |(i, sample)| loaded.prompt_tokens(&request(sample, i, options));
    samples.iter().enumerate().map(tokens).collect()
}

/// Answers every question of `samples` and counts; `progress` hears how many are done after each batch, and ends the
/// evaluation by an error.
///
/// # Errors
/// [`Error::Usage`] for an empty data set, a batch size of 0, sampling values out of range or a question that holds
/// a mark of the prompt or leaves no room within the model's positions; a method that the model has no head for; and errors
/// of the device.
pub fn evaluate<D: Device>(
    loaded: &Loaded<D>,
    samples: &[Sample],
    options: &EvalOptions,
    progress: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Evaluation> {
    // A sample that one of the batches would fail by is found before the first batch.
    let lengths = prompt_tokens(loaded, samples, options)?;
    let mut order: Vec<usize> = (0..samples.len()).collect();
    order.sort_by_key(|&i| lengths[i]);
    let verifier = options.verifier.verifier();
    let mut outcomes: Vec<Option<Outcome>> = vec![None; samples.len()];
    let mut done = 0;
    for batch in order.chunks(options.batch_size) {
        let requests: Vec<Request> = batch.iter().map(|&i| request(&samples[i], i, options)).collect();
        let generations = loaded.generate(&requests, &mut |_| ())?;
        for (&i, generation) in batch.iter().zip(generations) {
            outcomes[i] = Some(judge(&samples[i], generation, verifier.as_ref(), options.answer_rule));
        }
        done += batch.len();
        progress(done)?;
    }
    Ok(Evaluation::of(outcomes.into_iter().flatten().collect()))
}

fn request(sample: &Sample, index: usize, options: &EvalOptions) -> Request {
    Request {
        prompt: Prompt::Question {
            text: sample.question.clone(),
            method: options.method,
            compression_factor: options.compression_factor.clone(),
        },
        sampling: Sampling { seed: sample_seed(options.sampling.seed, index), ..options.sampling },
        trace: false,
        adapter: None,
    }
}

fn judge(sample: &Sample, mut generation: Generation, verifier: &dyn Verifier, rule: AnswerRule) -> Outcome {
    generation.answer = rule.extract(&generation.text).map(str::to_owned);
    let gold = rule.gold(&sample.answer);
    let correct = generation.answer.as_deref().is_some_and(|a| verifier.is_correct(a, gold));
    Outcome { question: sample.question.clone(), gold: sample.answer.clone(), generation, correct }
}

impl Evaluation {
    /// The figures of these outcomes; all means of none are 0.
    pub fn of(outcomes: Vec<Outcome>) -> Self {
        let n = outcomes.len();
        let mean = |sum: usize, count: usize| sum as f64 / count.max(1) as f64;
        let (mut correct, mut length, mut length_correct, mut answer, mut unfinished) = (0, 0, 0, 0, 0);
        for o in &outcomes {
            correct += usize::from(o.correct);
            length += o.generation.n_latents;
            length_correct += if o.correct { o.generation.n_latents } else { 0 };
            answer += o.generation.answer_tokens;
            unfinished += usize::from(!o.generation.finished);
        }
        Evaluation {
            n,
            correct,
            accuracy: mean(correct, n),
            mean_length: mean(length, n),
            mean_length_correct: (correct > 0).then(|| mean(length_correct, correct)),
            mean_answer_tokens: mean(answer, n),
            unfinished: mean(unfinished, n),
            outcomes,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::data::verify::ExactMatch;
    use crate::device::cpu::CpuDevice;

    fn sample(question: &str, answer: &str) -> Sample {
        Sample {
            question: question.to_owned(),
            steps: vec!["<<1+1=2>>".to_owned()],
            answer: answer.to_owned(),
        }
    }

    fn model() -> Loaded<CpuDevice> {
        let dir: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/llama-tiny");
        Loaded::new(CpuDevice::new(2).unwrap(), &dir, Some(&dir.join("adapter"))).unwrap()
    }

    #[test]
    fn counts_and_means() {
        let exact: &dyn Verifier = &ExactMatch;
        let outcomes = vec![
            judge(&sample("a", "14"), Generation::saying("Answer:14.0", 4, 3), exact, AnswerRule::Last),
            judge(&sample("b", "14"), Generation::saying("Answer:15", 7, 3), exact, AnswerRule::Last),
            judge(&sample("c", "1,000"), Generation::saying("Answer: 1000.", 6, 6), exact, AnswerRule::Last),
            // The right number without the mark is no answer.
            judge(
                &sample("d", "14"),
                Generation { finished: false, ..Generation::saying("14", 1, 4) },
                exact,
                AnswerRule::Last,
            ),
        ];
        let e = Evaluation::of(outcomes);
        assert_eq!((e.n, e.correct), (4, 2));
        assert_eq!(e.accuracy, 0.5);
        assert_eq!(e.mean_length, 4.5);
        assert_eq!(e.mean_length_correct, Some(5.0));
        assert_eq!(e.mean_answer_tokens, 4.0);
        assert_eq!(e.unfinished, 0.25);
        let none = Evaluation::of(vec![judge(
            &sample("a", "1"),
            Generation::saying("Answer:2", 3, 2),
            exact,
            AnswerRule::Last,
        )]);
        assert_eq!(none.mean_length_correct, None);
    }

    /// By the authors' rule a text without the mark is all answer, and what follows a second mark counts for nothing.
    #[test]
    fn the_answer_rule_decides() {
        for (text, gold, last, paper) in [
            ("14", "14", false, true),
            ("Answer:15 Answer:14", "14", true, false),
            ("Answer:14", "Answer: 14", true, true),
        ] {
            for (rule, correct) in [(AnswerRule::Last, last), (AnswerRule::Paper, paper)] {
                let judged = judge(&sample("a", gold), Generation::saying(text, 1, 1), &ExactMatch, rule);
                assert_eq!(judged.correct, correct, "{text} {gold} {rule:?}");
            }
        }
    }

    #[test]
    fn the_verifier_decides() {
        for (kind, correct) in [(VerifierKind::Exact, false), (VerifierKind::Math, true)] {
            let judged = |text: &str| {
                let said = Generation::saying(text, 1, 1);
                judge(&sample("a", r"\frac{1}{2}"), said, kind.verifier().as_ref(), AnswerRule::Last).correct
            };
            assert_eq!(judged("Answer: 0.50 cm"), correct);
            assert!(!judged("Answer: 0.51"));
            assert!(!judged("1/2"), "no mark, no answer");
        }
    }

    #[test]
    fn seeds_differ_by_sample_and_by_run() {
        let mut seeds: Vec<u64> = (0..4).flat_map(|run| (0..100).map(move |i| sample_seed(run, i))).collect();
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), 400);
    }

    /// Sampling with every temperature on, so that a seed that followed the batch would show.
    #[test]
    fn neither_batch_size_nor_order_of_lengths_moves_a_result() {
        let loaded = model();
        let samples: Vec<Sample> = ["Tom has 3 boxes with 24 pens each.", "1+1?", "A shop has 12 apples."]
            .iter()
            .cycle()
            .take(7)
            .map(|q| sample(q, "2"))
            .collect();
        let run = |batch_size| {
            let sampling = Sampling {
                max_latents: 6,
                max_new_tokens: 6,
                separator_bias: 2.0,
                seed: 3,
                ..Sampling::default()
            };
            let options = EvalOptions {
                method: Method::Colar,
                compression_factor: "2".to_owned(),
                sampling,
                batch_size,
                ..EvalOptions::default()
            };
            let mut heard = Vec::new();
            let e = evaluate(&loaded, &samples, &options, &mut |done| {
                heard.push(done);
                Ok(())
            })
            .unwrap();
            assert_eq!(heard.last(), Some(&7));
            e.outcomes
                .into_iter()
                .map(|o| (o.question, o.generation.n_latents, o.generation.token_ids))
                .collect::<Vec<_>>()
        };
        let alone = run(1);
        assert_eq!(alone.len(), 7);
        assert!(alone.iter().zip(&samples).all(|(o, s)| o.0 == s.question));
        // The same question at another place draws anew.
        assert_ne!((alone[0].1, &alone[0].2), (alone[3].1, &alone[3].2));
        assert_eq!(alone, run(3));
        assert_eq!(alone, run(100));

        let mut batches = 0;
        let options = EvalOptions {
            method: Method::Colar,
            compression_factor: "2".to_owned(),
            sampling: Sampling::default(),
            batch_size: 3,
            ..EvalOptions::default()
        };
        let ended = evaluate(&loaded, &samples, &options, &mut |_| {
            batches += 1;
            Err(Error::Interrupted { step: 5 })
        });
        assert!(matches!(ended, Err(Error::Interrupted { step: 5 })));
        assert_eq!(batches, 1);
    }

    #[test]
    fn nothing_to_evaluate_is_an_error() {
        let loaded = model();
        let options = EvalOptions {
            method: Method::Colar,
            compression_factor: "2".to_owned(),
            sampling: Sampling::default(),
            batch_size: 0,
            ..EvalOptions::default()
        };
        assert!(evaluate(&loaded, &[], &options, &mut |_| Ok(())).is_err());
        assert!(evaluate(&loaded, &[sample("q", "1")], &options, &mut |_| Ok(())).is_err());
    }
}
