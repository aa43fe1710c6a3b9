//! A transmit queue: a burst to the kernel by one system call.

use super::{Shared, TxHandle};
use crate::{
    outgoing::{Outgoing, tag},
    packet_socket::PacketSocket,
    ring::{TxRing, Unsent},
    stats::TxStats,
    vnet::{VNET_HDR_LEN, VnetHdr},
};
use smpnet_plugin::{Burst, PacketData, TxQueue, Worker, pkt_flags};
use std::{
    io,
    sync::{Arc, atomic::Ordering},
};

const GSO: u32 = pkt_flags::GSO_TCP4 | pkt_flags::GSO_TCP6 | pkt_flags::GSO_UDP;

/// A transmit queue of an `af_packet` port.
pub struct PacketTx {
    handle: Arc<TxHandle>,
    shared: Arc<Shared>,
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
    /// Bytes before the frame in a slot.
    header: usize,
    /// What stands in slots that the kernel has not looked at; counted as sent when it has.
    pending: Unsent,
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
        shared: Arc<Shared>,
        direct: Vec<PacketSocket>,
        vnet: bool,
        ring: Option<(PacketSocket, TxRing)>,
    ) -> Self {
        let outgoing = Outgoing::new(vnet);
        let ring = ring.map(|(socket, ring)| Ring {
            socket,
            ring,
            header: if vnet { VNET_HDR_LEN } else { 0 },
            pending: Unsent::default(),
        });
        PacketTx { handle, shared, direct, current: 0, vnet, outgoing, ring }
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
        let mtu = self.shared.mtu.load(Ordering::Relaxed) as usize;
        let mut done = Burst::new();
        while let Some(packet) = burst.as_slice().first() {
            let Some(ring) = &mut self.ring else { break };
            if !ring.fits(packet, mtu) {
                // In order: what stands in the ring goes first.
                ring.kick(&self.handle.stats);
                if ring.pending.slots > 0 || !self.send_direct(cx, burst, 1) {
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
    /// Whether a packet can go by the ring. With a virtio-net header the kernel does not hold its slots to the MTU, so what
    /// is too long goes by the other way, where it does.
    fn fits(&self, packet: &PacketData, mtu: usize) -> bool {
        let len = packet.len();
        packet.hdr().flags & GSO == 0 && len <= mtu + 14 && len + 4 + VNET_HDR_LEN <= self.ring.room()
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
        if vnet {
            put(&VnetHdr::of(packet, if tag.is_some() { 4 } else { 0 }).bytes());
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
        self.pending.slots += 1;
        self.pending.bytes += (at - self.header) as u64;
        true
    }

    /// Makes the kernel send what stands in the ring.
    fn kick(&mut self, stats: &TxStats) {
        if self.pending.slots == 0 {
            self.ring.reap();
            return;
        }
        stats.kicks.add(1);
        // SAFETY: no bytes are passed; the call makes the kernel look at the ring.
        let sent =
            unsafe { libc::send(self.socket.raw_fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
        let error = (sent < 0).then(io::Error::last_os_error);
        let left = self.ring.unsent(self.header);
        let taken = Unsent {
            slots: self.pending.slots.saturating_sub(left.slots),
            bytes: self.pending.bytes.saturating_sub(left.bytes),
        };
        // PACKET_LOSS makes the kernel pass over a frame that it refuses; what it did not send shows in the sum.
        let refused = u64::from(error.is_none() && (sent as u64) < taken.bytes);
        stats.refused.add(refused);
        stats.packets.add(u64::from(taken.slots).saturating_sub(refused));
        stats.bytes.add(taken.bytes);
        self.pending = left;
        match error.as_ref().and_then(io::Error::raw_os_error) {
            None => {}
            // No room now, neither in the socket nor in the device's queue: the slots stay and go with the next kick.
            Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM | libc::EINTR) => stats.busy.add(1),
            // Frames must not go out late when the device comes back.
            Some(errno) => {
                let lost = u64::from(self.ring.withdraw());
                self.pending = Unsent::default();
                match errno {
                    libc::ENETDOWN | libc::ENXIO | libc::ENODEV => stats.down.add(lost),
                    _ => stats.refused.add(lost),
                }
            }
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
