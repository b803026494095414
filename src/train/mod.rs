//! Training, and what it leaves behind.

pub mod tensorboard;
