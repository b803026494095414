//! Implicit chain of thought, Coconut and distillation against their rendering in plain PyTorch
//! (tests/thoughts/reference.py): losses, hidden states and every gradient, in float32.

use std::path::PathBuf;

use colar_engine::device::cpu::CpuDevice;
use colar_engine::device::prelude::*;
use colar_engine::device::{Dtype, LatentLoss};
use colar_engine::files::weights::Weights;
use colar_engine::model::merge::Merge;
use colar_engine::model::open::{Additions, Opened, open};
use colar_engine::model::params::Grads;
use colar_engine::model::prompt::{Method, Segments};
use colar_engine::model::thoughts::{Projector, ProjectorConfig, Thoughts};
use colar_engine::model::transformer::{Taps, ThoughtLayout};
use colar_engine::model::weight_spec::{Group, Groups};
use colar_engine::train::batch::{Batch, Packing};
use colar_engine::train::sft::{self, LossSums, Noise, Objective};
use colar_engine::train::thoughts::{
    Lesson, ThoughtBatch, ThoughtCounts, ThoughtExample, ThoughtObjective, ThoughtSums, run, teacher_pass,
};
use serde_json::Value;

use crate::common::{self, Dir, golden, head_only, relative};

/// Agreement that float32 arithmetic reaches with float64.
const LOSS: f64 = 1e-5;
const GRADIENT: f64 = 1e-4;

/// The fixtures of a model.
struct Fixture {
    dir: PathBuf,
    cases: Value,
    vectors: Weights,
}

/// A model as a case trains it.
struct Setup<D: Device> {
    device: D,
    opened: Opened<D>,
}

impl Fixture {
    fn new(name: &str) -> Self {
        let dir = golden(name);
        let cases = serde_json::from_slice(&std::fs::read(dir.join("thoughts.json")).unwrap()).unwrap();
        let vectors = Weights::open_file(&dir.join("thoughts.safetensors")).unwrap();
        Fixture { dir, cases, vectors }
    }

    fn cases(&self) -> &[Value] {
        self.cases["cases"].as_array().unwrap()
    }

    fn case(&self, key: &str) -> &Value {
        self.cases().iter().find(|case| case["key"] == key).unwrap()
    }

    fn objective(&self) -> ThoughtObjective {
        let weight = |name: &str| self.cases["weights"][name].as_f64().unwrap() as f32;
        ThoughtObjective {
            student_weight: weight("student"),
            teacher_weight: weight("teacher"),
            distill_weight: weight("distill"),
        }
    }

    /// The weights of which a case holds gradients.
    fn trained(&self, case: &Value) -> Groups {
        let projector = Groups::of(&[Group::Projector]);
        if case["full"].as_bool().unwrap() {
            Groups::BASE.with(projector)
        } else {
            Groups::of(&[Group::Adapter]).with(projector)
        }
    }

    fn setup<D: Device>(&self, device: &D, case: &Value) -> Setup<D> {
        let full = case["full"].as_bool().unwrap();
        let checkpoint = if full { head_only(&self.dir) } else { Dir::Given(self.dir.join("adapter")) };
        let mut opened =
            open(device, &self.dir, Some(checkpoint.path()), &Additions::default(), self.trained(case))
                .unwrap();
        let (count, hidden) = (number(case, "thoughts"), opened.model.transformer.config.hidden_size);
        let projector = (case["method"] == "distill").then(|| {
            Projector::load(
                device,
                &mut opened.model.params,
                &self.vectors,
                hidden,
                ProjectorConfig::default(),
            )
            .unwrap()
        });
        opened.model.thoughts = Some(Thoughts { count, projector });
        Setup { device: device.clone(), opened }
    }
}

fn text<'a>(v: &'a Value, key: &str) -> &'a str {
    v[key].as_str().unwrap()
}

fn number(v: &Value, key: &str) -> usize {
    v[key].as_u64().unwrap() as usize
}

fn ids(v: &Value) -> Vec<u32> {
    v.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn example(tokens: &Value) -> ThoughtExample {
    let distill = tokens.get("teacher_tail").map(|tail| Lesson {
        teacher_tail: ids(tail),
        teacher_colon: number(tokens, "teacher_colon"),
        student_colon: number(tokens, "student_colon"),
    });
    ThoughtExample { question: ids(&tokens["question"]), tail: ids(&tokens["tail"]), distill }
}

fn examples(case: &Value) -> Vec<ThoughtExample> {
    case["tokens"].as_array().unwrap().iter().map(example).collect()
}

fn batch(examples: &[ThoughtExample]) -> ThoughtBatch {
    let mut batch = ThoughtBatch::new();
    examples.iter().for_each(|e| batch.push(e).unwrap());
    batch
}

/// The losses of a case with thoughts, by name; adds its gradients.
fn with_thoughts<D: Device>(
    Setup { device, opened }: &Setup<D>,
    objective: &ThoughtObjective,
    case: &Value,
    grads: Option<&mut Grads<D>>,
) -> Vec<(&'static str, f64)> {
    let batch = batch(&examples(case));
    let counts = ThoughtCounts::of([&batch]);
    let thoughts = number(case, "thoughts");
    let losses = run(device, &opened.model, objective, &batch, thoughts, counts, grads).unwrap();
    let mut sums = ThoughtSums::default();
    sums.add(&losses);
    assert_eq!(sums.counts, counts);
    let student = [("student", sums.mean_student()), ("total", sums.total(objective))];
    let teacher = [("teacher", sums.mean_teacher()), ("distill", sums.mean_distill())];
    if counts.distill > 0 { [student, teacher].concat() } else { student.to_vec() }
}

/// The samples of a case of implicit chain of thought, packed as those of chain of thought are.
fn in_words(case: &Value) -> Batch {
    let mut batch = Batch::new();
    for tokens in case["tokens"].as_array().unwrap() {
        let (question, tail) = (ids(&tokens["question"]), ids(&tokens["tail"]));
        let (separator, question) = question.split_last().unwrap();
        let (steps, answer) = tail.split_at(tail.len() - number(tokens, "answer"));
        let steps = [&[*separator], steps].concat();
        let segments = Segments { question: question.to_vec(), steps, answer: answer.to_vec() };
        batch.push(
            Packing { method: Method::Cot, compression_factor: 1, merge: Merge::Sqrt },
            &segments,
            None,
        );
    }
    batch
}

/// The losses of a case without thoughts, by the objective of chain of thought.
fn without_thoughts<D: Device>(
    Setup { device, opened }: &Setup<D>,
    case: &Value,
    grads: Option<&mut Grads<D>>,
) -> Vec<(&'static str, f64)> {
    let batch = in_words(case);
    let objective = Objective { latent_loss: LatentLoss::Mse, ..Objective::default() };
    let counts = sft::Counts::of([&batch]);
    let losses = sft::run(device, &opened.model, &objective, &batch, &Noise::Off, counts, grads).unwrap();
    let mut sums = LossSums::default();
    sums.add(&losses);
    vec![("student", sums.mean_ce()), ("total", sums.total(&objective))]
}

/// The inputs of all thoughts, and the states of student and teacher at the colon.
fn check_states<D: Device>(fixture: &Fixture, setup: &Setup<D>, case: &Value) {
    let Setup { device, opened } = setup;
    let (params, transformer) = (&opened.model.params, &opened.model.transformer);
    let (key, thoughts) = (text(case, "key"), number(case, "thoughts"));
    let projector = opened.model.thoughts.as_ref().unwrap().projector.as_ref();
    for (i, example) in examples(case).iter().enumerate() {
        let ThoughtExample { question, tail, distill } = example;
        // The input rows of thoughts are not read.
        let ids = [question.as_slice(), &vec![0; thoughts], tail].concat();
        let hidden = transformer.config.hidden_size;
        let mut x = device.empty(ids.len(), hidden).unwrap();
        device.gather_rows(1.0, params.get(transformer.embed), &device.index(&ids).unwrap(), &mut x).unwrap();
        let layout = ThoughtLayout::new(device, &[[question.len(), tail.len()]], thoughts).unwrap();
        let colon = distill.as_ref().map_or(0, |lesson| lesson.student_colon);
        let mut taps = Taps::new(device, &[colon as u32]).unwrap();
        let (h, saved) = transformer
            .forward_thoughts(device, params, projector, &x, &layout, None, Some(&mut taps))
            .unwrap();
        assert!(saved.is_none());
        let before: Vec<u32> = (0..thoughts).map(|k| (question.len() + k - 1) as u32).collect();
        let mut inputs = device.empty(thoughts, hidden).unwrap();
        device.gather_rows(1.0, &h, &device.index(&before).unwrap(), &mut inputs).unwrap();
        if let Some(projector) = projector {
            inputs = projector.forward(device, params, inputs).unwrap().0;
        }
        let expect = |what: &str, got: &[f32]| {
            let name = format!("{key}.{i}.{what}");
            let error = relative(got, &fixture.vectors.tensor(&name).unwrap().to_f32_vec());
            assert!(error < LOSS, "{name}: relative error {error:.1e}");
        };
        expect("thoughts", &device.read(&inputs).unwrap());
        if distill.is_some() {
            expect("student", &taps.read(device).unwrap().concat());
            let batch = batch(std::slice::from_ref(example));
            let counts = ThoughtCounts::of([&batch]);
            let objective = fixture.objective();
            let taught = teacher_pass(device, &opened.model, &objective, &batch, counts, None).unwrap();
            expect("teacher", &taught.states.concat());
        }
    }
}

fn check_model<D: Device>(device: &D, name: &str) {
    let fixture = Fixture::new(name);
    let mut compared = 0;
    for case in fixture.cases() {
        let key = text(case, "key");
        let setup = fixture.setup(device, case);
        let params = &setup.opened.model.params;
        let mut grads = Grads::new(device, params, fixture.trained(case)).unwrap();
        let losses = if case["method"] == "icot" {
            without_thoughts(&setup, case, Some(&mut grads))
        } else {
            with_thoughts(&setup, &fixture.objective(), case, Some(&mut grads))
        };
        assert_eq!(losses.len(), case["losses"].as_object().unwrap().len(), "{key}: losses");
        for (what, got) in losses {
            let want = case["losses"][what].as_f64().unwrap();
            let error = (got - want).abs() / want;
            assert!(error < LOSS, "{key} {what}: {got} instead of {want}, relative error {error:.1e}");
        }
        for id in grads.ids() {
            let name = format!("{key}.grad.{}", params.name(id));
            let want = fixture.vectors.tensor(&name).unwrap().to_f32_vec();
            let error = relative(&device.read(grads.get(id).unwrap()).unwrap(), &want);
            assert!(error < GRADIENT, "{name}: relative error {error:.1e}");
            compared += 1;
        }
        if case["method"] != "icot" {
            check_states(&fixture, &setup, case);
        }
    }
    let listed = fixture.vectors.names().filter(|n| n.contains(".grad.")).count();
    assert_eq!(compared, listed, "every gradient of the fixture was compared");
}

common::golden_models!(check_model);

/// With activations in bf16, losses and gradients through thoughts are those of float32 but for rounding.
#[test]
#[cfg(cuda_host)]
fn thoughts_in_bf16() {
    let fixture = Fixture::new("llama-tiny");
    let device = common::driver::kernels(Dtype::Bf16, 3);
    for key in ["coconut.2", "distill"] {
        let case = fixture.case(key);
        let setup = fixture.setup(&device, case);
        let params = &setup.opened.model.params;
        let mut grads = Grads::new(&device, params, fixture.trained(case)).unwrap();
        for (what, got) in with_thoughts(&setup, &fixture.objective(), case, Some(&mut grads)) {
            let want = case["losses"][what].as_f64().unwrap();
            assert!((got - want).abs() < 2e-2 * want, "{key} {what}: {got} instead of {want}");
        }
        let want = grads.ids().map(|id| format!("{key}.grad.{}", params.name(id)));
        let want: Vec<f32> =
            want.flat_map(|name| fixture.vectors.tensor(&name).unwrap().to_f32_vec()).collect();
        let error = relative(&all(&device, &grads), &want);
        assert!(error < 0.05, "{key}: gradients are off by {error:.1e}");
    }
}

/// All gradients of the trained weights, end to end.
fn all<D: Device>(device: &D, grads: &Grads<D>) -> Vec<f32> {
    grads.tensors().into_iter().flat_map(|g| device.read(g).unwrap()).collect()
}

/// Without thoughts the phases are cuts in an ordinary pass.
#[test]
fn no_thoughts_are_chain_of_thought() {
    let fixture = Fixture::new("qwen2-tiny");
    let case = fixture.case("icot.1");
    let setup = fixture.setup(&common::cpu(), case);
    let new = || Grads::new(&setup.device, &setup.opened.model.params, fixture.trained(case)).unwrap();
    let (mut whole, mut phases) = (new(), new());
    let want = without_thoughts(&setup, case, Some(&mut whole));
    let got = with_thoughts(&setup, &fixture.objective(), case, Some(&mut phases));
    for ((_, got), (_, want)) in got.iter().zip(&want) {
        assert!((got - want).abs() < 1e-6 * want, "{got} instead of {want}");
    }
    assert!(relative(&all(&setup.device, &phases), &all(&setup.device, &whole)) < 1e-5);
}

/// A step cut into batches of one sample has the losses and gradients of the step as one batch, and losses are the
/// same where no gradients are wanted.
#[test]
fn batches_of_a_step_add_up() {
    let fixture = Fixture::new("llama-tiny");
    for key in ["coconut.1", "distill"] {
        let case = fixture.case(key);
        let setup = fixture.setup(&common::cpu(), case);
        let Setup { device, opened } = &setup;
        let thoughts = number(case, "thoughts");
        let parts: Vec<ThoughtBatch> =
            examples(case).iter().map(|e| batch(std::slice::from_ref(e))).collect();
        let counts = ThoughtCounts::of(&parts);
        let new = || Grads::new(device, &opened.model.params, fixture.trained(case)).unwrap();
        let step = |batches: &[ThoughtBatch], mut grads: Option<&mut Grads<CpuDevice>>| {
            let mut sums = ThoughtSums::default();
            for batch in batches {
                let grads = grads.as_deref_mut();
                let losses =
                    run(device, &opened.model, &fixture.objective(), batch, thoughts, counts, grads).unwrap();
                sums.add(&losses);
            }
            assert_eq!(sums.counts, counts);
            sums.total(&fixture.objective())
        };
        let (mut of_whole, mut of_parts) = (new(), new());
        let whole = [batch(&examples(case))];
        let (want, got) = (step(&whole, Some(&mut of_whole)), step(&parts, Some(&mut of_parts)));
        assert!((got - want).abs() < 1e-6 * want, "{key}: {got} instead of {want}");
        assert!(relative(&all(device, &of_parts), &all(device, &of_whole)) < 1e-5, "{key}");
        assert_eq!(step(&whole, None), want, "{key}");
    }
}
