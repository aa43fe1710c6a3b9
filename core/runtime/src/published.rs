//! The copy-and-swap "variant" pattern: one pointer to a value that never changes, replaced as a whole.

use crate::{
    Domain, Section,
    pserialize::Bound,
    sync::{AtomicPtr, Mutex, MutexGuard, Ordering, lock},
};
use std::{marker::PhantomData, ops::Deref};

/// A value that workers read without cost and control threads replace. Readers see the old or the new value as a whole.
pub struct Published<T> {
    ptr: AtomicPtr<T>,
    bound: Bound,
    writer: Mutex<()>,
    _owns: PhantomData<T>,
}

// SAFETY: readers share the value (Sync), and it is dropped by whichever thread (Send).
unsafe impl<T: Send + Sync> Send for Published<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Published<T> {}

impl<T: Send + Sync + 'static> Published<T> {
    /// Publishes `value`.
    pub fn new(value: T) -> Self {
        let ptr = AtomicPtr::new(Box::into_raw(Box::new(value)));
        Published { ptr, bound: Bound::default(), writer: Mutex::new(()), _owns: PhantomData }
    }

    /// The value now: one load.
    ///
    /// # Panics
    /// When the section is of another domain than the one that this object is used with.
    #[inline(always)]
    pub fn read<'a>(&'a self, section: Section<'a>) -> &'a T {
        self.bound.check(section);
        // SAFETY: the pointer came from a Box and is freed only after a grace period of the domain, which the section
        // keeps from ending; `self` is borrowed for as long, so it is not dropped either.
        unsafe { &*self.ptr.load(Ordering::Acquire) }
    }

    /// Replaces the value; the old one is dropped after a grace period. Control threads.
    pub fn swap(&self, domain: &Domain, value: T) {
        let _writer = lock(&self.writer);
        self.replace(domain, value);
    }

    /// Replaces the value by one made of it, with no other writer in between. Control threads.
    pub fn update<R>(&self, domain: &Domain, f: impl FnOnce(&T) -> (T, R)) -> R {
        let _writer = lock(&self.writer);
        // SAFETY: only writers replace the value, and this one holds the lock.
        let (value, answer) = f(unsafe { &*self.ptr.load(Ordering::Acquire) });
        self.replace(domain, value);
        answer
    }

    /// The value as writers see it; no other writer gets in until the result is dropped. Control threads.
    pub fn load_control(&self) -> PublishedRef<'_, T> {
        PublishedRef { owner: self, _writer: lock(&self.writer) }
    }

    /// The caller holds the writers' lock.
    fn replace(&self, domain: &Domain, value: T) {
        self.bound.check_writer(domain);
        let old = self.ptr.swap(Box::into_raw(Box::new(value)), Ordering::AcqRel);
        domain.retire(Box::new(Old(old)));
    }
}

/// A value that no new reader finds. A raw pointer, and no `Box`, because readers from before still share it.
struct Old<T>(*mut T);

// SAFETY: it is the only owner of the value, which may be dropped anywhere.
unsafe impl<T: Send> Send for Old<T> {}

impl<T> Drop for Old<T> {
    fn drop(&mut self) {
        // SAFETY: it came from Box::into_raw and this is its only owner: the grace period is over.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

impl<T> Drop for Published<T> {
    fn drop(&mut self) {
        // SAFETY: exclusive access, so no reader is left; the pointer came from a Box.
        drop(unsafe { Box::from_raw(self.ptr.load(Ordering::Acquire)) });
    }
}

/// A published value while writers are locked out.
pub struct PublishedRef<'a, T> {
    owner: &'a Published<T>,
    _writer: MutexGuard<'a, ()>,
}

impl<T> Deref for PublishedRef<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: only writers replace the value, and their lock is held here.
        unsafe { &*self.owner.ptr.load(Ordering::Acquire) }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_reader_keeps_what_it_found_and_the_next_one_finds_the_new() {
        let (domain, value) = (Domain::new(1), Published::new(1));
        let reader = domain.register();
        let guard = reader.enter();
        let old = value.read(guard.section());
        value.swap(&domain, 2);
        assert_eq!(value.update(&domain, |v| (v + 1, *v)), 2);
        assert_eq!((*old, *value.read(guard.section()), *value.load_control()), (1, 3, 3));
        drop(guard);
        domain.flush();
        let s = domain.stats();
        assert_eq!((s.retired, s.reclaimed), (2, 2));
    }
}
