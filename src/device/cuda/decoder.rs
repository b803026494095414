//! Launches of `cuda/decode.cu`: a decoding step, or all latents of a sequence, as one kernel of blocks that all run
//! at the same time.
//!
//! The weights' addresses stand in two tables on the device, written once a decoder. For a step the host uploads
//! only the state of the sequences. Latents need nothing of the host until they end.

use std::mem::offset_of;

use bytemuck::{Pod, Zeroable};

use super::driver::{Arg, Driver, Launch, Limits, Memory};
use super::kernels::{Kernel, by_activation, kernels};
use super::tensor::upload;
use super::{CudaDevice, CudaTensor, count32};
use crate::device::Dtype;
use crate::device::decoder::{
    CacheMut, CachedRows, Decoder, DecoderHead, DecoderLayer, DecoderModel, DecoderOps, Drawn, LatentEnd,
    LatentSequence, Projection,
};
use crate::device::memory::MemoryOps;
use crate::device::rows::RowOps;
use crate::device::sampling::TokenChoice;
use crate::device::shape::{TensorInfo, check, check_below, check_len};
use crate::{Error, Result};

kernels! {
    "decode":
    decode_f32_1 decode_f32_2 decode_f32_4 decode_f32_8 decode_bf16_1 decode_bf16_2 decode_bf16_4
    decode_bf16_8
}

/// Most parts of a sequence's keys. `PARTS` of `cuda/attend.cuh`.
const PARTS: usize = 16;

/// Sequences that a kernel is compiled for.
const FORMS: [usize; 4] = [1, 2, 4, 8];

/// Elements that a lane takes of a row at once; widths must be a multiple of it.
const LANE: usize = 8;

/// Widest head, as of `attend_part`.
const MAX_DIM: usize = 128;

/// Columns that a step of a warp takes at most; a piece of a row that does not fit shared memory is a multiple.
const STEP: usize = 256;

/// Shared memory left to arrays of fixed size.
const FIXED_SHARED: usize = 4 << 10;

/// `Layer` of the kernel: addresses, 0 for absent weights.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct LayerTable {
    input_norm: u64,
    q: u64,
    q_bias: u64,
    k: u64,
    k_bias: u64,
    v: u64,
    v_bias: u64,
    q_norm: u64,
    k_norm: u64,
    o: u64,
    post_norm: u64,
    gate: u64,
    up: u64,
    down: u64,
}

/// `Model` of the kernel: sizes, and addresses, 0 for absent weights.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct ModelTable {
    layers: u32,
    hidden: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    inner: u32,
    vocab: u32,
    head_inner: u32,
    eps: f32,
    embeds_std: f32,
    staged: u32,
    unused: u32,
    embed: u64,
    lm_head: u64,
    norm: u64,
    inv_freq: u64,
    head: HeadTable,
    stream: u64,
    q: u64,
    k: u64,
    partials: u64,
    act: u64,
    outer: u64,
    logits: u64,
    z: u64,
    lost: u64,
    shares: u64,
}

/// `Head` of the kernel: the latent head's addresses, 0 for absent weights.
#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
struct HeadTable {
    fc0: u64,
    fc0_bias: u64,
    fc2: u64,
    fc2_bias: u64,
    norm: u64,
    norm_bias: u64,
    mean: u64,
    mean_bias: u64,
    log_std: u64,
    log_std_bias: u64,
}

/// `Sequence` of the kernel.
#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
struct SequenceWords {
    first: u32,
    length: u32,
    token: u32,
    open: u32,
    key: [u32; 2],
    drawn: u32,
    limit: u32,
    latent_temperature: f32,
    eol_temperature: f32,
    unused: [u32; 2],
}

/// Checks where a table's fields stand, as `LAID_OUT` of the kernel's headers does for its mirror.
macro_rules! laid_out {
    ($table:ty, $size:literal, $($field:ident $at:literal),*) => {
        const _: () = assert!(size_of::<$table>() == $size $(&& offset_of!($table, $field) == $at)*);
    };
}

laid_out!(LayerTable, 112, input_norm 0, q 8, q_bias 16, k 24, k_bias 32, v 40, v_bias 48, q_norm 56, k_norm 64);
laid_out!(LayerTable, 112, o 72, post_norm 80, gate 88, up 96, down 104);
laid_out!(ModelTable, 240, layers 0, hidden 4, heads 8, kv_heads 12, head_dim 16, inner 20, vocab 24);
laid_out!(ModelTable, 240, head_inner 28, eps 32, embeds_std 36, staged 40, embed 48, lm_head 56, norm 64);
laid_out!(ModelTable, 240, inv_freq 72, head 80, stream 160, q 168, k 176, partials 184, act 192, outer 200);
laid_out!(ModelTable, 240, logits 208, z 216, lost 224, shares 232);
laid_out!(HeadTable, 80, fc0 0, fc0_bias 8, fc2 16, fc2_bias 24, norm 32, norm_bias 40, mean 48);
laid_out!(HeadTable, 80, mean_bias 56, log_std 64, log_std_bias 72);
laid_out!(SequenceWords, 48, first 0, length 4, token 8, open 12, key 16, drawn 24, limit 28);
laid_out!(SequenceWords, 48, latent_temperature 32, eol_temperature 36);

/// Sizes of a model, and the shared memory of a launch that follows from them.
#[derive(Debug, Clone, Copy)]
struct DecoderSizes {
    hidden: usize,
    kv_width: usize,
    vocab: usize,
    layers: usize,
    /// Sequences it has room for.
    rows: usize,
    /// Floats of shared memory for activations.
    staged: usize,
}

/// Decodes up to eight sequences of a model whose weights have the compute dtype.
pub struct CudaDecoder<'a, R: Driver> {
    device: &'a CudaDevice<R>,
    // The tables hold addresses of the weights that this borrows.
    _model: DecoderModel<'a, CudaDevice<R>>,
    plan: DecoderSizes,
    model: R::Memory,
    layers: R::Memory,
    logits: CudaTensor<R>,
    _scratch: Vec<R::Memory>,
    arrived: R::Memory,
    /// Addresses of the cache's tensors, and the tables that hold them: keys, then values.
    cache: Option<(Vec<u64>, [R::Memory; 2])>,
}

impl<R: Driver> DecoderOps for CudaDevice<R> {
    type Decoder<'a> = CudaDecoder<'a, R>;

    /// There is one if the model is one that the kernel takes.
    fn decoder<'a>(
        &'a self,
        model: DecoderModel<'a, Self>,
        rows: usize,
    ) -> Result<Option<CudaDecoder<'a, R>>> {
        match self.plan(&model, rows) {
            Some(plan) => CudaDecoder::new(self, model, plan).map(Some),
            None => Ok(None),
        }
    }

    fn decoder_bytes(&self, model: &DecoderModel<'_, Self>, rows: usize, steps: usize) -> usize {
        let Some(plan) = self.plan(model, rows) else { return 0 };
        let kept = (2 * steps + 2) * plan.hidden * self.compute.size();
        let a_row = Scratch::of(model, self.driver.limits()).bytes() + plan.vocab * size_of::<f32>();
        rows * (a_row + kept) + 16 * plan.layers * size_of::<LayerTable>()
    }
}

impl<R: Driver> CudaDevice<R> {
    fn plan(&self, model: &DecoderModel<'_, Self>, rows: usize) -> Option<DecoderSizes> {
        let heads = model.heads;
        let first = model.layers.first()?;
        let (hidden, inner) = (model.embed.cols(), first.gate.weight.rows());
        let head_inner = model.head.as_ref().map_or(LANE, |h| h.fc0[0].rows());
        let widths = [hidden, inner, head_inner, heads.q_width(), heads.head_dim];
        if widths.iter().any(|w| w % LANE != 0) || heads.head_dim > MAX_DIM {
            return None;
        }
        if matrices(model).any(|w| w.dtype() != self.compute) {
            return None;
        }
        // The kernel adds biases where it rotates.
        let biased =
            |l: &DecoderLayer<'_, Self>| [&l.o, &l.gate, &l.up, &l.down].iter().any(|p| p.bias.is_some());
        // Heads of queries and of keys are normalised together, or neither.
        let half_normed = |l: &DecoderLayer<'_, Self>| l.q_norm.is_some() != l.k_norm.is_some();
        if model.layers.iter().any(|l| biased(l) || half_normed(l)) {
            return None;
        }
        let limits = self.driver.limits();
        let rows = rows.min(FORMS[FORMS.len() - 1]);
        let form = FORMS.into_iter().find(|&form| rows <= form)?;
        let room = (limits.shared as usize).checked_sub(FIXED_SHARED)? / size_of::<f32>() / form;
        // As `staged_length` of cuda/stream.cuh: rows beside 16-bit weights take whole steps of a warp.
        let length =
            |cols: usize| if self.compute == Dtype::F32 { cols } else { cols.next_multiple_of(STEP) };
        let widest = length(inner.max(heads.q_width()));
        // Rows that are normalised are staged whole, others piece by piece if they must.
        let whole = length(hidden.max(head_inner));
        if whole.max(widest.min(STEP)) > room {
            return None;
        }
        let staged = form * whole.max(if widest > room { room / STEP * STEP } else { widest });
        let kv_width = heads.kv_width();
        let (vocab, layers) = (model.lm_head.rows(), model.layers.len());
        Some(DecoderSizes { hidden, kv_width, vocab, layers, rows, staged })
    }
}

/// Bytes a sequence of the buffers between the phases of a step, named as in the kernel's `Model`; the logits stand
/// beside them.
struct Scratch {
    stream: usize,
    q: usize,
    k: usize,
    partials: usize,
    act: usize,
    outer: usize,
    z: usize,
    lost: usize,
    shares: usize,
}

impl Scratch {
    fn of<R: Driver>(model: &DecoderModel<'_, CudaDevice<R>>, limits: Limits) -> Self {
        let heads = model.heads;
        let inner = model.layers.first().map_or(0, |l| l.gate.weight.rows());
        let head_inner = model.head.as_ref().map_or(0, |h| h.fc0[0].rows());
        // Keys stand in the cache at once unless they are normalised first.
        let normed = model.layers.iter().any(|l| l.k_norm.is_some());
        let warps = (limits.blocks * limits.threads / 32) as usize;
        let floats = |n: usize| n * size_of::<f32>();
        Scratch {
            stream: floats(model.embed.cols()),
            q: floats(heads.q_width()),
            k: if normed { floats(heads.kv_width()) } else { 0 },
            partials: floats(heads.heads * PARTS * (heads.head_dim + 2)),
            act: floats(inner.max(head_inner)),
            outer: floats(head_inner),
            z: size_of::<f64>(),
            lost: size_of::<u32>(),
            shares: 2 * warps * size_of::<f64>(),
        }
    }

    fn bytes(&self) -> usize {
        let Scratch { stream, q, k, partials, act, outer, z, lost, shares } = self;
        stream + q + k + partials + act + outer + z + lost + shares
    }
}

/// The matrices that kernels read in the compute dtype.
fn matrices<'b, R: Driver>(
    model: &'b DecoderModel<'_, CudaDevice<R>>,
) -> impl Iterator<Item = &'b CudaTensor<R>> {
    let layers = model.layers.iter().flat_map(|l| l.projections().map(|p| p.weight));
    let head = model.head.iter().flat_map(|h| {
        [Some(h.fc0[0]), Some(h.fc2[0]), Some(h.mean[0]), h.log_std.map(|l| l[0])].into_iter().flatten()
    });
    [model.embed, model.lm_head].into_iter().chain(layers).chain(head)
}

/// Checks a matrix and gives its address.
fn address<R: Driver>(name: &str, t: &CudaTensor<R>, rows: usize, cols: usize, dtype: Dtype) -> Result<u64> {
    check(OP, name, t, rows, cols)?;
    Ok(t.read(OP, name, dtype)?.address())
}

const OP: &str = "decoder";

impl<'a, R: Driver> CudaDecoder<'a, R> {
    fn new(
        device: &'a CudaDevice<R>,
        model: DecoderModel<'a, CudaDevice<R>>,
        plan: DecoderSizes,
    ) -> Result<Self> {
        let compute = device.compute;
        let DecoderSizes { hidden, vocab, rows, staged, .. } = plan;
        let heads = model.heads;
        let (q_width, kv_width) = (heads.q_width(), heads.kv_width());
        let inner = model.layers[0].gate.weight.rows();
        let vector = |name: &str, t: &CudaTensor<R>, cols: usize| address(name, t, 1, cols, Dtype::F32);
        let matrix =
            |name: &str, t: &CudaTensor<R>, rows: usize, cols: usize| address(name, t, rows, cols, compute);
        let bias = |name: &str, p: &Projection<'_, CudaDevice<R>>, len: usize| {
            p.bias.map_or(Ok(0), |bias| vector(name, bias, len))
        };
        let layer = |l: &DecoderLayer<'_, CudaDevice<R>>| -> Result<LayerTable> {
            Ok(LayerTable {
                input_norm: vector("input_norm", l.input_norm, hidden)?,
                q: matrix("q", l.q.weight, q_width, hidden)?,
                q_bias: bias("q_bias", &l.q, q_width)?,
                k: matrix("k", l.k.weight, kv_width, hidden)?,
                k_bias: bias("k_bias", &l.k, kv_width)?,
                v: matrix("v", l.v.weight, kv_width, hidden)?,
                v_bias: bias("v_bias", &l.v, kv_width)?,
                q_norm: l.q_norm.map_or(Ok(0), |norm| vector("q_norm", norm, heads.head_dim))?,
                k_norm: l.k_norm.map_or(Ok(0), |norm| vector("k_norm", norm, heads.head_dim))?,
                o: matrix("o", l.o.weight, hidden, q_width)?,
                post_norm: vector("post_norm", l.post_norm, hidden)?,
                gate: matrix("gate", l.gate.weight, inner, hidden)?,
                up: matrix("up", l.up.weight, inner, hidden)?,
                down: matrix("down", l.down.weight, hidden, inner)?,
            })
        };
        let layers = model.layers.iter().map(layer).collect::<Result<Vec<LayerTable>>>()?;
        let head_inner = model.head.as_ref().map_or(0, |h| h.fc0[0].rows());
        let head = |h: &DecoderHead<'_, CudaDevice<R>>| -> Result<HeadTable> {
            let pair = |name: &str, [w, b]: [&CudaTensor<R>; 2], rows: usize, cols: usize| {
                Ok::<_, Error>([matrix(name, w, rows, cols)?, vector(name, b, rows)?])
            };
            let [fc0, fc0_bias] = pair("fc0", h.fc0, head_inner, hidden)?;
            let [fc2, fc2_bias] = pair("fc2", h.fc2, head_inner, head_inner)?;
            let [norm, norm_bias] =
                [vector("norm", h.norm[0], head_inner)?, vector("norm", h.norm[1], head_inner)?];
            let [mean, mean_bias] = pair("mean", h.mean, hidden, head_inner)?;
            let [log_std, log_std_bias] =
                h.log_std.map_or(Ok([0; 2]), |l| pair("log_std", l, hidden, head_inner))?;
            Ok(HeadTable {
                fc0,
                fc0_bias,
                fc2,
                fc2_bias,
                norm,
                norm_bias,
                mean,
                mean_bias,
                log_std,
                log_std_bias,
            })
        };
        let driver = &device.driver;
        let limits = driver.limits();
        let logits = device.tensor(OP, rows, vocab, Dtype::F32)?;
        let scratch = Scratch::of(&model, limits);
        let mut memory = Vec::new();
        let mut alloc = |bytes: usize| -> Result<u64> {
            memory.push(driver.alloc(rows * bytes)?);
            Ok(memory.last().map_or(0, Memory::address))
        };
        let size = |n: usize| count32(OP, n);
        let table = ModelTable {
            layers: size(model.layers.len())?,
            hidden: size(hidden)?,
            heads: size(heads.heads)?,
            kv_heads: size(heads.kv_heads)?,
            head_dim: size(heads.head_dim)?,
            inner: size(inner)?,
            vocab: size(vocab)?,
            head_inner: size(head_inner)?,
            eps: model.rms_norm_eps,
            embeds_std: model.embeds_std,
            staged: size(staged)?,
            unused: 0,
            embed: matrix("embed", model.embed, vocab, hidden)?,
            lm_head: matrix("lm_head", model.lm_head, vocab, hidden)?,
            norm: vector("norm", model.norm, hidden)?,
            inv_freq: vector("inv_freq", model.inv_freq, heads.head_dim / 2)?,
            head: model.head.as_ref().map_or(Ok(HeadTable::default()), head)?,
            stream: alloc(scratch.stream)?,
            q: alloc(scratch.q)?,
            k: alloc(scratch.k)?,
            partials: alloc(scratch.partials)?,
            act: alloc(scratch.act)?,
            outer: alloc(scratch.outer)?,
            logits: logits.memory.address(),
            z: alloc(scratch.z)?,
            lost: alloc(scratch.lost)?,
            shares: alloc(scratch.shares)?,
        };
        Ok(CudaDecoder {
            device,
            _model: model,
            plan,
            model: upload(driver, &[table])?,
            layers: upload(driver, &layers)?,
            logits,
            _scratch: memory,
            arrived: driver.alloc(size_of::<u32>())?,
            cache: None,
        })
    }

    /// Tables of the cache's addresses, made anew when they have changed.
    fn cache_tables(&mut self, cache: &CacheMut<'_, CudaDevice<R>>) -> Result<[Arg; 2]> {
        let DecoderSizes { kv_width, layers, .. } = self.plan;
        let of = |name: &str, tensors: &[CudaTensor<R>]| -> Result<Vec<u64>> {
            check_len(OP, name, tensors.len(), layers)?;
            let rows = tensors[0].rows();
            tensors.iter().map(|t| address(name, t, rows, kv_width, self.device.compute)).collect()
        };
        let (keys, values) = (of("keys", cache.keys)?, of("values", cache.values)?);
        let both = [keys.as_slice(), &values].concat();
        if self.cache.as_ref().is_none_or(|(known, _)| known != &both) {
            let driver = &self.device.driver;
            self.cache = Some((both, [upload(driver, &keys)?, upload(driver, &values)?]));
        }
        let Some((_, [keys, values])) = &self.cache else { return Err(Error::other("no cache")) };
        Ok([keys.into(), values.into()])
    }

    /// Runs the kernel on sequences of `cache`, each of which may grow by `grows` rows.
    #[allow(clippy::too_many_arguments)]
    fn run(
        &mut self,
        cache: &CacheMut<'_, CudaDevice<R>>,
        sequences: &[SequenceWords],
        grows: usize,
        steps: usize,
        end: LatentEnd,
        hidden: &mut CudaTensor<R>,
        latents: Option<&mut CudaTensor<R>>,
    ) -> Result<R::Memory> {
        let count = sequences.len();
        if count == 0 || count > self.plan.rows {
            return Err(Error::Shape {
                op: OP,
                what: format!("{count} sequences, has room for {}", self.plan.rows),
            });
        }
        for s in sequences {
            let last = s.first as usize + s.length as usize + grows;
            if cache.keys.iter().chain(&*cache.values).any(|t| t.rows() < last) {
                return Err(Error::Shape {
                    op: OP,
                    what: format!("a sequence needs row {last} of the cache"),
                });
            }
        }
        check_below(OP, "the separator", &[end.token], self.plan.vocab)?;
        let [keys, values] = self.cache_tables(cache)?;
        let compute = self.device.compute;
        let driver = &self.device.driver;
        let on_device = upload(driver, sequences)?;
        driver.zero(&self.arrived)?;
        let latents = match latents {
            Some(latents) => Arg::from(latents.write(OP, "latents", compute)?),
            None => Arg::Pointer(0),
        };
        let args = [
            Arg::from(&self.model),
            Arg::from(&self.layers),
            keys,
            values,
            Arg::from(&on_device),
            (count as u32).into(),
            count32(OP, steps)?.into(),
            end.token.into(),
            end.bias.into(),
            end.latent_purpose.into(),
            end.event_purpose.into(),
            Arg::from(hidden.write(OP, "hidden", compute)?),
            latents,
            Arg::from(&self.arrived),
        ];
        let limits = driver.limits();
        let launch = Launch {
            kernel: kernel(count, compute)?,
            grid: [limits.blocks, 1],
            block: limits.threads,
            shared: (self.plan.staged * size_of::<f32>()) as u32,
            args: &args,
            together: true,
        };
        // SAFETY: the tables hold addresses of tensors that this decoder borrows or owns, of the shapes and dtypes
        // checked when they were written; the sequences' rows lie in the cache, which the caller lends for
        // writing; `hidden` and `latents` have a row a step and sequence.
        unsafe { driver.launch(&launch) }?;
        Ok(on_device)
    }
}

/// The kernel for so many sequences.
fn kernel(count: usize, dtype: Dtype) -> Result<&'static Kernel> {
    let forms = match count {
        0..=1 => [&decode_f32_1, &decode_bf16_1],
        2 => [&decode_f32_2, &decode_bf16_2],
        3..=4 => [&decode_f32_4, &decode_bf16_4],
        _ => [&decode_f32_8, &decode_bf16_8],
    };
    by_activation(OP, dtype, forms)
}

impl<R: Driver> Decoder<CudaDevice<R>> for CudaDecoder<'_, R> {
    fn max_rows(&self) -> usize {
        self.plan.rows
    }

    fn latents(
        &mut self,
        cache: CacheMut<'_, CudaDevice<R>>,
        sequences: &[LatentSequence],
        end: LatentEnd,
        steps: usize,
        hidden: &CudaTensor<R>,
    ) -> Result<Drawn<CudaDevice<R>>> {
        let (device, width, count) = (self.device, self.plan.hidden, sequences.len());
        check(OP, "hidden", hidden, count, width)?;
        if self._model.head.is_none() {
            return Err(Error::Shape { op: OP, what: "the model has no latent head".into() });
        }
        let words = sequences.iter().map(|s| {
            Ok(SequenceWords {
                open: u32::from(s.drawn < s.limit),
                key: [s.key as u32, (s.key >> 32) as u32],
                drawn: count32(OP, s.drawn)?,
                limit: count32(OP, s.limit)?,
                latent_temperature: s.latent_temperature,
                eol_temperature: s.eol_temperature,
                ..place(s.rows)?
            })
        });
        let mut words = words.collect::<Result<Vec<SequenceWords>>>()?;
        let steps = sequences.iter().map(|s| s.limit.saturating_sub(s.drawn)).max().unwrap_or(0).min(steps);
        let mut all_hidden = device.empty((steps + 1) * count, width)?;
        let mut latents = device.empty(steps * count, width)?;
        let rows: Vec<u32> = (0..count as u32).collect();
        device.scatter_rows(1.0, hidden, &device.index(&rows)?, &mut all_hidden)?;
        if steps > 0 {
            let on_device =
                self.run(&cache, &words, steps, steps, end, &mut all_hidden, Some(&mut latents))?;
            device.driver.download(&on_device, bytemuck::cast_slice_mut(&mut words))?;
        }
        Ok(Drawn {
            latents,
            hidden: all_hidden,
            counts: words.iter().zip(sequences).map(|(w, s)| w.drawn as usize - s.drawn).collect(),
            ended: words.iter().map(|w| w.open == 0).collect(),
        })
    }

    fn tokens(
        &mut self,
        cache: CacheMut<'_, CudaDevice<R>>,
        fed: &[(CachedRows, u32)],
        choices: &[TokenChoice],
        bias: Option<(u32, f32)>,
    ) -> Result<(CudaTensor<R>, Vec<u32>)> {
        let (device, vocab) = (self.device, self.plan.vocab);
        check_len(OP, "choices", choices.len(), fed.len())?;
        let ids: Vec<u32> = fed.iter().map(|f| f.1).collect();
        check_below(OP, "tokens", &ids, vocab)?;
        check_below(OP, "bias token", bias.map(|b| b.0).as_slice(), vocab)?;
        let sequences = fed.iter().map(|&(rows, token)| Ok(SequenceWords { token, open: 1, ..place(rows)? }));
        let sequences = sequences.collect::<Result<Vec<SequenceWords>>>()?;
        let mut hidden = device.empty(fed.len(), self.plan.hidden)?;
        let no_end = LatentEnd { token: 0, bias: 0.0, latent_purpose: 0, event_purpose: 0 };
        self.run(&cache, &sequences, 1, 0, no_end, &mut hidden, None)?;
        let mut tokens = Vec::with_capacity(fed.len());
        device.choose_from(&self.logits.memory, vocab, choices, bias, &mut tokens)?;
        Ok((hidden, tokens))
    }
}

fn place(rows: CachedRows) -> Result<SequenceWords> {
    let (first, length) = (count32(OP, rows.first)?, count32(OP, rows.len)?);
    Ok(SequenceWords { first, length, ..SequenceWords::default() })
}
