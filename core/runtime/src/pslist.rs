//! pslist(9): a list that readers walk without lock while writers change it.
//!
//! Writers take turns by a lock inside. An entry is filled before the store (release) that links it; a reader follows
//! links with acquire loads, so it sees whole entries. A removed entry keeps its own link, so that a reader who stands on
//! it finds its way on, and is freed after a grace period. `tests/loom_pslist.rs` explores this.

use crate::{
    Domain, Section,
    pserialize::Bound,
    sync::{AtomicPtr, AtomicUsize, Mutex, Ordering, lock},
};
use std::{marker::PhantomData, ptr};

struct Node<T> {
    next: AtomicPtr<Node<T>>,
    value: T,
}

/// A singly linked list of `T` that any number of readers walk while it changes.
pub struct Pslist<T> {
    head: AtomicPtr<Node<T>>,
    len: AtomicUsize,
    bound: Bound,
    writer: Mutex<()>,
    _owns: PhantomData<T>,
}

// SAFETY: readers share entries (Sync), whichever thread removes or drops them (Send).
unsafe impl<T: Send + Sync> Send for Pslist<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Pslist<T> {}

impl<T> Default for Pslist<T> {
    fn default() -> Self {
        Pslist {
            head: AtomicPtr::new(ptr::null_mut()),
            len: AtomicUsize::new(0),
            bound: Bound::default(),
            writer: Mutex::new(()),
            _owns: PhantomData,
        }
    }
}

impl<T: Send + Sync + 'static> Pslist<T> {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Entries now, as a writer counts them.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether there are no entries: one load.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.head.load(Ordering::Relaxed).is_null()
    }

    /// Puts `value` first. Any thread but with care on workers: writers wait for each other.
    pub fn push_front(&self, value: T) {
        self.insert_before(value, |_| true);
    }

    /// Puts `value` last.
    pub fn push_back(&self, value: T) {
        self.insert_before(value, |_| false);
    }

    /// Puts `value` before the first entry for which `before` holds, or last.
    pub fn insert_before(&self, value: T, mut before: impl FnMut(&T) -> bool) {
        let _writer = lock(&self.writer);
        let mut link = &self.head;
        let mut at = link.load(Ordering::Acquire);
        // SAFETY: entries are freed only after they were unlinked, which takes the lock held here.
        while let Some(node) = unsafe { at.as_ref() } {
            if before(&node.value) {
                break;
            }
            link = &node.next;
            at = link.load(Ordering::Acquire);
        }
        let node = Box::into_raw(Box::new(Node { next: AtomicPtr::new(at), value }));
        link.store(node, Ordering::Release);
        self.len.fetch_add(1, Ordering::Relaxed);
    }

    /// Unlinks every entry for which `gone` holds and returns how many there were; they are dropped after a grace
    /// period. Readers that stand on one still see it.
    pub fn remove_if(&self, domain: &Domain, gone: impl FnMut(&T) -> bool) -> usize {
        let nodes = self.unlink(domain, usize::MAX, gone);
        let n = nodes.len();
        if n > 0 {
            domain.retire(Box::new(nodes));
        }
        n
    }

    /// Unlinks the first entry for which `gone` holds, waits until no reader can see it, and hands it out. Never on a
    /// worker.
    pub fn take(&self, domain: &Domain, gone: impl FnMut(&T) -> bool) -> Option<T> {
        let node = self.unlink(domain, 1, gone).pop()?;
        domain.perform();
        Some(node.into_value())
    }

    fn unlink(&self, domain: &Domain, most: usize, mut gone: impl FnMut(&T) -> bool) -> Vec<Unlinked<T>> {
        self.bound.check_writer(domain);
        let _writer = lock(&self.writer);
        let mut out = Vec::new();
        let mut link = &self.head;
        loop {
            let at = link.load(Ordering::Acquire);
            // SAFETY: entries are freed only after they were unlinked, which takes the lock held here.
            let Some(node) = (unsafe { at.as_ref() }) else { break };
            if out.len() < most && gone(&node.value) {
                link.store(node.next.load(Ordering::Acquire), Ordering::Release);
                self.len.fetch_sub(1, Ordering::Relaxed);
                out.push(Unlinked(at));
            } else {
                link = &node.next;
            }
        }
        out
    }

    /// Walks the list. Entries that come or go meanwhile may or may not be seen; every other is seen exactly once.
    #[inline]
    pub fn iter<'a>(&'a self, section: Section<'a>) -> Iter<'a, T> {
        self.bound.check(section);
        Iter { at: self.head.load(Ordering::Acquire), _list: PhantomData }
    }

    /// Runs `f` over the list with writers locked out. Control threads.
    pub fn for_each_control(&self, mut f: impl FnMut(&T)) {
        let _writer = lock(&self.writer);
        let mut at = self.head.load(Ordering::Acquire);
        // SAFETY: entries are freed only after they were unlinked, which takes the lock held here.
        while let Some(node) = unsafe { at.as_ref() } {
            f(&node.value);
            at = node.next.load(Ordering::Acquire);
        }
    }
}

/// An entry that no new reader can reach; readers from before may still stand on it.
struct Unlinked<T>(*mut Node<T>);

// SAFETY: it is the only owner of the entry; readers share it (Sync), and it may be dropped anywhere (Send).
unsafe impl<T: Send + Sync> Send for Unlinked<T> {}

impl<T> Unlinked<T> {
    /// The entry's value. Only after a grace period.
    fn into_value(self) -> T {
        let node = self.0;
        std::mem::forget(self);
        // SAFETY: the pointer came from a Box, this is its only owner, and `self` does not free it again.
        unsafe { Box::from_raw(node) }.value
    }
}

impl<T> Drop for Unlinked<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer came from a Box and this is its only owner: the grace period is over.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

impl<T> Drop for Pslist<T> {
    fn drop(&mut self) {
        let mut at = self.head.load(Ordering::Acquire);
        while !at.is_null() {
            // SAFETY: exclusive access, so neither reader nor writer is left; entries came from boxes.
            let node = unsafe { Box::from_raw(at) };
            at = node.next.load(Ordering::Acquire);
        }
    }
}

/// Walks a [`Pslist`].
pub struct Iter<'a, T> {
    at: *mut Node<T>,
    _list: PhantomData<(&'a T, *const ())>,
}

impl<'a, T> Iterator for Iter<'a, T> {
    type Item = &'a T;

    #[inline]
    fn next(&mut self) -> Option<&'a T> {
        // SAFETY: an entry reached in a section is freed only after the section ended, and `'a` ends with it.
        let node: &'a Node<T> = unsafe { self.at.as_ref() }?;
        self.at = node.next.load(Ordering::Acquire);
        Some(&node.value)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn values(list: &Pslist<u32>, domain: &Domain) -> Vec<u32> {
        let reader = domain.register();
        let guard = reader.enter();
        list.iter(guard.section()).copied().collect()
    }

    #[test]
    fn entries_stand_where_they_were_put() {
        let (domain, list) = (Domain::new(1), Pslist::new());
        assert!(list.is_empty());
        [30, 10, 20].into_iter().for_each(|v| list.insert_before(v, |o| *o > v));
        list.push_front(0);
        list.push_back(40);
        assert_eq!(values(&list, &domain), [0, 10, 20, 30, 40]);
        assert_eq!(list.remove_if(&domain, |v| v % 20 == 0), 3);
        assert_eq!(list.take(&domain, |v| *v == 30), Some(30));
        assert_eq!(list.take(&domain, |v| *v == 30), None);
        assert_eq!((values(&list, &domain), list.len()), (vec![10], 1));
    }

    #[test]
    fn a_reader_on_a_removed_entry_finds_its_way_on() {
        let (domain, list) = (Domain::new(1), Pslist::new());
        (0..3).for_each(|v| list.push_back(v));
        let reader = domain.register();
        let guard = reader.enter();
        let mut walk = list.iter(guard.section());
        assert_eq!(walk.next(), Some(&0));
        assert_eq!(list.remove_if(&domain, |v| *v < 2), 2);
        assert_eq!(walk.collect::<Vec<_>>(), [&1, &2]);
    }

    #[test]
    #[should_panic(expected = "used in domain")]
    fn a_section_of_another_domain_is_refused() {
        let (a, b, list) = (Domain::new(1), Domain::new(1), Pslist::<u32>::new());
        list.remove_if(&a, |_| false);
        values(&list, &b);
    }
}
