//! What plugins get from us: every service does what the ABI says, and a plugin that calls it wrongly is counted and
//! harms nothing.

// clippy.toml allows it in test functions; here are their helpers too.
#![allow(clippy::unwrap_used)]

use smpnet::host;
use smpnet_abi::{CounterDesc, DropReason, EncapKey, HostServices, IfInfo, LinkState, Text, WORKER_NONE, log_level};
use smpnet_runtime::{HugePages, ManualWorker, PoolConfig, Runtime, RuntimeConfig};
use smpnet_stack::Stack;
use std::ffi::c_void;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

struct Router {
    runtime: Arc<Runtime>,
    stack: Arc<Stack>,
    host: &'static HostServices,
    worker: ManualWorker,
    // One table of services in a process: the routers of the tests come one after the other.
    _alone: MutexGuard<'static, ()>,
}

fn router() -> Router {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let pool = PoolConfig { cells: 1024, huge_pages: HugePages::Never, ..PoolConfig::default() };
    let (runtime, mut workers) = Runtime::start_manual(RuntimeConfig { pool, ..Default::default() }).unwrap();
    let stack = Stack::new_manual(runtime.clone()).unwrap();
    let host = host::install(runtime.clone(), stack.clone());
    Router { worker: workers.remove(0), runtime, stack, host, _alone: alone }
}

impl Router {
    fn sysctl(&self, path: &str) -> u64 {
        self.runtime.sysctl().get(path).unwrap().to_string().parse().unwrap()
    }

    /// How much `f` adds to a counter of misuse.
    fn misuse(&mut self, what: &str, f: impl FnOnce(&mut Router)) -> u64 {
        let path = format!("kern.plugin.misuse.{what}");
        let before = self.sysctl(&path);
        f(self);
        self.sysctl(&path) - before
    }

    fn in_use(&self) -> u64 {
        1024 - self.runtime.pool().available()
    }
}

#[test]
fn packets_are_given_and_taken_back_on_workers_and_other_threads() {
    let mut r = router();
    let host = r.host;
    assert_eq!((host.workers, host.abi_major), (1, 1));
    let mut cells = [0; 8];
    // SAFETY: room for eight.
    assert_eq!(unsafe { (host.pkt_alloc)(WORKER_NONE, cells.as_mut_ptr(), 8) }, 8);
    assert_eq!(r.in_use(), 8);
    let header = *r.runtime.pool().packet(cells[0]).hdr();
    assert_eq!((header.nsegs, header.pkt_len, u32::from(header.data_off)), (1, 0, r.runtime.pool().desc().data_off));
    // SAFETY: eight packets that are ours.
    unsafe { (host.pkt_free)(WORKER_NONE, cells.as_ptr(), 8) };
    r.worker.with(|_| {
        let mut cells = [0; 4];
        // SAFETY: as above, on worker 0.
        unsafe {
            assert_eq!((host.pkt_alloc)(0, cells.as_mut_ptr(), 4), 4);
            (host.pkt_free)(0, cells.as_ptr(), 4);
        }
    });
    assert_eq!(r.in_use(), 0);
}

#[test]
fn a_drop_is_counted_by_its_reason() {
    let mut r = router();
    let host = r.host;
    r.worker.with(|_| {
        let mut cells = [0; 3];
        // SAFETY: room for three, which are ours.
        unsafe {
            (host.pkt_alloc)(0, cells.as_mut_ptr(), 3);
            (host.pkt_drop)(0, 0, DropReason::EncapBad as u32, cells.as_ptr(), 3);
        }
    });
    let drops = r.stack.drops();
    assert!(drops.iter().any(|d| d.reason == DropReason::EncapBad && d.packets == 3), "{drops:?}");
    assert_eq!((r.in_use(), r.stack.accounting().missing()), (0, 0));
}

#[test]
fn a_thread_that_is_no_worker_cannot_hand_packets_in() {
    let mut r = router();
    let calls = r.misuse("worker", |r| {
        let host = r.host;
        let mut cells = [0; 3];
        // SAFETY: room for three, which are ours and handed in once each.
        unsafe {
            assert_eq!((host.pkt_alloc)(WORKER_NONE, cells.as_mut_ptr(), 3), 3);
            (host.if_input)(0, 1, &cells[0], 1);
            (host.if_output)(WORKER_NONE, 1, &cells[1], 1);
            (host.ip_output)(77, &cells[2], 1);
        }
    });
    assert_eq!(calls, 3);
    assert_eq!(r.in_use(), 0, "they go back all the same");
}

#[test]
fn null_pointers_and_impossible_numbers_are_refused() {
    let mut r = router();
    let calls = r.misuse("argument", |r| {
        let host = r.host;
        let key = EncapKey { version: 4, protocol: 4, _pad: 0, remote: [0; 16], local: [0; 16] };
        let me = AtomicU64::new(0);
        let base = me.as_ptr().cast_const();
        let bad = CounterDesc {
            size: size_of::<CounterDesc>() as u32,
            stride: 3,
            base,
            owner: Text::new("x"),
            name: Text::new("y"),
        };
        // SAFETY: wrong on purpose, in ways that the host can see.
        unsafe {
            (host.pkt_free)(WORKER_NONE, null(), 3);
            assert_eq!((host.pkt_alloc)(WORKER_NONE, null_mut(), 3), 0);
            assert_eq!((host.encap_attach)(0, &key), -1);
            assert_eq!((host.encap_attach)(1, null()), -1);
            assert_eq!((host.vlan_attach)(1, 1 << 20, 1), -1);
            assert_eq!((host.ether_detach)(1 << 20, 0x8863, 1), -1);
            (host.link_event)(1, null());
            assert_eq!((host.counter)(null()), -1);
            assert_eq!((host.counter)(&bad), -1);
        }
    });
    assert_eq!(calls, 8, "all but the allocation to nowhere");
    // SAFETY: nothing but numbers.
    unsafe {
        assert_eq!((r.host.vlan_attach)(1, 100, 1), -1, "the loopback interface carries no vlans");
        assert_eq!((r.host.callout_stop)(12345), -1);
    }
}

#[test]
fn interfaces_are_found_and_described() {
    let r = router();
    // SAFETY: a text, and a place for the answer that says how large it is.
    unsafe {
        let lo = (r.host.if_lookup)(Text::new("lo0"));
        assert_eq!(lo, 1);
        assert_eq!((r.host.if_lookup)(Text::new("lo1")), 0);
        let mut info: IfInfo = std::mem::zeroed();
        info.size = size_of::<IfInfo>() as u32;
        assert_eq!((r.host.if_info)(lo, &mut info), 0);
        assert_eq!((&info.name[..4], info.ifindex), (b"lo0\0".as_slice(), 1));
        // An older plugin's structure ends earlier, and nothing behind it is written.
        let mut old: IfInfo = std::mem::zeroed();
        old.size = std::mem::offset_of!(IfInfo, mac) as u32;
        assert_eq!((r.host.if_info)(lo, &mut old), 0);
        assert_eq!((old.mtu, old.name, old.size), (info.mtu, [0; 16], std::mem::offset_of!(IfInfo, mac) as u32));
        assert_eq!((r.host.if_info)(77, &mut info), -1);
        (r.host.link_event)(77, &LinkState::default());
        (r.host.fault)(77, Text::new("an interface that is gone"));
        (r.host.log)(log_level::DEBUG, Text::new("test"), Text::new("a line"));
        assert!((r.host.now_ns)() > 0);
    }
}

#[test]
fn callouts_run_once_on_their_worker_or_are_stopped() {
    static RAN: AtomicU32 = AtomicU32::new(0);
    unsafe extern "C" fn run(arg: *mut c_void, worker: u32) {
        RAN.fetch_add(arg.addr() as u32 + worker, Ordering::Relaxed);
    }
    let mut r = router();
    // SAFETY: `run` takes any pointer.
    unsafe {
        assert_eq!((r.host.callout)(9, 0, run, null_mut()), 0, "there is no worker 9");
        assert_ne!((r.host.callout)(0, 1_000_000, run, std::ptr::without_provenance_mut(1)), 0);
        let id = (r.host.callout)(0, 1_000_000, run, std::ptr::without_provenance_mut(100));
        assert_eq!((r.host.callout_stop)(id), 0);
        assert_eq!((r.host.callout_stop)(id), -1, "once");
    }
    let end = Instant::now() + Duration::from_secs(10);
    while RAN.load(Ordering::Relaxed) == 0 && Instant::now() < end {
        r.worker.round();
    }
    std::thread::sleep(Duration::from_millis(3));
    r.worker.rounds(10);
    assert_eq!(RAN.load(Ordering::Relaxed), 1);
}

#[test]
fn work_runs_on_a_control_thread() {
    static DONE: AtomicU32 = AtomicU32::new(0);
    unsafe extern "C" fn work(_arg: *mut c_void) {
        DONE.store(if Runtime::on_worker() { 2 } else { 1 }, Ordering::Release);
    }
    let r = router();
    // SAFETY: `work` takes any pointer.
    assert_eq!(unsafe { (r.host.work)(work, null_mut()) }, 0);
    r.runtime.work().drain();
    assert_eq!(DONE.load(Ordering::Acquire), 1);
}

#[test]
fn counters_and_nodes_stand_in_the_sysctl_tree() {
    static LEVEL: AtomicU64 = AtomicU64::new(3);
    static COUNT: AtomicU64 = AtomicU64::new(41);
    unsafe extern "C" fn get(_arg: *mut c_void) -> u64 {
        LEVEL.load(Ordering::Relaxed)
    }
    unsafe extern "C" fn set(_arg: *mut c_void, value: u64) -> i32 {
        if value > 9 {
            return -1;
        }
        LEVEL.store(value, Ordering::Relaxed);
        0
    }
    let r = router();
    let desc = CounterDesc {
        size: size_of::<CounterDesc>() as u32,
        stride: 64,
        base: COUNT.as_ptr().cast_const(),
        owner: Text::new("toy0"),
        name: Text::new("no_session"),
    };
    let path = || Text::new("hw.toy0.level");
    // SAFETY: statics, and functions that take any pointer.
    unsafe {
        assert_eq!((r.host.counter)(&desc), 0);
        assert_eq!((r.host.counter)(&desc), -1, "the name is taken");
        assert_eq!((r.host.sysctl)(path(), get, Some(set), null_mut()), 0);
        assert_eq!((r.host.sysctl)(path(), get, None, null_mut()), -1);
    }
    assert_eq!(r.sysctl("hw.toy0.no_session"), 41);
    COUNT.store(42, Ordering::Relaxed);
    assert_eq!(r.sysctl("hw.toy0.no_session"), 42);
    let tree = r.runtime.sysctl();
    tree.set("hw.toy0.level", "7").unwrap();
    assert!(tree.set("hw.toy0.level", "10").is_err());
    assert_eq!(r.sysctl("hw.toy0.level"), 7);
    // SAFETY: a text.
    assert_eq!(unsafe { (r.host.sysctl_remove)(path()) }, 0);
    assert!(tree.get("hw.toy0.level").is_err());
}
