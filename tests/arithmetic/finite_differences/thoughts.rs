//! The objectives with continuous thoughts on the golden models: gradients through the whole chain.

use colar_engine::device::Device;
use colar_engine::device::cpu::CpuDevice;
use colar_engine::model::open::{Additions, Opened, open};
use colar_engine::model::params::{Grads, ParamId};
use colar_engine::model::thoughts::{Projector, Thoughts};
use colar_engine::train::thoughts::{
    Lesson, ThoughtBatch, ThoughtCounts, ThoughtExample, ThoughtLosses, ThoughtObjective, ThoughtSums, run,
    student_pass, teacher_pass,
};

use super::common::{Dir, golden, head_only};
use super::cpu;
use super::objective::check_slopes;

struct Setup {
    device: CpuDevice,
    opened: Opened<CpuDevice>,
    batch: ThoughtBatch,
    thoughts: usize,
    objective: ThoughtObjective,
}

/// A golden model, with a projector and teachers if distilled, and three samples whose parts differ in length.
fn setup(name: &str, full: bool, thoughts: usize, distilled: bool) -> Setup {
    let dir = golden(name);
    let device = cpu();
    let trained = move |n: &str| full || n.contains("lora");
    let checkpoint = if full { head_only(&dir) } else { Dir::Given(dir.join("adapter")) };
    let mut opened = open(&device, &dir, Some(checkpoint.path()), &Additions::default(), &trained).unwrap();
    let hidden = opened.model.transformer.config.hidden_size;
    let projector =
        distilled.then(|| Projector::random(&device, &mut opened.model.params, hidden, 5).unwrap());
    opened.model.thoughts = Some(Thoughts { count: thoughts, projector });
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
    Setup { device, opened, batch, thoughts, objective }
}

impl Setup {
    fn total(&self, losses: &ThoughtLosses) -> f64 {
        let mut sums = ThoughtSums::default();
        sums.add(losses);
        assert_eq!(sums.counts, self.counts());
        sums.total(&self.objective)
    }

    fn counts(&self) -> ThoughtCounts {
        ThoughtCounts::of([&self.batch])
    }

    /// The total where the teacher's states are those given.
    fn loss(&self, states: &[Vec<f32>]) -> f64 {
        let Setup { device, opened, batch, thoughts, objective } = self;
        let (model, counts) = (&opened.model, self.counts());
        let taught = teacher_pass(device, model, objective, batch, counts, None).unwrap();
        let losses = student_pass(device, model, objective, batch, *thoughts, counts, states, None).unwrap();
        self.total(&ThoughtLosses { teacher: taught.losses, ..losses })
    }

    /// Checks the gradients of all weights that `trained` names.
    fn check(mut self, trained: &dyn Fn(&str) -> bool) {
        let (model, counts) = (&self.opened.model, self.counts());
        let mut grads = Grads::new(&self.device, &model.params, trained).unwrap();
        let losses =
            run(&self.device, model, &self.objective, &self.batch, self.thoughts, counts, Some(&mut grads))
                .unwrap();
        // The teacher's states are constants to the student, so a finite difference must keep them fixed.
        let states =
            teacher_pass(&self.device, model, &self.objective, &self.batch, counts, None).unwrap().states;
        let total = self.total(&losses);
        assert!((self.loss(&states) - total).abs() < 1e-6 * total);
        let ids: Vec<ParamId> = grads.ids().collect();
        assert!(!ids.is_empty());
        for id in ids {
            let gradient = self.device.read(grads.get(id).unwrap()).unwrap();
            let name = self.opened.model.params.name(id).to_owned();
            let values = self.device.read(self.opened.model.params.get(id)).unwrap();
            let device = self.device.clone();
            check_slopes(&name, &values, &gradient, &vec![true; values.len()], |moved| {
                device.write(self.opened.model.params.get_mut(id), moved).unwrap();
                self.loss(&states)
            });
        }
    }
}

fn adapter(name: &str) -> bool {
    name.contains("lora") || name.contains("thought_projector")
}

/// All but the latent head, which these objectives do not touch.
fn every(name: &str) -> bool {
    !name.contains("latent_policy")
}

#[test]
fn adapter_without_thoughts() {
    setup("llama-tiny", false, 0, false).check(&adapter);
}

#[test]
fn adapter_and_hidden_states_fed_back() {
    for thoughts in [1, 2, 6] {
        setup("llama-tiny", false, thoughts, false).check(&adapter);
    }
    setup("qwen2-tiny", false, 2, false).check(&adapter);
}

/// Where only a layer above the lowest is trained, gradients of thoughts still pass through all layers.
#[test]
fn one_layer_of_the_adapter() {
    setup("llama-tiny", false, 2, false).check(&|name| name.contains("layers.1.self_attn.v_proj.lora"));
}

#[test]
fn every_weight_with_hidden_states_fed_back() {
    setup("llama-tiny", true, 2, false).check(&every);
    setup("qwen2-tiny", true, 6, false).check(&every);
}

#[test]
fn adapter_and_projector_distilled() {
    for thoughts in [1, 2, 6] {
        setup("llama-tiny", false, thoughts, true).check(&adapter);
    }
    setup("qwen2-tiny", false, 6, true).check(&adapter);
}

#[test]
fn every_weight_distilled() {
    setup("llama-tiny", true, 6, true).check(&every);
    setup("qwen2-tiny", true, 2, true).check(&every);
}

/// A layer that is run again, keys and values of earlier phases beside it, leaves the same bits.
#[test]
fn recomputed_layers() {
    for (full, distilled) in [(false, false), (true, true)] {
        let mut s = setup("qwen2-tiny", full, 3, distilled);
        let trained: &dyn Fn(&str) -> bool = if full { &every } else { &adapter };
        let mut gradients = |recompute| {
            let model = &mut s.opened.model;
            model.transformer.recompute = recompute;
            let mut grads = Grads::new(&s.device, &model.params, trained).unwrap();
            let counts = ThoughtCounts::of([&s.batch]);
            run(&s.device, model, &s.objective, &s.batch, s.thoughts, counts, Some(&mut grads)).unwrap();
            grads.tensors().iter().map(|grad| s.device.read(grad).unwrap()).collect::<Vec<_>>()
        };
        let kept = gradients(false);
        assert!(kept.iter().flatten().any(|&g| g != 0.0));
        assert_eq!(kept, gradients(true));
    }
}
