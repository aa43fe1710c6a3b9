//! The `TPACKET_V3` receive ring: blocks that the kernel fills with frames of any length, one after the other.
//!
//! A block comes to us when it is full or when its time is up (*retired*). Frames do not have fixed slots, so a block of
//! 256 KiB takes 64-byte frames and 64 KiB segmentation-offload frames alike, and one wake-up brings many frames. The
//! price is latency at low rates: a frame that comes alone waits for the retirement. The shortest timeout that the
//! interface knows, 1 ms, is the default. Linux 6.18 keeps it by a high-resolution timer; older kernels count in ticks, so
//! that it is 4 ms at HZ=250. Under load blocks fill up before the timer, and there is no such wait.
//!
//! Measured on a veth pair of Linux 6.18, from send to wake-up: 0.1 to 1 ms with V3, 14 us with V2. Version 2 is not
//! offered all the same: its slots have one size. At 2 KiB, 64 KiB frames go by way of the socket's buffer, of which an
//! unprivileged process has 208 KiB, that is two frames; at 68 KiB, a ring of 32 MiB holds 480 frames, half a millisecond
//! of a million a second. Both lose packets where V3 does not.

use crate::{
    sys::{self, Mapping},
    uapi::{self, BlockDesc, Tpacket3Hdr, TpacketReq3},
};
use std::{
    io,
    os::fd::RawFd,
    sync::atomic::{AtomicU32, Ordering},
};

/// Shape of a receive ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RxGeometry {
    /// Blocks, at least 2.
    pub blocks: u32,
    /// Bytes of a block; a power of two of at least a page. A frame longer than a block is cut by the kernel and counted
    /// as an error here, so less than 128 KiB loses segmentation-offload frames.
    pub block_size: u32,
    /// Milliseconds after which a block that is not full is handed over, 1 or more.
    pub retire_ms: u32,
}

impl std::fmt::Display for RxGeometry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} blocks of {} bytes", self.blocks, self.block_size)
    }
}

/// A frame in the ring.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// From the Ethernet header on, as much as the ring holds.
    pub data: &'a [u8],
    /// The [`crate::vnet::VNET_HDR_LEN`] bytes before `data`, where the virtio-net header stands if the socket has it.
    pub before: &'a [u8],
    /// Bytes of the frame on the wire; above `data.len()` when it was cut.
    pub wire_len: u32,
    /// `TP_STATUS_*`.
    pub status: u32,
    /// TPID and TCI of the tag that was taken off.
    pub vlan: Option<(u16, u16)>,
}

/// A receive ring. It belongs to one worker at a time.
pub struct RxRing {
    map: Mapping,
    geometry: RxGeometry,
    block: u32,
    /// Frames not yet taken out of the current block, when it is ours.
    left: u32,
    /// Where the next one stands in the block.
    offset: u32,
    /// Whether the current block is ours.
    open: bool,
}

impl RxRing {
    /// Turns the socket's receive ring on and maps it. The socket must have its version, reserve and vnet header set.
    pub fn new(fd: RawFd, geometry: RxGeometry) -> io::Result<Self> {
        // With V3 the frame size only bounds the number of frames; it must divide the block.
        let frame_size = 2048.min(geometry.block_size);
        let request = TpacketReq3 {
            block_size: geometry.block_size,
            block_nr: geometry.blocks,
            frame_size,
            frame_nr: geometry.block_size / frame_size * geometry.blocks,
            retire_blk_tov: geometry.retire_ms,
            sizeof_priv: 0,
            feature_req_word: 0,
        };
        sys::setsockopt(fd, libc::SOL_PACKET, uapi::PACKET_RX_RING, &request)?;
        let map = Mapping::new(fd, geometry.block_size as usize * geometry.blocks as usize)?;
        Ok(RxRing { map, geometry, block: 0, left: 0, offset: 0, open: false })
    }

    /// Whether a frame waits.
    #[inline]
    pub fn ready(&self) -> bool {
        self.open || self.status().load(Ordering::Acquire) & uapi::TP_STATUS_USER != 0
    }

    /// The next frame, which stays in the ring until [`RxRing::advance`].
    ///
    /// # Errors
    /// `Some(Err(frames))` when the block is not laid out as it should be: that many frames are lost, and the block has
    /// gone back to the kernel.
    #[inline]
    pub fn peek(&mut self) -> Option<Result<Frame<'_>, u32>> {
        if !self.open {
            // Acquire: what the kernel wrote into the block before it handed it over.
            if self.status().load(Ordering::Acquire) & uapi::TP_STATUS_USER == 0 {
                return None;
            }
            let desc = self.desc();
            // SAFETY: the block is ours, so nobody writes its descriptor.
            (self.left, self.offset) = unsafe { ((*desc).num_pkts, (*desc).offset_to_first_pkt) };
            self.open = true;
            if self.left == 0 {
                self.release();
                return None;
            }
        }
        // Read by way of `self` once more, or the borrow would last over the release.
        if self.frame().is_none() {
            let lost = self.left;
            self.release();
            return Some(Err(lost));
        }
        self.frame().map(Ok)
    }

    /// Gives the frame of [`RxRing::peek`] back to the kernel, as part of its block.
    #[inline]
    pub fn advance(&mut self) {
        if !self.open {
            return;
        }
        self.left = self.left.saturating_sub(1);
        match self.header() {
            Some(hdr) if self.left > 0 => self.offset = self.offset.saturating_add(hdr.next_offset),
            _ => self.release(),
        }
    }

    /// The frame header at the cursor, if it lies within the block.
    #[inline]
    fn header(&self) -> Option<Tpacket3Hdr> {
        let end = (self.offset as usize).checked_add(size_of::<Tpacket3Hdr>())?;
        if end > self.geometry.block_size as usize || !self.offset.is_multiple_of(8) {
            return None;
        }
        // SAFETY: within the current block, which is ours, aligned, and plain data.
        Some(unsafe { self.base().add(self.offset as usize).cast::<Tpacket3Hdr>().read() })
    }

    #[inline]
    fn frame(&self) -> Option<Frame<'_>> {
        let hdr = self.header()?;
        let (mac, len) = (usize::from(hdr.mac), hdr.snaplen as usize);
        let room = self.geometry.block_size as usize - self.offset as usize;
        if mac < crate::vnet::VNET_HDR_LEN + size_of::<Tpacket3Hdr>() || mac.checked_add(len)? > room {
            return None;
        }
        // SAFETY: offset + mac + len lies within the current block, which is ours until `release`, and that takes &mut.
        let (before, data) = unsafe {
            let start = self.base().add(self.offset as usize + mac);
            (
                std::slice::from_raw_parts(start.sub(crate::vnet::VNET_HDR_LEN), crate::vnet::VNET_HDR_LEN),
                std::slice::from_raw_parts(start, len),
            )
        };
        let vlan = (hdr.status & uapi::TP_STATUS_VLAN_VALID != 0).then(|| {
            let known = hdr.status & uapi::TP_STATUS_VLAN_TPID_VALID != 0;
            (if known { hdr.vlan_tpid } else { libc::ETH_P_8021Q as u16 }, hdr.vlan_tci as u16)
        });
        Some(Frame { data, before, wire_len: hdr.len, status: hdr.status, vlan })
    }

    /// Gives the current block back and goes on to the next.
    fn release(&mut self) {
        // Release: our reads of the block come before the kernel's next writes.
        self.status().store(uapi::TP_STATUS_KERNEL, Ordering::Release);
        self.block = (self.block + 1) % self.geometry.blocks;
        (self.open, self.left) = (false, 0);
    }

    #[inline]
    fn base(&self) -> *mut u8 {
        // SAFETY: block is below blocks, and the mapping is blocks * block_size long.
        unsafe { self.map.base().add(self.block as usize * self.geometry.block_size as usize) }
    }

    #[inline]
    fn desc(&self) -> *const BlockDesc {
        self.base().cast_const().cast()
    }

    #[inline]
    fn status(&self) -> &AtomicU32 {
        // SAFETY: within the mapping, aligned; kernel and program both access it atomically.
        unsafe { AtomicU32::from_ptr((&raw const (*self.desc()).block_status).cast_mut()) }
    }
}
