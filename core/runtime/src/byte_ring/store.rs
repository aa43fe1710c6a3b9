//! The bytes of a ring.

#[cfg(loom)]
use loom::cell::UnsafeCell;
#[cfg(not(loom))]
use std::cell::UnsafeCell;

/// A power of two of bytes, addressed by how many were written before.
pub(super) struct Store(Box<[UnsafeCell<u8>]>);

// SAFETY: bytes are touched by the writer or by the reader alone, as the ring's indices say.
unsafe impl Send for Store {}
// SAFETY: as above.
unsafe impl Sync for Store {}

impl Store {
    pub(super) fn new(size: usize) -> Store {
        debug_assert!(size.is_power_of_two());
        // Written one by one, so that the pages are there and no worker waits for the kernel to find them.
        Store((0..size).map(|i| UnsafeCell::new(i as u8 | 1)).collect())
    }

    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Where position `at` is, and how many of `n` bytes stand there in one piece.
    #[inline(always)]
    fn piece(&self, at: u64, n: usize) -> (usize, usize) {
        let start = at as usize & (self.0.len() - 1);
        (start, n.min(self.0.len() - start))
    }

    /// # Safety
    /// Nobody else touches the bytes from `at` on; they are at most the whole store.
    #[inline(always)]
    pub(super) unsafe fn write(&self, at: u64, bytes: &[u8]) {
        debug_assert!(bytes.len() <= self.0.len());
        let (start, n) = self.piece(at, bytes.len());
        // SAFETY: inside of the store, and the caller's alone.
        unsafe {
            copy_in(&self.0[start..start + n], &bytes[..n]);
            copy_in(&self.0[..bytes.len() - n], &bytes[n..]);
        }
    }

    /// # Safety
    /// Nobody writes the bytes from `at` on; they are at most the whole store.
    #[inline(always)]
    pub(super) unsafe fn read(&self, at: u64, out: &mut [u8]) {
        debug_assert!(out.len() <= self.0.len());
        let (start, n) = self.piece(at, out.len());
        let rest = out.len() - n;
        let (first, second) = out.split_at_mut(n);
        // SAFETY: inside of the store, and nobody writes.
        unsafe {
            copy_out(&self.0[start..start + n], first);
            copy_out(&self.0[..rest], second);
        }
    }
}

/// # Safety
/// The cells are the caller's alone; both slices are of one length.
#[cfg(not(loom))]
#[inline(always)]
unsafe fn copy_in(to: &[UnsafeCell<u8>], from: &[u8]) {
    // SAFETY: an UnsafeCell<u8> is laid out as a u8; the rest is the caller's word.
    unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_ptr() as *mut u8, from.len()) }
}

/// # Safety
/// Nobody writes the cells; both slices are of one length.
#[cfg(not(loom))]
#[inline(always)]
unsafe fn copy_out(from: &[UnsafeCell<u8>], to: &mut [u8]) {
    // SAFETY: as above.
    unsafe { std::ptr::copy_nonoverlapping(from.as_ptr().cast::<u8>(), to.as_mut_ptr(), to.len()) }
}

/// # Safety
/// As above; loom checks it.
#[cfg(loom)]
unsafe fn copy_in(to: &[UnsafeCell<u8>], from: &[u8]) {
    for (t, f) in to.iter().zip(from) {
        // SAFETY: loom checks that no access is concurrent.
        t.with_mut(|p| unsafe { *p = *f });
    }
}

/// # Safety
/// As above; loom checks it.
#[cfg(loom)]
unsafe fn copy_out(from: &[UnsafeCell<u8>], to: &mut [u8]) {
    for (f, t) in from.iter().zip(to) {
        // SAFETY: loom checks that no write is concurrent.
        *t = f.with(|p| unsafe { *p });
    }
}
