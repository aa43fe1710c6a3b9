//! The four rings of an AF_XDP socket (`Documentation/networking/af_xdp.rst`): we produce into two and consume from two.
//!
//! Indices run freely over 32 bits; an entry is an index modulo the size, which is a power of two. Each side writes one
//! index with release and reads the other with acquire.

use crate::sys::Mapping;
use std::{
    io,
    os::fd::RawFd,
    sync::atomic::{AtomicU32, Ordering},
};

/// A ring that is mapped.
struct Ring<T> {
    map: Mapping,
    offsets: libc::xdp_ring_offset,
    mask: u32,
    _entries: std::marker::PhantomData<T>,
}

// SAFETY: the mapping may be used from any thread, and the ring belongs to one worker at a time.
unsafe impl<T: Send> Send for Ring<T> {}

impl<T: Copy> Ring<T> {
    fn new(fd: RawFd, page: i64, offsets: libc::xdp_ring_offset, size: u32) -> io::Result<Self> {
        let len = offsets.desc as usize + size as usize * size_of::<T>();
        Ok(Ring { map: Mapping::at(fd, len, page)?, offsets, mask: size - 1, _entries: std::marker::PhantomData })
    }

    #[inline]
    fn word(&self, offset: u64) -> &AtomicU32 {
        // SAFETY: the kernel's offsets lie within the mapping and are aligned; both sides access the word atomically.
        unsafe { AtomicU32::from_ptr(self.map.base().add(offset as usize).cast()) }
    }

    #[inline]
    fn producer(&self) -> &AtomicU32 {
        self.word(self.offsets.producer)
    }

    #[inline]
    fn consumer(&self) -> &AtomicU32 {
        self.word(self.offsets.consumer)
    }

    #[inline]
    fn entry(&self, index: u32) -> *mut T {
        // SAFETY: the masked index is below the size, for which the mapping has room behind `desc`.
        unsafe { self.map.base().add(self.offsets.desc as usize).cast::<T>().add((index & self.mask) as usize) }
    }
}

/// The side that puts in. It belongs to one worker at a time.
pub struct Producer<T> {
    ring: Ring<T>,
    /// Where the next entry goes; the kernel sees it with [`Producer::submit`].
    next: u32,
    /// How far the kernel had come when last asked.
    seen: u32,
}

impl<T: Copy> Producer<T> {
    /// The ring of `size` entries that the socket has at `page`.
    pub fn new(fd: RawFd, page: i64, offsets: libc::xdp_ring_offset, size: u32) -> io::Result<Self> {
        Ok(Producer { ring: Ring::new(fd, page, offsets, size)?, next: 0, seen: 0 })
    }

    /// Entries that can be pushed; asks the kernel's index only when fewer than `wanted` are known of.
    #[inline]
    pub fn free(&mut self, wanted: u32) -> u32 {
        let size = self.ring.mask + 1;
        if size - self.next.wrapping_sub(self.seen) < wanted {
            self.seen = self.ring.consumer().load(Ordering::Acquire);
        }
        size - self.next.wrapping_sub(self.seen).min(size)
    }

    /// Puts an entry in. [`Producer::free`] must have said that there is room.
    #[inline]
    pub fn push(&mut self, value: T) {
        // SAFETY: an entry that the kernel has given back, by the caller's word; `entry` lies in the ring whatever it is.
        unsafe { self.ring.entry(self.next).write(value) };
        self.next = self.next.wrapping_add(1);
    }

    /// Lets the kernel see what was pushed.
    #[inline]
    pub fn submit(&mut self) {
        // Release: the kernel sees the entries when it sees the index.
        self.ring.producer().store(self.next, Ordering::Release);
    }

    /// Entries that the kernel has not taken.
    #[inline]
    pub fn pending(&mut self) -> u32 {
        self.seen = self.ring.consumer().load(Ordering::Acquire);
        self.next.wrapping_sub(self.seen)
    }

    /// Whether the kernel takes entries only after a system call.
    #[inline]
    pub fn needs_wakeup(&self) -> bool {
        self.ring.word(self.ring.offsets.flags).load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// The side that takes out. It belongs to one worker at a time.
pub struct Consumer<T> {
    ring: Ring<T>,
    /// The next entry to take.
    next: u32,
    /// How far the kernel had come when last asked.
    seen: u32,
}

impl<T: Copy> Consumer<T> {
    /// The ring of `size` entries that the socket has at `page`.
    pub fn new(fd: RawFd, page: i64, offsets: libc::xdp_ring_offset, size: u32) -> io::Result<Self> {
        Ok(Consumer { ring: Ring::new(fd, page, offsets, size)?, next: 0, seen: 0 })
    }

    /// Entries that wait; asks the kernel's index only when none is known of.
    #[inline]
    pub fn waiting(&mut self) -> u32 {
        if self.seen == self.next {
            self.seen = self.ring.producer().load(Ordering::Acquire);
        }
        // No ring has more than its size, whatever the kernel says.
        self.seen.wrapping_sub(self.next).min(self.ring.mask + 1)
    }

    /// The entry `ahead` places behind the next; below [`Consumer::waiting`].
    #[inline]
    pub fn peek(&self, ahead: u32) -> T {
        // SAFETY: entries up to `seen` are ours to read, by the acquire in `waiting`; plain data.
        unsafe { self.ring.entry(self.next.wrapping_add(ahead)).read() }
    }

    /// Gives the next `n` entries back to the kernel.
    #[inline]
    pub fn release(&mut self, n: u32) {
        if n > 0 {
            self.next = self.next.wrapping_add(n);
            // Release: our reads of the entries come before the kernel's next writes.
            self.ring.consumer().store(self.next, Ordering::Release);
        }
    }
}
