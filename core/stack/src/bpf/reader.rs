//! The reading end of a listener: merges the rings of the CPUs into one stream in the order of time.

use super::listener::{Listener, PLACES, Stat};
use super::record::{Captured, HEADER, Header};
use crate::stack::Stack;
use serde::Serialize;
use smpnet_runtime::{RingReader, now_ns};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// The longest that the stream waits for a worker that is in the middle of a tap, in nanoseconds: a thread that the kernel
/// has put aside for longer may come late.
const WINDOW: u64 = 200_000_000;
/// How long a reader that found something rests before it looks again, so that workers under load never wake it.
const REST: Duration = Duration::from_millis(2);

/// What a listener counted on one interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct IfTally {
    /// Packets that the filter saw.
    pub received: u64,
    /// Packets that it accepted.
    pub matched: u64,
    /// Accepted packets that found no room.
    pub dropped: u64,
}

/// Reads what a listener hears. One control thread; dropping it ends the listener.
pub struct CaptureReader {
    pub(super) stack: Weak<Stack>,
    pub(super) listener: Arc<Listener>,
    pub(super) lanes: Vec<Lane>,
    /// The record at hand: note and bytes.
    pub(super) buffer: Vec<u8>,
    /// The last pass found something.
    pub(super) busy: bool,
}

/// One CPU's ring.
pub(super) struct Lane {
    pub ring: RingReader,
    /// The header of the next record, once it was read.
    pub next: Option<Header>,
}

impl Lane {
    fn look(&mut self) -> Option<Header> {
        if self.next.is_none() && self.ring.available() > 0 {
            let mut bytes = [0; HEADER];
            self.ring.peek(0, &mut bytes);
            self.next = Some(Header::decode(&bytes));
        }
        self.next
    }
}

impl CaptureReader {
    /// The listener.
    pub fn listener(&self) -> &Arc<Listener> {
        &self.listener
    }

    /// Hands on, in the order of time, every packet before which no other can come any more, until `take` returns false.
    /// Returns how many.
    pub fn drain(&mut self, mut take: impl FnMut(&Captured<'_>) -> bool) -> u64 {
        let now = now_ns();
        let complete = self.lanes.iter().map(|l| l.ring.horizon(now)).min().unwrap_or(now);
        let horizon = complete.max(now.saturating_sub(WINDOW));
        let mut n = 0;
        loop {
            let mut first: Option<(usize, Header)> = None;
            for (worker, lane) in self.lanes.iter_mut().enumerate() {
                if let Some(h) = lane.look()
                    && first.is_none_or(|(_, f)| h.stamp < f.stamp)
                {
                    first = Some((worker, h));
                }
            }
            // Strictly before: a worker inside may still write with the very stamp of the horizon.
            let Some((worker, h)) = first.filter(|(_, h)| h.stamp < horizon) else { break };
            let go_on = self.hand_on(worker, &h, &mut take);
            n += 1;
            if !go_on {
                break;
            }
        }
        self.listener.delivered.fetch_add(n, Ordering::Relaxed);
        self.busy = n > 0;
        n
    }

    fn hand_on(&mut self, worker: usize, h: &Header, take: &mut impl FnMut(&Captured<'_>) -> bool) -> bool {
        let lane = &mut self.lanes[worker];
        self.buffer.resize(h.record_len() - HEADER, 0);
        lane.ring.peek(HEADER, &mut self.buffer);
        lane.ring.take(h.record_len());
        lane.next = None;
        let (note, bytes) = self.buffer.split_at(usize::from(h.note));
        take(&Captured {
            time_ns: h.stamp.wrapping_add(self.listener.epoch),
            worker,
            ifindex: h.ifindex,
            dir: h.dir,
            wire_len: h.wire_len,
            bytes,
            what: h.what,
            // Notes are cut at characters.
            note: std::str::from_utf8(note).unwrap_or_default(),
            generation: h.generation,
            lost: h.lost,
        })
    }

    /// Waits until there may be something to drain, at most `patience`; false when the listener ended. What is in the rings
    /// then can still be drained.
    pub fn wait(&mut self, patience: Duration) -> bool {
        let l = &self.listener;
        if self.busy {
            std::thread::sleep(REST.min(patience));
            return !l.closed.load(Ordering::Acquire);
        }
        l.bell.door.arm();
        let idle = self.lanes.iter().all(|lane| lane.ring.available() == 0);
        if idle && !l.closed.load(Ordering::Acquire) {
            l.bell.sleep(patience);
        } else if !idle {
            // A record that waits for its horizon: a worker is in the middle of a tap.
            std::thread::sleep(Duration::from_micros(50));
        }
        l.bell.door.disarm();
        !l.closed.load(Ordering::Acquire)
    }

    /// Whether there is anything in the rings, ready to be handed on or not.
    pub fn pending(&self) -> bool {
        self.lanes.iter().any(|l| l.ring.available() > 0)
    }

    /// Takes the listener out: no worker is in it any more when this returns, and what was captured can be drained to its
    /// end.
    pub fn close(&mut self) {
        if let Some(stack) = self.stack.upgrade() {
            stack.bpf_close(self.listener.id);
        }
    }

    /// What was counted on an interface.
    pub fn tally(&self, ifindex: u32) -> IfTally {
        let place = self.listener.places.iter().position(|p| p.load(Ordering::Relaxed) == ifindex);
        let of = |s: Stat| self.listener.sum(Some(place.unwrap_or(PLACES - 1)), s);
        IfTally { received: of(Stat::Received), matched: of(Stat::Matched), dropped: of(Stat::Dropped) }
    }
}

impl Drop for CaptureReader {
    fn drop(&mut self) {
        self.close();
    }
}
