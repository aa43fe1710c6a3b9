//! The packet pool as the memory (UMEM) that AF_XDP sockets share with the kernel.
//!
//! ```text
//!  cell   |<- 64 ->|<------------------- chunk ------------------->|
//!         | header | XDP_PACKET_HEADROOM |         frame           |
//!         |        |<------- 256 ------->|<-------- room --------->|
//! ```
//!
//! A chunk is a cell without its header, so that the kernel can write nowhere else: 2,048 bytes of a cell of 2,112, of
//! which 1,792 are for the frame. Cells do not lie at powers of two, so the memory is registered with
//! `XDP_UMEM_UNALIGNED_CHUNK_FLAG`: a chunk may begin anywhere, its size need not be a power of two, and a received address
//! carries in its upper 16 bits where the frame lies in the chunk (`net/xdp/xdp_umem.c`, `xsk_buff_pool.h`). A chunk is at
//! most a page long; what a larger cell has beyond it stays unused.

use smpnet_plugin::{Packet, abi::PoolDesc};

/// Bytes of a cell's header.
const HEADER: u32 = 64;
/// Bytes that the kernel keeps free before a frame (`XDP_PACKET_HEADROOM`); the pool's memory registers none more.
const HEADROOM: u32 = 256;
/// Least and most bytes of a chunk (`XDP_UMEM_MIN_CHUNK_SIZE`, `PAGE_SIZE`).
const CHUNK: std::ops::RangeInclusive<u32> = 2048..=4096;
/// What carries the offset in a received address.
const OFFSET_SHIFT: u32 = libc::XSK_UNALIGNED_BUF_OFFSET_SHIFT as u32;

/// The pool, seen as a UMEM. Addresses count from its first byte.
#[derive(Clone, Copy, Debug)]
pub struct Area {
    base: usize,
    cell_size: u32,
    cells: u32,
    chunk: u32,
    page: u64,
}

impl Area {
    /// Of this pool; why not, when its cells are too small.
    pub fn of(pool: &PoolDesc) -> Result<Area, String> {
        let chunk = pool.cell_size.saturating_sub(HEADER).min(*CHUNK.end());
        if chunk < *CHUNK.start() {
            return Err(format!("cells of {} bytes are smaller than AF_XDP takes", pool.cell_size));
        }
        let (cell_size, cells) = (pool.cell_size, pool.cells);
        Ok(Area { base: pool.base as usize, cell_size, cells, chunk, page: u64::from(pool.page_size.max(4096)) })
    }

    /// What registers it.
    pub fn registration(&self, tx_metadata: u32) -> libc::xdp_umem_reg {
        let metadata = if tx_metadata > 0 { libc::XDP_UMEM_TX_METADATA_LEN } else { 0 };
        libc::xdp_umem_reg {
            addr: self.base as u64,
            len: u64::from(self.cells) * u64::from(self.cell_size),
            chunk_size: self.chunk,
            headroom: 0,
            flags: libc::XDP_UMEM_UNALIGNED_CHUNK_FLAG | metadata,
            tx_metadata_len: tx_metadata,
        }
    }

    /// What registers its first page alone.
    pub fn page(&self) -> libc::xdp_umem_reg {
        libc::xdp_umem_reg { len: 4096, chunk_size: 2048, flags: 0, ..self.registration(0) }
    }

    /// Cells in it.
    pub fn cells(&self) -> u32 {
        self.cells
    }

    /// Bytes of a frame that a cell takes when the kernel fills it.
    pub fn room(&self) -> usize {
        (self.chunk - HEADROOM) as usize
    }

    /// Most bytes that one descriptor may send.
    pub fn longest(&self) -> usize {
        self.chunk as usize
    }

    /// Whether a packet from elsewhere may hold more bytes in one cell than one descriptor sends.
    pub fn cells_exceed_chunks(&self) -> bool {
        self.cell_size - HEADER > self.chunk
    }

    /// Whether the memory is made of huge pages, inside of which physical memory is in one piece.
    pub fn is_huge(&self) -> bool {
        self.page > 4096
    }

    /// The address of a cell's chunk, for the fill ring.
    #[inline]
    pub fn chunk_of(&self, cell: u32) -> u64 {
        u64::from(cell) * u64::from(self.cell_size) + u64::from(HEADER)
    }

    /// Whether the chunk of a cell lies in one page: a device can only write into physical memory in one piece.
    #[inline]
    pub fn chunk_in_one_page(&self, cell: u32) -> bool {
        self.in_one_page(self.chunk_of(cell), self.chunk as usize)
    }

    /// As [`Area::chunk_in_one_page`], for `len` bytes at `addr`.
    #[inline]
    pub fn in_one_page(&self, addr: u64, len: usize) -> bool {
        addr / self.page == (addr + len as u64 - 1) / self.page
    }

    /// The address of bytes in a packet that came from the pool.
    #[inline]
    pub fn address_of(&self, bytes: &[u8]) -> u64 {
        (bytes.as_ptr() as usize - self.base) as u64
    }

    /// The cell that an address of the kernel's lies in, and where in it; none when the kernel gave nonsense.
    #[inline]
    pub fn locate(&self, addr: u64) -> Option<(u32, usize)> {
        let at = (addr & ((1 << OFFSET_SHIFT) - 1)) + (addr >> OFFSET_SHIFT);
        let cell = at / u64::from(self.cell_size);
        (cell < u64::from(self.cells)).then(|| (cell as u32, (at % u64::from(self.cell_size)) as usize))
    }
}

/// The cells that the kernel has by one of a queue's rings. The kernel keeps some to itself (what it took for a frame that
/// it then lost), so the rings alone do not tell; and what it gives back is believed only when it had it.
#[derive(Debug)]
pub struct Held {
    words: Box<[u64]>,
}

impl Held {
    /// None of a pool of `cells`.
    pub fn new(cells: u32) -> Held {
        Held { words: vec![0; (cells as usize).div_ceil(64)].into_boxed_slice() }
    }

    /// Gives a packet's cell to the kernel.
    #[inline]
    pub fn give(&mut self, packet: Packet) {
        let cell = packet.into_cell();
        if let Some(word) = self.words.get_mut(cell as usize / 64) {
            *word |= 1 << (cell % 64);
        }
    }

    /// Takes a cell back; none when the kernel did not have it.
    #[inline]
    pub fn take(&mut self, cell: u32) -> Option<Packet> {
        let (word, bit) = (self.words.get_mut(cell as usize / 64)?, 1 << (cell % 64));
        if *word & bit == 0 {
            return None;
        }
        *word &= !bit;
        // SAFETY: `give` took this cell from its owner and kept it; the bit that said so is gone.
        Some(unsafe { Packet::from_cell(cell) })
    }

    /// Takes all of them back. The kernel must have done with them.
    pub fn take_all(mut self) -> impl Iterator<Item = Packet> {
        let cells = self.words.len() as u32 * 64;
        (0..cells).filter_map(move |cell| self.take(cell))
    }

    /// Those held, which are none any more.
    pub fn replace(&mut self) -> Held {
        std::mem::replace(self, Held { words: Box::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smpnet_plugin::testing;

    #[test]
    fn chunks_fill_cells_and_are_found_again() {
        let pool = testing::host().pool();
        let area = Area::of(pool).unwrap();
        assert_eq!((area.chunk, area.room()), (2048, 1792));
        for cell in [0, 1, 77, area.cells() - 1] {
            let chunk = area.chunk_of(cell);
            // As the kernel gives a frame: the chunk, and where in it the frame lies.
            assert_eq!(area.locate(chunk | u64::from(HEADROOM) << OFFSET_SHIFT), Some((cell, 320)));
            // As a driver that does not use the upper bits.
            assert_eq!(area.locate(chunk + 256), Some((cell, 320)));
            assert!(chunk + u64::from(area.chunk) <= area.registration(0).len);
        }
        assert_eq!(area.locate(area.registration(0).len), None);
        assert_eq!(area.locate(u64::MAX), None);
    }

    #[test]
    fn a_large_cell_gives_one_page() {
        let pool = PoolDesc { cell_size: 9024, ..*testing::host().pool() };
        let area = Area::of(&pool).unwrap();
        assert_eq!((area.chunk, area.room(), area.cells_exceed_chunks()), (4096, 3840, true));
        assert!(Area::of(&PoolDesc { cell_size: 1088, ..pool }).is_err());
    }

    #[test]
    fn chunks_across_pages_are_known() {
        let pool = PoolDesc { page_size: 2 << 20, ..*testing::host().pool() };
        let area = Area::of(&pool).unwrap();
        let across = (0..area.cells()).filter(|c| !area.chunk_in_one_page(*c)).count();
        assert!((1..=4).contains(&across), "{across} chunks across the borders of huge pages");
    }

    #[test]
    fn a_cell_comes_back_once_and_only_when_it_was_given() {
        let mut held = Held::new(testing::host().pool().cells);
        let (a, b) = (testing::packet(b"a"), testing::packet(b"b"));
        let (cell_a, cell_b) = (a.cell(), b.cell());
        held.give(a);
        assert!(held.take(cell_b).is_none());
        assert_eq!(held.take(cell_a).unwrap().data(), b"a");
        assert!(held.take(cell_a).is_none() && held.take(u32::MAX).is_none());
        held.give(b);
        assert_eq!(held.replace().take_all().count(), 1);
        assert!(held.take(cell_b).is_none());
        assert_eq!(testing::outstanding(), 0);
    }
}
