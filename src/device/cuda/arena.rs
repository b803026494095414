//! An allocator of offsets: it knows which parts of one block of memory are taken.
//!
//! A run's activations come and go in the same sizes, hundreds to a token, all in the order of one stream. So a part
//! may be handed out again as soon as it is given back, and to look for the first gap that is large enough costs
//! less than to ask the driver; neighbouring gaps become one, so that none is lost to small pieces.

use std::collections::BTreeMap;

/// Alignment of every part: the widest that a kernel or library asks for.
const ALIGN: usize = 256;

/// The gaps of a block.
#[derive(Debug)]
pub(super) struct Arena {
    len: usize,
    taken: usize,
    /// The most that was ever taken.
    most: usize,
    /// Length of each gap by its offset; no two touch.
    gaps: BTreeMap<usize, usize>,
}

/// Bytes that a buffer takes; an empty one takes some too, so that it has an address of its own.
fn size(bytes: usize) -> Option<usize> {
    bytes.max(1).checked_next_multiple_of(ALIGN)
}

impl Arena {
    /// A block of `len` bytes, rounded down to a multiple of the alignment.
    pub(super) fn new(len: usize) -> Self {
        let len = len - len % ALIGN;
        Arena {
            len,
            taken: 0,
            most: 0,
            gaps: if len > 0 { BTreeMap::from([(0, len)]) } else { BTreeMap::new() },
        }
    }

    /// Bytes of the block.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes of all gaps.
    pub(super) fn free(&self) -> usize {
        self.len - self.taken
    }

    /// The most bytes that parts ever took together.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Whether nothing is taken.
    pub(super) fn is_unused(&self) -> bool {
        self.taken == 0
    }

    /// Takes the first gap that holds `bytes` bytes; returns where it begins.
    pub(super) fn take(&mut self, bytes: usize) -> Option<usize> {
        let size = size(bytes)?;
        let (&at, &gap) = self.gaps.iter().find(|&(_, &gap)| gap >= size)?;
        self.gaps.remove(&at);
        if gap > size {
            self.gaps.insert(at + size, gap - size);
        }
        self.taken += size;
        self.most = self.most.max(self.taken);
        Some(at)
    }

    /// Gives back the offset that `take` gave for the same number of bytes.
    pub(super) fn give_back(&mut self, at: usize, bytes: usize) {
        let Some(size) = size(bytes) else { return };
        self.taken -= size;
        let (mut at, mut gap) = (at, size);
        if let Some(after) = self.gaps.remove(&(at + gap)) {
            gap += after;
        }
        if let Some((&before, &len)) = self.gaps.range(..at).next_back()
            && before + len == at
        {
            self.gaps.remove(&before);
            (at, gap) = (before, len + gap);
        }
        self.gaps.insert(at, gap);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_gap_that_is_large_enough_is_taken() {
        let mut arena = Arena::new(10 * ALIGN + 1);
        assert_eq!((arena.len(), arena.is_unused()), (10 * ALIGN, true));
        let parts = [ALIGN, 1, 3 * ALIGN - 1, 0].map(|bytes| arena.take(bytes).unwrap());
        assert_eq!(parts, [0, ALIGN, 2 * ALIGN, 5 * ALIGN]);
        assert_eq!(arena.take(5 * ALIGN), None);
        arena.give_back(parts[0], ALIGN);
        arena.give_back(parts[2], 3 * ALIGN - 1);
        assert_eq!(arena.free(), 8 * ALIGN);
        assert_eq!(arena.take(2 * ALIGN), Some(2 * ALIGN));
        assert_eq!(arena.take(1), Some(0));
        assert_eq!(arena.take(usize::MAX), None);
    }

    #[test]
    fn an_empty_block_has_nothing_to_give() {
        for len in [0, ALIGN - 1] {
            let mut arena = Arena::new(len);
            assert!(arena.is_unused() && arena.take(0).is_none());
        }
    }

    proptest! {
        /// Parts keep out of each other and within the block, a part is refused only where no gap holds it, and
        /// when all are given back the block is one gap again.
        #[test]
        fn parts_do_not_meet_and_none_is_lost(
            blocks in 0..40usize,
            steps in prop::collection::vec((any::<bool>(), 0..8 * ALIGN, any::<prop::sample::Index>()), 0..200),
        ) {
            let mut arena = Arena::new(blocks * ALIGN);
            let mut live: Vec<(usize, usize)> = Vec::new();
            let mut most = 0;
            for (take, bytes, which) in steps {
                if take || live.is_empty() {
                    let largest = arena.gaps.values().copied().max().unwrap_or(0);
                    let taken = arena.take(bytes);
                    prop_assert_eq!(taken.is_some(), size(bytes).unwrap() <= largest);
                    let Some(at) = taken else { continue };
                    prop_assert!(at.is_multiple_of(ALIGN) && at + bytes.max(1) <= arena.len());
                    for &(other, len) in &live {
                        prop_assert!(at + bytes.max(1) <= other || other + len.max(1) <= at);
                    }
                    live.push((at, bytes));
                } else {
                    let (at, bytes) = live.swap_remove(which.index(live.len()));
                    arena.give_back(at, bytes);
                    // Bytes that were just given back are there to be taken.
                    prop_assert!(arena.gaps.values().any(|&gap| gap >= size(bytes).unwrap()));
                }
                let taken: usize = live.iter().map(|&(_, bytes)| size(bytes).unwrap()).sum();
                prop_assert_eq!(arena.free(), arena.len() - taken);
                most = most.max(taken);
                prop_assert_eq!(arena.most(), most);
                prop_assert_eq!(arena.gaps.values().sum::<usize>(), arena.free());
            }
            for (at, bytes) in live {
                arena.give_back(at, bytes);
            }
            prop_assert!(arena.is_unused());
            let whole: Vec<(usize, usize)> = arena.gaps.into_iter().collect();
            prop_assert_eq!(whole, if blocks > 0 { vec![(0, blocks * ALIGN)] } else { vec![] });
        }
    }
}
