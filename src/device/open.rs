//! Opening the device that was asked for, and doing something on it.

use super::Device;
use super::choice::{ComputeDtype, DeviceKind};
use super::cpu::CpuDevice;
#[cfg(any(cuda_host, cuda_kernels))]
use super::cuda::CudaDevice;
#[cfg(cuda_host)]
use super::cuda::CudaHostDevice;
#[cfg(cuda_kernels)]
use super::cuda::GpuDevice;
#[cfg(cuda_kernels)]
use super::cuda::gpu::GpuDriver;
#[cfg(cuda_host)]
use super::cuda::host::HostDriver;
use crate::{Error, Result};

/// A task for a device, whichever it is: a function generic over [`Device`], as a value.
pub trait DeviceTask {
    /// The task's result.
    type Output;

    /// Does the task.
    ///
    /// # Errors
    /// The task's own, and errors of the device.
    fn run<D: Device>(self, device: D) -> Result<Self::Output>;
}

/// Runs a task on the device of this kind, whose arithmetic is `dtype` (`None`: bf16 on a GPU, else float32), with
/// `threads` CPU threads (0: one a core).
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
        OpenDevice::Cpu(device) => task.run(device),
        #[cfg(cuda_kernels)]
        OpenDevice::Cuda(device) => task.run(device),
        #[cfg(cuda_host)]
        OpenDevice::CudaHost(device) => task.run(device),
    }
}

/// The targets that the kernels of this build were compiled for, as nvcc names them; none in a build without kernels.
pub fn gpu_targets() -> Vec<&'static str> {
    option_env!("COLAR_GPU_TARGETS").unwrap_or_default().split_whitespace().collect()
}

/// The device that was asked for.
enum OpenDevice {
    Cpu(CpuDevice),
    #[cfg(cuda_kernels)]
    Cuda(GpuDevice),
    #[cfg(cuda_host)]
    CudaHost(CudaHostDevice),
}

fn find(kind: DeviceKind, dtype: Option<ComputeDtype>, threads: usize) -> Result<OpenDevice> {
    match kind {
        DeviceKind::Auto => wherever(dtype, threads),
        DeviceKind::Cpu => cpu(dtype, threads),
        DeviceKind::Cuda => gpu(dtype),
        DeviceKind::CudaHost => host(dtype, threads),
    }
}

fn cpu(dtype: Option<ComputeDtype>, threads: usize) -> Result<OpenDevice> {
    if dtype == Some(ComputeDtype::Bf16) {
        return Err(Error::usage("`dtype` bf16 is for CUDA devices: the CPU computes in f32"));
    }
    Ok(OpenDevice::Cpu(CpuDevice::new(threads)?))
}

/// A GPU if there is one that serves, else the CPU. Why not is a warning, unless the machine or the build has
/// nothing to do with GPUs at all.
#[cfg(cuda_kernels)]
fn wherever(dtype: Option<ComputeDtype>, threads: usize) -> Result<OpenDevice> {
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
fn wherever(dtype: Option<ComputeDtype>, threads: usize) -> Result<OpenDevice> {
    tracing::info!("running on the CPU: this build has no kernels for a GPU");
    cpu(dtype, threads)
}

#[cfg(cuda_kernels)]
fn gpu(dtype: Option<ComputeDtype>) -> Result<OpenDevice> {
    let dtype = dtype.unwrap_or(ComputeDtype::Bf16);
    Ok(OpenDevice::Cuda(CudaDevice::new(GpuDriver::new()?, dtype.into())))
}

#[cfg(not(cuda_kernels))]
fn gpu(_: Option<ComputeDtype>) -> Result<OpenDevice> {
    Err(Error::other(if cfg!(feature = "cuda") {
        "`device` cuda is not in this build, as there was no nvcc; run scripts/fetch-nvcc, or install CUDA 13, and \
             build again"
    } else {
        "`device` cuda is not in this build, which is without the feature of that name"
    }))
}

#[cfg(cuda_host)]
fn host(dtype: Option<ComputeDtype>, threads: usize) -> Result<OpenDevice> {
    let dtype = dtype.unwrap_or(ComputeDtype::F32);
    Ok(OpenDevice::CudaHost(CudaDevice::new(HostDriver::new(threads, 0)?, dtype.into())))
}

#[cfg(not(cuda_host))]
fn host(_: Option<ComputeDtype>, _: usize) -> Result<OpenDevice> {
    Err(Error::other(if cfg!(feature = "cuda-host") {
        "`device` cuda-host is not in this build, as there was no C++ compiler; install one (on Debian the package \
             g++) and build again"
    } else {
        "`device` cuda-host is not in this build, which is without the feature of that name"
    }))
}
