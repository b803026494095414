//! How much a scheduler takes on.

use crate::infer::blocks::BLOCK;
use crate::{Error, Result};

/// How much a [`Scheduler`](crate::Scheduler) takes on.
///
/// ```
/// use colar_engine::SchedulerOptions;
///
/// let options = SchedulerOptions::default().max_running(8).cache_positions(2048);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SchedulerOptions {
    /// Most requests that run at the same time; the others wait. Passes take 16 of them at a time.
    pub max_running: usize,
    /// Most requests that wait; one more is refused.
    pub max_queued: usize,
    /// Most tokens of prompts that wait; a request that would make them more is refused unless nothing waits.
    pub max_queued_tokens: usize,
    /// Positions of the cache. A request runs when there is room, in blocks of 16 positions, for all that it can need: its
    /// prompt, `max_latents` or `max_cot_tokens`, the separator and `max_new_tokens`.
    pub cache_positions: usize,
    /// Most tokens of prompts that are read between two steps of the requests that run.
    pub prefill_tokens: usize,
    /// Most steps that new prompts wait, while others run, to be read together: as long as they have fewer than
    /// `prefill_tokens` tokens. Reading a few tokens takes nearly as long as reading some dozens.
    pub gather_steps: usize,
    /// Most prompts whose positions stay in the cache when their requests have left, as long as none needs the room; a
    /// request whose prompt begins with the same tokens, at least 16 or all, takes them over.
    pub kept_prompts: usize,
}

setters!(SchedulerOptions {
    max_running: usize,
    max_queued: usize,
    max_queued_tokens: usize,
    cache_positions: usize,
    prefill_tokens: usize,
    gather_steps: usize,
    kept_prompts: usize,
});

impl Default for SchedulerOptions {
    fn default() -> Self {
        SchedulerOptions {
            max_running: 16,
            max_queued: 1024,
            max_queued_tokens: 1 << 20,
            cache_positions: 4096,
            prefill_tokens: 128,
            gather_steps: 2,
            kept_prompts: 16,
        }
    }
}

impl SchedulerOptions {
    /// Fails on values outside their range.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the option.
    pub fn validate(&self) -> Result<()> {
        for (name, value) in [("max_running", self.max_running), ("prefill_tokens", self.prefill_tokens)] {
            if value == 0 {
                return Err(Error::usage(format!("`{name}` must be at least 1")));
            }
        }
        if self.cache_positions < BLOCK {
            return Err(Error::usage(format!("`cache_positions` must be at least {BLOCK}, a block")));
        }
        Ok(())
    }

    /// Slots of the cache: of requests that run, and of prompts that are kept.
    pub(super) fn slots(&self) -> usize {
        self.max_running.saturating_add(self.kept_prompts)
    }

    /// Positions of the cache in whole blocks.
    pub(super) fn positions(&self) -> usize {
        self.cache_positions / BLOCK * BLOCK
    }
}
