//! pktqueue(9): packets that have to go on on another worker, handed over in bursts.
//!
//! Each worker has a ring that any number of threads fill and only it drains. Full rings refuse; the caller owns what was
//! refused and drops it by name. A *barrier* puts a marker into each ring and waits until the workers have come to it: what
//! was enqueued before is then done with. A *resize* swaps rings while packets flow: the new ring begins where the old one
//! ends, nothing is lost and nothing overtakes.

mod ring;
#[cfg(test)]
mod tests;

use crate::{
    Counters, Cpu, Domain,
    sync::{Arc, AtomicBool, AtomicPtr, AtomicU64, Backoff, Mutex, Ordering, lock},
};
use crossbeam_utils::CachePadded;
use ring::{MARKER, Ring};
use smpnet_abi::Cell;
use std::ptr;

const ENQUEUED: usize = 0;
const DROPPED: usize = 1;
const DEQUEUED: usize = 2;

struct Lane {
    ring: AtomicPtr<Ring>,
    /// Markers that the worker came to.
    markers: AtomicU64,
}

struct Control {
    /// Markers sent to each lane.
    sent: Vec<u64>,
    /// Rings that were replaced and that a worker may still be looking at.
    old: Vec<OldRing>,
}

struct OldRing(*mut Ring);

// SAFETY: it owns the ring, which any thread may use and drop.
unsafe impl Send for OldRing {}

impl Drop for OldRing {
    fn drop(&mut self) {
        // SAFETY: it came from a Box and this is its owner; dropped only when no one else can reach it.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

/// A queue of packets with one ring per worker.
pub struct PktQueue {
    name: String,
    domain: Arc<Domain>,
    lanes: Box<[CachePadded<Lane>]>,
    counters: Counters,
    /// Held for a moment by threads that are no workers, while they use a ring.
    outsiders: Mutex<()>,
    /// Held by a barrier or resize from beginning to end.
    control: Mutex<Control>,
    closed: AtomicBool,
    #[cfg(not(loom))]
    wakers: std::sync::OnceLock<Arc<crate::worker::Wakers>>,
}

/// Numbers of a [`PktQueue`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PktQueueStats {
    /// Packets in the rings.
    pub len: u64,
    /// Slots of each ring.
    pub max_len: u64,
    /// Packets accepted since the start.
    pub enqueued: u64,
    /// Packets refused since the start, because a ring was full.
    pub dropped: u64,
    /// Packets taken out since the start.
    pub dequeued: u64,
}

impl PktQueue {
    /// A queue for the workers of `domain`, with room for `len` packets (rounded up to a power of two) per worker.
    /// [`Runtime::add_pktqueue`](crate::Runtime::add_pktqueue) lets the workers drain it.
    pub fn new(name: impl Into<String>, domain: &Arc<Domain>, len: usize) -> Self {
        let lane = |_| {
            let ring = AtomicPtr::new(Box::into_raw(Box::new(Ring::new(len, ptr::null_mut()))));
            CachePadded::new(Lane { ring, markers: AtomicU64::new(0) })
        };
        PktQueue {
            name: name.into(),
            domain: domain.clone(),
            lanes: (0..domain.workers()).map(lane).collect(),
            counters: Counters::new(domain.workers(), 3),
            outsiders: Mutex::new(()),
            control: Mutex::new(Control { sent: vec![0; domain.workers()], old: Vec::new() }),
            closed: AtomicBool::new(false),
            #[cfg(not(loom))]
            wakers: std::sync::OnceLock::new(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    #[cfg(not(loom))]
    pub(crate) fn set_wakers(&self, wakers: Arc<crate::worker::Wakers>) {
        // A queue belongs to one runtime; a second one changes nothing.
        let _ = self.wakers.set(wakers);
    }

    #[inline(always)]
    fn wake(&self, _to: usize) {
        #[cfg(not(loom))]
        if let Some(w) = self.wakers.get() {
            w.wake(_to);
        }
    }

    /// The ring that producers use now.
    ///
    /// # Safety
    /// The caller is an online worker of the domain, or holds `outsiders` or `control`, as long as the result is used.
    #[inline(always)]
    unsafe fn ring(&self, to: usize) -> &Ring {
        // SAFETY: a ring is freed only after a grace period in which it was not the lane's, and after `outsiders` and
        // `control` were free (see resize).
        unsafe { &*self.lanes[to].ring.load(Ordering::Acquire) }
    }

    /// Hands packets to worker `to`. Returns how many were accepted, from the front; the rest stay the caller's.
    /// `from` is the calling worker; `None` on any other thread, which costs a lock. Wakes the worker when it sleeps.
    #[inline]
    pub fn enqueue(&self, from: Option<Cpu>, to: usize, cells: &[Cell]) -> usize {
        if cells.is_empty() {
            return 0;
        }
        let _outsider = from.is_none().then(|| lock(&self.outsiders));
        // SAFETY: a worker that has its `Cpu` is online (contract of `Cpu::assume`), others hold the lock.
        let n = unsafe { self.ring(to) }.push(cells);
        let add = |i, v| match from {
            Some(cpu) => self.counters.add(cpu, i, v),
            None => self.counters.add_control(i, v),
        };
        if n > 0 {
            add(ENQUEUED, n as u64);
            self.wake(to);
        }
        if n < cells.len() {
            add(DROPPED, (cells.len() - n) as u64);
        }
        n
    }

    /// Takes packets of the calling worker's ring into `out` and returns how many.
    #[inline]
    pub fn drain(&self, cpu: Cpu, out: &mut [Cell]) -> usize {
        let lane = &self.lanes[cpu.index()];
        // SAFETY: an online worker.
        let ring = unsafe { self.ring(cpu.index()) };
        let before = ring.before.load(Ordering::Acquire);
        // SAFETY: the ring before this one is freed only by whoever waited until this worker has cleared `before`.
        let popped = match unsafe { before.as_ref() } {
            None => ring.pop(out),
            Some(old) => {
                // First the look whether producers have left it, then the look whether it is empty.
                let sealed = old.sealed.load(Ordering::Acquire);
                let popped = old.pop(out);
                if popped.cells == 0 && popped.markers == 0 && sealed {
                    ring.before.store(ptr::null_mut(), Ordering::Release);
                    ring.pop(out)
                } else {
                    popped
                }
            }
        };
        if popped.markers > 0 {
            lane.markers.fetch_add(popped.markers, Ordering::Release);
        }
        if popped.cells > 0 {
            self.counters.add(cpu, DEQUEUED, popped.cells as u64);
        }
        popped.cells
    }

    /// Whether the worker's ring holds anything, markers included.
    #[inline]
    pub fn has_work(&self, cpu: Cpu) -> bool {
        // SAFETY: an online worker.
        let ring = unsafe { self.ring(cpu.index()) };
        !ring.before.load(Ordering::Acquire).is_null() || ring.len() > 0
    }

    /// pktq_barrier: returns when every packet that was enqueued before has been taken out and the worker has come back
    /// for more; false when the queue was closed meanwhile. Control threads.
    pub fn barrier(&self) -> bool {
        let mut control = lock(&self.control);
        let sent = &mut control.sent;
        for (to, sent) in sent.iter_mut().enumerate() {
            let mut backoff = Backoff::default();
            loop {
                // SAFETY: the caller holds `control`.
                if unsafe { self.ring(to) }.push(&[MARKER]) == 1 {
                    break;
                }
                if self.closed.load(Ordering::Acquire) {
                    return false;
                }
                self.wake(to);
                backoff.snooze();
            }
            *sent += 1;
            self.wake(to);
        }
        self.wait_until(|to| self.lanes[to].markers.load(Ordering::Acquire) >= sent[to])
    }

    /// Changes the rings to `len` slots (rounded up to a power of two) while packets flow. Control threads.
    /// Returns false when the queue was closed meanwhile; no packet is lost then either.
    pub fn resize(&self, len: usize) -> bool {
        let mut control = lock(&self.control);
        if !self.wait_until(|to| self.first_ring_is_alone(to)) {
            return false;
        }
        for lane in &self.lanes {
            let old = lane.ring.load(Ordering::Acquire);
            lane.ring.store(Box::into_raw(Box::new(Ring::new(len, old))), Ordering::Release);
            control.old.push(OldRing(old));
        }
        // Workers may still be filling the old rings until the grace period ends, others until the lock was free.
        self.domain.perform();
        drop(lock(&self.outsiders));
        for ring in &control.old {
            // SAFETY: owned by `control.old`, which only the holder of the lock changes.
            unsafe { (*ring.0).sealed.store(true, Ordering::Release) };
        }
        for to in 0..self.lanes.len() {
            self.wake(to);
        }
        if !self.wait_until(|to| self.first_ring_is_alone(to)) {
            // Nobody drains any more: the old rings stay behind the new ones until the queue is dropped.
            return false;
        }
        // A worker may still be in the call of `drain` or `has_work` that found the old ring.
        self.domain.perform();
        // No producer (sealed) and no worker (cleared, grace period) has them any more.
        control.old.clear();
        true
    }

    /// Whether the worker has come to the end of the ring before the current one. The caller holds `control`.
    fn first_ring_is_alone(&self, to: usize) -> bool {
        // SAFETY: the caller holds `control`.
        unsafe { self.ring(to) }.before.load(Ordering::Acquire).is_null()
    }

    /// Waits until `done` for every worker; false when the queue was closed.
    fn wait_until(&self, done: impl Fn(usize) -> bool) -> bool {
        for to in 0..self.lanes.len() {
            let mut backoff = Backoff::default();
            while !done(to) {
                if self.closed.load(Ordering::Acquire) {
                    return false;
                }
                backoff.snooze();
            }
        }
        true
    }

    /// Says that no worker drains any more: barriers and resizes that wait, or come later, return false.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Takes everything that is left, after the workers have gone. The caller owns the packets.
    pub fn take_rest(&mut self) -> Vec<Cell> {
        let mut rest = Vec::new();
        for index in 0..self.lanes.len() as u32 {
            // SAFETY: exclusive access: no other thread uses the queue.
            let cpu = unsafe { Cpu::assume(index) };
            let mut buf = [0; 64];
            // SAFETY: exclusive access.
            let ring = unsafe { self.ring(cpu.index()) };
            // SAFETY: exclusive access, and owned by `ring`.
            if let Some(old) = unsafe { ring.before.load(Ordering::Acquire).as_ref() } {
                old.sealed.store(true, Ordering::Release);
            }
            while self.has_work_or_more(cpu, &mut buf, &mut rest) {}
        }
        rest
    }

    fn has_work_or_more(&self, cpu: Cpu, buf: &mut [Cell; 64], rest: &mut Vec<Cell>) -> bool {
        let n = self.drain(cpu, buf);
        rest.extend_from_slice(&buf[..n]);
        n > 0 || self.has_work(cpu)
    }

    /// The numbers now.
    pub fn stats(&self) -> PktQueueStats {
        let _outsider = lock(&self.outsiders);
        let mut stats = PktQueueStats {
            enqueued: self.counters.sum(ENQUEUED),
            dropped: self.counters.sum(DROPPED),
            dequeued: self.counters.sum(DEQUEUED),
            ..PktQueueStats::default()
        };
        for to in 0..self.lanes.len() {
            // SAFETY: `outsiders` is held.
            let ring = unsafe { self.ring(to) };
            stats.max_len = ring.capacity() as u64;
            stats.len += ring.len() as u64;
        }
        stats
    }
}

impl Drop for PktQueue {
    fn drop(&mut self) {
        for lane in &self.lanes {
            // SAFETY: exclusive access, and the ring came from a Box. Rings before it are freed by `control`.
            drop(unsafe { Box::from_raw(lane.ring.load(Ordering::Acquire)) });
        }
    }
}
