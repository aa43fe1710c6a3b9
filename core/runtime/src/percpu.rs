//! percpu(9): one value for each worker, each in cache lines of its own.

use crate::Cpu;
use crossbeam_utils::CachePadded;
use std::cell::{Cell, UnsafeCell};

struct Slot<T> {
    busy: Cell<bool>,
    value: UnsafeCell<T>,
}

/// One `T` for each worker. A worker reaches only its own, so no lock is needed.
pub struct PerCpu<T> {
    slots: Box<[CachePadded<Slot<T>>]>,
}

// SAFETY: slot i is touched only by the thread that holds a `Cpu` of index i, of which there is one at a time (contract of
// `Cpu::assume`); values are dropped by whoever drops the whole.
unsafe impl<T: Send> Sync for PerCpu<T> {}

impl<T> PerCpu<T> {
    /// `n` slots, the value of slot `i` made by `f(i)`.
    pub fn new(n: usize, mut f: impl FnMut(usize) -> T) -> Self {
        let slot = |i| CachePadded::new(Slot { busy: Cell::new(false), value: UnsafeCell::new(f(i)) });
        PerCpu { slots: (0..n).map(slot).collect() }
    }

    /// Number of slots.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are no slots.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Runs `f` on the worker's own value.
    ///
    /// # Panics
    /// When `f` enters the same slot again, or `cpu` is beyond the slots: both are errors of the program.
    #[inline]
    pub fn with<R>(&self, cpu: Cpu, f: impl FnOnce(&mut T) -> R) -> R {
        struct Leave<'a>(&'a Cell<bool>);
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                self.0.set(false);
            }
        }
        let slot = &self.slots[cpu.index()];
        if slot.busy.replace(true) {
            reentered(cpu);
        }
        let _leave = Leave(&slot.busy);
        // SAFETY: this thread is the only one with this slot (see Sync), and `busy` says that no other borrow of it lives.
        f(unsafe { &mut *slot.value.get() })
    }

    /// Every value in turn, with exclusive access to the whole.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().map(|s| s.value.get_mut())
    }
}

#[cold]
#[inline(never)]
fn reentered(cpu: Cpu) -> ! {
    panic!("per-CPU value of worker {} entered twice", cpu.index());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_worker_has_its_own_value() {
        let p = PerCpu::new(2, |i| i * 10);
        // SAFETY: one thread in this test.
        let (a, b) = unsafe { (Cpu::assume(0), Cpu::assume(1)) };
        p.with(a, |v| *v += 1);
        assert_eq!((p.with(a, |v| *v), p.with(b, |v| *v)), (1, 10));
    }

    #[test]
    #[should_panic(expected = "entered twice")]
    fn entering_twice_is_refused() {
        let p = PerCpu::new(1, |_| 0);
        // SAFETY: one thread in this test.
        let a = unsafe { Cpu::assume(0) };
        p.with(a, |_| p.with(a, |v| *v += 1));
    }
}
