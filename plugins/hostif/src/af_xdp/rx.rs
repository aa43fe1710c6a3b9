//! A receive queue: frames stand in cells already, where the kernel or the device put them.

use super::{
    QueueHandle, Shared,
    area::Held,
    rings::{Consumer, Producer},
    socket,
};
use crate::{cells, checksum};
use smpnet_plugin::{BURST_MAX, Burst, Host, Packet, RxQueue, Worker, pkt_flags};
use std::{
    os::fd::RawFd,
    sync::{Arc, atomic::Ordering},
};

/// Cells handed to the kernel at once.
const REFILL: u32 = BURST_MAX as u32;

/// A receive queue of an `af_xdp` port.
pub struct XskRx {
    rx: Consumer<libc::xdp_desc>,
    fill: Producer<u64>,
    held: Held,
    /// The cells so far of a frame whose end has not come.
    begun: Option<Packet>,
    /// Cells that a device cannot write because their memory is not in one piece. There are few, and they stay here.
    unfit: Vec<Packet>,
    /// The kernel has no cell at all to receive into.
    starved: bool,
    handle: Arc<QueueHandle>,
    shared: Arc<Shared>,
}

impl XskRx {
    pub(super) fn new(
        rx: Consumer<libc::xdp_desc>,
        fill: Producer<u64>,
        handle: Arc<QueueHandle>,
        shared: Arc<Shared>,
    ) -> Self {
        let held = Held::new(handle.area.cells());
        let mut queue = XskRx { rx, fill, held, begun: None, unfit: Vec::new(), starved: true, handle, shared };
        queue.prefill();
        queue
    }

    /// Gives the kernel its first cells, on a control thread, so that no frame is lost before a worker comes.
    fn prefill(&mut self) {
        let Some(host) = Host::get() else { return };
        while self.fill.free(1) > 0
            && let Some(cell) = host.alloc()
        {
            self.lend(cell);
            self.starved = false;
        }
        self.fill.submit();
    }

    /// Gives the kernel cells for frames to come.
    #[inline]
    fn refill(&mut self, cx: &mut Worker<'_>) {
        while self.fill.free(REFILL) >= REFILL {
            let mut fresh = Burst::new();
            let got = cx.alloc_burst(REFILL as usize, &mut fresh);
            for cell in fresh.drain() {
                self.lend(cell);
            }
            self.fill.submit();
            self.starved = false;
            if got < REFILL as usize {
                // Frames that find no cell are lost, and the kernel counts them.
                self.handle.rx.no_cell.add(1);
                self.starved = self.fill.pending() == 0;
                break;
            }
        }
        if self.fill.needs_wakeup() {
            socket::poke(self.handle.raw_fd());
        }
    }

    #[inline]
    fn lend(&mut self, cell: Packet) {
        let area = &self.handle.area;
        if self.handle.zero_copy && !area.chunk_in_one_page(cell.cell()) {
            self.unfit.push(cell);
            return;
        }
        self.fill.push(area.chunk_of(cell.cell()));
        self.held.give(cell);
    }

    /// The cell of a descriptor as a packet; none when the kernel gave nonsense.
    #[inline]
    fn adopt(&mut self, desc: &libc::xdp_desc) -> Option<Packet> {
        let (cell, off) = self.handle.area.locate(desc.addr)?;
        let mut packet = self.held.take(cell)?;
        let (fresh, len) = (usize::from(packet.hdr().data_off()), desc.len as usize);
        let fits = match off.checked_sub(fresh) {
            Some(gap) => packet.set_len(gap + len) && packet.pull_front(gap),
            None => packet.push_front(fresh - off).is_some() && packet.set_len(len),
        };
        fits.then_some(packet)
    }

    /// Takes a descriptor; a packet when it is the last of a frame.
    #[inline]
    fn take_in(&mut self, desc: &libc::xdp_desc) -> Option<Packet> {
        let (more, first) = (desc.options & libc::XDP_PKT_CONTD != 0, self.begun.take());
        let adopted = self.adopt(desc);
        let stats = &self.handle.rx;
        let Some(cell) = adopted else {
            // What came of the frame before goes with it.
            stats.bad.add(1);
            return None;
        };
        let whole = match first {
            None => cell,
            Some(mut first) => match first.append_cell(cell) {
                Ok(()) => first,
                Err(_) => {
                    stats.cut.add(1);
                    return None;
                }
            },
        };
        if more {
            self.begun = Some(whole);
            return None;
        }
        if whole.data().len() < 14 {
            stats.bad.add(1);
            return None;
        }
        Some(whole)
    }

    /// Throws away what waits while the port is down.
    #[cold]
    fn discard(&mut self) {
        let waiting = self.rx.waiting();
        for i in 0..waiting {
            let desc = self.rx.peek(i);
            drop(self.take_in(&desc));
            if desc.options & libc::XDP_PKT_CONTD == 0 {
                self.handle.rx.while_down.add(1);
            }
        }
        self.rx.release(waiting);
    }
}

impl RxQueue for XskRx {
    fn rx_burst(&mut self, cx: &mut Worker<'_>, out: &mut Burst, max: usize) {
        if !self.shared.up.load(Ordering::Relaxed) {
            return self.discard();
        }
        let mut waiting = self.rx.waiting();
        if waiting == 0 {
            if self.handle.busy_poll {
                socket::poke(self.handle.raw_fd());
                waiting = self.rx.waiting();
            }
            if waiting == 0 {
                // Cells may have been wanting before.
                return self.refill(cx);
            }
        }
        let (mut taken, mut packets, mut bytes) = (0, 0, 0);
        while taken < waiting && packets < max as u64 {
            let desc = self.rx.peek(taken);
            taken += 1;
            let Some(mut packet) = self.take_in(&desc) else { continue };
            let mut flags = cells::destination_flags(&packet);
            if self.handle.open_checksums
                && let Some((start, offset)) = checksum::open(&packet)
            {
                flags |= pkt_flags::CSUM_PARTIAL | pkt_flags::RX_L4_OK;
                let data_off = packet.hdr().data_off();
                let hdr = packet.hdr_mut();
                (hdr.csum_start, hdr.csum_offset) = (data_off + start, offset);
                self.handle.csum_open.add(1);
            }
            let len = packet.len() as u64;
            let hdr = packet.hdr_mut();
            hdr.flags |= flags;
            hdr.rx_queue = self.handle.queue as u16;
            // `max` fits by contract; were it not so, the packet is dropped and does not count as given.
            if out.push(packet).is_err() {
                break;
            }
            packets += 1;
            bytes += len;
        }
        self.rx.release(taken);
        self.handle.rx.packets.add(packets);
        self.handle.rx.bytes.add(bytes);
        self.refill(cx);
    }

    fn event_fd(&self) -> Option<RawFd> {
        Some(self.handle.raw_fd())
    }

    fn arm(&mut self) -> bool {
        if !self.shared.up.load(Ordering::Relaxed) {
            self.discard();
            return false;
        }
        // Without a cell in the kernel no frame comes and nobody wakes us, so that the pool must be asked again.
        self.rx.waiting() > 0 || self.starved
    }
}

impl Drop for XskRx {
    fn drop(&mut self) {
        // The kernel has these until the socket is closed.
        self.handle.leave(self.held.replace());
    }
}
