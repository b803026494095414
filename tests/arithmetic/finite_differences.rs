//! Every backward pass against finite differences of its forward pass.
//!
//! The gradients are float32 and the device's; the slopes are those of a float64 rendering of the same pass
//! ([`common::float64`]), so their error is known and the bound is one on the gradient's arithmetic alone, whatever
//! the processor ([`common::gradient`]). Each check also sees to it that the gradient with one element falsified
//! would have failed it.
//!
//! The checks are written for any [`Device`](colar_engine::device::Device); a new device calls them
//! with itself.

mod layers;
mod objective;
mod operations;
mod output;
mod policy;
mod thoughts;
mod whole;

use crate::common::{self, cpu};
