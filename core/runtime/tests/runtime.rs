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
    match rt.sysctl().get(path).unwrap() {
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
