//! pfil(9): the places where packet filters are asked.

use crate::{Cpu, Domain, Pool, Published, Section, pool::Burst};
use smpnet_abi::{BURST_MAX, Cell, verdict};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

/// Direction of packets at a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dir {
    /// Coming in.
    In,
    /// Going out.
    Out,
}

impl Dir {
    /// As a value of [`smpnet_abi::direction`].
    pub const fn code(self) -> u32 {
        match self {
            Dir::In => smpnet_abi::direction::IN,
            Dir::Out => smpnet_abi::direction::OUT,
        }
    }
}

/// What the data of packets at a hook begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layer {
    /// An Ethernet header.
    Ether,
    /// An IPv4 header.
    Inet,
    /// An IPv6 header.
    Inet6,
}

/// Where and by whom a hook is called.
#[derive(Clone, Copy)]
pub struct HookCx<'a> {
    /// The calling worker.
    pub cpu: Cpu,
    /// The packets' pool.
    pub pool: &'a Pool,
    /// The read section that the call is in.
    pub section: Section<'a>,
    /// Direction.
    pub dir: Dir,
    /// The interface.
    pub ifindex: u32,
    /// What the data begins with.
    pub layer: Layer,
    /// The worker's clock ([`crate::now_ns`]).
    pub now_ns: u64,
}

/// A packet filter.
pub trait PfilHook: Send + Sync {
    /// Name of this instance.
    fn name(&self) -> &str;

    /// Judges a burst: one of [`smpnet_abi::verdict`] for each packet into `verdicts`, which holds PASS for all of them at
    /// the call. 1 to 64 packets. On any number of workers at once; must not sleep, lock or allocate. A packet judged
    /// CONSUMED is the hook's.
    fn filter(&self, cx: &HookCx<'_>, cells: &[Cell], verdicts: &mut [u32]);

    /// State for people, one JSON object. Control threads.
    fn status(&self) -> serde_json::Value {
        serde_json::Value::Object(Default::default())
    }
}

/// Names one attachment of a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HookId(u64);

#[derive(Clone)]
struct Attached {
    id: HookId,
    priority: i32,
    hook: Arc<dyn PfilHook>,
}

/// An ordered list of hooks, for one direction at one place.
pub struct PfilHead {
    domain: Arc<Domain>,
    any: AtomicBool,
    hooks: Published<Vec<Attached>>,
}

impl PfilHead {
    /// A head without hooks.
    pub fn new(domain: &Arc<Domain>) -> Self {
        PfilHead { domain: domain.clone(), any: AtomicBool::new(false), hooks: Published::new(Vec::new()) }
    }

    /// Adds a hook after those of the same and lower priority: lower numbers are asked first. Packets see it from the next
    /// burst on. Control threads.
    pub fn add(&self, priority: i32, hook: Arc<dyn PfilHook>) -> HookId {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = HookId(NEXT.fetch_add(1, Ordering::Relaxed));
        self.hooks.update(&self.domain, |old| {
            let at = old.partition_point(|a| a.priority <= priority);
            let mut new = old.clone();
            new.insert(at, Attached { id, priority, hook });
            (new, ())
        });
        self.any.store(true, Ordering::Release);
        id
    }

    /// Removes a hook and returns it, when no worker can be inside of it any more; `None` when it is not here. Never on a
    /// worker.
    pub fn remove(&self, id: HookId) -> Option<Arc<dyn PfilHook>> {
        let gone = self.hooks.update(&self.domain, |old| {
            let mut new = old.clone();
            let gone = new.iter().position(|a| a.id == id).map(|i| new.remove(i));
            self.any.store(!new.is_empty(), Ordering::Release);
            (new, gone)
        })?;
        self.domain.perform();
        Some(gone.hook)
    }

    /// Puts `hook` in the place of another at once: every burst sees one of the two. Returns the old one when no worker
    /// can be inside of it any more; `None` (and nothing done) when `id` is not here. Never on a worker.
    pub fn replace(&self, id: HookId, hook: Arc<dyn PfilHook>) -> Option<Arc<dyn PfilHook>> {
        let old = self.hooks.update(&self.domain, |old| {
            let mut new = old.clone();
            let gone = new.iter_mut().find(|a| a.id == id).map(|a| std::mem::replace(&mut a.hook, hook));
            (new, gone)
        })?;
        self.domain.perform();
        Some(old)
    }

    /// Whether no hook is here: one load.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        !self.any.load(Ordering::Relaxed)
    }

    /// The hooks in the order in which they are asked. Control threads.
    pub fn list(&self) -> Vec<(HookId, i32, Arc<dyn PfilHook>)> {
        self.hooks.load_control().iter().map(|a| (a.id, a.priority, a.hook.clone())).collect()
    }

    /// Asks the hooks about packets, in order. `verdicts` is as long as `cells` and says PASS for each packet to be
    /// judged; those with another verdict are left alone. A hook sees only packets that all hooks before it passed.
    ///
    /// # Panics
    /// When `cells` and `verdicts` differ in length.
    #[inline]
    pub fn run(&self, cx: &HookCx<'_>, cells: &[Cell], verdicts: &mut [u32]) {
        if !self.is_empty() {
            self.run_hooks(cx, cells, verdicts);
        }
    }

    #[inline(never)]
    fn run_hooks(&self, cx: &HookCx<'_>, cells: &[Cell], verdicts: &mut [u32]) {
        assert_eq!(cells.len(), verdicts.len());
        let hooks = self.hooks.read(cx.section);
        let bursts = cells.chunks(BURST_MAX as usize).zip(verdicts.chunks_mut(BURST_MAX as usize));
        for (cells, verdicts) in bursts {
            for a in hooks {
                ask(&*a.hook, cx, cells, verdicts);
            }
        }
    }
}

/// One hook, one burst: straight when all packets are to be judged, else only those.
fn ask(hook: &dyn PfilHook, cx: &HookCx<'_>, cells: &[Cell], verdicts: &mut [u32]) {
    let passing = verdicts.iter().filter(|v| **v == verdict::PASS).count();
    if passing == cells.len() {
        if passing > 0 {
            hook.filter(cx, cells, verdicts);
        }
        return;
    }
    if passing == 0 {
        return;
    }
    let mut some = Burst::new();
    let mut at = [0u8; BURST_MAX as usize];
    for (i, (c, v)) in cells.iter().zip(verdicts.iter()).enumerate() {
        if *v == verdict::PASS {
            at[some.len()] = i as u8;
            some.push(*c);
        }
    }
    let mut judged = [verdict::PASS; BURST_MAX as usize];
    let judged = &mut judged[..some.len()];
    hook.filter(cx, some.as_slice(), judged);
    for (i, v) in at.iter().zip(judged) {
        verdicts[usize::from(*i)] = *v;
    }
}
