//! The objectives with continuous thoughts on the golden models: gradients through all thoughts.

use colar_engine::device::cpu::CpuDevice;
use colar_engine::device::prelude::*;
use colar_engine::model::ColarModel;
use colar_engine::model::params::{Grads, Param, Params};
use colar_engine::model::thoughts::{Projector, ProjectorConfig, Thoughts};
use colar_engine::model::weight_spec::{Group, Groups};
use colar_engine::train::thoughts::{
    Lesson, ThoughtBatch, ThoughtCounts, ThoughtExample, ThoughtObjective, ThoughtSums, begin, run,
};

use super::whole::{Both, both};

struct Setup {
    both: Both,
    batch: ThoughtBatch,
    thoughts: usize,
    objective: ThoughtObjective,
}

/// A golden model, with a projector and teachers if distilled, and three samples whose parts differ in length.
fn setup(name: &str, full: bool, thoughts: usize, distilled: bool) -> Setup {
    // One model's projector has the shape of CODI's.
    let codi = ProjectorConfig { intermediate_size: Some(24), norm: true };
    let shape = if name == "qwen2-tiny" { codi } else { ProjectorConfig::default() };
    let think_of = (thoughts, distilled, shape);
    fn think<D: Device>(
        device: &D,
        model: &mut ColarModel<D>,
        (count, distilled, shape): (usize, bool, ProjectorConfig),
    ) {
        let hidden = model.transformer.config.hidden_size;
        let new = |params: &mut Params<D>| Projector::random(device, params, hidden, shape, 5).unwrap();
        let projector = distilled.then(|| new(&mut model.params));
        model.thoughts = Some(Thoughts { count, projector });
    }
    let mut both = both(name, full);
    think(&both.device, &mut both.opened.model, think_of);
    think(&both.wide, &mut both.wide_opened.model, think_of);
    let opened = &both.opened;
    let ids = |text: &str| opened.tokenizer.encode(text).unwrap();
    let samples = [
        ("Question: 3 pens and 9 more?", "<<3+9=12>>", "12"),
        ("Question: Tom has 3 boxes with 24 pens each and gives 10 away.", "<<3*24=72>>\n<<72-10=62>>", "62"),
        ("7-2?", "", "5"),
    ];
    let mut batch = ThoughtBatch::new();
    for (question, steps, answer) in samples {
        let separator = opened.separator;
        let answer = [ids(&format!("Answer:{answer}")), vec![opened.eos.append]].concat();
        let in_words = [ids(&format!("{steps}###")), answer.clone()].concat();
        let question = [ids(question), vec![separator]].concat();
        let colon = ids("Answer:").len() - 1;
        let example = if distilled {
            let lesson = Lesson {
                teacher_colon: in_words.len() - answer.len() + colon,
                teacher_tail: in_words,
                student_colon: 1 + colon,
            };
            ThoughtExample { question, tail: [vec![separator], answer].concat(), distill: Some(lesson) }
        } else {
            ThoughtExample { question, tail: in_words, distill: None }
        };
        batch.push(&example).unwrap();
    }
    let objective = ThoughtObjective { student_weight: 0.9, teacher_weight: 0.6, distill_weight: 5.0 };
    Setup { both, batch, thoughts, objective }
}

/// The sum over `samples` samples of the mean over layers and hidden size of smooth-L1 (beta 1).
fn distances(student: &[Vec<f64>], teacher: &[Vec<f64>], samples: usize) -> f64 {
    let pairs = || student.iter().flatten().zip(teacher.iter().flatten());
    let sum: f64 =
        pairs().map(|(s, t)| s - t).map(|d| if d.abs() < 1.0 { 0.5 * d * d } else { d.abs() - 0.5 }).sum();
    sum * samples as f64 / pairs().count().max(1) as f64
}

impl Setup {
    /// Checks the gradients of these weights.
    fn check(self, trained: Groups) {
        self.check_selected(|p| trained.contains(p.group));
    }

    /// Checks the gradients of all weights that `trained` accepts.
    fn check_selected(self, trained: impl Fn(&Param<CpuDevice>) -> bool) {
        let Setup { mut both, batch, thoughts, objective } = self;
        let counts = ThoughtCounts::of([&batch]);
        let mut sums = ThoughtSums::default();
        let mut grads = Grads::selected(&both.device, &both.opened.model.params, trained).unwrap();
        let (device, model) = (&both.device, &both.opened.model);
        sums.add(&run(device, model, &objective, &batch, thoughts, counts, Some(&mut grads)).unwrap());
        assert_eq!(sums.counts, counts);
        // The teacher's states are constants to the student, so a finite difference must keep them fixed.
        let mut taught = None;
        both.wide.take_reads();
        both.check(sums.total(&objective), &grads, |wide, model| {
            let pending = begin(wide, model, &objective, &batch, thoughts, counts, None).unwrap();
            // The states that were compared: the teacher's layer by layer, then the student's.
            let mut teacher = wide.take_reads();
            let student = teacher.split_off(teacher.len() / 2);
            let teacher = taught.get_or_insert(teacher);
            let mut labels = pending.tensors().map(|losses| losses.values.iter().sum::<f64>());
            let sums = ThoughtSums {
                counts,
                student: labels.next().unwrap(),
                teacher: labels.next().unwrap_or(0.0),
                distill: distances(&student, teacher, counts.distill),
            };
            sums.total(&objective)
        });
    }
}

const ADAPTER: Groups = Groups::of(&[Group::Adapter, Group::Projector]);

/// All but the latent head, which these objectives do not touch.
const EVERY: Groups = Groups::ALL.without(Group::LatentHead);

#[test]
fn adapter_without_thoughts() {
    setup("llama-tiny", false, 0, false).check(ADAPTER);
}

#[test]
fn adapter_and_hidden_states_fed_back() {
    for thoughts in [1, 2, 6] {
        setup("llama-tiny", false, thoughts, false).check(ADAPTER);
    }
    setup("qwen2-tiny", false, 2, false).check(ADAPTER);
}

/// Where only a layer above the lowest is trained, gradients of thoughts still pass through all layers.
#[test]
fn one_layer_of_the_adapter() {
    setup("llama-tiny", false, 2, false)
        .check_selected(|p| p.name.contains("layers.1.self_attn.v_proj.lora"));
}

#[test]
fn every_weight_with_hidden_states_fed_back() {
    setup("llama-tiny", true, 2, false).check(EVERY);
    setup("qwen2-tiny", true, 6, false).check(EVERY);
}

#[test]
fn adapter_and_projector_distilled() {
    for thoughts in [1, 2, 6] {
        setup("llama-tiny", false, thoughts, true).check(ADAPTER);
    }
    setup("qwen2-tiny", false, 6, true).check(ADAPTER);
}

#[test]
fn every_weight_distilled() {
    setup("llama-tiny", true, 6, true).check(EVERY);
    setup("qwen2-tiny", true, 2, true).check(EVERY);
    setup("qwen3-tiny", true, 2, true).check(EVERY);
}

/// A layer that is run again, keys and values of earlier phases beside it, leaves the same bits.
#[test]
fn recomputed_layers() {
    for (name, full, distilled) in
        [("qwen2-tiny", false, false), ("qwen2-tiny", true, true), ("qwen3-tiny", true, false)]
    {
        let Setup { mut both, batch, thoughts, objective } = setup(name, full, 3, distilled);
        let trained = if full { EVERY } else { ADAPTER };
        let mut gradients = |recompute| {
            both.opened.model.transformer.recompute = recompute;
            let mut grads = both.grads(trained);
            let (device, model, counts) = (&both.device, &both.opened.model, ThoughtCounts::of([&batch]));
            run(device, model, &objective, &batch, thoughts, counts, Some(&mut grads)).unwrap();
            grads.tensors().iter().map(|grad| device.read(grad).unwrap()).collect::<Vec<_>>()
        };
        let kept = gradients(false);
        assert!(kept.iter().flatten().any(|&g| g != 0.0));
        assert_eq!(kept, gradients(true));
    }
}
