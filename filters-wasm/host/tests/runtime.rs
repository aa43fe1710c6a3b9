//! Filters on hooks of a running runtime: workers of its own threads, its pool, its quiescent points.

use smpnet_abi::{BURST_MAX, Cell, PoolDesc, verdict};
use smpnet_runtime::{
    Dir, HookCx, HookId, Layer as At, PfilHead, Poller, PoolConfig, Runtime, RuntimeConfig, WorkerCx,
};
use smpnet_wasm::{Action, Attach, AttachPoint, Filter, FilterManager, FilterSpec, GeneratedEngine, Source};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A runtime with one hook.
struct Router {
    runtime: Arc<Runtime>,
    head: Arc<PfilHead>,
    ids: Mutex<Vec<HookId>>,
}

impl Attach for Router {
    fn pool(&self) -> PoolDesc {
        *self.runtime.pool().desc()
    }

    fn workers(&self) -> usize {
        self.runtime.workers()
    }

    fn warm_up(&self) {
        for worker in 0..self.runtime.workers() {
            self.runtime.run_on(worker, Box::new(|_| GeneratedEngine::warm_up_thread()));
        }
    }

    fn synchronize(&self) {
        self.runtime.domain().perform();
    }

    fn attach(&self, at: &AttachPoint, filter: Arc<Filter>) -> Result<u64, String> {
        let id = self.head.add(at.priority, filter);
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        ids.push(id);
        Ok(ids.len() as u64 - 1)
    }

    fn detach(&self, handle: u64) {
        let id = self.ids.lock().unwrap_or_else(PoisonError::into_inner)[handle as usize];
        self.head.remove(id);
    }
}

/// Has the hook judge the same burst at every turn.
struct Judge {
    head: Arc<PfilHead>,
    cells: Vec<Cell>,
    even: Vec<u32>,
    odd: Vec<u32>,
    run: Arc<AtomicBool>,
    packets: Arc<AtomicU64>,
}

impl Poller for Judge {
    fn poll(&mut self, cx: &mut WorkerCx<'_>) -> u32 {
        if !self.run.load(SeqCst) {
            return 0;
        }
        let mut verdicts = vec![verdict::PASS; self.cells.len()];
        let hook = HookCx {
            cpu: cx.cpu,
            pool: cx.pool,
            section: cx.section(),
            dir: Dir::In,
            ifindex: 1,
            layer: At::Inet,
            now_ns: cx.now_ns,
        };
        self.head.run(&hook, &self.cells, &mut verdicts);
        assert!(verdicts == self.even || verdicts == self.odd, "two generations in one burst: {verdicts:?}");
        let n = self.cells.len() as u64;
        self.packets.fetch_add(n, SeqCst);
        n as u32
    }

    fn arm(&mut self) -> bool {
        self.run.load(SeqCst)
    }
}

/// An IPv4 packet with a UDP header.
fn udp(port: u16) -> Vec<u8> {
    let mut p = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0, 9];
    p.extend_from_slice(&port.to_be_bytes());
    p.extend_from_slice(&[0, 8, 0, 0]);
    p
}

#[test]
fn swaps_on_a_running_runtime_judge_every_packet_once() {
    let pool = PoolConfig { cells: 4096, ..PoolConfig::default() };
    let runtime = Runtime::start(RuntimeConfig { cpus: vec![None, None], pool, ..RuntimeConfig::default() }).unwrap();
    let head = Arc::new(PfilHead::new(runtime.domain()));
    let router = Arc::new(Router { runtime: runtime.clone(), head: head.clone(), ids: Mutex::default() });
    let run = Arc::new(AtomicBool::new(true));
    let packets = Arc::new(AtomicU64::new(0));

    let mut all = Vec::new();
    let mut pollers = Vec::new();
    let manager = FilterManager::new(router).unwrap();
    let drop_port = |n: u64| Source::Expr(format!("udp dst port {}", 5000 + n % 2));
    manager.load(FilterSpec::new("f", drop_port(0), Action::Drop)).unwrap();
    for worker in 0..2 {
        let mut cells = vec![0; BURST_MAX as usize];
        assert_eq!(runtime.pool().alloc_shared(&mut cells), cells.len());
        let even: Vec<u32> = (0..BURST_MAX).map(|i| if i % 2 == 0 { verdict::DROP } else { verdict::PASS }).collect();
        let odd = even.iter().map(|v| verdict::DROP - v).collect();
        for (i, &cell) in cells.iter().enumerate() {
            let mut packet = runtime.pool().packet(cell);
            assert!(packet.set_data(&udp(5000 + (i % 2) as u16)));
            packet.hdr_mut().l3_off = packet.hdr().data_off;
        }
        all.extend_from_slice(&cells);
        let judge = Judge { head: head.clone(), cells, even, odd, run: run.clone(), packets: packets.clone() };
        pollers.push(runtime.add_poller(worker, Box::new(judge)));
    }

    let mut swaps = Vec::new();
    for n in 1..=200 {
        let began = Instant::now();
        let report = manager.swap("f", drop_port(n), None).unwrap();
        swaps.push((began.elapsed(), report));
    }
    // Workers fall asleep, a swap does not wait for them, and they wake up to the new generation.
    run.store(false, SeqCst);
    std::thread::sleep(Duration::from_millis(200));
    let before = packets.load(SeqCst);
    let report = manager.swap("f", drop_port(1), None).unwrap();
    assert!(report.adopt_us < 1e6, "{report:?}");
    run.store(true, SeqCst);
    (0..2).for_each(|w| runtime.wake(w));
    let began = Instant::now();
    while packets.load(SeqCst) == before || manager.show("f").unwrap().adopted != [202, 202] {
        assert!(began.elapsed().as_secs() < 10);
        std::thread::sleep(Duration::from_millis(1));
    }
    run.store(false, SeqCst);
    pollers.into_iter().for_each(|p| drop(runtime.remove_poller(p)));

    let stats = manager.stats("f").unwrap();
    let packets = packets.load(SeqCst);
    assert_eq!(stats.total.packets, packets);
    let generations: u64 = stats.generations.iter().map(|g| g.counts.packets).sum();
    assert_eq!(generations + stats.older.packets, packets);
    assert_eq!((stats.total.passed, stats.total.dropped), (packets / 2, packets / 2));
    assert_eq!((stats.total.faults, stats.total.fault_packets), (0, 0));

    let median = |f: &dyn Fn(&(Duration, smpnet_wasm::SwapReport)) -> f64| {
        let mut all: Vec<f64> = swaps.iter().map(f).collect();
        all.sort_by(f64::total_cmp);
        (all[all.len() / 2], all[all.len() - 1])
    };
    println!(
        "us, median and worst of 200 swaps: whole {:?}, compile {:?}, instantiate {:?}, adopt {:?}; {:?} ns a packet",
        median(&|s| s.0.as_secs_f64() * 1e6),
        median(&|s| s.1.compile_us),
        median(&|s| s.1.instantiate_us),
        median(&|s| s.1.adopt_us),
        stats.ns_per_packet
    );
    drop(manager);
    assert!(head.is_empty());
    runtime.pool().free_shared(&all);
    runtime.stop();
}
