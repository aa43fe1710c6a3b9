//! What a worker counts about itself.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Written by the worker with plain stores, read by anyone.
#[derive(Default)]
pub(crate) struct WorkerStats {
    pub(crate) rounds: AtomicU64,
    pub(crate) busy_rounds: AtomicU64,
    pub(crate) busy_ns: AtomicU64,
    pub(crate) idle_ns: AtomicU64,
    pub(crate) sleeps: AtomicU64,
    pub(crate) wakes: AtomicU64,
    pub(crate) sleep_ns: AtomicU64,
    pub(crate) panics: AtomicU64,
    pub(crate) pollers: AtomicU64,
    pub(crate) callouts_left: AtomicU64,
}

#[inline(always)]
fn add(to: &AtomicU64, n: u64) {
    to.store(to.load(Relaxed).wrapping_add(n), Relaxed);
}

impl WorkerStats {
    /// A round begins; the one before took `ns` and had work or not.
    #[inline(always)]
    pub(super) fn round(&self, was_busy: bool, ns: u64) {
        add(&self.rounds, 1);
        if was_busy {
            add(&self.busy_rounds, 1);
            add(&self.busy_ns, ns);
        } else {
            add(&self.idle_ns, ns);
        }
    }

    /// A sleep begins.
    pub(super) fn to_sleep(&self) {
        add(&self.sleeps, 1);
    }

    /// A sleep is over; `woken` by another thread.
    pub(super) fn slept(&self, woken: bool, ns: u64) {
        add(&self.wakes, u64::from(woken));
        add(&self.sleep_ns, ns);
    }

    pub(super) fn panicked(&self) {
        add(&self.panics, 1);
    }

    pub(super) fn set_pollers(&self, n: usize) {
        self.pollers.store(n as u64, Relaxed);
    }

    pub(super) fn ended(&self, callouts_left: u64) {
        self.callouts_left.store(callouts_left, Relaxed);
        self.pollers.store(0, Relaxed);
    }

    /// Share of the time with work since the start, in percent.
    pub(crate) fn utilisation(&self) -> u64 {
        let busy = self.busy_ns.load(Relaxed);
        let all = busy + self.idle_ns.load(Relaxed) + self.sleep_ns.load(Relaxed);
        (busy * 100).checked_div(all).unwrap_or(0)
    }
}
