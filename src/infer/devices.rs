//! Which device a model is loaded on, or something else is done on, and with which arithmetic.

use super::engine::{DeviceKind, EngineOptions, Loaded, LoadedOn};
use crate::device::cpu::CpuDevice;
#[cfg(any(cuda_host, cuda_kernels))]
use crate::device::cuda::CudaDevice;
#[cfg(cuda_host)]
use crate::device::cuda::CudaHostDevice;
#[cfg(cuda_kernels)]
use crate::device::cuda::GpuDevice;
#[cfg(cuda_kernels)]
use crate::device::cuda::gpu::GpuDriver;
#[cfg(cuda_host)]
use crate::device::cuda::host::HostDriver;
use crate::device::{Device, Dtype};
use crate::{Error, Result};

/// What activations, and at inference weight matrices, are stored in; sums are float32 either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ComputeDtype {
    /// float32.
    F32,
    /// bfloat16.
    Bf16,
}

impl From<ComputeDtype> for Dtype {
    fn from(dtype: ComputeDtype) -> Self {
        match dtype {
            ComputeDtype::F32 => Dtype::F32,
            ComputeDtype::Bf16 => Dtype::Bf16,
        }
    }
}

/// What is to be done on a device, whichever it is: a function generic over [`Device`], as a value.
pub trait DeviceTask {
    /// What it gives.
    type Output;

    /// Does it.
    ///
    /// # Errors
    /// The task's own, and what the device says.
    fn run<D: Device>(self, device: D) -> Result<Self::Output>;
}

/// Has a task run on the device of this kind, whose arithmetic is `dtype` (`None`: bf16 on a GPU, else float32),
/// with `threads` CPU threads (0: one a core).
///
/// # Errors
/// A device that this build or machine does not have, or not in this arithmetic; those of the task.
pub fn run_on_device<T: DeviceTask>(
    kind: DeviceKind,
    dtype: Option<ComputeDtype>,
    threads: usize,
    task: T,
) -> Result<T::Output> {
    match find(kind, dtype, threads)? {
        Found::Cpu(device) => task.run(device),
        #[cfg(cuda_kernels)]
        Found::Cuda(device) => task.run(device),
        #[cfg(cuda_host)]
        Found::CudaHost(device) => task.run(device),
    }
}

impl LoadedOn {
    /// Loads a model where and as the options say.
    pub(super) fn open(options: &EngineOptions) -> Result<Self> {
        Ok(match find(options.device, options.dtype, options.threads)? {
            Found::Cpu(device) => LoadedOn::Cpu(load(device, options)?),
            #[cfg(cuda_kernels)]
            Found::Cuda(device) => LoadedOn::Cuda(load(device, options)?),
            #[cfg(cuda_host)]
            Found::CudaHost(device) => LoadedOn::CudaHost(load(device, options)?),
        })
    }
}

fn load<D: Device>(device: D, options: &EngineOptions) -> Result<Loaded<D>> {
    Loaded::with_lora(device, &options.model, options.adapter.as_deref(), options.lora)
}

/// The device that was asked for.
enum Found {
    Cpu(CpuDevice),
    #[cfg(cuda_kernels)]
    Cuda(GpuDevice),
    #[cfg(cuda_host)]
    CudaHost(CudaHostDevice),
}

fn find(kind: DeviceKind, dtype: Option<ComputeDtype>, threads: usize) -> Result<Found> {
    match kind {
        DeviceKind::Auto => wherever(dtype, threads),
        DeviceKind::Cpu => cpu(dtype, threads),
        DeviceKind::Cuda => gpu(dtype),
        DeviceKind::CudaHost => host(dtype, threads),
    }
}

fn cpu(dtype: Option<ComputeDtype>, threads: usize) -> Result<Found> {
    if dtype == Some(ComputeDtype::Bf16) {
        return Err(Error::usage("--dtype bf16 is for CUDA devices: the CPU computes in f32"));
    }
    Ok(Found::Cpu(CpuDevice::new(threads)?))
}

/// A GPU if there is one that serves, else the CPU. Why not is a warning, unless the machine or the build has
/// nothing to do with GPUs at all.
#[cfg(cuda_kernels)]
fn wherever(dtype: Option<ComputeDtype>, threads: usize) -> Result<Found> {
    if !GpuDriver::is_installed() {
        tracing::info!("running on the CPU: this machine has no NVIDIA driver");
        return cpu(dtype, threads);
    }
    match gpu(dtype) {
        Ok(found) => Ok(found),
        Err(e) => {
            tracing::warn!("running on the CPU: {e}");
            cpu(dtype, threads)
        }
    }
}

#[cfg(not(cuda_kernels))]
fn wherever(dtype: Option<ComputeDtype>, threads: usize) -> Result<Found> {
    tracing::info!("running on the CPU: this build has no kernels for a GPU");
    cpu(dtype, threads)
}

#[cfg(cuda_kernels)]
fn gpu(dtype: Option<ComputeDtype>) -> Result<Found> {
    let dtype = dtype.unwrap_or(ComputeDtype::Bf16);
    Ok(Found::Cuda(CudaDevice::new(GpuDriver::new()?, dtype.into())))
}

#[cfg(not(cuda_kernels))]
fn gpu(_: Option<ComputeDtype>) -> Result<Found> {
    Err(Error::other(
        "this build lacks --device cuda, as there was no nvcc; run scripts/fetch-nvcc, or install CUDA 13, and \
         build again",
    ))
}

#[cfg(cuda_host)]
fn host(dtype: Option<ComputeDtype>, threads: usize) -> Result<Found> {
    let dtype = dtype.unwrap_or(ComputeDtype::F32);
    Ok(Found::CudaHost(CudaDevice::new(HostDriver::new(threads, 0)?, dtype.into())))
}

#[cfg(not(cuda_host))]
fn host(_: Option<ComputeDtype>, _: usize) -> Result<Found> {
    Err(Error::other(
        "this build lacks --device cuda-host, as there was no C++ compiler; install one (on Debian the package \
         g++) and build again",
    ))
}
