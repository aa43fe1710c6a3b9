//! loom explores pslist: readers see whole entries, find their way past removed ones, and hold none that was freed.
#![cfg(loom)]

use loom::{cell::UnsafeCell, sync::Arc, thread};
use smpnet_runtime::{Domain, Pslist};

/// loom fails the test when a read and a write of the cell are not ordered.
struct Obj(UnsafeCell<u32>);
// SAFETY: loom checks each access.
unsafe impl Sync for Obj {}

impl Obj {
    fn new(v: u32) -> Arc<Self> {
        let obj = Obj(UnsafeCell::new(0));
        // Written after it was made, so that publication has something to order.
        // SAFETY: not shared yet.
        obj.0.with_mut(|p| unsafe { *p = v });
        Arc::new(obj)
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

/// What one walk of a reader finds.
fn walk(domain: &Domain, list: &Pslist<Arc<Obj>>) -> Vec<u32> {
    let reader = domain.register();
    let guard = reader.enter();
    list.iter(guard.section()).map(|o| o.read()).collect()
}

#[test]
fn an_entry_is_whole_when_it_is_seen() {
    model(|| {
        let domain = Domain::new(1);
        let list = Arc::new(Pslist::new());
        list.push_front(Obj::new(2));
        let (d, l) = (domain.clone(), list.clone());
        let reader = thread::spawn(move || {
            let seen = walk(&d, &l);
            let possible: [&[u32]; 4] = [&[2], &[1, 2], &[2, 3], &[1, 2, 3]];
            assert!(possible.contains(&&seen[..]), "{seen:?}");
        });
        list.push_front(Obj::new(1));
        list.push_back(Obj::new(3));
        reader.join().unwrap();
    });
}

#[test]
fn a_removed_entry_is_freed_after_its_readers_have_gone() {
    model(|| {
        let domain = Domain::new(1);
        let list = Arc::new(Pslist::new());
        for v in [3, 2, 1] {
            list.push_front(Obj::new(v));
        }
        let (d, l) = (domain.clone(), list.clone());
        let reader = thread::spawn(move || {
            let seen = walk(&d, &l);
            assert!(seen == [1, 2, 3] || seen == [1, 3], "{seen:?}");
        });
        let gone = list.take(&domain, |o| o.read() == 2).expect("it is there");
        gone.scrap();
        reader.join().unwrap();
        assert_eq!(walk(&domain, &list), [1, 3]);
    });
}

#[test]
fn neighbours_removed_by_two_writers_are_both_gone() {
    model(|| {
        let domain = Domain::new(1);
        let list = Arc::new(Pslist::new());
        for v in [3, 2, 1] {
            list.push_front(Obj::new(v));
        }
        let (d, l) = (domain.clone(), list.clone());
        let writer = thread::spawn(move || assert_eq!(l.remove_if(&d, |o| o.read() == 1), 1));
        assert_eq!(list.remove_if(&domain, |o| o.read() == 2), 1);
        writer.join().unwrap();
        assert_eq!(walk(&domain, &list), [3]);
        assert_eq!(list.len(), 1);
    });
}
