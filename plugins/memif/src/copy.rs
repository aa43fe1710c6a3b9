//! Copying between cells and shared memory.

/// Copies `len` bytes. Frames are small for the most part, and a call of memcpy costs more than such a copy: up to 512
/// bytes are moved in blocks of a fixed size, the last of which overlaps the one before, so that not a byte more is
/// written (or read) than was asked for.
///
/// # Safety
/// `len` bytes at `src` can be read and at `dst` written, and they do not overlap. A peer may write to either meanwhile:
/// what is copied then is not defined, but nothing else is touched; no reference to these bytes may exist.
#[inline(always)]
pub unsafe fn copy(src: *const u8, dst: *mut u8, len: usize) {
    /// # Safety
    /// As `copy`, for `N` bytes from `at`.
    #[inline(always)]
    unsafe fn block<const N: usize>(src: *const u8, dst: *mut u8, at: usize) {
        // SAFETY: the caller's word; an array of bytes has no alignment.
        unsafe { dst.add(at).cast::<[u8; N]>().write(src.add(at).cast::<[u8; N]>().read()) }
    }
    // SAFETY: every block lies within the `len` bytes of the caller's word.
    unsafe {
        if (64..=512).contains(&len) {
            let mut at = 0;
            while at + 64 < len {
                block::<64>(src, dst, at);
                at += 64;
            }
            block::<64>(src, dst, len - 64);
        } else if (32..64).contains(&len) {
            block::<32>(src, dst, 0);
            block::<32>(src, dst, len - 32);
        } else {
            std::ptr::copy_nonoverlapping(src, dst, len);
        }
    }
}

/// Asks the processor for memory that will be read.
#[inline(always)]
pub fn prefetch_read(p: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing that the program sees, of any address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(p.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// Asks the processor for memory that will be written.
#[inline(always)]
pub fn prefetch_write(p: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as above.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_ET0>(p.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_length_is_copied_exactly() {
        let src: Vec<u8> = (0..2000).map(|i| (i % 251) as u8).collect();
        for len in (0..700).chain([1500, 1999]) {
            let mut dst = vec![0xee; 2000];
            // SAFETY: both have 2000 bytes.
            unsafe { super::copy(src.as_ptr(), dst.as_mut_ptr(), len) };
            assert!(dst[..len] == src[..len] && dst[len..].iter().all(|b| *b == 0xee), "{len}");
        }
    }
}
