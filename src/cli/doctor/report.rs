//! The findings of `doctor`.

use serde::Serialize;

use super::libraries::GpuLibrary;
use crate::bench::SelfTest;

/// All that is reported.
#[derive(Serialize)]
pub(super) struct Report {
    pub(super) version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) commit: Option<&'static str>,
    /// The system and processor architecture that the binary was built for.
    pub(super) target: String,
    /// Instruction sets that the processor has loops for, the narrowest first.
    pub(super) instruction_sets: Vec<&'static str>,
    pub(super) instruction_set: &'static str,
    /// Cores that the process may use.
    pub(super) cores: usize,
    /// Memory of the machine, where the system tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) memory_bytes: Option<u64>,
    /// The targets that the kernels were compiled for; none in a build without them.
    pub(super) gpu_kernels: Vec<&'static str>,
    pub(super) gpu_libraries: Vec<GpuLibrary>,
    pub(super) devices: Vec<Found>,
}

/// A device, or why there is none.
#[derive(Serialize)]
pub(super) struct Found {
    pub(super) device: &'static str,
    #[serde(flatten)]
    pub(super) state: State,
}

#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum State {
    Works(Box<Works>),
    Missing { missing: String },
}

/// A device that is there.
#[derive(Serialize)]
pub(super) struct Works {
    pub(super) hardware: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) driver: Option<String>,
    pub(super) dtype: String,
    /// Bytes read and written by a large copy, 1e9 a second; not of `cuda-host`, which is for tests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) copy_gb_per_s: Option<f64>,
    /// Operations of a large product, 1e12 a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) product_tflop_per_s: Option<f64>,
    pub(super) self_test: SelfTest,
}
