//! The two memories of a generated module: the packet pool, mapped read-only, and the page it shares with the host.
//!
//! One read-only window on the pool serves every instance: the pool never changes its size, nobody can write through the
//! window, and its page tables are filled once instead of once per instance. The pages for descriptors and results come
//! from a free list, so that a filter swap maps and unmaps nothing (each `munmap` interrupts every running worker).

use crate::WasmError;
use smpnet_abi::PoolDesc;
use std::cell::Cell;
use std::ptr::{NonNull, null_mut};
use std::sync::{Arc, Mutex, PoisonError};
use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

/// Bytes of a WebAssembly page.
pub(crate) const WASM_PAGE: usize = 64 * 1024;
/// Address space in front of every memory's guard. With 4 GiB no 32-bit index needs a bounds check.
pub(crate) const RESERVATION: usize = 4 << 30;
/// Address space behind the reservation that is never mapped; static offsets of loads end in it.
pub(crate) const GUARD: usize = 32 << 20;
thread_local! {
    /// Set while this thread instantiates the module that defines the pool's memory: wasmtime tells a memory creator
    /// only the type of the memory it wants.
    static BUILDING_POOL: Cell<bool> = const { Cell::new(false) };
}

/// While it lives, memories made by this thread are the packet pool.
pub(crate) struct BuildingPool(());

impl BuildingPool {
    pub(crate) fn enter() -> Self {
        BUILDING_POOL.set(true);
        BuildingPool(())
    }
}

impl Drop for BuildingPool {
    fn drop(&mut self) {
        BUILDING_POOL.set(false);
    }
}

/// Reserved address space, unmapped when dropped.
struct Region {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a Region is a range of address space that it alone owns; unmapping may happen on any thread.
unsafe impl Send for Region {}
// SAFETY: shared access gives out only the address.
unsafe impl Sync for Region {}

impl Region {
    /// Reserves `bytes` of inaccessible address space.
    fn reserve(bytes: usize) -> Result<Region, WasmError> {
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let p = unsafe {
            libc::mmap(
                null_mut(),
                bytes,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        match NonNull::new(p.cast::<u8>()) {
            Some(base) if p != libc::MAP_FAILED => Ok(Region { base, bytes }),
            _ => Err(WasmError::Map { what: "address space for a filter", source: std::io::Error::last_os_error() }),
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the range is this Region's own and nothing refers to it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// The packet pool, mapped read-only in front of inaccessible address space.
pub(crate) struct PoolWindow {
    _region: Region,
    base: NonNull<u8>,
    pages: u32,
}

// SAFETY: the memory is mapped read-only; what it shows changes under its readers, who are WebAssembly loads only.
unsafe impl Send for PoolWindow {}
// SAFETY: as above.
unsafe impl Sync for PoolWindow {}

impl PoolWindow {
    /// Maps the pool. Refuses a pool without a memfd, one that could be truncated (reading beyond its end is a SIGBUS,
    /// which ends the process), and one that 32-bit offsets cannot reach.
    pub(crate) fn map(pool: &PoolDesc) -> Result<PoolWindow, WasmError> {
        if pool.fd < 0 {
            return Err(WasmError::PoolWithoutFd);
        }
        // SAFETY: F_GET_SEALS takes no pointer.
        let seals = unsafe { libc::fcntl(pool.fd, libc::F_GET_SEALS) };
        if seals < 0 || seals & libc::F_SEAL_SHRINK == 0 {
            return Err(WasmError::PoolNotSealed);
        }
        let bytes = usize::try_from(pool.bytes).unwrap_or(usize::MAX);
        let cells = u64::from(pool.cells) * u64::from(pool.cell_size);
        if bytes == 0 || bytes > RESERVATION || cells > pool.bytes {
            return Err(WasmError::PoolSize(pool.bytes));
        }
        // SAFETY: stat is plain old data, for which zeros are a value.
        let mut st: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: `st` outlives the call.
        if unsafe { libc::fstat(pool.fd, &mut st) } != 0 || u64::try_from(st.st_size).unwrap_or(0) < pool.bytes {
            return Err(WasmError::PoolSize(pool.bytes));
        }
        // A mapping of huge pages begins and ends on one.
        let page = (pool.page_size as usize).max(4096);
        let mapped = bytes.next_multiple_of(page);
        let region = Region::reserve(RESERVATION + GUARD + page)?;
        let pad = region.base.as_ptr().align_offset(page);
        // SAFETY: `pad` is below `page`, which was reserved in excess.
        let base = unsafe { region.base.add(pad) };
        // SAFETY: replaces a part of the reservation, which nobody uses yet.
        let p = unsafe {
            libc::mmap(base.as_ptr().cast(), mapped, libc::PROT_READ, libc::MAP_SHARED | libc::MAP_FIXED, pool.fd, 0)
        };
        if p == libc::MAP_FAILED {
            return Err(WasmError::Map {
                what: "the packet pool for filters",
                source: std::io::Error::last_os_error(),
            });
        }
        // Page tables now, so that no packet pays for them. Kernels before 5.14 fault them in one by one instead.
        // SAFETY: only reads the range just mapped.
        unsafe { libc::madvise(p, mapped, libc::MADV_POPULATE_READ) };
        Ok(PoolWindow { _region: region, base, pages: bytes.div_ceil(WASM_PAGE) as u32 })
    }

    /// WebAssembly pages of the pool, the last one perhaps not fully mapped.
    pub(crate) fn pages(&self) -> u32 {
        self.pages
    }

    fn bytes(&self) -> usize {
        self.pages as usize * WASM_PAGE
    }
}

/// The pages for descriptors and results.
pub(crate) struct IoPages {
    free: Mutex<Vec<Region>>,
    /// Most free pages that are kept for the next instances.
    kept: usize,
}

impl IoPages {
    pub(crate) fn new(kept: usize) -> Self {
        IoPages { free: Mutex::default(), kept }
    }

    fn take(&self) -> Result<Region, WasmError> {
        let kept = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(region) = kept {
            // SAFETY: the first page of every io region is readable and writable, and it has no user now.
            unsafe { region.base.as_ptr().write_bytes(0, WASM_PAGE) };
            return Ok(region);
        }
        let region = Region::reserve(RESERVATION + GUARD)?;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: changes the protection of a part of our own reservation.
        if unsafe { libc::mprotect(region.base.as_ptr().cast(), WASM_PAGE, prot) } != 0 {
            return Err(WasmError::Map { what: "a filter's page", source: std::io::Error::last_os_error() });
        }
        // Touched here, on a control thread, and not by the first packet.
        // SAFETY: just made writable, and nobody else knows of it.
        unsafe { region.base.as_ptr().write_bytes(0, WASM_PAGE) };
        Ok(region)
    }

    fn give(&self, region: Region) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < self.kept {
            free.push(region);
        }
    }
}

struct PoolMemory(Arc<PoolWindow>);

// SAFETY: the base is page-aligned, RESERVATION + GUARD bytes from it are reserved, nothing behind the pool is ever
// accessible, and the base never moves. It is not zero-filled, which concerns the meaning of programs and not safety.
unsafe impl LinearMemory for PoolMemory {
    fn byte_size(&self) -> usize {
        self.0.bytes()
    }

    fn byte_capacity(&self) -> usize {
        self.0.bytes()
    }

    fn grow_to(&mut self, _new_size: usize) -> wasmtime::Result<()> {
        Err(wasmtime::Error::msg("the packet pool does not grow"))
    }

    fn as_ptr(&self) -> *mut u8 {
        self.0.base.as_ptr()
    }
}

struct IoMemory {
    region: Option<Region>,
    base: NonNull<u8>,
    pages: Arc<IoPages>,
}

// SAFETY: the page belongs to one instance at a time.
unsafe impl Send for IoMemory {}
// SAFETY: shared access gives out only the address.
unsafe impl Sync for IoMemory {}

// SAFETY: the base is page-aligned, one WebAssembly page is accessible and zero, the rest of RESERVATION + GUARD bytes is
// reserved and inaccessible, and the base never moves.
unsafe impl LinearMemory for IoMemory {
    fn byte_size(&self) -> usize {
        WASM_PAGE
    }

    fn byte_capacity(&self) -> usize {
        WASM_PAGE
    }

    fn grow_to(&mut self, _new_size: usize) -> wasmtime::Result<()> {
        Err(wasmtime::Error::msg("the io page does not grow"))
    }

    fn as_ptr(&self) -> *mut u8 {
        self.base.as_ptr()
    }
}

impl Drop for IoMemory {
    fn drop(&mut self) {
        if let Some(region) = self.region.take() {
            self.pages.give(region);
        }
    }
}

/// Makes the memories of the engine for generated modules, and none but those two.
pub(crate) struct Creator {
    pub(crate) window: Arc<PoolWindow>,
    pub(crate) io: Arc<IoPages>,
}

// SAFETY: every memory made here keeps the promises of LinearMemory, see there.
unsafe impl MemoryCreator for Creator {
    fn new_memory(
        &self,
        ty: MemoryType,
        minimum: usize,
        maximum: Option<usize>,
        reserved_size_in_bytes: Option<usize>,
        guard_size_in_bytes: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        // Compiled code relies on these two; they are what `engine::config` says.
        if reserved_size_in_bytes != Some(RESERVATION) || guard_size_in_bytes != GUARD {
            return Err("the engine asks for another memory layout than it was configured with".into());
        }
        if ty.is_64() || ty.is_shared() || maximum != Some(minimum) {
            return Err("a memory of a generated module is 32-bit, unshared and of fixed size".into());
        }
        if BUILDING_POOL.get() {
            if minimum != self.window.bytes() {
                return Err("the pool's memory has the size of the pool".into());
            }
            return Ok(Box::new(PoolMemory(self.window.clone())));
        }
        if minimum != WASM_PAGE {
            return Err("the memory of a generated module is one page".into());
        }
        let region = self.io.take().map_err(|e| e.to_string())?;
        let base = region.base;
        Ok(Box::new(IoMemory { region: Some(region), base, pages: self.io.clone() }))
    }
}
