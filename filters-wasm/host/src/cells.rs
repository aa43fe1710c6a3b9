//! Packets in the pool, as filters read and change them.

use crate::guest::Bytes;
use smpnet_abi::{BURST_MAX, CELL_NONE, Cell, PktHdr, PoolDesc};

const BURST: usize = BURST_MAX as usize;
/// So many packets before its turn a packet is prefetched.
const AHEAD: usize = 6;
/// Most cells of a chain.
const CHAIN: u8 = u8::MAX;
/// Bytes of the usual window.
const USUAL: usize = smpnet_filter_abi::WINDOW_DEFAULT as usize;
/// Bytes of a window for those who look at headers only.
const SMALL: usize = 64;

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
        // SAFETY: just compared.
        Some(unsafe { self.header_of(cell) })
    }

    /// The header of a cell that was compared with the pool's before.
    ///
    /// # Safety
    /// The pool has the cell.
    #[inline(always)]
    pub(crate) unsafe fn header_of(&self, cell: Cell) -> &PktHdr {
        debug_assert!(cell < self.0.cells);
        // SAFETY: the cell is inside the pool, says the caller, begins with a header, is aligned to 64, and nobody writes to
        // it while the calling worker owns the packet.
        unsafe { &*self.0.base.add(cell as usize * self.0.cell_size as usize).cast::<PktHdr>() }
    }

    /// Fetches the header and the first bytes of a packet into the cache, no more than those of the usual window.
    #[inline(always)]
    fn prefetch(&self, cell: Cell, window: usize) {
        let at = self.0.base.wrapping_add(cell as usize * self.0.cell_size as usize);
        let data = at.wrapping_add(self.0.data_off as usize);
        smpnet_runtime::prefetch(at);
        smpnet_runtime::prefetch(data);
        if window > SMALL {
            smpnet_runtime::prefetch(data.wrapping_add(64));
        }
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

    /// Copies the first bytes of each packet of a burst into a window of its own, of which `to` holds one after the other,
    /// and writes how many there are.
    ///
    /// # Safety
    /// The pool has the cells.
    #[inline(always)]
    pub(crate) unsafe fn copy_burst(&self, cells: &[Cell], to: &mut [u8], window: usize, lens: &mut [u16; BURST]) {
        #[cfg(target_arch = "x86_64")]
        if window == USUAL && wide::is_there() {
            // SAFETY: the processor has the instructions, and the pool the cells.
            return unsafe { wide::copy_burst::<USUAL>(self, cells, to, lens) };
        } else if window == SMALL && wide::is_there() {
            // SAFETY: as above.
            return unsafe { wide::copy_burst::<SMALL>(self, cells, to, lens) };
        }
        cells.iter().take(AHEAD).for_each(|&cell| self.prefetch(cell, window));
        for (i, ((&cell, to), len)) in cells.iter().zip(to.chunks_exact_mut(window)).zip(lens).enumerate() {
            if let Some(&next) = cells.get(i + AHEAD) {
                self.prefetch(next, window);
            }
            // SAFETY: the caller's cells.
            *len = self.copy(cell, unsafe { self.header_of(cell) }, to) as u16;
        }
    }

    /// Copies the first bytes of a packet, as many as there are or have room. Returns how many. What is left of `to` stays
    /// or becomes 0.
    ///
    /// The usual windows are copied whole, with zeros in place of what lies in the cell behind the packet: a copy of just the
    /// packet's bytes took twice as long on packets of different lengths, for the wrong guesses of its branches.
    #[inline(always)]
    pub(crate) fn copy(&self, cell: Cell, header: &PktHdr, to: &mut [u8]) -> usize {
        let plain = header.next == CELL_NONE && usize::from(header.data_off) + to.len() <= self.0.cell_size as usize;
        match to.len() {
            USUAL if plain => self.copy_whole::<USUAL>(cell, header, to),
            SMALL if plain => self.copy_whole::<SMALL>(cell, header, to),
            _ => self.copy_any(cell, header, to),
        }
    }

    /// [`copy`](Self::copy) to a window of `N` bytes, as many as lie in the cell from the packet's start on.
    #[inline(always)]
    fn copy_whole<const N: usize>(&self, cell: Cell, header: &PktHdr, to: &mut [u8]) -> usize {
        let size = self.0.cell_size as usize;
        debug_assert!(cell < self.0.cells && usize::from(header.data_off) + N <= size);
        // SAFETY: `header` is this cell's, so the cell is one of the pool, and the caller compared these bytes with its
        // end; nobody writes there while the calling worker owns the packet.
        let from = unsafe {
            let at = self.0.base.add(cell as usize * size + usize::from(header.data_off));
            &*at.cast::<[u8; N]>()
        };
        let n = usize::from(header.data_len).min(N);
        masked_copy(from, to, n);
        n
    }

    #[inline]
    fn copy_any(&self, cell: Cell, header: &PktHdr, to: &mut [u8]) -> usize {
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

/// Windows copied by 32 bytes at a time under masks, on processors that have AVX-512: a pass over a burst of windows of 128
/// bytes takes a third of the instructions. Registers of 256 bits, because some processors become slower for those of 512.
#[cfg(target_arch = "x86_64")]
mod wide {
    use super::{AHEAD, BURST, CELL_NONE, Cell, Cells};
    use std::arch::x86_64::{_bzhi_u64, _mm256_maskz_loadu_epi8, _mm256_storeu_si256};

    /// Whether this processor has what is needed.
    #[inline(always)]
    pub(super) fn is_there() -> bool {
        // Each is a load and a test after the first time.
        is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vl") && is_x86_feature_detected!("bmi2")
    }

    /// [`Cells::copy_burst`] for windows of `N` bytes, a multiple of 32 up to 128.
    ///
    /// # Safety
    /// The pool has the cells, and the processor the instructions.
    #[target_feature(enable = "avx512bw,avx512vl,bmi2")]
    pub(super) unsafe fn copy_burst<const N: usize>(
        pool: &Cells,
        cells: &[Cell],
        to: &mut [u8],
        lens: &mut [u16; BURST],
    ) {
        const { assert!(N <= 128 && N.is_multiple_of(32)) };
        let size = pool.0.cell_size as usize;
        cells.iter().take(AHEAD).for_each(|&cell| pool.prefetch(cell, N));
        let (windows, _) = to.as_chunks_mut::<N>();
        for (i, ((&cell, window), len)) in cells.iter().zip(windows).zip(lens).enumerate() {
            if let Some(&next) = cells.get(i + AHEAD) {
                pool.prefetch(next, N);
            }
            // SAFETY: the caller's cells.
            let header = unsafe { pool.header_of(cell) };
            let start = usize::from(header.data_off);
            if header.next != CELL_NONE || start + N > size {
                *len = pool.copy_any(cell, header, window) as u16;
                continue;
            }
            let n = usize::from(header.data_len).min(N);
            // All ones below n; n is at most 128, and from 64 on none is cleared.
            let low = _bzhi_u64(u64::MAX, n as u32);
            let high = _bzhi_u64(u64::MAX, n.saturating_sub(64) as u32);
            for at in (0..N).step_by(32) {
                let mask = if at < 64 { low >> at } else { high >> (at - 64) } as u32;
                // SAFETY: `start + N` lies within the cell, and so does the window; masked bytes are 0.
                unsafe {
                    let from = pool.0.base.add(cell as usize * size + start + at);
                    let bytes = _mm256_maskz_loadu_epi8(mask, from.cast());
                    _mm256_storeu_si256(window.as_mut_ptr().add(at).cast(), bytes);
                }
            }
            *len = n as u16;
        }
    }
}

/// Copies the first `n` bytes of a multiple of 16; the others become 0.
#[inline(always)]
fn masked_copy<const N: usize>(from: &[u8; N], to: &mut [u8], n: usize) {
    const { assert!(N <= 128 && N.is_multiple_of(16)) };
    assert!(to.len() == N && n <= N);
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_mm_and_si128, _mm_cmpgt_epi8, _mm_loadu_si128, _mm_set1_epi8, _mm_storeu_si128};
        // Comparisons are of signed bytes, so both sides are less 128. 128 itself is then 0, as all places are below.
        const PLACES: [[i8; 16]; 8] = {
            let mut places = [[0; 16]; 8];
            let mut i = 0;
            while i < 128 {
                places[i / 16][i % 16] = (i as i32 - 128) as i8;
                i += 1;
            }
            places
        };
        // SAFETY: SSE2 is a part of every x86_64, and 16 bytes from `at` on are inside of both, which have N.
        unsafe {
            let kept = _mm_set1_epi8((n as i32 - 128) as i8);
            for (places, at) in PLACES.iter().zip((0..N).step_by(16)) {
                let places = _mm_loadu_si128(places.as_ptr().cast());
                let bytes = _mm_loadu_si128(from.as_ptr().add(at).cast());
                let bytes = _mm_and_si128(bytes, _mm_cmpgt_epi8(kept, places));
                _mm_storeu_si128(to.as_mut_ptr().add(at).cast(), bytes);
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    for (i, (to, from)) in to.iter_mut().zip(from).enumerate() {
        *to = if i < n { *from } else { 0 };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_masked_copy_has_the_first_bytes_and_zeros() {
        let from: [u8; USUAL] = std::array::from_fn(|i| 255 - i as u8);
        for n in 0..=USUAL {
            let mut to = [7; USUAL];
            masked_copy(&from, &mut to, n);
            assert_eq!(to[..n], from[..n]);
            assert!(to[n..].iter().all(|b| *b == 0), "{n}");
            if n <= SMALL {
                let mut small = [7; SMALL];
                masked_copy::<SMALL>(from.first_chunk().unwrap(), &mut small, n);
                assert_eq!(small, to[..SMALL]);
            }
        }
    }

    /// The portable copy, one packet at a time, is what the wide one must equal.
    #[test]
    fn a_burst_of_windows_is_what_each_packet_begins_with() {
        use crate::testpool::{CELL_SIZE, DATA_OFF, TestPool};
        let pool = TestPool::new(BURST_MAX);
        let cells: Vec<Cell> = (0..BURST_MAX).rev().collect();
        for window in [SMALL, USUAL, 96] {
            for round in 0..4 {
                for &cell in &cells {
                    let len = (cell as usize * 4 + round) % 200;
                    let bytes: Vec<u8> = (0..len).map(|i| (i as u32 * 7 + cell) as u8 | 1).collect();
                    // The last ones lie at the end of their cells, where no whole window has room.
                    let off = if cell >= 60 { CELL_SIZE - len } else { usize::from(DATA_OFF) };
                    pool.put_at(cell, off as u16, &bytes);
                }
                pool.header(7, |h| h.next = 8);
                let own = Cells(pool.desc);
                let (mut burst, mut lens) = (vec![7; BURST * window], [0; BURST]);
                // SAFETY: the pool has these cells.
                unsafe { own.copy_burst(&cells, &mut burst, window, &mut lens) };
                for ((&cell, got), len) in cells.iter().zip(burst.chunks(window)).zip(lens) {
                    let mut one = vec![7; window];
                    let header = own.header(cell).unwrap();
                    assert_eq!(own.copy(cell, header, &mut one), usize::from(len), "cell {cell}, window {window}");
                    assert_eq!(got[..usize::from(len)], one[..usize::from(len)], "cell {cell}, window {window}");
                }
                pool.header(7, |h| h.next = CELL_NONE);
            }
        }
    }
}
