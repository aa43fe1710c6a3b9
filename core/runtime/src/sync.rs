//! The atomics, locks and threads that the lock-free parts are written against: the standard ones, or loom's when the
//! crate is built with `--cfg loom`, so that the very code that ships is what loom explores.

#[cfg(loom)]
pub(crate) use loom::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence},
    },
    thread,
};
#[cfg(not(loom))]
pub(crate) use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence},
    },
    thread,
};

/// Locks, also when a holder panicked: the data behind these locks is consistent between any two statements.
pub(crate) fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Waits a little, longer from call to call: for control threads that wait for workers.
#[derive(Default)]
pub(crate) struct Backoff {
    #[cfg(not(loom))]
    rounds: u32,
}

impl Backoff {
    pub(crate) fn snooze(&mut self) {
        #[cfg(loom)]
        thread::yield_now();
        #[cfg(not(loom))]
        {
            // A worker passes a quiescent point every few microseconds: spinning a little beats sleeping, but a control
            // thread must not take a worker's CPU for long.
            match self.rounds {
                0..16 => std::hint::spin_loop(),
                16..64 => thread::yield_now(),
                _ => thread::sleep(std::time::Duration::from_micros(u64::from(self.rounds.min(1000)))),
            }
            self.rounds += 1;
        }
    }
}
