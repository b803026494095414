//! Buffers that do not let a kernel stray.
//!
//! A buffer ends at a page that may not be touched and begins after another, so that an access beyond it stops the
//! program at once instead of reading whatever lies there. Kernels rely on buffers that begin at a
//! multiple of 16 bytes, so up to 15 bytes can be left between the last element and the page; they are NaN, and are
//! looked at after every launch. A new buffer is NaN throughout.

use std::collections::BTreeMap;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::device::Room;
use crate::device::cuda::driver::Memory;
use crate::{Error, Result};

/// Every byte of memory that nothing has written: NaN in any float type, and no index into anything.
pub(super) const POISON: u8 = 0xff;

/// Alignment that a kernel may rely on.
const ALIGN: usize = 16;

/// A buffer: address and bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    pub start: usize,
    pub len: usize,
}

/// The buffers of a driver.
#[derive(Debug, Default)]
pub(super) struct Registry {
    live: Mutex<Live>,
    /// Most bytes of all buffers together.
    limit: Option<usize>,
}

/// The buffers alive.
#[derive(Debug, Default)]
struct Live {
    /// Bytes of each by its address.
    buffers: BTreeMap<usize, usize>,
    /// Bytes of all.
    bytes: usize,
    /// The most that these ever were.
    most: usize,
}

impl Registry {
    /// A registry that takes buffers of `bytes` bytes in all.
    pub(super) fn limited(bytes: usize) -> Self {
        Registry { limit: Some(bytes), ..Registry::default() }
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Memory that the limit leaves.
    pub(super) fn room(&self) -> Option<Room> {
        let total = self.limit?;
        Some(Room { free: total.saturating_sub(self.live().bytes), total })
    }

    /// The most bytes that buffers ever had together.
    pub(super) fn most(&self) -> usize {
        self.live().most
    }

    /// Checks that `address` is the beginning of a live buffer.
    pub(super) fn holds(&self, address: usize) -> bool {
        self.live().buffers.contains_key(&address)
    }

    /// Whether the bytes between the last element of the buffer at `address` and its end are as they were.
    pub(super) fn intact(&self, address: usize) -> bool {
        let live = self.live();
        let Some(&len) = live.buffers.get(&address) else { return true };
        let slack = len.next_multiple_of(ALIGN) - len;
        // SAFETY: the buffer is live, and these bytes lie between its last element and the guard page.
        let tail = unsafe { std::slice::from_raw_parts((address + len) as *const u8, slack) };
        tail.iter().all(|&b| b == POISON)
    }

    /// All buffers, in the order of their addresses.
    pub(super) fn ranges(&self) -> Vec<Range> {
        self.live().buffers.iter().map(|(&start, &len)| Range { start, len }).collect()
    }

    fn add(&self, address: usize, len: usize) {
        let mut live = self.live();
        live.buffers.insert(address, len);
        live.bytes += len;
        live.most = live.most.max(live.bytes);
    }

    fn remove(&self, address: usize) {
        let mut live = self.live();
        if let Some(len) = live.buffers.remove(&address) {
            live.bytes -= len;
        }
    }
}

/// Pages between two that may not be touched.
#[derive(Debug)]
pub(super) struct Guarded {
    map: *mut u8,
    map_len: usize,
    start: *mut u8,
    len: usize,
}

// SAFETY: it owns its mapping, which any thread may use and unmap.
unsafe impl Send for Guarded {}
// SAFETY: a shared reference gives out no more than addresses.
unsafe impl Sync for Guarded {}

impl Guarded {
    /// `len` bytes of [`POISON`].
    pub(super) fn new(len: usize) -> Result<Self> {
        let short = || Error::other(format!("cuda-host: {len} bytes are more than there is memory for"));
        // SAFETY: sysconf has no preconditions.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
        let body = len.checked_next_multiple_of(page).ok_or_else(short)?;
        let map_len = body.checked_add(2 * page).ok_or_else(short)?;
        // SAFETY: a new private mapping at an address of the system's choice.
        let map = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            libc::mmap(ptr::null_mut(), map_len, libc::PROT_NONE, flags, -1, 0)
        };
        if map == libc::MAP_FAILED {
            return Err(short());
        }
        let map = map.cast::<u8>();
        let end = map.wrapping_add(page + body);
        let guarded = Guarded { map, map_len, start: end.wrapping_sub(len.next_multiple_of(ALIGN)), len };
        if body > 0 {
            // SAFETY: the pages between the first and the last of the mapping just made, which then are
            // writable.
            unsafe {
                let first = map.add(page);
                if libc::mprotect(first.cast(), body, libc::PROT_READ | libc::PROT_WRITE) != 0 {
                    return Err(short());
                }
                ptr::write_bytes(first, POISON, body);
            }
        }
        Ok(guarded)
    }

    /// Where it begins.
    pub(super) fn start(&self) -> *mut u8 {
        self.start
    }

    /// Bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own and nothing outlives it.
        unsafe { libc::munmap(self.map.cast(), self.map_len) };
    }
}

/// A buffer of `cuda-host`.
#[derive(Debug)]
pub struct HostMemory {
    guarded: Guarded,
    registry: Arc<Registry>,
}

impl HostMemory {
    pub(super) fn new(len: usize, registry: &Arc<Registry>) -> Result<Self> {
        if registry.room().is_some_and(|room| len > room.free) {
            return Err(Error::other(format!("cuda-host: {len} bytes are more than there is memory for")));
        }
        let guarded = Guarded::new(len)?;
        registry.add(guarded.start() as usize, len);
        Ok(HostMemory { guarded, registry: Arc::clone(registry) })
    }

    /// The first `count` elements.
    ///
    /// # Safety
    /// Nothing may write them meanwhile, and any bits must be a `T`.
    pub(super) unsafe fn slice<T>(&self, count: usize) -> &[T] {
        assert!(count * size_of::<T>() <= self.guarded.len());
        // SAFETY: within the buffer, aligned to 16, initialised when made; the caller vouches for the rest.
        unsafe { std::slice::from_raw_parts(self.guarded.start().cast(), count) }
    }

    /// The first `count` elements, for writing.
    ///
    /// # Safety
    /// Nothing else may use them meanwhile, and any bits must be a `T`.
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn slice_mut<T>(&self, count: usize) -> &mut [T] {
        assert!(count * size_of::<T>() <= self.guarded.len());
        // SAFETY: as in `slice`.
        unsafe { std::slice::from_raw_parts_mut(self.guarded.start().cast(), count) }
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        self.registry.remove(self.guarded.start() as usize);
    }
}

impl Memory for HostMemory {
    fn address(&self) -> u64 {
        self.guarded.start() as u64
    }

    fn len(&self) -> usize {
        self.guarded.len()
    }
}
