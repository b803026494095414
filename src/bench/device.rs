//! Work for a device that is named at run time.

use crate::Result;
use crate::device::Device;
use crate::device::cpu::CpuDevice;
#[cfg(cuda_host)]
use crate::device::cuda::CudaHostDevice;
#[cfg(cuda_kernels)]
use crate::device::cuda::GpuDevice;
use crate::infer::DeviceKind;

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

/// Makes the device, with `threads` CPU threads (0: one a core), and has the task run on it.
///
/// # Errors
/// A device that this build or machine does not have, and those of the task.
pub fn on_device<T: DeviceTask>(kind: DeviceKind, threads: usize, task: T) -> Result<T::Output> {
    match kind {
        DeviceKind::Auto | DeviceKind::Cpu => task.run(CpuDevice::new(threads)?),
        #[cfg(cuda_kernels)]
        DeviceKind::Cuda => task.run(GpuDevice::on_gpu()?),
        #[cfg(cuda_host)]
        DeviceKind::CudaHost => task.run(CudaHostDevice::on_host(threads, 0)?),
        #[allow(unreachable_patterns)]
        DeviceKind::Cuda | DeviceKind::CudaHost => Err(kind.not_built()),
    }
}
