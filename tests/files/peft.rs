//! Adapters as people save them: each form beside the same model in its plainest form.

use std::fs;
use std::path::Path;

use colar_engine::Error;
use colar_engine::device::cpu::CpuDevice;
use colar_engine::files::safetensors::{TensorData, save_safetensors};
use colar_engine::files::weights::Weights;
use colar_engine::infer::{Loaded, Prompt, Request, Sampling};
use colar_engine::model::lora::LoraMode;
use colar_engine::model::open::{Additions, open};
use colar_engine::model::prompt::Method;
use colar_engine::model::weight_spec::Groups;
use serde_json::{Value, json};

use crate::common::golden;

type Tensors = Vec<(String, Vec<usize>, Vec<f32>)>;

fn tensors(file: &Path) -> Tensors {
    let weights = Weights::open_file(file).unwrap();
    let names: Vec<String> = weights.names().map(str::to_owned).collect();
    let read = |name: String| {
        let tensor = weights.tensor(&name).unwrap();
        (name, tensor.shape().to_vec(), tensor.to_f32_vec())
    };
    names.into_iter().map(read).collect()
}

fn save(file: &Path, tensors: &Tensors) {
    let data: Vec<_> = tensors.iter().map(|(n, s, x)| (n.clone(), s.clone(), TensorData::F32(x))).collect();
    save_safetensors(file, &data, &[]).unwrap();
}

fn change_json(file: &Path, change: &Value) {
    let mut json: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    json.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    fs::write(file, json.to_string()).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
}

/// A golden model and its adapter, the one in `model` and the other in `adapter` of a directory, to be changed.
struct Copy {
    dir: tempfile::TempDir,
}

impl Copy {
    fn of(model: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        copy(&golden(model), &dir.path().join("model"));
        copy(&golden(model).join("adapter"), &dir.path().join("adapter"));
        Copy { dir }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn adapter(self, config: Value, change: impl FnOnce(&mut Tensors)) -> Self {
        change_json(&self.path("adapter/adapter_config.json"), &config);
        self.weights("adapter/adapter_model.safetensors", change)
    }

    fn model(self, config: Value, change: impl FnOnce(&mut Tensors)) -> Self {
        change_json(&self.path("model/config.json"), &config);
        self.weights("model/model.safetensors", change)
    }

    fn weights(self, file: &str, change: impl FnOnce(&mut Tensors)) -> Self {
        let mut changed = tensors(&self.path(file));
        change(&mut changed);
        save(&self.path(file), &changed);
        self
    }

    fn load(&self, lora: Option<LoraMode>) -> Result<Loaded<CpuDevice>, Error> {
        let device = CpuDevice::new(2).unwrap();
        Loaded::with_lora(device, &self.path("model"), Some(&self.path("adapter")), lora)
    }

    /// Tokens that it writes, in words and after latents, with the adapter apart and merged.
    fn writes(&self) -> Vec<Vec<u32>> {
        let modes = [None, Some(LoraMode::Merge)];
        modes.iter().flat_map(|&mode| writes(&self.load(mode).unwrap())).collect()
    }
}

fn writes(loaded: &Loaded<CpuDevice>) -> Vec<Vec<u32>> {
    let sampling = Sampling::default().greedy().max_latents(5).max_cot_tokens(12).max_new_tokens(12);
    let ask = |method, factor: &str| {
        let text = "Tom has 3 boxes with 24 pens each.".to_owned();
        let prompt = Prompt::Question { text, method, compression_factor: factor.to_owned() };
        let request = Request::new(prompt).sampling(sampling);
        loaded.generate(&[request], &mut |_| ()).unwrap().remove(0).token_ids
    };
    vec![ask(Method::Cot, "1"), ask(Method::Colar, "2")]
}

fn of<'a>(tensors: &'a mut Tensors, end: &str) -> &'a mut (String, Vec<usize>, Vec<f32>) {
    tensors.iter_mut().find(|(name, ..)| name.ends_with(end)).unwrap()
}

/// A change that greedy tokens show: most of a weight's values are turned round.
fn turn(values: &mut [f32]) {
    for (i, x) in values.iter_mut().enumerate() {
        *x = if i % 3 == 0 { *x } else { -*x };
    }
}

#[test]
fn modules_by_patterns_and_ends_of_names() {
    let plain = Copy::of("llama-tiny").writes();
    for targets in [
        json!(r".*\.self_attn\.[qv]_proj"),
        json!(["self_attn.v_proj", "q_proj"]),
        json!(
            (0..9)
                .flat_map(|i| ["q", "v"].map(|p| format!("model.layers.{i}.self_attn.{p}_proj")))
                .collect::<Vec<_>>()
        ),
    ] {
        let other = Copy::of("llama-tiny").adapter(json!({"target_modules": targets}), |_| ());
        assert_eq!(other.writes(), plain, "{targets}");
    }
    // Weights in the file that the pattern leaves out would be dropped.
    let less = Copy::of("llama-tiny").adapter(json!({"target_modules": ".*q_proj"}), |_| ());
    let error = less.load(None).err().unwrap().to_string();
    assert!(error.contains("v_proj.lora_A.weight: is no part of the adapter"), "{error}");
}

#[test]
fn some_layers_alone() {
    let [without, zero] = [true, false].map(|leave_out| {
        let config = if leave_out { json!({"layers_to_transform": [0]}) } else { json!({}) };
        Copy::of("llama-tiny").adapter(config, |tensors| {
            let other = |name: &str| !name.contains(".layers.0.");
            if leave_out {
                tensors.retain(|(name, ..)| !other(name));
            }
            tensors.iter_mut().filter(|(name, ..)| other(name)).for_each(|(_, _, x)| x.fill(0.0));
        })
    });
    assert_eq!(without.writes(), zero.writes());
    assert_ne!(without.writes(), Copy::of("llama-tiny").writes());
}

/// Twice the rank, of which half is zero, with twice the alpha is the same adapter.
#[test]
fn ranks_and_alphas_of_their_own() {
    let plain = Copy::of("llama-tiny");
    let config: Value =
        serde_json::from_slice(&fs::read(plain.path("adapter/adapter_config.json")).unwrap()).unwrap();
    let (r, alpha) = (config["r"].as_u64().unwrap() as usize, config["lora_alpha"].as_f64().unwrap());
    let module = "layers.1.self_attn.q_proj";
    let change = json!({"rank_pattern": {module: 2 * r}, "alpha_pattern": {module: 2.0 * alpha}});
    let wide = |tensors: &mut Tensors| {
        let (_, shape, a) = of(tensors, &format!("{module}.lora_A.weight"));
        a.extend(vec![0.0; r * shape[1]]);
        shape[0] = 2 * r;
        let (_, shape, b) = of(tensors, &format!("{module}.lora_B.weight"));
        *b = b.chunks(r).flat_map(|row| [row, &vec![0.0; r]].concat()).collect();
        shape[1] = 2 * r;
    };
    assert_eq!(Copy::of("llama-tiny").adapter(change.clone(), wide).writes(), plain.writes());
    // With another alpha it is another adapter, so the pattern is looked at.
    let change = json!({"rank_pattern": {module: 2 * r}, "alpha_pattern": {module: 60.0 * alpha}});
    assert_ne!(Copy::of("llama-tiny").adapter(change, wide).writes(), plain.writes());
    let narrow = Copy::of("llama-tiny").adapter(json!({"rank_pattern": {module: 2 * r}}), |_| ());
    let error = narrow.load(None).err().unwrap().to_string();
    assert!(error.contains("lora_A.weight: has shape ["), "{error}");
}

/// A head and embeddings that were trained whole stand in the place of the model's, and a tied head is parted from its
/// embeddings as PEFT does.
#[test]
fn modules_that_are_saved_whole() {
    let add = |tensors: &mut Tensors, name: &str, shape: &[usize], values: &[f32]| {
        tensors.push((format!("base_model.model.{name}"), shape.to_vec(), values.to_vec()));
    };
    let saved = json!({"modules_to_save": ["lm_head", "embed_tokens"]});
    for model in ["llama-tiny", "qwen2-tiny"] {
        let base = tensors(&golden(model).join("model.safetensors"));
        let (_, shape, embed) = base.iter().find(|(name, ..)| name == "model.embed_tokens.weight").unwrap();
        let head = base.iter().find(|(name, ..)| name == "lm_head.weight").map_or(embed, |(_, _, head)| head);
        let (mut new_head, mut new_embed) = (head.clone(), embed.clone());
        turn(&mut new_head);
        new_embed.rotate_left(shape[1]);
        // Which are stored; what the model has then.
        for (with_head, with_embed) in [(true, true), (true, false), (false, true)] {
            let adapter = Copy::of(model).adapter(saved.clone(), |tensors| {
                if with_head {
                    add(tensors, "lm_head.weight", shape, &new_head);
                }
                if with_embed {
                    add(tensors, "model.embed_tokens.weight", shape, &new_embed);
                }
            });
            let whole = Copy::of(model).model(json!({"tie_word_embeddings": false}), |tensors| {
                tensors.retain(|(name, ..)| name != "lm_head.weight");
                let head = if with_head { &new_head } else { head };
                tensors.push(("lm_head.weight".into(), shape.clone(), head.clone()));
                if with_embed {
                    of(tensors, "embed_tokens.weight").2.clone_from(&new_embed);
                }
            });
            assert_eq!(adapter.writes(), whole.writes(), "{model} {with_head} {with_embed}");
            assert_ne!(adapter.writes(), Copy::of(model).writes(), "{model} {with_head} {with_embed}");
        }
        // Embeddings that PEFT stored of its own accord are those of a tied head too.
        let resized = Copy::of(model)
            .adapter(json!({}), |tensors| add(tensors, "model.embed_tokens.weight", shape, &new_embed));
        let whole = Copy::of(model)
            .model(json!({}), |tensors| of(tensors, "embed_tokens.weight").2.clone_from(&new_embed));
        assert_eq!(resized.writes(), whole.writes(), "{model}");
    }
}

#[test]
fn biases_that_were_trained() {
    let name = |part: &str| format!("model.layers.0.self_attn.q_proj.{part}bias");
    let base = tensors(&golden("qwen2-tiny").join("model.safetensors"));
    let (_, shape, bias) = base.iter().find(|(n, ..)| *n == name("")).unwrap();
    let new: Vec<f32> = bias.iter().map(|x| 3.0 - 40.0 * x).collect();
    let adapter = Copy::of("qwen2-tiny").adapter(json!({"bias": "all"}), |tensors| {
        tensors.push((format!("base_model.model.{}", name("base_layer.")), shape.clone(), new.clone()));
    });
    let whole = Copy::of("qwen2-tiny").model(json!({}), |tensors| of(tensors, &name("")).2.clone_from(&new));
    assert_eq!(adapter.writes(), whole.writes());
    assert_ne!(adapter.writes(), Copy::of("qwen2-tiny").writes());
    // A model without biases has none to be trained, and one that is stored all the same is a stray.
    assert!(Copy::of("llama-tiny").adapter(json!({"bias": "all"}), |_| ()).load(None).is_ok());
    let stray = Copy::of("llama-tiny").adapter(json!({"bias": "all"}), |tensors| {
        tensors.push((format!("base_model.model.{}", name("base_layer.")), vec![1], vec![0.0]));
    });
    assert!(stray.load(None).err().unwrap().to_string().contains("q_proj.base_layer.bias: is no part"));
}

/// Magnitudes that are the norms of the rows change nothing; others change every row.
#[test]
fn magnitudes_of_dora() {
    let plain = Copy::of("llama-tiny");
    let config: Value =
        serde_json::from_slice(&fs::read(plain.path("adapter/adapter_config.json")).unwrap()).unwrap();
    let scale = config["lora_alpha"].as_f64().unwrap() / config["r"].as_f64().unwrap();
    let base = tensors(&golden("llama-tiny").join("model.safetensors"));
    let dora = |factor: f64| {
        Copy::of("llama-tiny").adapter(json!({"use_dora": true}), |tensors| {
            let modules: Vec<String> = tensors
                .iter()
                .filter_map(|(name, ..)| name.strip_suffix(".lora_A.weight"))
                .map(str::to_owned)
                .collect();
            for module in modules {
                let get = |name: &str| tensors.iter().find(|(n, ..)| n == name).unwrap();
                let (_, shape, a) = get(&format!("{module}.lora_A.weight"));
                let (_, _, b) = get(&format!("{module}.lora_B.weight"));
                let (r, columns) = (shape[0], shape[1]);
                let name = format!("{}.weight", module.strip_prefix("base_model.model.").unwrap());
                let (_, _, w) = base.iter().find(|(n, ..)| *n == name).unwrap();
                let magnitudes: Vec<f32> = w
                    .chunks(columns)
                    .zip(b.chunks(r))
                    .map(|(row, b)| {
                        let merged = |c: usize| {
                            let low: f64 =
                                (0..r).map(|k| f64::from(b[k]) * f64::from(a[k * columns + c])).sum();
                            (f64::from(row[c]) + scale * low).powi(2)
                        };
                        (factor * (0..columns).map(merged).sum::<f64>().sqrt()) as f32
                    })
                    .collect();
                tensors.push((format!("{module}.lora_magnitude_vector"), vec![magnitudes.len()], magnitudes));
            }
        })
    };
    assert_eq!(dora(1.0).writes(), plain.writes());
    assert_ne!(dora(-4.0).writes(), plain.writes());
    let error = dora(1.0).load(Some(LoraMode::Apart)).err().unwrap();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("`lora` apart"), "{error}");
    let missing = Copy::of("llama-tiny").adapter(json!({"use_dora": true}), |_| ());
    assert!(missing.load(None).err().unwrap().to_string().contains("lora_magnitude_vector: is missing"));
}

/// Of what is beside A and B a run would keep nothing.
#[test]
fn what_would_be_lost_is_not_trained_on() {
    let head = |tensors: &mut Tensors| {
        tensors.push(("base_model.model.lm_head.weight".into(), vec![512, 64], vec![0.0; 512 * 64]));
    };
    let dora = |tensors: &mut Tensors| {
        let outs: Vec<(String, usize)> = tensors
            .iter()
            .filter_map(|(name, shape, _)| Some((name.strip_suffix(".lora_B.weight")?.to_owned(), shape[0])))
            .collect();
        for (module, out) in outs {
            tensors.push((format!("{module}.lora_magnitude_vector"), vec![out], vec![1.0; out]));
        }
    };
    let train = |copy: &Copy| {
        let device = CpuDevice::new(1).unwrap();
        let (model, adapter) = (copy.path("model"), copy.path("adapter"));
        open(&device, &model, Some(&adapter), &Additions::default(), Groups::ADDED).err()
    };
    for (copy, told) in [
        (
            Copy::of("llama-tiny").adapter(json!({"modules_to_save": ["lm_head"]}), head),
            "holds lm_head.weight whole",
        ),
        (Copy::of("llama-tiny").adapter(json!({"use_dora": true}), dora), "has magnitudes of DoRA"),
    ] {
        assert!(copy.load(None).is_ok());
        let error = train(&copy).unwrap();
        assert_eq!(error.exit_code(), 2);
        assert!(
            error.to_string().contains(told) && error.to_string().contains("is not trained on"),
            "{error}"
        );
    }
    let some = json!({"layers_to_transform": [0]});
    let some =
        Copy::of("llama-tiny").adapter(some, |tensors| tensors.retain(|(n, ..)| n.contains(".layers.0.")));
    assert!(train(&some).is_none());
}

/// Both models are named where an adapter does not fit.
#[test]
fn an_adapter_of_another_model_is_told_with_both() {
    let other = Copy::of("llama-tiny").adapter(
        json!({"base_model_name_or_path": "meta-llama/Llama-3.2-1B"}),
        |tensors| {
            for (name, shape, values) in
                tensors.iter_mut().filter(|(name, ..)| name.ends_with("lora_A.weight"))
            {
                assert!(name.contains("_proj"));
                shape[1] *= 2;
                values.extend(values.clone());
            }
        },
    );
    let error = other.load(None).err().unwrap().to_string();
    let model = other.path("model");
    let told = format!(
        "; the adapter was trained on meta-llama/Llama-3.2-1B, and {} is a llama model of hidden_size 64 with ",
        model.display()
    );
    assert!(error.contains("lora_A.weight: has shape [") && error.contains(&told), "{error}");
    assert!(!error.contains('\n'));
}
