//! Kernels of one instruction each (`cuda/host/twins.cu`): tests compare the host's twins of `cuda/mma.cuh`
//! with what the PTX ISA documents.

use crate::device::cuda::kernels::kernels;

kernels! {
    "twins": twin_mma twin_ldmatrix twin_copy twin_copy_astray
}
