//! loom explores the ring of bytes: records come out whole and in order, none is stamped before the horizon that its
//! ring promised, and a sleeping reader is woken.
#![cfg(loom)]

use loom::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};
use smpnet_runtime::{Doorbell, RingReader, RingWriter, byte_ring};

const RECORD: usize = 40;

fn model(f: impl Fn() + Sync + Send + 'static) {
    let mut b = loom::model::Builder::new();
    b.preemption_bound = Some(3);
    b.max_branches = 20_000;
    b.check(f);
}

/// A record of 40 bytes that begins with its stamp; two of them do not fit.
fn write(w: &mut RingWriter, clock: &AtomicU64) -> bool {
    // A clock that never goes back on any CPU.
    let stamp = w.enter(|| clock.fetch_add(1, Ordering::SeqCst));
    let room = w.room(RECORD);
    if room {
        w.put(&stamp.to_ne_bytes());
        w.put(&[stamp as u8; RECORD - 8]);
    }
    w.leave();
    room
}

fn read(r: &mut RingReader) -> Option<u64> {
    if r.available() == 0 {
        return None;
    }
    let mut record = [0; RECORD];
    r.peek(0, &mut record);
    r.take(RECORD);
    let stamp = u64::from_ne_bytes(record[..8].try_into().unwrap());
    assert!(record[8..].iter().all(|b| *b == stamp as u8), "a record is torn");
    Some(stamp)
}

#[test]
fn records_are_whole_and_in_order_and_a_full_ring_loses_only_the_new() {
    model(|| {
        let (mut w, mut r) = byte_ring(64);
        let clock = Arc::new(AtomicU64::new(1));
        let c = clock.clone();
        let writer = thread::spawn(move || (0..2).filter(|_| write(&mut w, &c)).count());
        let mut got = Vec::new();
        got.extend(read(&mut r));
        got.extend(read(&mut r));
        let written = writer.join().unwrap();
        got.extend(read(&mut r));
        got.extend(read(&mut r));
        assert_eq!(got.len(), written);
        assert!(written >= 1 && got.is_sorted());
    });
}

#[test]
fn nothing_comes_later_with_a_stamp_before_the_horizon() {
    model(|| {
        let (mut w, mut r) = byte_ring(128);
        let clock = Arc::new(AtomicU64::new(1));
        let c = clock.clone();
        let writer = thread::spawn(move || {
            write(&mut w, &c);
            write(&mut w, &c);
        });
        let horizon = r.horizon(clock.fetch_add(1, Ordering::SeqCst));
        while read(&mut r).is_some() {}
        writer.join().unwrap();
        while let Some(stamp) = read(&mut r) {
            assert!(stamp >= horizon, "{stamp} came after the horizon {horizon}");
        }
    });
}

#[test]
fn a_reader_that_sleeps_is_woken() {
    model(|| {
        let (mut w, r) = byte_ring(64);
        let bell = Arc::new(Doorbell::default());
        let rung = Arc::new(AtomicBool::new(false));
        let clock = AtomicU64::new(1);
        let (b, g) = (bell.clone(), rung.clone());
        let writer = thread::spawn(move || {
            write(&mut w, &clock);
            if b.must_ring() {
                g.store(true, Ordering::SeqCst);
            }
        });
        bell.arm();
        let seen = r.available() > 0;
        writer.join().unwrap();
        assert!(seen || rung.load(Ordering::SeqCst), "the reader sleeps over a record");
    });
}
