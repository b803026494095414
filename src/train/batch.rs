//! From tokenised examples to one packed batch.
//!
//! A [`Batch`] is the host's rendering of a training step: every sequence end to end, no padding, with the
//! rows that each loss looks at. Under any method but CoLaR every chunk is one token and
//! there are no latent rows.

use crate::model::merge::{Merge, chunks};
use crate::model::prompt::{Method, Segments};
use crate::random::Stream;

/// The label that a compressed position predicts (spec section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ChunkLabels {
    /// One token of the chunk, drawn uniformly.
    Sample,
    /// The expectation over that draw.
    Mean,
    /// None: the ablation OC. The separators around the chain and the answer keep theirs.
    None,
}

/// The labels of an example's compressed positions.
pub enum Labels<'a> {
    /// One token of the chunk, drawn here.
    Drawn(&'a mut Stream),
    /// The expectation over that draw.
    Mean,
    /// None.
    Absent,
}

/// How examples become rows.
#[derive(Debug, Clone, Copy)]
pub struct Packing {
    /// The method the batch trains.
    pub method: Method,
    /// Compression factor; 1 under any method but CoLaR.
    pub compression_factor: usize,
    /// The merge's denominator.
    pub merge: Merge,
}

/// A packed batch, on the host.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Rows of each sequence.
    pub lens: Vec<usize>,
    /// Token ids of all chunks, end to end.
    pub ids: Vec<u32>,
    /// Row `r` merges `ids[offsets[r]..offsets[r+1]]`.
    pub offsets: Vec<u32>,
    /// Factor of each row's sum.
    pub scale: Vec<f32>,
    /// Rows whose hidden state predicts a label, ascending.
    pub ce_rows: Vec<u32>,
    /// Label ids of all `ce_rows`, end to end.
    pub label_ids: Vec<u32>,
    /// `ce_rows[n]` has the labels `label_ids[label_offsets[n]..label_offsets[n+1]]`.
    pub label_offsets: Vec<u32>,
    /// Rows whose hidden state predicts the next latent; the target is the next row's embedding.
    pub latent_rows: Vec<u32>,
    /// Of the latent targets, whether each is a compressed position (not the answer's separator).
    pub latent_inner: Vec<bool>,
    /// Per sequence, how many of `ce_rows` and of `latent_rows` are its own.
    pub counts: Vec<(usize, usize)>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Batch { offsets: vec![0], label_offsets: vec![0], ..Batch::default() }
    }

    /// Number of packed rows.
    pub fn rows(&self) -> usize {
        self.scale.len()
    }

    /// Adds an example. `labels` draws the sampled labels; without it all labels are in the mean form.
    pub fn push(&mut self, packing: Packing, segments: &Segments, labels: Option<&mut Stream>) {
        self.add(packing, segments, &mut labels.map_or(Labels::Mean, Labels::Drawn));
    }

    /// Adds an example with these labels of its compressed positions.
    pub fn add(&mut self, packing: Packing, segments: &Segments, labels: &mut Labels<'_>) {
        let start = self.rows();
        let (ce_before, latent_before) = (self.ce_rows.len(), self.latent_rows.len());
        for id in &segments.question {
            self.push_row(std::slice::from_ref(id), 1.0);
        }
        let first_step = self.rows();
        for (i, chunk) in chunks(&segments.steps, packing.compression_factor).enumerate() {
            // The separator is fed to the model as any chunk of one token is.
            let scale = packing.merge.scale(chunk.len(), packing.compression_factor);
            match labels {
                Labels::Drawn(stream) => {
                    let i = stream.below(chunk.len() as u64) as usize;
                    self.push_labelled(chunk, scale, &chunk[i..i + 1]);
                }
                Labels::Absent if i > 0 => self.push_row(chunk, scale),
                Labels::Mean | Labels::Absent => self.push_labelled(chunk, scale, chunk),
            }
        }
        let first_answer = self.rows();
        for id in &segments.answer {
            self.push_labelled(std::slice::from_ref(id), 1.0, std::slice::from_ref(id));
        }
        if packing.method == Method::Colar {
            self.latent_rows.extend((first_step..first_answer).map(|r| r as u32));
            self.latent_inner.extend((first_step + 1..first_answer + 1).map(|r| r < first_answer));
        }
        self.lens.push(self.rows() - start);
        self.counts.push((self.ce_rows.len() - ce_before, self.latent_rows.len() - latent_before));
    }

    /// Adds a prompt whose last token is the separator, `thoughts` rows without a token, and the tail after them.
    /// The separator and all tokens of the tail are labels, each predicted from the row before it.
    pub fn push_thoughts(&mut self, prompt: &[u32], thoughts: usize, tail: &[u32]) {
        let (start, ce_before) = (self.rows(), self.ce_rows.len());
        for (i, id) in prompt.iter().enumerate() {
            let token = std::slice::from_ref(id);
            // The separator, unless it is all of the prompt.
            if i > 0 && i + 1 == prompt.len() {
                self.push_labelled(token, 1.0, token);
            } else {
                self.push_row(token, 1.0);
            }
        }
        for _ in 0..thoughts {
            self.push_row(&[], 1.0);
        }
        for id in tail {
            self.push_labelled(std::slice::from_ref(id), 1.0, std::slice::from_ref(id));
        }
        self.lens.push(self.rows() - start);
        self.counts.push((self.ce_rows.len() - ce_before, 0));
    }

    fn push_row(&mut self, chunk: &[u32], scale: f32) {
        self.ids.extend_from_slice(chunk);
        self.offsets.push(self.ids.len() as u32);
        self.scale.push(scale);
    }

    /// A row that the one before it predicts. Question tokens carry no label, so the first is predicted from
    /// the last of them.
    fn push_labelled(&mut self, chunk: &[u32], scale: f32, label: &[u32]) {
        self.ce_rows.push(self.rows() as u32 - 1);
        self.push_row(chunk, scale);
        self.label_ids.extend_from_slice(label);
        self.label_offsets.push(self.label_ids.len() as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments() -> Segments {
        Segments { question: vec![10, 11], steps: vec![5, 1, 2, 3], answer: vec![5, 20, 2] }
    }

    #[test]
    fn rows_labels_and_latents_of_one_example() {
        let mut b = Batch::new();
        let packing = Packing { method: Method::Colar, compression_factor: 2, merge: Merge::Sqrt };
        b.push(packing, &segments(), None);
        assert_eq!(b.lens, [2 + 3 + 3]);
        assert_eq!(b.offsets, [0, 1, 2, 3, 5, 6, 7, 8, 9]);
        // the first labelled target is the separator, predicted from the last question token
        assert_eq!(b.ce_rows, [1, 2, 3, 4, 5, 6]);
        assert_eq!(b.label_ids, [5, 1, 2, 3, 5, 20, 2]);
        assert_eq!(b.label_offsets, [0, 1, 3, 4, 5, 6, 7]);
        assert_eq!(b.latent_rows, [2, 3, 4]);
        assert_eq!(b.latent_inner, [true, true, false]);
        b.push(packing, &segments(), None);
        assert_eq!(b.ce_rows[6..], [9, 10, 11, 12, 13, 14]);
        assert_eq!(b.counts, [(6, 3), (6, 3)]);
    }

    #[test]
    fn sampled_labels_come_from_their_chunk() {
        let packing = Packing { method: Method::Colar, compression_factor: 3, merge: Merge::Sqrt };
        let mut seen = std::collections::BTreeSet::new();
        for position in 0..40 {
            let mut b = Batch::new();
            b.push(packing, &segments(), Some(&mut Stream::new(position, 0)));
            assert_eq!(b.label_ids.len(), b.ce_rows.len());
            seen.insert(b.label_ids[1]);
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [1, 2, 3]);
    }

    /// Without thoughts, a prompt and its tail are an example of chain of thought.
    #[test]
    fn a_tail_without_thoughts_is_cot() {
        let Segments { question, steps, answer } = segments();
        let (mut cot, mut tail) = (Batch::new(), Batch::new());
        cot.push(
            Packing { method: Method::Cot, compression_factor: 1, merge: Merge::Sqrt },
            &segments(),
            None,
        );
        tail.push_thoughts(&[&question[..], &steps[..1]].concat(), 0, &[&steps[1..], &answer].concat());
        assert_eq!(format!("{cot:?}"), format!("{tail:?}"));
    }

    #[test]
    fn without_labels_of_chunks_the_ends_of_the_reasoning_keep_theirs() {
        let packing = Packing { method: Method::Colar, compression_factor: 2, merge: Merge::Sqrt };
        let (mut with, mut without) = (Batch::new(), Batch::new());
        for _ in 0..2 {
            with.add(packing, &segments(), &mut Labels::Mean);
            without.add(packing, &segments(), &mut Labels::Absent);
        }
        assert_eq!((&without.ids, &without.offsets, &without.lens), (&with.ids, &with.offsets, &with.lens));
        assert_eq!(without.latent_rows, with.latent_rows, "the latent loss sees all positions");
        // Rows 0..8: question 10 11, chunks 5 | 1 2 | 3, answer 5 20 2.
        assert_eq!(without.ce_rows, [1, 4, 5, 6, 9, 12, 13, 14]);
        assert_eq!(without.label_ids, [5, 5, 20, 2, 5, 5, 20, 2]);
        assert_eq!(without.label_offsets, [0, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(without.counts, [(4, 3), (4, 3)]);
        // Reasoning of nothing but its separator.
        let mut bare = Batch::new();
        let none = Segments { steps: vec![5], ..segments() };
        bare.add(packing, &none, &mut Labels::Absent);
        assert_eq!((bare.ce_rows, bare.label_ids), (vec![1, 2, 3, 4], vec![5, 5, 20, 2]));
    }

    #[test]
    fn cot_has_no_latents() {
        let mut b = Batch::new();
        b.push(Packing { method: Method::Cot, compression_factor: 1, merge: Merge::Sqrt }, &segments(), None);
        assert_eq!(b.rows(), 9);
        assert!(b.latent_rows.is_empty());
        assert_eq!(b.ce_rows.len(), 7);
    }
}
