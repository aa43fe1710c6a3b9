//! loom explores psref: an object is not destroyed while a reference to it is held, also beyond the read section.
#![cfg(loom)]

use loom::{cell::UnsafeCell, sync::Arc, thread};
use smpnet_runtime::{Cpu, Domain, PsrefTarget, Published};

/// loom fails the test when a read and a write of the cell are not ordered.
struct Obj(UnsafeCell<u32>);
// SAFETY: loom checks each access.
unsafe impl Sync for Obj {}

impl Obj {
    fn read(&self) -> u32 {
        // SAFETY: loom checks that no write is concurrent.
        self.0.with(|p| unsafe { *p })
    }

    fn scrap(&self) {
        // SAFETY: loom checks that no access is concurrent.
        self.0.with_mut(|p| unsafe { *p = 0 });
    }
}

fn target() -> PsrefTarget<Obj> {
    PsrefTarget::new(1, Obj(UnsafeCell::new(7)))
}

fn model(f: impl Fn() + Sync + Send + 'static) {
    let mut b = loom::model::Builder::new();
    b.preemption_bound = Some(3);
    b.check(f);
}

#[test]
fn a_worker_keeps_the_object_over_its_quiescent_point() {
    model(|| {
        let domain = Domain::new(1);
        let target = target();
        let published = Arc::new(Published::new(Some(target.clone())));
        let (d, p) = (domain.clone(), published.clone());
        let worker = thread::spawn(move || {
            // SAFETY: the only worker 0.
            let cpu = unsafe { Cpu::assume(0) };
            d.unpark(cpu);
            // SAFETY: awake, and what is found is used before the quiescent point, but for the reference.
            let held = p.read(unsafe { d.assume_section() }).as_ref().and_then(|t| t.acquire(cpu));
            // SAFETY: nothing but a passive reference is held.
            unsafe { d.quiesce(cpu) };
            if let Some(obj) = held {
                assert_eq!(obj.read(), 7);
            }
            // SAFETY: nothing is held.
            unsafe { d.park(cpu) };
        });
        published.swap(&domain, None);
        target.destroy(&domain);
        target.get().scrap();
        worker.join().unwrap();
    });
}

#[test]
fn another_thread_gets_a_reference_or_none() {
    model(|| {
        let domain = Domain::new(1);
        let target = target();
        let t = target.clone();
        let other = thread::spawn(move || {
            if let Some(obj) = t.acquire_control() {
                assert_eq!(obj.read(), 7);
            }
        });
        target.destroy(&domain);
        target.get().scrap();
        other.join().unwrap();
        assert!(target.acquire_control().is_none());
        assert_eq!(target.held(), 0);
    });
}
