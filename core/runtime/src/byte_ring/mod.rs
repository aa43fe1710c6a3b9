//! A ring of bytes from one worker to one control thread, in which records of any length stand in the order of their
//! stamps. Made for capture (bpf), where a copy leaves the packet path.
//!
//! The writer never waits: it asks for room, and without room the caller counts a drop. What it wrote is seen by the reader
//! at [`RingWriter::leave`], once for a burst. The reader may merge several rings by their stamps, because
//! [`RingReader::horizon`] tells how far a ring has got: no record that is written later is stamped earlier.

mod store;

use crate::sync::{Arc, AtomicBool, AtomicU64, Ordering, fence};
use crossbeam_utils::CachePadded;
use store::Store;

/// The writer is not inside.
const OUTSIDE: u64 = u64::MAX;

struct Shared {
    store: Store,
    /// Bytes ever published.
    tail: CachePadded<AtomicU64>,
    /// Bytes ever taken.
    head: CachePadded<AtomicU64>,
    /// No record to come is stamped earlier than this while the writer is inside; [`OUTSIDE`] while it is not.
    inside: CachePadded<AtomicU64>,
}

/// Makes a ring of `bytes`, rounded up to a power of two and at least 64. Its memory is there when this returns.
pub fn byte_ring(bytes: usize) -> (RingWriter, RingReader) {
    let ring = Arc::new(Shared {
        store: Store::new(bytes.max(64).next_power_of_two()),
        tail: CachePadded::new(AtomicU64::new(0)),
        head: CachePadded::new(AtomicU64::new(0)),
        inside: CachePadded::new(AtomicU64::new(OUTSIDE)),
    });
    (RingWriter { ring: ring.clone(), tail: 0, head: 0, limit: 0, last: 0 }, RingReader { ring, head: 0 })
}

/// The end that one worker writes.
pub struct RingWriter {
    ring: Arc<Shared>,
    /// Bytes ever written, published or not.
    tail: u64,
    /// What the reader was last seen to have taken.
    head: u64,
    /// Up to where the room was asked for.
    limit: u64,
    /// Stamp of the last visit.
    last: u64,
}

impl RingWriter {
    /// Begins a visit: reads the clock, which must never go back on any CPU, and returns what it said. The records until
    /// [`RingWriter::leave`] carry this stamp.
    #[inline]
    pub fn enter(&mut self, clock: impl FnOnce() -> u64) -> u64 {
        self.ring.inside.store(self.last, Ordering::Relaxed);
        // With the fence in `horizon`: either the reader sees that we are inside, or our clock is read after its own.
        fence(Ordering::SeqCst);
        self.last = clock();
        self.ring.inside.store(self.last, Ordering::Release);
        self.last
    }

    /// Makes sure that `need` bytes can be written. False when the reader has not made the room yet.
    #[inline]
    pub fn room(&mut self, need: usize) -> bool {
        let (end, size) = (self.tail + need as u64, self.ring.store.len() as u64);
        if end - self.head > size {
            // Acquire: the reader is done with the bytes that are written again.
            self.head = self.ring.head.load(Ordering::Acquire);
            if end - self.head > size {
                return false;
            }
        }
        self.limit = end;
        true
    }

    /// Appends bytes for which room was asked.
    ///
    /// # Panics
    /// When it was not: an error of the program.
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) {
        assert!(self.tail + bytes.len() as u64 <= self.limit, "more is written to a ring than room was asked for");
        // SAFETY: between `tail` and `limit` nobody reads before `leave`, and what stood there a lap ago was taken.
        unsafe { self.ring.store.write(self.tail, bytes) };
        self.tail += bytes.len() as u64;
    }

    /// Ends a visit: everything written is the reader's to take.
    #[inline]
    pub fn leave(&mut self) {
        self.ring.tail.store(self.tail, Ordering::Release);
        // Release: whoever sees us outside sees what was written inside.
        self.ring.inside.store(OUTSIDE, Ordering::Release);
    }

    /// A gauge of this ring, for any thread.
    pub fn gauge(&self) -> RingGauge {
        RingGauge(self.ring.clone())
    }
}

/// The end that one control thread reads.
pub struct RingReader {
    ring: Arc<Shared>,
    head: u64,
}

impl RingReader {
    /// Up to which stamp the ring is complete: every record that is not published yet is stamped with this or later.
    /// `now` is what the writer's clock said before the call.
    pub fn horizon(&self, now: u64) -> u64 {
        // See `enter`.
        fence(Ordering::SeqCst);
        // Acquire: what was written before the writer went outside is published.
        self.ring.inside.load(Ordering::Acquire).min(now)
    }

    /// Bytes to be taken.
    pub fn available(&self) -> usize {
        (self.ring.tail.load(Ordering::Acquire) - self.head) as usize
    }

    /// Copies the bytes `at` behind the next one to be taken, and leaves them there.
    ///
    /// # Panics
    /// When they are not there: the caller asked [`RingReader::available`].
    pub fn peek(&self, at: usize, out: &mut [u8]) {
        assert!(at + out.len() <= self.available(), "more is read from a ring than it holds");
        // SAFETY: the bytes are published, and not taken, so the writer leaves them alone.
        unsafe { self.ring.store.read(self.head + at as u64, out) };
    }

    /// Gives `n` bytes back to the writer.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn take(&mut self, n: usize) {
        assert!(n <= self.available(), "more is taken from a ring than it holds");
        self.head += n as u64;
        // Release: the reader is done with the bytes.
        self.ring.head.store(self.head, Ordering::Release);
    }
}

/// How full a ring is.
pub struct RingGauge(Arc<Shared>);

impl RingGauge {
    /// Bytes written and not taken yet, roughly.
    pub fn used(&self) -> usize {
        let head = self.0.head.load(Ordering::Acquire);
        (self.0.tail.load(Ordering::Acquire).saturating_sub(head) as usize).min(self.size())
    }

    /// Bytes that it holds.
    pub fn size(&self) -> usize {
        self.0.store.len()
    }
}

/// Tells writers whether the reader sleeps, so that one of them, and only one, wakes it.
#[derive(Default)]
pub struct Doorbell(AtomicBool);

impl Doorbell {
    /// Reader: from now on the next writer rings. Look at the rings once more before you sleep.
    pub fn arm(&self) {
        self.0.store(true, Ordering::Relaxed);
        // With the fence in `must_ring`: either the writer sees us armed, or we see what it published.
        fence(Ordering::SeqCst);
    }

    /// Reader: it is awake.
    pub fn disarm(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Writer, after it published: whether it is the one to wake the reader. Costs a fence and a load while the reader is
    /// awake.
    #[inline]
    pub fn must_ring(&self) -> bool {
        fence(Ordering::SeqCst);
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Relaxed)
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
