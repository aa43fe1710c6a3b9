//! Readers, writers and hot unregistration all at once, for two seconds; everything that went in has to come out.
#![cfg(not(any(loom, miri)))]

use smpnet_abi::{Cell, verdict};
use smpnet_runtime::*;
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

const RUN: Duration = Duration::from_secs(2);
const ALIVE: u64 = 0x600d_600d_600d_600d;

/// Things made and things dropped.
#[derive(Default)]
struct Census {
    made: AtomicU64,
    dropped: AtomicU64,
}

/// A thing that knows whether it lives.
struct Thing {
    key: u32,
    mark: AtomicU64,
    census: Arc<Census>,
}

impl Thing {
    fn new(key: u32, census: &Arc<Census>) -> Self {
        census.made.fetch_add(1, Relaxed);
        Thing { key, mark: AtomicU64::new(ALIVE), census: census.clone() }
    }

    fn check(&self) {
        assert_eq!(self.mark.load(Relaxed), ALIVE, "a dead thing was reached");
    }
}

impl Drop for Thing {
    fn drop(&mut self) {
        assert_eq!(self.mark.swap(0, Relaxed), ALIVE, "dropped twice");
        self.census.dropped.fetch_add(1, Relaxed);
    }
}

/// What readers read and writers change.
struct World {
    census: Arc<Census>,
    config: Published<Thing>,
    list: Pslist<PsrefTarget<Thing>>,
    table: PsHash<u32, Thing>,
    head: PfilHead,
    queue: Arc<PktQueue>,
    /// Packets made, and packets that came to their end.
    sent: Counters,
    received: Counters,
    reads: Counters,
}

/// A hook that may only be called while it is attached.
struct Hook {
    thing: Thing,
    attached: AtomicBool,
}

impl PfilHook for Hook {
    fn name(&self) -> &str {
        "hook"
    }

    fn filter(&self, _cx: &HookCx<'_>, _cells: &[Cell], verdicts: &mut [u32]) -> bool {
        self.thing.check();
        assert!(self.attached.load(Relaxed), "called after its removal");
        verdicts[0] = verdict::PASS;
        false
    }
}

/// A port: makes packets, looks at everything, hands packets to the next worker, and holds references over rounds.
struct Port {
    world: Arc<World>,
    thing: Thing,
    held: VecDeque<Psref<Thing>>,
    key: u32,
}

// SAFETY: the references are taken and given back between being added to a worker and `flush`, which runs there.
unsafe impl Send for Port {}

impl Poller for Port {
    fn poll(&mut self, cx: &mut WorkerCx<'_>) -> u32 {
        self.thing.check();
        let (cpu, w) = (cx.cpu, &self.world);
        let mut cells = [0; 16];
        let n = cx.pool.alloc(cpu, &mut cells);
        w.sent.add(cpu, 0, n as u64);
        let mut verdicts = [verdict::PASS; 16];
        let section = cx.section();
        let hook_cx =
            HookCx { cpu, pool: cx.pool, section, dir: Dir::In, ifindex: 1, layer: Layer::Inet, now_ns: cx.now_ns };
        if n > 0 {
            w.head.run(&hook_cx, &cells[..n], &mut verdicts[..n]);
        }
        w.config.read(section).check();
        for (i, target) in w.list.iter(section).enumerate() {
            target.get().check();
            if i % 5 == 0 {
                self.held.extend(target.acquire(cpu));
            }
        }
        self.key = (self.key + 1) % 64;
        if let Some(thing) = w.table.get(section, &self.key) {
            thing.check();
            assert_eq!(thing.key, self.key);
        }
        w.reads.add(cpu, 0, 1);
        while self.held.len() > 8 {
            self.held.pop_front().expect("not empty").check();
        }
        let to = (cpu.index() + 1) % cx.workers();
        let taken = w.queue.enqueue(Some(cpu), to, &cells[..n]);
        cx.pool.free(cpu, &cells[taken..n]);
        w.received.add(cpu, 0, (n - taken) as u64);
        // At times nothing to do, so that workers sleep too.
        u32::from(!self.key.is_multiple_of(16))
    }

    fn always_poll(&self) -> bool {
        true
    }
}

/// Takes a port off its worker and gives its references back there.
fn unplug(rt: &Arc<Runtime>, id: PollerId) {
    let port = rt.remove_poller(id).expect("the port comes back");
    rt.run_on_wait(id.worker(), move |_| drop(port)).expect("the worker runs");
}

fn config() -> RuntimeConfig {
    let pool = PoolConfig { cells: 4096, huge_pages: HugePages::Never, ..PoolConfig::default() };
    RuntimeConfig { cpus: vec![None; 3], pool, idle_spin: Duration::from_micros(20), ..RuntimeConfig::default() }
}

#[test]
fn everything_that_goes_in_comes_out() {
    let census = Arc::new(Census::default());
    let rt = Runtime::start(config()).unwrap();
    let domain = rt.domain().clone();
    let world = Arc::new(World {
        config: Published::new(Thing::new(0, &census)),
        list: Pslist::new(),
        table: PsHash::new(4, 64),
        head: PfilHead::new(&domain),
        queue: Arc::new(PktQueue::new("stress", &domain, 64)),
        sent: Counters::new(3, 1),
        received: Counters::new(3, 1),
        reads: Counters::new(3, 1),
        census: census.clone(),
    });
    let w = world.clone();
    rt.add_pktqueue(
        &world.queue,
        Arc::new(move |cx, cells| {
            w.received.add(cx.cpu, 0, cells.len() as u64);
            cx.pool.free(cx.cpu, cells);
        }),
    );
    let end = Instant::now() + RUN;
    let callouts = Arc::new(AtomicU64::new(0));
    thread::scope(|s| {
        s.spawn(|| hot_plug(&rt, &world, end));
        s.spawn(|| change_list(&rt, &world, end));
        s.spawn(|| change_table(&rt, &world, end));
        s.spawn(|| change_hooks(&world, end));
        s.spawn(|| change_queue(&world, end));
        s.spawn(|| timers(&rt, &callouts, end));
        s.spawn(|| outsider(&rt, &world, end));
    });
    rt.remove_pktqueue(&world.queue);
    assert!(world.reads.sum(0) > 1000, "the readers read");
    assert_eq!(world.sent.sum(0), world.received.sum(0), "packets");
    let q = world.queue.stats();
    assert_eq!((q.enqueued, q.len), (q.dequeued, 0));
    assert_eq!(callouts.load(Relaxed), 0, "callouts");
    let report = rt.stop();
    assert_eq!((report.cells_in_use, report.pollers, report.callouts, report.letters), (0, 0, 0, 0));
    drop(world);
    drop(rt);
    domain.flush();
    let s = domain.stats();
    assert_eq!(s.retired, s.reclaimed);
    assert_eq!(census.made.load(Relaxed), census.dropped.load(Relaxed), "things");
}

/// Ports come and go on every worker.
fn hot_plug(rt: &Arc<Runtime>, world: &Arc<World>, end: Instant) {
    let mut plugged = VecDeque::new();
    for i in 0.. {
        let thing = Thing::new(i, &world.census);
        let port = Port { world: world.clone(), thing, held: VecDeque::new(), key: i % 64 };
        plugged.push_back(rt.add_poller(i as usize % rt.workers(), Box::new(port)));
        if plugged.len() > 3 {
            unplug(rt, plugged.pop_front().expect("not empty"));
        }
        if Instant::now() > end {
            break;
        }
        thread::sleep(Duration::from_micros(300));
    }
    plugged.into_iter().for_each(|id| unplug(rt, id));
}

/// Objects with passive references are linked, unlinked and destroyed.
fn change_list(rt: &Runtime, world: &World, end: Instant) {
    let mut linked = VecDeque::new();
    for i in 0.. {
        let target = PsrefTarget::new(rt.workers(), Thing::new(i, &world.census));
        world.list.push_front(target.clone());
        linked.push_back(target);
        let over = Instant::now() > end;
        while linked.len() > if over { 0 } else { 10 } {
            let target = linked.pop_front().expect("not empty");
            let key = target.get().key;
            assert_eq!(world.list.remove_if(rt.domain(), |t| t.get().key == key), 1);
            target.destroy(rt.domain());
            assert_eq!(target.held(), 0);
        }
        if over {
            return;
        }
    }
}

/// Entries of the hash table come, change and go; the configuration is swapped.
fn change_table(rt: &Runtime, world: &World, end: Instant) {
    let domain = rt.domain();
    for i in 0.. {
        let key = i * 7 % 64;
        let thing = || Thing::new(key, &world.census);
        match i % 3 {
            0 => drop(world.table.insert(domain, key, thing())),
            1 => drop(world.table.replace(domain, key, thing())),
            _ => drop(world.table.remove(domain, &key)),
        }
        world.config.swap(domain, thing());
        if i % 64 == 0 {
            domain.flush();
            if Instant::now() > end {
                break;
            }
        }
    }
    world.table.retain(domain, |_, _| false);
    assert!(world.table.is_empty());
}

fn change_hooks(world: &World, end: Instant) {
    for i in 0.. {
        let make = || Arc::new(Hook { thing: Thing::new(i, &world.census), attached: true.into() });
        let (first, second) = (make(), make());
        let id = world.head.add(i as i32 % 5, first.clone());
        assert!(world.head.replace(id, second.clone()).is_some());
        first.attached.store(false, Relaxed);
        assert!(world.head.remove(id).is_some());
        second.attached.store(false, Relaxed);
        if Instant::now() > end {
            return;
        }
    }
}

fn change_queue(world: &World, end: Instant) {
    for i in 0.. {
        assert!(world.queue.resize(16 << (i % 4)));
        assert!(world.queue.barrier());
        if Instant::now() > end {
            return;
        }
    }
}

/// Callouts run or are stopped, never both and never neither.
fn timers(rt: &Runtime, count: &Arc<AtomicU64>, end: Instant) {
    for i in 0u64.. {
        let over = Instant::now() > end;
        count.fetch_add(1, Relaxed);
        let c = count.clone();
        let run = Box::new(move |_: &mut WorkerCx<'_>| {
            c.fetch_sub(1, Relaxed);
        });
        let id = rt.callout(i as usize % rt.workers(), i % 7 * 100_000, run).expect("there is room");
        if i % 2 == 0 && rt.callout_halt(id) {
            count.fetch_sub(1, Relaxed);
        }
        if over {
            break;
        }
        thread::sleep(Duration::from_micros(50));
    }
    let late = Instant::now() + Duration::from_secs(5);
    while count.load(Relaxed) > 0 && Instant::now() < late {
        thread::sleep(Duration::from_millis(1));
    }
}

/// A thread that is no worker reads too, and sends packets.
fn outsider(rt: &Runtime, world: &World, end: Instant) {
    let reader = rt.domain().register();
    for i in 0u32.. {
        {
            let guard = reader.enter();
            let section = guard.section();
            world.config.read(section).check();
            world.list.iter(section).for_each(|t| t.get().check());
            world.table.for_each(section, |k, t| {
                t.check();
                assert_eq!(*k, t.key);
            });
        }
        let mut cells = [0; 8];
        let n = rt.pool().alloc_shared(&mut cells);
        world.sent.add_control(0, n as u64);
        let taken = world.queue.enqueue(None, i as usize % rt.workers(), &cells[..n]);
        rt.pool().free_shared(&cells[taken..n]);
        world.received.add_control(0, (n - taken) as u64);
        if Instant::now() > end {
            return;
        }
    }
}
