//! Accesses that no barrier orders are found: here in kernels that are wrong on purpose.
//!
//! With `COLAR_TEST_ACCESSES=1` all other tests of this program run kernels compiled so that their accesses are seen, which
//! takes minutes; `.ci/run` does it.

use colar_engine::device::cuda::driver::{Arg, Driver, Launch};
use colar_engine::device::cuda::host::{HostDriver, HostMemory, faults};
use colar_engine::device::cuda::kernels::Kernel;

use super::common::accesses::{library, with_lines};

fn driver() -> HostDriver {
    // SAFETY: the library was compiled of this tree's kernels.
    unsafe { HostDriver::observing(3, library()) }.unwrap()
}

/// Runs a kernel, whose report names lines of its file.
fn run(d: &HostDriver, kernel: &'static Kernel, grid: u32, block: u32, args: &[Arg]) -> Result<(), String> {
    let launch = Launch { kernel, grid: [grid, 1], block, shared: 0, args, together: grid > 1 };
    // SAFETY: the device detects the faults of these kernels, which is tested here.
    unsafe { d.launch(&launch) }.map_err(|e| with_lines(&e.to_string()))
}

fn zeros(d: &HostDriver, bytes: usize) -> HostMemory {
    let memory = d.alloc(bytes).unwrap();
    d.zero(&memory).unwrap();
    memory
}

#[test]
fn each_missing_barrier_is_found() {
    let d = driver();
    let (values, out) = (zeros(&d, 256), zeros(&d, 256));
    for (kind, named) in [
        "a read of shared memory at faults.cu:71 by thread|after a write at faults.cu:68 by thread|no barrier of the warp between",
        "a read of shared memory|no barrier of the block between",
        "a write of shared memory|after a read|no barrier of the block between",
        "a read of shared memory|after a write|no barrier of the warp between",
        "a read of shared memory|after a write|no barrier of the warp between",
        "a read of shared memory|after an atomic|no barrier of the",
        "a write of shared memory|after a write|no barrier of the",
        "a read of global memory|after a write|read as a constant",
    ]
    .into_iter()
    .enumerate()
    {
        let args = |wait: u32| [Arg::U32(kind as u32), Arg::U32(wait), Arg::from(&values), Arg::from(&out)];
        run(&d, &faults::fault_unordered, 1, 64, &args(1)).unwrap_or_else(|e| panic!("{kind} with its barrier: {e}"));
        let error = run(&d, &faults::fault_unordered, 1, 64, &args(0)).expect_err(named);
        assert!(!error.contains('\n') && error.contains("fault_unordered"), "{error}");
        for part in named.split('|') {
            assert!(error.contains(part), "{kind}: {error}");
        }
    }
}

#[test]
fn blocks_are_ordered_by_the_barrier_of_the_grid_alone() {
    let d = driver();
    let [numbers, out] = [(); 2].map(|()| zeros(&d, 4 * 192));
    let arrived = zeros(&d, 4);
    let args = |wait| [Arg::U32(wait), Arg::from(&numbers), Arg::from(&out), Arg::from(&arrived)];
    run(&d, &faults::fault_grid, 3, 64, &args(1)).unwrap();
    let error = run(&d, &faults::fault_grid, 3, 64, &args(0)).unwrap_err();
    assert!(error.contains("no barrier of the grid between"), "{error}");
}
