//! The traffic of launches, as `cuda/host/observed/traffic.cpp` counts it.

use std::str::FromStr;

use serde::Serialize;

use crate::device::cuda::driver::Launch;

/// Bytes of a sector, the least that global memory is asked for.
pub const SECTOR: f64 = 32.0;

/// How a place of the code accesses memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// A write.
    Write,
    /// A read.
    Read,
    /// A read and a write at once.
    Atomic,
}

/// The requests of one place of the code, in all blocks of a launch.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Site {
    /// The place, in the library of observed kernels.
    pub place: u64,
    /// How it accesses memory.
    pub access: Access,
    /// Whether that is shared memory; else global.
    pub shared: bool,
    /// Bytes a lane.
    pub bytes: u32,
    /// Requests of warps.
    pub requests: f64,
    /// Lanes that took part in them.
    pub lanes: f64,
    /// 32-byte sectors of global memory that they take.
    pub sectors: f64,
    /// The fewest that their distinct bytes would take.
    pub least_sectors: f64,
    /// Wavefronts of shared memory that they take.
    pub wavefronts: f64,
    /// The fewest, without conflicts of banks.
    pub least_wavefronts: f64,
}

/// All that a launch moved.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Traffic {
    /// The kernel.
    pub kernel: &'static str,
    /// Blocks.
    pub grid: [u32; 2],
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory of a block.
    pub shared: u32,
    /// Whether its blocks wait for each other.
    pub together: bool,
    /// Blocks that were seen; figures of the others are taken to be like these.
    pub blocks_seen: f64,
    /// Sectors read, each once for every block that read it.
    pub block_read: f64,
    /// Sectors written, counted alike.
    pub block_written: f64,
    /// Sectors read, each once.
    pub read: f64,
    /// Sectors written, each once.
    pub written: f64,
    /// Barriers of the block, of the block with most of them.
    pub barriers: f64,
    /// Barriers of the grid.
    pub grid_barriers: f64,
    /// Shuffles and votes of warps.
    pub exchanges: f64,
    /// Products of fragments (mma.m16n8k16) of warps.
    pub products: f64,
    /// Of the warp that reads most of global memory: requests to read between two waits, and how often there were so many.
    pub phases: Vec<[f64; 2]>,
    /// The places of the code, which the report of a count has beside their lines.
    #[serde(skip)]
    pub sites: Vec<Site>,
}

impl Site {
    /// Bytes of a lane's widest access.
    const WIDEST: f64 = 16.0;

    /// Cycles of the memory's pipe that it takes beyond the fewest: sectors and wavefronts, and of global memory requests
    /// that would be fewer if each lane's were of 16 bytes.
    pub fn excess(&self) -> f64 {
        let wide = (f64::from(self.bytes) / Self::WIDEST).min(1.0);
        let narrow = if self.shared { 0.0 } else { (1.0 - wide) * self.requests };
        self.sectors - self.least_sectors + self.wavefronts - self.least_wavefronts + narrow
    }

    /// Whether it reads, and may have to wait for what it reads.
    pub(super) fn is_read(&self) -> bool {
        self.access == Access::Read
    }
}

impl Traffic {
    /// Reads the library's report of a launch.
    ///
    /// # Errors
    /// The line that is none of its.
    pub(super) fn read_report(launch: &Launch<'_>, report: &str) -> Result<Self, String> {
        let mut traffic = Traffic {
            kernel: launch.kernel.name,
            grid: launch.grid,
            threads: launch.block,
            shared: launch.shared,
            together: launch.together,
            ..Traffic::default()
        };
        for line in report.lines() {
            traffic.take(line).ok_or_else(|| format!("its counts have the line {line:?}"))?;
        }
        Ok(traffic)
    }

    fn take(&mut self, line: &str) -> Option<()> {
        let (name, rest) = line.split_once(' ')?;
        let numbers = rest.split(' ').map(f64::from_str).collect::<Result<Vec<_>, _>>().ok()?;
        match (name, numbers.as_slice()) {
            ("blocks", &[n]) => self.blocks_seen = n,
            ("block_read", &[n]) => self.block_read = n,
            ("block_written", &[n]) => self.block_written = n,
            ("read", &[n]) => self.read = n,
            ("written", &[n]) => self.written = n,
            ("barriers", &[n]) => self.barriers = n,
            ("grid_barriers", &[n]) => self.grid_barriers = n,
            ("exchanges", &[n]) => self.exchanges = n,
            ("products", &[n]) => self.products = n,
            ("phase", &[reads, times]) => self.phases.push([reads, times]),
            (
                "site",
                &[
                    place,
                    kind,
                    shared,
                    bytes,
                    requests,
                    lanes,
                    sectors,
                    least_sectors,
                    wavefronts,
                    least_wavefronts,
                ],
            ) => {
                let access = match kind as u32 {
                    0 => Access::Write,
                    1 => Access::Read,
                    _ => Access::Atomic,
                };
                self.sites.push(Site {
                    place: place as u64,
                    access,
                    shared: shared != 0.0,
                    bytes: bytes as u32,
                    requests,
                    lanes,
                    sectors,
                    least_sectors,
                    wavefronts,
                    least_wavefronts,
                });
            }
            _ => return None,
        }
        Some(())
    }

    /// The sum of a figure over the places that access global memory, or shared.
    pub fn sum(&self, shared: bool, figure: impl Fn(&Site) -> f64) -> f64 {
        self.sites.iter().filter(|site| site.shared == shared).map(figure).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cuda::host::faults::fault_copy;

    #[test]
    fn a_report_is_read_line_by_line() {
        let launch =
            Launch { kernel: &fault_copy, grid: [4, 1], block: 32, shared: 0, args: &[], together: false };
        let report =
            "blocks 2\nread 8\nphase 3 2\nsite 77 1 0 4 4 128 16 16 0 0\nsite 78 0 1 4 4 128 0 0 8 4\n";
        let traffic = Traffic::read_report(&launch, report).unwrap();
        assert_eq!(
            (traffic.blocks_seen, traffic.read, traffic.phases.as_slice()),
            (2.0, 8.0, &[[3.0, 2.0]][..])
        );
        assert_eq!((traffic.sites[0].place, traffic.sites[0].access), (77, Access::Read));
        assert_eq!(traffic.sum(false, |site| site.sectors), 16.0);
        assert_eq!(traffic.sum(true, |site| site.wavefronts), 8.0);
        for line in ["blocks", "blocks two", "site 1 2", "other 1"] {
            assert!(Traffic::read_report(&launch, line).unwrap_err().contains(line));
        }
    }
}
