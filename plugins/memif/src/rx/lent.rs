//! Receiving without a copy: a client lends cells of the packet pool, and the server writes its packets into them.

use super::{FromRing, chain};
use crate::{
    copy::{prefetch_read, prefetch_write},
    desc::{Desc, NEXT},
    ring::Ring,
    stats::RxStats,
};
use smpnet_plugin::{BURST_MAX, Burst, Packet, Worker, abi::CELL_NONE, abi::Cell, abi::PoolDesc};

/// Cells are lent when so many are missing, or half of the ring if that is fewer.
const REFILL: u16 = 32;

/// A receive ring of lent cells.
pub struct LentRx {
    ring: Ring,
    pool: &'static PoolDesc,
    /// The cell behind each entry. Never asked of the ring, in which the peer can write.
    cells: Box<[Cell]>,
    /// Index of the next packet.
    next: u16,
    /// Index up to which cells are lent.
    lent: u16,
    queue: u16,
    room: u32,
}

/// The region of the pool, behind the one of the rings.
pub const POOL_REGION: u16 = 1;

impl LentRx {
    /// A ring that begins at index 0.
    pub fn new(ring: Ring, pool: &'static PoolDesc, queue: u16) -> Self {
        let cells = vec![CELL_NONE; usize::from(ring.size())].into_boxed_slice();
        let room = pool.cell_size.saturating_sub(pool.data_off);
        LentRx { ring, pool, cells, next: 0, lent: 0, queue, room }
    }

    /// The ring.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    #[inline(always)]
    fn filled(&self) -> FromRing<u16> {
        let filled = self.ring.tail().wrapping_sub(self.next);
        if filled <= self.lent.wrapping_sub(self.next) {
            Ok(filled)
        } else {
            Err("the peer filled more than it was lent")
        }
    }

    /// Whether packets wait. Also when nothing is lent: then nothing would ever come.
    pub fn pending(&self) -> bool {
        self.filled() != Ok(0) || self.lent == self.next
    }

    /// Receives at most `max` packets.
    #[inline]
    pub fn receive(&mut self, cx: &mut Worker<'_>, out: &mut Burst, max: usize, stats: &RxStats) -> FromRing<()> {
        let mut filled = self.filled()?;
        let before = out.len();
        let mut bytes = 0;
        self.prefetch(usize::from(filled).min(max));
        while filled > 0 && out.len() - before < max {
            let used = self.take_one(cx, out, filled, &mut bytes, stats);
            filled -= used;
        }
        if out.len() > before {
            stats.packets.add((out.len() - before) as u64);
            stats.bytes.add(bytes);
        }
        self.lend(cx, stats);
        Ok(())
    }

    /// Asks for the headers of the next cells, written when they were lent, and for the packets, which the peer wrote.
    #[inline(always)]
    fn prefetch(&self, n: usize) {
        for place in 0..n {
            let at = self.next.wrapping_add(place as u16) & (self.ring.size() - 1);
            let cell = self.cells[usize::from(at)] as usize;
            let header = self.pool.base.wrapping_add(cell.wrapping_mul(self.pool.cell_size as usize));
            prefetch_write(header);
            prefetch_read(header.wrapping_add(self.pool.data_off as usize));
        }
    }

    /// Takes the cell behind an entry.
    #[inline(always)]
    fn cell(&mut self, index: u16) -> Option<Packet> {
        let slot = &mut self.cells[usize::from(index & (self.ring.size() - 1))];
        let cell = std::mem::replace(slot, CELL_NONE);
        // SAFETY: put there by `lend`, which gave up the packet; taken once, as the place is empty now.
        (cell != CELL_NONE).then(|| unsafe { Packet::from_cell(cell) })
    }

    /// Takes the packet that begins at `next` and returns how many entries it had.
    #[inline(always)]
    fn take_one(&mut self, cx: &mut Worker<'_>, out: &mut Burst, filled: u16, bytes: &mut u64, stats: &RxStats) -> u16 {
        let desc = self.ring.read(self.next);
        if desc.flags & NEXT == 0 {
            let packet = self.cell(self.next);
            self.next = self.next.wrapping_add(1);
            let Some(mut packet) = packet else { return 1 };
            if desc.length == 0 || desc.length > self.room || !packet.set_len(desc.length as usize) {
                stats.bad_descriptors.add(1);
                cx.free(one(packet));
                return 1;
            }
            packet.hdr_mut().rx_queue = self.queue;
            *bytes += packet.len() as u64;
            let _fits = out.push(packet);
            return 1;
        }
        self.take_chain(cx, out, filled, bytes, stats)
    }

    #[cold]
    #[inline(never)]
    fn take_chain(
        &mut self,
        cx: &mut Worker<'_>,
        out: &mut Burst,
        filled: u16,
        bytes: &mut u64,
        stats: &RxStats,
    ) -> u16 {
        let (mut good, mut ended, mut used) = (true, false, 0);
        let mut parts = Burst::new();
        let mut whole = true;
        while used < filled && !ended {
            let desc = self.ring.read(self.next);
            let cell = self.cell(self.next);
            self.next = self.next.wrapping_add(1);
            used += 1;
            ended = desc.flags & NEXT == 0;
            let Some(mut cell) = cell else { continue };
            good &= desc.length != 0 && desc.length <= self.room && cell.set_len(desc.length as usize);
            if let Err(cell) = parts.push(cell) {
                whole = false;
                cx.free(one(cell));
            }
        }
        let len: usize = parts.iter().map(|p| p.len()).sum();
        if !good {
            stats.bad_descriptors.add(1);
        } else if !ended || !whole || len > crate::desc::FRAME_MAX {
            stats.bad_chains.add(1);
        } else {
            let n = parts.len();
            if let Some(mut packet) = chain(&mut parts, n) {
                packet.hdr_mut().rx_queue = self.queue;
                *bytes += len as u64;
                let _fits = out.push(packet);
            }
        }
        cx.free(parts);
        used
    }

    /// Lends fresh cells in place of those that were taken.
    #[inline(always)]
    fn lend(&mut self, cx: &mut Worker<'_>, stats: &RxStats) {
        let missing = self.ring.size() - self.lent.wrapping_sub(self.next);
        if missing >= REFILL.min(self.ring.size() / 2 + 1) {
            self.lend_many(cx, missing, stats);
        }
    }

    fn lend_many(&mut self, cx: &mut Worker<'_>, mut missing: u16, stats: &RxStats) {
        if self.lent == self.next && self.lent != 0 {
            stats.ring_empty.add(1);
        }
        let mask = self.ring.size() - 1;
        while missing > 0 {
            let want = usize::from(missing).min(BURST_MAX);
            let mut fresh = Burst::new();
            let got = cx.alloc_burst(want, &mut fresh);
            while let Some(packet) = fresh.pop_front() {
                let cell = packet.into_cell();
                // Below 4 GiB, which was checked when the port was opened.
                let offset = (u64::from(cell) * u64::from(self.pool.cell_size)) as u32 + self.pool.data_off;
                self.cells[usize::from(self.lent & mask)] = cell;
                self.ring.write(self.lent, Desc { flags: 0, region: POOL_REGION, length: self.room, offset });
                self.lent = self.lent.wrapping_add(1);
            }
            missing -= got as u16;
            if got < want {
                stats.no_cell.add(1);
                break;
            }
        }
        self.ring.set_head(self.lent);
    }

    /// Gives back all cells, and counts what is lost.
    pub fn end(&mut self, cx: &mut Worker<'_>, stats: &RxStats) {
        if let Ok(filled) = self.filled() {
            stats.lost_at_disconnect.add(self.ring.packets_between(self.next, self.next.wrapping_add(filled)));
        }
        let mut all = Burst::new();
        while self.next != self.lent {
            if let Some(packet) = self.cell(self.next)
                && let Err(packet) = all.push(packet)
            {
                cx.free(all.take());
                let _fits = all.push(packet);
            }
            self.next = self.next.wrapping_add(1);
        }
        cx.free(all);
    }
}

impl Drop for LentRx {
    fn drop(&mut self) {
        for index in 0..self.ring.size() {
            drop(self.cell(index));
        }
    }
}

fn one(packet: Packet) -> Burst {
    let mut burst = Burst::new();
    let _fits = burst.push(packet);
    burst
}
