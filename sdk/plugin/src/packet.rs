//! Packets: an owned handle and the safe view of what it owns.

use crate::memory;
use smpnet_abi::{CELL_NONE, Cell, PktHdr, WORKER_NONE};
use std::ops::{Deref, DerefMut};

/// A packet that this code owns: one cell of the pool, or a chain of them. What can be done with its bytes and its
/// header stands at [`PacketData`], to which it dereferences.
///
/// Dropping it gives its cells back; on a worker [`crate::Worker::free`] does so faster.
///
/// ```
/// # let host = smpnet_plugin::testing::host();
/// let mut packet = host.alloc().expect("the pool has cells");
/// assert!(packet.append(b"payload"));
/// packet.push_front(14).expect("headroom").fill(0xff);
/// assert_eq!(packet.len(), 21);
/// assert_eq!(&packet.data()[14..], b"payload");
/// assert!(packet.pull_front(14));
/// assert_eq!(packet.data(), b"payload");
/// ```
#[repr(transparent)]
pub struct Packet(Cell);

impl Packet {
    /// Takes ownership of a packet.
    ///
    /// # Safety
    /// `cell` is a valid first cell that the caller owns and gives up.
    #[inline]
    pub unsafe fn from_cell(cell: Cell) -> Packet {
        Packet(cell)
    }

    /// Gives up ownership.
    #[inline]
    #[must_use = "the cell is lost if nobody takes it over"]
    pub fn into_cell(self) -> Cell {
        let cell = self.0;
        std::mem::forget(self);
        cell
    }

    /// The index of the first cell. It stays this packet's.
    #[inline]
    pub fn cell(&self) -> Cell {
        self.0
    }

    /// Appends another packet's cells to the chain and its bytes to the length. Gives it back when the chain would have
    /// more than 255 cells or 4 GiB.
    pub fn append_cell(&mut self, other: Packet) -> Result<(), Packet> {
        let (segs, len) = (u32::from(self.hdr().nsegs) + u32::from(other.hdr().nsegs), self.hdr().pkt_len());
        let Some(len) = len.checked_add(other.hdr().pkt_len()).filter(|_| segs <= 255) else {
            return Err(other);
        };
        let mut last = self.0;
        for _ in 1..self.hdr().nsegs {
            // SAFETY: cells of a chain that `self` owns.
            match unsafe { (*memory::cell_ptr(last)).next } {
                next if memory::is_valid(next) => last = next,
                _ => break,
            }
        }
        let other = other.into_cell();
        // SAFETY: `last` is a cell of the chain that `self` owns, and `self.0` its first.
        unsafe {
            (*memory::cell_ptr(last)).next = other;
            let hdr = &mut *memory::cell_ptr(self.0);
            hdr.pkt_len = len;
            hdr.nsegs = segs as u8;
        }
        Ok(())
    }

    /// Takes the chain apart: its cells in order, each a packet of its own with the bytes that it holds. What the first
    /// one's header says beyond its bytes stays; cells not taken are given back.
    pub fn into_cells(self) -> impl Iterator<Item = Packet> {
        let mut rest = Some(self);
        std::iter::from_fn(move || {
            let first = rest.take()?;
            let left = first.hdr().nsegs.saturating_sub(1);
            // SAFETY: a cell that `first` owns.
            let hdr = unsafe { &mut *memory::cell_ptr(first.0) };
            let next = std::mem::replace(&mut hdr.next, CELL_NONE);
            (hdr.nsegs, hdr.pkt_len) = (1, u32::from(hdr.data_len));
            if left > 0 && memory::is_valid(next) {
                // SAFETY: the next cell of the chain, which nobody else owns now that `first` has ended before it. Its
                // header has only what a cell inside of a chain has; the count is what is left of the chain's.
                rest = Some(unsafe {
                    (*memory::cell_ptr(next)).nsegs = left;
                    (*memory::cell_ptr(next)).flags = 0;
                    Packet(next)
                });
            }
            Some(first)
        })
    }
}

impl Drop for Packet {
    fn drop(&mut self) {
        if let Some(host) = memory::host() {
            // SAFETY: a packet that this value owns; WORKER_NONE is allowed to any thread.
            unsafe { (host.pkt_free)(WORKER_NONE, &self.0, 1) };
        }
    }
}

impl Deref for Packet {
    type Target = PacketData;
    #[inline]
    fn deref(&self) -> &PacketData {
        PacketData::of(self)
    }
}

impl DerefMut for Packet {
    #[inline]
    fn deref_mut(&mut self) -> &mut PacketData {
        // SAFETY: the borrow of `self` is exclusive for as long as the view lives.
        unsafe { PacketData::of_cell_mut(self.0) }
    }
}

impl std::fmt::Debug for Packet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Packet({}, {} bytes)", self.0, self.len())
    }
}

/// The header and the bytes of a packet that somebody owns: the view behind [`Packet`], and what a filter is lent.
///
/// The view is a slice of units whose *length* is the cell index: no memory lies behind the reference itself, and as it
/// is unsized, two packets cannot be swapped through it, which would change their owners.
#[repr(transparent)]
pub struct PacketData([()]);

/// The fields of the packet header that a plugin may write; what makes up the chain and its lengths is written by the
/// methods of [`PacketData`]. Same layout as the ABI's `PktHdr`, whose documentation has the units.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Header {
    next: Cell,
    pkt_len: u32,
    data_off: u16,
    data_len: u16,
    /// Index of the interface that received the packet; 0 for none.
    pub rcvif: u32,
    /// Link-layer header, from the start of the cell; 0 is not set, as in the next two.
    pub l2_off: u16,
    /// Network header.
    pub l3_off: u16,
    /// Transport header.
    pub l4_off: u16,
    /// EtherType of the network header, in host byte order.
    pub ether_type: u16,
    /// Symmetric hash of the flow, valid with [`crate::pkt_flags::HASH`].
    pub flow_hash: u32,
    /// 802.1Q tag control information in host byte order, valid with [`crate::pkt_flags::VLAN`].
    pub vlan_tci: u16,
    /// IP protocol of the transport header.
    pub l4_proto: u8,
    nsegs: u8,
    /// Bits of [`crate::pkt_flags`].
    pub flags: u32,
    /// Bytes of payload in each segment when a GSO flag is set.
    pub gso_size: u16,
    /// Where the open checksum begins, from the start of the cell, with [`crate::pkt_flags::CSUM_PARTIAL`].
    pub csum_start: u16,
    /// Offset of the checksum field from `csum_start`.
    pub csum_offset: u16,
    /// Receive queue that the packet came through.
    pub rx_queue: u16,
    /// Mark set by filters; 0 at reception.
    pub mark: u32,
    /// For the owner; nothing in it outlives a hand-over.
    pub scratch: [u64; 2],
}

const _: () = {
    use std::mem::offset_of as o;
    assert!(size_of::<Header>() == size_of::<PktHdr>() && align_of::<Header>() == align_of::<PktHdr>());
    assert!(o!(Header, data_len) == o!(PktHdr, data_len) && o!(Header, rcvif) == o!(PktHdr, rcvif));
    assert!(o!(Header, l2_off) == o!(PktHdr, l2_off) && o!(Header, l3_off) == o!(PktHdr, l3_off));
    assert!(o!(Header, l4_off) == o!(PktHdr, l4_off) && o!(Header, ether_type) == o!(PktHdr, ether_type));
    assert!(o!(Header, flow_hash) == o!(PktHdr, flow_hash) && o!(Header, vlan_tci) == o!(PktHdr, vlan_tci));
    assert!(o!(Header, l4_proto) == o!(PktHdr, l4_proto) && o!(Header, nsegs) == o!(PktHdr, nsegs));
    assert!(o!(Header, flags) == o!(PktHdr, flags) && o!(Header, gso_size) == o!(PktHdr, gso_size));
    assert!(o!(Header, csum_start) == o!(PktHdr, csum_start) && o!(Header, rx_queue) == o!(PktHdr, rx_queue));
    assert!(o!(Header, csum_offset) == o!(PktHdr, csum_offset) && o!(Header, mark) == o!(PktHdr, mark));
    assert!(o!(Header, next) == o!(PktHdr, next) && o!(Header, pkt_len) == o!(PktHdr, pkt_len));
    assert!(o!(Header, data_off) == o!(PktHdr, data_off) && o!(Header, scratch) == o!(PktHdr, scratch));
};

impl Header {
    /// Bytes of the packet, over all its cells.
    #[inline]
    pub fn pkt_len(&self) -> u32 {
        self.pkt_len
    }

    /// Where the first cell's bytes begin, from the start of the cell: what the `*_off` fields count from 0 is
    /// `data_off()` for the first byte of [`PacketData::data`].
    #[inline]
    pub fn data_off(&self) -> u16 {
        self.data_off
    }

    /// Cells in the chain.
    #[inline]
    pub fn nsegs(&self) -> u8 {
        self.nsegs
    }
}

impl PacketData {
    #[inline]
    fn of(packet: &Packet) -> &PacketData {
        // SAFETY: a shared borrow of the owner.
        unsafe { PacketData::of_cell(packet.0) }
    }

    /// The view of a cell.
    ///
    /// # Safety
    /// Whoever owns the packet lets it be read for `'a`.
    #[inline]
    pub(crate) unsafe fn of_cell<'a>(cell: Cell) -> &'a PacketData {
        let units: *const [()] = std::ptr::slice_from_raw_parts(std::ptr::dangling(), cell as usize);
        // SAFETY: a slice of units has no bytes, so any well-aligned pointer and any length do; PacketData is
        // transparent over it.
        unsafe { &*(units as *const PacketData) }
    }

    /// The exclusive view of a cell.
    ///
    /// # Safety
    /// Whoever owns the packet lets it be written by this view alone for `'a`.
    #[inline]
    pub(crate) unsafe fn of_cell_mut<'a>(cell: Cell) -> &'a mut PacketData {
        let units: *mut [()] = std::ptr::slice_from_raw_parts_mut(std::ptr::dangling_mut(), cell as usize);
        // SAFETY: as in `of_cell`.
        unsafe { &mut *(units as *mut PacketData) }
    }

    #[inline]
    fn index(&self) -> Cell {
        // The length was a cell index.
        self.0.len() as Cell
    }

    #[inline]
    fn raw(&self) -> &PktHdr {
        // SAFETY: the header of a cell that is lent to this view.
        unsafe { &*memory::cell_ptr(self.index()) }
    }

    #[inline]
    fn raw_mut(&mut self) -> &mut PktHdr {
        // SAFETY: the header of a cell that is lent to this view alone.
        unsafe { &mut *memory::cell_ptr(self.index()) }
    }

    /// The header.
    #[inline]
    pub fn hdr(&self) -> &Header {
        // SAFETY: Header has the layout of PktHdr, asserted above.
        unsafe { &*memory::cell_ptr(self.index()).cast() }
    }

    /// The header, to be written.
    #[inline]
    pub fn hdr_mut(&mut self) -> &mut Header {
        // SAFETY: as in `hdr`, and the view is exclusive.
        unsafe { &mut *memory::cell_ptr(self.index()).cast() }
    }

    /// Bytes of the packet, over all its cells.
    #[inline]
    #[allow(clippy::len_without_is_empty)] // an empty packet is nothing that anybody asks for
    pub fn len(&self) -> usize {
        self.raw().pkt_len as usize
    }

    /// The bytes in the first cell: the whole packet, unless it is a chain.
    #[inline]
    pub fn data(&self) -> &[u8] {
        cell_data(self.index())
    }

    /// The bytes in the first cell, to be written.
    #[inline]
    pub fn data_mut(&mut self) -> &mut [u8] {
        let (off, len) = cell_range(self.index());
        // SAFETY: `cell_range` lies within the cell, which is lent to this view alone.
        unsafe { std::slice::from_raw_parts_mut(memory::cell_ptr(self.index()).cast::<u8>().add(off), len) }
    }

    /// `n` bytes at `off` from the start of the first cell (as `l3_off` and its like count), or none when the data of the
    /// cell does not hold them.
    #[inline]
    pub fn at(&self, off: u16, n: usize) -> Option<&[u8]> {
        let start = usize::from(off).checked_sub(usize::from(self.raw().data_off))?;
        self.data().get(start..start.checked_add(n)?)
    }

    /// As [`PacketData::at`], to be written.
    #[inline]
    pub fn at_mut(&mut self, off: u16, n: usize) -> Option<&mut [u8]> {
        let start = usize::from(off).checked_sub(usize::from(self.raw().data_off))?;
        self.data_mut().get_mut(start..start.checked_add(n)?)
    }

    /// Everything from the first byte of data to the end of the first cell: what a driver receives into, before
    /// [`PacketData::set_len`]. Holds whatever was there before.
    #[inline]
    pub fn buffer_mut(&mut self) -> &mut [u8] {
        let (off, _) = cell_range(self.index());
        let n = memory::cell_size() - off;
        // SAFETY: within the cell, which is lent to this view alone; the pool's memory is always initialised.
        unsafe { std::slice::from_raw_parts_mut(memory::cell_ptr(self.index()).cast::<u8>().add(off), n) }
    }

    /// Makes the packet `n` bytes of its first cell. False, and nothing is changed, when the cell is too small or the
    /// packet is a chain.
    #[inline]
    pub fn set_len(&mut self, n: usize) -> bool {
        let (off, _) = cell_range(self.index());
        let hdr = self.raw_mut();
        if hdr.nsegs != 1 || n > memory::cell_size() - off {
            return false;
        }
        hdr.data_off = off as u16;
        hdr.data_len = n as u16;
        hdr.pkt_len = n as u32;
        true
    }

    /// Makes `bytes` the whole content, where a fresh packet's data begins. False, and nothing is changed, when it does
    /// not fit one cell or the packet is a chain.
    pub fn set_data(&mut self, bytes: &[u8]) -> bool {
        let off = memory::fresh_data_off();
        if self.raw().nsegs != 1 || bytes.len() > memory::cell_size() - usize::from(off) {
            return false;
        }
        self.raw_mut().data_off = off;
        self.set_len(bytes.len());
        self.data_mut().copy_from_slice(bytes);
        true
    }

    /// Adds bytes at the end. False, and nothing is changed, when they do not fit the first cell or the packet is a
    /// chain.
    pub fn append(&mut self, bytes: &[u8]) -> bool {
        let (_, len) = cell_range(self.index());
        match self.set_len(len + bytes.len()) {
            true => self.data_mut()[len..].copy_from_slice(bytes),
            false => return false,
        }
        true
    }

    /// Makes `n` bytes of room in front, which are the caller's to fill, and returns them. None when the headroom is
    /// smaller.
    #[inline]
    pub fn push_front(&mut self, n: usize) -> Option<&mut [u8]> {
        let (off, len) = cell_range(self.index());
        let start = off.checked_sub(n).filter(|s| *s >= memory::DATA_MIN)?;
        let hdr = self.raw_mut();
        hdr.pkt_len = hdr.pkt_len.checked_add(n as u32)?;
        hdr.data_off = start as u16;
        hdr.data_len = (len + n) as u16;
        Some(&mut self.data_mut()[..n])
    }

    /// Takes `n` bytes off the front. False, and nothing is changed, when the first cell has fewer.
    #[inline]
    pub fn pull_front(&mut self, n: usize) -> bool {
        let (off, len) = cell_range(self.index());
        let hdr = self.raw_mut();
        if n > len || n > hdr.pkt_len as usize {
            return false;
        }
        hdr.data_off = (off + n) as u16;
        hdr.data_len = (len - n) as u16;
        hdr.pkt_len -= n as u32;
        true
    }

    /// Cuts the packet to its first `n` bytes, over its cells; longer packets stay as they are. Cells without bytes stay
    /// in the chain.
    pub fn truncate(&mut self, n: usize) {
        if n >= self.len() {
            return;
        }
        self.raw_mut().pkt_len = n as u32;
        let (mut left, mut cell) = (n, self.index());
        for _ in 0..self.raw().nsegs {
            let (_, len) = cell_range(cell);
            let keep = len.min(left);
            // SAFETY: a cell of the chain that is lent to this view alone.
            let hdr = unsafe { &mut *memory::cell_ptr(cell) };
            hdr.data_len = keep as u16;
            left -= keep;
            cell = hdr.next;
            if !memory::is_valid(cell) {
                break;
            }
        }
    }

    /// The bytes of each cell, in order.
    pub fn segments(&self) -> Segments<'_> {
        Segments { cell: self.index(), left: self.raw().nsegs, _packet: std::marker::PhantomData }
    }

    /// Copies the packet's bytes, from `off` on, into `out` and returns how many there were.
    pub fn copy_to(&self, mut off: usize, out: &mut [u8]) -> usize {
        let mut done = 0;
        for mut seg in self.segments() {
            let skip = off.min(seg.len());
            off -= skip;
            seg = &seg[skip..];
            let n = seg.len().min(out.len() - done);
            out[done..done + n].copy_from_slice(&seg[..n]);
            done += n;
        }
        done
    }

    /// Asks the processor for the header and the first bytes, for use a few packets later.
    #[inline]
    pub fn prefetch(&self) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch reads nothing that the program sees, of any address.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let p = memory::cell_ptr(self.index()).cast::<i8>();
            _mm_prefetch::<_MM_HINT_T0>(p);
            _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(usize::from(memory::fresh_data_off())));
        }
    }
}

/// Iterator of [`PacketData::segments`].
pub struct Segments<'a> {
    cell: Cell,
    left: u8,
    _packet: std::marker::PhantomData<&'a PacketData>,
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.left == 0 || self.cell == CELL_NONE || !memory::is_valid(self.cell) {
            return None;
        }
        self.left -= 1;
        let data = cell_data(self.cell);
        // SAFETY: a cell of the chain that the view lends for 'a.
        self.cell = unsafe { (*memory::cell_ptr(self.cell)).next };
        Some(data)
    }
}

/// Offset and length of a cell's data, brought within the cell whatever its header says.
#[inline]
fn cell_range(cell: Cell) -> (usize, usize) {
    // SAFETY: callers hold a view of the chain that the cell belongs to.
    let hdr = unsafe { &*memory::cell_ptr(cell) };
    let size = memory::cell_size();
    let off = usize::from(hdr.data_off).clamp(memory::DATA_MIN, size);
    (off, usize::from(hdr.data_len).min(size - off))
}

#[inline]
fn cell_data<'a>(cell: Cell) -> &'a [u8] {
    let (off, len) = cell_range(cell);
    // SAFETY: within the cell, of which the caller holds a view for 'a.
    unsafe { std::slice::from_raw_parts(memory::cell_ptr(cell).cast::<u8>().add(off), len) }
}
