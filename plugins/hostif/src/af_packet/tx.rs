//! A transmit queue: a burst to the kernel by one system call.

use super::TxHandle;
use crate::{
    outgoing::{Outgoing, tag},
    packet_socket::PacketSocket,
    ring::TxRing,
    stats::TxStats,
    vnet::{VNET_HDR_LEN, VnetHdr},
};
use smpnet_plugin::{Burst, PacketData, TxQueue, Worker, pkt_flags};
use std::{io, sync::Arc};

const GSO: u32 = pkt_flags::GSO_TCP4 | pkt_flags::GSO_TCP6 | pkt_flags::GSO_UDP;

/// A transmit queue of an `af_packet` port.
pub struct PacketTx {
    handle: Arc<TxHandle>,
    /// They send out of the cells, one at a time: each has a send buffer of its own.
    direct: Vec<PacketSocket>,
    /// The one in use.
    current: usize,
    vnet: bool,
    outgoing: Outgoing,
    ring: Option<Ring>,
}

struct Ring {
    socket: PacketSocket,
    ring: TxRing,
    /// Slots filled since the last kick.
    pending: u32,
    /// Bytes in slots that the kernel has not looked at.
    bytes: u64,
}

/// What becomes of a packet after the kernel's answer.
enum Answer {
    /// It is gone, and was counted.
    Lost,
    /// The kernel has no room now; the packet stays the caller's.
    Later,
}

impl PacketTx {
    pub(super) fn new(
        handle: Arc<TxHandle>,
        direct: Vec<PacketSocket>,
        vnet: bool,
        ring: Option<(PacketSocket, TxRing)>,
    ) -> Self {
        let outgoing = Outgoing::new(vnet);
        let ring = ring.map(|(socket, ring)| Ring { socket, ring, pending: 0, bytes: 0 });
        PacketTx { handle, direct, current: 0, vnet, outgoing, ring }
    }

    /// Sends out of the cells, as many of the first `limit` packets as the kernel takes. False when it takes no more.
    fn send_direct(&mut self, cx: &mut Worker<'_>, burst: &mut Burst, mut limit: usize) -> bool {
        let stats = &self.handle.stats;
        let mut full = 0;
        while limit > 0 && !burst.is_empty() {
            let packets = burst.iter().take(limit).map(|p| &**p);
            let Some(socket) = self.direct.get(self.current) else { return false };
            stats.kicks.add(1);
            match self.outgoing.send_all(socket.raw_fd(), packets) {
                Ok(sent) => {
                    full = 0;
                    let sent = burst.take_front(sent.max(1));
                    limit -= sent.len();
                    count_sent(stats, sent.iter().map(|p| &**p));
                    cx.free(sent);
                }
                Err(error) => match answer(stats, &error) {
                    // What it has taken is still on the way; the next socket has its own room.
                    Answer::Later if full + 1 < self.direct.len() => {
                        full += 1;
                        self.current = (self.current + 1) % self.direct.len();
                    }
                    Answer::Later => {
                        stats.busy.add(1);
                        return false;
                    }
                    Answer::Lost => {
                        limit -= 1;
                        cx.free(burst.take_front(1));
                    }
                },
            }
        }
        true
    }
}

impl TxQueue for PacketTx {
    fn tx_burst(&mut self, cx: &mut Worker<'_>, burst: &mut Burst) {
        let Some(Ring { .. }) = self.ring else {
            self.send_direct(cx, burst, usize::MAX);
            return;
        };
        let mut done = Burst::new();
        while let Some(packet) = burst.as_slice().first() {
            let Some(ring) = &mut self.ring else { break };
            if !ring.fits(packet) {
                // In order: what stands in the ring goes first.
                ring.kick(&self.handle.stats);
                if !self.send_direct(cx, burst, 1) {
                    break;
                }
                continue;
            }
            if !ring.fill(packet, self.vnet) {
                ring.kick(&self.handle.stats);
                if !ring.fill(packet, self.vnet) {
                    break;
                }
            }
            count_sent(&self.handle.stats, std::iter::once(&**packet));
            if let Some(packet) = burst.pop_front()
                && let Err(packet) = done.push(packet)
            {
                drop(packet);
            }
        }
        cx.free(done);
        if let Some(ring) = &mut self.ring {
            ring.kick(&self.handle.stats);
        }
    }
}

impl Ring {
    fn fits(&self, packet: &PacketData) -> bool {
        packet.hdr().flags & GSO == 0 && packet.len() + 4 + VNET_HDR_LEN <= self.ring.room()
    }

    /// Copies a packet that fits into the next slot; false when there is none free.
    fn fill(&mut self, packet: &PacketData, vnet: bool) -> bool {
        let Some(slot) = self.ring.slot() else { return false };
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            if let Some(to) = slot.get_mut(at..at + bytes.len()) {
                to.copy_from_slice(bytes);
                at += bytes.len();
            }
        };
        let tag = tag(packet);
        let mut header = 0;
        if vnet {
            put(&VnetHdr::of(packet, if tag.is_some() { 4 } else { 0 }).bytes());
            header = VNET_HDR_LEN;
        }
        let mut skip = 0;
        if let Some(tagged) = tag {
            put(&tagged);
            skip = 12;
        }
        for segment in packet.segments() {
            put(segment.get(skip..).unwrap_or(&[]));
            skip = 0;
        }
        self.ring.commit(at);
        self.pending += 1;
        self.bytes += (at - header) as u64;
        true
    }

    /// Makes the kernel send what stands in the ring.
    fn kick(&mut self, stats: &TxStats) {
        if self.pending == 0 {
            self.ring.reap();
            return;
        }
        stats.kicks.add(1);
        // SAFETY: no bytes are passed; the call makes the kernel look at the ring.
        let sent =
            unsafe { libc::send(self.socket.raw_fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
        let unsent = self.ring.unsent();
        if sent < 0 {
            let error = io::Error::last_os_error();
            if unsent == 0 || !matches!(error.raw_os_error(), Some(libc::EAGAIN) | Some(libc::EINTR)) {
                let _counted = answer(stats, &error);
            }
        } else if unsent == 0 && (sent as u64) < self.bytes {
            // PACKET_LOSS makes the kernel pass over frames that it refuses; what it did not send shows in the sum.
            stats.refused.add(1);
        }
        self.pending = unsent;
        if unsent == 0 {
            self.bytes = 0;
        } else if sent > 0 {
            self.bytes = self.bytes.saturating_sub(sent as u64);
        }
        self.ring.reap();
    }
}

fn count_sent<'p>(stats: &TxStats, packets: impl Iterator<Item = &'p PacketData>) {
    let (mut n, mut bytes, mut gso) = (0, 0, 0);
    for packet in packets {
        n += 1;
        bytes += packet.len() as u64;
        gso += u64::from(packet.hdr().flags & GSO != 0);
    }
    stats.packets.add(n);
    stats.bytes.add(bytes);
    stats.gso.add(gso);
}

/// Counts why a packet was not sent.
fn answer(stats: &TxStats, error: &io::Error) -> Answer {
    match error.raw_os_error() {
        Some(libc::EAGAIN) => return Answer::Later,
        // The queueing discipline or the driver dropped the packet.
        Some(libc::ENOBUFS) => stats.no_buffer.add(1),
        Some(libc::ENETDOWN) | Some(libc::ENXIO) | Some(libc::ENODEV) => stats.down.add(1),
        _ => stats.refused.add(1),
    }
    Answer::Lost
}
