#![cfg(not(loom))]
use super::*;

fn cpu(i: u32) -> Cpu {
    // SAFETY: each test uses a token of an index on one thread only.
    unsafe { Cpu::assume(i) }
}

#[test]
fn packets_come_out_in_order_and_a_full_ring_refuses() {
    let q = PktQueue::new("q", &Domain::new(2), 4);
    let mut out = [0; 8];
    for lap in 0..10u32 {
        assert_eq!(q.enqueue(Some(cpu(0)), 1, &[lap, lap + 1, lap + 2]), 3);
        assert_eq!(q.enqueue(None, 1, &[lap + 3, 99]), 1);
        assert_eq!(q.enqueue(None, 1, &[99]), 0);
        assert!(q.has_work(cpu(1)) && !q.has_work(cpu(0)));
        assert_eq!(q.drain(cpu(1), &mut out[..3]), 3);
        assert_eq!(out[..3], [lap, lap + 1, lap + 2]);
        assert_eq!((q.drain(cpu(1), &mut out), out[0]), (1, lap + 3));
    }
    let s = q.stats();
    assert_eq!(s, PktQueueStats { len: 0, max_len: 4, enqueued: 40, dropped: 20, dequeued: 40 });
}

#[test]
fn tickets_survive_the_wrap_of_their_32_bits() {
    let ring = Ring::new(4, ptr::null_mut());
    ring.start_at((1 << 32) - 6);
    let mut out = [0; 4];
    for lap in 0..8 {
        assert_eq!(ring.push(&[lap, lap + 1, lap + 2]), 3);
        assert_eq!((ring.pop(&mut out).cells, out[0], out[2]), (3, lap, lap + 2));
        assert_eq!(ring.pop(&mut out).cells, 0);
    }
}

#[test]
fn a_barrier_waits_for_the_round_after_the_packets() {
    let q = Arc::new(PktQueue::new("q", &Domain::new(1), 8));
    q.enqueue(None, 0, &[1, 2]);
    let q2 = q.clone();
    let waiter = std::thread::spawn(move || q2.barrier());
    while q.stats().len < 3 {
        std::thread::yield_now();
    }
    let mut out = [0; 8];
    assert_eq!(q.drain(cpu(0), &mut out), 2);
    assert_eq!(q.lanes[0].markers.load(Ordering::Acquire), 0, "they are taken, not done with");
    // The marker's slot may be claimed and not filled yet: a worker comes back again and again.
    while !waiter.is_finished() {
        assert_eq!(q.drain(cpu(0), &mut out), 0);
        std::thread::yield_now();
    }
    assert!(waiter.join().unwrap());
    q.close();
    assert!(!q.barrier());
}

#[test]
fn a_resize_keeps_what_is_queued() {
    let q = Arc::new(PktQueue::new("q", &Domain::new(1), 4));
    q.enqueue(None, 0, &[0, 1, 2]);
    let q2 = q.clone();
    let resizer = std::thread::spawn(move || q2.resize(64));
    let (mut got, mut next, mut out) = (vec![], 3, [0; 2]);
    while got.len() < 40 || !resizer.is_finished() {
        next += q.enqueue(None, 0, &[next]) as u32;
        let n = q.drain(cpu(0), &mut out);
        got.extend_from_slice(&out[..n]);
    }
    assert!(resizer.join().unwrap());
    assert_eq!(got, (0..got.len() as u32).collect::<Vec<_>>());
    assert_eq!(q.stats().max_len, 64);
}

#[test]
fn what_is_left_can_be_taken() {
    let mut q = PktQueue::new("q", &Domain::new(2), 4);
    q.enqueue(None, 0, &[1, 2]);
    q.enqueue(None, 1, &[3]);
    q.close();
    assert!(!q.resize(8), "nobody drains");
    q.enqueue(None, 0, &[4]);
    assert_eq!(q.take_rest(), [1, 2, 4, 3]);
}
