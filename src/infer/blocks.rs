//! Rows of the cache in blocks, of which every slot in use has some neighbouring ones.
//!
//! A sequence's rows lie side by side, as attention reads them. A slot gets at once all that its request can need, so
//! nothing that runs must ever make room; where the free blocks are enough but scattered, the slots close ranks.

/// Positions of a block.
pub(super) const BLOCK: usize = 16;

/// Blocks of a slot.
#[derive(Debug, Clone, Copy)]
struct Extent {
    slot: usize,
    first: usize,
    count: usize,
}

/// A slot and the row that it moves to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Move {
    pub slot: usize,
    pub first: usize,
}

/// The blocks of a cache.
#[derive(Debug)]
pub(super) struct Blocks {
    total: usize,
    /// In the order of their blocks.
    taken: Vec<Extent>,
}

impl Blocks {
    /// Blocks for a cache of `rows` rows; a rest that fills no block is not used.
    pub(super) fn new(rows: usize) -> Self {
        Blocks { total: rows / BLOCK, taken: Vec::new() }
    }

    /// The blocks that so many rows take.
    pub(super) fn count(rows: usize) -> usize {
        rows.div_ceil(BLOCK)
    }

    /// Blocks that no slot has.
    pub(super) fn free(&self) -> usize {
        self.total - self.taken.iter().map(|e| e.count).sum::<usize>()
    }

    /// Blocks of a slot.
    pub(super) fn of(&self, slot: usize) -> usize {
        self.taken.iter().filter(|e| e.slot == slot).map(|e| e.count).sum()
    }

    /// Gives a slot blocks for `rows` rows in the first gap that has them; returns the first row.
    pub(super) fn take(&mut self, slot: usize, rows: usize) -> Option<usize> {
        let count = Self::count(rows);
        let (mut first, mut at) = (0, self.taken.len());
        for (i, e) in self.taken.iter().enumerate() {
            if e.first - first >= count {
                at = i;
                break;
            }
            first = e.first + e.count;
        }
        if at == self.taken.len() && self.total - first < count {
            return None;
        }
        self.taken.insert(at, Extent { slot, first, count });
        Some(first * BLOCK)
    }

    /// Leaves a slot the blocks of its first `rows` rows; with none it is no longer in use.
    pub(super) fn shrink(&mut self, slot: usize, rows: usize) {
        let count = Self::count(rows);
        for e in self.taken.iter_mut().filter(|e| e.slot == slot) {
            e.count = e.count.min(count);
        }
        self.taken.retain(|e| e.count > 0);
    }

    /// Moves all slots to the front, so that the free blocks lie side by side. The moves go down, and are to be made
    /// in their order.
    pub(super) fn close_ranks(&mut self) -> Vec<Move> {
        let (mut moves, mut next) = (Vec::new(), 0);
        for e in &mut self.taken {
            if e.first != next {
                e.first = next;
                moves.push(Move { slot: e.slot, first: next * BLOCK });
            }
            next += e.count;
        }
        moves
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Takes of so many rows, shrinks of one of the slots to so many, and closings of the ranks.
    #[derive(Debug, Clone)]
    enum Act {
        Take(usize),
        Shrink(usize, usize),
        Close,
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            (1usize..90).prop_map(Act::Take),
            (0usize..12, 0usize..60).prop_map(|(which, rows)| Act::Shrink(which, rows)),
            Just(Act::Close),
        ]
    }

    proptest! {
        /// Against a map of rows to slots: no row has two, nothing is lost, and what fits is found.
        #[test]
        fn no_row_has_two_slots(acts in proptest::collection::vec(act(), 1..60), rows in 0usize..400) {
            let mut blocks = Blocks::new(rows);
            // Of each slot its first row and its blocks.
            let mut held: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
            for (slot, act) in acts.into_iter().enumerate() {
                match act {
                    Act::Take(rows) => {
                        let free = blocks.free();
                        match blocks.take(slot, rows) {
                            Some(first) => {
                                held.insert(slot, (first, Blocks::count(rows)));
                            }
                            None if free >= Blocks::count(rows) => {
                                for Move { slot, first } in blocks.close_ranks() {
                                    let entry = held.get_mut(&slot).unwrap();
                                    prop_assert!(first < entry.0, "moves go down");
                                    entry.0 = first;
                                }
                                let first = blocks.take(slot, rows);
                                prop_assert!(first.is_some(), "free blocks side by side are enough");
                                held.insert(slot, (first.unwrap(), Blocks::count(rows)));
                            }
                            None => {}
                        }
                    }
                    Act::Shrink(which, rows) => {
                        let Some((&slot, &(first, count))) = held.iter().nth(which) else { continue };
                        blocks.shrink(slot, rows);
                        held.insert(slot, (first, count.min(Blocks::count(rows))));
                        held.retain(|_, (_, count)| *count > 0);
                    }
                    Act::Close => {
                        for Move { slot, first } in blocks.close_ranks() {
                            held.get_mut(&slot).unwrap().0 = first;
                        }
                    }
                }
                let mut of_row = BTreeMap::new();
                for (&slot, &(first, count)) in &held {
                    prop_assert_eq!(blocks.of(slot), count);
                    for block in first / BLOCK..first / BLOCK + count {
                        prop_assert!(block < rows / BLOCK);
                        prop_assert_eq!(of_row.insert(block, slot), None);
                    }
                }
                prop_assert_eq!(blocks.free(), rows / BLOCK - of_row.len());
            }
        }
    }
}
