//! The memory of a pool: a sealed memfd that is wholly there from the beginning.

use super::PoolError;
use std::io;

/// Whether a pool is made of huge pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugePages {
    /// When they can be reserved now; else ordinary pages.
    #[default]
    Auto,
    /// Never.
    Never,
    /// Or not at all.
    Require,
}

const HUGE: u64 = 2 << 20;
/// A WebAssembly page: filters map the pool as their memory, which is a multiple of it.
const WASM_PAGE: u64 = 64 << 10;

/// How to get huge pages.
fn advice(bytes: u64) -> String {
    format!("; reserve {} more with `sysctl -w vm.nr_hugepages`, or do not require them", bytes.div_ceil(HUGE))
}

#[cfg(not(miri))]
pub(super) struct Memory {
    base: *mut u8,
    bytes: u64,
    fd: std::os::fd::OwnedFd,
    page_size: u32,
}

#[cfg(not(miri))]
mod system {
    use super::*;
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

    impl Memory {
        pub(in super::super) fn new(bytes: u64, huge: HugePages) -> Result<Memory, PoolError> {
            if huge != HugePages::Never {
                match Memory::of(bytes.next_multiple_of(HUGE), true) {
                    Err(e) if huge == HugePages::Require => return Err(e),
                    Err(e) => tracing::debug!(error = %e, "no huge pages for the packet pool"),
                    Ok(m) => return Ok(m),
                }
            }
            Memory::of(bytes.next_multiple_of(WASM_PAGE), false)
        }

        fn of(bytes: u64, huge: bool) -> Result<Memory, PoolError> {
            let pages = if huge { "huge-page" } else { "ordinary" };
            let fail = |step| {
                let source = io::Error::last_os_error();
                let advice = if huge { advice(bytes) } else { String::new() };
                PoolError::Memory { step, bytes, pages, advice, source }
            };
            let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
            let flags = if huge { flags | libc::MFD_HUGETLB | libc::MFD_HUGE_2MB } else { flags };
            // SAFETY: the name is NUL-terminated; the result is checked.
            let fd = unsafe { libc::memfd_create(c"smpnet-pool".as_ptr(), flags) };
            if fd < 0 {
                return Err(fail("create a file for"));
            }
            // SAFETY: a fresh descriptor that nobody else owns.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            // SAFETY: a valid descriptor.
            if unsafe { libc::ftruncate(fd.as_raw_fd(), bytes as i64) } < 0 {
                return Err(fail("size a file to"));
            }
            // Without this a page that the system lacks shows itself as SIGBUS at the first packet that touches it. With it
            // every page (huge ones too) is there, or the error comes now.
            // SAFETY: a valid descriptor.
            if unsafe { libc::fallocate(fd.as_raw_fd(), 0, 0, bytes as i64) } < 0 {
                return Err(fail("allocate"));
            }
            // Nobody who gets the descriptor can take memory away under us.
            let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
            // SAFETY: a valid descriptor.
            if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) } < 0 {
                return Err(fail("seal"));
            }
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
            // SAFETY: a fresh mapping at an address of the kernel's choice.
            let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes as usize, prot, flags, fd.as_raw_fd(), 0) };
            if base == libc::MAP_FAILED {
                return Err(fail("map"));
            }
            // SAFETY: advice on our own mapping; its failure means only that the advice is not taken.
            unsafe { libc::madvise(base, bytes as usize, libc::MADV_DONTDUMP) };
            Ok(Memory { base: base.cast(), bytes, fd, page_size: if huge { HUGE as u32 } else { 4096 } })
        }

        pub(in super::super) fn fd(&self) -> i32 {
            self.fd.as_raw_fd()
        }
    }

    impl Drop for Memory {
        fn drop(&mut self) {
            // SAFETY: our own mapping, which no one uses any more.
            unsafe { libc::munmap(self.base.cast(), self.bytes as usize) };
        }
    }
}

/// Under miri, which knows no mappings: memory of the heap.
#[cfg(miri)]
pub(super) struct Memory {
    base: *mut u8,
    bytes: u64,
    page_size: u32,
}

#[cfg(miri)]
impl Memory {
    fn layout(bytes: u64) -> std::alloc::Layout {
        std::alloc::Layout::from_size_align(bytes as usize, 4096).expect("a size that fits the address space")
    }

    pub(super) fn new(bytes: u64, huge: HugePages) -> Result<Memory, PoolError> {
        if huge == HugePages::Require {
            let source = io::ErrorKind::Unsupported.into();
            return Err(PoolError::Memory {
                step: "reserve",
                bytes: bytes.next_multiple_of(HUGE),
                pages: "huge-page",
                advice: advice(bytes),
                source,
            });
        }
        let bytes = bytes.next_multiple_of(WASM_PAGE);
        // SAFETY: the size is not 0.
        let base = unsafe { std::alloc::alloc_zeroed(Memory::layout(bytes)) };
        assert!(!base.is_null(), "out of memory under miri");
        Ok(Memory { base, bytes, page_size: 4096 })
    }

    pub(super) fn fd(&self) -> i32 {
        -1
    }
}

#[cfg(miri)]
impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with this layout.
        unsafe { std::alloc::dealloc(self.base, Memory::layout(self.bytes)) };
    }
}

impl Memory {
    pub(super) fn base(&self) -> *mut u8 {
        self.base
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn page_size(&self) -> u32 {
        self.page_size
    }
}

// SAFETY: the memory belongs to no thread; who may touch which cell is the ownership rule of the ABI.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}
