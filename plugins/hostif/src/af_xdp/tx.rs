//! A transmit queue: cells are lent to the kernel, which copies them or lets the device read them, and come back by the
//! completion ring.

use super::{
    QueueHandle, Shared,
    area::Held,
    rings::{Consumer, Producer},
    socket::{self, TX_METADATA},
};
use crate::checksum;
use smpnet_plugin::{BURST_MAX, Burst, Packet, TxQueue, Worker, pkt_flags};
use std::{
    io,
    sync::{Arc, atomic::Ordering},
};

const GSO: u32 = pkt_flags::GSO_TCP4 | pkt_flags::GSO_TCP6 | pkt_flags::GSO_UDP;
/// Most cells of one packet: a socket buffer has 17 fragments, and the first cell is its linear part.
pub const CELLS_MAX: usize = 17;

/// A transmit queue of an `af_xdp` port.
pub struct XskTx {
    tx: Producer<libc::xdp_desc>,
    completion: Consumer<u64>,
    held: Held,
    handle: Arc<QueueHandle>,
    shared: Arc<Shared>,
}

impl XskTx {
    pub(super) fn new(
        tx: Producer<libc::xdp_desc>,
        completion: Consumer<u64>,
        handle: Arc<QueueHandle>,
        shared: Arc<Shared>,
    ) -> Self {
        let held = Held::new(handle.area.cells());
        XskTx { tx, completion, held, handle, shared }
    }

    /// Gives back the cells of what was sent; how many there were.
    #[inline]
    fn reap(&mut self, cx: &mut Worker<'_>) -> u32 {
        let mut reaped = 0;
        loop {
            let n = self.completion.waiting().min(BURST_MAX as u32);
            if n == 0 {
                return reaped;
            }
            let mut sent = Burst::new();
            for i in 0..n {
                let cell = self.handle.area.locate(self.completion.peek(i)).and_then(|(cell, _)| self.held.take(cell));
                // A burst has room for as many.
                let _full = cell.map(|cell| sent.push(cell));
            }
            self.completion.release(n);
            cx.free(sent);
            reaped += n;
        }
    }

    /// Puts a packet into the ring, where there is room for its cells; gives it back when it cannot be sent.
    #[inline]
    fn lend(&mut self, cx: &mut Worker<'_>, mut packet: Packet) -> Result<(), Packet> {
        let Some(options) = self.prepare(&mut packet) else { return Err(packet) };
        if packet.hdr().nsegs() == 1 && self.can_lend(&packet) {
            self.push(packet, options);
            return Ok(());
        }
        self.lend_cells(cx, packet, options)
    }

    /// Puts a packet of several cells, or of one that cannot be lent as it lies, into the ring.
    #[cold]
    fn lend_cells(&mut self, cx: &mut Worker<'_>, packet: Packet, options: u32) -> Result<(), Packet> {
        let in_parts = self.handle.multi_buffer
            && usize::from(packet.hdr().nsegs()) <= CELLS_MAX
            && packet.segments().all(|bytes| self.can_lend_bytes(bytes));
        if !in_parts {
            let Some(copy) = self.copy(cx, &packet, options) else { return Err(packet) };
            self.push(copy, options);
            return Ok(());
        }
        let mut parts = packet.into_cells().filter(|cell| !cell.data().is_empty()).peekable();
        let mut options = options;
        while let Some(part) = parts.next() {
            let more = if parts.peek().is_some() { libc::XDP_PKT_CONTD } else { 0 };
            self.push(part, options | more);
            options = 0;
        }
        Ok(())
    }

    /// Makes ready what the kernel does not do by itself; the options of the first descriptor, or none when the packet
    /// cannot be sent.
    #[inline]
    fn prepare(&self, packet: &mut Packet) -> Option<u32> {
        let (len, flags) = (packet.len(), packet.hdr().flags);
        let tagged = matches!(packet.data().get(12..14)?, [0x81, 0x00] | [0x88, 0xa8]);
        let longest = self.shared.mtu.load(Ordering::Relaxed) as usize + if tagged { 18 } else { 14 };
        if flags & GSO != 0 || len > longest {
            return None;
        }
        if flags & (pkt_flags::CSUM_PARTIAL | pkt_flags::VLAN) == 0 {
            return Some(0);
        }
        self.prepare_flags(packet)
    }

    fn prepare_flags(&self, packet: &mut Packet) -> Option<u32> {
        if let Some(tagged) = crate::outgoing::tag(packet) {
            packet.push_front(4)?.fill(0);
            packet.data_mut().get_mut(..16)?.copy_from_slice(&tagged);
        }
        let hdr = packet.hdr();
        if hdr.flags & pkt_flags::CSUM_PARTIAL == 0 {
            return Some(0);
        }
        let start = hdr.csum_start.checked_sub(hdr.data_off())?;
        let offset = hdr.csum_offset;
        if usize::from(start) + usize::from(offset) + 2 > packet.data().len() {
            return None;
        }
        if self.handle.metadata && write_metadata(packet, start, offset) {
            return Some(libc::XDP_TX_METADATA);
        }
        self.handle.csum_completed.add(1);
        checksum::complete_at(packet, usize::from(start), usize::from(offset)).then_some(0)
    }

    /// The packet in a fresh cell, when it fits one.
    fn copy(&self, cx: &mut Worker<'_>, packet: &Packet, options: u32) -> Option<Packet> {
        // A few cells of a pool of huge pages lie across two of them.
        for _ in 0..4 {
            let mut copy = cx.alloc()?;
            let n = packet.copy_to(0, copy.buffer_mut());
            if n < packet.len() || !copy.set_len(n) || copy.data().len() > self.handle.area.longest() {
                return None;
            }
            if options & libc::XDP_TX_METADATA != 0 {
                let hdr = packet.hdr();
                write_metadata(&mut copy, hdr.csum_start - hdr.data_off(), hdr.csum_offset).then_some(())?;
            }
            if self.can_lend(&copy) {
                return Some(copy);
            }
        }
        None
    }

    #[inline]
    fn can_lend(&self, packet: &Packet) -> bool {
        self.can_lend_bytes(packet.data())
    }

    #[inline]
    fn can_lend_bytes(&self, bytes: &[u8]) -> bool {
        let area = &self.handle.area;
        bytes.len() <= area.longest()
            && (!self.handle.zero_copy || area.in_one_page(area.address_of(bytes), bytes.len().max(1)))
    }

    /// Puts a cell into the ring, where there is room.
    #[inline]
    fn push(&mut self, cell: Packet, options: u32) {
        let bytes = cell.data();
        let desc = libc::xdp_desc { addr: self.handle.area.address_of(bytes), len: bytes.len() as u32, options };
        self.tx.push(desc);
        self.held.give(cell);
    }

    /// Makes the kernel send what is in the ring; how many packets it lost in doing so.
    fn kick(&mut self, cx: &mut Worker<'_>) -> u64 {
        self.tx.submit();
        let mut lost = 0;
        if !self.tx.needs_wakeup() {
            return lost;
        }
        let mut left = self.tx.pending();
        while left > 0 {
            let error = socket::kick(self.handle.raw_fd()).err();
            let now = self.tx.pending();
            let progress = now < left || self.reap(cx) > 0;
            let stats = &self.handle.tx;
            stats.kicks.add(1);
            match error.as_ref().and_then(io::Error::raw_os_error) {
                // Without copying the device goes on by itself. Else there was no room for completions, if anything is left.
                None if self.handle.zero_copy || !progress => break,
                None => {}
                // The device's queue was full: this packet is lost, and the kernel stopped behind it.
                Some(libc::EBUSY) if now < left => {
                    stats.no_buffer.add(1);
                    lost += 1;
                }
                // So many at a time.
                Some(libc::EAGAIN) if progress => {}
                Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::ENOMEM | libc::EINTR) => {
                    stats.busy.add(1);
                    break;
                }
                // Down or gone: the monitor will tell, and what is in the ring waits.
                Some(_) => break,
            }
            left = now;
        }
        lost
    }
}

impl TxQueue for XskTx {
    fn tx_burst(&mut self, cx: &mut Worker<'_>, burst: &mut Burst) {
        self.reap(cx);
        let (mut packets, mut bytes) = (0u64, 0);
        if !self.shared.running.load(Ordering::Relaxed) {
            // What went into the ring of a device that is down would go out when it is up again.
            self.handle.tx.down.add(burst.len() as u64);
            return cx.free(burst.take());
        }
        let mut refused = Burst::new();
        while let Some(packet) = burst.as_slice().first() {
            let (cells, len) = (usize::from(packet.hdr().nsegs()), packet.len());
            // What is in too many cells goes as one or not at all.
            let places = if cells > CELLS_MAX { 1 } else { cells as u32 };
            if self.tx.free(places) < places {
                self.handle.tx.busy.add(1);
                break;
            }
            let Some(packet) = burst.pop_front() else { break };
            match self.lend(cx, packet) {
                Ok(()) => {
                    packets += 1;
                    bytes += len as u64;
                }
                Err(packet) => {
                    self.handle.tx.refused.add(1);
                    let _fits = refused.push(packet);
                }
            }
        }
        cx.free(refused);
        let lost = self.kick(cx);
        // What the kernel lost may be of a burst before, which was counted as sent.
        self.handle.tx.packets.add(packets.wrapping_sub(lost));
        self.handle.tx.bytes.add(bytes);
    }
}

impl Drop for XskTx {
    fn drop(&mut self) {
        // The kernel has these until the socket is closed.
        self.handle.leave(self.held.replace());
    }
}

/// Asks the kernel to complete the checksum from `start` of the packet on, by `struct xsk_tx_metadata` before it. False
/// when there is no room.
fn write_metadata(packet: &mut Packet, start: u16, offset: u16) -> bool {
    let Some(room) = packet.push_front(TX_METADATA as usize) else { return false };
    room.fill(0);
    room[..8].copy_from_slice(&u64::from(libc::XDP_TXMD_FLAGS_CHECKSUM).to_ne_bytes());
    room[8..10].copy_from_slice(&start.to_ne_bytes());
    room[10..12].copy_from_slice(&offset.to_ne_bytes());
    packet.pull_front(TX_METADATA as usize)
}
