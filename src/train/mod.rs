//! Training: batches, the objective, and what a run leaves behind.

pub mod batch;
pub mod sft;
pub mod tensorboard;
