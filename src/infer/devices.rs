//! Which device a model is loaded on, and with which arithmetic.

use super::engine::{DeviceKind, EngineOptions, Loaded, LoadedOn};
use crate::device::Dtype;
use crate::device::cpu::CpuDevice;
#[cfg(any(cuda_host, cuda_kernels))]
use crate::device::cuda::CudaDevice;
#[cfg(any(cuda_host, cuda_kernels))]
use crate::device::cuda::driver::Driver;
#[cfg(cuda_kernels)]
use crate::device::cuda::gpu::GpuDriver;
#[cfg(cuda_host)]
use crate::device::cuda::host::HostDriver;
use crate::{Error, Result};

/// What activations, and at inference weight matrices, are stored in; sums are float32 either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
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

impl LoadedOn {
    /// Loads a model where and as the options say.
    pub(super) fn open(options: &EngineOptions) -> Result<Self> {
        match options.device {
            DeviceKind::Auto => wherever(options),
            DeviceKind::Cpu => on_cpu(options),
            DeviceKind::Cuda => on_gpu(options),
            DeviceKind::CudaHost => on_host(options),
        }
    }
}

fn on_cpu(options: &EngineOptions) -> Result<LoadedOn> {
    if options.dtype == Some(ComputeDtype::Bf16) {
        return Err(Error::usage("--dtype bf16 is for CUDA devices: the CPU computes in f32"));
    }
    Ok(LoadedOn::Cpu(load(CpuDevice::new(options.threads)?, options)?))
}

/// On a GPU if there is one that serves, else on the CPU. Why not is a warning, unless the machine or the build
/// has nothing to do with GPUs at all.
#[cfg(cuda_kernels)]
fn wherever(options: &EngineOptions) -> Result<LoadedOn> {
    if !GpuDriver::is_installed() {
        tracing::info!("running on the CPU: this machine has no NVIDIA driver");
        return on_cpu(options);
    }
    match GpuDriver::new() {
        Ok(driver) => Ok(LoadedOn::Cuda(load(cuda(driver, options, ComputeDtype::Bf16), options)?)),
        Err(e) => {
            tracing::warn!("running on the CPU: {e}");
            on_cpu(options)
        }
    }
}

#[cfg(not(cuda_kernels))]
fn wherever(options: &EngineOptions) -> Result<LoadedOn> {
    tracing::info!("running on the CPU: this build has no kernels for a GPU");
    on_cpu(options)
}

#[cfg(cuda_kernels)]
fn on_gpu(options: &EngineOptions) -> Result<LoadedOn> {
    let device = cuda(GpuDriver::new()?, options, ComputeDtype::Bf16);
    Ok(LoadedOn::Cuda(load(device, options)?))
}

#[cfg(not(cuda_kernels))]
fn on_gpu(_: &EngineOptions) -> Result<LoadedOn> {
    Err(Error::other(
        "this build lacks --device cuda, as there was no nvcc; run scripts/fetch-nvcc, or install CUDA 13, and \
         build again",
    ))
}

#[cfg(cuda_host)]
fn on_host(options: &EngineOptions) -> Result<LoadedOn> {
    let device = cuda(HostDriver::new(options.threads, 0)?, options, ComputeDtype::F32);
    Ok(LoadedOn::CudaHost(load(device, options)?))
}

#[cfg(not(cuda_host))]
fn on_host(_: &EngineOptions) -> Result<LoadedOn> {
    Err(Error::other(
        "this build lacks --device cuda-host, as there was no C++ compiler; install one (on Debian the package \
         g++) and build again",
    ))
}

#[cfg(any(cuda_host, cuda_kernels))]
fn cuda<R: Driver>(driver: R, options: &EngineOptions, default: ComputeDtype) -> CudaDevice<R> {
    CudaDevice::new(driver, options.dtype.unwrap_or(default).into())
}

fn load<D: crate::device::Device>(device: D, options: &EngineOptions) -> Result<Loaded<D>> {
    Loaded::with_lora(device, &options.model, options.adapter.as_deref(), options.lora)
}
