//! The queues of a tap device.

use super::{QueueHandle, Shared};
use crate::{
    cells::{self, Stash, cells_for},
    outgoing::Outgoing,
    sys, uapi,
    vnet::{VNET_HDR_LEN, VnetHdr},
};
use smpnet_plugin::{Burst, Host, RxQueue, TxQueue, Worker, pkt_flags};
use std::{
    io,
    os::fd::{AsRawFd, RawFd},
    sync::{Arc, atomic::Ordering},
};

/// Longest frame that the kernel sends: 64 KiB of IP, an Ethernet header, two tags.
const FRAME_MAX: usize = 65535 + 14 + 8;
/// Most cells for one frame.
const CELLS_MAX: usize = smpnet_plugin::BURST_MAX;
/// Most frames thrown away in one call while the port is down.
const DISCARD_MAX: usize = 1024;

/// A receive queue of a `tap` port.
pub struct TapRx {
    handle: Arc<QueueHandle>,
    shared: Arc<Shared>,
    stash: Stash,
    queue: u16,
    /// Cells that hold the longest frame.
    cells: usize,
    /// The device was deleted.
    gone: bool,
}

impl TapRx {
    pub(super) fn new(handle: Arc<QueueHandle>, shared: Arc<Shared>, queue: u16) -> Self {
        let room = Host::get().map_or(1920, |host| {
            let pool = host.pool();
            (pool.cell_size as usize).saturating_sub(pool.data_off as usize).max(1)
        });
        let cells = cells_for(FRAME_MAX, room).min(CELLS_MAX);
        TapRx { handle, shared, stash: Stash::default(), queue, cells, gone: false }
    }

    /// readv(2) of one frame into the first cells of the stash; the bytes of the frame and its header.
    fn read(&mut self, head: &mut [u8; VNET_HDR_LEN]) -> io::Result<usize> {
        const EMPTY: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        let mut pieces = [EMPTY; CELLS_MAX + 1];
        pieces[0] = libc::iovec { iov_base: head.as_mut_ptr().cast(), iov_len: head.len() };
        let mut count = 1;
        for (piece, cell) in pieces[1..].iter_mut().zip(self.stash.as_mut_slice()).take(self.cells) {
            let buffer = cell.buffer_mut();
            *piece = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
            count += 1;
        }
        loop {
            // SAFETY: pieces point into `head` and into cells that the stash owns and that nobody else uses meanwhile.
            let n = unsafe { libc::readv(self.handle.fd.as_raw_fd(), pieces.as_ptr(), count) };
            if n >= 0 {
                return Ok((n as usize).saturating_sub(VNET_HDR_LEN));
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    /// Throws away frames that wait while the port is down. Nobody need call `rx_burst` then, and they must not keep the
    /// worker awake.
    #[cold]
    fn discard(&mut self) {
        let mut head = [0u8; 64];
        for _ in 0..DISCARD_MAX {
            // SAFETY: `head` is writable for its length; what does not fit is thrown away by the kernel.
            let n = unsafe { libc::read(self.handle.fd.as_raw_fd(), head.as_mut_ptr().cast(), head.len()) };
            if n < 0 {
                if io::Error::last_os_error().raw_os_error() == Some(libc::EBADFD) {
                    self.lose();
                }
                return;
            }
            self.handle.rx.while_down.add(1);
        }
    }

    /// The device was deleted under us: its descriptor would report an error to every poll(2) for ever, so an eventfd
    /// that never fires takes its number.
    #[cold]
    fn lose(&mut self) {
        self.gone = true;
        if let Ok(idle) = sys::eventfd() {
            // SAFETY: both descriptors are open; the second is ours and stays valid, for another file.
            unsafe { libc::dup3(idle.as_raw_fd(), self.handle.fd.as_raw_fd(), libc::O_CLOEXEC) };
        }
        smpnet_plugin::warn!("a tap device was deleted while its port was open");
    }
}

impl RxQueue for TapRx {
    fn rx_burst(&mut self, cx: &mut Worker<'_>, out: &mut Burst, max: usize) {
        if self.gone {
            return;
        }
        if !self.shared.up.load(Ordering::Relaxed) {
            return self.discard();
        }
        let (mut packets, mut bytes) = (0, 0);
        for _ in 0..max {
            if !self.stash.want(cx, self.cells) {
                // The frames wait in the device's queue; when that is full, the kernel counts what it drops.
                self.handle.rx.no_cell.add(1);
                break;
            }
            let mut head = [0; VNET_HDR_LEN];
            let len = match self.read(&mut head) {
                Ok(len) => len,
                Err(e) if e.raw_os_error() == Some(libc::EBADFD) => {
                    self.lose();
                    break;
                }
                // Nothing waits (EAGAIN), or the kernel's end is down (EIO).
                Err(_) => break,
            };
            let stats = &self.handle.rx;
            let mut left = len;
            let mut used = 0;
            for cell in self.stash.as_mut_slice() {
                let n = left.min(cell.buffer_mut().len());
                cell.set_len(n);
                used += 1;
                left -= n;
                if left == 0 {
                    break;
                }
            }
            if left > 0 || len < 14 {
                // The cells stay in the stash.
                stats.cut.add(1);
                continue;
            }
            let Some(mut packet) = self.stash.chain(used) else {
                stats.bad.add(1);
                continue;
            };
            let vnet = VnetHdr::read(&head).unwrap_or_default();
            if vnet.apply(&mut packet, 0).is_err() {
                stats.bad.add(1);
                continue;
            }
            let mut flags = cells::destination_flags(&packet);
            if packet.hdr().flags & pkt_flags::CSUM_PARTIAL != 0 {
                // It has not been on a wire, so nothing can have damaged it.
                flags |= pkt_flags::RX_L4_OK;
            }
            let hdr = packet.hdr_mut();
            hdr.flags |= flags;
            hdr.rx_queue = self.queue;
            stats.gso.add(u64::from(vnet.gso_type != uapi::VIRTIO_NET_HDR_GSO_NONE));
            packets += 1;
            bytes += len as u64;
            if out.push(packet).is_err() {
                packets -= 1;
                break;
            }
        }
        self.handle.rx.packets.add(packets);
        self.handle.rx.bytes.add(bytes);
    }

    fn event_fd(&self) -> Option<RawFd> {
        Some(self.handle.fd.as_raw_fd())
    }

    fn arm(&mut self) -> bool {
        if !self.gone && !self.shared.up.load(Ordering::Relaxed) {
            self.discard();
        }
        // The descriptor is readable for as long as frames wait.
        false
    }
}

/// A transmit queue of a `tap` port.
pub struct TapTx {
    handle: Arc<QueueHandle>,
    outgoing: Outgoing,
}

impl TapTx {
    pub(super) fn new(handle: Arc<QueueHandle>) -> Self {
        TapTx { handle, outgoing: Outgoing::new(true) }
    }
}

impl TxQueue for TapTx {
    fn tx_burst(&mut self, cx: &mut Worker<'_>, burst: &mut Burst) {
        const GSO: u32 = pkt_flags::GSO_TCP4 | pkt_flags::GSO_TCP6 | pkt_flags::GSO_UDP;
        let stats = &self.handle.tx;
        let mut done = 0;
        for packet in burst.iter() {
            stats.kicks.add(1);
            match self.outgoing.write_one(self.handle.fd.as_raw_fd(), packet) {
                Ok(()) => {
                    stats.packets.add(1);
                    stats.bytes.add(packet.len() as u64);
                    stats.gso.add(u64::from(packet.hdr().flags & GSO != 0));
                }
                Err(e) => match e.raw_os_error() {
                    Some(libc::EAGAIN) => {
                        stats.busy.add(1);
                        break;
                    }
                    Some(libc::ENOBUFS) | Some(libc::ENOMEM) => stats.no_buffer.add(1),
                    // The kernel's end is down, or the device was deleted.
                    Some(libc::EIO) | Some(libc::EBADFD) => stats.down.add(1),
                    _ => stats.refused.add(1),
                },
            }
            done += 1;
        }
        cx.free(burst.take_front(done));
    }
}
