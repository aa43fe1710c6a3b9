//! A ring in shared memory: its two indices, its flags and its descriptors.
//!
//! Layout, as in `memif.h`: a line with the cookie (4 bytes), the flags (2) and `head` (2); a line with `tail` (2); then
//! the descriptors of 16 bytes each. The indices run freely and wrap at 65,536; the place in the ring is the index modulo
//! its size.
//!
//! A buffer goes round like this. On a ring from client to server the client fills buffers and moves `head`, the server
//! empties them and moves `tail`. On a ring from server to client the client lends empty buffers and moves `head`, the
//! server fills them and moves `tail`. So `head` is always the client's, `tail` always the server's, and the flags are the
//! receiver's.

use crate::{
    desc::{DESC_LEN, Desc},
    error::MemifError,
    memory::Memory,
    wire::{AddRing, LOG2_SIZE_MAX},
};
use std::sync::{
    Arc,
    atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence},
};

/// Found at the start of every ring.
pub const COOKIE: u32 = 0x03E3_1F20;
/// Bytes before the descriptors.
const HEADER: u64 = 128;
/// Flag: the receiver polls, and wants no interrupts.
const MASK_INT: u16 = 1;

const FLAGS_AT: usize = 4;
const HEAD_AT: usize = 6;
const TAIL_AT: usize = 64;

/// A ring. It keeps its memory mapped.
pub struct Ring {
    memory: Arc<Memory>,
    base: *mut u8,
    mask: u16,
}

// SAFETY: the ring is reached by atomics only, and its memory lives as long as it does.
unsafe impl Send for Ring {}
// SAFETY: as above.
unsafe impl Sync for Ring {}

impl Ring {
    /// Bytes of a ring of that size.
    pub const fn bytes(log2_size: u8) -> u64 {
        HEADER + ((DESC_LEN as u64) << log2_size)
    }

    /// The ring that a message describes.
    pub fn of(memory: &Arc<Memory>, spec: &AddRing) -> Result<Ring, MemifError> {
        let refused = |why: &str| {
            let direction =
                if spec.flags & crate::wire::RING_C2S != 0 { "client to server" } else { "server to client" };
            Err(MemifError::Refused(format!("ring {} from {direction} {why}", spec.index)))
        };
        if spec.log2_size > LOG2_SIZE_MAX {
            return refused(&format!("has 2^{} entries (2^{LOG2_SIZE_MAX} are possible)", spec.log2_size));
        }
        if spec.private_header != 0 {
            return refused("has private headers, which this driver does not know");
        }
        if !spec.offset.is_multiple_of(DESC_LEN as u32) {
            return refused("does not begin at a multiple of 16 bytes");
        }
        match memory.at(spec.region, u64::from(spec.offset), Ring::bytes(spec.log2_size)) {
            Some(base) => Ok(Ring { memory: memory.clone(), base, mask: (1u16 << spec.log2_size) - 1 }),
            None => refused("lies outside of its region"),
        }
    }

    /// Entries.
    #[inline(always)]
    pub fn size(&self) -> u16 {
        // At most 2^14.
        self.mask + 1
    }

    /// The regions that its buffers lie in.
    #[inline(always)]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    #[inline(always)]
    fn index(&self, at: usize) -> &AtomicU16 {
        // SAFETY: `of` has checked that the header lies in mapped memory and is aligned; `memory` keeps it mapped.
        unsafe { AtomicU16::from_ptr(self.base.add(at).cast()) }
    }

    /// The client's index; with it, all that the client wrote before it.
    #[inline(always)]
    pub fn head(&self) -> u16 {
        self.index(HEAD_AT).load(Ordering::Acquire)
    }

    /// The server's index; with it, all that the server wrote before it.
    #[inline(always)]
    pub fn tail(&self) -> u16 {
        self.index(TAIL_AT).load(Ordering::Acquire)
    }

    /// Moves the client's index, and publishes what was written before.
    #[inline(always)]
    pub fn set_head(&self, head: u16) {
        self.index(HEAD_AT).store(head, Ordering::Release);
    }

    /// Moves the server's index, and publishes what was written before.
    #[inline(always)]
    pub fn set_tail(&self, tail: u16) {
        self.index(TAIL_AT).store(tail, Ordering::Release);
    }

    /// Writes the cookie, and zero to the rest of the header.
    pub fn initialise(&self) {
        // SAFETY: as in `index`.
        unsafe { AtomicU32::from_ptr(self.base.cast()) }.store(COOKIE, Ordering::Relaxed);
        self.index(FLAGS_AT).store(0, Ordering::Relaxed);
        self.set_head(0);
        self.set_tail(0);
    }

    /// Whether the cookie is there.
    pub fn has_cookie(&self) -> bool {
        // SAFETY: as in `index`.
        unsafe { AtomicU32::from_ptr(self.base.cast()) }.load(Ordering::Relaxed) == COOKIE
    }

    /// The receiver says whether it polls. Ordered before what it looks at next.
    pub fn set_polled(&self, polled: bool) {
        self.index(FLAGS_AT).store(if polled { MASK_INT } else { 0 }, Ordering::Relaxed);
        // The receiver writes the flag and then looks at the index; the sender writes the index and then looks at the
        // flag. With a full fence on both sides at least one sees what the other wrote.
        fence(Ordering::SeqCst);
    }

    /// Whether the receiver sleeps and wants an interrupt for what was published before.
    #[inline(always)]
    pub fn wants_interrupt(&self) -> bool {
        fence(Ordering::SeqCst);
        self.index(FLAGS_AT).load(Ordering::Relaxed) & MASK_INT == 0
    }

    #[inline(always)]
    fn words(&self, index: u16) -> (&AtomicU64, &AtomicU64) {
        let at = HEADER as usize + usize::from(index & self.mask) * DESC_LEN;
        // SAFETY: `of` has checked that all descriptors lie in mapped memory and are aligned to 16 bytes.
        unsafe {
            let first = self.base.add(at).cast::<u64>();
            (AtomicU64::from_ptr(first), AtomicU64::from_ptr(first.add(1)))
        }
    }

    /// Reads a descriptor, once.
    #[inline(always)]
    pub fn read(&self, index: u16) -> Desc {
        let (first, second) = self.words(index);
        Desc::from_words(first.load(Ordering::Relaxed), second.load(Ordering::Relaxed))
    }

    /// Writes a descriptor.
    #[inline(always)]
    pub fn write(&self, index: u16, desc: Desc) {
        let (first, second) = self.words(index);
        first.store(desc.first_word(), Ordering::Relaxed);
        second.store(desc.second_word(), Ordering::Relaxed);
    }

    /// Writes flags, region and length of a descriptor.
    #[inline(always)]
    pub fn write_first(&self, index: u16, desc: Desc) {
        self.words(index).0.store(desc.first_word(), Ordering::Relaxed);
    }

    /// Packets that stand between two indices, by the descriptors that end one.
    pub fn packets_between(&self, from: u16, to: u16) -> u64 {
        let n = to.wrapping_sub(from).min(self.size());
        (0..n).filter(|i| self.read(from.wrapping_add(*i)).flags & crate::desc::NEXT == 0).count() as u64
    }
}
