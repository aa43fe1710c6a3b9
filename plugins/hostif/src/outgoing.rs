//! Packets as the kernel takes them: gathered from their cells without a copy, many to a system call.

use crate::{
    sys,
    vnet::{VNET_HDR_LEN, VnetHdr},
};
use smpnet_plugin::{PacketData, pkt_flags};
use std::{io, os::fd::RawFd};

/// Most packets to a system call.
pub const MESSAGES: usize = smpnet_plugin::BURST_MAX;
/// Pieces for one burst. A burst whose chains have more goes out in several calls; one packet has at most 255 cells.
const PIECES: usize = 1024;

const EMPTY: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

/// Room for a burst's headers and pieces, allocated once.
pub struct Outgoing {
    // SAFETY invariant: pointers in here are followed only by the system call that ends `send_all` or `write_one`, while
    // the packets that they point into are borrowed.
    messages: Box<[libc::mmsghdr; MESSAGES]>,
    pieces: Box<[libc::iovec; PIECES]>,
    heads: Box<[Head; MESSAGES]>,
    vnet: bool,
}

// SAFETY: the pointers are dead between calls.
unsafe impl Send for Outgoing {}

/// What goes before a packet's own bytes: the virtio-net header, and the addresses and the tag when one is put in.
#[derive(Clone, Copy)]
struct Head {
    vnet: [u8; VNET_HDR_LEN],
    tagged: [u8; 16],
}

impl Outgoing {
    /// For a descriptor that takes a virtio-net header before each frame, if `vnet`.
    pub fn new(vnet: bool) -> Self {
        // SAFETY: mmsghdr is plain data for which all bits zero is valid.
        let message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        Outgoing {
            messages: Box::new([message; MESSAGES]),
            pieces: Box::new([EMPTY; PIECES]),
            heads: Box::new([Head { vnet: [0; VNET_HDR_LEN], tagged: [0; 16] }; MESSAGES]),
            vnet,
        }
    }

    /// Sends the first packets by one sendmmsg(2) and returns how many the kernel took, at least 1. An error is that of
    /// the first packet.
    pub fn send_all<'p>(&mut self, fd: RawFd, packets: impl Iterator<Item = &'p PacketData>) -> io::Result<usize> {
        let (mut n, mut used) = (0, 0);
        for packet in packets.take(MESSAGES) {
            let Some(count) = self.gather(n, used, packet) else { break };
            let header = &mut self.messages[n].msg_hdr;
            header.msg_iov = self.pieces[used..].as_mut_ptr();
            header.msg_iovlen = count as _;
            used += count;
            n += 1;
        }
        if n == 0 {
            return Ok(0);
        }
        loop {
            // SAFETY: n messages whose pieces point into heads of ours and cells that `packets` borrows.
            let sent = unsafe { libc::sendmmsg(fd, self.messages.as_mut_ptr(), n as u32, libc::MSG_DONTWAIT) };
            match sys::check(sent) {
                Ok(sent) => return Ok(sent as usize),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Writes one packet by writev(2).
    pub fn write_one(&mut self, fd: RawFd, packet: &PacketData) -> io::Result<()> {
        let Some(count) = self.gather(0, 0, packet) else { return Err(io::ErrorKind::InvalidInput.into()) };
        loop {
            // SAFETY: pieces point into heads of ours and cells that `packet` borrows.
            if unsafe { libc::writev(fd, self.pieces.as_ptr(), count as i32) } >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    /// Lists the pieces of `packet` from `self.pieces[at]` on, with head `n`, and returns how many there are; none when
    /// they do not fit.
    fn gather(&mut self, n: usize, at: usize, packet: &PacketData) -> Option<usize> {
        let room = self.pieces.get_mut(at..)?;
        if room.len() < usize::from(packet.hdr().nsegs()) + 2 {
            return None;
        }
        let head = &mut self.heads[n];
        let mut count = 0;
        let mut put = |bytes: &[u8]| {
            room[count] = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            count += 1;
        };
        let tag = tag(packet);
        if self.vnet {
            head.vnet = VnetHdr::of(packet, if tag.is_some() { 4 } else { 0 }).bytes();
            put(&head.vnet);
        }
        let mut skip = 0;
        if let Some(tagged) = tag {
            head.tagged = tagged;
            put(&head.tagged);
            skip = 12;
        }
        for segment in packet.segments() {
            put(segment.get(skip..).unwrap_or(&[]));
            skip = 0;
        }
        Some(count)
    }
}

/// The addresses of a frame with its 802.1Q tag behind them, if it has one that is not among its bytes.
#[inline]
pub fn tag(packet: &PacketData) -> Option<[u8; 16]> {
    let hdr = packet.hdr();
    if hdr.flags & pkt_flags::VLAN == 0 {
        return None;
    }
    let mut head = [0; 16];
    head[..12].copy_from_slice(packet.data().first_chunk::<12>()?);
    head[12..14].copy_from_slice(&crate::cells::TPID_8021Q.to_be_bytes());
    head[14..].copy_from_slice(&hdr.vlan_tci.to_be_bytes());
    Some(head)
}
