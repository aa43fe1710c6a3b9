//! Statistics: per-CPU counters that cost a load and a store.

use crate::Cpu;
use crossbeam_utils::CachePadded;
// Counters are no part of any synchronisation, so loom does not have to see them.
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

type Line = CachePadded<[AtomicU64; 16]>;

/// `n` counters, each kept once per worker and once for all other threads. Readers sum them up.
pub struct Counters {
    /// (workers + 1) areas of `lines` lines; the last area is the other threads'.
    area: Box<[Line]>,
    lines: usize,
    workers: usize,
    n: usize,
}

impl Counters {
    /// `n` counters at zero, for `workers` workers.
    pub fn new(workers: usize, n: usize) -> Self {
        let lines = n.div_ceil(16).max(1);
        let area = (0..(workers + 1) * lines).map(|_| Line::default()).collect();
        Counters { area, lines, workers, n }
    }

    #[inline(always)]
    fn slot(&self, area: usize, i: usize) -> &AtomicU64 {
        &self.area[area * self.lines + i / 16][i % 16]
    }

    /// Adds `v` to counter `i` of this worker.
    #[inline(always)]
    pub fn add(&self, cpu: Cpu, i: usize, v: u64) {
        debug_assert!(i < self.n && cpu.index() < self.workers);
        let slot = self.slot(cpu.index(), i);
        // Only this worker writes here, so a plain load and store lose nothing.
        slot.store(slot.load(Relaxed).wrapping_add(v), Relaxed);
    }

    /// Adds `v` to counter `i`, from a thread that is no worker.
    pub fn add_control(&self, i: usize, v: u64) {
        debug_assert!(i < self.n);
        self.slot(self.workers, i).fetch_add(v, Relaxed);
    }

    /// Counter `i` over all threads.
    pub fn sum(&self, i: usize) -> u64 {
        (0..=self.workers).fold(0, |sum, a| sum.wrapping_add(self.slot(a, i).load(Relaxed)))
    }

    /// Counter `i` of each worker, and of all other threads as the last value.
    pub fn per_cpu(&self, i: usize) -> Vec<u64> {
        (0..=self.workers).map(|a| self.slot(a, i).load(Relaxed)).collect()
    }

    /// How many counters there are.
    pub fn len(&self) -> usize {
        self.n
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_over_workers_and_control() {
        let c = Counters::new(2, 20);
        // SAFETY: one thread in this test.
        let (a, b) = unsafe { (Cpu::assume(0), Cpu::assume(1)) };
        c.add(a, 17, 2);
        c.add(b, 17, 3);
        c.add_control(17, 4);
        assert_eq!((c.sum(17), c.per_cpu(17), c.sum(16), c.len()), (9, vec![2, 3, 4], 0, 20));
    }
}
