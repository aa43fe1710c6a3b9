//! Where workers meet listeners.

use super::Bpf;
use super::frame::Frame;
use super::listener::{Listener, PLACES, STATS, Seen, Settings, Slot, Stat};
use super::record::{Header, NOTE_MAX, What};
use crate::net::ifnet::Medium;
use smpnet_abi::{BURST_MAX, Cell, DropReason};
use smpnet_runtime::{Cpu, Dir, Pool, Section, now_ns};

const MAX: usize = BURST_MAX as usize;

/// Where a worker is with the packets that it shows.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    pub cpu: Cpu,
    pub pool: &'a Pool,
    pub section: Section<'a>,
    pub ifindex: u32,
    pub medium: Medium,
}

/// What is the same for all packets of a call.
struct Cause<'a> {
    what: What,
    dir: Option<Dir>,
    note: &'a str,
}

impl Bpf {
    /// Shows a burst of at most 64 packets to those who listen there. Worker.
    #[cold]
    #[inline(never)]
    pub(crate) fn tap(&self, at: &At<'_>, dir: Dir, cells: &[Cell]) {
        for listener in self.listeners.read(at.section) {
            let settings = listener.settings.read(at.section);
            if !settings.hears(at.ifindex, dir) {
                continue;
            }
            let Some(first) = cells.first() else { return };
            let frame = |c: &Cell| Frame::at_edge(at.pool, at.medium, listener.link, *c);
            let mut frames = [frame(first); MAX];
            for (f, c) in frames.iter_mut().zip(cells).skip(1) {
                *f = frame(c);
            }
            let frames = &frames[..cells.len().min(MAX)];
            listener.take(at, settings, &Cause { what: What::Passed, dir: Some(dir), note: "" }, frames);
        }
    }

    /// Shows a packet that is about to be dropped. `note` says which filter it was. Worker.
    #[cold]
    #[inline(never)]
    pub(crate) fn tap_drop(&self, at: &At<'_>, reason: DropReason, dir: Option<Dir>, note: &str, cell: Cell) {
        if reason == DropReason::Consumed {
            return;
        }
        let mut end = note.len().min(NOTE_MAX);
        while !note.is_char_boundary(end) {
            end -= 1;
        }
        for listener in self.listeners.read(at.section) {
            let settings = listener.settings.read(at.section);
            if settings.drops && settings.on(at.ifindex) {
                let frame = Frame::inside(at.pool, at.medium, listener.link, cell);
                let cause = Cause { what: What::Dropped(reason), dir, note: &note[..end] };
                listener.take(at, settings, &cause, &[frame]);
            }
        }
    }
}

impl Listener {
    /// Judges packets of one interface, and copies those accepted into this CPU's ring.
    fn take(&self, at: &At<'_>, settings: &Settings, cause: &Cause<'_>, frames: &[Frame<'_>]) {
        let place = self.place(at.ifindex);
        let rung = self.slots.with(at.cpu, |slot| {
            let mut keep = [u32::MAX; MAX];
            judge(at, settings, slot, frames, &mut keep);
            let (mut matched, mut bytes, mut dropped) = (0u64, 0u64, 0u64);
            let stamp = slot.writer.enter(now_ns);
            for (frame, keep) in frames.iter().zip(&keep) {
                if *keep == 0 {
                    continue;
                }
                matched += 1;
                let wire_len = frame.wire_len();
                let kept = wire_len.min(self.snaplen).min(*keep);
                let header = Header {
                    kept,
                    wire_len,
                    ifindex: at.ifindex,
                    stamp,
                    generation: settings.generation,
                    lost: slot.lost[place],
                    what: cause.what,
                    dir: cause.dir,
                    note: cause.note.len() as u8,
                };
                if !slot.writer.room(header.record_len()) {
                    dropped += 1;
                    slot.lost[place] = slot.lost[place].saturating_add(1);
                    continue;
                }
                slot.lost[place] = 0;
                slot.writer.put(&header.encode());
                slot.writer.put(cause.note.as_bytes());
                copy(slot, frame, kept as usize);
                bytes += u64::from(kept);
            }
            slot.writer.leave();
            let add = |stat: Stat, n: u64| self.counters.add(at.cpu, place * STATS + stat as usize, n);
            add(Stat::Received, frames.len() as u64);
            add(Stat::Matched, matched);
            add(Stat::Bytes, bytes);
            if dropped > 0 {
                add(Stat::Dropped, dropped);
            }
            matched > 0 && self.bell.door.must_ring()
        });
        if rung {
            self.bell.wake();
        }
    }
}

/// The first `n` bytes of a packet go into the ring.
fn copy(slot: &mut Slot, frame: &Frame<'_>, n: usize) {
    let mut left = n;
    frame.pieces(|bytes| {
        let part = &bytes[..bytes.len().min(left)];
        slot.writer.put(part);
        left -= part.len();
        left > 0
    });
    // A packet whose header promises more than its cells hold is filled up, so that the record keeps its length.
    while left > 0 {
        let part = left.min(64);
        slot.writer.put(&[0; 64][..part]);
        left -= part;
    }
}

/// What the filter keeps of each packet: those in one piece in one call, the others one by one.
fn judge(at: &At<'_>, settings: &Settings, slot: &mut Slot, frames: &[Frame<'_>], keep: &mut [u32; MAX]) {
    let Some(filter) = &settings.filter else { return };
    let empty = Seen { bytes: &[], wire_len: 0 };
    let (mut seen, mut which, mut n) = ([empty; MAX], [0u8; MAX], 0);
    for (i, frame) in frames.iter().enumerate() {
        let wire_len = frame.wire_len();
        match frame.whole() {
            Some(bytes) => {
                seen[n] = Seen { bytes, wire_len };
                which[n] = i as u8;
                n += 1;
            }
            None => {
                let got = frame.gather(&mut slot.gather);
                let one = Seen { bytes: &slot.gather[..got], wire_len };
                filter.judge(at.cpu, &[one], &mut keep[i..=i]);
            }
        }
    }
    if n > 0 {
        let mut answers = [0u32; MAX];
        filter.judge(at.cpu, &seen[..n], &mut answers[..n]);
        for (i, answer) in which[..n].iter().zip(answers) {
            keep[usize::from(*i)] = answer;
        }
    }
}

const _: () = assert!(PLACES > 1 && MAX <= u8::MAX as usize);
