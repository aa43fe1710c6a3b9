//! The hook: what a worker does with a burst.

use super::{
    InForce,
    packets::{Cells, NOBODY, OWN, Work, address_of, address_to, put_tag, tag_of},
    watch::{self, At, Watchers},
};
use crate::{
    config::RuleId,
    engine::{Elsewhere, Engine, Fault, Place},
    evaluate::Where,
    state::Millis,
    wasm::RunningRuleset,
};
use crossbeam_queue::ArrayQueue;
use crossbeam_utils::CachePadded;
use smpnet_abi::{BURST_MAX, Cell, pkt_flags, verdict};
use smpnet_runtime::{Cpu, Dir, HookCx, Layer, PerCpu, PfilHook, PktQueue, Published, Section, WorkerCx};
use smpnet_stack::Stack;
use std::sync::{
    Arc, Weak,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

const MAX: usize = BURST_MAX as usize;

/// Nanoseconds between two looks at what has expired, while no packet comes.
const TICK: u64 = 256_000_000;
/// Answers of a worker to senders of blocked packets in a second: more would make it a weapon.
const ANSWERS: u32 = 1000;

/// Why a packet did not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// The packet.
    pub(super) cell: Cell,
    /// The rule that decided.
    pub(super) rule: Option<RuleId>,
    /// Why, if no rule did.
    pub(super) fault: Option<Fault>,
}

impl Said {
    pub(super) const NOTHING: Said = Said { cell: smpnet_abi::CELL_NONE, rule: None, fault: None };
}

/// What the hook did besides what engines count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct WorkerStats {
    /// Packets that another worker handed over.
    pub taken_over: u64,
    /// Packets that were to be handed over, and the queue was full: they were dropped.
    pub queue_full: u64,
    /// Answers that were sent.
    pub answers: u64,
    /// Answers that were not sent, since there were too many, or no memory.
    pub answers_limited: u64,
    /// Sources over a limit that no control thread heard of, since too many came at once.
    pub overloads_lost: u64,
}

crate::sum_of!(WorkerStats { taken_over, queue_full, answers, answers_limited, overloads_lost });

/// What belongs to a worker.
pub(super) struct Slot {
    pub engine: Engine,
    /// The version that the engine runs.
    pub version: u64,
    /// The round of the worker, by its clock, in which that was last looked at.
    round: u64,
    pub stats: WorkerStats,
    /// The interface of maps with hairpins, as of the last version.
    hairpins: Option<u32>,
    /// Interfaces that procedures route to.
    routes: Vec<Option<u32>>,
    pub elsewhere: Arc<Elsewhere>,
    work: Work,
    /// A callout is on its way that looks at what has expired.
    is_armed: bool,
    answers: Answers,
}

/// A limit on answers.
#[derive(Default)]
struct Answers {
    second: u64,
    sent: u32,
}

impl Answers {
    fn allows(&mut self, now: Millis) -> bool {
        let second = now.0 / 1000;
        if second != self.second {
            *self = Answers { second, sent: 0 };
        }
        self.sent += 1;
        self.sent <= ANSWERS
    }
}

impl Slot {
    pub(super) fn new(engine: Engine, version: u64, elsewhere: Arc<Elsewhere>) -> Slot {
        let (stats, work, answers) = (WorkerStats::default(), Work::new(), Answers::default());
        let round = u64::MAX;
        Slot {
            engine,
            version,
            round,
            stats,
            hairpins: None,
            routes: Vec::new(),
            elsewhere,
            work,
            is_armed: false,
            answers,
        }
    }
}

/// A source that exceeded a limit, as a control thread is told.
pub(super) type Overloads = ArrayQueue<crate::engine::Overload>;

/// npf at the hooks of all interfaces.
pub(super) struct Hook {
    me: Weak<Hook>,
    pub stack: Arc<Stack>,
    pub current: Published<InForce>,
    pub slots: PerCpu<Slot>,
    /// The version that each worker has taken up.
    pub adopted: Box<[CachePadded<AtomicU64>]>,
    pub queue: Arc<PktQueue>,
    /// Who watches, and whether anybody does.
    watchers: Published<Watchers>,
    watched: AtomicBool,
    /// Modules that no worker asks any more.
    pub retired: ArrayQueue<Box<dyn RunningRuleset>>,
    pub overloads: Overloads,
    /// Somebody is on the way to look at them.
    pub overloads_told: AtomicBool,
    pub told: Box<dyn Fn() + Send + Sync>,
}

impl Hook {
    pub fn new(
        stack: &Arc<Stack>,
        current: InForce,
        slots: PerCpu<Slot>,
        queue: Arc<PktQueue>,
        told: Box<dyn Fn() + Send + Sync>,
    ) -> Arc<Hook> {
        let adopted = (0..slots.len()).map(|_| CachePadded::new(AtomicU64::new(current.version))).collect();
        Arc::new_cyclic(|me| Hook {
            me: me.clone(),
            stack: stack.clone(),
            current: Published::new(current),
            slots,
            adopted,
            queue,
            watchers: Published::new(Watchers::new()),
            watched: AtomicBool::new(false),
            retired: ArrayQueue::new(1024),
            overloads: ArrayQueue::new(1024),
            overloads_told: AtomicBool::new(false),
            told,
        })
    }

    /// Has a worker take up what was published last, and run what is left to be done. Worker.
    pub fn catch_up(&self, cpu: Cpu, section: Section<'_>, now_ns: u64) {
        self.slots.with(cpu, |slot| {
            slot.round = u64::MAX;
            self.adopt(cpu, slot, section, now_ns);
            self.arm(cpu, slot);
        });
    }

    /// Takes up what was published last, at the first burst of a worker's round: what comes in and leaves in the same round is judged
    /// by one version both times.
    #[inline]
    fn adopt(&self, cpu: Cpu, slot: &mut Slot, section: Section<'_>, now_ns: u64) {
        if slot.round == now_ns {
            return;
        }
        slot.round = now_ns;
        let current = self.current.read(section);
        if current.version != slot.version {
            self.adopt_now(cpu, slot, current, millis(now_ns));
        }
    }

    #[cold]
    fn adopt_now(&self, cpu: Cpu, slot: &mut Slot, current: &InForce, now: Millis) {
        if slot.engine.ruleset().is_none_or(|r| r.serial != current.ruleset.serial) {
            slot.engine.adopt(current.ruleset.clone(), now);
            let module = current.modules.as_ref().and_then(|m| m.take(cpu.index()));
            if let Some(old) = slot.engine.set_module(module) {
                // Whose memory is given back by a control thread. Where too many wait for it, here.
                let _ = self.retired.push(old);
            }
        }
        slot.engine.set_tables(current.tables.clone());
        slot.engine.set_addresses(current.addresses.clone());
        slot.version = current.version;
        slot.routes.clear();
        let index = |i: &str| self.stack.if_by_name(i).map(|i| i.get());
        slot.routes.extend(current.ruleset.routes().map(index));
        slot.hairpins = current.ruleset.hairpin_interface().and_then(|i| self.stack.if_by_name(i)).map(|i| i.get());
        // The control side drops what no worker has any more.
        self.adopted[cpu.index()].store(current.version, Ordering::Release);
    }

    /// Sees to it that connections expire, though no packet may come.
    fn arm(&self, cpu: Cpu, slot: &mut Slot) {
        if slot.is_armed || slot.engine.is_idle() {
            return;
        }
        let me = self.me.clone();
        let func = move |cx: &mut WorkerCx<'_>| {
            let Some(hook) = me.upgrade() else { return };
            hook.slots.with(cx.cpu, |slot| {
                slot.is_armed = false;
                slot.engine.tick(millis(cx.now_ns));
                hook.arm(cx.cpu, slot);
            });
        };
        slot.is_armed = self.stack.runtime().callout(cpu.index(), TICK, Box::new(func)).is_some();
    }

    fn judge(&self, cx: &HookCx<'_>, slot: &mut Slot, cells: &[Cell], verdicts: &mut [u32]) {
        let now = millis(cx.now_ns);
        self.adopt(cx.cpu, slot, cx.section, cx.now_ns);
        let Some(interface) = self.stack.name_of(cx.section, cx.ifindex) else { return };
        let whole = slot.engine.ruleset().is_some_and(|r| r.looks_beyond_headers());
        let watchers = self.watched.load(Ordering::Relaxed).then(|| self.watchers.read(cx.section));
        if let Some(watchers) = watchers {
            for (number, cell) in cells.iter().enumerate() {
                let packet = cx.pool.packet(*cell);
                watch::before(watchers, &mut slot.work, number, &packet, tag_of(&packet));
            }
        }
        // Mostly all packets go the same way.
        let (pool, out) = (cx.pool.locate(), cx.dir == Dir::Out);
        let is_local = |c: &Cell| pool.packet(*c).hdr().flags & pkt_flags::LOCAL != 0;
        let mut first = 0;
        while let Some(way) = cells.get(first).map(|c| if out { way_out(is_local(c)) } else { Where::In }) {
            let rest = &cells[first..];
            let differs = |c: &Cell| way_out(is_local(c)) != way;
            let n = if out { rest.iter().position(differs).unwrap_or(rest.len()) } else { rest.len() };
            let cells = &rest[..n];
            let verdicts = &mut verdicts[first..first + n];
            let place = Place { interface, way, now };
            let work = &mut slot.work;
            let at = At { interface, way: place.way, worker: cx.cpu.index() };
            let watchers = watchers.map(|w| (w, at));
            let (turns, routes) = (false, &slot.routes[..]);
            let leaves_by = if cx.dir == Dir::Out { cx.ifindex } else { 0 };
            let current = None;
            let mut burst =
                Cells { pool, cells, verdicts, first, whole, turns, routes, leaves_by, work, watchers, current };
            slot.engine.handle_burst(&mut burst, &place);
            first += cells.len();
        }
        if !slot.work.inward.is_empty() {
            self.turn(cx, slot, cells, verdicts, whole, now);
        }
        if !slot.work.replies.is_empty() {
            self.answer(cx, slot, now);
        }
        if !slot.work.overloads.is_empty() {
            self.report(slot);
        }
        for (route, cell) in slot.work.routed.drain(..) {
            if let Some(ifindex) = slot.routes.get(usize::from(route)).copied().flatten() {
                self.stack.ip_output_by(cx.cpu, ifindex, &[cell], cx.dir == Dir::In);
            }
        }
        if !slot.work.turned.is_empty() {
            // They leave by another interface than the one that they were on their way out of.
            self.stack.ip_output(cx.cpu, &slot.work.turned);
            slot.work.turned.clear();
        }
        if slot.work.any_steered {
            self.hand_over(cx, slot, cells, verdicts);
        }
        self.arm(cx.cpu, slot);
    }

    /// Packets from inside that go to an outer end have the way out of its interface before them, without going it.
    #[cold]
    fn turn(&self, cx: &HookCx<'_>, slot: &mut Slot, cells: &[Cell], verdicts: &mut [u32], whole: bool, now: Millis) {
        let Some(ruleset) = slot.engine.ruleset().cloned() else { return };
        let inward = std::mem::take(&mut slot.work.inward);
        let Some(interface) = ruleset.hairpin_interface() else { return };
        for first in inward.iter().copied() {
            let (cells, verdicts) = (&cells[first..=first], &mut verdicts[first..=first]);
            let place = Place { interface, way: Where::Forward, now };
            let (pool, turns, work) = (cx.pool.locate(), true, &mut slot.work);
            let (routes, leaves_by) = (&[][..], 0);
            let mut burst = Cells {
                pool,
                cells,
                verdicts,
                first,
                whole,
                turns,
                routes,
                leaves_by,
                work,
                watchers: None,
                current: None,
            };
            slot.engine.handle_burst(&mut burst, &place);
            // Its other half is another worker's: as if it was on the way out there.
            let to = std::mem::replace(&mut slot.work.steered[first], NOBODY);
            if to == NOBODY {
                continue;
            }
            let Some(out) = slot.hairpins else {
                verdicts[0] = verdict::DROP;
                continue;
            };
            address_to(&mut cx.pool.packet(cells[0]), out, true);
            let taken = self.queue.enqueue(Some(cx.cpu), usize::from(to), cells) == 1;
            verdicts[0] = if taken { verdict::CONSUMED } else { verdict::DROP };
            slot.stats.queue_full += u64::from(!taken);
        }
        slot.work.inward = inward;
        slot.work.inward.clear();
    }

    /// Changes who watches. Control threads.
    pub fn change_watchers(&self, change: impl FnOnce(&mut Watchers)) {
        self.watchers.update(self.stack.runtime().domain(), |old| {
            let mut new = old.clone();
            change(&mut new);
            self.watched.store(!new.is_empty(), Ordering::Relaxed);
            (new, ())
        });
    }

    /// Sends what senders of blocked packets are told.
    #[cold]
    fn answer(&self, cx: &HookCx<'_>, slot: &mut Slot, now: Millis) {
        for bytes in slot.work.replies.drain(..) {
            let mut cell = [0; 1];
            let is_v4 = bytes.first().is_some_and(|b| b >> 4 == 4);
            if !is_v4 || !slot.answers.allows(now) || cx.pool.alloc(cx.cpu, &mut cell) == 0 {
                slot.stats.answers_limited += 1;
                continue;
            }
            let mut packet = cx.pool.packet(cell[0]);
            if !packet.set_data(&bytes) {
                cx.pool.free(cx.cpu, &cell);
                slot.stats.answers_limited += 1;
                continue;
            }
            put_tag(&mut packet, OWN);
            slot.stats.answers += 1;
            self.stack.ip_output(cx.cpu, &cell);
        }
    }

    #[cold]
    fn report(&self, slot: &mut Slot) {
        for overload in slot.work.overloads.drain(..) {
            if self.overloads.push(overload).is_err() {
                slot.stats.overloads_lost += 1;
            }
        }
        if !self.overloads_told.swap(true, Ordering::AcqRel) {
            (self.told)();
        }
    }

    /// Packets go to the workers that have their connections.
    #[inline(never)]
    fn hand_over(&self, cx: &HookCx<'_>, slot: &mut Slot, cells: &[Cell], verdicts: &mut [u32]) {
        slot.work.any_steered = false;
        for to in 0..self.slots.len() {
            let (mut part, mut at, mut n) = ([0 as Cell; MAX], [0usize; MAX], 0);
            for (i, cell) in cells.iter().enumerate() {
                if slot.work.steered[i] as usize == to {
                    address_to(&mut cx.pool.packet(*cell), cx.ifindex, cx.dir == Dir::Out);
                    (part[n], at[n]) = (*cell, i);
                    n += 1;
                }
            }
            if n == 0 {
                continue;
            }
            let taken = self.queue.enqueue(Some(cx.cpu), to, &part[..n]);
            for (k, i) in at[..n].iter().enumerate() {
                verdicts[*i] = if k < taken { verdict::CONSUMED } else { verdict::DROP };
                slot.work.steered[*i] = NOBODY;
            }
            slot.stats.queue_full += (n - taken) as u64;
        }
    }

    /// Packets that other workers handed over. Worker.
    pub fn take_over(&self, cx: &mut WorkerCx<'_>, cells: &[Cell]) {
        self.slots.with(cx.cpu, |slot| slot.stats.taken_over += cells.len() as u64);
        let place = |c: &Cell| address_of(&cx.pool.packet(*c));
        for run in cells.chunk_by(|a, b| place(a) == place(b)) {
            let (ifindex, out) = place(&run[0]);
            let dir = if out { Dir::Out } else { Dir::In };
            self.stack.inet_resume(cx, ifindex, dir, self, run);
        }
    }
}

fn way_out(is_local: bool) -> Where {
    if is_local { Where::Out } else { Where::Forward }
}

pub(super) fn millis(ns: u64) -> Millis {
    Millis(ns / 1_000_000)
}

impl PfilHook for Hook {
    fn name(&self) -> &str {
        "npf"
    }

    fn filter(&self, cx: &HookCx<'_>, cells: &[Cell], verdicts: &mut [u32]) -> bool {
        if cx.layer == Layer::Ether {
            return false;
        }
        self.slots.with(cx.cpu, |slot| {
            slot.work.forget_said();
            slot.work.any_looked_at = false;
            // What npf has sent itself is nobody's business here.
            let pool = cx.pool.locate();
            if cx.dir == Dir::In || !cells.iter().any(|c| tag_of(&pool.packet(*c)) == OWN) {
                self.judge(cx, slot, cells, verdicts);
                return slot.work.any_looked_at;
            }
            for (cell, verdict) in cells.chunks(1).zip(verdicts.chunks_mut(1)) {
                if tag_of(&pool.packet(cell[0])) != OWN {
                    self.judge(cx, slot, cell, verdict);
                }
            }
            slot.work.any_looked_at
        })
    }

    fn why(&self, cx: &HookCx<'_>, cell: Cell, tell: &mut dyn FnMut(&str)) {
        self.slots.with(cx.cpu, |slot| {
            let Some(said) = slot.work.said.iter().find(|s| s.cell == cell) else { return };
            let rule = said.rule.zip(slot.engine.ruleset()).and_then(|(id, r)| r.rule(id));
            match (rule, said.fault) {
                (Some((_, rule)), None) => match &rule.name {
                    Some(name) => tell(&format!("npf: rule {} \"{name}\" (line {})", rule.id, rule.at.line)),
                    None => tell(&format!("npf: rule {} (line {})", rule.id, rule.at.line)),
                },
                (_, Some(fault)) => tell(&format!("npf: {fault}")),
                _ => {}
            }
        });
    }

    fn status(&self) -> serde_json::Value {
        serde_json::json!({ "version": self.adopted.iter().map(|v| v.load(Ordering::Relaxed)).max() })
    }
}
