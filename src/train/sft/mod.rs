//! The supervised objective (spec section 3), forward and backward over a packed batch.
//!
//! The losses are means over all positions of an optimiser step. A step may be cut into several
//! batches that are accumulated, so the counts to divide by ([`Counts`]) are given, not taken from
//! the batch: accumulation is then exact, whatever the sizes of the parts.

mod objective;
mod packed;
mod pass;

pub use objective::{Counts, LossSums, Objective, PositionLosses};
pub(crate) use packed::{Uploaded, labels_loss};
pub(crate) use pass::latent_target;
pub use pass::{Noise, PendingLosses, begin, run};
