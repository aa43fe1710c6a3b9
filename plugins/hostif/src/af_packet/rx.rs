//! A receive queue: frames out of a ring into cells.

use super::{RxHandle, Shared};
use crate::{
    cells::{self, Stash, TPID_8021Q, cells_for},
    checksum,
    ring::{Frame, RxRing},
    sys, uapi,
    vnet::VnetHdr,
};
use smpnet_plugin::{BURST_MAX, Burst, Host, Packet, RxQueue, Worker, offload, pkt_flags};
use std::{
    os::fd::RawFd,
    sync::{Arc, atomic::Ordering},
};

/// Most frames thrown away in one call while the port is down, so that the worker gets on with its other work.
const DISCARD_MAX: usize = 1024;

/// A receive queue of an `af_packet` port.
pub struct PacketRx {
    ring: RxRing,
    stash: Stash,
    handle: Arc<RxHandle>,
    shared: Arc<Shared>,
    queue: u16,
    /// Bytes that a fresh cell takes.
    room: usize,
}

impl PacketRx {
    pub(super) fn new(handle: Arc<RxHandle>, ring: RxRing, shared: Arc<Shared>, queue: u16) -> Self {
        let room = Host::get().map_or(1920, |host| {
            let pool = host.pool();
            (pool.cell_size as usize).saturating_sub(pool.data_off as usize).max(1)
        });
        PacketRx { ring, stash: Stash::default(), handle, shared, queue, room }
    }

    /// Throws frames away that came while the port is down.
    #[cold]
    fn discard(&mut self) {
        for _ in 0..DISCARD_MAX {
            match self.ring.peek() {
                None => return,
                Some(Ok(_)) => self.ring.advance(),
                Some(Err(_)) => {}
            }
            self.handle.stats.while_down.add(1);
        }
    }
}

impl RxQueue for PacketRx {
    fn rx_burst(&mut self, cx: &mut Worker<'_>, out: &mut Burst, max: usize) {
        if !self.ring.ready() {
            return;
        }
        if !self.shared.up.load(Ordering::Relaxed) {
            return self.discard();
        }
        let offloads = self.shared.offloads.load(Ordering::Relaxed);
        let stats = &self.handle.stats;
        let (mut packets, mut bytes) = (0, 0);
        while packets < max as u64 {
            let frame = match self.ring.peek() {
                None => break,
                Some(Ok(frame)) => frame,
                Some(Err(lost)) => {
                    stats.bad.add(u64::from(lost));
                    continue;
                }
            };
            let need = cells_for(frame.data.len() + 4, self.room);
            if frame.wire_len as usize != frame.data.len() || need > BURST_MAX {
                stats.cut.add(1);
                self.ring.advance();
                continue;
            }
            if !self.stash.want(cx, need) {
                // The frame waits in the ring; when that is full, the kernel counts what it loses.
                stats.no_cell.add(1);
                break;
            }
            let packet = take_in(&mut self.stash, &frame, offloads, &self.handle);
            self.ring.advance();
            let Some(mut packet) = packet else {
                stats.bad.add(1);
                continue;
            };
            packet.hdr_mut().rx_queue = self.queue;
            packets += 1;
            bytes += packet.len() as u64;
            if out.push(packet).is_err() {
                // `max` fits by contract; were it not so, the packet is dropped and must not count as given.
                packets -= 1;
                break;
            }
        }
        stats.packets.add(packets);
        stats.bytes.add(bytes);
    }

    fn event_fd(&self) -> Option<RawFd> {
        Some(self.handle.socket.raw_fd())
    }

    fn arm(&mut self) -> bool {
        // A device that goes down leaves an error on the socket, and poll(2) would report it for ever. Reading clears it.
        let _error: Result<i32, _> = sys::getsockopt(self.handle.socket.raw_fd(), libc::SOL_SOCKET, libc::SO_ERROR);
        if !self.shared.up.load(Ordering::Relaxed) {
            // Nobody need call `rx_burst` of a port that is down, and frames left in the ring must not keep it awake.
            self.discard();
        }
        self.ring.ready()
    }
}

/// Makes a packet of a frame; none when its offload fields make no sense.
#[inline]
fn take_in(stash: &mut Stash, frame: &Frame<'_>, offloads: u32, handle: &RxHandle) -> Option<Packet> {
    let keeps_tag = |(tpid, _): &(u16, u16)| *tpid == TPID_8021Q && offloads & offload::RX_VLAN != 0;
    let in_header = frame.vlan.filter(keeps_tag);
    let in_bytes = frame.vlan.filter(|tag| !keeps_tag(tag));
    let mut packet = cells::copy_in(stash, frame.data, in_bytes)?;
    let mut flags = cells::destination_flags(&packet);
    if let Some((_, tci)) = in_header {
        packet.hdr_mut().vlan_tci = tci;
        flags |= pkt_flags::VLAN;
    }
    if handle.socket.has_vnet() {
        let vnet = VnetHdr::read(frame.before)?;
        vnet.apply(&mut packet, if in_bytes.is_some() { 4 } else { 0 }).ok()?;
        handle.stats.gso.add(u64::from(vnet.gso_type != uapi::VIRTIO_NET_HDR_GSO_NONE));
    } else if frame.status & uapi::TP_STATUS_CSUMNOTREADY != 0 && checksum::complete(&mut packet) {
        handle.stats.csum_completed.add(1);
    }
    // An open checksum means that the packet has not been on a wire, so nothing can have damaged it.
    if frame.status & (uapi::TP_STATUS_CSUM_VALID | uapi::TP_STATUS_CSUMNOTREADY) != 0 {
        flags |= pkt_flags::RX_L4_OK;
    }
    let hdr = packet.hdr_mut();
    hdr.flags |= flags;
    if offloads & offload::RX_CSUM == 0 {
        hdr.flags &= !pkt_flags::RX_L4_OK;
    }
    Some(packet)
}
