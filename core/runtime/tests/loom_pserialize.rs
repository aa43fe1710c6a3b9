//! loom explores pserialize: no reader holds an object when its writer's grace period is over.
#![cfg(loom)]

use loom::{cell::UnsafeCell, sync::Arc, thread};
use smpnet_runtime::{Cpu, Domain, Published};

/// loom fails the test when a read and a write of the cell are not ordered.
struct Obj(UnsafeCell<u32>);
// SAFETY: loom checks each access.
unsafe impl Sync for Obj {}

impl Obj {
    fn new(v: u32) -> Arc<Self> {
        Arc::new(Obj(UnsafeCell::new(v)))
    }

    fn read(&self) -> u32 {
        // SAFETY: loom checks that no write is concurrent.
        self.0.with(|p| unsafe { *p })
    }

    fn scrap(&self) {
        // SAFETY: loom checks that no access is concurrent.
        self.0.with_mut(|p| unsafe { *p = 0 });
    }
}

fn model(f: impl Fn() + Sync + Send + 'static) {
    let mut b = loom::model::Builder::new();
    b.preemption_bound = Some(3);
    b.check(f);
}

#[test]
fn a_worker_that_wakes_reads_and_sleeps_is_waited_for() {
    model(|| {
        let domain = Domain::new(1);
        let old = Obj::new(1);
        let published = Arc::new(Published::new(old.clone()));
        let (d, p) = (domain.clone(), published.clone());
        let worker = thread::spawn(move || {
            // SAFETY: the only worker 0.
            let cpu = unsafe { Cpu::assume(0) };
            d.unpark(cpu);
            // SAFETY: awake, and the reads end before the quiescent point.
            let seen = p.read(unsafe { d.assume_section() }).read();
            // SAFETY: nothing is held.
            unsafe { d.park(cpu) };
            assert!(seen == 1 || seen == 2);
        });
        // Waits for a grace period (under loom `retire` waits itself).
        published.swap(&domain, Obj::new(2));
        old.scrap();
        worker.join().unwrap();
    });
}

#[test]
fn a_worker_that_passes_quiescent_points_is_waited_for() {
    model(|| {
        let domain = Domain::new(1);
        let old = Obj::new(1);
        let published = Arc::new(Published::new(old.clone()));
        // SAFETY: moves to the worker's thread below before anything else uses it.
        domain.unpark(unsafe { Cpu::assume(0) });
        let (d, p) = (domain.clone(), published.clone());
        let worker = thread::spawn(move || {
            // SAFETY: the only worker 0.
            let cpu = unsafe { Cpu::assume(0) };
            let mut last = 0;
            for _ in 0..2 {
                // SAFETY: awake, and the reads end before the quiescent point.
                let seen = p.read(unsafe { d.assume_section() }).read();
                assert!(seen == 1 || seen == 2);
                assert!(seen >= last, "went back to an older value");
                last = seen;
                // SAFETY: nothing is held.
                unsafe { d.quiesce(cpu) };
            }
            // SAFETY: nothing is held.
            unsafe { d.park(cpu) };
        });
        published.swap(&domain, Obj::new(2));
        old.scrap();
        worker.join().unwrap();
    });
}

#[test]
fn a_registered_reader_is_waited_for() {
    model(|| {
        let domain = Domain::new(1);
        let old = Obj::new(1);
        let published = Arc::new(Published::new(old.clone()));
        let (d, p) = (domain.clone(), published.clone());
        let reader = thread::spawn(move || {
            let reader = d.register();
            let guard = reader.enter();
            let seen = p.read(guard.section()).read();
            assert!(seen == 1 || seen == 2);
        });
        published.swap(&domain, Obj::new(2));
        old.scrap();
        reader.join().unwrap();
    });
}

#[test]
fn two_writers_each_wait_for_the_reader() {
    model(|| {
        let domain = Domain::new(1);
        let first = Obj::new(1);
        let published = Arc::new(Published::new(first.clone()));
        let (d, p) = (domain.clone(), published.clone());
        let writer = thread::spawn(move || {
            p.swap(&d, Obj::new(2));
        });
        // SAFETY: the only worker 0.
        let cpu = unsafe { Cpu::assume(0) };
        domain.unpark(cpu);
        // SAFETY: awake, and the reads end before the quiescent point.
        let seen = published.read(unsafe { domain.assume_section() }).read();
        assert!(seen == 1 || seen == 2);
        // SAFETY: nothing is held.
        unsafe { domain.park(cpu) };
        published.swap(&domain, Obj::new(3));
        writer.join().unwrap();
        first.scrap();
    });
}
