//! Shared memory: the regions of a connection.
//!
//! # What a peer could do with its memory
//!
//! A process that reads a page of a file that has been cut off before that page gets SIGBUS, and ends. Memory of a peer
//! is therefore taken only if nobody can make it smaller (`F_SEAL_SHRINK`): VPP, libmemif and DPDK seal the region of
//! their rings and buffers so, and where a peer forgot to, we add the seal ourselves. Memory that cannot be sealed
//! (that of a DPDK client with `zero-copy=yes`, huge pages of VPP) is refused unless the operator says
//! `unsealed = true`, which is to trust the peer with the life of the daemon.
//!
//! What is left even with a seal: a peer can punch holes, and the page that fills a hole again has to come from
//! somewhere; where memory is limited by a control group or huge pages are scarce, that may fail.

use crate::{desc::Desc, error::MemifError, sys};
use smpnet_plugin::abi::PoolDesc;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Most bytes of a region: descriptors reach no further than 4 GiB and one buffer.
const REGION_MAX: u64 = 8 << 30;

/// Memory that both ends see.
pub struct Region {
    base: *mut u8,
    len: u64,
    /// Whether the mapping is this value's, to be undone.
    mapped: bool,
}

// SAFETY: a region may be used and unmapped from any thread; its bytes are only reached by raw pointers and atomics.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Memory of our own of `len` bytes, zeroed, and the descriptor to share it by.
    pub fn create(len: usize) -> Result<(Region, OwnedFd), MemifError> {
        let failed = MemifError::os(format!("{len} bytes of shared memory"));
        let made = sys::sealed_memfd(c"smpnet-memif", len).and_then(|fd| Ok((Region::map(&fd, len as u64)?, fd)));
        made.map_err(failed)
    }

    /// The packet pool, which outlives every region.
    pub fn of_pool(pool: &PoolDesc) -> Region {
        Region { base: pool.base, len: pool.bytes, mapped: false }
    }

    /// The memory of a peer, of which `len` bytes are promised.
    pub fn of_peer(fd: &OwnedFd, len: u64, unsealed: bool) -> Result<Region, MemifError> {
        let fd_ref = fd.as_fd();
        let refused = |why: String| MemifError::Memory(why);
        if len == 0 || len > REGION_MAX {
            return Err(refused(format!("a region of {len} bytes (1 to {REGION_MAX} are possible)")));
        }
        let shrink = libc::F_SEAL_SHRINK;
        // Asked before anything else: it fails, and does nothing, for whatever is no memory.
        let sealed = match sys::seals(fd_ref) {
            Ok(seals) if seals & shrink != 0 => true,
            Ok(_) => sys::add_seal(fd_ref, shrink).is_ok(),
            Err(_) => false,
        };
        if !sealed && !unsealed {
            return Err(MemifError::Unsealed);
        }
        let size = sys::size_of_file(fd_ref).map_err(MemifError::os("fstat of a region"))?;
        if size < len {
            return Err(refused(format!("a region of {len} bytes in a file of {size}")));
        }
        Region::map(fd, len).map_err(MemifError::os(format!("mapping a region of {len} bytes")))
    }

    fn map(fd: &OwnedFd, len: u64) -> std::io::Result<Region> {
        let bytes = usize::try_from(len).map_err(|_| std::io::ErrorKind::InvalidInput)?;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice disturbs nothing.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
        if base == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        Ok(Region { base: base.cast(), len, mapped: true })
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.len
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if self.mapped {
            // SAFETY: our own mapping. Rings hold their memory by an Arc, so that none is left when it goes.
            unsafe { libc::munmap(self.base.cast(), self.len as usize) };
        }
    }
}

/// The regions of a connection, by their numbers.
pub struct Memory {
    regions: Vec<Region>,
    sizes: Vec<u64>,
}

impl Memory {
    /// All regions, in order.
    pub fn new(regions: Vec<Region>) -> Memory {
        let sizes = regions.iter().map(Region::size).collect();
        Memory { regions, sizes }
    }

    /// The sizes of the regions.
    #[inline(always)]
    pub fn sizes(&self) -> &[u64] {
        &self.sizes
    }

    /// Where a buffer lies in this process: all of its `length` bytes. None when it does not lie within its region.
    #[inline(always)]
    pub fn buffer(&self, desc: Desc) -> Option<*mut u8> {
        if !desc.lies_within(&self.sizes) {
            return None;
        }
        let region = self.regions.get(usize::from(desc.region))?;
        Some(region.base.wrapping_add(desc.offset as usize))
    }

    /// `len` bytes from `offset` in a region; none when they do not lie within it.
    pub fn at(&self, region: u16, offset: u64, len: u64) -> Option<*mut u8> {
        let region = self.regions.get(usize::from(region))?;
        let end = offset.checked_add(len)?;
        (end <= region.len).then(|| region.base.wrapping_add(offset as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memfd(flags: u32, len: i64) -> OwnedFd {
        // SAFETY: the name is NUL-terminated.
        let fd = sys::owned(unsafe { libc::memfd_create(c"test".as_ptr(), flags) }).unwrap();
        // SAFETY: takes no pointers.
        sys::check(unsafe { libc::ftruncate(fd.as_raw_fd(), len) }).unwrap();
        fd
    }

    #[test]
    fn memory_that_could_be_taken_away_is_refused() {
        let fd = memfd(0, 8192);
        assert!(matches!(Region::of_peer(&fd, 8192, false), Err(MemifError::Unsealed)));
        assert_eq!(Region::of_peer(&fd, 8192, true).unwrap().size(), 8192);
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        assert!(matches!(Region::of_peer(&file.into(), 4096, false), Err(MemifError::Unsealed)));
    }

    #[test]
    fn a_seal_that_the_peer_forgot_is_added() {
        let fd = memfd(libc::MFD_ALLOW_SEALING, 8192);
        let _region = Region::of_peer(&fd, 8192, false).unwrap();
        assert_ne!(sys::seals(fd.as_fd()).unwrap() & libc::F_SEAL_SHRINK, 0);
        // SAFETY: takes no pointers.
        assert!(sys::check(unsafe { libc::ftruncate(fd.as_raw_fd(), 0) }).is_err());
    }

    #[test]
    fn a_region_larger_than_its_file_is_refused() {
        let fd = memfd(libc::MFD_ALLOW_SEALING, 4096);
        let Err(error) = Region::of_peer(&fd, 4097, false) else { panic!("taken") };
        assert_eq!(error.to_string(), "the peer's memory: a region of 4097 bytes in a file of 4096");
        assert!(Region::of_peer(&fd, 0, false).is_err() && Region::of_peer(&fd, u64::MAX, false).is_err());
    }
}
