//! All kernels that launches name.

use super::kernels::Kernel;
use super::{
    activation, attention, attention_backward, cross_entropy, decoder, dropout, flash, flash_backward,
    latent, matmul, memory, norm, optimizer, rotary, rows, sampling,
};

/// The kernels of every file of `cuda/`.
pub fn all() -> impl Iterator<Item = &'static Kernel> {
    let files = [
        activation::KERNELS,
        attention::KERNELS,
        attention_backward::KERNELS,
        cross_entropy::KERNELS,
        decoder::KERNELS,
        dropout::KERNELS,
        flash::KERNELS,
        flash_backward::KERNELS,
        latent::KERNELS,
        matmul::KERNELS,
        memory::KERNELS,
        norm::KERNELS,
        optimizer::KERNELS,
        rotary::KERNELS,
        rows::KERNELS,
        sampling::KERNELS,
    ];
    files.into_iter().flatten().copied()
}
