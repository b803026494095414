//! The decoder: a step, and all latents of a sequence, as one kernel, against the model's layers run one by one.

use colar_engine::device::cpu::CpuDevice;
use colar_engine::device::cuda::driver::Limits;
use colar_engine::device::cuda::{CudaDevice, CudaTensor};
use colar_engine::device::decoder::{CacheMut, CachedRows, Decoder, LatentEnd, LatentSequence};
use colar_engine::device::prelude::*;
use colar_engine::device::{Draw, Dtype, TokenChoice};
use colar_engine::files::mapped::MappedTensor;
use colar_engine::files::safetensors::Dtype as FileDtype;
use colar_engine::files::weights::Weights;
use colar_engine::infer::Loaded;
use colar_engine::model::ColarModel;
use colar_engine::model::config::ModelConfig;
use colar_engine::model::init::{RandomInit, write_random_model};
use colar_engine::model::kv_cache::KvCache;
use colar_engine::model::latent_head::LatentHead;
use colar_engine::model::latent_head::LatentHeadConfig;
use colar_engine::model::merge::Merge;
use colar_engine::model::params::Params;
use colar_engine::model::transformer::Transformer;
use colar_engine::model::weight_spec::{Role, WeightSpec};
use colar_engine::{Engine, EngineOptions, Prompt, Request};

use super::common::driver::{TestDriver, limited};
use super::common::golden;
use super::common::host::{Host, read};
use super::common::relative;

type Cuda = CudaDevice<TestDriver>;

const LATENT: u32 = 0x10;
const EVENT: u32 = 0x11;

/// Blocks, threads and shared memory of a launch: from one block of one warp on.
fn device(dtype: Dtype, blocks: u32, threads: u32, shared: u32) -> Cuda {
    limited(dtype, 0xdec0, Limits { blocks, threads, shared })
}

/// A shape that tiles nothing evenly.
pub struct Shape {
    pub hidden: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub inner: usize,
    pub head_inner: usize,
    pub vocab: usize,
    pub bias: bool,
    pub qk_norm: bool,
    pub deterministic: bool,
}

const SHAPES: [Shape; 7] = [
    Shape {
        hidden: 40,
        heads: 3,
        kv_heads: 1,
        head_dim: 24,
        inner: 72,
        head_inner: 48,
        vocab: 101,
        bias: true,
        qk_norm: false,
        deterministic: false,
    },
    Shape {
        hidden: 8,
        heads: 2,
        kv_heads: 2,
        head_dim: 8,
        inner: 8,
        head_inner: 8,
        vocab: 1,
        bias: false,
        qk_norm: false,
        deterministic: true,
    },
    Shape {
        hidden: 264,
        heads: 2,
        kv_heads: 1,
        head_dim: 128,
        inner: 1032,
        head_inner: 16,
        vocab: 38,
        bias: false,
        qk_norm: false,
        deterministic: false,
    },
    Shape {
        hidden: 64,
        heads: 8,
        kv_heads: 2,
        head_dim: 16,
        inner: 128,
        head_inner: 64,
        vocab: 300,
        bias: true,
        qk_norm: false,
        deterministic: false,
    },
    // Normalised heads, together wider than the model, as wide, and narrower.
    Shape {
        hidden: 24,
        heads: 6,
        kv_heads: 2,
        head_dim: 16,
        inner: 40,
        head_inner: 16,
        vocab: 77,
        bias: false,
        qk_norm: true,
        deterministic: false,
    },
    Shape {
        hidden: 120,
        heads: 3,
        kv_heads: 3,
        head_dim: 40,
        inner: 88,
        head_inner: 24,
        vocab: 60,
        bias: true,
        qk_norm: true,
        deterministic: true,
    },
    Shape {
        hidden: 264,
        heads: 2,
        kv_heads: 1,
        head_dim: 128,
        inner: 72,
        head_inner: 8,
        vocab: 39,
        bias: false,
        qk_norm: true,
        deterministic: false,
    },
];

/// Two layers of the shape, with weights that are the same on every device and large enough to matter.
pub fn model<D: Device>(d: &D, shape: &Shape, dtype: FileDtype) -> ColarModel<D> {
    let mut config = ModelConfig::load(&golden("qwen2-tiny")).unwrap();
    config.hidden_size = shape.hidden;
    config.intermediate_size = shape.inner;
    config.num_hidden_layers = 2;
    config.num_attention_heads = shape.heads;
    config.num_key_value_heads = shape.kv_heads;
    config.head_dim = shape.head_dim;
    config.vocab_size = shape.vocab;
    config.attention_bias = shape.bias;
    config.qk_norm = shape.qk_norm;
    config.tie_word_embeddings = false;
    let dir = tempfile::tempdir().unwrap();
    write_random_model(dir.path(), &config, &RandomInit { dtype, std: 0.1, seed: 5 }).unwrap();
    let weights = Weights::open(dir.path()).unwrap();
    let mut params = Params::default();
    // Vectors are made new all 1 or all 0, which would hide where they are used.
    let mut take = |spec: &WeightSpec, t: MappedTensor| match spec.role {
        Role::Matrix => d.adopt(t),
        Role::Bias | Role::Norm => {
            let seed = spec.name.bytes().fold(7, |seed: u64, byte| seed.wrapping_mul(31) + u64::from(byte));
            let values = Host::normal(1, spec.numel(), 0.3, seed).values;
            let one = t.to_f32_vec().into_iter().zip(values).map(|(x, y)| x + y).collect::<Vec<_>>();
            d.upload(1, spec.numel(), &one)
        }
    };
    let transformer = Transformer::load(d, &config, &weights, &mut params, &mut take).unwrap();
    let head = LatentHeadConfig { intermediate_size: shape.head_inner, deterministic: shape.deterministic };
    let head = LatentHead::random(d, &mut params, &head, shape.hidden, 6).unwrap();
    ColarModel { transformer, head: Some(head), thoughts: None, params, embeds_std: 0.1, merge: Merge::Sqrt }
}

/// A cache of one slot a sequence, filled with the same values on every device, of these lengths.
fn cache<D: Device>(
    d: &D,
    model: &ColarModel<D>,
    lens: &[usize],
    room: usize,
    put: &dyn Fn(&Host) -> D::Tensor,
) -> KvCache<D> {
    let capacity = lens.iter().max().unwrap() + room;
    let config = &model.transformer.config;
    let mut cache = KvCache::new(d, config, lens.len(), capacity).unwrap();
    let width = config.num_key_value_heads * config.head_dim;
    for (slot, &len) in lens.iter().enumerate() {
        let CacheMut { keys, values } = cache.lend();
        for (i, t) in keys.iter_mut().chain(values).enumerate() {
            let rows: Vec<u32> = (0..len).map(|r| (slot * capacity + r) as u32).collect();
            let held = Host::normal(len, width, 1.0, (slot * 10 + i) as u64);
            d.scatter_rows(1.0, &put(&held), &d.index(&rows).unwrap(), t).unwrap();
        }
        cache.grow(slot, len).unwrap();
    }
    cache
}

pub fn choice(key: u64, at: u32) -> TokenChoice {
    TokenChoice { temperature: 0.8, top_p: 0.9, draw: Draw { key, counter: [0x12, at] } }
}

/// Hidden states and tokens after one token a sequence, by the layers.
fn tokens_by_layers<D: Device>(
    d: &D,
    model: &ColarModel<D>,
    cache: &mut KvCache<D>,
    fed: &[u32],
    choices: &[TokenChoice],
) -> (Vec<f32>, Vec<u32>) {
    let table = model.params.get(model.transformer.embed);
    let mut x = d.empty(fed.len(), table.cols()).unwrap();
    d.gather_rows(1.0, table, &d.index(fed).unwrap(), &mut x).unwrap();
    let all: Vec<_> = (0..fed.len()).map(|i| (i, 1)).collect();
    let extension = cache.extend(&all).unwrap();
    let h = model.transformer.forward_cached(d, &model.params, x, &extension, cache).unwrap();
    let w = model.params.get(model.transformer.lm_head);
    let tokens = d.choose_tokens(&h, w, choices, None).unwrap();
    (read(d, &h), tokens)
}

fn check_tokens(shape: &Shape, lens: &[usize], limits: [u32; 3]) {
    let [blocks, threads, shared] = limits;
    let (d, cpu) = (device(Dtype::F32, blocks, threads, shared), CpuDevice::new(1).unwrap());
    let (mine, theirs) = (model(&d, shape, FileDtype::F32), model(&cpu, shape, FileDtype::F32));
    let mut my_cache = cache(&d, &mine, lens, 1, &|h| h.up(&d));
    let mut their_cache = cache(&cpu, &theirs, lens, 1, &|h| h.up(&cpu));
    let fed: Vec<u32> = (0..lens.len() as u32).map(|i| i * 37 % shape.vocab as u32).collect();
    let choices: Vec<_> = (0..lens.len() as u32).map(|i| choice(9, i)).collect();
    let (want, want_tokens) = tokens_by_layers(&cpu, &theirs, &mut their_cache, &fed, &choices);
    let mut decoder = d.decoder(mine.for_decoder().unwrap(), lens.len()).unwrap().unwrap();
    let rows: Vec<_> = fed.iter().enumerate().map(|(i, &t)| (my_cache.rows(i), t)).collect();
    let (hidden, tokens) = decoder.tokens(my_cache.lend(), &rows, &choices, None).unwrap();
    let error = relative(&read(&d, &hidden), &want);
    assert!(error < 1e-5, "{lens:?} on {limits:?}: relative error {error:.1e}");
    assert_eq!(tokens, want_tokens, "{lens:?} on {limits:?}");
    // The appended keys and values are those of the layers.
    for i in 0..lens.len() {
        let CachedRows { first, len } = my_cache.rows(i);
        let last = [(first + len) as u32];
        let (mine, theirs) = (my_cache.lend(), their_cache.lend());
        for (a, b) in mine.keys.iter().chain(&*mine.values).zip(theirs.keys.iter().chain(&*theirs.values)) {
            let (mut x, mut y) = (d.empty(1, a.cols()).unwrap(), cpu.empty(1, b.cols()).unwrap());
            d.gather_rows(1.0, a, &d.index(&last).unwrap(), &mut x).unwrap();
            cpu.gather_rows(1.0, b, &last.to_vec(), &mut y).unwrap();
            assert!(relative(&read(&d, &x), &read(&cpu, &y)) < 1e-5, "sequence {i}");
        }
    }
}

const MANY: u32 = 200 << 10;

#[test]
fn a_token_is_that_of_the_layers() {
    for shape in &SHAPES {
        check_tokens(shape, &[3], [3, 64, MANY]);
        check_tokens(shape, &[5, 0], [2, 32, MANY]);
        check_tokens(shape, &[1, 70, 33], [1, 96, MANY]);
        check_tokens(shape, &[4, 3, 2, 1, 0, 9, 8], [5, 64, MANY]);
        check_tokens(shape, &[2; 8], [3, 128, MANY]);
    }
}

#[test]
fn many_keys_are_cut_into_parts() {
    check_tokens(&SHAPES[0], &[63, 64, 1100], [3, 64, MANY]);
    check_tokens(&SHAPES[2], &[127, 1023], [2, 64, MANY]);
}

/// Rows of activations that do not fit shared memory pass through it piece by piece.
#[test]
fn wide_rows_pass_in_pieces() {
    let bytes = |rows: usize| (4 << 10) + (4 * rows * 512) as u32;
    check_tokens(&SHAPES[2], &[3], [3, 64, bytes(1)]);
    check_tokens(&SHAPES[2], &[3, 6, 2], [2, 64, bytes(4)]);
}

/// The outcome of a sequence: its latents and hidden states in float32, how many, and whether it ended.
struct Came {
    latents: Vec<Vec<f32>>,
    hidden: Vec<Vec<f32>>,
    ended: bool,
}

/// Latents by the layers, one operation after the other.
fn latents_by_layers<D: Device>(
    d: &D,
    model: &ColarModel<D>,
    cache: &mut KvCache<D>,
    slot: usize,
    sequence: &LatentSequence,
    end: &LatentEnd,
    hidden: D::Tensor,
) -> Came {
    let head = model.latent_head().unwrap();
    let mut came = Came { latents: Vec::new(), hidden: vec![read(d, &hidden)], ended: false };
    let mut h = hidden;
    for drawn in sequence.drawn..sequence.limit {
        let (dist, _) = head.forward(d, &model.params, h).unwrap();
        let width = dist.mu.cols();
        let mut z = d.empty(1, width).unwrap();
        let mut eps = d.empty(1, width).unwrap();
        let draw = Draw { key: sequence.key, counter: [LATENT, drawn as u32] };
        d.normal(&[draw], &mut eps).unwrap();
        let t = sequence.latent_temperature;
        d.reparameterise(&dist.mu, dist.log_sigma.as_ref(), &eps, t, &mut z).unwrap();
        let mut x = d.empty(1, width).unwrap();
        d.gather_rows(model.embeds_std, &z, &d.index(&[0]).unwrap(), &mut x).unwrap();
        let extension = cache.extend(&[(slot, 1)]).unwrap();
        h = model.transformer.forward_cached(d, &model.params, x, &extension, cache).unwrap();
        came.latents.push(read(d, &z));
        came.hidden.push(read(d, &h));
        let draw = Draw { key: sequence.key, counter: [EVENT, drawn as u32] };
        let choice = TokenChoice { temperature: sequence.eol_temperature, top_p: 1.0, draw };
        let w = model.params.get(model.transformer.lm_head);
        if d.token_event(&h, w, end.token, &[choice], end.bias).unwrap()[0] || drawn + 1 == sequence.limit {
            came.ended = true;
            break;
        }
    }
    came
}

/// Latents of different seeds, temperatures and limits; returns how many ended by their draw.
fn check_latents(shape: &Shape, lens: &[usize], bias: f32, limits: [u32; 3]) -> usize {
    let [blocks, threads, shared] = limits;
    let (d, cpu) = (device(Dtype::F32, blocks, threads, shared), CpuDevice::new(1).unwrap());
    let (mine, theirs) = (model(&d, shape, FileDtype::F32), model(&cpu, shape, FileDtype::F32));
    const STEPS: usize = 5;
    let mut my_cache = cache(&d, &mine, lens, 9, &|h| h.up(&d));
    let mut their_cache = cache(&cpu, &theirs, lens, 9, &|h| h.up(&cpu));
    let hidden = Host::normal(lens.len(), shape.hidden, 1.0, 77);
    let end = LatentEnd { token: shape.vocab as u32 / 2, bias, latent_purpose: LATENT, event_purpose: EVENT };
    let sequences: Vec<LatentSequence> = (0..lens.len())
        .map(|i| LatentSequence {
            rows: my_cache.rows(i),
            key: 0x1234_5678_9abc + i as u64,
            drawn: i,
            limit: i + 1 + (3 * i + 2) % 7,
            latent_temperature: [1.0, 0.0, 0.5][i % 3],
            eol_temperature: [1.0, 0.7, 0.0, 2.0][i % 4],
        })
        .collect();
    let mut decoder = d.decoder(mine.for_decoder().unwrap(), lens.len()).unwrap().unwrap();
    let drawn = decoder.latents(my_cache.lend(), &sequences, end, STEPS, &hidden.up(&d)).unwrap();
    let (latents, states) = (read(&d, &drawn.latents), read(&d, &drawn.hidden));
    let mut by_draw = 0;
    for (i, sequence) in sequences.iter().enumerate() {
        let at = format!("sequence {i} of {} on {limits:?}", lens.len());
        let h = Host::new(1, shape.hidden, hidden.values[i * shape.hidden..][..shape.hidden].to_vec());
        let want = latents_by_layers(&cpu, &theirs, &mut their_cache, i, sequence, &end, h.up(&cpu));
        // The call may stop before the latents end.
        let steps = want.latents.len().min(STEPS);
        assert_eq!(drawn.counts[i], steps, "{at}");
        assert_eq!(drawn.ended[i], want.ended && want.latents.len() <= STEPS, "{at}");
        by_draw += usize::from(want.latents.len() < sequence.limit - sequence.drawn);
        let row = |values: &[f32], step: usize| {
            values[(step * lens.len() + i) * shape.hidden..][..shape.hidden].to_vec()
        };
        for step in 0..steps {
            let error = relative(&row(&latents, step), &want.latents[step]);
            assert!(error < 1e-4, "{at}, latent {step}: relative error {error:.1e}");
        }
        for step in 0..=steps {
            let error = relative(&row(&states, step), &want.hidden[step]);
            assert!(error < 1e-4, "{at}, hidden state {step}: relative error {error:.1e}");
        }
    }
    by_draw
}

#[test]
fn latents_are_those_of_the_layers() {
    let mut by_draw = 0;
    for (shape, bias) in SHAPES.iter().zip([2.5, 0.0, 1.0, 3.0]) {
        by_draw += check_latents(shape, &[3], bias, [3, 64, MANY]);
        by_draw += check_latents(shape, &[0, 7], bias, [1, 32, MANY]);
        by_draw += check_latents(shape, &[9, 1, 4], bias, [2, 96, MANY]);
        by_draw += check_latents(shape, &[1, 2, 3, 4, 5, 66, 7, 8], bias, [4, 64, MANY]);
    }
    assert!(by_draw > 5, "{by_draw} sequences ended by their draw");
}

/// Activations in bf16: hidden states and latents stay near those of float32 arithmetic on the same weights.
#[test]
fn in_bf16() {
    let shape = &SHAPES[3];
    let (d, cpu) = (device(Dtype::Bf16, 3, 64, MANY), CpuDevice::new(1).unwrap());
    let (mine, theirs) = (model(&d, shape, FileDtype::Bf16), model(&cpu, shape, FileDtype::Bf16));
    let lens = [3, 70, 12];
    let put = |h: &Host| -> CudaTensor<TestDriver> { d.activations(h.rows, h.cols, &h.values).unwrap() };
    let mut my_cache = cache(&d, &mine, &lens, 1, &put);
    let mut their_cache = cache(&cpu, &theirs, &lens, 1, &|h| h.up(&cpu));
    let choices: Vec<_> = (0..3).map(|i| choice(9, i)).collect();
    let (want, _) = tokens_by_layers(&cpu, &theirs, &mut their_cache, &[1, 2, 3], &choices);
    let mut weights = mine.for_decoder().unwrap();
    // The head is float32 here; a decoder takes one dtype.
    assert!(d.decoder(mine.for_decoder().unwrap(), 3).unwrap().is_none());
    weights.head = None;
    let mut decoder = d.decoder(weights, 3).unwrap().unwrap();
    let rows: Vec<_> = (0..3).map(|i| (my_cache.rows(i), i as u32 + 1)).collect();
    let (hidden, tokens) = decoder.tokens(my_cache.lend(), &rows, &choices, None).unwrap();
    assert_eq!((hidden.dtype(), tokens.len()), (Dtype::Bf16, 3));
    let error = relative(&read(&d, &hidden), &want);
    assert!(error < 2e-2, "relative error {error:.1e}");
}

/// Whole generations, of every kind in one batch, are those of `cpu`.
#[test]
fn generations_are_those_of_the_cpu() {
    for name in ["llama-tiny", "qwen2-tiny"] {
        // A checkpoint without its adapter: the latent head alone.
        let checkpoint = tempfile::tempdir().unwrap();
        for file in ["colar.json", "latent_head.safetensors"] {
            std::fs::copy(golden(name).join("adapter").join(file), checkpoint.path().join(file)).unwrap();
        }
        let options = EngineOptions::new(golden(name)).adapter(checkpoint.path()).threads(1);
        let cpu = Engine::with_options(&options).unwrap();
        let d = device(Dtype::F32, 2, 64, MANY);
        let host = Loaded::new(d, &options.model, options.adapter.as_deref()).unwrap();
        assert!(host.opened.model.for_decoder().is_some());
        let requests: Vec<Request> = (0..18)
            .map(|seed| {
                let text = "Tom has 3 boxes with 24 pens each.";
                let mut r = Request::question(text, "2");
                if seed % 3 == 2 {
                    r.prompt = Prompt::Plain(text.to_owned());
                }
                r.trace = seed == 1;
                r.sampling.seed = seed;
                r.sampling.max_latents = 2 + seed as usize % 8;
                r.sampling.max_new_tokens = 4;
                r.sampling.separator_bias = 2.0;
                r
            })
            .collect();
        for count in [1, 3, 8, 11, 18] {
            let requests = &requests[..count];
            let theirs = cpu.generate_batch(requests).unwrap();
            let mine = host.generate(requests, &mut |_| ()).unwrap();
            for (a, b) in mine.iter().zip(&theirs) {
                assert_eq!((a.n_latents, &a.token_ids), (b.n_latents, &b.token_ids), "{name}, {count}");
                assert_eq!(a.trace.len(), b.trace.len());
            }
        }
    }
}

/// A model that the kernel does not take has no decoder, and a large batch one for a part of it.
#[test]
fn what_it_does_not_take() {
    let d = device(Dtype::F32, 2, 64, MANY);
    let m = model(&d, &SHAPES[0], FileDtype::F32);
    assert!(d.decoder(m.for_decoder().unwrap(), 8).unwrap().is_some());
    assert_eq!(d.decoder(m.for_decoder().unwrap(), 9).unwrap().unwrap().max_rows(), 8);
    let narrow = device(Dtype::F32, 2, 64, (4 << 10) + 4 * 200);
    let m = model(&narrow, &SHAPES[0], FileDtype::F32);
    assert!(narrow.decoder(m.for_decoder().unwrap(), 4).unwrap().is_none());
    let m = model(&d, &SHAPES[0], FileDtype::Bf16);
    assert!(d.decoder(m.for_decoder().unwrap(), 1).unwrap().is_none());
}

/// A sequence that its cache has no room for is refused.
#[test]
fn a_full_cache() {
    let d = device(Dtype::F32, 2, 64, MANY);
    let m = model(&d, &SHAPES[0], FileDtype::F32);
    let mut full = cache(&d, &m, &[4], 0, &|h| h.up(&d));
    let rows = full.rows(0);
    let mut decoder = d.decoder(m.for_decoder().unwrap(), 1).unwrap().unwrap();
    let Err(error) = decoder.tokens(full.lend(), &[(rows, 1)], &[choice(1, 0)], None) else {
        panic!("it took a fifth row of four")
    };
    assert!(error.to_string().contains("row 5 of the cache"), "{error}");
}
