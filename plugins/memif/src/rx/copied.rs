//! Receiving by one copy, out of shared buffers into cells: the way of a server, and of a client without zero copy.

use super::{FromRing, Stash};
use crate::{
    copy::{copy, prefetch_read},
    desc::{Desc, Fault, PIECES_MAX, walk},
    ring::Ring,
    stats::RxStats,
};
use smpnet_plugin::{BURST_MAX, Burst, Packet, Worker};

/// The buffers of a ring whose memory is ours: one for each entry, side by side.
#[derive(Clone, Copy)]
pub struct OwnBuffers {
    /// Where the first one begins in region 0.
    pub offset: u32,
    /// Bytes of each.
    pub size: u32,
}

impl OwnBuffers {
    /// The empty buffer of an entry.
    #[inline(always)]
    pub fn desc(&self, place: u16) -> Desc {
        // The layout was checked to lie below 4 GiB when it was made.
        let offset = self.offset.wrapping_add(u32::from(place).wrapping_mul(self.size));
        Desc { flags: 0, region: 0, length: self.size, offset }
    }
}

/// A receive ring that is copied from.
pub struct CopiedRx {
    ring: Ring,
    /// As a client: the memory is ours, and where a buffer lies is never asked of the ring.
    own: Option<OwnBuffers>,
    /// Index of the next packet.
    next: u16,
    /// Bytes that a fresh cell takes.
    room: usize,
    queue: u16,
    stash: Stash,
    pieces: Vec<Desc>,
}

impl CopiedRx {
    /// A ring that begins at index 0.
    pub fn new(ring: Ring, own: Option<OwnBuffers>, queue: u16, room: usize) -> Self {
        let pieces = Vec::with_capacity(PIECES_MAX);
        CopiedRx { ring, own, next: 0, room, queue, stash: Stash::default(), pieces }
    }

    /// The ring.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// The worker's first act: as a client, lends all buffers.
    pub fn begin(&mut self) {
        if self.own.is_some() {
            self.ring.set_head(self.ring.size());
        }
    }

    /// Entries that the peer has filled, or what is wrong with its index.
    #[inline(always)]
    fn filled(&self) -> FromRing<u16> {
        let theirs = if self.own.is_some() { self.ring.tail() } else { self.ring.head() };
        let filled = theirs.wrapping_sub(self.next);
        if filled <= self.ring.size() {
            Ok(filled)
        } else {
            Err("the peer's index is further on than the ring is long")
        }
    }

    /// Whether packets wait.
    pub fn pending(&self) -> bool {
        self.filled() != Ok(0)
    }

    /// A descriptor, with our own word on where its buffer lies if the memory is ours.
    #[inline(always)]
    fn desc(&self, index: u16) -> Desc {
        let mut desc = self.ring.read(index);
        if let Some(own) = self.own {
            let buffer = own.desc(index & (self.ring.size() - 1));
            (desc.region, desc.offset) = (0, buffer.offset);
            if desc.length > own.size {
                // Into the next buffer, which may be another packet's. No length is a fault, too.
                desc.length = 0;
            }
        }
        desc
    }

    /// Receives at most `max` packets.
    #[inline]
    pub fn receive(&mut self, cx: &mut Worker<'_>, out: &mut Burst, max: usize, stats: &RxStats) -> FromRing<()> {
        let mut filled = self.filled()?;
        if filled == 0 {
            return Ok(());
        }
        let (start, before) = (self.next, out.len());
        let max = before + max;
        let mut bytes = 0;
        while filled > 0 && out.len() < max {
            let want = usize::from(filled).min(max - out.len());
            let taken = match self.take_simple(cx, out, want, &mut bytes) {
                Taken::All(n) => n,
                Taken::NoCell(n) => {
                    self.next = self.next.wrapping_add(n);
                    stats.no_cell.add(1);
                    break;
                }
            };
            if taken == 0 {
                // A chain, a large packet, or a bad one.
                let Some(used) = self.take_one(cx, out, filled, &mut bytes, stats) else {
                    stats.no_cell.add(1);
                    break;
                };
                self.next = self.next.wrapping_add(used);
                filled -= used;
                continue;
            }
            self.next = self.next.wrapping_add(taken);
            filled -= taken;
        }
        stats.packets.add((out.len() - before) as u64);
        stats.bytes.add(bytes);
        self.give_buffers_back(start);
        Ok(())
    }

    /// Takes packets of one buffer that fit one cell, until one does not.
    #[inline(always)]
    fn take_simple(&mut self, cx: &mut Worker<'_>, out: &mut Burst, want: usize, bytes: &mut u64) -> Taken {
        let mut from = [(std::ptr::null::<u8>(), 0u32); BURST_MAX];
        let mut n = 0;
        for (place, slot) in from.iter_mut().enumerate().take(want) {
            let desc = self.desc(self.next.wrapping_add(place as u16));
            if desc.flags & crate::desc::NEXT != 0 || desc.length as usize > self.room {
                break;
            }
            let Some(buffer) = self.ring.memory().buffer(desc) else { break };
            // The peer wrote it on another core: that costs as much as a hundred instructions, for all of them at once.
            prefetch_read(buffer);
            *slot = (buffer, desc.length);
            n += 1;
        }
        if n == 0 {
            return Taken::All(0);
        }
        let first = out.len();
        let got = cx.alloc_burst(n, out);
        let cells = out.as_mut_slice().get_mut(first..).unwrap_or_default();
        for (packet, (buffer, len)) in cells.iter_mut().zip(from) {
            let room = packet.buffer_mut();
            // A fresh cell has `room` bytes, and no more were let through.
            let len = (len as usize).min(room.len());
            // SAFETY: `buffer` says that the peer's bytes lie within mapped memory, and the cell has room for them.
            unsafe { copy(buffer, room.as_mut_ptr(), len) };
            packet.set_len(len);
            packet.hdr_mut().rx_queue = self.queue;
            *bytes += len as u64;
        }
        if got < n { Taken::NoCell(got as u16) } else { Taken::All(n as u16) }
    }

    /// Takes the next packet, whatever it is; how many entries it had, or none when there are no cells for it.
    #[cold]
    #[inline(never)]
    fn take_one(
        &mut self,
        cx: &mut Worker<'_>,
        out: &mut Burst,
        filled: u16,
        bytes: &mut u64,
        stats: &RxStats,
    ) -> Option<u16> {
        let mut pieces = std::mem::take(&mut self.pieces);
        let memory = self.ring.memory();
        let next = self.next;
        let walked = walk(filled, |i| self.desc(next.wrapping_add(i)), |d| memory.buffer(d).is_some(), &mut pieces);
        let mut taken = Some(walked.used);
        match walked.outcome {
            Err(Fault::Descriptor) => stats.bad_descriptors.add(1),
            Err(Fault::Chain) => stats.bad_chains.add(1),
            Ok(len) => {
                let need = len.div_ceil(self.room).max(1);
                if need > BURST_MAX {
                    stats.bad_chains.add(1);
                } else if !self.stash.want(cx, need) {
                    taken = None;
                } else if let Some(mut packet) = self.gather(&pieces, need) {
                    packet.hdr_mut().rx_queue = self.queue;
                    *bytes += len as u64;
                    let _fits = out.push(packet);
                }
            }
        }
        self.pieces = pieces;
        if taken.is_some() && self.own.is_none() {
            self.clear_flags(walked.used);
        }
        taken
    }

    /// Takes the flags off descriptors of a chain that are about to be the client's again. It is the client's to set flags,
    /// but DPDK up to 26.03 sets only [`crate::desc::NEXT`] and never takes it off, so that after one round of the ring
    /// every packet would be part of a chain.
    fn clear_flags(&self, used: u16) {
        for place in 0..used {
            let index = self.next.wrapping_add(place);
            self.ring.write_first(index, Desc { flags: 0, ..self.ring.read(index) });
        }
    }

    /// Copies the pieces of a packet into the first `need` cells of the stash.
    fn gather(&mut self, pieces: &[Desc], need: usize) -> Option<Packet> {
        let memory = self.ring.memory();
        let mut cells = self.stash.cells().iter_mut();
        let mut cell = cells.next()?;
        let mut at = 0;
        for piece in pieces {
            let (mut from, mut left) = (memory.buffer(*piece)?.cast_const(), piece.length as usize);
            while left > 0 {
                if at == self.room {
                    cell.set_len(at);
                    cell = cells.next()?;
                    at = 0;
                }
                let room = cell.buffer_mut().get_mut(at..self.room)?;
                let n = left.min(room.len());
                // SAFETY: `left` bytes of the piece lie within mapped memory, and the cell has room for `n`.
                unsafe { copy(from, room.as_mut_ptr(), n) };
                from = from.wrapping_add(n);
                left -= n;
                at += n;
            }
        }
        cell.set_len(at);
        self.stash.chain(need)
    }

    /// Publishes that the entries from `start` on were emptied.
    #[inline(always)]
    fn give_buffers_back(&mut self, start: u16) {
        if self.next == start {
            return;
        }
        match self.own {
            None => self.ring.set_tail(self.next),
            Some(own) => {
                let mut index = start;
                while index != self.next {
                    self.ring.write(index, own.desc(index & (self.ring.size() - 1)));
                    index = index.wrapping_add(1);
                }
                self.ring.set_head(self.next.wrapping_add(self.ring.size()));
            }
        }
    }

    /// Gives back all cells, and counts what is lost.
    pub fn end(&mut self, cx: &mut Worker<'_>, stats: &RxStats) {
        cx.free(self.stash.take());
        if let Ok(filled) = self.filled() {
            stats.lost_at_disconnect.add(self.ring.packets_between(self.next, self.next.wrapping_add(filled)));
        }
    }
}

enum Taken {
    /// This many entries; what follows is not simple, or not asked for.
    All(u16),
    /// This many, for want of cells.
    NoCell(u16),
}
