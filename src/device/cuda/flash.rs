//! Launches of `cuda/flash.cu`: the spans that it takes, and the size of its tiles.

use super::driver::{Arg, Driver};
use super::kernels::{Kernel, kernels};
use super::tensor::upload;
use super::tiles::{Side, on_tensor_cores, plan};
use super::{CudaDevice, count32};
use crate::Result;
use crate::device::attention::{HeadShape, Span};
use crate::device::{Dtype, RowForm};

kernels! {
    "flash":
    flash_64_64 flash_64_128 flash_128_64 flash_128_128
}

/// Pairs of a query and a head up to which a span is left to `cuda/attention.cu`, which cuts its keys into parts:
/// the rows of one fragment.
const FEW_ROWS: usize = 16;

/// Threads of a block. `THREADS` of the kernel.
const THREADS: u32 = 128;

/// Blocks from which tiles are large: two for each of an H100's 132 multiprocessors, which hold two of them.
const MANY_BLOCKS: usize = 264;

/// A compiled form of the kernel.
struct FlashKernel {
    kernel: &'static Kernel,
    /// Widest head; narrower ones are filled up in shared memory.
    dim: usize,
    /// Rows of a tile.
    rows: usize,
    /// Keys of a step.
    keys: usize,
}

impl FlashKernel {
    /// Bytes of shared memory: the queries of a tile, two steps of keys and two of values.
    fn shared(&self) -> usize {
        (self.rows + 4 * self.keys) * self.dim * size_of::<u16>()
    }
}

/// By width of head, then with small and large tiles. A row's bits follow from its width's `keys`, not from
/// `rows`.
static FORMS: [[FlashKernel; 2]; 2] = [
    [
        FlashKernel { kernel: &flash_64_64, dim: 64, rows: 64, keys: 64 },
        FlashKernel { kernel: &flash_64_128, dim: 64, rows: 128, keys: 64 },
    ],
    [
        FlashKernel { kernel: &flash_128_64, dim: 128, rows: 64, keys: 32 },
        FlashKernel { kernel: &flash_128_128, dim: 128, rows: 128, keys: 32 },
    ],
];

/// Whether a span goes to this kernel.
pub(super) fn takes(form: RowForm, dtype: Dtype, shape: HeadShape, span: &Span) -> bool {
    on_tensor_cores(dtype, shape) && (form == RowForm::Many || span.q_len * shape.group() > FEW_ROWS)
}

impl<R: Driver> CudaDevice<R> {
    /// Attention of spans that it [`takes`], which lie within the operands and meet in no query; `operands` are
    /// the kernel's parameters from `scale` on.
    pub(super) fn flash(
        &self,
        op: &'static str,
        shape: HeadShape,
        spans: &[Span],
        operands: &[Arg],
    ) -> Result<()> {
        if spans.is_empty() {
            return Ok(());
        }
        let group = shape.group();
        let [small, large] = &FORMS[usize::from(shape.head_dim > 64)];
        let blocks = |form: &FlashKernel| -> usize {
            spans.iter().map(|s| (s.q_len * group).div_ceil(form.rows)).sum::<usize>() * shape.kv_heads
        };
        let form = if blocks(large) >= MANY_BLOCKS { large } else { small };
        let tiles = upload(&self.driver, &plan(op, Side::Pairs, form.rows, group, spans)?)?;
        let args: Vec<Arg> = std::iter::once(Arg::from(&tiles)).chain(operands.iter().copied()).collect();
        let grid = [count32(op, blocks(form))?, 1];
        // SAFETY: by the caller's checks every row and key of a tile lies within the operands, and no two tiles
        // have a row in common. The table of tiles is freed in the order of launches.
        unsafe { self.launch(form.kernel, grid, THREADS, form.shared() as u32, &args) }
    }
}
