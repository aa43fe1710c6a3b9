//! A new version that runs beside the one in force: on the same packets, with nobody acting on what it says.
//!
//! The shadow is asked first, while the packets are as both are to see them; then the filter judges; then the two are
//! compared: verdict, mark, and what edits make of the packet. Differences are counted and the first of them are kept with the
//! packet's bytes. A fault of the shadow ends the shadow and nothing else.

use crate::guest::{Fault, GuestInstance, apply};
use crate::slot::Prepared;
use crate::version::{Count, FilterVersion};
use crossbeam_queue::ArrayQueue;
use crossbeam_utils::CachePadded;
use crossbeam_utils::atomic::AtomicCell;
use serde::Serialize;
use smpnet_abi::{BURST_MAX, verdict};
use smpnet_filter_abi as abi;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

const BURST: usize = BURST_MAX as usize;
/// Differences that are kept until they are asked for.
const SAMPLES: usize = 256;
/// Bytes of a packet that are kept and compared.
pub(crate) const SAMPLE_BYTES: usize = 2048;

/// What one of two versions says of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Opinion {
    /// `pass`, `drop` or `reject`.
    pub verdict: &'static str,
    /// The packet's mark afterwards.
    pub mark: u32,
    /// The packet's first bytes afterwards, when either version changed it.
    #[serde(skip)]
    pub bytes: Option<Vec<u8>>,
}

/// A packet that two versions do not agree on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Nanoseconds on the worker's clock, which counts from boot.
    pub now_ns: u64,
    /// Index of the worker.
    pub worker: usize,
    /// The interface.
    pub ifindex: u32,
    /// What the packet begins with: a value of `smpnet_filter_abi::layer`.
    pub layer: u32,
    /// Whether it went out.
    pub out: bool,
    /// Bytes that it had.
    pub wire_len: u32,
    /// Its first bytes, at most 2,048, before either version changed it.
    #[serde(skip)]
    pub packet: Vec<u8>,
    /// What the version in force said, and what was done.
    pub live: Opinion,
    /// What the shadow said.
    pub shadow: Opinion,
}

/// What a shadow counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DiffCounts {
    /// Packets that both judged.
    pub packets: u64,
    /// Packets on which they agree.
    pub same: u64,
    /// Packets with another verdict.
    pub verdict: u64,
    /// Packets that both pass, with another mark.
    pub mark: u64,
    /// Packets that both pass, with other bytes.
    pub edit: u64,
    /// Differences of which no sample was kept, because there were too many.
    pub unsampled: u64,
}

/// How a shadow differs from the filter that it runs beside.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Diff {
    /// Name of the filter.
    pub name: String,
    /// Number of the generation in force.
    pub generation: u64,
    /// What the shadow's code is.
    pub text: String,
    /// SHA-256 of its module.
    pub sha256: String,
    /// Since the shadow was loaded, over all workers.
    pub counts: DiffCounts,
    /// The same for each worker.
    pub per_worker: Vec<DiffCounts>,
    /// The fault that ended the shadow.
    pub fault: Option<String>,
    /// Differences since the last call, oldest first.
    pub samples: Vec<Difference>,
}

/// What the workers and the manager share of a shadow.
pub(crate) struct Shared {
    pub(crate) version: Arc<FilterVersion>,
    counts: Box<[CachePadded<Counters>]>,
    samples: ArrayQueue<Difference>,
    pub(crate) fault: OnceLock<String>,
}

#[derive(Default)]
struct Counters {
    packets: Count,
    same: Count,
    verdict: Count,
    mark: Count,
    edit: Count,
    unsampled: Count,
}

impl Shared {
    pub(crate) fn new(version: Arc<FilterVersion>, workers: usize) -> Shared {
        Shared {
            version,
            counts: (0..workers).map(|_| CachePadded::default()).collect(),
            samples: ArrayQueue::new(SAMPLES),
            fault: OnceLock::new(),
        }
    }

    pub(crate) fn diff(&self, name: &str, generation: u64) -> Diff {
        let read = |c: &CachePadded<Counters>| DiffCounts {
            packets: c.packets.get(),
            same: c.same.get(),
            verdict: c.verdict.get(),
            mark: c.mark.get(),
            edit: c.edit.get(),
            unsampled: c.unsampled.get(),
        };
        let per_worker: Vec<DiffCounts> = self.counts.iter().map(read).collect();
        let sum = |f: fn(&DiffCounts) -> u64| per_worker.iter().map(f).sum();
        Diff {
            name: name.to_owned(),
            generation,
            text: self.version.artefact.text.clone(),
            sha256: self.version.artefact.sha256.clone(),
            counts: DiffCounts {
                packets: sum(|c| c.packets),
                same: sum(|c| c.same),
                verdict: sum(|c| c.verdict),
                mark: sum(|c| c.mark),
                edit: sum(|c| c.edit),
                unsampled: sum(|c| c.unsampled),
            },
            fault: self.fault.get().cloned(),
            samples: std::iter::from_fn(|| self.samples.pop()).collect(),
            per_worker,
        }
    }
}

/// A worker's shadow.
pub(crate) struct Unit {
    pub(crate) prepared: Prepared,
    pub(crate) shared: Arc<Shared>,
    pub(crate) notes: Box<Notes>,
}

/// What the shadow said of a burst, and how the packets were before. By the packets' places in the burst.
pub(crate) struct Notes {
    /// Packets that the shadow judged.
    pub(crate) judged: u64,
    pub(crate) verdicts: [u32; BURST],
    pub(crate) marks: [u32; BURST],
    pub(crate) lens: [u16; BURST],
    /// First bytes of each packet, before.
    pub(crate) before: Box<[[u8; SAMPLE_BYTES]; BURST]>,
    /// The same as the shadow changed them; in use for the packets of `edited`.
    pub(crate) after: Box<[[u8; SAMPLE_BYTES]; BURST]>,
    pub(crate) edited: u64,
}

impl Unit {
    pub(crate) fn new(prepared: Prepared, shared: Arc<Shared>) -> Box<Unit> {
        let room = || {
            let all = vec![[0u8; SAMPLE_BYTES]; BURST].into_boxed_slice();
            // As many as were asked for.
            <Box<[[u8; SAMPLE_BYTES]; BURST]>>::try_from(all).unwrap_or_else(|_| unreachable!())
        };
        let notes = Notes {
            judged: 0,
            verdicts: [0; BURST],
            marks: [0; BURST],
            lens: [0; BURST],
            before: room(),
            after: room(),
            edited: 0,
        };
        Box::new(Unit { prepared, shared, notes: Box::new(notes) })
    }

    /// Ends the shadow, on this worker and, as they look, on the others.
    #[cold]
    pub(crate) fn fail(&mut self, fault: &Fault) {
        self.prepared.broken = true;
        let _ = self.shared.fault.set(fault.line.clone());
    }
}

impl Notes {
    /// Takes down what a module said of `n` packets at these places.
    pub(crate) fn take(&mut self, guest: &mut GuestInstance, n: usize, patches: usize, places: &[u8; BURST]) {
        for (said, place) in guest.verdicts(n).iter().zip(places) {
            let i = usize::from(*place);
            self.judged |= 1 << i;
            self.verdicts[i] = said.verdict & 0xff;
            if said.verdict & abi::verdict::MARK != 0 {
                self.marks[i] = said.mark;
            }
        }
        if patches == 0 {
            return;
        }
        let told: [_; BURST] = std::array::from_fn(|i| guest.told(i).at());
        let mut all = guest.patches(patches);
        while let Ok(Some((patch, bytes))) = all.next() {
            let i = usize::from(places[usize::from(patch.packet)]);
            if self.edited >> i & 1 == 0 {
                self.after[i] = self.before[i];
                self.edited |= 1 << i;
            }
            let len = usize::from(self.lens[i]);
            apply(&mut self.after[i][..len], told[usize::from(patch.packet)], false, &patch, bytes);
        }
    }
}

/// A packet after the version in force was done with it.
pub(crate) struct After<'a> {
    pub(crate) verdict: u32,
    pub(crate) mark: u32,
    pub(crate) bytes: &'a [u8],
    pub(crate) wire_len: u32,
}

impl Shared {
    /// Compares what both said of the packet at place `i`.
    pub(crate) fn compare(&self, notes: &Notes, i: usize, live: &After<'_>, asked: &crate::Asked) {
        let Some(counts) = self.counts.get(asked.worker) else { return };
        counts.packets.add(1);
        let len = usize::from(notes.lens[i]);
        let before = &notes.before[i][..len];
        let shadow = if notes.edited >> i & 1 == 1 { &notes.after[i][..len] } else { before };
        let both_pass = live.verdict == verdict::PASS && notes.verdicts[i] == verdict::PASS;
        let which = if live.verdict != notes.verdicts[i] {
            &counts.verdict
        } else if both_pass && live.mark != notes.marks[i] {
            &counts.mark
        } else if both_pass && live.bytes != shadow {
            &counts.edit
        } else {
            return counts.same.add(1);
        };
        which.add(1);
        // Samples take memory from the allocator, but no more of them than there is room.
        if self.samples.is_full() {
            return counts.unsampled.add(1);
        }
        let opinion = |verdict: u32, mark, bytes: &[u8]| Opinion {
            verdict: name(verdict),
            mark,
            bytes: (bytes != before && verdict == verdict::PASS).then(|| bytes.to_vec()),
        };
        let sample = Difference {
            now_ns: asked.now_ns,
            worker: asked.worker,
            ifindex: asked.ifindex,
            layer: asked.layer,
            out: asked.out,
            wire_len: live.wire_len,
            packet: before.to_vec(),
            live: opinion(live.verdict, live.mark, live.bytes),
            shadow: opinion(notes.verdicts[i], notes.marks[i], shadow),
        };
        if self.samples.push(sample).is_err() {
            counts.unsampled.add(1);
        }
    }
}

fn name(v: u32) -> &'static str {
    match v & 0xff {
        verdict::PASS => "pass",
        abi::verdict::REJECT => "reject",
        _ => "drop",
    }
}

/// Where a worker's shadow comes and goes.
pub(crate) struct Door {
    mailbox: AtomicCell<Option<Box<Unit>>>,
    retired: ArrayQueue<Box<Unit>>,
    /// One more for each change of the mailbox.
    changes: AtomicU64,
}

impl Door {
    pub(crate) fn new() -> Door {
        Door { mailbox: AtomicCell::new(None), retired: ArrayQueue::new(4), changes: AtomicU64::new(0) }
    }

    /// Control: leaves a shadow for the worker, or takes the one away that it has. Returns what nobody needs any more.
    #[expect(clippy::vec_box, reason = "they change hands as boxes")]
    pub(crate) fn offer(&self, unit: Option<Box<Unit>>) -> Vec<Box<Unit>> {
        let mut gone = self.take_retired();
        gone.extend(self.mailbox.swap(unit));
        self.changes.fetch_add(1, Ordering::Release);
        gone.extend(self.take_retired());
        gone
    }

    #[expect(clippy::vec_box, reason = "they change hands as boxes")]
    pub(crate) fn take_retired(&self) -> Vec<Box<Unit>> {
        std::iter::from_fn(|| self.retired.pop()).collect()
    }

    /// Worker: looks for a change. Two loads when there is none.
    #[inline(always)]
    pub(crate) fn look(&self, seen: &mut u64, current: &mut Option<Box<Unit>>) {
        let changes = self.changes.load(Ordering::Acquire);
        if changes != *seen {
            *seen = changes;
            let old = std::mem::replace(current, self.mailbox.take());
            if let Some(old) = old {
                // There is room: the control thread empties the queue at each change.
                drop(self.retired.push(old));
            }
        }
    }
}
