//! The driver behind `cuda`: one GPU, by way of CUDA's driver interface.
//!
//! libcuda and libcublasLt are loaded when the first driver is made, so the binary runs where they are not. All
//! work goes to one stream, in order, so that a buffer may be dropped while kernels that use it still wait: its
//! next owner's work comes after theirs. Activations lie in one block that is sized before a run (`arena`); weights,
//! and activations that do not fit the block, come from the stream's pool.

mod error;
mod product;

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use super::arena::Arena;
use super::driver::{ALONE_THREADS, Driver, Launch, Limits, Memory, Product};
use super::kernels::Kernel;
use crate::device::{Description, Room};
use crate::{Error, Result};
use error::failed;
use product::Library;

/// The machine code of every file of `cuda/`, by its name.
static FATBINS: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/fatbins.rs"));

/// The first driver that loads machine code of nvcc 13.0.
const MIN_VERSION: i32 = 13_000;

/// The oldest GPU that the kernels are compiled for: compute capability 8.0.
const MIN_CAPABILITY: i32 = 8;

/// The block for activations is a multiple of this, so that runs of nearly the same size share one: 2 MiB, the
/// driver's own step.
const BLOCK_STEP: usize = 2 << 20;

/// Dynamic shared memory that a kernel has without asking: the part of 48 KiB that arrays of fixed
/// size leave in every kernel.
const PLAIN_SHARED: u32 = 40 << 10;

/// The GPU; clones share it.
#[derive(Clone)]
pub struct GpuDriver {
    gpu: Arc<Gpu>,
}

struct Gpu {
    name: String,
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    limits: Limits,
    library: Library,
    pool: sys::CUmemoryPool,
    /// Memory set aside for activations.
    block: Mutex<Option<Block>>,
    /// The most bytes ever taken of blocks that were given back for larger ones.
    most_in_blocks: AtomicUsize,
    /// Kernels looked up so far, by name.
    functions: Mutex<HashMap<&'static str, Function>>,
    modules: Mutex<HashMap<&'static str, Module>>,
}

/// Memory whose parts are handed out again as soon as they are dropped: all work is in one stream's order.
struct Block {
    at: sys::CUdeviceptr,
    arena: Arena,
}

#[derive(Clone, Copy)]
struct Function {
    at: sys::CUfunction,
    /// Dynamic shared memory that it may use.
    shared: u32,
}

struct Module(sys::CUmodule);

// SAFETY: CUDA's handles may be used by any thread that has set the context, as every use here does.
unsafe impl Send for Gpu {}
// SAFETY: as above; the interface is thread-safe.
unsafe impl Sync for Gpu {}

impl Gpu {
    fn block(&self) -> MutexGuard<'_, Option<Block>> {
        self.block.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl GpuDriver {
    /// Whether this machine has an NVIDIA driver at all.
    pub fn is_installed() -> bool {
        // SAFETY: it only tries to load the library.
        unsafe { sys::is_culib_present() }
    }

    /// The first GPU that the driver shows.
    ///
    /// # Errors
    /// Without a driver, a GPU or cuBLASLt; with a driver older than CUDA 13.0, or a GPU older than compute
    /// capability 8.0. The message names the part that is missing or too old.
    pub fn new() -> Result<Self> {
        if !Self::is_installed() {
            return Err(Error::other("cuda: this machine has no NVIDIA driver (libcuda is not there)"));
        }
        result::init().map_err(|e| failed("the driver does not start", e))?;
        let mut version = 0;
        // SAFETY: `version` receives an int.
        unsafe { sys::cuDriverGetVersion(&raw mut version) }.result().map_err(|e| failed("version", e))?;
        if version < MIN_VERSION {
            let (major, minor) = (version / 1000, version % 1000 / 10);
            return Err(Error::other(format!(
                "cuda: the driver is of CUDA {major}.{minor}, the kernels need 13.0 (driver 580 or newer)"
            )));
        }
        let device = result::device::get(0).map_err(|e| failed("no GPU", e))?;
        let name = result::device::get_name(device).map_err(|e| failed("the GPU's name", e))?;
        let attribute = |which| {
            // SAFETY: the device is the one just got.
            unsafe { result::device::get_attribute(device, which) }.map_err(|e| failed("an attribute", e))
        };
        let major = attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        if major < MIN_CAPABILITY {
            return Err(Error::other(format!(
                "cuda: {name} has compute capability {major}.{minor}, the kernels need 8.0"
            )));
        }
        let count = |which| attribute(which).map(|n| u32::try_from(n).unwrap_or(0));
        let limits = Limits {
            blocks: count(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared: count(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            threads: ALONE_THREADS,
        };
        Library::check_present()?;
        // SAFETY: the device is valid; the context is released when the last clone is dropped.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(|e| failed("context", e))?;
        // SAFETY: the context was just retained.
        unsafe { result::ctx::set_current(context) }.map_err(|e| failed("context", e))?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(|e| failed("stream", e))?;
        let pool = keep_freed_memory(device)?;
        let library = Library::new(stream)?;
        let gpu = Gpu {
            name,
            device,
            context,
            stream,
            limits,
            library,
            pool,
            block: Mutex::default(),
            most_in_blocks: AtomicUsize::default(),
            functions: Mutex::default(),
            modules: Mutex::default(),
        };
        Ok(GpuDriver { gpu: Arc::new(gpu) })
    }

    /// The GPU's name.
    pub fn gpu_name(&self) -> &str {
        &self.gpu.name
    }

    /// Makes the GPU's context that of this thread.
    fn bind(&self) -> Result<()> {
        // SAFETY: the context lives as long as `self`.
        unsafe { result::ctx::set_current(self.gpu.context) }.map_err(|e| failed("context", e))
    }

    /// A number of bytes that the memory pool tells of itself.
    fn pool_bytes(&self, which: sys::CUmemPool_attribute) -> Result<usize> {
        let mut bytes = 0u64;
        // SAFETY: the pool is the device's own, and every attribute asked for is a u64.
        unsafe { result::mem_pool::get_attribute(self.gpu.pool, which, (&raw mut bytes).cast()) }
            .map_err(|e| failed("memory pool", e))?;
        Ok(bytes as usize)
    }

    /// Why `bytes` bytes could not be had.
    fn no_memory(&self, bytes: usize, e: DriverError) -> Error {
        if e.0 != sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY {
            return failed("memory", e);
        }
        let mib = |n: usize| n.div_ceil(1 << 20);
        let left = result::mem_get_info().map_or_else(
            |_| String::new(),
            |(free, total)| format!(", of whose {} MiB {} are free", mib(total), free >> 20),
        );
        let name = &self.gpu.name;
        Error::other(format!(
            "cuda: {} MiB do not fit {name}{left}; a smaller `batch_size` or `batch_tokens` needs less",
            mib(bytes)
        ))
    }

    fn function(&self, kernel: &'static Kernel, shared: u32) -> Result<sys::CUfunction> {
        let mut functions = self.gpu.functions.lock().unwrap_or_else(PoisonError::into_inner);
        let mut function = match functions.get(kernel.name) {
            Some(&function) => function,
            None => Function { at: self.look_up(kernel)?, shared: PLAIN_SHARED },
        };
        if shared > function.shared {
            let which = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is of a module that stays loaded.
            unsafe { result::function::set_function_attribute(function.at, which, shared as i32) }
                .map_err(|e| failed(&format!("{shared} bytes of shared memory for {}", kernel.name), e))?;
            function.shared = shared;
        }
        functions.insert(kernel.name, function);
        Ok(function.at)
    }

    fn look_up(&self, kernel: &'static Kernel) -> Result<sys::CUfunction> {
        let mut modules = self.gpu.modules.lock().unwrap_or_else(PoisonError::into_inner);
        if !modules.contains_key(kernel.file) {
            let (_, fatbin) = FATBINS
                .iter()
                .find(|(file, _)| *file == kernel.file)
                .ok_or_else(|| Error::other(format!("cuda: no kernels of {}", kernel.file)))?;
            // The loader reads words; the bytes as embedded may begin anywhere.
            let mut words = vec![0u64; fatbin.len().div_ceil(8)];
            bytemuck::cast_slice_mut(&mut words)[..fatbin.len()].copy_from_slice(fatbin);
            // SAFETY: a whole fatbin, as nvcc wrote it.
            let module = unsafe { result::module::load_data(words.as_ptr().cast()) }
                .map_err(|e| failed(&format!("loading the kernels of {}", kernel.file), e))?;
            modules.insert(kernel.file, Module(module));
        }
        let name = CString::new(kernel.name).map_err(|e| Error::other(e.to_string()))?;
        let Some(module) = modules.get(kernel.file) else {
            return Err(Error::other(format!("cuda: no kernels of {}", kernel.file)));
        };
        // SAFETY: modules stay loaded as long as the GPU is held.
        unsafe { result::module::get_function(module.0, name) }
            .map_err(|e| failed(&format!("kernel {}", kernel.name), e))
    }
}

/// Versions of the GPU's software: the kernel module's, where the operating system tells it, and that of CUDA.
fn driver_version() -> String {
    let mut version = 0;
    // SAFETY: `version` receives an int. Where the call fails it stays 0.
    let _ = unsafe { sys::cuDriverGetVersion(&raw mut version) };
    let cuda = format!("CUDA {}.{}", version / 1000, version % 1000 / 10);
    let text = std::fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
    // "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun …"
    let is_version = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.');
    match text.split_whitespace().find(is_version) {
        Some(module) => format!("{module}, {cuda}"),
        None => cuda,
    }
}

/// A mark in a stream, destroyed when dropped; the context is current.
struct CudaEvent(sys::CUevent);

impl CudaEvent {
    fn new() -> Result<Self> {
        result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT)
            .map(CudaEvent)
            .map_err(|e| failed("event", e))
    }

    /// Marks the end of all work of the stream so far.
    fn record(&self, stream: sys::CUstream) -> Result<()> {
        // SAFETY: both are live and of one context.
        unsafe { result::event::record(self.0, stream) }.map_err(|e| failed("event", e))
    }
}

impl Drop for CudaEvent {
    fn drop(&mut self) {
        // SAFETY: created by `new`, destroyed once.
        let _ = unsafe { result::event::destroy(self.0) };
    }
}

/// Has the pool keep freed memory: the next forward pass takes the same sizes.
fn keep_freed_memory(device: sys::CUdevice) -> Result<sys::CUmemoryPool> {
    let mut threshold = u64::MAX;
    // SAFETY: the device is valid, and the attribute is a u64.
    unsafe {
        let pool = result::device::get_default_mem_pool(device).map_err(|e| failed("memory pool", e))?;
        let which = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        result::mem_pool::set_attribute(pool, which, (&raw mut threshold).cast())
            .map_err(|e| failed("memory pool", e))?;
        Ok(pool)
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // SAFETY: nothing uses the stream, the modules or the context after this: every buffer and every clone of
        // the driver holds the GPU, and this is the last holder. An error at the end has no one to go to.
        unsafe {
            let _ = result::ctx::set_current(self.context);
            let _ = result::stream::synchronize(self.stream);
            self.library.close();
            if let Some(block) = self.block.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
                let _ = result::free_sync(block.at);
            }
            let modules = self.modules.get_mut().unwrap_or_else(PoisonError::into_inner);
            for (_, module) in modules.drain() {
                let _ = result::module::unload(module.0);
            }
            let _ = result::stream::destroy(self.stream);
            let _ = result::primary_ctx::release(self.device);
        }
    }
}

/// A buffer on the GPU.
pub struct GpuMemory {
    at: sys::CUdeviceptr,
    len: usize,
    /// Where it lies in the block; `None` if it has memory of its own.
    offset: Option<usize>,
    gpu: Arc<Gpu>,
}

impl Memory for GpuMemory {
    fn address(&self) -> u64 {
        self.at
    }

    fn len(&self) -> usize {
        self.len
    }
}

impl Drop for GpuMemory {
    fn drop(&mut self) {
        if let Some(offset) = self.offset {
            // Work that still uses it goes before any by its next owner. The block is there as long as any part.
            if let Some(block) = &mut *self.gpu.block() {
                block.arena.give_back(offset, self.len);
            }
            return;
        }
        // SAFETY: allocated on this stream and freed once, after the work that waits on the stream.
        unsafe {
            let _ = result::ctx::set_current(self.gpu.context);
            let _ = result::free_async(self.at, self.gpu.stream);
        }
    }
}

impl Driver for GpuDriver {
    type Memory = GpuMemory;

    fn name(&self) -> &'static str {
        "cuda"
    }

    fn description(&self) -> Description {
        Description { hardware: self.gpu.name.clone(), driver: Some(driver_version()) }
    }

    fn time(&self, lead: impl FnOnce() -> Result<()>, f: impl FnOnce() -> Result<()>) -> Result<Duration> {
        self.bind()?;
        let (start, end) = (CudaEvent::new()?, CudaEvent::new()?);
        lead()?;
        start.record(self.gpu.stream)?;
        f()?;
        end.record(self.gpu.stream)?;
        // SAFETY: both were recorded on one stream, which is waited for.
        let milliseconds = unsafe {
            result::stream::synchronize(self.gpu.stream).map_err(|e| failed("a kernel or copy", e))?;
            result::event::elapsed(start.0, end.0)
        };
        Ok(Duration::from_secs_f64(f64::from(milliseconds.map_err(|e| failed("event", e))?) * 1e-3))
    }

    fn limits(&self) -> Limits {
        self.gpu.limits
    }

    fn scope<R>(&self, f: impl FnOnce() -> R) -> R {
        f()
    }

    fn alloc(&self, bytes: usize) -> Result<GpuMemory> {
        if let Some(block) = &mut *self.gpu.block()
            && let Some(offset) = block.arena.take(bytes)
        {
            let at = block.at + offset as u64;
            return Ok(GpuMemory { at, len: bytes, offset: Some(offset), gpu: Arc::clone(&self.gpu) });
        }
        self.keep(bytes)
    }

    fn keep(&self, bytes: usize) -> Result<GpuMemory> {
        self.bind()?;
        // SAFETY: the stream is live; an empty buffer has an address too.
        let at = unsafe { result::malloc_async(self.gpu.stream, bytes.max(16)) }
            .map_err(|e| self.no_memory(bytes, e))?;
        Ok(GpuMemory { at, len: bytes, offset: None, gpu: Arc::clone(&self.gpu) })
    }

    fn room(&self) -> Result<Option<Room>> {
        self.bind()?;
        let (free, total) = result::mem_get_info().map_err(|e| failed("free memory", e))?;
        // Memory that was freed and is kept for reuse counts as free.
        let held = self.pool_bytes(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?;
        let used = self.pool_bytes(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?;
        let block = self.gpu.block().as_ref().map_or(0, |block| block.arena.free());
        Ok(Some(Room { free: free + held.saturating_sub(used) + block, total }))
    }

    fn peak_bytes(&self) -> Result<usize> {
        self.bind()?;
        let pool = self.pool_bytes(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH)?;
        let before = self.gpu.most_in_blocks.load(Ordering::Relaxed);
        Ok(pool + self.gpu.block().as_ref().map_or(0, |block| block.arena.most()).max(before))
    }

    fn reserve(&self, bytes: usize) -> Result<()> {
        let bytes = bytes.next_multiple_of(BLOCK_STEP);
        let mut block = self.gpu.block();
        if block.as_ref().is_some_and(|b| b.arena.len() >= bytes || !b.arena.is_unused()) {
            return Ok(());
        }
        self.bind()?;
        let out = |e| self.no_memory(bytes, e);
        // SAFETY: no part of the old block has an owner, and the work of the last ones is done once the stream is
        // idle. The new block is freed here or with the GPU.
        unsafe {
            result::stream::synchronize(self.gpu.stream).map_err(|e| failed("a kernel or copy", e))?;
            if let Some(old) = block.take() {
                self.gpu.most_in_blocks.fetch_max(old.arena.most(), Ordering::Relaxed);
                result::free_sync(old.at).map_err(out)?;
            }
            let at = match result::malloc_sync(bytes) {
                Ok(at) => at,
                Err(_) => {
                    // The pool may hold the memory that is missing.
                    result::mem_pool::trim_to(self.gpu.pool, 0).map_err(out)?;
                    result::malloc_sync(bytes).map_err(out)?
                }
            };
            *block = Some(Block { at, arena: Arena::new(bytes) });
        }
        Ok(())
    }

    fn upload(&self, to: &GpuMemory, bytes: &[u8]) -> Result<()> {
        assert!(bytes.len() <= to.len);
        if bytes.is_empty() {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: the buffer is that long. From memory that is not pinned, the call copies before it returns.
        unsafe { result::memcpy_htod_async(to.at, bytes, self.gpu.stream) }.map_err(|e| failed("upload", e))
    }

    fn download(&self, from: &GpuMemory, bytes: &mut [u8]) -> Result<()> {
        assert!(bytes.len() <= from.len);
        self.bind()?;
        // SAFETY: the buffer is that long, and `bytes` is not touched before the stream is done.
        unsafe {
            if !bytes.is_empty() {
                result::memcpy_dtoh_async(bytes, from.at, self.gpu.stream)
                    .map_err(|e| failed("download", e))?;
            }
            result::stream::synchronize(self.gpu.stream).map_err(|e| failed("a kernel or copy", e))
        }
    }

    fn copy(&self, from: &GpuMemory, to: &GpuMemory, bytes: usize) -> Result<()> {
        assert!(bytes <= from.len && bytes <= to.len);
        self.bind()?;
        // SAFETY: both buffers are that long and live until the stream has come here.
        unsafe { result::memcpy_dtod_async(to.at, from.at, bytes, self.gpu.stream) }
            .map_err(|e| failed("copy", e))
    }

    fn zero(&self, memory: &GpuMemory) -> Result<()> {
        if memory.len == 0 {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: the whole buffer.
        unsafe { result::memset_d8_async(memory.at, 0, memory.len, self.gpu.stream) }
            .map_err(|e| failed("clearing", e))
    }

    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        self.bind()?;
        let function = self.function(launch.kernel, launch.shared)?;
        let mut values: Vec<u64> = launch.args.iter().map(|a| a.bits()).collect();
        let mut args: Vec<*mut c_void> = values.iter_mut().map(|v| std::ptr::from_mut(v).cast()).collect();
        let [x, y] = launch.grid;
        let start = if launch.together { result::launch_cooperative_kernel } else { result::launch_kernel };
        // SAFETY: the caller promises that the arguments are the kernel's; CUDA copies them during the call.
        unsafe { start(function, (x, y, 1), (launch.block, 1, 1), launch.shared, self.gpu.stream, &mut args) }
            .map_err(|e| failed(&format!("kernel {}", launch.kernel.name), e))
    }

    fn product(&self, product: &Product<'_, GpuMemory>) -> Result<()> {
        self.bind()?;
        self.gpu.library.product(product)
    }
}
