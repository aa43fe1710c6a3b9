//! The `TPACKET_V3` transmit ring: slots of one size, sent by one system call for all that were filled.
//!
//! The kernel does not copy a slot's payload but lends its pages to the device, and frees the slot when the packet was
//! sent. (Devices that hand the packet on inside the machine, such as veth, make their own copy first: Linux 4.20,
//! "packet: copy user buffers before orphan or clone".) With V3 the layout of a slot is that of V2 but for the header.

use crate::{
    sys::{self, Mapping},
    uapi::{self, TX_DATA_OFFSET, Tpacket3Hdr, TpacketReq3},
};
use std::{
    io,
    os::fd::RawFd,
    sync::atomic::{AtomicU32, Ordering},
};

/// Shape of a transmit ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxGeometry {
    /// Slots; at least 64, a power of two.
    pub frames: u32,
    /// Bytes of a slot; a power of two from 1024 to 65536. Frames that do not fit go another way.
    pub frame_size: u32,
}

/// Slots that wait to be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unsent {
    /// How many.
    pub slots: u32,
    /// Bytes of their frames.
    pub bytes: u64,
}

/// A transmit ring. It belongs to one worker at a time.
pub struct TxRing {
    map: Mapping,
    geometry: TxGeometry,
    /// The slot to fill next.
    next: u32,
    /// The oldest slot that the kernel may still have.
    oldest: u32,
    /// Slots between the two.
    used: u32,
}

impl TxRing {
    /// Turns the socket's transmit ring on and maps it. The socket must have its version and vnet header set.
    pub fn new(fd: RawFd, geometry: TxGeometry) -> io::Result<Self> {
        // Blocks are allocated one by one; 64 KiB is a size that the kernel finds easily.
        let block_size = (64 << 10).max(geometry.frame_size);
        let request = TpacketReq3 {
            block_size,
            block_nr: (geometry.frame_size * geometry.frames).div_ceil(block_size),
            frame_size: geometry.frame_size,
            frame_nr: geometry.frames,
            ..TpacketReq3::default()
        };
        let bytes = request.block_size as usize * request.block_nr as usize;
        let geometry = TxGeometry { frames: (bytes / geometry.frame_size as usize) as u32, ..geometry };
        let request = TpacketReq3 { frame_nr: geometry.frames, ..request };
        sys::setsockopt(fd, libc::SOL_PACKET, uapi::PACKET_TX_RING, &request)?;
        let map = Mapping::new(fd, bytes)?;
        Ok(TxRing { map, geometry, next: 0, oldest: 0, used: 0 })
    }

    /// Most bytes that a slot takes, virtio-net header included.
    pub fn room(&self) -> usize {
        self.geometry.frame_size as usize - TX_DATA_OFFSET
    }

    /// Bytes of the slot to fill next; none when the kernel still has it. The slot is sent by [`TxRing::commit`].
    #[inline]
    pub fn slot(&mut self) -> Option<&mut [u8]> {
        if self.used == self.geometry.frames && self.reap() == 0 {
            return None;
        }
        // Slots come back in any order, so a slot that was not reaped yet may be free and one that is older may not.
        if self.status(self.next).load(Ordering::Acquire) != uapi::TP_STATUS_AVAILABLE {
            return None;
        }
        let room = self.room();
        // SAFETY: within slot `next` of the mapping, which the kernel has given back; `&mut self` makes it exclusive.
        Some(unsafe { std::slice::from_raw_parts_mut(self.base(self.next).add(TX_DATA_OFFSET), room) })
    }

    /// Marks the slot of [`TxRing::slot`] to be sent, with its first `len` bytes.
    #[inline]
    pub fn commit(&mut self, len: usize) {
        let hdr = self.base(self.next).cast::<Tpacket3Hdr>();
        // SAFETY: the slot is ours. The status is left to the atomic store below.
        unsafe {
            (*hdr).next_offset = 0;
            (*hdr).len = len as u32;
            (*hdr).snaplen = len as u32;
        }
        // Release: the kernel sees the bytes when it sees the request.
        self.status(self.next).store(uapi::TP_STATUS_SEND_REQUEST, Ordering::Release);
        self.next = (self.next + 1) % self.geometry.frames;
        self.used += 1;
    }

    /// Takes note of slots that came back, in order, and returns how many.
    pub fn reap(&mut self) -> u32 {
        let before = self.used;
        while self.used > 0 && self.status(self.oldest).load(Ordering::Acquire) == uapi::TP_STATUS_AVAILABLE {
            self.oldest = (self.oldest + 1) % self.geometry.frames;
            self.used -= 1;
        }
        before - self.used
    }

    /// What was filled but the kernel has not looked at, because a kick was refused or none was given. `header` bytes of
    /// each slot are not counted.
    pub fn unsent(&self, header: usize) -> Unsent {
        let mut unsent = Unsent::default();
        for slot in (0..self.used).rev().map(|i| (self.oldest + i) % self.geometry.frames) {
            if self.status(slot).load(Ordering::Acquire) != uapi::TP_STATUS_SEND_REQUEST {
                break;
            }
            unsent.slots += 1;
            // SAFETY: the slot's header, which the kernel does not touch outside of a kick.
            let len = unsafe { (*self.base(slot).cast::<Tpacket3Hdr>()).len } as usize;
            unsent.bytes += len.saturating_sub(header) as u64;
        }
        unsent
    }

    /// Takes back what [`TxRing::unsent`] tells of, and returns how many slots that were. The kernel goes on at the first
    /// of them, and so does the next [`TxRing::slot`].
    pub fn withdraw(&mut self) -> u32 {
        let n = self.unsent(0).slots;
        for _ in 0..n {
            self.next = (self.next + self.geometry.frames - 1) % self.geometry.frames;
            self.status(self.next).store(uapi::TP_STATUS_AVAILABLE, Ordering::Release);
            self.used -= 1;
        }
        n
    }

    #[inline]
    fn base(&self, slot: u32) -> *mut u8 {
        // SAFETY: slot is below frames, and the mapping is frames * frame_size long.
        unsafe { self.map.base().add(slot as usize * self.geometry.frame_size as usize) }
    }

    #[inline]
    fn status(&self, slot: u32) -> &AtomicU32 {
        let hdr = self.base(slot).cast::<Tpacket3Hdr>();
        // SAFETY: within the mapping, aligned; kernel and program both access it atomically.
        unsafe { AtomicU32::from_ptr(&raw mut (*hdr).status) }
    }
}
