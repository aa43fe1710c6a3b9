//! How the control thread hands a queue its ring, and gets the old one back.
//!
//! A worker looks at one number before each burst, which changes only when a connection begins or ends; it takes the lock
//! only then. The old ring goes back to the control thread, so that memory is unmapped there and only when its worker has
//! left it.

use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU32, Ordering},
};

/// The handing over of `T` to one worker.
pub struct Handover<T> {
    generation: AtomicU32,
    state: Mutex<State<T>>,
}

struct State<T> {
    next: Option<T>,
    old: Vec<T>,
}

impl<T> Default for Handover<T> {
    fn default() -> Self {
        Handover { generation: AtomicU32::new(0), state: Mutex::new(State { next: None, old: Vec::new() }) }
    }
}

impl<T> Handover<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Control: what the worker is to use from now on; none for nothing. Returns what it had not taken up yet.
    pub fn post(&self, next: Option<T>) -> Option<T> {
        let mut state = self.lock();
        let untaken = std::mem::replace(&mut state.next, next);
        self.generation.fetch_add(1, Ordering::Release);
        untaken
    }

    /// Worker: whether something was posted since generation `seen`.
    #[inline(always)]
    pub fn changed(&self, seen: u32) -> bool {
        self.generation.load(Ordering::Acquire) != seen
    }

    /// Worker: takes what was posted last.
    pub fn take(&self, seen: &mut u32) -> Option<T> {
        let mut state = self.lock();
        *seen = self.generation.load(Ordering::Acquire);
        state.next.take()
    }

    /// Worker: is done with something it took.
    pub fn give_back(&self, old: T) {
        self.lock().old.push(old);
    }

    /// Control: what the worker is done with.
    pub fn take_old(&self) -> Vec<T> {
        std::mem::take(&mut self.lock().old)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_posted_is_taken_once_and_comes_back() {
        let handover = Handover::default();
        let mut seen = 0;
        assert!(!handover.changed(seen));
        assert_eq!(handover.post(Some(1)), None);
        assert_eq!(handover.post(Some(2)), Some(1));
        assert!(handover.changed(seen));
        assert_eq!((handover.take(&mut seen), handover.take(&mut seen)), (Some(2), None));
        assert!(!handover.changed(seen));
        handover.give_back(2);
        assert_eq!(handover.post(None), None);
        assert!(handover.changed(seen) && handover.take(&mut seen).is_none());
        assert_eq!(handover.take_old(), [2]);
    }
}
