//! The stack: everything that workers and control threads share.

use crate::adjacency::Adjacencies;
use crate::bpf::Bpf;
use crate::control::Control;
use crate::control::events::Events;
use crate::error::StackError;
use crate::hash::entropy;
use crate::inet::demux::EncapTable;
use crate::inet::hold::Hold;
use crate::inet::icmp::Bucket;
use crate::inet::pmtu::PathMtus;
use crate::inet::reass::Reassembly;
use crate::neigh::control::{ArpControl, Key};
use crate::neigh::table::Slab;
use crate::net::counters::base;
use crate::net::ifnet::{Hooks, IfTable, Ifnet};
use crate::net::output::Stages;
use crate::net::path::{Path, Pending, Worker};
use crate::net::poller::Chores;
use crate::route::Fib;
use crate::slow::{SlowEvent, SlowQueue};
use crate::tunables::Tunables;
use crate::types::IfIndex;
use smpnet_abi::MacAddr;
use smpnet_runtime::{Counters, Cpu, Domain, PerCpu, PktQueue, Pool, Published, Runtime, Section, WorkerCx, now_ns};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;

/// Index of the loopback interface `lo0`, which is always there.
pub(crate) const LOOPBACK: u32 = 1;
/// Slots of each ring between workers.
const HAND_OVER: usize = 4096;

/// Published ARP entries: the address told for each, or none for the interface's own.
pub(crate) type PublishedArp = HashMap<Key, Option<MacAddr>>;

/// The network stack of one runtime.
///
/// Control functions take `&self`, are called from any thread that is no worker, and are serialised inside. They change
/// nothing when they fail. What they change is seen by every worker from its next burst on.
pub struct Stack {
    pub(crate) rt: Arc<Runtime>,
    pub(crate) domain: Arc<Domain>,
    pub(crate) me: Weak<Stack>,
    pub(crate) ifs: IfTable,
    pub(crate) names: RwLock<HashMap<String, IfIndex>>,
    pub(crate) fib: Arc<crate::route::Tables>,
    pub(crate) slab: Arc<Slab>,
    pub(crate) hooks: Hooks,
    pub(crate) bpf: Bpf,
    pub(crate) counters: Counters,
    pub(crate) tunables: Arc<Tunables>,
    pub(crate) generation: AtomicU32,
    pub(crate) seed: u64,
    pub(crate) cpus: PerCpu<Worker>,
    pub(crate) pending: PerCpu<Pending>,
    pub(crate) tx_queue: Arc<PktQueue>,
    pub(crate) input_queue: Arc<PktQueue>,
    pub(crate) reass_queue: Arc<PktQueue>,
    pub(crate) slow: SlowQueue,
    pub(crate) encap: Published<EncapTable>,
    pub(crate) published: Published<PublishedArp>,
    pub(crate) path_mtus: Published<PathMtus>,
    /// Locked before `arp` where both are.
    pub(crate) control: Mutex<Control>,
    pub(crate) arp: Mutex<ArpControl>,
    pub(crate) events: Events,
    pub(crate) stopping: AtomicBool,
    /// Nothing is received: see [`Stack::hold_reception`].
    pub(crate) held: AtomicBool,
}

impl Stack {
    /// Makes the stack of a runtime, with the interface `lo0` (127.0.0.1/8), its sysctl nodes and its control thread.
    ///
    /// # Errors
    /// When address space for the tables cannot be reserved.
    pub fn new(rt: Arc<Runtime>) -> Result<Arc<Stack>, StackError> {
        let stack = Self::assemble(rt)?;
        let weak = Arc::downgrade(&stack);
        let thread = std::thread::Builder::new()
            .name("smpnet-stack".into())
            .spawn(move || control_thread(&weak))
            .map_err(|e| StackError::Runtime(format!("cannot start the control thread: {e}")))?;
        stack.slow.set_thread(thread.thread().clone());
        Ok(stack)
    }

    /// As [`Stack::new`], without a control thread: the caller runs [`Stack::tick`]. For tests and benches.
    ///
    /// # Errors
    /// As [`Stack::new`].
    pub fn new_manual(rt: Arc<Runtime>) -> Result<Arc<Stack>, StackError> {
        Self::assemble(rt)
    }

    fn assemble(rt: Arc<Runtime>) -> Result<Arc<Stack>, StackError> {
        let workers = rt.workers();
        let domain = rt.domain().clone();
        let memory = |e: &dyn std::fmt::Display| StackError::Runtime(format!("cannot reserve memory for tables: {e}"));
        let fib = Fib::with_domain(domain.clone()).map_err(|e| memory(&e))?;
        let slab = Slab::new().map_err(|e| memory(&e))?;
        let tunables = Arc::new(Tunables::new());
        let adjacencies = tunables.maxadjacencies.load(Ordering::Relaxed);
        let queue = |name: &str| Arc::new(PktQueue::new(name, rt.domain(), HAND_OVER));
        let (tx_queue, input_queue, reass_queue) = (queue("tx"), queue("input"), queue("ip_reass"));
        let stack = Arc::new_cyclic(|me| Stack {
            me: me.clone(),
            ifs: IfTable::new(),
            names: RwLock::default(),
            fib: fib.tables(),
            hooks: Hooks::new(&domain),
            bpf: Bpf::new(),
            counters: Counters::new(workers, base::TOTAL),
            generation: AtomicU32::new(1),
            seed: entropy(),
            cpus: PerCpu::new(workers, |i| Worker {
                adjacencies: Adjacencies::new(adjacencies as usize),
                adjacencies_wish: adjacencies,
                stages: Stages::new(),
                hold: Hold::default(),
                icmp: Bucket::default(),
                reass: Reassembly::default(),
                ident: (entropy() as u16).wrapping_add((i as u16) << 10),
            }),
            pending: PerCpu::new(workers, |_| Pending::default()),
            tx_queue,
            input_queue,
            reass_queue,
            slow: SlowQueue::new(),
            encap: Published::new(EncapTable::default()),
            published: Published::new(PublishedArp::new()),
            path_mtus: Published::new(PathMtus::default()),
            control: Mutex::new(Control::new(fib)),
            arp: Mutex::new(ArpControl::new(slab.clone(), domain.clone(), entropy())),
            events: Events::default(),
            stopping: AtomicBool::new(false),
            held: AtomicBool::new(false),
            tunables,
            slab,
            domain,
            rt,
        });
        stack.connect();
        stack.make_loopback()?;
        stack.register_sysctl();
        stack.register_bpf_sysctl();
        Ok(stack)
    }

    /// Lets the workers drain the queues between them and do their chores.
    fn connect(self: &Arc<Stack>) {
        type Take = fn(&mut Path<'_>, &[smpnet_abi::Cell]);
        let queues: [(&Arc<PktQueue>, Take); 3] = [
            (&self.tx_queue, |p, cells| p.handed_over(cells)),
            (&self.input_queue, |p, cells| p.steered(cells)),
            (&self.reass_queue, |p, cells| cells.iter().for_each(|c| p.reass_input(*c))),
        ];
        for (queue, take) in queues {
            let weak = self.me.clone();
            let func = move |cx: &mut WorkerCx<'_>, cells: &[smpnet_abi::Cell]| match weak.upgrade() {
                Some(s) => s.pass(cx.cpu, cx.section(), cx.now_ns, |path| take(path, cells)),
                None => cx.pool.free(cx.cpu, cells),
            };
            self.rt.add_pktqueue(queue, Arc::new(func));
        }
        for w in 0..self.workers() {
            self.rt.add_poller(w, Box::new(Chores { stack: self.clone() }));
        }
    }

    /// The runtime that it was made for.
    pub fn runtime(&self) -> &Arc<Runtime> {
        &self.rt
    }

    /// Workers.
    #[inline]
    pub fn workers(&self) -> usize {
        self.cpus.len()
    }

    #[inline]
    pub(crate) fn pool(&self) -> &Pool {
        self.rt.pool()
    }

    /// Interfaces, addresses or filters changed: the ways that workers have prepared are no longer true. Routes and
    /// neighbours need not say so: workers look at them for each packet.
    pub(crate) fn bump(&self) {
        // 0 marks vacant adjacencies and is never current.
        if self.generation.fetch_add(1, Ordering::AcqRel) == u32::MAX {
            self.generation.store(1, Ordering::Release);
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn lock_arp(&self) -> MutexGuard<'_, ArpControl> {
        self.arp.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A plugin broke the rules or said that it is broken: from now on nothing of it is called for this interface. Worker
    /// or any other thread; the control side does the rest.
    pub(crate) fn fault_seen(&self, ifp: &Ifnet, what: &str) {
        if !ifp.shared.faulted.swap(true, Ordering::AcqRel) {
            self.slow.push(SlowEvent::Fault { ifindex: ifp.index, what: what.to_owned() });
        }
    }

    /// Runs `f` on a worker with a passage through the stack, soon.
    pub(crate) fn on_worker(&self, worker: usize, f: impl FnOnce(&mut Path<'_>) + Send + 'static) {
        let weak = self.me.clone();
        self.rt.run_on(
            worker % self.workers(),
            Box::new(move |cx| {
                if let Some(s) = weak.upgrade() {
                    s.pass(cx.cpu, cx.section(), cx.now_ns, f);
                }
            }),
        );
    }

    /// Runs `f` on every worker and waits for all of them. Not on a worker.
    pub(crate) fn on_all_workers(&self, f: impl Fn(&mut Path<'_>) + Clone + Send + Sync + 'static) {
        for w in 0..self.workers() {
            let weak = self.me.clone();
            let f = f.clone();
            self.rt.run_on_wait(w, move |cx| {
                if let Some(s) = weak.upgrade() {
                    s.pass(cx.cpu, cx.section(), cx.now_ns, |p| f(p));
                }
            });
        }
    }

    /// The source address of a packet made here that leaves by `out` towards `next`: of the interface, else (it is
    /// unnumbered) of the loopback, else of any.
    pub(crate) fn source_address(&self, section: Section<'_>, out: &Ifnet, next: u32) -> Option<u32> {
        out.source_for(next).or_else(|| {
            let lo = self.ifs.get(section, LOOPBACK)?;
            lo.addrs.iter().map(|a| a.net.addr().to_bits()).find(|a| a >> 24 != 127)
        })
    }

    /// Whether any tunnel takes a protocol.
    pub(crate) fn encap_protocol(&self, section: Section<'_>, protocol: u8) -> bool {
        self.encap.read(section).has_protocol(protocol)
    }

    /// Whether the calling worker has packets pending that a plugin handed in outside of a passage.
    pub(crate) fn settle(&self, cpu: Cpu, section: Section<'_>) {
        self.pass(cpu, section, now_ns(), |_| ());
    }
}

/// The control thread: events of workers, and time.
fn control_thread(weak: &Weak<Stack>) {
    loop {
        let next = match weak.upgrade() {
            Some(s) if !s.stopping.load(Ordering::Acquire) => s.tick(now_ns()),
            _ => return,
        };
        match next {
            Some(at) => {
                let wait = at.saturating_sub(now_ns());
                if wait > 0 {
                    std::thread::park_timeout(Duration::from_nanos(wait));
                }
            }
            None => std::thread::park(),
        }
    }
}
