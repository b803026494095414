//! The questions of each step.
//!
//! Everything is a function of the seed and the step, so a resumed run sees the questions of an unbroken one.

use crate::random::Stream;

/// Streams of the run's seed. Those of supervised training end at 3 << 32.
mod stream {
    pub const EPOCH: u64 = 8 << 32;
    pub const ROLLOUTS: u64 = 9 << 32;
    pub const MINIBATCHES: u64 = 10 << 32;
}

/// The questions of a run.
pub(super) struct Questions {
    /// Indices of the questions that are asked.
    pool: Vec<u32>,
    per_epoch: usize,
    per_step: usize,
    seed: u64,
    /// The questions of one epoch, kept from step to step.
    epoch: (u64, Vec<u32>),
}

impl Questions {
    /// Asks `per_step` questions a step, of `per_epoch` that are drawn from `pool` for each epoch.
    pub(super) fn new(pool: Vec<u32>, per_epoch: usize, per_step: usize, seed: u64) -> Self {
        let per_epoch = per_epoch.min(pool.len());
        Questions { pool, per_epoch, per_step, seed, epoch: (u64::MAX, Vec::new()) }
    }

    /// Questions that may be asked.
    pub(super) fn len(&self) -> usize {
        self.pool.len()
    }

    /// Steps of an epoch.
    pub(super) fn steps_per_epoch(&self) -> u64 {
        self.per_epoch.div_ceil(self.per_step) as u64
    }

    /// The questions of a step, counted from 0.
    pub(super) fn step(&mut self, step: u64) -> &[u32] {
        let (epoch, within) = (step / self.steps_per_epoch(), (step % self.steps_per_epoch()) as usize);
        if self.epoch.0 != epoch {
            let mut order = self.pool.clone();
            Stream::new(self.seed, stream::EPOCH | epoch).shuffle(&mut order);
            order.truncate(self.per_epoch);
            self.epoch = (epoch, order);
        }
        let first = within * self.per_step;
        &self.epoch.1[first..(first + self.per_step).min(self.per_epoch)]
    }

    /// Where the seeds of a step's rollouts come from.
    pub(super) fn rollout_seeds(&self, step: u64) -> Stream {
        Stream::new(self.seed, stream::ROLLOUTS | step)
    }

    /// The rollouts of a step in the order in which they are learnt from.
    pub(super) fn minibatch_order(&self, step: u64, rollouts: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..rollouts).collect();
        Stream::new(self.seed, stream::MINIBATCHES | step).shuffle(&mut order);
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_asks_each_of_its_questions_once() {
        let mut q = Questions::new((0..100).collect(), 30, 8, 7);
        assert_eq!(q.steps_per_epoch(), 4);
        let epoch = |q: &mut Questions, e: u64| -> Vec<u32> {
            (4 * e..4 * e + 4).flat_map(|s| q.step(s).to_vec()).collect()
        };
        let (first, second) = (epoch(&mut q, 0), epoch(&mut q, 1));
        for asked in [&first, &second] {
            assert_eq!(asked.len(), 30);
            let mut distinct = asked.clone();
            distinct.sort_unstable();
            distinct.dedup();
            assert_eq!(distinct.len(), 30);
        }
        assert_ne!(first, second);
        // A resumed run meets the same questions.
        let mut resumed = Questions::new((0..100).collect(), 30, 8, 7);
        assert_eq!(resumed.step(6), q.step(6));
    }

    #[test]
    fn fewer_questions_than_asked_for_are_all_asked() {
        let mut q = Questions::new(vec![3, 9], 512, 8, 0);
        assert_eq!(q.steps_per_epoch(), 1);
        let mut asked = q.step(5).to_vec();
        asked.sort_unstable();
        assert_eq!(asked, [3, 9]);
    }
}
