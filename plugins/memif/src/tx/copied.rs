//! Sending by one copy, out of cells into shared buffers: the way of a server, and of a client without zero copy.

use crate::{
    copy::{copy, prefetch_write},
    desc::{Desc, FRAME_MAX, NEXT, PIECES_MAX},
    ring::Ring,
    rx::{FromRing, OwnBuffers},
    stats::TxStats,
};
use smpnet_plugin::{BURST_MAX, Burst, PacketData, Worker};

/// A transmit ring that is copied into.
pub struct CopiedTx {
    ring: Ring,
    /// As a client: the memory is ours, and where a buffer lies is never asked of the ring.
    own: Option<OwnBuffers>,
    /// Index of the next entry to be filled.
    next: u16,
    pieces: Vec<Desc>,
}

/// Why a packet was not sent.
enum Unsent {
    /// There is no room now.
    Full,
    /// There will never be room.
    TooLong,
    /// The ring is broken.
    Broken(&'static str),
}

impl CopiedTx {
    /// A ring that begins at index 0.
    pub fn new(ring: Ring, own: Option<OwnBuffers>) -> Self {
        CopiedTx { ring, own, next: 0, pieces: Vec::with_capacity(PIECES_MAX) }
    }

    /// The ring.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// Entries that can be filled, or what is wrong with the peer's index.
    #[inline(always)]
    fn free(&self) -> FromRing<u16> {
        let size = self.ring.size();
        let free = match self.own {
            Some(_) => size.wrapping_sub(self.next.wrapping_sub(self.ring.tail())),
            None => self.ring.head().wrapping_sub(self.next),
        };
        if free <= size { Ok(free) } else { Err("the peer's index is further on than the ring is long") }
    }

    /// The empty buffer of an entry, and where it lies.
    #[inline(always)]
    fn buffer(&self, index: u16) -> FromRing<(Desc, *mut u8)> {
        let desc = match self.own {
            Some(own) => own.desc(index & (self.ring.size() - 1)),
            None => self.ring.read(index),
        };
        match self.ring.memory().buffer(desc) {
            Some(at) => Ok((desc, at)),
            None => Err("the peer lends a buffer outside of its memory"),
        }
    }

    /// Sends what fits, off the front of the burst. True when something was published.
    #[inline]
    pub fn send(&mut self, cx: &mut Worker<'_>, burst: &mut Burst, stats: &TxStats) -> FromRing<bool> {
        if burst.is_empty() {
            return Ok(false);
        }
        let mut free = self.free()?;
        let start = self.next;
        let (mut packets, mut bytes) = (0, 0);
        // On a fault what was put into the ring before is published all the same: it is sound.
        let mut fault = None;
        while !burst.is_empty() {
            let taken = match self.put_simple(burst, free, &mut bytes) {
                Ok(taken) => taken,
                Err(what) => {
                    fault = Some(what);
                    break;
                }
            };
            if taken > 0 {
                free -= taken as u16;
                packets += taken as u64;
                cx.free(burst.take_front(taken));
                continue;
            }
            let Some(packet) = burst.as_slice().first() else { break };
            match self.put_one(packet, free) {
                Ok(used) => {
                    free -= used;
                    packets += 1;
                    bytes += packet.len() as u64;
                }
                Err(Unsent::TooLong) => stats.too_long.add(1),
                Err(Unsent::Full) => {
                    stats.ring_full.add(1);
                    break;
                }
                Err(Unsent::Broken(what)) => {
                    fault = Some(what);
                    break;
                }
            }
            cx.free(burst.take_front(1));
        }
        let published = self.next != start;
        if published {
            match self.own {
                Some(_) => self.ring.set_head(self.next),
                None => self.ring.set_tail(self.next),
            }
            stats.packets.add(packets);
            stats.bytes.add(bytes);
        }
        fault.map_or(Ok(published), Err)
    }

    /// Copies packets of one cell that fit one buffer, until one does not; how many.
    #[inline(always)]
    fn put_simple(&mut self, burst: &Burst, free: u16, bytes: &mut u64) -> FromRing<usize> {
        let mut to = [(Desc::default(), std::ptr::null_mut::<u8>()); BURST_MAX];
        let mut n = 0;
        for ((place, slot), packet) in to.iter_mut().enumerate().zip(burst.iter()).take(usize::from(free)) {
            let (desc, at) = self.buffer(self.next.wrapping_add(place as u16))?;
            if packet.hdr().nsegs() != 1 || packet.len() > desc.length as usize || packet.len() == 0 {
                break;
            }
            // The peer read it last, on another core.
            prefetch_write(at);
            *slot = (desc, at);
            n += 1;
        }
        for ((desc, at), packet) in to.iter().zip(burst.iter()).take(n) {
            let data = packet.data();
            let len = data.len().min(desc.length as usize);
            // SAFETY: `buffer` says that `desc.length` bytes at `at` lie within mapped memory; cells lie elsewhere.
            unsafe { copy(data.as_ptr(), *at, len) };
            self.ring.write_first(self.next, Desc { flags: 0, length: len as u32, ..*desc });
            self.next = self.next.wrapping_add(1);
            *bytes += len as u64;
        }
        Ok(n)
    }

    /// Copies a packet of several cells or for several buffers; how many entries it took.
    #[cold]
    #[inline(never)]
    fn put_one(&mut self, packet: &PacketData, free: u16) -> Result<u16, Unsent> {
        let mut pieces = std::mem::take(&mut self.pieces);
        pieces.clear();
        let found = self.find_room(packet.len(), free, &mut pieces);
        let outcome = found.map(|()| self.scatter(packet, &pieces));
        self.pieces = pieces;
        outcome
    }

    /// Lists the next buffers, until they have room for `len` bytes.
    fn find_room(&self, len: usize, free: u16, pieces: &mut Vec<Desc>) -> Result<(), Unsent> {
        if len == 0 || len > FRAME_MAX {
            return Err(Unsent::TooLong);
        }
        let mut room = 0usize;
        while room < len {
            let n = pieces.len();
            if n == PIECES_MAX || n == usize::from(self.ring.size()) {
                return Err(Unsent::TooLong);
            }
            if n == usize::from(free) {
                return Err(Unsent::Full);
            }
            let (desc, _) = self.buffer(self.next.wrapping_add(n as u16)).map_err(Unsent::Broken)?;
            room += desc.length as usize;
            pieces.push(desc);
        }
        Ok(())
    }

    /// Copies a packet into buffers that have room for it.
    fn scatter(&mut self, packet: &PacketData, pieces: &[Desc]) -> u16 {
        let mut left = packet.len();
        let mut segments = packet.segments();
        let mut from: &[u8] = &[];
        let mut used = 0;
        for piece in pieces {
            let Some(at) = self.ring.memory().buffer(*piece) else { break };
            let mut filled = 0;
            while filled < piece.length as usize && left > 0 {
                if from.is_empty() {
                    match segments.next() {
                        Some(segment) => from = segment,
                        // Shorter than its header says: what is there is sent.
                        None => left = 0,
                    }
                    continue;
                }
                let n = from.len().min(piece.length as usize - filled).min(left);
                // SAFETY: `n` bytes of the segment, and of the buffer, which lies within mapped memory.
                unsafe { copy(from.as_ptr(), at.wrapping_add(filled), n) };
                from = &from[n..];
                filled += n;
                left -= n;
            }
            let flags = if left > 0 { NEXT } else { 0 };
            self.ring.write_first(self.next, Desc { flags, length: filled as u32, ..*piece });
            self.next = self.next.wrapping_add(1);
            used += 1;
            if left == 0 {
                break;
            }
        }
        used
    }

    /// Counts what is lost. As a server we cannot know: how far the client has read does not stand in the ring.
    pub fn end(&mut self, stats: &TxStats) {
        if self.own.is_some()
            && let Ok(free) = self.free()
        {
            let tail = self.next.wrapping_sub(self.ring.size() - free);
            stats.lost_at_disconnect.add(self.ring.packets_between(tail, self.next));
        }
    }
}
