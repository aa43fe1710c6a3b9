//! Large arrays of zeroes of which only the touched pages cost memory.

use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};

/// Types for which all-zero bytes are a value and which are shared between threads as they are.
///
/// # Safety
/// All-zero bytes are a valid value, and the type needs no drop.
pub unsafe trait Zeroed: Sync {}
// SAFETY: an integer; zero is a value of it.
unsafe impl Zeroed for AtomicU8 {}
// SAFETY: as above.
unsafe impl Zeroed for AtomicU32 {}
// SAFETY: as above.
unsafe impl Zeroed for AtomicU64 {}

/// Bytes of a huge page.
const HUGE: usize = 2 << 20;

/// An array of `len` zeroes in anonymous memory that is reserved but not committed.
pub struct LazyArray<T: Zeroed> {
    base: NonNull<T>,
    len: usize,
    /// The whole mapping, which may begin before `base`.
    map: *mut libc::c_void,
    bytes: usize,
}

// SAFETY: owns its memory like a boxed slice.
unsafe impl<T: Zeroed + Send> Send for LazyArray<T> {}
// SAFETY: gives out shared references to Sync elements only.
unsafe impl<T: Zeroed> Sync for LazyArray<T> {}

impl<T: Zeroed> LazyArray<T> {
    /// Reserves the array. `huge` asks for transparent huge pages: fewer TLB misses for arrays that are hit at random, at
    /// the price of 2 MiB of memory for each page touched.
    pub fn new(len: usize, huge: bool) -> io::Result<Self> {
        // With huge pages: whole ones, and room to begin at one.
        let size = (len * size_of::<T>()).max(1);
        let bytes = if huge { size.next_multiple_of(HUGE) + HUGE } else { size };
        // SAFETY: a fresh anonymous mapping, placed by the kernel.
        let p = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if p == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let skip = if huge { p.align_offset(HUGE) } else { 0 };
        // SAFETY: with huge pages the mapping is larger than the array by a huge page, and `skip` is below that.
        let start = unsafe { p.byte_add(skip) };
        if huge {
            // SAFETY: advice on our own mapping; a kernel without huge pages refuses it, and nothing depends on it.
            unsafe { libc::madvise(start, size.next_multiple_of(HUGE), libc::MADV_HUGEPAGE) };
        }
        let base = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapping at address 0"))?;
        Ok(LazyArray { base, len, map: p, bytes })
    }
}

impl<T: Zeroed> Deref for LazyArray<T> {
    type Target = [T];
    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: base points to len elements, all valid because zero is (Zeroed), for as long as self lives.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }
}

impl<T: Zeroed> DerefMut for LazyArray<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in deref, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }
}

impl<T: Zeroed> Drop for LazyArray<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`; nothing borrows it any more.
        unsafe { libc::munmap(self.map, self.bytes) };
    }
}

/// A [`LazyArray`] whose length is part of its type, so that an index that is masked to it needs no check.
pub struct LazyTable<T: Zeroed, const N: usize>(LazyArray<T>);

impl<T: Zeroed, const N: usize> LazyTable<T, N> {
    /// Reserves the table, as [`LazyArray::new`].
    pub fn new(huge: bool) -> io::Result<Self> {
        LazyArray::new(N, huge).map(LazyTable)
    }
}

impl<T: Zeroed, const N: usize> Deref for LazyTable<T, N> {
    type Target = [T; N];
    #[inline(always)]
    fn deref(&self) -> &[T; N] {
        // SAFETY: the array was made with N elements, and never changes its length.
        unsafe { &*self.0.base.as_ptr().cast() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn a_large_array_is_zero_and_writable_at_both_ends() {
        let a: LazyArray<AtomicU32> = LazyArray::new(1 << 28, false).unwrap();
        assert_eq!(a[0].load(Ordering::Relaxed) + a[(1 << 28) - 1].load(Ordering::Relaxed), 0);
        a[(1 << 28) - 1].store(7, Ordering::Relaxed);
        assert_eq!(a[(1 << 28) - 1].load(Ordering::Relaxed), 7);
        assert_eq!(a.len(), 1 << 28);
    }
}
