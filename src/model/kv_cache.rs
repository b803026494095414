//! Keys and values kept between forward passes: one matrix of keys and one of values per layer, of which each slot,
//! for a sequence, has some neighbouring rows.

use super::config::ModelConfig;
use crate::device::decoder::{CacheMut, CachedRows};
use crate::device::{Device, Dtype, Span, TensorInfo};
use crate::{Error, Result};

/// The cache of a batch of sequences.
pub struct KvCache<D: Device> {
    /// Per layer, `[rows, kv_width]`.
    pub(super) keys: Vec<D::Tensor>,
    /// Per layer, `[rows, kv_width]`.
    pub(super) values: Vec<D::Tensor>,
    slots: Vec<Slot>,
}

/// The rows of a sequence.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    first: usize,
    capacity: usize,
    /// Rows that hold positions.
    len: usize,
}

impl<D: Device> KvCache<D> {
    /// A cache for `slots` sequences of at most `capacity` positions each.
    ///
    /// # Errors
    /// Errors of the device, for instance too little memory.
    pub fn new(device: &D, config: &ModelConfig, slots: usize, capacity: usize) -> Result<Self> {
        let mut cache = Self::unplaced(device, config, slots, slots * capacity)?;
        (0..slots).for_each(|slot| cache.place(slot, slot * capacity, capacity));
        Ok(cache)
    }

    /// A cache of `rows` positions, of which [`place`](KvCache::place) gives the slots theirs.
    ///
    /// # Errors
    /// As [`new`](KvCache::new).
    pub fn unplaced(device: &D, config: &ModelConfig, slots: usize, rows: usize) -> Result<Self> {
        let width = config.num_key_value_heads * config.head_dim;
        let make = || -> Result<Vec<D::Tensor>> {
            (0..config.num_hidden_layers).map(|_| device.empty(rows, width)).collect()
        };
        Ok(KvCache { keys: make()?, values: make()?, slots: vec![Slot::default(); slots] })
    }

    /// Gives an empty slot `capacity` rows from `first` on, which no other slot has.
    pub fn place(&mut self, slot: usize, first: usize, capacity: usize) {
        self.slots[slot] = Slot { first, capacity, len: 0 };
    }

    /// Moves what a slot holds to the rows from `first` on, which may be some that it has.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn shift(&mut self, device: &D, slot: usize, first: usize) -> Result<()> {
        let Slot { first: from, len, .. } = self.slots[slot];
        self.copy_rows(device, from, &[first], len)?;
        self.slots[slot].first = first;
        Ok(())
    }

    /// Drops the positions of a slot from `len` on.
    pub fn truncate(&mut self, slot: usize, len: usize) {
        self.slots[slot].len = self.slots[slot].len.min(len);
    }

    /// Bytes of a cache as [`new`](KvCache::new) makes it, with activations of `compute`.
    pub fn bytes(config: &ModelConfig, slots: usize, capacity: usize, compute: Dtype) -> usize {
        let row = 2 * config.num_hidden_layers * config.kv_size() * compute.size();
        row.saturating_mul(slots).saturating_mul(capacity)
    }

    /// Positions held for a sequence.
    pub fn len(&self, slot: usize) -> usize {
        self.slots[slot].len
    }

    /// Where a sequence's positions stand.
    pub fn rows(&self, slot: usize) -> CachedRows {
        let Slot { first, len, .. } = self.slots[slot];
        CachedRows { first, len }
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
        let Slot { capacity, len, .. } = self.slots[slot];
        let len = len + count;
        if len > capacity {
            return Err(Error::other(format!(
                "a sequence of {len} positions does not fit a cache of {capacity}"
            )));
        }
        self.slots[slot].len = len;
        Ok(())
    }

    /// Reserves the next `count` positions of each listed slot and says, in the order listed, which
    /// cache rows and positions the new tokens take and which spans they attend over.
    ///
    /// # Errors
    /// When a slot is full; slots before it have then grown.
    pub fn extend(&mut self, new: &[(usize, usize)]) -> Result<Extension> {
        let mut e = Extension { rows: Vec::new(), positions: Vec::new(), spans: Vec::new() };
        for &(slot, count) in new {
            let Slot { first: start, len, .. } = self.slots[slot];
            self.grow(slot, count)?;
            e.spans.push(Span { q_start: e.rows.len(), q_len: count, k_start: start, k_len: len + count });
            e.rows.extend((start + len..start + len + count).map(|r| r as u32));
            e.positions.extend((len..len + count).map(|p| p as u32));
        }
        Ok(e)
    }

    /// Makes each empty slot of `to` begin with the first `len` positions of slot `from`, so that sequences with the
    /// same beginning compute it once.
    ///
    /// # Errors
    /// When a slot of `to` is not empty or too small, or `from` holds less, and errors of the device.
    pub fn share(&mut self, device: &D, from: usize, to: &[usize], len: usize) -> Result<()> {
        if let Some(slot) = to.iter().find(|&&slot| self.slots[slot].len != 0) {
            return Err(Error::other(format!("cache slot {slot} is not empty")));
        }
        if len > self.slots[from].len {
            return Err(Error::other(format!("cache slot {from} holds no {len} positions")));
        }
        to.iter().try_for_each(|&slot| self.grow(slot, len))?;
        let firsts: Vec<usize> = to.iter().map(|&slot| self.slots[slot].first).collect();
        self.copy_rows(device, self.slots[from].first, &firsts, len)
    }

    /// Copies `len` rows from row `from` on to those from each of `to` on, which may meet the former.
    fn copy_rows(&mut self, device: &D, from: usize, to: &[usize], len: usize) -> Result<()> {
        if len == 0 || to.is_empty() {
            return Ok(());
        }
        let rows = |first: usize| (first..first + len).map(|r| r as u32).collect::<Vec<_>>();
        let source = device.index(&rows(from))?;
        let targets = to.iter().map(|&t| device.index(&rows(t))).collect::<Result<Vec<_>>>()?;
        for cache in self.keys.iter_mut().chain(&mut self.values) {
            let mut copied = device.empty(len, cache.cols())?;
            device.gather_rows(1.0, cache, &source, &mut copied)?;
            for target in &targets {
                device.scatter_rows(1.0, &copied, target, cache)?;
            }
        }
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
