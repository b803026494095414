//! Keys and values kept between forward passes: one matrix of keys and one of values per layer, cut
//! into slots of `capacity` rows, one slot a sequence.

use super::config::ModelConfig;
use crate::device::decoder::{CacheMut, CachedRows};
use crate::device::{Device, Dtype, Span, TensorInfo};
use crate::{Error, Result};

/// The cache of a batch of sequences.
pub struct KvCache<D: Device> {
    /// Per layer, `[slots · capacity, kv_width]`.
    pub(super) keys: Vec<D::Tensor>,
    /// Per layer, `[slots · capacity, kv_width]`.
    pub(super) values: Vec<D::Tensor>,
    capacity: usize,
    lens: Vec<usize>,
}

impl<D: Device> KvCache<D> {
    /// A cache for `slots` sequences of at most `capacity` positions each.
    ///
    /// # Errors
    /// Errors of the device, for instance too little memory.
    pub fn new(device: &D, config: &ModelConfig, slots: usize, capacity: usize) -> Result<Self> {
        let width = config.num_key_value_heads * config.head_dim;
        let make = || -> Result<Vec<D::Tensor>> {
            (0..config.num_hidden_layers).map(|_| device.empty(slots * capacity, width)).collect()
        };
        Ok(KvCache { keys: make()?, values: make()?, capacity, lens: vec![0; slots] })
    }

    /// Bytes of a cache as [`new`](KvCache::new) makes it, with activations of `compute`.
    pub fn bytes(config: &ModelConfig, slots: usize, capacity: usize, compute: Dtype) -> usize {
        let row = 2 * config.num_hidden_layers * config.kv_size() * compute.size();
        row.saturating_mul(slots).saturating_mul(capacity)
    }

    /// Positions held for a sequence.
    pub fn len(&self, slot: usize) -> usize {
        self.lens[slot]
    }

    /// Where a sequence's positions stand.
    pub fn rows(&self, slot: usize) -> CachedRows {
        CachedRows { first: slot * self.capacity, len: self.lens[slot] }
    }

    /// All keys and values, for a decoder; [`grow`](Self::grow) takes in the rows that it appends.
    pub fn lend(&mut self) -> CacheMut<'_, D> {
        CacheMut { keys: &mut self.keys, values: &mut self.values }
    }

    /// Takes in `count` positions that were appended to a sequence.
    ///
    /// # Errors
    /// When they do not fit its slot.
    pub fn grow(&mut self, slot: usize, count: usize) -> Result<()> {
        self.fits(self.lens[slot] + count)?;
        self.lens[slot] += count;
        Ok(())
    }

    fn fits(&self, len: usize) -> Result<()> {
        if len <= self.capacity {
            return Ok(());
        }
        Err(Error::other(format!("a sequence of {len} positions does not fit a cache of {}", self.capacity)))
    }

    /// Reserves the next `count` positions of each listed slot and says, in the order listed, which
    /// cache rows and positions the new tokens take and which spans they attend over.
    ///
    /// # Errors
    /// When a slot is full.
    pub fn extend(&mut self, new: &[(usize, usize)]) -> Result<Extension> {
        let mut e = Extension { rows: Vec::new(), positions: Vec::new(), spans: Vec::new() };
        for &(slot, count) in new {
            let (start, len) = (slot * self.capacity, self.lens[slot]);
            self.fits(len + count)?;
            e.spans.push(Span { q_start: e.rows.len(), q_len: count, k_start: start, k_len: len + count });
            e.rows.extend((start + len..start + len + count).map(|r| r as u32));
            e.positions.extend((len..len + count).map(|p| p as u32));
            self.lens[slot] += count;
        }
        Ok(e)
    }

    /// Makes each empty slot of `to` begin with all that slot `from` holds, so that sequences with
    /// the same beginning compute it once.
    ///
    /// # Errors
    /// When a slot of `to` is not empty, and errors of the device.
    pub fn share(&mut self, device: &D, from: usize, to: &[usize]) -> Result<()> {
        let len = self.lens[from];
        if len == 0 || to.is_empty() {
            return Ok(());
        }
        if let Some(slot) = to.iter().find(|&&slot| self.lens[slot] != 0) {
            return Err(Error::other(format!("cache slot {slot} is not empty")));
        }
        let rows = |slot: usize| (slot * self.capacity..slot * self.capacity + len).map(|r| r as u32);
        let source = device.index(&rows(from).collect::<Vec<_>>())?;
        let targets =
            to.iter().map(|&t| device.index(&rows(t).collect::<Vec<_>>())).collect::<Result<Vec<_>>>()?;
        for cache in self.keys.iter_mut().chain(&mut self.values) {
            let mut shared = device.empty(len, cache.cols())?;
            device.gather_rows(1.0, cache, &source, &mut shared)?;
            for target in &targets {
                device.scatter_rows(1.0, &shared, target, cache)?;
            }
        }
        to.iter().for_each(|&slot| self.lens[slot] = len);
        Ok(())
    }
}

/// Where the tokens of one forward pass go; see [`KvCache::extend`].
#[derive(Debug, Clone)]
pub struct Extension {
    /// Cache row of each packed token.
    pub rows: Vec<u32>,
    /// Position of each packed token in its sequence.
    pub positions: Vec<u32>,
    /// One span a sequence.
    pub spans: Vec<Span>,
}
