//! The ring of one worker: many producers, one consumer.
//!
//! A slot is one word: the cell, and a ticket that tells which lap it was written in. A producer claims slots by moving
//! `tail` (one compare-and-swap for a whole burst), then fills them; the consumer takes slots as long as their tickets are
//! those of this lap, so it stops before a slot that is claimed and not yet filled.

use crate::sync::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use crossbeam_utils::CachePadded;
use smpnet_abi::{CELL_NONE, Cell};

/// What stands in a slot of a barrier.
pub(super) const MARKER: Cell = CELL_NONE;

pub(super) struct Ring {
    slots: Box<[AtomicU64]>,
    /// Next slot to claim.
    tail: CachePadded<AtomicU64>,
    /// Next slot to take.
    head: CachePadded<AtomicU64>,
    /// The ring that this one replaces, until the worker has emptied it; then null. Owned by the queue.
    pub(super) before: AtomicPtr<Ring>,
    /// No producer can reach this ring any more.
    pub(super) sealed: AtomicBool,
}

/// What [`Ring::pop`] found.
pub(super) struct Popped {
    /// Cells taken.
    pub(super) cells: usize,
    /// Markers that were first in the ring, before the cells.
    pub(super) markers: u64,
}

impl Ring {
    /// A ring of at least `len` slots.
    pub(super) fn new(len: usize, before: *mut Ring) -> Self {
        let slots = len.max(2).next_power_of_two();
        Ring {
            slots: (0..slots).map(|_| AtomicU64::new(0)).collect(),
            tail: CachePadded::new(AtomicU64::new(0)),
            head: CachePadded::new(AtomicU64::new(0)),
            before: AtomicPtr::new(before),
            sealed: AtomicBool::new(false),
        }
    }

    /// Goes on as if so many slots had been used.
    #[cfg(all(test, not(loom)))]
    pub(super) fn start_at(&self, at: u64) {
        self.tail.store(at, Ordering::Relaxed);
        self.head.store(at, Ordering::Relaxed);
    }

    pub(super) fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Slots in use, roughly.
    pub(super) fn len(&self) -> usize {
        let head = self.head.load(Ordering::Acquire);
        (self.tail.load(Ordering::Acquire).saturating_sub(head) as usize).min(self.slots.len())
    }

    #[inline(always)]
    fn slot(&self, at: u64) -> &AtomicU64 {
        &self.slots[at as usize & (self.slots.len() - 1)]
    }

    /// High half of the slot written at position `at`; never that of the slot's lap before.
    #[inline(always)]
    fn ticket(at: u64) -> u64 {
        at.wrapping_add(1) << 32
    }

    /// Appends as many of `cells` as there is room for and returns how many. Any number of threads.
    #[inline]
    pub(super) fn push(&self, cells: &[Cell]) -> usize {
        let mut tail = self.tail.load(Ordering::Relaxed);
        let n = loop {
            // Acquire: the consumer is done with the slots below `head` before they are written again.
            let head = self.head.load(Ordering::Acquire);
            let Some(used) = tail.checked_sub(head) else {
                // The consumer overtook this thread's old view of the tail.
                tail = self.tail.load(Ordering::Relaxed);
                continue;
            };
            let n = cells.len().min(self.slots.len().saturating_sub(used as usize));
            if n == 0 {
                // The view of the tail may be too old only towards more room.
                return 0;
            }
            match self.tail.compare_exchange_weak(tail, tail + n as u64, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => break n,
                Err(now) => tail = now,
            }
        };
        for (at, &c) in (tail..).zip(&cells[..n]) {
            // Release: what the producer wrote into the packet is seen by whoever takes the slot.
            self.slot(at).store(Self::ticket(at) | u64::from(c), Ordering::Release);
        }
        n
    }

    /// Takes cells up to the next marker. The consumer only.
    #[inline]
    pub(super) fn pop(&self, out: &mut [Cell]) -> Popped {
        let start = self.head.load(Ordering::Relaxed);
        let (mut at, mut found) = (start, Popped { cells: 0, markers: 0 });
        while found.cells < out.len() {
            let word = self.slot(at).load(Ordering::Acquire);
            if word >> 32 != Self::ticket(at) >> 32 {
                break;
            }
            let cell = word as Cell;
            if cell != MARKER {
                out[found.cells] = cell;
                found.cells += 1;
            } else if found.cells == 0 {
                found.markers += 1;
            } else {
                // The caller first deals with what stood before the marker.
                break;
            }
            at += 1;
        }
        if at != start {
            self.head.store(at, Ordering::Release);
        }
        found
    }
}
