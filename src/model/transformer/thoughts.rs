//! Sequences with continuous thoughts in them: `[question | thoughts | tail]`, forward and backward.
//!
//! The input of a thought is the final hidden state of the row before it, or a projection of it. So a
//! sequence cannot go through the blocks at once, but in phases: all questions of a batch, then one thought
//! of every sequence at a time, then all tails. Each row goes through the blocks once, as in one pass.
//!
//! The keys and values of a layer are kept in one matrix, a row for each packed row, so those of a sequence
//! are contiguous whichever phases they come from, and a phase attends to its own and all earlier rows.
//!
//! Backward goes through the phases in reverse. The gradient of a phase's keys and values comes from the
//! queries of its own rows and of all later ones; it is summed, in the dtype of activations, in matrices of the
//! same shape until the phase has its turn. The gradient of a thought's input goes, through the projector, to the
//! final hidden state that it came from, which is a row of an earlier phase. Nothing is truncated: gradients are
//! exact through all thoughts.

use super::backward::{KvBackward, Reach};
use super::forward::PassSaved;
use super::place::{KvTarget, Place};
use super::{TapGrads, Taps, Transformer};
use crate::device::{Device, Span, TensorInfo};
use crate::model::params::{Grads, Params};
use crate::model::thoughts::{Projector, ProjectorSaved};
use crate::{Error, Result};

/// Where the packed rows of sequences with thoughts stand, and in which phases they are run.
///
/// Packed rows are sequences end to end: of each the rows of its question, of its thoughts, of its tail.
pub struct ThoughtLayout<D: Device> {
    /// Questions, every thought in turn, tails.
    phases: Vec<Phase<D>>,
}

struct Phase<D: Device> {
    /// The packed rows of the phase.
    rows: D::Index,
    len: usize,
    positions: D::Index,
    /// Queries count within the phase, keys in packed rows.
    spans: Vec<Span>,
    /// In a phase of thoughts, the packed row before each of its rows.
    before: Option<D::Index>,
}

impl<D: Device> Phase<D> {
    fn place(&self) -> Place<'_, D> {
        Place::new(&self.positions, &self.spans)
    }
}

impl<D: Device> ThoughtLayout<D> {
    /// Sequences of `[question, tail]` rows, each with `thoughts` rows between the two.
    ///
    /// # Errors
    /// A question or a tail without rows, and errors of the device.
    pub fn new(device: &D, sequences: &[[usize; 2]], thoughts: usize) -> Result<Self> {
        if sequences.iter().flatten().any(|&len| len == 0) {
            return Err(Error::other("a chain of thoughts needs a question before it and a tail after it"));
        }
        let phases = (0..thoughts + 2).map(|phase| {
            let (mut rows, mut positions, mut spans) = (Vec::new(), Vec::new(), Vec::new());
            let mut start = 0;
            for &[question, tail] in sequences {
                let own = match phase {
                    0 => 0..question,
                    _ if phase <= thoughts => question + phase - 1..question + phase,
                    _ => question + thoughts..question + thoughts + tail,
                };
                spans.push(Span { q_start: rows.len(), q_len: own.len(), k_start: start, k_len: own.end });
                rows.extend(own.clone().map(|row| (start + row) as u32));
                positions.extend(own.map(|row| row as u32));
                start += question + thoughts + tail;
            }
            let before = if (1..=thoughts).contains(&phase) {
                Some(device.index(&rows.iter().map(|row| row - 1).collect::<Vec<_>>())?)
            } else {
                None
            };
            let (len, rows) = (rows.len(), device.index(&rows)?);
            Ok(Phase { rows, len, positions: device.index(&positions)?, spans, before })
        });
        Ok(ThoughtLayout { phases: phases.collect::<Result<_>>()? })
    }
}

/// Values of a forward pass for [`Transformer::backward_thoughts`]. Memory: as of one pass over all rows.
pub struct ThoughtSaved<D: Device> {
    phases: Vec<PassSaved<D>>,
    /// Per layer, `[packed rows, kv_width]`.
    keys: Vec<D::Tensor>,
    /// Per layer, `[packed rows, kv_width]`.
    values: Vec<D::Tensor>,
    /// One a thought, where there is a projector.
    projected: Vec<ProjectorSaved<D>>,
}

impl<D: Device> Transformer<D> {
    /// Runs sequences with thoughts: input embeddings `x[T, H]`, of which the rows of thoughts are not read,
    /// to the final hidden states `[T, H]` of all rows. `taps` count the rows of all tails, end to end.
    ///
    /// # Errors
    /// Shape mismatches and errors of the device.
    #[allow(clippy::too_many_arguments)]
    pub fn forward_thoughts(
        &self,
        device: &D,
        params: &Params<D>,
        projector: Option<&Projector>,
        x: &D::Tensor,
        layout: &ThoughtLayout<D>,
        grads: Option<&Grads<D>>,
        mut taps: Option<&mut Taps<D>>,
    ) -> Result<(D::Tensor, Option<ThoughtSaved<D>>)> {
        let (t, h, width) = (x.rows(), x.cols(), self.heads().kv_width());
        let cache = || self.layers.iter().map(|_| device.empty(t, width)).collect::<Result<Vec<_>>>();
        let (mut keys, mut values) = (cache()?, cache()?);
        let mut hidden = device.empty(t, h)?;
        let (mut phases, mut projected) = (Vec::new(), Vec::new());
        for (i, phase) in layout.phases.iter().enumerate() {
            let mut input = device.empty(phase.len, h)?;
            match &phase.before {
                Some(before) => device.gather_rows(1.0, &hidden, before, &mut input)?,
                None => device.gather_rows(1.0, x, &phase.rows, &mut input)?,
            }
            if let (Some(projector), Some(_)) = (projector, &phase.before) {
                let (thoughts, saved) = projector.forward(device, params, input)?;
                input = thoughts;
                projected.extend(grads.map(|_| saved));
            }
            let taps = if i + 1 == layout.phases.len() { taps.take() } else { None };
            let target = KvTarget::Beside { keys: &mut keys, values: &mut values, rows: &phase.rows };
            let (out, saved) = self.pass(device, params, input, phase.place(), target, grads, taps)?;
            device.scatter_rows(1.0, &out, &phase.rows, &mut hidden)?;
            phases.extend(saved);
        }
        Ok((hidden, grads.map(|_| ThoughtSaved { phases, keys, values, projected })))
    }

    /// Adds to the gradients of the trained weights, the projector's among them, given that of the final hidden
    /// states (`dhidden[T, H]`) and of tapped ones. Returns the gradient of the input embeddings `[T, H]`, 0 at
    /// thoughts, where `want_input`.
    ///
    /// # Errors
    /// Shape mismatches and errors of the device.
    #[allow(clippy::too_many_arguments)]
    pub fn backward_thoughts(
        &self,
        device: &D,
        params: &Params<D>,
        projector: Option<&Projector>,
        grads: &mut Grads<D>,
        saved: ThoughtSaved<D>,
        mut dhidden: D::Tensor,
        layout: &ThoughtLayout<D>,
        mut taps: Option<&TapGrads<D>>,
        want_input: bool,
    ) -> Result<Option<D::Tensor>> {
        let (t, h) = (dhidden.rows(), dhidden.cols());
        let ThoughtSaved { phases, mut keys, mut values, mut projected } = saved;
        let mut sums: Vec<Option<[D::Tensor; 2]>> = self.layers.iter().map(|_| None).collect();
        let mut dx = if want_input { Some(device.cleared(t, h)?) } else { None };
        for ((i, phase), pass) in layout.phases.iter().enumerate().zip(phases).rev() {
            let mut dout = device.empty(phase.len, h)?;
            device.gather_rows(1.0, &dhidden, &phase.rows, &mut dout)?;
            // The last phase, which is the first here, has the taps.
            let taps = taps.take();
            if let Some(taps) = taps {
                taps.add(device, self.layers.len() - 1, &mut dout)?;
            }
            let reach = match (&phase.before, i) {
                (Some(_), _) => Reach::Input,
                (None, _) if want_input => Reach::Input,
                (None, 0) => Reach::Weights,
                (None, _) => Reach::Keys,
            };
            let kv = KvBackward::Beside {
                keys: &mut keys,
                values: &mut values,
                sums: &mut sums,
                rows: &phase.rows,
            };
            let din =
                self.pass_backward(device, params, grads, pass, &dout, phase.place(), kv, taps, reach)?;
            let Some(mut din) = din else { continue };
            match (&phase.before, &mut dx) {
                (Some(before), _) => {
                    if let Some((projector, saved)) = projector.zip(projected.pop()) {
                        din = projector.backward(device, params, grads, &saved, &din)?;
                    }
                    device.scatter_add_rows(1.0, &din, before, &mut dhidden)?;
                }
                (None, Some(dx)) => device.scatter_rows(1.0, &din, &phase.rows, dx)?,
                (None, None) => {}
            }
        }
        Ok(dx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::CpuDevice;
    use crate::device::prelude::*;

    #[test]
    fn every_row_is_in_one_phase_and_sees_all_before_it() {
        let device = CpuDevice::new(1).unwrap();
        let layout = ThoughtLayout::new(&device, &[[2, 3], [1, 1]], 2).unwrap();
        let span = |q_start, q_len, k_start, k_len| Span { q_start, q_len, k_start, k_len };
        let expected = [
            [span(0, 2, 0, 2), span(2, 1, 7, 1)],
            [span(0, 1, 0, 3), span(1, 1, 7, 2)],
            [span(0, 1, 0, 4), span(1, 1, 7, 3)],
            [span(0, 3, 0, 7), span(3, 1, 7, 4)],
        ];
        assert_eq!(layout.phases.len(), expected.len());
        for (phase, spans) in layout.phases.iter().zip(expected) {
            assert_eq!(phase.spans, spans);
            assert_eq!(phase.len, spans.iter().map(|s| s.q_len).sum::<usize>());
        }
        let numbers = device.upload(11, 1, &(0..11u8).map(f32::from).collect::<Vec<_>>()).unwrap();
        let read = |index: &_, len| {
            let mut out = device.empty(len, 1).unwrap();
            device.gather_rows(1.0, &numbers, index, &mut out).unwrap();
            device.read(&out).unwrap()
        };
        let rows: Vec<Vec<f32>> = layout.phases.iter().map(|p| read(&p.rows, p.len)).collect();
        assert_eq!(rows, [vec![0.0, 1.0, 7.0], vec![2.0, 8.0], vec![3.0, 9.0], vec![4.0, 5.0, 6.0, 10.0]]);
        let positions: Vec<Vec<f32>> = layout.phases.iter().map(|p| read(&p.positions, p.len)).collect();
        assert_eq!(
            positions,
            [vec![0.0, 1.0, 0.0], vec![2.0, 1.0], vec![3.0, 2.0], vec![4.0, 5.0, 6.0, 3.0]]
        );
        let before: Vec<_> = layout.phases.iter().map(|p| p.before.as_ref().map(|b| read(b, 2))).collect();
        assert_eq!(before, [None, Some(vec![1.0, 7.0]), Some(vec![2.0, 8.0]), None]);
    }

    #[test]
    fn thoughts_stand_between_two_parts() {
        let device = CpuDevice::new(1).unwrap();
        for lens in [[0, 1], [1, 0]] {
            assert!(ThoughtLayout::new(&device, &[[1, 1], lens], 1).is_err());
        }
        assert_eq!(ThoughtLayout::new(&device, &[[1, 1]], 0).unwrap().phases.len(), 2);
    }
}
