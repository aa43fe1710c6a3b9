//! A filter on its hook: judges bursts with the worker's instance of the generation in force.

use crate::engine::{Descriptor, FilterInstance};
use crate::slot::{Local, Slot};
use crate::supervisor::Bell;
use crate::version::{CpuStats, FilterVersion};
use crate::{Action, AttachPoint, Layer, OnFault};
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

/// Where a packet begins and how long it is, as the filter sees it.
#[derive(Clone, Copy)]
struct View {
    start: u32,
    buflen: u32,
    wirelen: u32,
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
            if current.as_ref().is_none_or(|c| c.version.generation < latest.generation) && slot.adopt(current) {
                self.bell.ring();
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

    /// One call of the compiled code for all packets of one cell; the others one by one.
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
        let mut tally = Tally::default();
        let program = version.artefact.program.as_ref();
        let mut at = [0u8; BURST];
        let mut n = 0;
        let descriptors = instance.descriptors();
        for (i, (&cell, verdict)) in cells.iter().zip(verdicts.iter_mut()).enumerate() {
            if *verdict != verdict::PASS {
                continue;
            }
            let Some(header) = self.header(cell) else {
                self.policy(verdict, &mut tally);
                continue;
            };
            let view = self.view(header);
            tally.packets += 1;
            tally.bytes += u64::from(view.wirelen);
            if let Some(program) = program
                && header.next != CELL_NONE
            {
                let bytes = self.gathered(cell, header, view, version.artefact.reach, gather);
                tally.interpreted += 1;
                settle(verdict, program.run(bytes, view.wirelen), version.action, &mut tally);
                continue;
            }
            descriptors[n] = Descriptor {
                off: (cell << self.pool.cell_shift) + view.start,
                buflen: view.buflen,
                wirelen: view.wirelen,
                reserved: 0,
            };
            at[n] = i as u8;
            n += 1;
        }
        if n == 0 {
            return tally;
        }
        match instance.run(n) {
            Ok(()) => {
                for (&i, &result) in at[..n].iter().zip(instance.results()) {
                    settle(&mut verdicts[usize::from(i)], result, version.action, &mut tally);
                }
            }
            Err(trap) => {
                if version.fault(stats, &trap) {
                    self.bell.ring();
                }
                tally.packets -= n as u64;
                at[..n].iter().for_each(|&i| self.policy(&mut verdicts[usize::from(i)], &mut tally));
            }
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
            let view = self.view(header);
            let bytes = self.gathered(cell, header, view, version.artefact.reach, gather);
            tally.packets += 1;
            tally.bytes += u64::from(view.wirelen);
            tally.interpreted += 1;
            settle(verdict, program.run(bytes, view.wirelen), version.action, &mut tally);
        }
        tally
    }

    #[cold]
    fn by_policy(&self, cells: &[Cell], verdicts: &mut [u32]) -> Tally {
        let mut tally = Tally::default();
        for (&cell, verdict) in cells.iter().zip(verdicts).filter(|(_, v)| **v == verdict::PASS) {
            tally.bytes += self.header(cell).map_or(0, |h| u64::from(self.view(h).wirelen));
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
        Some(unsafe { &*self.pool.base.add((cell as usize) << self.pool.cell_shift).cast::<PktHdr>() })
    }

    /// What the filter sees of a packet: from the header of its layer, which need not be where the data begins (the bytes
    /// in front of `data_off` are still there).
    #[inline(always)]
    fn view(&self, h: &PktHdr) -> View {
        let data = u32::from(h.data_off);
        let end = (data + u32::from(h.data_len)).min(1 << self.pool.cell_shift);
        let layer = match self.place.layer {
            Layer::Ether => h.l2_off,
            Layer::Inet => h.l3_off,
        };
        let start = if layer == 0 { data } else { u32::from(layer) };
        View { start, buflen: end.saturating_sub(start), wirelen: h.pkt_len.saturating_add(data).saturating_sub(start) }
    }

    /// The packet's bytes in one piece, at most `reach` of them when they lie in several cells.
    fn gathered<'a>(&'a self, cell: Cell, header: &PktHdr, view: View, reach: usize, gather: &'a mut [u8]) -> &'a [u8] {
        let first = self.bytes(cell, view.start, view.buflen);
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
            let part = self.bytes(next, u32::from(h.data_off), u32::from(h.data_len));
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

    /// Bytes of a cell, cut at its end.
    fn bytes(&self, cell: Cell, start: u32, len: u32) -> &[u8] {
        let size = 1u32 << self.pool.cell_shift;
        let start = start.min(size);
        let len = len.min(size - start);
        if cell >= self.pool.cells {
            return &[];
        }
        // SAFETY: inside a cell of the pool, to which nobody writes while the calling worker owns the packet.
        unsafe {
            let at = self.pool.base.add(((cell as usize) << self.pool.cell_shift) + start as usize);
            std::slice::from_raw_parts(at, len as usize)
        }
    }
}

// SAFETY: the pool's base pointer is used only for packets that the caller owns; all else is Send and Sync.
unsafe impl Send for Filter {}
// SAFETY: as above; each slot's local part belongs to one worker, see `judge`.
unsafe impl Sync for Filter {}

/// Turns what the program returned into a verdict.
#[inline(always)]
fn settle(verdict: &mut u32, result: u32, action: Action, tally: &mut Tally) {
    let matched = result != 0;
    let drop = matched != (action == Action::Pass);
    *verdict = u32::from(drop);
    tally.matched += u64::from(matched);
    tally.dropped += u64::from(drop);
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
