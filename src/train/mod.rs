//! Training.
pub mod batch;
pub mod sft;
