//! The traffic of operations on a GPU, counted where their kernels run on the CPU, and a time predicted from it.
//!
//! A row is an operation of the table, or a step of the decoder; each of its launches is counted
//! ([`HostDriver::counting`]) and predicted ([`predict`]). Products of many rows are the library's and no kernels of ours:
//! such rows have no launches.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::operands::{activations, floats, weight};
use super::table::{Case, table};
use crate::bench::timer::Work;
use crate::device::block::Block;
use crate::device::cuda::CudaDevice;
use crate::device::cuda::host::HostDriver;
use crate::device::cuda::host::observed_library::{Instrument, compile, lines_of};
use crate::device::cuda::host::predict::{Prediction, predict};
use crate::device::cuda::host::traffic::{Site, Traffic};
use crate::device::decoder::{
    CacheMut, CachedRows, Decoder, DecoderHead, DecoderModel, LatentEnd, LatentSequence, Projection,
};
use crate::device::{DecoderOps, Device, Draw, Dtype, HeadShape, MemoryOps, TokenChoice};
use crate::model::config::ModelConfig;
use crate::{Error, Result};

/// Blocks of a launch whose accesses are seen, where its blocks do not wait for each other.
const BLOCKS: u32 = 8;

/// Positions that a decoder's sequences hold.
const POSITIONS: usize = 128;

/// Sequences of a decoder's step.
const SEQUENCES: [usize; 2] = [1, 8];

/// Settings of a count.
#[derive(Debug, Clone)]
pub struct CountOptions {
    /// The model whose shapes are taken.
    pub config: ModelConfig,
    /// Part of the names of the operations wanted.
    pub filter: Option<String>,
    /// The directory of the kernels' sources (`cuda`), which are compiled with a call at every access.
    pub sources: PathBuf,
    /// Dtype of activations.
    pub dtype: Dtype,
    /// Threads of the operating system; 0: one a core.
    pub threads: usize,
}

/// A place of the source.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CountedLine {
    /// File and line, and those that it is inlined into; a place in the library where that is not known.
    pub line: String,
    /// The accesses there.
    #[serde(flatten)]
    pub site: Site,
}

/// A launch.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CountedLaunch {
    /// The time that follows on an H100.
    #[serde(flatten)]
    pub prediction: Prediction,
    /// Its traffic.
    #[serde(flatten)]
    pub traffic: Traffic,
    /// The places, those that take most of what they need not first.
    pub lines: Vec<CountedLine>,
}

/// An operation at one shape.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CountedRow {
    /// The operation.
    pub operation: &'static str,
    /// Shapes.
    pub shape: String,
    /// Bytes read and written at least.
    pub bytes: u64,
    /// The sum of its launches' predicted times.
    pub predicted_us: f64,
    /// Its launches.
    pub launches: Vec<CountedLaunch>,
}

type Counting = CudaDevice<HostDriver>;

/// Counts each row whose name has the filter in it; calls `counted` with each once it is there.
///
/// # Errors
/// [`Error::Usage`] if no row has the filter in its name; sources that cannot be read or compiled; errors of the device.
pub fn counts(
    options: &CountOptions,
    counted: &mut (dyn FnMut(&CountedRow) + Send),
) -> Result<Vec<CountedRow>> {
    if !options.sources.join("host/observed").is_dir() {
        return Err(Error::file(&options.sources, "is not the directory of the kernels' sources (cuda)"));
    }
    let filter = options.filter.as_deref().unwrap_or_default();
    // The rows depend on the device's dtype alone, so a filter that has none is refused before anything is compiled.
    let plain = CudaDevice::new(HostDriver::new(options.threads, 0)?, options.dtype);
    let mut cases = table(&plain, &options.config);
    cases.extend(decoder_steps(&plain, &options.config));
    cases.retain(|case| case.name().contains(filter));
    if cases.is_empty() {
        return Err(Error::usage(format!("`filter` {filter}: no operation has this in its name")));
    }
    let dir = tempfile::tempdir().map_err(Error::io(std::env::temp_dir()))?;
    let library = compile(&options.sources, Instrument::Traffic, dir.path())?;
    // SAFETY: it was just made for this.
    let driver = unsafe { HostDriver::counting(options.threads, &library, BLOCKS) }?;
    let device = CudaDevice::new(driver.clone(), options.dtype);
    let mut rows = Vec::with_capacity(cases.len());
    for case in &cases {
        let mut work = case.work_on(&device, 1)?;
        driver.take_traffic();
        work(&device, 0)?;
        let launches: Vec<_> = driver.take_traffic().into_iter().map(|t| launch(t, &library)).collect();
        let predicted_us = launches.iter().map(|launch| launch.prediction.predicted_us).sum();
        let (operation, shape, bytes) = (case.operation, case.shape.clone(), case.bytes);
        let row = CountedRow { operation, shape, bytes, predicted_us, launches };
        counted(&row);
        rows.push(row);
    }
    Ok(rows)
}

fn launch(traffic: Traffic, library: &Path) -> CountedLaunch {
    let prediction = predict(&traffic);
    let mut sites = traffic.sites.clone();
    sites.sort_by(|a, b| b.excess().total_cmp(&a.excess()));
    let places: Vec<u64> = sites.iter().map(|site| site.place).collect();
    let named = lines_of(library, &places).into_iter().zip(sites);
    let lines = named.map(|(line, site)| CountedLine {
        line: line.unwrap_or_else(|| format!("+{:#x}", site.place)),
        site,
    });
    let lines = lines.collect();
    CountedLaunch { prediction, traffic, lines }
}

/// Steps of the decoder: a token, and a latent with the event that may end the latents.
fn decoder_steps(device: &Counting, config: &ModelConfig) -> Vec<Case<Counting>> {
    let c = config.clone();
    let width = device.compute_dtype().size();
    let weights = usize::try_from(config.num_parameters()).unwrap_or(usize::MAX) * width;
    // The embedding gives one row; where it is the output matrix too, that is read whole.
    let read = weights - if c.tie_word_embeddings { 0 } else { c.vocab_size * c.hidden_size * width };
    let head = 4 * c.hidden_size * c.hidden_size * width;
    let mut cases = Vec::new();
    for n in SEQUENCES {
        let cache = 2 * n * POSITIONS * c.num_hidden_layers * c.kv_size() * width;
        let shape = format!("{n} after {POSITIONS}");
        for (operation, more, latent) in [("decoder token", 0, false), ("decoder latent", head, true)] {
            let config = config.clone();
            let make = move |device: &Counting, _| {
                let weights = Weights::new(device, &config, latent)?;
                weights.step(device, &config, n, latent)
            };
            let bytes = read + more + cache;
            cases.push(Case::new(operation, shape.clone(), bytes as u64, 2 * n * weights / width, make));
        }
    }
    cases
}

type Tensor = <Counting as MemoryOps>::Tensor;

/// A model's weights, random.
struct Weights {
    embed: Tensor,
    lm_head: Option<Tensor>,
    norm: Tensor,
    inv_freq: Tensor,
    layers: Vec<Block<Tensor, (Tensor, Option<Tensor>)>>,
    head: Option<HeadWeights>,
}

/// A latent head's weights.
struct HeadWeights {
    /// Matrix and bias of its linear layers: the first two, mean, and log of the deviation.
    linear: [(Tensor, Tensor); 4],
    /// Weight and bias of its norm.
    norm: [Tensor; 2],
}

impl Weights {
    fn new(device: &Counting, config: &ModelConfig, latent: bool) -> Result<Self> {
        let (h, dtype) = (config.hidden_size, device.compute_dtype());
        let mut set = 0;
        let mut matrix = |rows, cols| {
            set += 1;
            weight(device, rows, cols, dtype, set)
        };
        let vector = |n| floats(device, 1, n, 0);
        let embed = matrix(config.vocab_size, h)?;
        let lm_head = if config.tie_word_embeddings { None } else { Some(matrix(config.vocab_size, h)?) };
        let layer = |_| {
            let block = config.block().map_norms(|norm| vector(norm.size));
            let block = block.map_projections(|p| {
                let bias = if p.bias { Some(vector(p.out)?) } else { None };
                Ok((matrix(p.out, p.input)?, bias))
            });
            block.transpose()
        };
        let layers = (0..config.num_hidden_layers).map(layer).collect::<Result<Vec<_>>>()?;
        let mut linear = || Ok::<_, Error>((matrix(h, h)?, vector(h)?));
        let head = match latent {
            true => Some(HeadWeights {
                linear: [linear()?, linear()?, linear()?, linear()?],
                norm: [vector(h)?, vector(h)?],
            }),
            false => None,
        };
        let inv_freq = config.rope_inv_freq();
        let inv_freq = device.upload(1, inv_freq.len(), &inv_freq)?;
        Ok(Weights { embed, lm_head, norm: vector(h)?, inv_freq, layers, head })
    }

    fn model(&self, config: &ModelConfig) -> DecoderModel<'_, Counting> {
        let heads = HeadShape {
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
        };
        fn projection((weight, bias): &(Tensor, Option<Tensor>)) -> Projection<'_, Counting> {
            Projection { weight, bias: bias.as_ref() }
        }
        let layers = self.layers.iter().map(|layer| layer.each().map_projections(projection));
        let head = self.head.as_ref().map(|head| {
            let [fc0, fc2, mean, log_std] = head.linear.each_ref().map(|(matrix, bias)| [matrix, bias]);
            DecoderHead { fc0, fc2, norm: head.norm.each_ref(), mean, log_std: Some(log_std) }
        });
        DecoderModel {
            heads,
            rms_norm_eps: config.rms_norm_eps,
            embeds_std: 0.02,
            embed: &self.embed,
            lm_head: self.lm_head.as_ref().unwrap_or(&self.embed),
            norm: &self.norm,
            inv_freq: &self.inv_freq,
            layers: layers.collect(),
            head,
        }
    }

    /// The call of a step.
    fn step(self, device: &Counting, config: &ModelConfig, n: usize, latent: bool) -> Result<Work<Counting>> {
        const ROOM: usize = POSITIONS + 2;
        let cache = || {
            let layer = |i| activations(device, n * ROOM, config.kv_size(), i);
            (0..config.num_hidden_layers).map(layer).collect::<Result<Vec<_>>>()
        };
        let (mut keys, mut values) = (cache()?, cache()?);
        let hidden = activations(device, n, config.hidden_size, 0)?;
        let config = config.clone();
        let rows = |i: usize| CachedRows { first: i * ROOM, len: POSITIONS };
        Ok(Box::new(move |device, _| {
            let model = self.model(&config);
            let Some(mut decoder) = device.decoder(model, n)? else {
                return Err(Error::other("the decoder takes no model of this shape"));
            };
            let cache = CacheMut { keys: &mut keys, values: &mut values };
            if latent {
                let of = |i| LatentSequence {
                    rows: rows(i),
                    key: 1 + i as u64,
                    drawn: 0,
                    limit: 8,
                    latent_temperature: 1.0,
                    eol_temperature: 1.0,
                };
                let sequences: Vec<_> = (0..n).map(of).collect();
                let end = LatentEnd { token: 7, bias: 0.0, latent_purpose: 0x10, event_purpose: 0x11 };
                return decoder.latents(cache, &sequences, end, 1, &hidden).map(drop);
            }
            let fed: Vec<_> = (0..n).map(|i| (rows(i), 7)).collect();
            let greedy = TokenChoice { temperature: 0.0, top_p: 1.0, draw: Draw { key: 0, counter: [0, 0] } };
            decoder.tokens(cache, &fed, &vec![greedy; n], None).map(drop)
        }))
    }
}
