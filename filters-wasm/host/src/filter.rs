//! A filter on its hook: judges bursts with the worker's instance of the generation in force.

use crate::cells::Cells;
use crate::slot::{Instance, Local, News, Note, Prepared, Slot};
use crate::supervisor::Bell;
use crate::version::{CpuStats, FilterVersion};
use crate::{Action, AttachPoint, FaultLimit, FilterSpec, OnFault};
use arc_swap::ArcSwap;
use crossbeam_utils::CachePadded;
use smpnet_abi::{BURST_MAX, Cell, PoolDesc, verdict};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

/// One in so many bursts has its time taken.
const SAMPLE: u64 = 64;
const BURST: usize = BURST_MAX as usize;

// The verdict of a packet is computed, not chosen: see `settle`.
const _: () = assert!(verdict::PASS == 0 && verdict::DROP == 1);

#[path = "ask.rs"]
mod ask;
#[path = "generated.rs"]
mod generated;

/// A loaded filter: what a pfil hook calls.
///
/// A burst is judged wholly by one generation. On the packet path there is no lock, allocation, system call or shared
/// read-modify-write: one load finds out whether the generation changed, one call judges up to 64 packets.
pub struct Filter {
    name: String,
    place: AttachPoint,
    on_fault: OnFault,
    faults: FaultLimit,
    pool: Cells,
    /// Some generation may change packets.
    edits: AtomicBool,
    published: Arc<ArcSwap<FilterVersion>>,
    slots: Box<[CachePadded<Slot>]>,
    bell: Arc<Bell>,
}

/// Where and by whom a filter is asked.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Index of the worker that asks.
    pub worker: usize,
    /// Whether the packets go out.
    pub out: bool,
    /// The interface.
    pub ifindex: u32,
    /// What the packets begin with: a value of `smpnet_filter_abi::layer`.
    pub layer: u32,
    /// The worker's clock, in nanoseconds.
    pub now_ns: u64,
}

impl Filter {
    pub(crate) fn new(
        spec: &FilterSpec,
        pool: PoolDesc,
        first: Arc<FilterVersion>,
        workers: usize,
        bell: Arc<Bell>,
    ) -> Self {
        let published = Arc::new(ArcSwap::new(first));
        let slots = (0..workers).map(|_| CachePadded::new(Slot::new(&published))).collect();
        let (name, place, on_fault, faults) = (spec.name.clone(), spec.place(), spec.on_fault, spec.faults);
        let edits = AtomicBool::new(false);
        Filter { name, place, on_fault, faults, pool: Cells(pool), edits, published, slots, bell }
    }

    /// Whether it may change packets.
    pub(crate) fn edits(&self) -> bool {
        self.edits.load(Relaxed)
    }

    /// It may from now on.
    pub(crate) fn begins_to_edit(&self) {
        self.edits.store(true, Relaxed);
    }

    /// Name of the filter.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is attached.
    pub fn place(&self) -> AttachPoint {
        self.place
    }

    pub(crate) fn on_fault(&self) -> OnFault {
        self.on_fault
    }

    pub(crate) fn faults(&self) -> FaultLimit {
        self.faults
    }

    pub(crate) fn pool_base(&self) -> *mut u8 {
        self.pool.0.base
    }

    pub(crate) fn published(&self) -> &ArcSwap<FilterVersion> {
        &self.published
    }

    pub(crate) fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().map(|s| &**s)
    }

    /// Judges packets that the calling worker owns: the verdict of each whose verdict is PASS at the call.
    ///
    /// # Safety
    /// The caller is worker `asked.worker`: no other thread calls with the same index at the same time. It owns the packets,
    /// whose cells are well-formed.
    ///
    /// # Panics
    /// When `cells` and `verdicts` differ in length.
    pub unsafe fn judge(&self, asked: &Asked, cells: &[Cell], verdicts: &mut [u32]) {
        assert_eq!(cells.len(), verdicts.len());
        let Some(slot) = self.slots.get(asked.worker) else {
            return self.judge_stranger(cells, verdicts);
        };
        // SAFETY: the caller vouches for being alone with this index, and nothing below comes back here.
        let Local { published, current, shadow, shadow_seen, gather, bursts } = unsafe { slot.local() };
        for (cells, verdicts) in cells.chunks(BURST).zip(verdicts.chunks_mut(BURST)) {
            let latest = published.load();
            if current.as_ref().is_none_or(|c| c.version.generation < latest.generation || c.broken) {
                slot.adopt(current);
            }
            *bursts += 1;
            let began = (*bursts % SAMPLE == 0).then(Instant::now);
            slot.door.look(shadow_seen, shadow);
            let shadowed =
                shadow.as_deref_mut().is_some_and(|unit| self.ask_shadow(unit, asked, gather, cells, verdicts));
            let (version, tally) = match current.as_deref_mut() {
                Some(c) if c.version.generation >= latest.generation => {
                    let Prepared { version, instance, broken } = c;
                    let stats = &version.stats[asked.worker];
                    let tally = match instance {
                        _ if *broken || version.quarantined.load(Relaxed) => self.by_policy(cells, verdicts),
                        Instance::Generated(i) => self.by_instance(version, i, stats, gather, cells, verdicts),
                        Instance::Guest { guest, .. } => match self.by_guest(version, guest, asked, cells, verdicts) {
                            Ok(tally) => tally,
                            Err((fault, tally)) => {
                                *broken = true;
                                stats.faults.add(1);
                                slot.tell(Note { generation: version.generation, news: News::Fault(*fault) });
                                self.bell.ring();
                                tally
                            }
                        },
                    };
                    (&*version, tally)
                }
                // Cannot be: an instance lies in the mailbox before its generation is published.
                _ => (latest, self.by_interpreter(latest, gather, cells, verdicts)),
            };
            if shadowed && let Some(unit) = shadow {
                self.compare(unit, asked, gather, cells, verdicts);
            }
            let stats = &version.stats[asked.worker];
            tally.count(stats);
            if let Some(began) = began {
                stats.sampled_packets.add(tally.packets);
                stats.sampled_ns.add(began.elapsed().as_nanos() as u64);
            }
        }
    }

    /// Calls `f` with the generation that the worker judged its last burst by.
    ///
    /// # Safety
    /// As [`Filter::judge`].
    pub(crate) unsafe fn with_judge(&self, worker: usize, f: impl FnOnce(&FilterVersion)) {
        let Some(slot) = self.slots.get(worker) else { return };
        // SAFETY: the caller vouches for being alone with this index.
        let Local { published, current, .. } = unsafe { slot.local() };
        match current {
            Some(c) => f(&c.version),
            None => f(published.load()),
        }
    }

    /// The packets of a burst that do not go the usual way: of several cells, dropped already, or no packets at all.
    #[cold]
    fn by_odd(
        &self,
        version: &FilterVersion,
        odd: u64,
        gather: &mut [u8],
        cells: &[Cell],
        verdicts: &mut [u32],
    ) -> Tally {
        let mut tally = Tally::default();
        for i in (0..cells.len()).filter(|i| odd >> i & 1 == 1) {
            let one = self.by_interpreter(version, gather, &cells[i..=i], &mut verdicts[i..=i]);
            tally.add(&one);
        }
        tally
    }

    /// Without compiled code: by the interpreter, or by the fault policy when the generation has no program.
    #[cold]
    fn by_interpreter(
        &self,
        version: &FilterVersion,
        gather: &mut [u8],
        cells: &[Cell],
        verdicts: &mut [u32],
    ) -> Tally {
        let Some(program) = &version.artefact.program else {
            return self.by_policy(cells, verdicts);
        };
        let mut tally = Tally::default();
        for (&cell, verdict) in cells.iter().zip(verdicts).filter(|(_, v)| **v == verdict::PASS) {
            let Some(header) = self.pool.header(cell) else {
                self.policy(verdict, &mut tally);
                continue;
            };
            let bytes = self.pool.gathered(cell, header, version.artefact.reach, gather);
            let (matched, dropped) = settle(verdict, program.run(bytes, header.pkt_len), version.action);
            tally.packets += 1;
            tally.bytes += u64::from(header.pkt_len);
            tally.interpreted += 1;
            tally.matched += matched;
            tally.dropped += dropped;
        }
        tally
    }

    #[cold]
    fn by_policy(&self, cells: &[Cell], verdicts: &mut [u32]) -> Tally {
        let mut tally = Tally::default();
        for (&cell, verdict) in cells.iter().zip(verdicts).filter(|(_, v)| **v == verdict::PASS) {
            tally.bytes += self.pool.header(cell).map_or(0, |h| u64::from(h.pkt_len));
            self.policy(verdict, &mut tally);
        }
        tally
    }

    /// A caller with an index that no worker has breaks the contract of the hook; its packets are not judged in silence.
    #[cold]
    fn judge_stranger(&self, cells: &[Cell], verdicts: &mut [u32]) {
        let version = self.published.load_full();
        let tally = self.by_policy(cells, verdicts);
        if let Some(stats) = version.stats.last() {
            tally.count_shared(stats);
        }
    }

    #[cold]
    fn policy(&self, verdict: &mut u32, tally: &mut Tally) {
        tally.packets += 1;
        tally.fault_packets += 1;
        if self.on_fault == OnFault::Drop {
            *verdict = verdict::DROP;
            tally.dropped += 1;
        }
    }

    /// Traps of a generated module that are one too many.
    fn fault_max(&self) -> u64 {
        if self.on_fault == OnFault::Detach { 1 } else { self.faults.max.max(1).into() }
    }
}

/// Turns what the program returned into a verdict. Returns 1 for a match and 1 for a drop, to be counted.
#[inline(always)]
fn settle(verdict: &mut u32, result: u32, action: Action) -> (u64, u64) {
    let matched = result != 0;
    let drop = matched != (action == Action::Pass);
    *verdict = u32::from(drop);
    (u64::from(matched), u64::from(drop))
}

/// What a burst adds to the counters.
#[derive(Clone, Copy, Default)]
struct Tally {
    packets: u64,
    bytes: u64,
    matched: u64,
    dropped: u64,
    fault_packets: u64,
    interpreted: u64,
    rejected: u64,
    marked: u64,
    edited: u64,
}

impl Tally {
    fn add(&mut self, other: &Tally) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.matched += other.matched;
        self.dropped += other.dropped;
        self.fault_packets += other.fault_packets;
        self.interpreted += other.interpreted;
    }

    #[inline]
    fn count(&self, s: &CpuStats) {
        s.packets.add(self.packets);
        s.bytes.add(self.bytes);
        s.matched.add(self.matched);
        s.passed.add(self.packets - self.dropped);
        s.dropped.add(self.dropped);
        s.bursts.add(1);
        if self.fault_packets | self.interpreted != 0 {
            s.fault_packets.add(self.fault_packets);
            s.interpreted.add(self.interpreted);
        }
        if self.rejected | self.marked | self.edited != 0 {
            s.rejected.add(self.rejected);
            s.marked.add(self.marked);
            s.edited.add(self.edited);
        }
    }

    /// For counters with several writers.
    fn count_shared(&self, s: &CpuStats) {
        s.packets.add_shared(self.packets);
        s.bytes.add_shared(self.bytes);
        s.passed.add_shared(self.packets - self.dropped);
        s.dropped.add_shared(self.dropped);
        s.bursts.add_shared(1);
        s.fault_packets.add_shared(self.fault_packets);
    }
}
