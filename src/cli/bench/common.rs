//! The device of a timing, the adapter that a timed step trains, and results as JSON.

use clap::Args;

use crate::bench::Setting;
use crate::device::{ComputeDtype, DeviceKind, DeviceTask, run_on_device};
use crate::model::adapter::AdapterConfig;
use crate::{Error, Result};

/// The device to time, and the form of the output
#[derive(Debug, Args)]
pub(super) struct DeviceArgs {
    /// Where to run
    #[arg(long, value_enum, default_value_t = DeviceKind::Cpu)]
    pub device: DeviceKind,
    /// Arithmetic of a CUDA device [default: bf16 on cuda, f32 on cuda-host; the cpu has f32 alone]
    #[arg(long, value_enum, value_name = "DTYPE")]
    pub dtype: Option<ComputeDtype>,
    /// CPU threads; 0 means one a core
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub threads: usize,
    /// One line of JSON
    #[arg(long)]
    pub json: bool,
}

impl DeviceArgs {
    pub fn run<T: DeviceTask>(&self, task: T) -> Result<T::Output> {
        run_on_device(self.device, self.dtype, self.threads, task)
    }
}

/// The adapter and the latent head that a timed step trains, and how often it is timed
#[derive(Debug, Args)]
pub(super) struct TrainingArgs {
    /// Compression factor
    #[arg(long, value_name = "C", default_value_t = 2)]
    pub cf: usize,
    /// Rank of the adapter
    #[arg(long, value_name = "R", default_value_t = AdapterConfig::default().r)]
    pub lora_r: usize,
    /// Inner width of the latent head [default: the hidden size]
    #[arg(long, value_name = "I")]
    pub head_size: Option<usize>,
    /// Timed steps
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub steps: usize,
    #[command(flatten)]
    pub on: DeviceArgs,
}

/// The adapter of the paper, at another rank.
pub(super) fn adapter(r: usize) -> AdapterConfig {
    AdapterConfig { r, ..AdapterConfig::default() }
}

/// A timing as JSON, with the setting it was taken in.
pub(super) fn with_setting(setting: &Setting, timing: &impl serde::Serialize) -> Result<serde_json::Value> {
    let mut line = as_json(setting)?;
    for (key, value) in as_json(timing)?.as_object().into_iter().flatten() {
        line[key] = value.clone();
    }
    Ok(line)
}

pub(super) fn as_json(value: &impl serde::Serialize) -> Result<serde_json::Value> {
    serde_json::to_value(value).map_err(|e| Error::other(e.to_string()))
}
