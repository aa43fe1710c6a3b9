//! Reassembly (RFC 791, section 3.2; RFC 815), for local delivery and for filters that ask.
//!
//! The fragments of a datagram belong to one worker, named by the hash of their addresses, so nothing here is locked.
//! Fragments that overlap end their datagram, as RFC 5722 demands for IPv6: no honest sender makes them, and what a
//! filter sees must be what the receiver gets. A repeated fragment is only ignored.

use super::decide::{ErrorKind, IpInfo, validate};
use crate::hash::toeplitz;
use crate::net::counters::{Account, IpStat};
use crate::net::path::Path;
use crate::slow::SlowEvent;
use crate::wire::ipv4::{self, MF, OFFSET_MASK};
use crate::wire::{be16, put16};
use smpnet_abi::{Cell, DropReason, HEADER_SIZE};
use smpnet_runtime::{Burst, Dir, Layer};
use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;

/// How long a datagram may be incomplete (NetBSD's IPFRAGTTL).
pub(crate) const TIMEOUT: u64 = 30_000_000_000;
/// Most fragments of a datagram: a packet has at most 255 cells, and no honest path needs more than 64 KiB / 576.
const MOST_PIECES: usize = 120;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    src: u32,
    dst: u32,
    id: u16,
    proto: u8,
}

struct Piece {
    from: u32,
    to: u32,
    cell: Cell,
}

struct Datagram {
    /// In order, without overlap.
    pieces: Vec<Piece>,
    /// Bytes of payload, when the last fragment is here.
    total: Option<u32>,
    expires: u64,
    rcvif: u32,
}

/// What a worker gathers.
#[derive(Default)]
pub(crate) struct Reassembly {
    open: HashMap<Key, Datagram>,
}

/// What becomes of a fragment.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Waits,
    Repeated,
    Bad,
    Complete,
}

impl Datagram {
    fn add(&mut self, from: u32, to: u32, last: bool, cell: Cell) -> Fate {
        if self.pieces.iter().any(|p| p.from == from && p.to == to) {
            return Fate::Repeated;
        }
        let at = self.pieces.partition_point(|p| p.from < from);
        let overlaps = at > 0 && self.pieces[at - 1].to > from || self.pieces.get(at).is_some_and(|p| p.from < to);
        let beyond = match self.total {
            Some(total) => last && total != to || to > total,
            None => last && self.pieces.last().is_some_and(|p| p.to > to),
        };
        if overlaps || beyond || self.pieces.len() >= MOST_PIECES {
            return Fate::Bad;
        }
        if last {
            self.total = Some(to);
        }
        self.pieces.insert(at, Piece { from, to, cell });
        let whole = self.pieces[0].from == 0
            && self.pieces.windows(2).all(|w| w[0].to == w[1].from)
            && self.total == self.pieces.last().map(|p| p.to);
        if whole { Fate::Complete } else { Fate::Waits }
    }
}

impl<'a> Path<'a> {
    /// A fragment goes to the worker that gathers its datagram. Its data begins at the IP header.
    pub(crate) fn fragment_to_owner(&mut self, rcvif: u32, c: Cell, info: &IpInfo) {
        let owner = toeplitz(info.src, info.dst, 0) as usize % self.s.workers();
        if owner == self.cpu.index() {
            self.reass_input(c);
            return;
        }
        if self.s.reass_queue.enqueue(Some(self.cpu), owner, &[c]) == 0 {
            self.account(Account::HeldOut, 1);
            self.drop(rcvif, DropReason::QueueFull, c);
        }
    }

    /// A fragment on the worker that gathers its datagram. It is counted as held.
    pub(crate) fn reass_input(&mut self, c: Cell) {
        let p = self.packet(c);
        let rcvif = p.hdr().rcvif;
        self.ip_stat(IpStat::Fragments, 1);
        let info = match validate(p.data(), p.len(), p.hdr().flags) {
            Ok(info) => info,
            Err(reason) => return self.drop_held(rcvif, reason, &[c]),
        };
        let from = u32::from(info.frag & OFFSET_MASK) * 8;
        let len = u32::from(info.total_len) - u32::from(info.header_len);
        let more = info.frag & MF != 0;
        // The pieces but the last come in units of 8 bytes, and none reaches beyond the largest packet.
        if len == 0 || more && len % 8 != 0 || from + len > 65535 - u32::from(info.header_len) {
            return self.drop_held(rcvif, DropReason::ReassBad, &[c]);
        }
        let key = Key { src: info.src, dst: info.dst, id: be16(p.data(), 4), proto: info.proto };
        let limit = (self.s.tunables.maxfragpackets.load(Relaxed) as usize).div_ceil(self.s.workers());
        if !self.w.reass.open.contains_key(&key) {
            if self.w.reass.open.len() >= limit {
                return self.drop_held(rcvif, DropReason::ReassLimit, &[c]);
            }
            if self.w.reass.open.is_empty() {
                self.s.slow.push(SlowEvent::ReassTimer { worker: self.cpu.index() as u32 });
            }
        }
        let expires = self.now + TIMEOUT;
        let d = self.w.reass.open.entry(key).or_insert_with(|| Datagram {
            pieces: Vec::new(),
            total: None,
            expires,
            rcvif,
        });
        match d.add(from, from + len, !more, c) {
            Fate::Waits => {}
            Fate::Repeated => self.drop_held(rcvif, DropReason::ReassBad, &[c]),
            Fate::Bad => {
                let mut cells: Vec<Cell> = vec![c];
                if let Some(d) = self.w.reass.open.remove(&key) {
                    cells.extend(d.pieces.iter().map(|p| p.cell));
                }
                self.drop_held(rcvif, DropReason::ReassBad, &cells);
            }
            Fate::Complete => {
                if let Some(d) = self.w.reass.open.remove(&key) {
                    self.reassembled(d);
                }
            }
        }
    }

    fn drop_held(&mut self, rcvif: u32, reason: DropReason, cells: &[Cell]) {
        self.account(Account::HeldOut, cells.len() as u64);
        for c in cells {
            self.drop(rcvif, reason, *c);
        }
    }

    /// Chains the pieces of a datagram and sends it on its way.
    fn reassembled(&mut self, d: Datagram) {
        self.account(Account::HeldOut, d.pieces.len() as u64);
        let mut pieces = d.pieces.iter();
        let Some(first) = pieces.next() else { return };
        let mut whole = self.packet(first.cell);
        let mut rest: Vec<Cell> = pieces.map(|p| p.cell).collect();
        while !rest.is_empty() {
            let mut piece = self.packet(rest[0]);
            let header = piece.data().first().map_or(0, |b| usize::from(b & 0xf) * 4);
            if !piece.pull_front(header) || !whole.append(piece) {
                for c in rest.drain(..) {
                    self.drop(d.rcvif, DropReason::ReassLimit, c);
                }
                self.drop(d.rcvif, DropReason::ReassLimit, first.cell);
                return;
            }
            // The piece is part of the first packet now: taken, not lost.
            self.account(Account::Consumed, 1);
            rest.remove(0);
        }
        let total = whole.len() as u16;
        let b = whole.data_mut();
        put16(b, 2, total);
        put16(b, 6, 0);
        ipv4::refresh_checksum(b);
        // A device's word on one fragment's checksums says nothing of the whole.
        let h = whole.hdr_mut();
        h.flags &= !(smpnet_abi::pkt_flags::RX_L4_OK | smpnet_abi::pkt_flags::RX_L4_BAD);
        self.ip_stat(IpStat::Reassembled, 1);
        self.whole_input(d.rcvif, first.cell);
    }

    /// A reassembled packet: before the filters when they asked for it, else to its receiver.
    fn whole_input(&mut self, rcvif: u32, c: Cell) {
        let Some(ifp) = self.ifnet(rcvif).filter(|i| i.running) else {
            return self.drop(rcvif, DropReason::IfDown, c);
        };
        let mut p = self.packet(c);
        self.pull_up(&mut p);
        if self.s.tunables.reass_for_filters.load(Relaxed) == 0 {
            let info = match validate(p.data(), p.len(), p.hdr().flags) {
                Ok(info) => info,
                Err(reason) => return self.drop_on(ifp, reason, c),
            };
            let off = p.hdr().data_off;
            p.hdr_mut().l3_off = off;
            self.ip_deliver(ifp, c, &info, false);
            return;
        }
        let mut burst = Burst::new();
        burst.push(c);
        self.run_hooks(ifp, Layer::Inet, Dir::In, &mut burst);
        if burst.is_empty() {
            return;
        }
        // A filter may have changed it.
        let p = self.packet(c);
        let info = match validate(p.data(), p.len(), p.hdr().flags) {
            Ok(info) => info,
            Err(reason) => return self.drop_on(ifp, reason, c),
        };
        let mut infos = [IpInfo::default(); smpnet_abi::BURST_MAX as usize];
        infos[0] = IpInfo { slow: true, ..info };
        self.ip_dispatch(ifp, burst.as_slice(), &infos);
    }

    /// Gives up datagrams whose time is over. Called by the clock twice a second while there are any.
    pub(crate) fn reass_expire(&mut self, now: u64) {
        let over: Vec<Key> = self.w.reass.open.iter().filter(|(_, d)| d.expires <= now).map(|(k, _)| *k).collect();
        for key in over {
            let Some(d) = self.w.reass.open.remove(&key) else { continue };
            // Only the first fragment says whom the error is about (RFC 792).
            if let Some(first) = d.pieces.first().filter(|p| p.from == 0) {
                self.icmp_error(first.cell, ErrorKind::ReassemblyTime);
            }
            let cells: Vec<Cell> = d.pieces.iter().map(|p| p.cell).collect();
            self.drop_held(d.rcvif, DropReason::ReassTimeout, &cells);
        }
        if !self.w.reass.open.is_empty() {
            self.s.slow.push(SlowEvent::ReassTimer { worker: self.cpu.index() as u32 });
        }
    }

    /// The interface goes away: what came in by it is dropped.
    pub(crate) fn forget_fragments(&mut self, rcvif: u32) {
        let gone: Vec<Key> = self.w.reass.open.iter().filter(|(_, d)| d.rcvif == rcvif).map(|(k, _)| *k).collect();
        for key in gone {
            if let Some(d) = self.w.reass.open.remove(&key) {
                let cells: Vec<Cell> = d.pieces.iter().map(|p| p.cell).collect();
                self.drop_held(rcvif, DropReason::Shutdown, &cells);
            }
        }
    }
}

const _: () = assert!(HEADER_SIZE == 64);

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram() -> Datagram {
        Datagram { pieces: Vec::new(), total: None, expires: 0, rcvif: 1 }
    }

    #[test]
    fn pieces_in_any_order_make_a_whole() {
        let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
        let pieces = [(0, 1480, false), (1480, 2960, false), (2960, 3000, true)];
        for order in orders {
            let mut d = datagram();
            for (n, i) in order.iter().enumerate() {
                let (from, to, last) = pieces[*i];
                let fate = d.add(from, to, last, *i as u32);
                assert_eq!(fate, if n == 2 { Fate::Complete } else { Fate::Waits }, "{order:?}");
            }
            assert_eq!(d.pieces.iter().map(|p| p.cell).collect::<Vec<_>>(), [0, 1, 2]);
        }
    }

    #[test]
    fn overlaps_and_contradictions_end_a_datagram_and_repetitions_do_not() {
        let mut d = datagram();
        assert_eq!(d.add(8, 24, false, 0), Fate::Waits);
        assert_eq!(d.add(8, 24, false, 1), Fate::Repeated);
        assert_eq!(d.add(16, 32, false, 2), Fate::Bad, "overlaps what is before it");
        assert_eq!(d.add(0, 16, false, 2), Fate::Bad, "overlaps what is behind it");
        assert_eq!(d.add(0, 5, true, 2), Fate::Bad, "a last piece before others");
        let mut d = datagram();
        assert_eq!(d.add(24, 30, true, 0), Fate::Waits);
        assert_eq!(d.add(32, 40, false, 1), Fate::Bad, "beyond the end");
        assert_eq!(d.add(30, 38, true, 1), Fate::Bad, "another end");
    }
}
