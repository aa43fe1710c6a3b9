//! psref(9): references that outlive a read section, at the price of a load and a store.
//!
//! An object has one count per worker. A reference is taken and given back on the same worker ([`Psref`] cannot leave its
//! thread), so each count is that worker's own and no atomic read-modify-write is needed. To destroy the object the owner
//! first makes it unreachable, then [`PsrefTarget::destroy`] waits for a grace period, after which nobody can be about to
//! take a reference, and for every count to come to 0. `tests/loom_psref.rs` explores this.

use crate::{
    Cpu, Domain,
    sync::{Arc, AtomicBool, AtomicU64, Backoff, Ordering},
};
use crossbeam_utils::CachePadded;
use std::{marker::PhantomData, ops::Deref, ptr::NonNull};

struct Inner<T> {
    value: T,
    draining: AtomicBool,
    /// One count per worker, and one for all other threads.
    held: Box<[CachePadded<AtomicU64>]>,
}

impl<T> Inner<T> {
    fn is_held(&self) -> bool {
        self.held.iter().any(|c| c.load(Ordering::Acquire) != 0)
    }
}

/// Owns the allocation: frees it when the last target handle goes, unless references are still out.
struct Owner<T>(NonNull<Inner<T>>);

// SAFETY: the value is shared between threads (Sync) and dropped by any of them (Send).
unsafe impl<T: Send + Sync> Send for Owner<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Owner<T> {}

impl<T> Owner<T> {
    #[inline(always)]
    fn inner(&self) -> &Inner<T> {
        // SAFETY: the allocation lives at least as long as this owner.
        unsafe { self.0.as_ref() }
    }
}

impl<T> Drop for Owner<T> {
    fn drop(&mut self) {
        if self.inner().is_held() {
            // Whoever holds a reference keeps a valid object: losing memory is the lesser evil.
            tracing::error!("an object with references was dropped without destroy(): its memory is not freed");
            return;
        }
        // SAFETY: it came from a Box; no handle is left, so no new reference can be taken, and none is held.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// An object that workers hold by passive references. Clones are handles of the same object.
pub struct PsrefTarget<T>(Arc<Owner<T>>);

impl<T> Clone for PsrefTarget<T> {
    fn clone(&self) -> Self {
        PsrefTarget(self.0.clone())
    }
}

impl<T: Send + Sync> PsrefTarget<T> {
    /// Wraps `value`, for the workers of a runtime.
    pub fn new(workers: usize, value: T) -> Self {
        let held = (0..=workers).map(|_| CachePadded::new(AtomicU64::new(0))).collect();
        let inner = Box::new(Inner { value, draining: AtomicBool::new(false), held });
        PsrefTarget(Arc::new(Owner(NonNull::from(Box::leak(inner)))))
    }

    /// Takes a reference; `None` once the object is being destroyed. A load, a compare, a load and a store.
    #[inline]
    pub fn acquire(&self, cpu: Cpu) -> Option<Psref<T>> {
        let inner = self.0.inner();
        if inner.draining.load(Ordering::Relaxed) {
            return None;
        }
        let count = &inner.held[cpu.index()];
        // Only this worker writes its count. What orders it before destroy() is the grace period that destroy() waits for.
        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        Some(Psref { inner: self.0.0, cpu, _not_send: PhantomData })
    }

    /// Takes a reference from a thread that is no worker: an atomic addition on a shared count.
    pub fn acquire_control(&self) -> Option<PsrefControl<T>> {
        let inner = self.0.inner();
        let held = &inner.held[inner.held.len() - 1];
        // The count goes up before the look at `draining`, and destroy() sets that before it looks at the counts: of two
        // SeqCst pairs one sees the other.
        held.fetch_add(1, Ordering::SeqCst);
        crate::sync::fence(Ordering::SeqCst);
        if inner.draining.load(Ordering::SeqCst) {
            held.fetch_sub(1, Ordering::Release);
            return None;
        }
        Some(PsrefControl { inner: self.0.0, _owner: self.clone() })
    }

    /// The object, for as long as this handle lives.
    #[inline]
    pub fn get(&self) -> &T {
        &self.0.inner().value
    }

    /// References held now, as far as one can count while workers run.
    pub fn held(&self) -> u64 {
        self.0.inner().held.iter().map(|c| c.load(Ordering::Relaxed)).sum()
    }

    /// psref_target_destroy: refuses new references and returns when none is held any more. The caller has made the
    /// object unreachable before. Never on a worker; waits as long as a holder holds.
    pub fn destroy(&self, domain: &Domain) {
        let inner = self.0.inner();
        inner.draining.store(true, Ordering::SeqCst);
        crate::sync::fence(Ordering::SeqCst);
        // After this, every worker that had found the object before has either taken its reference or will find it
        // draining.
        domain.perform();
        let mut backoff = Backoff::default();
        while inner.is_held() {
            backoff.snooze();
        }
    }
}

/// A passive reference of a worker. Given back on drop, on the same thread.
pub struct Psref<T> {
    inner: NonNull<Inner<T>>,
    cpu: Cpu,
    _not_send: PhantomData<*const T>,
}

impl<T> Deref for Psref<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the object is not freed while a count is above 0 (Owner::drop).
        unsafe { &self.inner.as_ref().value }
    }
}

impl<T> Drop for Psref<T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: as in deref; the count is still above 0 here.
        let count = unsafe { &self.inner.as_ref().held[self.cpu.index()] };
        // Release: what this worker did with the object happens before destroy() reads the 0.
        count.store(count.load(Ordering::Relaxed) - 1, Ordering::Release);
    }
}

/// A reference of a thread that is no worker.
pub struct PsrefControl<T> {
    inner: NonNull<Inner<T>>,
    _owner: PsrefTarget<T>,
}

// SAFETY: its count is shared by all threads that are no workers and changed atomically; the value is shared (Sync).
unsafe impl<T: Send + Sync> Send for PsrefControl<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for PsrefControl<T> {}

impl<T> Deref for PsrefControl<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the handle in `_owner` keeps the object.
        unsafe { &self.inner.as_ref().value }
    }
}

impl<T> Drop for PsrefControl<T> {
    fn drop(&mut self) {
        // SAFETY: the handle in `_owner` keeps the object.
        let inner = unsafe { self.inner.as_ref() };
        inner.held[inner.held.len() - 1].fetch_sub(1, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn destroy_waits_for_references_and_refuses_new_ones() {
        let domain = Domain::new(1);
        // SAFETY: the only token of worker 0.
        let cpu = unsafe { Cpu::assume(0) };
        let target = PsrefTarget::new(1, String::from("object"));
        let (worker, control) = (target.acquire(cpu).unwrap(), target.acquire_control().unwrap());
        assert_eq!((&**worker, &**control, target.held()), ("object", "object", 2));
        let (t, d) = (target.clone(), domain.clone());
        let owner = std::thread::spawn(move || t.destroy(&d));
        while target.acquire(cpu).is_some() {
            std::thread::yield_now();
        }
        assert!(target.acquire_control().is_none());
        drop(control);
        assert!(!owner.is_finished(), "one reference is held");
        drop(worker);
        owner.join().unwrap();
        assert_eq!(target.held(), 0);
    }

    #[test]
    fn a_reference_outlives_the_last_handle() {
        // SAFETY: the only token of worker 0.
        let cpu = unsafe { Cpu::assume(0) };
        let target = PsrefTarget::new(1, 7u32);
        let held = target.acquire(cpu).unwrap();
        if cfg!(miri) {
            // It would be a leak by design.
            drop(held);
            return;
        }
        drop(target);
        assert_eq!(*held, 7);
    }
}
