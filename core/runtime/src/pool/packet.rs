//! A packet as its owner sees it.

use super::Pool;
use crate::prefetch;
use smpnet_abi::{CELL_NONE, Cell, HEADER_SIZE, PktHdr};
use std::marker::PhantomData;

const HDR: usize = HEADER_SIZE as usize;

/// A view of the packet whose first cell is [`Packet::cell`]. Whoever makes one owns the packet (see the ABI's
/// ownership rule); it is a handle, so copies of it are views of the same bytes, to be used one at a time.
///
/// Whatever the header says, no access leaves the cell: offsets and lengths are clamped to it.
#[derive(Clone, Copy)]
pub struct Packet<'p> {
    /// Start of the cell.
    base: *mut u8,
    /// Bytes of a cell.
    pub(super) size: u32,
    cell: Cell,
    pool: &'p Pool,
    _owner: PhantomData<&'p mut [u8]>,
}

/// Where the cells of a pool are, by value. A loop over a burst keeps it in registers, where the pool's own fields would be
/// loaded again after each store into a packet.
#[derive(Clone, Copy)]
pub struct Cells<'p> {
    base: *mut u8,
    size: u32,
    count: u32,
    pool: &'p Pool,
}

impl<'p> Cells<'p> {
    pub(super) fn new(pool: &'p Pool) -> Self {
        Cells { base: pool.desc.base, size: pool.desc.cell_size, count: pool.desc.cells, pool }
    }

    /// As [`Pool::packet`].
    ///
    /// # Panics
    /// When `c` is no cell.
    #[inline(always)]
    pub fn packet(self, c: Cell) -> Packet<'p> {
        if c >= self.count {
            super::bad_index(c);
        }
        // SAFETY: checked just now.
        unsafe { self.at(c) }
    }

    /// As [`Cells::packet`]; none when `c` is no cell.
    #[inline(always)]
    pub(super) fn get(self, c: Cell) -> Option<Packet<'p>> {
        // SAFETY: checked just now.
        (c < self.count).then(|| unsafe { self.at(c) })
    }

    /// # Safety
    /// `c` is a cell.
    #[inline(always)]
    unsafe fn at(self, c: Cell) -> Packet<'p> {
        // SAFETY: the index is below the number of cells, so the result is inside of the pool's mapping.
        let base = unsafe { self.base.add(c as usize * self.size as usize) };
        Packet { base, size: self.size, cell: c, pool: self.pool, _owner: PhantomData }
    }
}

impl<'p> Packet<'p> {
    /// The caller has checked `cell`.
    #[inline(always)]
    pub(super) fn new(pool: &'p Pool, cell: Cell) -> Self {
        debug_assert!(pool.is_valid(cell));
        // SAFETY: the caller has checked it.
        unsafe { pool.locate().at(cell) }
    }

    /// Index of the first cell.
    #[inline(always)]
    pub fn cell(&self) -> Cell {
        self.cell
    }

    /// The header.
    #[inline(always)]
    pub fn hdr(&self) -> &PktHdr {
        // SAFETY: every cell begins with 64 aligned bytes of header, any bits of which are a PktHdr; the caller owns it.
        unsafe { &*self.base.cast() }
    }

    /// The header, to be changed.
    #[inline(always)]
    pub fn hdr_mut(&mut self) -> &mut PktHdr {
        // SAFETY: as in `hdr`.
        unsafe { &mut *self.base.cast() }
    }

    #[inline(always)]
    pub(super) fn hdr_copy(&self) -> PktHdr {
        *self.hdr()
    }

    /// Bytes of the whole packet.
    #[inline(always)]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u32 {
        self.hdr().pkt_len
    }

    /// Start and length of this cell's data, inside of the cell whatever the header says.
    #[inline(always)]
    fn extent(&self) -> (usize, usize) {
        let size = self.size as usize;
        let off = usize::from(self.hdr().data_off).clamp(HDR, size);
        (off, usize::from(self.hdr().data_len).min(size - off))
    }

    /// `n` bytes at `off` of the cell.
    ///
    /// # Safety
    /// They lie between header and end of the cell.
    #[inline(always)]
    unsafe fn bytes(&self, off: usize, n: usize) -> &[u8] {
        // SAFETY: inside of the cell (caller), which the owner of the view owns.
        unsafe { std::slice::from_raw_parts(self.base.add(off), n) }
    }

    /// As `bytes`.
    ///
    /// # Safety
    /// As `bytes`.
    #[inline(always)]
    unsafe fn bytes_mut(&mut self, off: usize, n: usize) -> &mut [u8] {
        // SAFETY: inside of the cell (caller), which the owner of the view owns.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(off), n) }
    }

    /// The data of the first cell.
    #[inline(always)]
    pub fn data(&self) -> &[u8] {
        let (off, n) = self.extent();
        // SAFETY: `extent` is inside of the cell.
        unsafe { self.bytes(off, n) }
    }

    /// The data of the first cell, to be changed.
    #[inline(always)]
    pub fn data_mut(&mut self) -> &mut [u8] {
        let (off, n) = self.extent();
        // SAFETY: `extent` is inside of the cell.
        unsafe { self.bytes_mut(off, n) }
    }

    /// The first `N` bytes of data, if the first cell has so many.
    #[inline(always)]
    pub fn head<const N: usize>(&self) -> Option<&[u8; N]> {
        let off = self.head_at(N)?;
        // SAFETY: `N` bytes between header and end of the cell.
        unsafe { self.bytes(off, N) }.first_chunk()
    }

    /// As [`Packet::head`], to be changed.
    #[inline(always)]
    pub fn head_mut<const N: usize>(&mut self) -> Option<&mut [u8; N]> {
        let off = self.head_at(N)?;
        // SAFETY: as in `head`.
        unsafe { self.bytes_mut(off, N) }.first_chunk_mut()
    }

    /// Asks for the line that the data begins in.
    #[inline(always)]
    pub fn prefetch_data(&self) {
        prefetch(self.base.wrapping_add(self.hdr().data_off.into()));
    }

    /// Where the data begins, if `n` bytes of it are in the first cell, whatever the header says.
    #[inline(always)]
    fn head_at(&self, n: usize) -> Option<usize> {
        let (off, len) = (usize::from(self.hdr().data_off), usize::from(self.hdr().data_len));
        (off >= HDR && off + n <= self.size as usize && len >= n).then_some(off)
    }

    /// The first byte of data; of a packet without data the byte where it would be.
    #[inline(always)]
    pub fn first_byte(&self) -> u8 {
        let off = usize::from(self.hdr().data_off).min(self.size as usize - 1);
        // SAFETY: below the cell's size.
        unsafe { *self.base.add(off) }
    }

    /// `n` bytes at `off` from the start of the cell (so `l3_off` and the like can be used as they are), if they are
    /// within the data of the first cell.
    #[inline(always)]
    pub fn at(&self, off: u16, n: usize) -> Option<&[u8]> {
        let off = self.within(off, n)?;
        // SAFETY: within the data, so within the cell.
        Some(unsafe { self.bytes(off, n) })
    }

    /// As [`Packet::at`], to be changed.
    #[inline(always)]
    pub fn at_mut(&mut self, off: u16, n: usize) -> Option<&mut [u8]> {
        let off = self.within(off, n)?;
        // SAFETY: within the data, so within the cell.
        Some(unsafe { self.bytes_mut(off, n) })
    }

    #[inline(always)]
    fn within(&self, off: u16, n: usize) -> Option<usize> {
        let (start, len) = self.extent();
        let off = usize::from(off);
        // Not `start + len - off >= n`: `off` may be beyond the end.
        (off >= start && n <= len && off - start <= len - n).then_some(off)
    }

    /// The whole first cell after its header: headroom, data and tailroom.
    #[inline]
    pub fn cell_bytes(&self) -> &[u8] {
        // SAFETY: from the header to the end of the cell.
        unsafe { self.bytes(HDR, self.size as usize - HDR) }
    }

    /// As [`Packet::cell_bytes`], to be changed.
    #[inline]
    pub fn cell_bytes_mut(&mut self) -> &mut [u8] {
        let n = self.size as usize - HDR;
        // SAFETY: from the header to the end of the cell.
        unsafe { self.bytes_mut(HDR, n) }
    }

    /// Bytes that can be put in front.
    #[inline]
    pub fn headroom(&self) -> usize {
        self.extent().0 - HDR
    }

    /// Bytes that can be appended to the first cell.
    #[inline]
    pub fn tailroom(&self) -> usize {
        let (off, n) = self.extent();
        self.size as usize - off - n
    }

    /// Puts `n` bytes in front and returns them, with whatever they held; `None` when the headroom is too small.
    #[inline]
    pub fn push_front(&mut self, n: usize) -> Option<&mut [u8]> {
        let (off, len) = self.extent();
        if n > off - HDR {
            return None;
        }
        let h = self.hdr_mut();
        h.data_off = (off - n) as u16;
        h.data_len = (len + n) as u16;
        h.pkt_len += n as u32;
        // SAFETY: the headroom is at least `n`, so it is behind the header.
        Some(unsafe { self.bytes_mut(off - n, n) })
    }

    /// Takes `n` bytes off the front; false, and nothing done, when the first cell has not so many.
    #[inline]
    pub fn pull_front(&mut self, n: usize) -> bool {
        let (off, len) = self.extent();
        if n > len {
            return false;
        }
        let h = self.hdr_mut();
        h.data_off = (off + n) as u16;
        h.data_len = (len - n) as u16;
        h.pkt_len = h.pkt_len.saturating_sub(n as u32);
        true
    }

    /// Appends `n` bytes to a packet of one cell and returns them, with whatever they held; `None` when the cell is full
    /// or the packet has more cells.
    #[inline]
    pub fn push_back(&mut self, n: usize) -> Option<&mut [u8]> {
        let (off, len) = self.extent();
        if self.hdr().next != CELL_NONE || n > self.tailroom() {
            return None;
        }
        let h = self.hdr_mut();
        h.data_len = (len + n) as u16;
        h.pkt_len += n as u32;
        // SAFETY: the tailroom is at least `n`.
        Some(unsafe { self.bytes_mut(off + len, n) })
    }

    /// Makes `bytes` the data of a packet of one cell, at its `data_off`; false, and nothing done, when they do not fit or
    /// the packet has more cells.
    #[inline]
    pub fn set_data(&mut self, bytes: &[u8]) -> bool {
        let (off, _) = self.extent();
        if self.hdr().next != CELL_NONE || bytes.len() > self.size as usize - off {
            return false;
        }
        // SAFETY: checked just now to end inside of the cell.
        unsafe { self.bytes_mut(off, bytes.len()) }.copy_from_slice(bytes);
        let h = self.hdr_mut();
        (h.data_off, h.data_len, h.pkt_len) = (off as u16, bytes.len() as u16, bytes.len() as u32);
        true
    }

    /// Cuts the packet to its first `n` bytes, over all its cells. Cells stay in the chain, empty ones too, and go back
    /// with the packet. Does nothing when the packet is not longer.
    pub fn truncate(&mut self, n: u32) {
        if n >= self.hdr().pkt_len {
            return;
        }
        self.hdr_mut().pkt_len = n;
        let mut left = n as usize;
        self.for_each_cell(|p| {
            let (_, len) = p.extent();
            p.hdr_mut().data_len = len.min(left) as u16;
            left -= len.min(left);
        });
    }

    /// Runs `f` on every cell; a chain with a bad index or too many cells ends there.
    fn for_each_cell(&mut self, mut f: impl FnMut(&mut Packet<'p>)) {
        let mut at = *self;
        for _ in 0..=u8::MAX {
            f(&mut at);
            let next = at.hdr().next;
            if !self.pool.is_valid(next) {
                return;
            }
            at = Packet::new(self.pool, next);
        }
    }

    /// Appends the chain of `tail`, whose owner thereby is this packet. False, and nothing done, when it would have more
    /// than 255 cells.
    pub fn append(&mut self, tail: Packet<'_>) -> bool {
        let segs = u32::from(self.hdr().nsegs) + u32::from(tail.hdr().nsegs);
        let Ok(segs) = u8::try_from(segs) else { return false };
        let (len, first) = (tail.hdr().pkt_len, tail.cell);
        let mut last = *self;
        for _ in 0..u8::MAX {
            let next = last.hdr().next;
            if !self.pool.is_valid(next) {
                break;
            }
            last = Packet::new(self.pool, next);
        }
        last.hdr_mut().next = first;
        let h = self.hdr_mut();
        h.nsegs = segs;
        h.pkt_len += len;
        true
    }

    /// The data of each cell in turn.
    #[inline]
    pub fn segments(&self) -> Segments<'_> {
        Segments { at: Some(*self), left: u8::MAX, _packet: PhantomData }
    }

    /// Copies bytes from `off` of the packet's data on, over all its cells, into `out`; returns how many there were.
    pub fn copy_to(&self, out: &mut [u8], off: usize) -> usize {
        let (mut skip, mut done) = (off, 0);
        for s in self.segments() {
            if done == out.len() {
                break;
            }
            let cut = skip.min(s.len());
            let s = &s[cut..];
            skip -= cut;
            let n = s.len().min(out.len() - done);
            out[done..done + n].copy_from_slice(&s[..n]);
            done += n;
        }
        done
    }

    /// Fetches header and first bytes of data into the cache, for a look at them some packets later.
    #[inline(always)]
    pub fn prefetch(&self) {
        prefetch(self.base);
        prefetch(self.base.wrapping_add(self.pool.desc.data_off as usize));
    }
}

impl std::fmt::Debug for Packet<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packet").field("cell", &self.cell).field("hdr", self.hdr()).finish()
    }
}

/// The data of each cell of a packet; ends at a bad index or after 255 cells.
pub struct Segments<'a> {
    at: Option<Packet<'a>>,
    left: u8,
    _packet: PhantomData<&'a ()>,
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let p = self.at?;
        self.left -= 1;
        let next = p.hdr().next;
        self.at = (self.left > 0 && p.pool.is_valid(next)).then(|| Packet::new(p.pool, next));
        let (off, n) = p.extent();
        // SAFETY: `extent` is inside of the cell, which the owner of the packet owns for 'a.
        Some(unsafe { std::slice::from_raw_parts(p.base.add(off), n) })
    }
}
