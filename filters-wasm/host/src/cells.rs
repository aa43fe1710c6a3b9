//! Packets in the pool, as filters read and change them.

use crate::guest::Bytes;
use smpnet_abi::{CELL_NONE, Cell, PktHdr, PoolDesc};

/// Most cells of a chain.
const CHAIN: u8 = u8::MAX;

/// The packet pool. Cells that are named to it belong to the calling worker.
#[derive(Clone, Copy)]
pub(crate) struct Cells(pub(crate) PoolDesc);

impl Cells {
    /// The header of a cell; `None` for an index that the pool does not have.
    #[inline(always)]
    pub(crate) fn header(&self, cell: Cell) -> Option<&PktHdr> {
        if cell >= self.0.cells {
            return None;
        }
        // SAFETY: the cell is inside the pool, begins with a header, is aligned to 64, and nobody writes to it while the
        // calling worker owns the packet.
        Some(unsafe { &*self.0.base.add(cell as usize * self.0.cell_size as usize).cast::<PktHdr>() })
    }

    /// The packet's bytes in one piece, at most `reach` of them when they lie in several cells.
    pub(crate) fn gathered<'a>(&'a self, cell: Cell, header: &PktHdr, reach: usize, gather: &'a mut [u8]) -> &'a [u8] {
        let first = self.bytes(cell, header);
        if header.next == CELL_NONE {
            return first;
        }
        let room = gather.len().min(reach);
        let mut len = first.len().min(room);
        gather[..len].copy_from_slice(&first[..len]);
        let mut next = header.next;
        // A chain has at most 255 cells.
        for _ in 0..CHAIN {
            let Some(h) = self.header(next) else { break };
            let part = self.bytes(next, h);
            let n = part.len().min(room - len);
            gather[len..len + n].copy_from_slice(&part[..n]);
            len += n;
            if len == room {
                break;
            }
            next = h.next;
        }
        &gather[..len]
    }

    /// The data of a cell, cut at the cell's end.
    fn bytes(&self, cell: Cell, header: &PktHdr) -> &[u8] {
        let size = self.0.cell_size as usize;
        let start = usize::from(header.data_off).min(size);
        let len = usize::from(header.data_len).min(size - start);
        debug_assert!(cell < self.0.cells);
        // SAFETY: `header` is this cell's, so the cell is one of the pool, and start and length stay inside; nobody writes
        // there while the calling worker owns the packet.
        unsafe {
            let at = self.0.base.add(cell as usize * size + start);
            std::slice::from_raw_parts(at, len)
        }
    }

    /// Copies the first bytes of a packet, as many as there are or have room. Returns how many.
    #[inline(always)]
    pub(crate) fn copy(&self, cell: Cell, header: &PktHdr, to: &mut [u8]) -> usize {
        let first = self.bytes(cell, header);
        let n = first.len().min(to.len());
        to[..n].copy_from_slice(&first[..n]);
        if header.next == CELL_NONE || n == to.len() { n } else { self.copy_rest(header.next, to, n) }
    }

    #[cold]
    fn copy_rest(&self, mut next: Cell, to: &mut [u8], mut len: usize) -> usize {
        for _ in 0..CHAIN {
            let Some(h) = self.header(next) else { break };
            let part = self.bytes(next, h);
            let n = part.len().min(to.len() - len);
            to[len..len + n].copy_from_slice(&part[..n]);
            len += n;
            if len == to.len() {
                break;
            }
            next = h.next;
        }
        len
    }

    /// Changes the header of a packet; nothing for an index that the pool does not have.
    #[inline]
    pub(crate) fn with_header(&self, cell: Cell, change: impl FnOnce(&mut PktHdr)) {
        if self.header(cell).is_some() {
            let at = self.0.base.wrapping_add(cell as usize * self.0.cell_size as usize);
            // SAFETY: the cell is one of the pool and begins with a header, which nobody else uses while the calling worker
            // owns the packet; no reference to it lives here.
            change(unsafe { &mut *at.cast::<PktHdr>() });
        }
    }

    /// The bytes of a packet, to be changed.
    pub(crate) fn chain(&self, cell: Cell) -> Chain<'_> {
        Chain { cells: self, cell }
    }
}

/// The bytes of a packet, in one cell or several.
pub(crate) struct Chain<'a> {
    cells: &'a Cells,
    cell: Cell,
}

impl Chain<'_> {
    /// Where the byte at an offset lies.
    fn find(&self, mut off: usize) -> Option<*mut u8> {
        let mut cell = self.cell;
        for _ in 0..=CHAIN {
            let h = self.cells.header(cell)?;
            let len = self.cells.bytes(cell, h).len();
            if off < len {
                let start = cell as usize * self.cells.0.cell_size as usize + usize::from(h.data_off);
                return Some(self.cells.0.base.wrapping_add(start + off));
            }
            off -= len;
            cell = h.next;
        }
        None
    }
}

impl Bytes for Chain<'_> {
    fn get(&self, off: usize) -> Option<u8> {
        // SAFETY: `find` returns an address inside of a cell of the packet, which the calling worker owns.
        self.find(off).map(|at| unsafe { at.read() })
    }

    fn set(&mut self, off: usize, byte: u8) {
        if let Some(at) = self.find(off) {
            // SAFETY: as in `get`; no reference to the byte lives here.
            unsafe { at.write(byte) };
        }
    }
}

// SAFETY: the base pointer is used only for packets that the caller owns.
unsafe impl Send for Cells {}
// SAFETY: as above.
unsafe impl Sync for Cells {}
