//! The driver below the device: memory, copies, launches, and the large matrix products.
//!
//! There are two: the CPU running the kernels as coroutines (`host`), and CUDA's.
//! All code that chooses kernels, checks shapes, cuts work into blocks and sets up arguments is above this
//! trait, so the code that a GPU runs is tested where there is none.

use std::time::Duration;

use crate::Result;
use crate::device::{Description, Dtype, Room};

use super::kernels::Kernel;

/// Memory of a device, freed when dropped.
pub trait Memory: Send + Sync {
    /// Where it begins; a multiple of 16, also of an empty one.
    fn address(&self) -> u64;
    /// Bytes.
    fn len(&self) -> usize;
    /// Whether it holds no byte.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A value of a kernel's parameter.
#[derive(Debug, Clone, Copy)]
pub enum Arg {
    /// The address of a buffer; 0 where an optional one is not given.
    Pointer(u64),
    /// A `uint32_t`.
    U32(u32),
    /// A `uint64_t`.
    U64(u64),
    /// A `float`.
    F32(f32),
}

impl Arg {
    /// The letter that `cuda/host/shim.h` gives the kind.
    pub fn code(self) -> u8 {
        match self {
            Arg::Pointer(_) => b'p',
            Arg::U32(_) => b'u',
            Arg::U64(_) => b'U',
            Arg::F32(_) => b'f',
        }
    }

    /// The value as the launch interface takes it: little end first, in eight bytes.
    pub fn bits(self) -> u64 {
        match self {
            Arg::Pointer(x) | Arg::U64(x) => x,
            Arg::U32(x) => x.into(),
            Arg::F32(x) => x.to_bits().into(),
        }
    }
}

impl From<u32> for Arg {
    fn from(x: u32) -> Self {
        Arg::U32(x)
    }
}

impl From<u64> for Arg {
    fn from(x: u64) -> Self {
        Arg::U64(x)
    }
}

impl From<f32> for Arg {
    fn from(x: f32) -> Self {
        Arg::F32(x)
    }
}

impl<M: Memory> From<&M> for Arg {
    fn from(memory: &M) -> Self {
        Arg::Pointer(memory.address())
    }
}

impl<M: Memory> From<Option<&M>> for Arg {
    fn from(memory: Option<&M>) -> Self {
        Arg::Pointer(memory.map_or(0, Memory::address))
    }
}

/// How a kernel is to run.
#[derive(Debug, Clone, Copy)]
pub struct Launch<'a> {
    /// The kernel.
    pub kernel: &'static Kernel,
    /// Blocks along x and y; without any, nothing runs.
    pub grid: [u32; 2],
    /// Threads of a block, a multiple of 32.
    pub block: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// Its parameters in order.
    pub args: &'a [Arg],
    /// Whether all blocks run at the same time, so that they may wait for each other.
    pub together: bool,
}

/// Threads of a block that has a multiprocessor of a GPU to itself: enough loads in flight, and registers for each.
pub const ALONE_THREADS: u32 = 256;

/// Resources that a driver's processor offers a launch.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Blocks that run at the same time, where each takes a multiprocessor for itself.
    pub blocks: u32,
    /// Bytes of dynamic shared memory that a block may have.
    pub shared: u32,
    /// Threads that a block of which a multiprocessor has no other should have.
    pub threads: u32,
}

/// The form of a product, in the shapes of the row-major matrices that it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProductForm {
    /// `a[m,k] · b[n,k]ᵀ`: a linear layer forward.
    Nt,
    /// `a[m,k] · b[k,n]`: the gradient of its input.
    Nn,
    /// `a[k,m]ᵀ · b[k,n]`: the gradient of its weight.
    Tn,
}

/// A matrix that begins within a buffer, at a multiple of the size of its elements.
#[derive(Debug)]
pub struct Operand<'a, M> {
    /// The buffer.
    pub memory: &'a M,
    /// Elements of the buffer before the matrix.
    pub from: usize,
}

impl<M> Clone for Operand<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for Operand<'_, M> {}

impl<'a, M> From<&'a M> for Operand<'a, M> {
    fn from(memory: &'a M) -> Self {
        Operand { memory, from: 0 }
    }
}

/// `y[m,n] = alpha · (the product of a and b) + beta · y`; with `beta` 0 the old `y` is not read. None of `m`, `n`
/// and `k` is 0.
pub struct Product<'a, M> {
    /// The operands that are transposed.
    pub form: ProductForm,
    /// Rows of `y`.
    pub m: usize,
    /// Columns of `y`.
    pub n: usize,
    /// The width that is summed over.
    pub k: usize,
    /// Factor of the product.
    pub alpha: f32,
    /// Factor of the old `y`.
    pub beta: f32,
    /// Activations, or the gradient of some.
    pub a: Operand<'a, M>,
    /// Weights, or activations.
    pub b: Operand<'a, M>,
    /// Result.
    pub y: Operand<'a, M>,
    /// Dtype of `a` and `b`: float32 or bf16, with sums in float32.
    pub dtype: Dtype,
    /// Dtype of `y`: the same, or float32.
    pub out: Dtype,
}

/// A way to run kernels.
pub trait Driver: Clone + Send + Sync + 'static {
    /// Its memory.
    type Memory: Memory;

    /// The device's name on the command line.
    fn name(&self) -> &'static str;

    /// The hardware that it drives.
    fn description(&self) -> Description;

    /// Runs `lead`, then `f`, and gives the time from the end of the one's work to the end of the other's.
    ///
    /// # Errors
    /// Those of `lead` and `f`, and errors of the driver in their work.
    fn time(&self, lead: impl FnOnce() -> Result<()>, f: impl FnOnce() -> Result<()>) -> Result<Duration>;

    /// The most that a launch may ask for.
    fn limits(&self) -> Limits;

    /// Runs `f` where the driver works best.
    fn scope<R>(&self, f: impl FnOnce() -> R) -> R;

    /// Memory of `bytes` bytes, of undefined content, for as long as a run lasts: from the memory
    /// that [`reserve`](Driver::reserve) has set aside, while that suffices.
    ///
    /// # Errors
    /// When there is not enough.
    fn alloc(&self, bytes: usize) -> Result<Self::Memory>;

    /// Memory of `bytes` bytes, of undefined content, for weights, which outlive runs.
    ///
    /// # Errors
    /// When there is not enough.
    fn keep(&self, bytes: usize) -> Result<Self::Memory>;

    /// Memory left for new buffers; `None` where nothing but the operating system limits it.
    ///
    /// # Errors
    /// Errors of the driver.
    fn room(&self) -> Result<Option<Room>>;

    /// The most bytes that buffers ever took together, or somewhat more: where some lie in memory that was set aside
    /// and some beside it, the most of each.
    ///
    /// # Errors
    /// Errors of the driver.
    fn peak_bytes(&self) -> Result<usize>;

    /// Sets memory aside from which [`alloc`](Driver::alloc) gives, at least `bytes` in all. Memory that was
    /// set aside before serves if it is large enough, or while any of it is in use; buffers that do not fit it are
    /// allocated beside it.
    ///
    /// # Errors
    /// When there is not enough.
    fn reserve(&self, bytes: usize) -> Result<()>;

    /// Copies to the beginning of a buffer that is at least as long.
    ///
    /// # Errors
    /// Errors of the driver.
    fn upload(&self, to: &Self::Memory, bytes: &[u8]) -> Result<()>;

    /// Waits for all work and copies from the beginning of a buffer that is at least as long.
    ///
    /// # Errors
    /// Errors of the driver, from this copy or from work before it.
    fn download(&self, from: &Self::Memory, bytes: &mut [u8]) -> Result<()>;

    /// Copies the first `bytes` bytes of a buffer to another; both have as many.
    ///
    /// # Errors
    /// Errors of the driver.
    fn copy(&self, from: &Self::Memory, to: &Self::Memory, bytes: usize) -> Result<()>;

    /// Fills a buffer with zeros.
    ///
    /// # Errors
    /// Errors of the driver.
    fn zero(&self, memory: &Self::Memory) -> Result<()>;

    /// Runs a kernel after all work before it.
    ///
    /// # Safety
    /// The arguments must be those the kernel declares, and every access that it makes for them within
    /// memory of this driver that lives until the work is done, by no other at the same time if it writes.
    ///
    /// # Errors
    /// Errors of the driver.
    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<()>;

    /// A product with many rows, after all work before it.
    ///
    /// # Errors
    /// Errors of the driver.
    fn product(&self, product: &Product<'_, Self::Memory>) -> Result<()>;
}
