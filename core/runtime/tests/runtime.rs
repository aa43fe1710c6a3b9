//! The runtime as a whole: workers that start, work, sleep, wake and stop.
#![cfg(not(any(loom, miri)))]

use smpnet_runtime::*;
use std::{
    os::fd::RawFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

fn config(workers: usize) -> RuntimeConfig {
    let pool = PoolConfig { cells: 1024, huge_pages: HugePages::Never, ..PoolConfig::default() };
    RuntimeConfig { cpus: vec![None; workers], pool, ..RuntimeConfig::default() }
}

fn counter(rt: &Runtime, path: &str) -> u64 {
    match rt.sysctl().get(path).expect("a node") {
        Value::UInt(n) => n,
        v => panic!("{path} is {v:?}"),
    }
}

/// Waits until `ok`, for at most ten seconds.
fn eventually(what: &str, ok: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !ok() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn functions_run_on_the_worker_they_are_sent_to() {
    let rt = Runtime::start(config(2)).unwrap();
    for w in [0, 1, 0] {
        assert_eq!(rt.run_on_wait(w, |cx| cx.cpu.index()), Some(w));
    }
    let report = rt.stop();
    assert_eq!(report.cells_in_use, 0);
    assert!(report.drained);
    assert_eq!(rt.run_on_wait(0, |_| ()), None);
}

#[test]
fn an_idle_worker_sleeps_and_a_function_wakes_it() {
    let rt = Runtime::start(config(1)).unwrap();
    eventually("asleep", || counter(&rt, "kern.cpu.0.sleeps") > 0);
    std::thread::sleep(Duration::from_millis(50));
    let rounds = counter(&rt, "kern.cpu.0.rounds");
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(counter(&rt, "kern.cpu.0.rounds"), rounds, "an idle worker goes round");
    for _ in 0..200 {
        assert_eq!(rt.run_on_wait(0, |_| 5), Some(5));
        std::thread::sleep(Duration::from_micros(rounds % 500));
    }
}

#[test]
fn callouts_run_in_order_and_stopped_ones_do_not() {
    let rt = Runtime::start(config(1)).unwrap();
    let (tx, rx) = mpsc::channel();
    let start = now_ns();
    let ms = 1_000_000;
    let send = |n: u64| {
        let tx = tx.clone();
        Box::new(move |cx: &mut WorkerCx<'_>| tx.send((n, cx.now_ns)).unwrap())
    };
    rt.callout(0, 30 * ms, send(30)).unwrap();
    rt.callout(0, 10 * ms, send(10)).unwrap();
    let gone = rt.callout(0, 20 * ms, send(20)).unwrap();
    assert_eq!(rt.callout_stop(gone), Stopped::Cancelled);
    assert_eq!(rt.callout_stop(gone), Stopped::Over);
    let got: Vec<(u64, u64)> = (0..2).map(|_| rx.recv_timeout(Duration::from_secs(5)).unwrap()).collect();
    assert_eq!([got[0].0, got[1].0], [10, 30]);
    for (n, at) in got {
        assert!(at >= start + n * ms, "callout of {n} ms was early");
    }
    rt.callout(0, 3_600_000 * ms, send(0)).unwrap();
    assert_eq!(rt.stop().callouts, 1);
}

struct Pipe {
    fd: RawFd,
    seen: Arc<AtomicU64>,
}

impl Poller for Pipe {
    fn poll(&mut self, _cx: &mut WorkerCx<'_>) -> u32 {
        let mut n = 0u64;
        // SAFETY: reads 8 bytes into `n`; the descriptor does not block.
        let r = unsafe { libc::read(self.fd, (&raw mut n).cast(), 8) };
        if r == 8 {
            self.seen.fetch_add(n, Ordering::Relaxed);
        }
        u32::from(r == 8)
    }

    fn event_fds(&self) -> Vec<RawFd> {
        vec![self.fd]
    }
}

#[test]
fn an_event_wakes_the_worker_of_a_poller_and_a_removed_poller_comes_back() {
    let rt = Runtime::start(config(1)).unwrap();
    // SAFETY: no memory is passed.
    let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK) };
    let seen = Arc::new(AtomicU64::new(0));
    let id = rt.add_poller(0, Box::new(Pipe { fd, seen: seen.clone() }));
    for i in 1..=100u64 {
        // SAFETY: writes 8 bytes.
        unsafe { libc::write(fd, (&raw const *Box::new(1u64)).cast(), 8) };
        eventually("the event is seen", || seen.load(Ordering::Relaxed) == i);
    }
    assert!(counter(&rt, "kern.cpu.0.sleeps") > 0);
    let mut back = rt.remove_poller(id).expect("the poller comes back");
    assert!(back.event_fds() == [fd] && !back.arm());
    assert!(rt.remove_poller(id).is_none());
    // SAFETY: ours.
    unsafe { libc::close(fd) };
}

#[test]
fn no_wake_up_is_lost_between_workers_that_sleep_at_once() {
    // Without any spinning each hand-over meets a worker that is about to sleep, asleep, or just waking.
    let rt = Runtime::start(RuntimeConfig { idle_spin: Duration::ZERO, ..config(2) }).unwrap();
    let queue = Arc::new(PktQueue::new("q", rt.domain(), 64));
    let (tx, rx) = mpsc::channel();
    let q = queue.clone();
    let hops = 6;
    let take = move |cx: &mut WorkerCx<'_>, cells: &[u32]| {
        for &c in cells {
            let hop = cx.pool.packet(c).hdr().mark;
            if hop == hops {
                cx.pool.free(cx.cpu, &[c]);
                tx.send(()).unwrap();
            } else {
                cx.pool.packet(c).hdr_mut().mark = hop + 1;
                assert_eq!(q.enqueue(Some(cx.cpu), 1 - cx.cpu.index(), &[c]), 1);
            }
        }
    };
    rt.add_pktqueue(&queue, Arc::new(take));
    for i in 0..3000u32 {
        let mut c = [0];
        assert_eq!(rt.pool().alloc_shared(&mut c), 1);
        assert_eq!(queue.enqueue(None, 0, &c), 1);
        rx.recv_timeout(Duration::from_secs(10)).expect("a packet was left in a queue of a worker that sleeps");
        (0..i % 400).for_each(|_| std::hint::spin_loop());
    }
    let sleeps: u64 = (0..2).map(|w| counter(&rt, &format!("kern.cpu.{w}.sleeps"))).sum();
    assert!(sleeps > 1000, "they did sleep: {sleeps}");
    rt.remove_pktqueue(&queue);
    assert_eq!(rt.stop().cells_in_use, 0);
}

#[test]
fn softints_run_by_level_on_the_worker_that_asked() {
    let (rt, mut workers) = Runtime::start_manual(config(2)).unwrap();
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let levels = [SoftintLevel::Clock, SoftintLevel::Serial, SoftintLevel::Bio, SoftintLevel::Net];
    let ids = levels.map(|level| {
        let order = order.clone();
        let run = move |cx: &mut WorkerCx<'_>| order.lock().unwrap().push((level, cx.cpu.index()));
        rt.softint_establish(level, "test", Arc::new(run)).unwrap()
    });
    workers[1].with(|cx| ids.iter().chain(&ids).for_each(|id| cx.softint_schedule(*id)));
    assert_eq!((workers[0].round(), workers[1].round()), (0, 4));
    let want = [SoftintLevel::Serial, SoftintLevel::Net, SoftintLevel::Bio, SoftintLevel::Clock].map(|l| (l, 1));
    assert_eq!(std::mem::take(&mut *order.lock().unwrap()), want);
    rt.softint_schedule(0, ids[0]);
    workers[0].rounds(2);
    assert_eq!(std::mem::take(&mut *order.lock().unwrap()), [(SoftintLevel::Clock, 0)]);
    workers[0].with(|cx| cx.softint_schedule(ids[3]));
    rt.softint_disestablish(ids[3]);
    workers[0].round();
    assert!(order.lock().unwrap().is_empty(), "a handler that is gone does not run");
    let runs = rt.sysctl().get("kern.softint.clock").unwrap();
    assert_eq!(runs.to_json(), serde_json::json!({ "test": 2 }));
}

struct Bomb;

impl Poller for Bomb {
    fn poll(&mut self, _cx: &mut WorkerCx<'_>) -> u32 {
        panic!("on purpose")
    }
}

#[test]
fn a_panic_takes_out_its_poller_and_nothing_else() {
    let rt = Runtime::start(config(1)).unwrap();
    let id = rt.add_poller(0, Box::new(Bomb));
    eventually("the panic is caught", || counter(&rt, "kern.cpu.0.panics") == 1);
    assert_eq!(rt.run_on_wait(0, |_| 1), Some(1));
    assert_eq!(rt.run_on_wait(0, |_| -> u32 { panic!("on purpose") }), None);
    rt.callout(0, 0, Box::new(|_| panic!("on purpose"))).unwrap();
    eventually("all are caught", || counter(&rt, "kern.cpu.0.panics") == 3);
    assert_eq!(rt.run_on_wait(0, |_| 2), Some(2));
    assert_eq!(counter(&rt, "kern.cpu.0.pollers"), 0);
    assert!(rt.remove_poller(id).is_some(), "its owner still gets it");
}

#[test]
fn a_halted_callout_is_not_running_any_more() {
    let rt = Runtime::start(config(1)).unwrap();
    let (started, start) = mpsc::channel();
    let over = Arc::new(AtomicU64::new(0));
    let o = over.clone();
    let slow = Box::new(move |_: &mut WorkerCx<'_>| {
        started.send(()).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        o.store(1, Ordering::SeqCst);
    });
    let id = rt.callout(0, 0, slow).unwrap();
    start.recv().unwrap();
    assert_eq!(rt.callout_stop(id), Stopped::Running);
    assert!(!rt.callout_halt(id));
    assert_eq!(over.load(Ordering::SeqCst), 1);
    assert_eq!(rt.callout_stop(CalloutId::from_raw(u64::MAX)), Stopped::Over);
    assert_eq!(rt.callout_stop(CalloutId::from_raw(0)), Stopped::Over);
    assert!(rt.callout(9, 0, Box::new(|_| ())).is_none());
}

#[test]
fn a_stopped_callout_gives_up_what_it_owns_at_once() {
    let rt = Runtime::start(config(1)).unwrap();
    let owned = Arc::new(());
    let o = owned.clone();
    let hour = 3_600_000_000_000;
    let id = rt.callout(0, hour, Box::new(move |_| drop(o))).unwrap();
    assert_eq!(rt.callout_stop(id), Stopped::Cancelled);
    eventually("it is dropped", || Arc::strong_count(&owned) == 1);
    let again = rt.callout(0, hour, Box::new(|_| ())).unwrap();
    assert_ne!(id, again);
    assert_eq!(rt.callout_stop(id), Stopped::Over, "an old id does not stop a new callout");
    assert_eq!(rt.callout_stop(again), Stopped::Cancelled);
}

#[test]
fn stopping_works_off_what_is_queued() {
    let rt = Runtime::start(config(3)).unwrap();
    let queue = Arc::new(PktQueue::new("q", rt.domain(), 512));
    let q = queue.clone();
    // Each packet goes round all workers a few times before it ends.
    let take = move |cx: &mut WorkerCx<'_>, cells: &[u32]| {
        for &c in cells {
            let mut packet = cx.pool.packet(c);
            packet.hdr_mut().mark += 1;
            if packet.hdr().mark == 30 || q.enqueue(Some(cx.cpu), (cx.cpu.index() + 1) % 3, &[c]) == 0 {
                cx.pool.free(cx.cpu, &[c]);
            }
        }
    };
    rt.add_pktqueue(&queue, Arc::new(take));
    let mut cells = [0; 256];
    assert_eq!(rt.pool().alloc_shared(&mut cells), 256);
    assert_eq!(queue.enqueue(None, 0, &cells), 256);
    let report = rt.stop();
    assert_eq!((report.cells_in_use, report.drained), (0, true));
    assert_eq!(queue.stats().len, 0);
    assert!(!queue.barrier(), "a closed queue does not wait");
    assert_eq!(rt.stop().pollers, 0, "a second call finds nothing to do");
}

#[test]
fn the_tree_shows_the_runtime() {
    let rt = Runtime::start(config(2)).unwrap();
    let queue = Arc::new(PktQueue::new("ip.in", rt.domain(), 100));
    rt.add_pktqueue(&queue, Arc::new(|_, _| ()));
    assert_eq!(counter(&rt, "kern.pktqueue.ip_in.maxlen"), 128);
    rt.sysctl().set("kern.pktqueue.ip_in.maxlen", "1000").unwrap();
    assert_eq!(counter(&rt, "kern.pktqueue.ip_in.maxlen"), 1024);
    assert!(rt.sysctl().set("kern.pktqueue.ip_in.maxlen", "1").is_err());
    let work = rt.workqueue("slow", 1, 4).unwrap();
    work.enqueue(|| ()).unwrap();
    work.drain();
    assert_eq!(counter(&rt, "kern.workqueue.slow.done"), 1);
    assert_eq!(counter(&rt, "hw.ncpuonline"), 2);
    assert_eq!(counter(&rt, "kern.pool.cells"), 1024);
    assert_eq!(counter(&rt, "kern.pool.in_use"), 0);
    for (name, _, doc) in rt.sysctl().walk("") {
        assert!(!doc.is_empty(), "{name} has no line");
    }
    rt.remove_pktqueue(&queue);
    assert_eq!(rt.sysctl().walk("kern.pktqueue"), []);
    assert_eq!(Arc::strong_count(&queue), 1, "nothing else holds the queue");
}

#[test]
fn a_worker_that_cannot_be_bound_is_an_error() {
    let err = |cpus| Runtime::start(RuntimeConfig { cpus, ..config(1) }).err().map(|e| e.to_string());
    assert_eq!(err(vec![]).unwrap(), "0 workers: must be 1 to 64");
    let e = err(vec![None, Some(1023)]).unwrap();
    assert!(e.starts_with("cannot bind worker 1 to CPU 1023"), "{e}");
    assert!(err(vec![Some(100_000)]).unwrap().contains("CPU 100000"));
    assert_eq!(err(vec![Some(0)]), None);
}
