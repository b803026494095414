//! Checkpoints as PyTorch Lightning writes them for the authors' code, opened as they lie: prompts, hidden states, logits,
//! and what the latent head or the projector makes of them are those of that code. `tests/lightning/make_replica.py` made both.

use std::path::PathBuf;

use colar_engine::device::prelude::*;
use colar_engine::files::weights::Weights;
use colar_engine::model::layout::Layout;
use colar_engine::model::lora::LoraMode;
use colar_engine::model::merge::Merge;
use colar_engine::model::open::{Additions, Opened, open, open_frozen};
use colar_engine::model::prompt::{self, Method};
use colar_engine::model::weight_spec::Groups;

use crate::common::{self, Bounds, golden, relative};

const QUESTION: &str = "Tom has 3 pens and buys 4. How many has he?";

fn file(method: &str, name: &str) -> PathBuf {
    golden("lightning").join(method).join(name)
}

fn check_values<D: Device>(device: &D, opened: &Opened<D>, method: &str, speed: &str) {
    let (t, params) = (&opened.model.transformer, &opened.model.params);
    let values = file(method, "golden.safetensors");
    let ids = prompt::inference(&opened.tokenizer, opened.separator, QUESTION, speed).unwrap();
    let theirs: Vec<u32> = common::ints(&values, "prompt").into_iter().map(|id| id as u32).collect();
    assert_eq!(ids, theirs, "{method}: prompt");

    let mut x = device.empty(ids.len(), t.config.hidden_size).unwrap();
    device.gather_rows(1.0, params.get(t.embed), &device.index(&ids).unwrap(), &mut x).unwrap();
    let layout = Layout::packed(device, &[ids.len()]).unwrap();
    let (states, _) = t.forward(device, params, x, &layout, None).unwrap();
    let mut last = device.empty(1, t.config.hidden_size).unwrap();
    device.gather_rows(1.0, &states, &device.index(&[ids.len() as u32 - 1]).unwrap(), &mut last).unwrap();
    let mut logits = device.empty(1, t.config.vocab_size).unwrap();
    device.matmul_nt(1.0, &last, params.get(t.lm_head), 0.0, &mut logits).unwrap();

    let mut found = vec![("hidden", device.read(&last).unwrap()), ("logits", device.read(&logits).unwrap())];
    if let Some(head) = &opened.model.head {
        let (latent, saved) = head.forward(device, params, last).unwrap();
        found.push(("mean", device.read(&latent.mu).unwrap()));
        found.push(("log_std", device.read(&latent.log_sigma.unwrap()).unwrap()));
        last = saved.into_input();
    }
    if let Some(projector) = opened.model.thoughts.as_ref().and_then(|t| t.projector.as_ref()) {
        let (thought, _) = projector.forward(device, params, last).unwrap();
        found.push(("thought", device.read(&thought).unwrap()));
    }
    let want = Weights::open_file(&values);
    // The tokens are no weights, so the file is looked into by name.
    let want = want.unwrap();
    assert_eq!(found.len() + 1, want.names().count(), "{method}: every value was compared");
    for (name, got) in found {
        let error = relative(&got, &want.tensor(name).unwrap().to_f32_vec());
        assert!(error < Bounds::of(device).loss, "{method}, {name}: relative error {error:.1e}");
    }
}

fn check_method<D: Device>(device: &D, method: Method, speed: &str) {
    let (model, checkpoint) = (golden("llama-tiny"), file(method.name(), "checkpoints/last.ckpt"));
    for mode in [LoraMode::Merge, LoraMode::Apart] {
        let opened = open_frozen(device, &model, Some(&checkpoint), &Additions::default(), mode).unwrap();
        assert_eq!(opened.method, Some(method));
        assert_eq!(opened.adapter.as_ref().unwrap().scale(), 1.5, "alpha over rank of hparams.yaml");
        check_values(device, &opened, method.name(), speed);
    }
    let thoughts = (method == Method::Distill).then(|| {
        open_frozen(device, &model, Some(&checkpoint), &Additions::default(), LoraMode::Apart)
            .unwrap()
            .model
            .thoughts
            .unwrap()
            .config()
    });
    let additions = Additions { thoughts, ..Additions::default() };
    let opened = open(device, &model, Some(&checkpoint), &additions, Groups::ADDED).unwrap();
    check_values(device, &opened, method.name(), speed);
}

#[test]
fn the_authors_checkpoints_compute_what_their_code_does() {
    let device = common::cpu();
    device.scope(|| {
        check_method(&device, Method::Colar, "2");
        check_method(&device, Method::Cot, "1");
        check_method(&device, Method::Distill, "auto");
    });
}

#[test]
fn the_unit_of_latents_is_the_authors_constant() {
    let device = common::cpu();
    let (model, checkpoint) = (golden("llama-tiny"), file("colar", "checkpoints/last.ckpt"));
    let stored = |additions: &Additions| {
        let opened = open_frozen(&device, &model, Some(&checkpoint), additions, LoraMode::Apart).unwrap();
        (opened.model.embeds_std, opened.model.merge)
    };
    // That of Llama-3.2-1B-Instruct, which hparams.yaml names; the model's own embeddings have another.
    assert_eq!(stored(&Additions::default()), (0.018, Merge::Sqrt));
    let given = Additions { embeds_std: Some(0.05), ..Additions::default() };
    assert_eq!(stored(&given), (0.05, Merge::Sqrt));
}
