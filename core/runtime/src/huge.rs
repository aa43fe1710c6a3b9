//! A wish for huge pages.

/// Bytes of a huge page.
#[cfg(not(miri))]
const HUGE: usize = 2 << 20;

/// Asks the kernel for transparent huge pages in a vector's memory, for large ones that are hit at random: fewer misses of the
/// TLB, at the price of 2 MiB for each page that is touched. What is in them already stays as it is. A kernel that has none, or
/// does not want to, is none the worse for it.
pub fn prefer_huge_pages<T>(memory: &Vec<T>) {
    #[cfg(not(miri))]
    {
        let first = memory.as_ptr() as usize;
        let (start, end) = (first.next_multiple_of(HUGE), first + memory.capacity() * size_of::<T>());
        if start + HUGE <= end {
            // SAFETY: advice on whole pages of an allocation that is ours; it changes nothing that can be read.
            unsafe { libc::madvise(start as *mut libc::c_void, (end - start) & !(HUGE - 1), libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(miri)]
    let _ = memory;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_stays() {
        let small: Vec<u8> = vec![1; 100];
        let mut large: Vec<u64> = vec![7; 1 << 20];
        prefer_huge_pages(&small);
        prefer_huge_pages(&large);
        large.push(8);
        assert!(small.iter().all(|n| *n == 1) && large[..1 << 20].iter().all(|n| *n == 7));
    }
}
