//! The choice of a device and of its arithmetic, as a user makes it.

use serde::{Deserialize, Serialize};

use crate::files::safetensors::Dtype;
use crate::range::Range;

/// Numbers of CPU threads; 0 means one a core.
pub const THREADS: Range = Range::Whole(0, 1024);

/// Where to run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum DeviceKind {
    /// A GPU if there is one that serves, else the CPU; to train, the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The first GPU.
    Cuda,
    /// The CUDA kernels, run on the CPU: for tests of them where no GPU is.
    CudaHost,
}

from_name!(DeviceKind, "device");

impl DeviceKind {
    /// Where training runs: as asked for, and by itself on the CPU, until the kernels' speed at it is measured.
    pub fn for_training(self) -> Self {
        match self {
            DeviceKind::Auto => DeviceKind::Cpu,
            chosen => chosen,
        }
    }
}

/// The element type of activations and, at inference, of weight matrices; sums are float32 either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ComputeDtype {
    /// float32.
    F32,
    /// bfloat16.
    Bf16,
}

from_name!(ComputeDtype, "dtype");

impl From<ComputeDtype> for Dtype {
    fn from(dtype: ComputeDtype) -> Self {
        match dtype {
            ComputeDtype::F32 => Dtype::F32,
            ComputeDtype::Bf16 => Dtype::Bf16,
        }
    }
}
