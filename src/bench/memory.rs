//! The most memory that a measurement took.

use crate::Result;
use crate::device::Device;

/// The most bytes that a device's buffers took together; where they are the process's own memory, its largest resident
/// set, mapped weights included, if the operating system tells it.
pub(super) fn peak_bytes<D: Device>(device: &D) -> Result<Option<usize>> {
    Ok(device.peak_bytes()?.or_else(resident))
}

fn resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: usize = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib << 10)
}
