//! Whole runs of training: their costs, and that they agree between devices, thread counts and interruptions.

#[path = "../common/mod.rs"]
mod common;

mod costs;
mod devices;
mod embedded;
mod exact;
mod levels;
mod methods;
mod moved;
mod tensorboard;
