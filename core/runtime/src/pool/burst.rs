//! A handful of packets.

use smpnet_abi::{BURST_MAX, Cell};

/// At most [`BURST_MAX`] packets, by the indices of their first cells. It owns nothing in the sense of Rust: dropping it
/// frees no packet.
#[derive(Clone)]
pub struct Burst {
    len: u32,
    cells: [Cell; BURST_MAX as usize],
}

impl Default for Burst {
    fn default() -> Self {
        Self::new()
    }
}

impl Burst {
    /// An empty burst.
    #[inline]
    pub const fn new() -> Self {
        Burst { len: 0, cells: [0; BURST_MAX as usize] }
    }

    /// Packets in it.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there are none.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether no more fits.
    #[inline(always)]
    pub fn is_full(&self) -> bool {
        self.len == BURST_MAX
    }

    /// Adds a packet.
    ///
    /// # Panics
    /// When the burst is full.
    #[inline(always)]
    pub fn push(&mut self, c: Cell) {
        self.cells[self.len as usize] = c;
        self.len += 1;
    }

    /// Takes the last packet.
    #[inline]
    pub fn pop(&mut self) -> Option<Cell> {
        self.len = self.len.checked_sub(1)?;
        Some(self.cells[self.len as usize])
    }

    /// Appends as many of `cells` as fit and returns how many.
    #[inline]
    pub fn extend_from_slice(&mut self, cells: &[Cell]) -> usize {
        let n = cells.len().min(BURST_MAX as usize - self.len());
        self.cells[self.len as usize..][..n].copy_from_slice(&cells[..n]);
        self.len += n as u32;
        n
    }

    /// Forgets every packet.
    #[inline(always)]
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Keeps the first `n` packets.
    #[inline]
    pub fn truncate(&mut self, n: usize) {
        self.len = self.len.min(n as u32);
    }

    /// Takes the first `n` packets (or all) away; the rest moves up.
    #[inline]
    pub fn remove_front(&mut self, n: usize) {
        let n = n.min(self.len());
        self.cells.copy_within(n..self.len as usize, 0);
        self.len -= n as u32;
    }

    /// The packets.
    #[inline(always)]
    pub fn as_slice(&self) -> &[Cell] {
        &self.cells[..self.len as usize]
    }

    /// The packets, to be changed in place.
    #[inline(always)]
    pub fn as_mut_slice(&mut self) -> &mut [Cell] {
        &mut self.cells[..self.len as usize]
    }

    /// The packets, one by one.
    #[inline]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Cell> + '_ {
        self.as_slice().iter().copied()
    }
}

impl std::fmt::Debug for Burst {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.as_slice()).finish()
    }
}
