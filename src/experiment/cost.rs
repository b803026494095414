//! The cost of a comparison at another scale: operations and bytes, counted from the shape of a model and the lengths
//! of its samples. Nothing is timed; only [`Totals::hours`] turns operations into time, by an assumed speed.
//!
//! The count covers the products of matrices: the linear layers, their adapters, attention (scores and their use, each
//! position with itself and those before it), the vocabulary at labelled positions, latent head and projector. A
//! product of `m × k` by `k × n` is `2·m·k·n` operations. The backward pass repeats each product once for the gradient
//! of its input, and once more for that of its weights where these are trained; attention has two operands that
//! both need one. Norms, rotations, activations, look-ups and the optimiser are left out: together they are under
//! one percent at these widths.

use serde::Serialize;

use crate::data::Sample;
use crate::data::answer::ANSWER_MARK;
use crate::model::adapter::LoraTarget;
use crate::model::block::Projection;
use crate::model::config::ModelConfig;
use crate::model::latent_head::LatentHeadConfig;
use crate::model::operations;
use crate::model::prompt::{Method, SEPARATOR, question_text};
use crate::model::thoughts::ProjectorConfig;
use crate::model::tokenizer::Tokenizer;
use crate::model::weight_spec::{Role, WeightSpec};
use crate::train::defaults::{C_MAX, STAGES, THOUGHTS, THOUGHTS_PER_STEP};
use crate::{Error, Result};

/// Tokens of a sample's parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lengths {
    /// The question with the prompt around it, without the separator after it.
    pub question: usize,
    /// Each step, with the line end after it but for the last.
    pub steps: Vec<usize>,
    /// `Answer:`, the answer, and the end of sequence.
    pub answer: usize,
}

impl Lengths {
    /// The lengths assumed for GSM8k-Aug under Llama's tokenizer: a question of 60 tokens in a prompt of 15, three
    /// steps of 9 tokens, an answer of 4.
    pub fn assumed() -> Self {
        Lengths { question: 75, steps: vec![9, 9, 9], answer: 4 }
    }

    /// The lengths of a sample.
    ///
    /// # Errors
    /// Errors of the tokenizer.
    pub fn of(sample: &Sample, tokenizer: &Tokenizer) -> Result<Self> {
        let tokens = |text: &str| Ok::<_, Error>(tokenizer.encode(text)?.len());
        let last = sample.steps.len().saturating_sub(1);
        let steps = sample.steps.iter().enumerate();
        Ok(Lengths {
            question: tokens(&question_text(&sample.question, "1"))?,
            steps: steps
                .map(|(i, step)| if i < last { tokens(&format!("{step}\n")) } else { tokens(step) })
                .collect::<Result<_>>()?,
            answer: tokens(&format!("{ANSWER_MARK}{}", sample.answer))? + 1,
        })
    }

    /// Tokens of the steps from number `from` on.
    fn steps_from(&self, from: usize) -> usize {
        self.steps.iter().skip(from).sum()
    }
}

/// The length of [`SEPARATOR`], which must be one token.
const SEP: usize = 1;

/// The sequences that a sample becomes over a run of a method with the defaults of `train`: each an equal share of the
/// run, in sets that are run together.
fn sequences(method: Method, l: &Lengths) -> Vec<Vec<Sequence>> {
    let all = l.steps_from(0);
    let written = |steps: usize| {
        let tail = SEP + steps + SEP + l.answer;
        Sequence { positions: l.question + tail, labelled: tail, ..Sequence::default() }
    };
    // The steps left in stage s; in the last stage none, however many there were.
    let left = |stage: usize| if stage < STAGES { l.steps_from(stage) } else { 0 };
    match method {
        Method::Cot => vec![vec![written(all)]],
        Method::Icot => (1..=STAGES).map(|stage| vec![written(left(stage))]).collect(),
        Method::Coconut => (1..=STAGES)
            .map(|stage| {
                let (base, thoughts) = (written(left(stage)), THOUGHTS_PER_STEP * stage);
                vec![Sequence { positions: base.positions + thoughts, thoughts, ..base }]
            })
            .collect(),
        Method::Distill => {
            let student = written(0);
            let positions = student.positions + THOUGHTS;
            let student = Sequence { positions, thoughts: THOUGHTS, projected: THOUGHTS, ..student };
            vec![vec![written(all), student]]
        }
        Method::Colar => (1..=C_MAX)
            .map(|c| {
                let base = written(all.div_ceil(c));
                vec![Sequence { latents: SEP + all.div_ceil(c), ..base }]
            })
            .collect(),
    }
}

/// Positions of a sequence in training.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sequence {
    /// All positions.
    positions: usize,
    /// Positions whose next token is a label.
    labelled: usize,
    /// Positions that predict a latent.
    latents: usize,
    /// Positions of thoughts, which wait for the hidden state of the one before.
    thoughts: usize,
    /// Thoughts that go through a projector.
    projected: usize,
}

/// The model and the training setup to count for.
#[derive(Debug, Clone)]
pub struct Scale {
    /// The model.
    pub model: ModelConfig,
    /// Rank of the adapter.
    pub lora_r: usize,
    /// Adapted projections.
    pub lora_targets: Vec<LoraTarget>,
    /// Inner width of the latent head.
    pub head_size: usize,
    /// Samples of an update that are in memory together.
    pub batch_size: usize,
}

/// Floating-point operations of a forward and a backward pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Operations {
    /// The frozen linear layers.
    pub linear: f64,
    /// The adapters.
    pub adapter: f64,
    /// Attention.
    pub attention: f64,
    /// The output over the vocabulary.
    pub vocabulary: f64,
    /// Latent head or projector.
    pub head: f64,
}

impl Operations {
    /// All together.
    pub fn total(&self) -> f64 {
        self.linear + self.adapter + self.attention + self.vocabulary + self.head
    }

    fn add(&mut self, other: &Operations, times: f64) {
        self.linear += times * other.linear;
        self.adapter += times * other.adapter;
        self.attention += times * other.attention;
        self.vocabulary += times * other.vocabulary;
        self.head += times * other.head;
    }
}

/// The cost of a method.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Totals {
    /// The method.
    pub method: Method,
    /// Positions of a sample, mean over samples and the run.
    pub positions: f64,
    /// Operations of a sample, mean likewise.
    pub operations: Operations,
    /// Forward passes of an update that wait for each other, mean over the run.
    pub passes_in_sequence: f64,
    /// Trained weights.
    pub trained: usize,
    /// Bytes of an update; see [`Scale::totals`].
    pub bytes: f64,
}

impl Totals {
    /// Hours of a device that performs `peak` operations a second at best and `share` of them on average.
    pub fn hours(&self, samples: f64, peak: f64, share: f64) -> f64 {
        samples * self.operations.total() / (peak * share) / 3600.0
    }
}

impl Scale {
    /// Weights of the linear layers of all layers.
    fn linear_weights(&self) -> usize {
        let layer: usize = self.model.block().projections().into_iter().map(Projection::elements).sum();
        self.model.num_hidden_layers * layer
    }

    /// Weights of the adapters.
    fn adapter_weights(&self) -> usize {
        let adapted = self.lora_targets.iter().map(|&target| self.model.projection(target));
        self.model.num_hidden_layers * adapted.map(|p| p.adapter_elements(self.lora_r)).sum::<usize>()
    }

    /// Weights of the matrices of the latent head.
    fn head_weights(&self) -> usize {
        let head = LatentHeadConfig { intermediate_size: self.head_size, deterministic: false };
        matrices(&head.weights(self.model.hidden_size))
    }

    /// Weights of the matrices of the projector.
    fn projector_weights(&self) -> usize {
        matrices(&ProjectorConfig::default().weights(self.model.hidden_size))
    }

    fn operations(&self, s: &Sequence) -> Operations {
        let c = &self.model;
        let product = |rows: usize, weights: usize| operations::product(rows, weights as u64) as f64;
        // Times 2: forward, and the gradient of the input; times 3: that of the weights too.
        Operations {
            linear: 2.0 * product(s.positions, self.linear_weights()),
            adapter: 3.0 * product(s.positions, self.adapter_weights()),
            attention: 3.0
                * c.num_hidden_layers as f64
                * operations::attention(c.q_size(), s.positions) as f64,
            vocabulary: 2.0 * product(s.labelled, c.hidden_size * c.vocab_size),
            head: 3.0
                * (product(s.latents, self.head_weights()) + product(s.projected, self.projector_weights())),
        }
    }

    /// Bytes kept for the backward pass, and the logits.
    ///
    /// A position keeps, in bfloat16, the numbers that every layer keeps of a row and of its keys and values. A
    /// labelled one keeps its logits in float32, which become their gradient.
    fn activation_bytes(&self, s: &Sequence) -> f64 {
        let c = &self.model;
        let layer = c.kept_of_row(true) + c.kept_of_key();
        let positions = 2.0 * (s.positions * c.num_hidden_layers * layer) as f64;
        positions + 4.0 * (s.labelled * c.vocab_size) as f64
    }

    /// The cost of a method on samples of these lengths, at least one.
    ///
    /// Bytes are those of the frozen weights in bfloat16 (2 each), of the trained ones with gradient and two moments
    /// in float32 (16 each), and of the activations of `batch_size` mean samples, packed without padding, in the
    /// stage of the run that has most of them. A fragmented memory and the runtime's own come on top.
    ///
    /// # Errors
    /// [`Error::Usage`] without samples.
    pub fn totals(&self, method: Method, samples: &[Lengths]) -> Result<Totals> {
        if samples.is_empty() {
            return Err(Error::usage("there are no samples to count"));
        }
        let mut operations = Operations::default();
        // Counted whole and divided once: a mean of equal numbers is that number.
        let (mut positions, mut sequential, mut parts) = (0, 0, 0);
        let mut stage_bytes = Vec::new();
        for lengths in samples {
            let stages = sequences(method, lengths);
            let share = 1.0 / (stages.len() * samples.len()) as f64;
            parts += stages.len();
            stage_bytes.resize(stages.len(), 0.0);
            for (stage, together) in stages.iter().enumerate() {
                for s in together {
                    positions += s.positions;
                    operations.add(&self.operations(s), share);
                    sequential += 1 + s.thoughts;
                    stage_bytes[stage] += self.activation_bytes(s) / samples.len() as f64;
                }
            }
        }
        let own = match method {
            Method::Colar => self.head_weights(),
            Method::Distill => self.projector_weights(),
            _ => 0,
        };
        let trained = self.adapter_weights() + own;
        let most = stage_bytes.into_iter().fold(0.0, f64::max);
        let bytes =
            2.0 * self.model.num_parameters() as f64 + 16.0 * trained as f64 + self.batch_size as f64 * most;
        // Samples of a method all have the same number of stages.
        let mean = |sum: usize| sum as f64 / parts as f64;
        let (positions, passes_in_sequence) = (mean(positions), mean(sequential));
        Ok(Totals { method, positions, operations, passes_in_sequence, trained, bytes })
    }
}

/// Elements of the matrices among weights.
fn matrices(weights: &[WeightSpec]) -> usize {
    weights.iter().filter(|w| w.role == Role::Matrix).map(WeightSpec::numel).sum()
}

/// Fails where the separator is not the single token that is counted for it.
///
/// # Errors
/// Errors of [`Tokenizer::separator`].
pub fn check_separator(tokenizer: &Tokenizer) -> Result<()> {
    tokenizer.separator(SEPARATOR).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::presets::Preset;

    /// 2 layers of width 8, inner 12, 2 query heads and 1 key-value head of width 4, 10 words.
    fn small() -> Scale {
        let model = ModelConfig {
            hidden_size: 8,
            intermediate_size: 12,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            head_dim: 4,
            vocab_size: 10,
            ..Preset::Tiny.config()
        };
        let lora_targets = vec![LoraTarget::QProj, LoraTarget::VProj];
        Scale { model, lora_r: 2, lora_targets, head_size: 6, batch_size: 3 }
    }

    fn sample() -> Lengths {
        Lengths { question: 5, steps: vec![3, 2], answer: 2 }
    }

    fn positions(method: Method) -> Vec<Vec<(usize, usize)>> {
        let sequences = sequences(method, &sample());
        sequences.iter().map(|set| set.iter().map(|s| (s.positions, s.labelled)).collect()).collect()
    }

    #[test]
    fn sequences_by_hand() {
        // 5 question, ###, 3 + 2 steps, ###, 2 answer.
        assert_eq!(positions(Method::Cot), [[(14, 9)]]);
        // One step of 2 left, none, none.
        assert_eq!(positions(Method::Icot), [[(11, 6)], [(9, 4)], [(9, 4)]]);
        assert_eq!(positions(Method::Coconut), [[(13, 6)], [(13, 4)], [(15, 4)]]);
        assert_eq!(positions(Method::Distill), [[(14, 9), (15, 4)]]);
        // 5, 3, 2, 2, 1 chunks of the steps.
        let colar: Vec<usize> = positions(Method::Colar).iter().map(|set| set[0].0).collect();
        assert_eq!(colar, [14, 12, 11, 11, 10]);
        let latents: Vec<usize> =
            sequences(Method::Colar, &sample()).iter().map(|set| set[0].latents).collect();
        assert_eq!(latents, [6, 4, 3, 3, 2]);
    }

    #[test]
    fn operations_by_hand() {
        let scale = small();
        // A layer: q 8·8, k and v 8·4 each, o 8·8, gate, up and down 8·12 each.
        assert_eq!(scale.linear_weights(), 2 * (64 + 32 + 32 + 64 + 3 * 96));
        // q: 2·(8 + 8), v: 2·(8 + 4).
        assert_eq!(scale.adapter_weights(), 2 * (32 + 24));
        // 8·6 + 6·6, and 6·8 for mean and deviation.
        assert_eq!(scale.head_weights(), 48 + 36 + 96);
        let cot = scale.totals(Method::Cot, &[sample()]).unwrap();
        let o = cot.operations;
        assert_eq!(o.linear, 2.0 * 2.0 * 14.0 * 960.0);
        assert_eq!(o.adapter, 3.0 * 2.0 * 14.0 * 112.0);
        // 105 pairs, 2 layers, width 8, 2 products of 2 operations, three times.
        assert_eq!(o.attention, 3.0 * 105.0 * 2.0 * 8.0 * 4.0);
        assert_eq!(o.vocabulary, 2.0 * 2.0 * 9.0 * 80.0);
        assert_eq!(o.head, 0.0);
        assert_eq!(o.total(), 53_760.0 + 9_408.0 + 20_160.0 + 2_880.0);
        assert_eq!((cot.positions, cot.passes_in_sequence), (14.0, 1.0));

        let colar = scale.totals(Method::Colar, &[sample()]).unwrap();
        assert!((colar.positions - 58.0 / 5.0).abs() < 1e-12);
        assert!((colar.operations.head - 3.0 * 2.0 * 180.0 * 18.0 / 5.0).abs() < 1e-9);
        assert_eq!(colar.trained, 112 + 180);
        let distill = scale.totals(Method::Distill, &[sample()]).unwrap();
        assert_eq!(distill.operations.head, 3.0 * 2.0 * 6.0 * 128.0);
        assert_eq!((distill.positions, distill.passes_in_sequence), (29.0, 8.0));
        assert_eq!(scale.totals(Method::Coconut, &[sample()]).unwrap().passes_in_sequence, 5.0);
    }

    #[test]
    fn bytes_by_hand() {
        let scale = small();
        let cot = scale.totals(Method::Cot, &[sample()]).unwrap();
        let layer = 4 * 8 + 2 * (8 + 4) + 3 * 12;
        let activations = 2 * 14 * 2 * layer + 4 * 9 * 10;
        let weights = 2 * scale.model.num_parameters() as usize + 16 * 112;
        assert_eq!(cot.bytes, (weights + 3 * activations) as f64);
    }

    #[test]
    fn samples_are_averaged_and_their_order_does_not_matter() {
        let scale = small();
        let long = Lengths { question: 9, steps: vec![4, 4, 4, 4], answer: 3 };
        for kind in Method::ALL {
            let alone = |l: &Lengths| scale.totals(kind, std::slice::from_ref(l)).unwrap();
            let both = scale.totals(kind, &[sample(), long.clone()]).unwrap();
            let mean = 0.5 * (alone(&sample()).operations.total() + alone(&long).operations.total());
            assert!((both.operations.total() - mean).abs() < 1e-6 * mean, "{kind:?}");
        }
        assert!(scale.totals(Method::Cot, &[]).is_err());
        // A mean of ones is one, however many there are.
        let many = vec![sample(); 7473];
        assert_eq!(scale.totals(Method::Icot, &many).unwrap().passes_in_sequence, 1.0);
        assert_eq!(scale.totals(Method::Coconut, &many).unwrap().passes_in_sequence, 5.0);
    }

    /// The usual estimate for a large model: two operations a weight and position forward, as many backward where
    /// weights are frozen.
    #[test]
    fn a_model_of_a_billion_is_near_the_rule_of_thumb() {
        let model = Preset::Llama32_1b.config();
        let weights = model.num_parameters() as f64;
        let lora_targets = vec![LoraTarget::QProj, LoraTarget::VProj];
        let scale = Scale { model, lora_r: 128, lora_targets, head_size: 2048, batch_size: 32 };
        let cot = scale.totals(Method::Cot, &[Lengths::assumed()]).unwrap();
        let rule = 4.0 * weights * cot.positions;
        assert!((cot.operations.total() / rule - 1.0).abs() < 0.15, "{}", cot.operations.total() / rule);
        let hours = cot.hours(3600.0, cot.operations.total(), 0.5);
        assert!((hours - 2.0).abs() < 1e-9);
    }
}
