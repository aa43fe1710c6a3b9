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
    ///
    /// Returns whether it may have changed packets that it passed: their bytes, lengths or flags (a mark does not count).
    /// Packets of a hook that only looked need not be judged anew.
    fn filter(&self, cx: &HookCx<'_>, cells: &[Cell], verdicts: &mut [u32]) -> bool;

    /// Says in one line which filter it was and what it says of `cell`, which it has just judged DROP: for captures of
    /// drops. On the worker that was judging, right after `filter`; must not sleep, lock or allocate. A hook that says
    /// nothing is named.
    fn why(&self, _cx: &HookCx<'_>, _cell: Cell, _tell: &mut dyn FnMut(&str)) {}

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
    /// judged; those with another verdict are left alone. A hook sees only packets that all hooks before it passed. Returns
    /// whether one of the hooks may have changed packets.
    ///
    /// # Panics
    /// When `cells` and `verdicts` differ in length.
    #[inline]
    pub fn run(&self, cx: &HookCx<'_>, cells: &[Cell], verdicts: &mut [u32]) -> bool {
        !self.is_empty() && self.run_hooks(cx, cells, verdicts)
    }

    #[inline(never)]
    fn run_hooks(&self, cx: &HookCx<'_>, cells: &[Cell], verdicts: &mut [u32]) -> bool {
        self.run_from(None, cx, cells, verdicts)
    }

    /// Whether a hook is one of this head's.
    pub fn holds(&self, section: Section<'_>, hook: &dyn PfilHook) -> bool {
        position(self.hooks.read(section), hook).is_some()
    }

    /// As [`PfilHead::run`], beginning with one of the hooks: those before it were asked already. One that is not here (any
    /// more) says nothing of the others, and all are asked.
    pub fn run_from(&self, from: Option<&dyn PfilHook>, cx: &HookCx<'_>, cells: &[Cell], verdicts: &mut [u32]) -> bool {
        assert_eq!(cells.len(), verdicts.len());
        let hooks = behind(self.hooks.read(cx.section), from);
        let bursts = cells.chunks(BURST_MAX as usize).zip(verdicts.chunks_mut(BURST_MAX as usize));
        let mut edits = false;
        for (cells, verdicts) in bursts {
            for a in hooks {
                edits |= ask(&*a.hook, cx, cells, verdicts);
            }
        }
        edits
    }
}

impl PfilHead {
    /// As [`PfilHead::run_from`] (None: from the first on), and calls `dropped` for each packet that a hook dropped, before the next hook is asked.
    #[cold]
    pub fn run_watched(
        &self,
        from: Option<&dyn PfilHook>,
        cx: &HookCx<'_>,
        cells: &[Cell],
        verdicts: &mut [u32],
        dropped: &mut dyn FnMut(&dyn PfilHook, Cell),
    ) -> bool {
        assert_eq!(cells.len(), verdicts.len());
        let hooks = behind(self.hooks.read(cx.section), from);
        let bursts = cells.chunks(BURST_MAX as usize).zip(verdicts.chunks_mut(BURST_MAX as usize));
        let mut edits = false;
        for (cells, verdicts) in bursts {
            for a in hooks {
                let mut before = [verdict::PASS; BURST_MAX as usize];
                before[..verdicts.len()].copy_from_slice(verdicts);
                edits |= ask(&*a.hook, cx, cells, verdicts);
                for ((cell, was), is) in cells.iter().zip(before).zip(verdicts.iter()) {
                    if was == verdict::PASS && !matches!(*is & 0xff, verdict::PASS | verdict::CONSUMED) {
                        dropped(&*a.hook, *cell);
                    }
                }
            }
        }
        edits
    }
}

fn position(hooks: &[Attached], hook: &dyn PfilHook) -> Option<usize> {
    hooks.iter().position(|a| std::ptr::addr_eq(Arc::as_ptr(&a.hook), hook))
}

/// The hooks from one of them on.
fn behind<'h>(hooks: &'h [Attached], from: Option<&dyn PfilHook>) -> &'h [Attached] {
    &hooks[from.and_then(|hook| position(hooks, hook)).unwrap_or(0)..]
}

/// One hook, one burst: straight when all packets are to be judged, else only those. Whether it may have changed some.
fn ask(hook: &dyn PfilHook, cx: &HookCx<'_>, cells: &[Cell], verdicts: &mut [u32]) -> bool {
    let passing = verdicts.iter().filter(|v| **v == verdict::PASS).count();
    if passing == cells.len() {
        return passing > 0 && hook.filter(cx, cells, verdicts);
    }
    if passing == 0 {
        return false;
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
    let edits = hook.filter(cx, some.as_slice(), judged);
    for (i, v) in at.iter().zip(judged) {
        verdicts[usize::from(*i)] = *v;
    }
    edits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HugePages, PoolConfig};
    use std::sync::Mutex;

    /// Drops the cells of its list and writes down what it was asked.
    struct Dropper(&'static str, Vec<Cell>, Mutex<Vec<Cell>>);

    impl Dropper {
        fn new(name: &'static str, drops: &[Cell]) -> Arc<Self> {
            Arc::new(Dropper(name, drops.to_vec(), Mutex::default()))
        }

        fn asked(&self) -> Vec<Cell> {
            std::mem::take(&mut self.2.lock().unwrap())
        }
    }

    impl PfilHook for Dropper {
        fn name(&self) -> &str {
            self.0
        }

        fn filter(&self, _cx: &HookCx<'_>, cells: &[Cell], verdicts: &mut [u32]) -> bool {
            assert!(verdicts.iter().all(|v| *v == verdict::PASS));
            self.2.lock().unwrap().extend_from_slice(cells);
            for (c, v) in cells.iter().zip(verdicts) {
                *v = if self.1.contains(c) { verdict::DROP } else { verdict::PASS };
            }
            false
        }
    }

    fn run(head: &PfilHead, domain: &Domain, n: u32) -> Vec<Cell> {
        let pool = Pool::new(&PoolConfig { cells: 64, huge_pages: HugePages::Never, ..PoolConfig::default() }).unwrap();
        let reader = domain.register();
        let guard = reader.enter();
        // SAFETY: the only token of worker 0.
        let cpu = unsafe { Cpu::assume(0) };
        let (section, dir, layer) = (guard.section(), Dir::In, Layer::Inet);
        let cx = HookCx { cpu, pool: &pool, section, dir, ifindex: 1, layer, now_ns: 0 };
        let cells: Vec<Cell> = (0..n).collect();
        let mut verdicts = vec![verdict::PASS; cells.len()];
        head.run(&cx, &cells, &mut verdicts);
        cells.into_iter().zip(verdicts).filter(|(_, v)| *v == verdict::PASS).map(|(c, _)| c).collect()
    }

    #[test]
    fn hooks_are_asked_in_order_about_what_is_left() {
        let domain = Domain::new(1);
        let head = PfilHead::new(&domain);
        assert!(head.is_empty());
        let (a, b, c) = (Dropper::new("a", &[1]), Dropper::new("b", &[2]), Dropper::new("c", &[]));
        let last = head.add(10, c.clone());
        head.add(-5, a.clone());
        let b_id = head.add(0, b.clone());
        let names: Vec<_> = head.list().iter().map(|(_, p, h)| (*p, h.name().to_owned())).collect();
        assert_eq!(names, [(-5, "a".into()), (0, "b".into()), (10, "c".into())]);
        assert_eq!(run(&head, &domain, 4), [0, 3]);
        assert_eq!((a.asked(), b.asked(), c.asked()), (vec![0, 1, 2, 3], vec![0, 2, 3], vec![0, 3]));
        let d = Dropper::new("d", &[0]);
        assert_eq!(head.replace(b_id, d).map(|h| h.name().to_owned()), Some("b".into()));
        assert_eq!(run(&head, &domain, 4), [2, 3]);
        assert!(head.remove(last).is_some() && head.remove(last).is_none());
        assert_eq!(head.list().len(), 2);
    }

    #[test]
    fn a_watcher_hears_which_hook_dropped_what() {
        let domain = Domain::new(1);
        let head = PfilHead::new(&domain);
        head.add(0, Dropper::new("a", &[1]));
        head.add(1, Dropper::new("b", &[1, 2]));
        let pool = Pool::new(&PoolConfig { cells: 64, huge_pages: HugePages::Never, ..PoolConfig::default() }).unwrap();
        let reader = domain.register();
        let guard = reader.enter();
        // SAFETY: the only token of worker 0.
        let cpu = unsafe { Cpu::assume(0) };
        let (section, dir, layer) = (guard.section(), Dir::In, Layer::Inet);
        let cx = HookCx { cpu, pool: &pool, section, dir, ifindex: 1, layer, now_ns: 0 };
        let mut verdicts = [verdict::PASS; 4];
        let mut heard = Vec::new();
        head.run_watched(None, &cx, &[0, 1, 2, 3], &mut verdicts, &mut |h, c| heard.push((h.name().to_owned(), c)));
        assert_eq!(heard, [("a".to_owned(), 1), ("b".to_owned(), 2)]);
        assert_eq!(verdicts, [verdict::PASS, verdict::DROP, verdict::DROP, verdict::PASS]);
    }

    #[test]
    fn who_goes_on_at_a_hook_is_not_shown_to_those_before_it() {
        let domain = Domain::new(1);
        let head = PfilHead::new(&domain);
        let (a, b, c) = (Dropper::new("a", &[]), Dropper::new("b", &[]), Dropper::new("c", &[2]));
        for hook in [&a, &b, &c] {
            head.add(0, hook.clone());
        }
        let pool = Pool::new(&PoolConfig { cells: 64, huge_pages: HugePages::Never, ..PoolConfig::default() }).unwrap();
        let reader = domain.register();
        let guard = reader.enter();
        // SAFETY: the only token of worker 0.
        let cpu = unsafe { Cpu::assume(0) };
        let (section, dir, layer) = (guard.section(), Dir::In, Layer::Inet);
        let cx = HookCx { cpu, pool: &pool, section, dir, ifindex: 1, layer, now_ns: 0 };
        let mut verdicts = [verdict::PASS; 2];
        assert!(head.holds(section, &*b));
        head.run_from(Some(&*b), &cx, &[1, 2], &mut verdicts);
        assert_eq!((a.asked(), b.asked(), c.asked()), (vec![], vec![1, 2], vec![1, 2]));
        assert_eq!(verdicts, [verdict::PASS, verdict::DROP]);
        let another = Dropper::new("b", &[]);
        assert!(!head.holds(section, &*another), "another one of the same name");
        let mut verdicts = [verdict::PASS; 2];
        head.run_from(Some(&*another), &cx, &[1, 2], &mut verdicts);
        assert_eq!((a.asked(), verdicts[1]), (vec![1, 2], verdict::DROP), "one that is not here passes nothing by");
    }

    #[test]
    fn there_is_no_limit_of_eight_hooks_nor_of_a_burst() {
        let domain = Domain::new(1);
        let head = PfilHead::new(&domain);
        let ids: Vec<HookId> = (0..20).map(|i| head.add(0, Dropper::new("x", &[i * 5]))).collect();
        assert_eq!(run(&head, &domain, 100).len(), 80);
        assert!(ids.into_iter().all(|id| head.remove(id).is_some()));
        assert!(head.is_empty());
        assert_eq!(run(&head, &domain, 100).len(), 100);
    }
}
