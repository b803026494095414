//! Where the rows of a packed batch stand, and which see which.
//!
//! Sequences lie end to end. Those that begin alike, as the rollouts of one question do, may share the rows of
//! their beginning (the trunk) and differ after it (the branches). Attention takes contiguous keys, so
//! the keys and values of a trunk are copied in front of those of each of its branches, and their
//! gradients are added up again: little work beside the trunk's forward and backward pass, which happen once.

use std::collections::HashMap;

use crate::Result;
use crate::device::{Device, Span, TensorInfo};

/// Where a forward pass stands: the position of each row, and which rows see which.
pub struct Layout<D: Device> {
    /// Position of each row in its sequence.
    pub positions: D::Index,
    /// The rows that each sequence, trunk or branch attends to.
    pub spans: Vec<Span>,
    /// Where keys are shared: how they are copied for attention.
    pub(super) shared: Option<SharedKeys<D>>,
}

/// Sequences that begin alike: `trunk` shared rows, then the rows of each branch on its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// Rows of the shared beginning.
    pub trunk: usize,
    /// Rows of each sequence after it.
    pub branches: Vec<usize>,
}

impl<D: Device> Layout<D> {
    /// Whole sequences of these lengths, end to end, each from position 0.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn packed(device: &D, lens: &[usize]) -> Result<Self> {
        let trees: Vec<Tree> = lens.iter().map(|&len| Tree { trunk: 0, branches: vec![len] }).collect();
        Self::branched(device, &trees)
    }

    /// Trees end to end: of each the trunk's rows, then its branches'.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn branched(device: &D, trees: &[Tree]) -> Result<Self> {
        let mut spans = Vec::new();
        let mut positions = Vec::new();
        // The packed row of each row of keys.
        let mut keys: Vec<u32> = Vec::new();
        let mut span = |q_start: usize, q_len: usize, keys: &mut Vec<u32>, trunk: std::ops::Range<usize>| {
            let k_start = keys.len();
            keys.extend(trunk.chain(q_start..q_start + q_len).map(|row| row as u32));
            spans.push(Span { q_start, q_len, k_start, k_len: keys.len() - k_start });
        };
        for tree in trees {
            let start = positions.len();
            positions.extend(0..tree.trunk as u32);
            let mut at = start + tree.trunk;
            if let [only] = tree.branches[..] {
                // Nobody to share with: one sequence.
                span(start, tree.trunk + only, &mut keys, 0..0);
                positions.extend((tree.trunk..tree.trunk + only).map(|p| p as u32));
                continue;
            }
            if tree.trunk > 0 {
                span(start, tree.trunk, &mut keys, 0..0);
            }
            for &len in &tree.branches {
                span(at, len, &mut keys, start..start + tree.trunk);
                positions.extend((tree.trunk..tree.trunk + len).map(|p| p as u32));
                at += len;
            }
        }
        let alone = keys.len() == positions.len();
        let shared = if alone { None } else { Some(SharedKeys::new(device, &keys)?) };
        Ok(Layout { positions: device.index(&positions)?, spans, shared })
    }
}

/// Keys and values of which some rows are needed in several places.
pub(super) struct SharedKeys<D: Device> {
    /// The packed row of each row of keys.
    sources: D::Index,
    len: usize,
    /// For the way back: rows of keys, and the packed rows they come from, which are distinct in each round.
    rounds: Vec<(D::Index, D::Index, usize)>,
}

impl<D: Device> SharedKeys<D> {
    fn new(device: &D, sources: &[u32]) -> Result<Self> {
        let mut rounds: Vec<(Vec<u32>, Vec<u32>)> = Vec::new();
        let mut met: HashMap<u32, usize> = HashMap::new();
        for (row, &source) in (0u32..).zip(sources) {
            let round = met.entry(source).or_insert(0);
            if *round == rounds.len() {
                rounds.push((Vec::new(), Vec::new()));
            }
            rounds[*round].0.push(row);
            rounds[*round].1.push(source);
            *round += 1;
        }
        let rounds = rounds
            .iter()
            .map(|(from, to)| Ok((device.index(from)?, device.index(to)?, from.len())))
            .collect::<Result<_>>()?;
        Ok(SharedKeys { sources: device.index(sources)?, len: sources.len(), rounds })
    }

    /// The rows of `packed[T, W]` where attention wants them.
    pub(super) fn spread(&self, device: &D, packed: &D::Tensor) -> Result<D::Tensor> {
        let mut out = device.empty(self.len, packed.cols())?;
        device.gather_rows(1.0, packed, &self.sources, &mut out)?;
        Ok(out)
    }

    /// The gradient of the packed rows `[rows, W]`, given that of the spread ones.
    pub(super) fn collect(&self, device: &D, spread: &D::Tensor, rows: usize) -> Result<D::Tensor> {
        let mut out = device.cleared(rows, spread.cols())?;
        for (from, to, count) in &self.rounds {
            let mut part = device.empty(*count, spread.cols())?;
            device.gather_rows(1.0, spread, from, &mut part)?;
            device.scatter_add_rows(1.0, &part, to, &mut out)?;
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::CpuDevice;
    use crate::device::prelude::*;

    #[test]
    fn branches_see_their_trunk_and_nothing_of_each_other() {
        let device = CpuDevice::new(1).unwrap();
        let trees = [Tree { trunk: 2, branches: vec![3, 1] }, Tree { trunk: 1, branches: vec![2] }];
        let layout = Layout::branched(&device, &trees).unwrap();
        let span = |q_start, q_len, k_start, k_len| Span { q_start, q_len, k_start, k_len };
        assert_eq!(layout.spans, [span(0, 2, 0, 2), span(2, 3, 2, 5), span(5, 1, 7, 3), span(6, 3, 10, 3)]);
        let shared = layout.shared.unwrap();
        let rows = device.upload(9, 1, &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]).unwrap();
        let spread = shared.spread(&device, &rows).unwrap();
        let keys = [0.0, 1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 0.0, 1.0, 5.0, 6.0, 7.0, 8.0];
        assert_eq!(device.read(&spread).unwrap(), keys);
        let ones = device.upload(13, 1, &[1.0; 13]).unwrap();
        let counts = shared.collect(&device, &ones, 9).unwrap();
        assert_eq!(device.read(&counts).unwrap(), [3.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
    }

    #[test]
    fn sequences_alone_share_nothing() {
        let device = CpuDevice::new(1).unwrap();
        let layout = Layout::packed(&device, &[3, 1, 2]).unwrap();
        assert!(layout.shared.is_none());
        assert!(layout.spans.iter().all(|s| (s.q_start, s.q_len) == (s.k_start, s.k_len)));
    }
}
