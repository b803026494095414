//! Kernels that are wrong on purpose (`cuda/host/faults.cu`): tests launch them and expect to be told.

use crate::device::cuda::kernels::kernels;

kernels! {
    "faults": fault_write_beyond fault_read_beyond fault_copy fault_race fault_barrier fault_exchange fault_shared
        fault_grid fault_unordered fault_traffic
}
