//! The operations of a device, and the devices.
//!
//! Everything above this module (layers, losses, generation, training) is written once, against
//! [`Device`]. A device owns memory, in the form of [`MemoryOps::Tensor`] (a row-major matrix of
//! floats) and [`MemoryOps::Index`] (a vector of `u32`), and performs operations on it. The operations
//! are those of the engine, not of a tensor library: each is as coarse as the kernel one would
//! write for it by hand, so a backend never has to guess what could be fused.
//!
//! # Rules that hold for every operation
//!
//! * Activations have the device's compute dtype (float32 on `cpu`); trained weights, gradients,
//!   optimiser state, losses and log-sum-exps are float32; weights that are not trained keep the dtype of
//!   their file, and at inference have the form that [`MemoryOps::freeze`] gives them.
//! * Outputs are passed in and overwritten, unless the operation says that it adds.
//! * Shapes and dtypes are checked where a buffer enters an operation, and nowhere else; a
//!   mismatch is [`Error::Shape`](crate::Error::Shape) with both sides named.
//! * Equal inputs give equal bits on the same device: on `cpu` with any number of threads, on every processor.
//! * An operation may run later than it returns; only [`MemoryOps::read`], [`OptimizerOps::late`] and
//!   the operations that return host values wait.

mod activation;
mod attention;
pub mod block;
mod choice;
pub mod cpu;
mod cross_entropy;
pub mod cuda;
pub mod decoder;
mod draw;
mod dropout;
mod form;
mod latent;
mod matmul;
mod memory;
mod need;
mod norm;
mod open;
mod optimizer;
mod policy;
mod rotary;
mod rows;
mod sampling;
mod shape;

pub use activation::ActivationOps;
pub use attention::{AttentionOps, HeadShape, Span};
pub use choice::{ComputeDtype, DeviceKind, THREADS};
pub use cross_entropy::{CrossEntropyGrads, CrossEntropyOps, Upstream};
pub use decoder::DecoderOps;
pub use draw::Draw;
pub use dropout::{Dropout, DropoutOps};
pub use form::{FEW_ROWS, RowForm};
pub use latent::{
    DETERMINISTIC_SIGMA, LOG_SIGMA_RANGE, LatentLoss, LatentOps, LatentPolicyGrads, LatentWeights,
};
pub use matmul::MatmulOps;
pub use memory::MemoryOps;
pub use need::{Need, Room, Stay};
pub use norm::NormOps;
pub use open::{DeviceTask, gpu_targets, run_on_device};
pub use optimizer::{AdamW, AdamWTensor, OptimizerOps};
pub use policy::{MOST_EXPONENT, PolicyElement, PolicyLoss, PolicyObjective, PolicyTerms};
pub use rotary::RotaryOps;
pub use rows::RowOps;
pub use sampling::{SamplingOps, TokenChoice};
pub use shape::TensorInfo;

pub use crate::files::safetensors::Dtype;

use std::time::{Duration, Instant};

use crate::Result;

/// The traits whose methods are a device's operations; `D: Device` alone has them all in scope.
pub mod prelude {
    pub use super::{
        ActivationOps, AttentionOps, CrossEntropyOps, DecoderOps, Device, DropoutOps, LatentOps, MatmulOps,
        MemoryOps, NormOps, OptimizerOps, RotaryOps, RowOps, SamplingOps, TensorInfo,
    };
}

/// Names and sizes of a device's hardware.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Description {
    /// The processor, as its maker calls it.
    pub hardware: String,
    /// The version of its driver, where it has one.
    pub driver: Option<String>,
}

/// A place to compute, which performs the operations of all families.
pub trait Device:
    MemoryOps
    + MatmulOps
    + RowOps
    + NormOps
    + RotaryOps
    + AttentionOps
    + ActivationOps
    + DropoutOps
    + LatentOps
    + CrossEntropyOps
    + SamplingOps
    + OptimizerOps
    + DecoderOps
{
    /// Short name, as on the command line.
    fn name(&self) -> &'static str;

    /// Its hardware, for reports of measurements.
    fn description(&self) -> Description;

    /// Runs `lead`, then `f`, and gives the time that the device took from the end of the one to the end of the
    /// other. A device that works behind the host's back goes from `lead` straight into `f` if `lead` keeps it
    /// busy for as long as the host needs to ask for all of `f`.
    ///
    /// # Errors
    /// Those of `lead` and `f`, and errors of the device in their work.
    fn time(&self, lead: impl FnOnce() -> Result<()>, f: impl FnOnce() -> Result<()>) -> Result<Duration> {
        lead()?;
        let start = Instant::now();
        f()?;
        Ok(start.elapsed())
    }

    /// Runs `f` where the device works best: on `cpu`, inside its thread pool. Every sequence of
    /// operations should be wrapped once, at the outermost level.
    fn scope<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R;

    /// The same device, sharing its memory, with products and attention in a form whatever their number of rows. A device
    /// on which a row's bits never depend on the rows beside it has no forms.
    fn in_form(&self, _form: RowForm) -> Self {
        self.clone()
    }

    /// Dtype of activations.
    fn compute_dtype(&self) -> Dtype;
}
