//! Sending without a copy: a client lends the cells of its packets, and the server reads out of them.

use crate::{
    desc::{Desc, FRAME_MAX, NEXT},
    ring::Ring,
    rx::{FromRing, POOL_REGION},
    stats::TxStats,
};
use smpnet_plugin::{Burst, Packet, PacketData, Worker, abi::CELL_NONE, abi::Cell, abi::PoolDesc};

/// A transmit ring of lent cells.
pub struct LentTx {
    ring: Ring,
    pool: &'static PoolDesc,
    /// The packet that ends at each entry, or none. Never asked of the ring, in which the peer can write.
    packets: Box<[Cell]>,
    /// Index of the next entry to be filled.
    next: u16,
    /// Index up to which packets were taken back.
    reaped: u16,
}

impl LentTx {
    /// A ring that begins at index 0.
    pub fn new(ring: Ring, pool: &'static PoolDesc) -> Self {
        let packets = vec![CELL_NONE; usize::from(ring.size())].into_boxed_slice();
        LentTx { ring, pool, packets, next: 0, reaped: 0 }
    }

    /// The ring.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    #[inline(always)]
    fn slot(&mut self, index: u16) -> &mut Cell {
        &mut self.packets[usize::from(index & (self.ring.size() - 1))]
    }

    /// Takes back what the peer has read.
    #[inline]
    fn reap(&mut self, cx: &mut Worker<'_>) -> FromRing<()> {
        let read = self.ring.tail().wrapping_sub(self.reaped);
        if read > self.next.wrapping_sub(self.reaped) {
            return Err("the peer read more than it was lent");
        }
        if read > 0 {
            self.take_back(cx, read);
        }
        Ok(())
    }

    fn take_back(&mut self, cx: &mut Worker<'_>, n: u16) {
        let mut back = Burst::new();
        for _ in 0..n {
            let index = self.reaped;
            let cell = std::mem::replace(self.slot(index), CELL_NONE);
            self.reaped = self.reaped.wrapping_add(1);
            if cell == CELL_NONE {
                continue;
            }
            // SAFETY: put there by `send`, which gave up the packet; taken once, as the place is empty now.
            if let Err(packet) = back.push(unsafe { Packet::from_cell(cell) }) {
                cx.free(back.take());
                let _fits = back.push(packet);
            }
        }
        cx.free(back);
    }

    /// Sends what fits, off the front of the burst. True when something was published.
    #[inline]
    pub fn send(&mut self, cx: &mut Worker<'_>, burst: &mut Burst, stats: &TxStats) -> FromRing<bool> {
        self.reap(cx)?;
        if burst.is_empty() {
            return Ok(false);
        }
        let start = self.next;
        let mut free = self.ring.size() - self.next.wrapping_sub(self.reaped);
        let (mut packets, mut bytes) = (0, 0);
        while let Some(packet) = burst.as_slice().first() {
            let need = u16::from(packet.hdr().nsegs());
            if need > self.ring.size() || packet.len() > FRAME_MAX || packet.len() == 0 {
                stats.too_long.add(1);
                cx.free(burst.take_front(1));
                continue;
            }
            if need > free {
                stats.ring_full.add(1);
                break;
            }
            let len = packet.len();
            let used = self.lend(packet);
            if let Some(packet) = burst.pop_front() {
                // Its last entry: when that was read, all were.
                let last = self.next.wrapping_sub(1);
                *self.slot(last) = packet.into_cell();
            }
            free -= used;
            packets += 1;
            bytes += len as u64;
        }
        if self.next == start {
            return Ok(false);
        }
        self.ring.set_head(self.next);
        stats.packets.add(packets);
        stats.bytes.add(bytes);
        Ok(true)
    }

    /// Writes the descriptors of a packet's cells, at least one, and returns how many.
    #[inline(always)]
    fn lend(&mut self, packet: &PacketData) -> u16 {
        let mut used = 0;
        let mut segments = packet.segments().peekable();
        while let Some(segment) = segments.next() {
            // The segment lies in the pool, which is smaller than 4 GiB; that was checked when the port was opened.
            let offset = (segment.as_ptr() as usize).wrapping_sub(self.pool.base as usize) as u32;
            let flags = if segments.peek().is_some() { NEXT } else { 0 };
            let length = segment.len() as u32;
            self.ring.write(self.next, Desc { flags, region: POOL_REGION, length, offset });
            self.next = self.next.wrapping_add(1);
            used += 1;
        }
        used
    }

    /// Takes all packets back, and counts what is lost.
    pub fn end(&mut self, cx: &mut Worker<'_>, stats: &TxStats) {
        let read = self.ring.tail().wrapping_sub(self.reaped);
        let lent = self.next.wrapping_sub(self.reaped);
        if read <= lent {
            self.take_back(cx, read);
        }
        let mask = self.ring.size() - 1;
        let lost = (0..self.ring.size()).filter(|i| self.packets[usize::from(i & mask)] != CELL_NONE).count();
        stats.lost_at_disconnect.add(lost as u64);
        self.take_back(cx, self.next.wrapping_sub(self.reaped));
    }
}

impl Drop for LentTx {
    fn drop(&mut self) {
        for cell in &mut self.packets {
            let cell = std::mem::replace(cell, CELL_NONE);
            if cell != CELL_NONE {
                // SAFETY: put there by `send`, which gave up the packet; taken once.
                drop(unsafe { Packet::from_cell(cell) });
            }
        }
    }
}
