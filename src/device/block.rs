//! The parts of a decoder's block, in whatever form: shapes, numbers of weights, tensors on a device.
//!
//! ```text
//! n1 = input_norm(x)        x' = x + o(attention(rotary(q_norm(q(n1))), rotary(k_norm(k(n1))), v(n1)))
//! n2 = post_norm(x')        x'' = x' + down(silu(gate(n2)) · up(n2))
//! ```
//!
//! `src/model/block.rs` says which of these parts a configuration has, with which shapes and biases.

use crate::Result;

/// One block: `N` stands for the weight of a norm, `P` for a linear layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block<N, P> {
    /// RMSNorm before attention, over the hidden size.
    pub input_norm: N,
    /// Queries.
    pub q: P,
    /// Keys.
    pub k: P,
    /// Values.
    pub v: P,
    /// RMSNorm of each head of the queries, over the width of a head.
    pub q_norm: Option<N>,
    /// RMSNorm of each head of the keys, likewise.
    pub k_norm: Option<N>,
    /// Attention's output.
    pub o: P,
    /// RMSNorm before the MLP, over the hidden size.
    pub post_norm: N,
    /// Gate of the MLP.
    pub gate: P,
    /// Upward projection of the MLP.
    pub up: P,
    /// Downward projection of the MLP.
    pub down: P,
}

/// A part of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockPart<N, P> {
    /// The weight of a norm.
    Norm(N),
    /// A linear layer.
    Projection(P),
}

impl<N, P> Block<N, P> {
    /// The linear layers, in the order of the computation.
    pub fn projections(&self) -> [&P; 7] {
        [&self.q, &self.k, &self.v, &self.o, &self.gate, &self.up, &self.down]
    }

    /// The linear layers for writing, in the same order.
    pub fn projections_mut(&mut self) -> [&mut P; 7] {
        [&mut self.q, &mut self.k, &mut self.v, &mut self.o, &mut self.gate, &mut self.up, &mut self.down]
    }

    /// The norms, in the order of the computation.
    pub fn norms(&self) -> impl Iterator<Item = &N> {
        [Some(&self.input_norm), self.q_norm.as_ref(), self.k_norm.as_ref(), Some(&self.post_norm)]
            .into_iter()
            .flatten()
    }

    /// All parts, in the order of the computation.
    pub fn parts(&self) -> impl Iterator<Item = BlockPart<&N, &P>> {
        let [q, k, v, o, gate, up, down] = self.projections().map(BlockPart::Projection);
        let [before, after] = [&self.input_norm, &self.post_norm].map(BlockPart::Norm);
        let heads = [&self.q_norm, &self.k_norm].into_iter().flatten().map(BlockPart::Norm);
        [before, q, k, v].into_iter().chain(heads).chain([o, after, gate, up, down])
    }

    /// The same block with every linear layer made into something else, in the order of the computation.
    pub fn map_projections<Q>(self, mut f: impl FnMut(P) -> Q) -> Block<N, Q> {
        Block {
            input_norm: self.input_norm,
            q: f(self.q),
            k: f(self.k),
            v: f(self.v),
            q_norm: self.q_norm,
            k_norm: self.k_norm,
            o: f(self.o),
            post_norm: self.post_norm,
            gate: f(self.gate),
            up: f(self.up),
            down: f(self.down),
        }
    }

    /// The same block with the weight of every norm made into something else, in the order of the computation.
    pub fn map_norms<M>(self, mut f: impl FnMut(N) -> M) -> Block<M, P> {
        Block {
            input_norm: f(self.input_norm),
            q: self.q,
            k: self.k,
            v: self.v,
            q_norm: self.q_norm.map(&mut f),
            k_norm: self.k_norm.map(&mut f),
            o: self.o,
            post_norm: f(self.post_norm),
            gate: self.gate,
            up: self.up,
            down: self.down,
        }
    }
}

impl<N, P> Block<N, P> {
    /// The same block of references to its parts.
    pub fn each(&self) -> Block<&N, &P> {
        Block {
            input_norm: &self.input_norm,
            q: &self.q,
            k: &self.k,
            v: &self.v,
            q_norm: self.q_norm.as_ref(),
            k_norm: self.k_norm.as_ref(),
            o: &self.o,
            post_norm: &self.post_norm,
            gate: &self.gate,
            up: &self.up,
            down: &self.down,
        }
    }
}

impl<N, P> Block<Result<N>, Result<P>> {
    /// The block, if all its parts are there.
    ///
    /// # Errors
    /// The first error of a linear layer, or of a norm.
    pub fn transpose(self) -> Result<Block<N, P>> {
        Ok(Block {
            input_norm: self.input_norm?,
            q: self.q?,
            k: self.k?,
            v: self.v?,
            q_norm: self.q_norm.transpose()?,
            k_norm: self.k_norm.transpose()?,
            o: self.o?,
            post_norm: self.post_norm?,
            gate: self.gate?,
            up: self.up?,
            down: self.down?,
        })
    }
}
