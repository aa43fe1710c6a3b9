//! callout(9): functions that run on a given worker after a given time.
//!
//! Any thread schedules and stops. A callout lives in a slot of a table that only grows, so a look at an old id is never a
//! look at freed memory; the slot's state word holds a generation, so an old id never stops a new callout. The worker's
//! timer wheel is its own: other threads leave the slot's number in an inbox.

mod wheel;

use crate::WorkerCx;
use crossbeam_queue::SegQueue;
use std::{
    cell::UnsafeCell,
    sync::{
        OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};
use wheel::Wheel;

/// What a callout runs.
pub type CalloutFunc = Box<dyn FnOnce(&mut WorkerCx<'_>) + Send>;

/// Names one scheduled callout, for ever: ids are not used again before 2^32 callouts of one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CalloutId(u64);

impl CalloutId {
    /// As a number, never 0: worker in bits 56.., generation in 24..56, slot below.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// From [`CalloutId::get`]; any number is safe, one that names nothing stops nothing.
    pub const fn from_raw(id: u64) -> Self {
        CalloutId(id)
    }

    fn parts(self) -> (usize, u64, u32) {
        ((self.0 >> 56) as usize, (self.0 >> 24) & 0xffff_ffff, self.0 as u32 & 0xff_ffff)
    }
}

/// How a callout stood when it was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// It waited, and will not run.
    Cancelled,
    /// It is running now.
    Running,
    /// It has run, or was stopped before.
    Over,
}

const FREE: u64 = 0;
const PENDING: u64 = 1;
const RUNNING: u64 = 2;
const CANCELLED: u64 = 3;

const fn word(generation: u64, state: u64) -> u64 {
    generation << 2 | state
}

struct Slot {
    state: AtomicU64,
    deadline: AtomicU64,
    func: UnsafeCell<Option<CalloutFunc>>,
}

// SAFETY: `func` is touched by the one thread that took the slot from the free list until it is PENDING and in the inbox,
// and from then on by the worker alone.
unsafe impl Sync for Slot {}

const CHUNK: u32 = 1024;
const CHUNKS: u32 = 1024;

enum Message {
    Add(u32),
    Remove(u32),
}

/// The callouts of one worker, as other threads reach them.
pub(crate) struct Callouts {
    cpu: usize,
    chunks: Box<[OnceLock<Box<[Slot]>>]>,
    fresh: AtomicU32,
    free: SegQueue<u32>,
    inbox: SegQueue<Message>,
    pub(crate) stats: CalloutStats,
}

/// Counts of one worker's callouts.
#[derive(Default)]
pub(crate) struct CalloutStats {
    pub(crate) scheduled: AtomicU64,
    pub(crate) fired: AtomicU64,
    pub(crate) stopped: AtomicU64,
}

impl Callouts {
    pub(crate) fn new(cpu: usize) -> Self {
        Callouts {
            cpu,
            chunks: (0..CHUNKS).map(|_| OnceLock::new()).collect(),
            fresh: AtomicU32::new(0),
            free: SegQueue::new(),
            inbox: SegQueue::new(),
            stats: CalloutStats::default(),
        }
    }

    fn slot(&self, i: u32) -> Option<&Slot> {
        self.chunks.get((i / CHUNK) as usize)?.get().map(|c| &c[(i % CHUNK) as usize])
    }

    fn take_free(&self) -> Option<u32> {
        if let Some(i) = self.free.pop() {
            return Some(i);
        }
        let more = |n: u32| (n < CHUNK * CHUNKS).then_some(n + 1);
        let i = self.fresh.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        self.chunks[(i / CHUNK) as usize].get_or_init(|| {
            let slot = |_| Slot {
                state: AtomicU64::new(word(1, FREE)),
                deadline: AtomicU64::new(0),
                func: UnsafeCell::new(None),
            };
            (0..CHUNK).map(slot).collect()
        });
        Some(i)
    }

    /// Schedules `func`; `None` when a million callouts wait already. The caller tells the worker.
    pub(crate) fn schedule(&self, deadline_ns: u64, func: CalloutFunc) -> Option<CalloutId> {
        let i = self.take_free()?;
        let slot = self.slot(i)?;
        let generation = slot.state.load(Ordering::Acquire) >> 2;
        slot.deadline.store(deadline_ns, Ordering::Relaxed);
        // SAFETY: the slot is free and out of the free list, so it is this thread's.
        unsafe { *slot.func.get() = Some(func) };
        slot.state.store(word(generation, PENDING), Ordering::Release);
        self.inbox.push(Message::Add(i));
        self.stats.scheduled.fetch_add(1, Ordering::Relaxed);
        Some(CalloutId((self.cpu as u64) << 56 | generation << 24 | u64::from(i)))
    }

    /// Stops a callout of this worker. The caller tells the worker when it was cancelled.
    pub(crate) fn stop(&self, id: CalloutId) -> Stopped {
        let (_, generation, i) = id.parts();
        let Some(slot) = self.slot(i) else { return Stopped::Over };
        let (from, to) = (word(generation, PENDING), word(generation, CANCELLED));
        match slot.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => {
                self.inbox.push(Message::Remove(i));
                self.stats.stopped.fetch_add(1, Ordering::Relaxed);
                Stopped::Cancelled
            }
            Err(now) if now == word(generation, RUNNING) => Stopped::Running,
            Err(_) => Stopped::Over,
        }
    }

    pub(crate) fn worker_of(id: CalloutId) -> usize {
        id.parts().0
    }

    /// Gives a slot back. The worker only; its function has been taken.
    fn release(&self, i: u32, slot: &Slot) {
        let generation = ((slot.state.load(Ordering::Relaxed) >> 2) + 1) & 0xffff_ffff;
        slot.state.store(word(generation.max(1), FREE), Ordering::Release);
        self.free.push(i);
    }
}

/// The worker's side.
pub(crate) struct CalloutWheel(Wheel);

impl CalloutWheel {
    pub(crate) fn new(now_ns: u64) -> Self {
        CalloutWheel(Wheel::new(now_ns))
    }

    /// Takes what other threads left. Returns how many messages there were.
    pub(crate) fn read_inbox(&mut self, shared: &Callouts) -> u32 {
        let mut n = 0;
        while let Some(message) = shared.inbox.pop() {
            n += 1;
            match message {
                Message::Add(i) => {
                    if let Some(slot) = shared.slot(i) {
                        self.0.insert(i, slot.deadline.load(Ordering::Relaxed));
                    }
                }
                Message::Remove(i) => {
                    self.0.remove(i);
                    if let Some(slot) = shared.slot(i) {
                        // SAFETY: cancelled, and this is the worker: nobody else touches it.
                        drop(unsafe { (*slot.func.get()).take() });
                        shared.release(i, slot);
                    }
                }
            }
        }
        n
    }

    /// Takes out one callout that is due, to be run and then given to [`CalloutWheel::finish`].
    pub(crate) fn due(&mut self, shared: &Callouts, now_ns: u64) -> Option<(u32, CalloutFunc)> {
        while let Some(i) = self.0.expire(now_ns) {
            let slot = shared.slot(i)?;
            let state = slot.state.load(Ordering::Relaxed);
            let running = word(state >> 2, RUNNING);
            let pending = word(state >> 2, PENDING);
            if slot.state.compare_exchange(pending, running, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                // Cancelled: its message is in the inbox and gives the slot back.
                continue;
            }
            // SAFETY: RUNNING, and this is the worker.
            if let Some(func) = unsafe { (*slot.func.get()).take() } {
                return Some((i, func));
            }
        }
        None
    }

    /// The callout has run.
    pub(crate) fn finish(&mut self, shared: &Callouts, i: u32) {
        if let Some(slot) = shared.slot(i) {
            shared.release(i, slot);
            shared.stats.fired.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// When the next callout is due at the earliest.
    pub(crate) fn next_ns(&self) -> Option<u64> {
        self.0.next_ns()
    }

    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Drops every callout that waits, without running it; returns how many there were.
    pub(crate) fn clear(&mut self, shared: &Callouts) -> u64 {
        self.read_inbox(shared);
        let mut n = 0;
        while let Some(i) = self.0.any() {
            self.0.remove(i);
            if let Some(slot) = shared.slot(i) {
                let generation = slot.state.load(Ordering::Relaxed) >> 2;
                let (from, to) = (word(generation, PENDING), word(generation, RUNNING));
                if slot.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                    // SAFETY: RUNNING, and this is the worker.
                    drop(unsafe { (*slot.func.get()).take() });
                    shared.release(i, slot);
                    n += 1;
                }
            }
        }
        self.read_inbox(shared);
        n
    }
}
