//! A stand-in for the router: hooks, workers and their quiescent points, for the tests of this crate.

use crate::testpool::TestPool;
use crate::{Asked, Attach, AttachPoint, Filter, Layer};
use smpnet_abi::{Cell, PoolDesc, verdict};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, RwLock};

#[derive(Default)]
struct Worker {
    bursts: AtomicU64,
    parked: AtomicBool,
    judging: AtomicBool,
}

/// A worker that asks about packets that come in through interface 1, at the time of the call.
pub fn asked(layer: Layer, worker: usize) -> Asked {
    let layer = match layer {
        Layer::Ether => smpnet_filter_abi::layer::ETHER,
        Layer::Inet => smpnet_filter_abi::layer::INET,
    };
    Asked { worker, out: false, ifindex: 1, layer, now_ns: smpnet_runtime::now_ns() }
}

type Hooks = Vec<(u64, AttachPoint, Arc<Filter>)>;

/// Workers start parked.
pub struct TestRouter {
    pub pool: TestPool,
    workers: Vec<Worker>,
    hooks: RwLock<Hooks>,
    next: AtomicU64,
    /// The next attachment is refused with this reason.
    pub refuse: Mutex<Option<String>>,
}

impl TestRouter {
    pub fn new(cells: u32, workers: usize) -> Arc<TestRouter> {
        let workers: Vec<_> = (0..workers).map(|_| Worker::default()).collect();
        workers.iter().for_each(|w| w.parked.store(true, SeqCst));
        Arc::new(TestRouter {
            pool: TestPool::new(cells),
            workers,
            hooks: RwLock::default(),
            next: AtomicU64::new(1),
            refuse: Mutex::default(),
        })
    }

    /// [`burst_at`](Self::burst_at) the inet hooks.
    pub fn burst(&self, worker: usize, cells: &[Cell]) -> Vec<u32> {
        self.burst_at(Layer::Inet, worker, cells)
    }

    /// Worker `worker` has the filters of a layer judge a burst, in order of priority, and passes a quiescent point. Tests
    /// give each index to one thread at a time.
    pub fn burst_at(&self, layer: Layer, worker: usize, cells: &[Cell]) -> Vec<u32> {
        let mut verdicts = vec![verdict::PASS; cells.len()];
        self.workers[worker].judging.store(true, SeqCst);
        {
            let hooks = self.hooks.read().unwrap();
            for (_, _, filter) in hooks.iter().filter(|(_, at, _)| at.layer == layer) {
                // SAFETY: tests use an index from one thread at a time, and cells from one worker.
                unsafe { filter.judge(&asked(layer, worker), cells, &mut verdicts) };
            }
        }
        self.workers[worker].bursts.fetch_add(1, SeqCst);
        self.workers[worker].judging.store(false, SeqCst);
        verdicts
    }

    /// Marks a worker as asleep or awake.
    pub fn park(&self, worker: usize, parked: bool) {
        self.workers[worker].parked.store(parked, SeqCst);
    }

    pub fn hooks(&self) -> usize {
        self.hooks.read().unwrap().len()
    }
}

impl Attach for TestRouter {
    fn pool(&self) -> PoolDesc {
        self.pool.desc
    }

    fn workers(&self) -> usize {
        self.workers.len()
    }

    fn warm_up(&self) {}

    fn synchronize(&self) {
        for w in &self.workers {
            let before = w.bursts.load(SeqCst);
            let idle = || w.parked.load(SeqCst) && !w.judging.load(SeqCst);
            while !idle() && w.bursts.load(SeqCst) == before {
                std::thread::yield_now();
            }
        }
    }

    fn attach(&self, at: &AttachPoint, filter: Arc<Filter>) -> Result<u64, String> {
        if let Some(reason) = self.refuse.lock().unwrap().take() {
            return Err(reason);
        }
        let handle = self.next.fetch_add(1, SeqCst);
        let mut hooks = self.hooks.write().unwrap();
        hooks.push((handle, *at, filter));
        hooks.sort_by_key(|(handle, at, _)| (at.priority, *handle));
        Ok(handle)
    }

    fn detach(&self, handle: u64) {
        self.hooks.write().unwrap().retain(|(h, _, _)| *h != handle);
    }
}

/// An IPv4 packet with an 8-byte UDP header and `payload` bytes behind it.
pub fn udp(port: u16, payload: usize) -> Vec<u8> {
    let total = (28 + payload) as u16;
    let mut p = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    p[2..4].copy_from_slice(&total.to_be_bytes());
    p.extend_from_slice(&9u16.to_be_bytes());
    p.extend_from_slice(&port.to_be_bytes());
    p.extend_from_slice(&(8 + payload as u16).to_be_bytes());
    p.extend_from_slice(&[0, 0]);
    p.resize(28 + payload, 0xaa);
    p
}

/// The same as an Ethernet frame.
pub fn udp_frame(port: u16, payload: usize) -> Vec<u8> {
    let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    f.extend(udp(port, payload));
    f
}
