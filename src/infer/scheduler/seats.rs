//! Who has which slot and which rows of the cache.

use super::options::SchedulerOptions;
use crate::Result;
use crate::device::Device;
use crate::infer::adapters::AdapterIndex;
use crate::infer::batch::{Batch, Kept};
use crate::infer::blocks::{BLOCK, Blocks};
use crate::infer::prefixes::common;

/// Slots and rows of the cache of a batch.
pub(super) struct Seats {
    blocks: Blocks,
    /// Slots that nobody has.
    free: Vec<usize>,
    /// Most prompts that are kept.
    most_kept: usize,
}

impl Seats {
    pub(super) fn new(options: &SchedulerOptions) -> Self {
        Seats {
            blocks: Blocks::new(options.positions()),
            free: (0..options.slots()).rev().collect(),
            most_kept: options.kept_prompts,
        }
    }

    /// A slot with `room` rows for `prompt`, if there is room without those that run; prompts that are kept give way, one
    /// that shares its beginning with `prompt` under its `adapter` last.
    ///
    /// # Errors
    /// Errors of the device, after which the cache is not good any more.
    pub(super) fn take<D: Device>(
        &mut self,
        batch: &mut Batch<'_, D>,
        room: usize,
        adapter: AdapterIndex,
        prompt: &[u32],
    ) -> Result<Option<usize>> {
        let need = Blocks::count(room);
        if self.blocks.free() + self.kept(batch) / BLOCK < need {
            return Ok(None);
        }
        while !batch.kept.is_empty() && (self.free.is_empty() || self.blocks.free() < need) {
            let shared = |k: &Kept| if k.adapter == adapter { common(&k.tokens, prompt) } else { 0 };
            // Of those that share least, the longest unused.
            let least = (0..batch.kept.len()).min_by_key(|&i| shared(&batch.kept[i])).unwrap_or(0);
            self.drop_kept(batch, least);
        }
        let Some(slot) = self.free.pop() else { return Ok(None) };
        let rows = need * BLOCK;
        let mut first = self.blocks.take(slot, rows);
        if first.is_none() {
            for to in self.blocks.close_ranks() {
                batch.cache.shift(batch.parts.device, to.slot, to.first)?;
            }
            first = self.blocks.take(slot, rows);
        }
        let Some(first) = first else {
            self.free.push(slot);
            return Ok(None);
        };
        batch.cache.place(slot, first, rows);
        Ok(Some(slot))
    }

    /// Takes back the slot of a request that has left. Its prompt's rows are kept, in that slot, if they are all there.
    pub(super) fn leave<D: Device>(&mut self, batch: &mut Batch<'_, D>, slot: usize, prompt: Option<Kept>) {
        let is_new = |p: &Kept| batch.kept.iter().all(|k| (k.adapter, &k.tokens) != (p.adapter, &p.tokens));
        match prompt {
            Some(prompt) if self.most_kept > 0 && is_new(&prompt) => {
                self.blocks.shrink(slot, prompt.tokens.len());
                batch.cache.truncate(slot, prompt.tokens.len());
                batch.kept.push(prompt);
                if batch.kept.len() > self.most_kept {
                    self.drop_kept(batch, 0);
                }
            }
            _ => self.vacate(batch, slot),
        }
    }

    /// Positions set aside for requests that run.
    pub(super) fn used<D: Device>(&self, batch: &Batch<'_, D>) -> usize {
        batch.sequences.iter().map(|s| self.blocks.of(s.slot) * BLOCK).sum()
    }

    /// Positions of prompts that are kept.
    pub(super) fn kept<D: Device>(&self, batch: &Batch<'_, D>) -> usize {
        batch.kept.iter().map(|k| self.blocks.of(k.slot) * BLOCK).sum()
    }

    fn drop_kept<D: Device>(&mut self, batch: &mut Batch<'_, D>, at: usize) {
        let Kept { slot, .. } = batch.kept.remove(at);
        self.vacate(batch, slot);
    }

    fn vacate<D: Device>(&mut self, batch: &mut Batch<'_, D>, slot: usize) {
        self.blocks.shrink(slot, 0);
        batch.cache.place(slot, 0, 0);
        self.free.push(slot);
    }
}
