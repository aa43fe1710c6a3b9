//! loom explores pktqueue: every packet accepted comes out once, whole and in its producer's order; through full rings,
//! barriers and a resize.
#![cfg(loom)]

use loom::{
    cell::UnsafeCell,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};
use smpnet_runtime::{Cpu, Domain, PktQueue};

/// The memory of a few packets. loom fails the test when accesses to one are not ordered.
struct Memory([UnsafeCell<u32>; 4]);
// SAFETY: loom checks each access.
unsafe impl Sync for Memory {}

impl Memory {
    fn new() -> Arc<Self> {
        Arc::new(Memory(std::array::from_fn(|_| UnsafeCell::new(0))))
    }

    fn fill(&self, cell: u32) {
        // SAFETY: loom checks that no access is concurrent.
        self.0[cell as usize].with_mut(|p| unsafe { *p = cell + 100 });
    }

    fn check(&self, cell: u32) {
        // SAFETY: loom checks that no write is concurrent.
        assert_eq!(self.0[cell as usize].with(|p| unsafe { *p }), cell + 100);
    }
}

fn model(preemptions: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut b = loom::model::Builder::new();
    b.preemption_bound = Some(preemptions);
    b.max_branches = 10_000;
    b.check(f);
}

/// Drains as worker 0 until `n` packets came.
fn receive(queue: &PktQueue, memory: &Memory, n: usize) -> Vec<u32> {
    // SAFETY: the only worker 0.
    let cpu = unsafe { Cpu::assume(0) };
    let mut got = Vec::new();
    while got.len() < n {
        let mut cells = [0; 4];
        let n = queue.drain(cpu, &mut cells);
        for &c in &cells[..n] {
            memory.check(c);
            got.push(c);
        }
        if n == 0 {
            thread::yield_now();
        }
    }
    got
}

#[test]
fn two_producers_share_a_ring() {
    model(3, || {
        let queue = Arc::new(PktQueue::new("q", &Domain::new(1), 4));
        let memory = Memory::new();
        let (q, m) = (queue.clone(), memory.clone());
        let producer = thread::spawn(move || {
            m.fill(0);
            m.fill(1);
            assert_eq!(q.enqueue(None, 0, &[0, 1]), 2);
        });
        let (q, m) = (queue.clone(), memory.clone());
        let consumer = thread::spawn(move || receive(&q, &m, 3));
        memory.fill(2);
        assert_eq!(queue.enqueue(None, 0, &[2]), 1);
        let got = consumer.join().unwrap();
        producer.join().unwrap();
        let of_first: Vec<u32> = got.iter().copied().filter(|c| *c < 2).collect();
        assert_eq!(of_first, [0, 1]);
        assert!(got.contains(&2));
    });
}

#[test]
fn workers_fill_a_ring_without_a_lock() {
    model(3, || {
        let domain = Domain::new(3);
        let queue = Arc::new(PktQueue::new("q", &domain, 2));
        let memory = Memory::new();
        let producers: Vec<_> = (1..3u32)
            .map(|w| {
                let (q, m) = (queue.clone(), memory.clone());
                thread::spawn(move || {
                    // SAFETY: the only worker of this index; no resize runs, so nobody waits for it.
                    let cpu = unsafe { Cpu::assume(w) };
                    m.fill(w);
                    q.enqueue(Some(cpu), 0, &[w])
                })
            })
            .collect();
        let got = receive(&queue, &memory, 2);
        assert_eq!(got.iter().sum::<u32>(), 3);
        let accepted: usize = producers.into_iter().map(|p| p.join().unwrap()).sum();
        assert_eq!(accepted, 2, "a ring of two has room for two");
        let s = queue.stats();
        assert_eq!((s.enqueued, s.dequeued, s.dropped, s.len), (2, 2, 0, 0));
    });
}

#[test]
fn a_slot_is_written_again_only_after_it_was_read() {
    model(3, || {
        let queue = Arc::new(PktQueue::new("q", &Domain::new(1), 2));
        let memory = Memory::new();
        let (q, m) = (queue.clone(), memory.clone());
        let producer = thread::spawn(move || {
            for c in 0..3 {
                m.fill(c);
                while q.enqueue(None, 0, &[c]) == 0 {
                    thread::yield_now();
                }
            }
        });
        assert_eq!(receive(&queue, &memory, 3), [0, 1, 2]);
        producer.join().unwrap();
    });
}

#[test]
fn a_barrier_returns_when_what_was_before_it_is_done() {
    model(2, || {
        let queue = Arc::new(PktQueue::new("q", &Domain::new(1), 4));
        let memory = Memory::new();
        memory.fill(0);
        assert_eq!(queue.enqueue(None, 0, &[0]), 1);
        let (q, m) = (queue.clone(), memory.clone());
        let worker = thread::spawn(move || {
            // SAFETY: the only worker 0.
            let cpu = unsafe { Cpu::assume(0) };
            while q.has_work(cpu) {
                let mut cells = [0; 4];
                if q.drain(cpu, &mut cells) == 1 {
                    // Worked on after `drain` returned.
                    m.check(cells[0]);
                }
                thread::yield_now();
            }
            q.close();
        });
        if queue.barrier() {
            // SAFETY: the barrier says that the worker is done with it.
            memory.0[0].with_mut(|p| unsafe { *p = 0 });
        }
        worker.join().unwrap();
    });
}

/// Goes on as worker 0, draining, until a resize is over and `n` packets came. `send` runs in each round.
fn work_through_resize(
    domain: &Domain,
    queue: &PktQueue,
    memory: &Memory,
    resized: &AtomicBool,
    n: usize,
    mut send: impl FnMut(Cpu),
) -> Vec<u32> {
    // SAFETY: the only worker 0.
    let cpu = unsafe { Cpu::assume(0) };
    let mut got = Vec::new();
    loop {
        let over = resized.load(Ordering::Acquire);
        send(cpu);
        let mut cells = [0; 4];
        let drained = queue.drain(cpu, &mut cells);
        for &c in &cells[..drained] {
            memory.check(c);
            got.push(c);
        }
        // SAFETY: nothing is held.
        unsafe { domain.quiesce(cpu) };
        if over && got.len() == n {
            // SAFETY: nothing is held.
            unsafe { domain.park(cpu) };
            return got;
        }
        thread::yield_now();
    }
}

#[test]
fn a_resize_loses_nothing_of_another_thread_and_keeps_its_order() {
    model(1, || {
        let domain = Domain::new(1);
        let queue = Arc::new(PktQueue::new("q", &domain, 2));
        let memory = Memory::new();
        // SAFETY: moves to the worker's thread below before anything else uses it.
        domain.unpark(unsafe { Cpu::assume(0) });
        let resized = Arc::new(AtomicBool::new(false));
        let (q, m) = (queue.clone(), memory.clone());
        let producer = thread::spawn(move || {
            for c in 0..2 {
                m.fill(c);
                assert_eq!(q.enqueue(None, 0, &[c]), 1);
            }
        });
        let (q, r) = (queue.clone(), resized.clone());
        let worker = thread::spawn(move || work_through_resize(&domain, &q, &memory, &r, 2, |_| ()));
        assert!(queue.resize(4));
        resized.store(true, Ordering::Release);
        producer.join().unwrap();
        assert_eq!(worker.join().unwrap(), [0, 1]);
        let s = queue.stats();
        assert_eq!((s.max_len, s.enqueued, s.dequeued), (4, 2, 2));
    });
}

#[test]
fn a_resize_waits_for_a_worker_that_fills_the_old_ring() {
    model(3, || {
        let domain = Domain::new(1);
        let queue = Arc::new(PktQueue::new("q", &domain, 2));
        let memory = Memory::new();
        // SAFETY: moves to the worker's thread below before anything else uses it.
        domain.unpark(unsafe { Cpu::assume(0) });
        let resized = Arc::new(AtomicBool::new(false));
        let (q, r) = (queue.clone(), resized.clone());
        let worker = thread::spawn(move || {
            let mut next = 0;
            work_through_resize(&domain, &q, &memory, &r, 3, |cpu| {
                if next < 3 {
                    memory.fill(next);
                    assert_eq!(q.enqueue(Some(cpu), 0, &[next]), 1);
                    next += 1;
                }
            })
        });
        assert!(queue.resize(4));
        resized.store(true, Ordering::Release);
        assert_eq!(worker.join().unwrap(), [0, 1, 2]);
    });
}
