//! A filter on its hook: judges bursts with the worker's instance of the generation in force.

use crate::engine::{Descriptor, FilterInstance};
use crate::slot::{Local, Slot};
use crate::supervisor::Bell;
use crate::version::{CpuStats, FilterVersion};
use crate::{Action, AttachPoint, OnFault};
use arc_swap::ArcSwap;
use crossbeam_utils::CachePadded;
use smpnet_abi::{BURST_MAX, CELL_NONE, Cell, PktHdr, PoolDesc, verdict};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// One in so many bursts has its time taken.
const SAMPLE: u64 = 64;
const BURST: usize = BURST_MAX as usize;

// The verdict of a packet is computed, not chosen: see `settle`.
const _: () = assert!(verdict::PASS == 0 && verdict::DROP == 1);

/// A loaded filter: what a pfil hook calls.
///
/// A burst is judged wholly by one generation. On the packet path there is no lock, allocation, system call or shared
/// read-modify-write: one load finds out whether the generation changed, one call judges up to 64 packets.
pub struct Filter {
    name: String,
    place: AttachPoint,
    on_fault: OnFault,
    pool: PoolDesc,
    published: Arc<ArcSwap<FilterVersion>>,
    slots: Box<[CachePadded<Slot>]>,
    bell: Arc<Bell>,
}

impl Filter {
    pub(crate) fn new(
        name: String,
        place: AttachPoint,
        on_fault: OnFault,
        pool: PoolDesc,
        first: Arc<FilterVersion>,
        workers: usize,
        bell: Arc<Bell>,
    ) -> Self {
        let published = Arc::new(ArcSwap::new(first));
        let slots = (0..workers).map(|_| CachePadded::new(Slot::new(&published))).collect();
        Filter { name, place, on_fault, pool, published, slots, bell }
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

    pub(crate) fn pool_base(&self) -> *mut u8 {
        self.pool.base
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
    /// The caller is worker `worker`: no other thread calls with the same index at the same time. It owns the packets,
    /// whose cells are well-formed.
    ///
    /// # Panics
    /// When `cells` and `verdicts` differ in length.
    pub unsafe fn judge(&self, worker: usize, cells: &[Cell], verdicts: &mut [u32]) {
        assert_eq!(cells.len(), verdicts.len());
        let Some(slot) = self.slots.get(worker) else {
            return self.judge_stranger(cells, verdicts);
        };
        // SAFETY: the caller vouches for being alone with this index, and nothing below comes back here.
        let Local { published, current, gather, bursts } = unsafe { slot.local() };
        for (cells, verdicts) in cells.chunks(BURST).zip(verdicts.chunks_mut(BURST)) {
            let latest = published.load();
            if current.as_ref().is_none_or(|c| c.version.generation < latest.generation) {
                slot.adopt(current);
            }
            // An instance lies in the mailbox before its generation is published. Without one the control thread is just
            // taking back what this worker was too late to take, and the interpreter judges the burst.
            let (version, instance) = match current {
                Some(c) if c.version.generation >= latest.generation => (&c.version, Some(&mut c.instance)),
                _ => (latest, None),
            };
            *bursts += 1;
            let began = (*bursts % SAMPLE == 0).then(Instant::now);
            let stats = &version.stats[worker];
            let tally = match instance {
                _ if version.quarantined.load(Relaxed) => self.by_policy(cells, verdicts),
                Some(instance) => self.by_instance(version, instance, stats, gather, cells, verdicts),
                None => self.by_interpreter(version, gather, cells, verdicts),
            };
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

    /// One call of the compiled code for the packets of one cell; the others, marked in `odd`, one by one.
    #[inline]
    fn by_instance(
        &self,
        version: &FilterVersion,
        instance: &mut FilterInstance,
        stats: &CpuStats,
        gather: &mut [u8],
        cells: &[Cell],
        verdicts: &mut [u32],
    ) -> Tally {
        let whole = version.artefact.program.is_some();
        let descriptors = instance.descriptors();
        let (odd, n, bytes) = match self.describe_all(whole, descriptors, cells, verdicts) {
            Some(bytes) => (0, cells.len(), bytes),
            None => self.describe_usual(whole, descriptors, cells, verdicts),
        };
        let mut tally = Tally::default();
        if odd != 0 {
            tally = self.by_odd(version, odd, gather, cells, verdicts);
        }
        if n == 0 {
            return tally;
        }
        tally.bytes += bytes;
        if let Err(trap) = instance.run(n) {
            if version.fault(stats, &trap) {
                self.bell.ring();
            }
            usual(odd, verdicts).for_each(|verdict| self.policy(verdict, &mut tally));
            return tally;
        }
        let results = &instance.results()[..n];
        let matched = if odd == 0 {
            settle_all(results, version.action, verdicts.iter_mut())
        } else {
            settle_all(results, version.action, usual(odd, verdicts))
        };
        let dropped = if version.action == Action::Pass { n as u64 - matched } else { matched };
        tally.packets += n as u64;
        tally.matched += matched;
        tally.dropped += dropped;
        tally
    }

    /// Describes a burst in which every packet goes the usual way, and returns its bytes; `None` when one does not.
    ///
    /// No packet of the loop is judged by itself, and it is a function of its own, so that all it needs stays in
    /// registers: it took half of the time of a short filter otherwise.
    #[inline(never)]
    fn describe_all(
        &self,
        whole: bool,
        descriptors: &mut [Descriptor; BURST],
        cells: &[Cell],
        verdicts: &[u32],
    ) -> Option<u64> {
        let (count, size, base) = (self.pool.cells, self.pool.cell_size, self.pool.base);
        let inside = cells.iter().fold(true, |all, &cell| all & (cell < count));
        let passing = verdicts.iter().fold(verdict::PASS, |all, &v| all | v) == verdict::PASS;
        if !(inside && passing) {
            return None;
        }
        let (mut chained, mut bytes) = (false, 0);
        for (&cell, d) in cells.iter().zip(descriptors) {
            // SAFETY: as in `header`: the cell was compared with the pool's just now.
            let h = unsafe { &*base.add(cell as usize * size as usize).cast::<PktHdr>() };
            chained |= h.next != CELL_NONE;
            // `reserved` is 0 from the start: the page was zero, and nobody writes it.
            d.off = cell * size + u32::from(h.data_off);
            d.buflen = u32::from(h.data_len);
            d.wirelen = h.pkt_len;
            bytes += u64::from(h.pkt_len);
        }
        (!(chained && whole)).then_some(bytes)
    }

    /// Describes the packets of a burst that go the usual way. Returns a mask of the others, the number described, and
    /// their bytes.
    #[cold]
    fn describe_usual(
        &self,
        whole: bool,
        descriptors: &mut [Descriptor; BURST],
        cells: &[Cell],
        verdicts: &[u32],
    ) -> (u64, usize, u64) {
        let (mut odd, mut n, mut bytes) = (0u64, 0, 0u64);
        for (i, (&cell, &verdict)) in cells.iter().zip(verdicts).enumerate() {
            match self.header(cell) {
                Some(h) if verdict == verdict::PASS && (h.next == CELL_NONE || !whole) => {
                    descriptors[n] = Descriptor {
                        off: cell * self.pool.cell_size + u32::from(h.data_off),
                        buflen: u32::from(h.data_len),
                        wirelen: h.pkt_len,
                        reserved: 0,
                    };
                    n += 1;
                    bytes += u64::from(h.pkt_len);
                }
                _ => odd |= 1 << i,
            }
        }
        (odd, n, bytes)
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
            let Some(header) = self.header(cell) else {
                self.policy(verdict, &mut tally);
                continue;
            };
            let bytes = self.gathered(cell, header, version.artefact.reach, gather);
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
            tally.bytes += self.header(cell).map_or(0, |h| u64::from(h.pkt_len));
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

    /// The header of a cell; `None` for an index that the pool does not have.
    #[inline(always)]
    fn header(&self, cell: Cell) -> Option<&PktHdr> {
        if cell >= self.pool.cells {
            return None;
        }
        // SAFETY: the cell is inside the pool, begins with a header, is aligned to 64, and nobody writes to it while the
        // calling worker owns the packet.
        Some(unsafe { &*self.pool.base.add(cell as usize * self.pool.cell_size as usize).cast::<PktHdr>() })
    }

    /// The packet's bytes in one piece, at most `reach` of them when they lie in several cells.
    fn gathered<'a>(&'a self, cell: Cell, header: &PktHdr, reach: usize, gather: &'a mut [u8]) -> &'a [u8] {
        let first = self.bytes(cell, header);
        if header.next == CELL_NONE {
            return first;
        }
        let room = gather.len().min(reach);
        let mut len = first.len().min(room);
        gather[..len].copy_from_slice(&first[..len]);
        let mut next = header.next;
        // A chain has at most 255 cells.
        for _ in 0..u8::MAX {
            let Some(h) = self.header(next) else { break };
            let part = self.bytes(next, h);
            let n = part.len().min(room - len);
            gather[len..len + n].copy_from_slice(&part[..n]);
            len += n;
            if len == room {
                break;
            }
            next = h.next;
        }
        &gather[..len]
    }

    /// The data of a cell, cut at the cell's end.
    fn bytes(&self, cell: Cell, header: &PktHdr) -> &[u8] {
        let size = self.pool.cell_size as usize;
        let start = usize::from(header.data_off).min(size);
        let len = usize::from(header.data_len).min(size - start);
        debug_assert!(cell < self.pool.cells);
        // SAFETY: `header` is this cell's, so the cell is one of the pool, and start and length stay inside; nobody writes
        // there while the calling worker owns the packet.
        unsafe {
            let at = self.pool.base.add(cell as usize * size + start);
            std::slice::from_raw_parts(at, len)
        }
    }
}

// SAFETY: the pool's base pointer is used only for packets that the caller owns; all else is Send and Sync.
unsafe impl Send for Filter {}
// SAFETY: as above; each slot's local part belongs to one worker, see `judge`.
unsafe impl Sync for Filter {}

/// Turns what the program returned into a verdict. Returns 1 for a match and 1 for a drop, to be counted.
#[inline(always)]
fn settle(verdict: &mut u32, result: u32, action: Action) -> (u64, u64) {
    let matched = result != 0;
    let drop = matched != (action == Action::Pass);
    *verdict = u32::from(drop);
    (u64::from(matched), u64::from(drop))
}

/// [`settle`] for the packets of a burst; returns how many matched.
#[inline(always)]
fn settle_all<'a>(results: &[u32], action: Action, verdicts: impl Iterator<Item = &'a mut u32>) -> u64 {
    let flip = u32::from(action == Action::Pass);
    let mut matched = 0;
    for (&result, verdict) in results.iter().zip(verdicts) {
        let m = u32::from(result != 0);
        matched += m;
        *verdict = m ^ flip;
    }
    u64::from(matched)
}

/// The verdicts of the packets that went the usual way, in order.
fn usual(odd: u64, verdicts: &mut [u32]) -> impl Iterator<Item = &mut u32> {
    verdicts.iter_mut().enumerate().filter(move |(i, _)| odd >> i & 1 == 0).map(|(_, v)| v)
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
