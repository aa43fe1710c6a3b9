//! Bursts: up to 64 packets that travel together.

use crate::{Packet, memory};
use smpnet_abi::{Cell, WORKER_NONE};
use std::mem::MaybeUninit;

/// Most packets in a burst.
pub const BURST_MAX: usize = smpnet_abi::BURST_MAX as usize;

/// Up to [`BURST_MAX`] packets that it owns, in order. Dropping it gives back what is left in it.
///
/// ```
/// # use smpnet_plugin::Burst;
/// # let host = smpnet_plugin::testing::host();
/// let mut burst = Burst::new();
/// for _ in 0..3 {
///     burst.push(host.alloc().expect("the pool has cells")).expect("there is room for 64");
/// }
/// let first = burst.take_front(2);
/// assert_eq!((first.len(), burst.len()), (2, 1));
/// ```
pub struct Burst {
    cells: [MaybeUninit<Cell>; BURST_MAX],
    head: u32,
    tail: u32,
    limit: u32,
}

impl Default for Burst {
    fn default() -> Self {
        Burst::new()
    }
}

impl Burst {
    /// An empty burst.
    #[inline]
    pub const fn new() -> Self {
        Burst { cells: [const { MaybeUninit::uninit() }; BURST_MAX], head: 0, tail: 0, limit: BURST_MAX as u32 }
    }

    /// An empty burst that takes at most `limit` packets.
    #[inline]
    pub(crate) fn with_limit(limit: usize) -> Self {
        Burst { limit: limit.min(BURST_MAX) as u32, ..Burst::new() }
    }

    /// A burst that owns `cells`, of which there are at most [`BURST_MAX`].
    ///
    /// # Safety
    /// The caller owns the packets and gives them up.
    #[inline]
    pub unsafe fn from_cells(cells: &[Cell]) -> Self {
        let mut burst = Burst::new();
        let n = cells.len().min(BURST_MAX);
        for (slot, cell) in burst.cells.iter_mut().zip(&cells[..n]) {
            slot.write(*cell);
        }
        burst.tail = n as u32;
        burst
    }

    /// Packets in it.
    #[inline]
    pub fn len(&self) -> usize {
        (self.tail - self.head) as usize
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    /// Packets that still fit.
    #[inline]
    pub fn room(&self) -> usize {
        self.limit as usize - self.len()
    }

    /// Adds a packet at the end; gives it back when the burst is full.
    #[inline]
    pub fn push(&mut self, packet: Packet) -> Result<(), Packet> {
        if self.room() == 0 {
            return Err(packet);
        }
        if self.tail as usize == BURST_MAX {
            self.cells.copy_within(self.head as usize.., 0);
            self.tail -= self.head;
            self.head = 0;
        }
        self.cells[self.tail as usize].write(packet.into_cell());
        self.tail += 1;
        Ok(())
    }

    /// Takes the first packet.
    #[inline]
    pub fn pop_front(&mut self) -> Option<Packet> {
        let cell = *self.as_cells().first()?;
        self.head += 1;
        // SAFETY: the burst owned it and has just forgotten it.
        Some(unsafe { Packet::from_cell(cell) })
    }

    /// Takes the first `n` packets, or all if there are fewer.
    #[inline]
    pub fn take_front(&mut self, n: usize) -> Burst {
        let n = n.min(self.len());
        // SAFETY: the burst owned them and forgets them with the next line.
        let taken = unsafe { Burst::from_cells(&self.as_cells()[..n]) };
        self.head += n as u32;
        taken
    }

    /// Takes all packets.
    #[inline]
    pub fn take(&mut self) -> Burst {
        self.take_front(BURST_MAX)
    }

    /// Moves packets of `other` to the end of this one, as many as fit.
    pub fn append(&mut self, other: &mut Burst) {
        while self.room() > 0 {
            match other.pop_front() {
                Some(packet) => {
                    let _fits = self.push(packet);
                }
                None => break,
            }
        }
    }

    /// Takes all packets, one after the other; those not taken are given back.
    pub fn drain(&mut self) -> impl Iterator<Item = Packet> {
        let mut all = self.take();
        std::iter::from_fn(move || all.pop_front())
    }

    /// The packets, in order.
    #[inline]
    pub fn as_slice(&self) -> &[Packet] {
        let cells = self.as_cells();
        // SAFETY: Packet is transparent over Cell; the slice borrows the burst, so nobody else owns them meanwhile.
        unsafe { std::slice::from_raw_parts(cells.as_ptr().cast(), cells.len()) }
    }

    /// The packets, to be written.
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [Packet] {
        let cells = &mut self.cells[self.head as usize..self.tail as usize];
        // SAFETY: as in `as_slice`, initialised as in `as_cells`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(cells.as_mut_ptr().cast(), cells.len()) }
    }

    /// The packets, in order.
    #[inline]
    pub fn iter(&self) -> std::slice::Iter<'_, Packet> {
        self.as_slice().iter()
    }

    /// The packets, to be written.
    #[inline]
    pub fn iter_mut(&mut self) -> std::slice::IterMut<'_, Packet> {
        self.as_mut_slice().iter_mut()
    }

    /// The indices of the first cells. They stay this burst's.
    #[inline]
    pub fn as_cells(&self) -> &[Cell] {
        let cells = &self.cells[self.head as usize..self.tail as usize];
        // SAFETY: everything between head and tail was written.
        unsafe { std::slice::from_raw_parts(cells.as_ptr().cast(), cells.len()) }
    }

    /// Forgets the packets: somebody else owns them now.
    #[inline]
    pub(crate) fn forget(&mut self) {
        (self.head, self.tail) = (0, 0);
    }

    /// For `pkt_alloc`: the free places at the end.
    #[inline]
    pub(crate) fn spare(&mut self, n: usize) -> (*mut Cell, u32) {
        if self.head > 0 {
            self.cells.copy_within(self.head as usize..self.tail as usize, 0);
            self.tail -= self.head;
            self.head = 0;
        }
        let n = n.min(self.room());
        (self.cells[self.tail as usize..].as_mut_ptr().cast(), n as u32)
    }

    /// After `pkt_alloc` filled `n` of the places of `spare`.
    ///
    /// # Safety
    /// They were filled with packets that the caller owns.
    #[inline]
    pub(crate) unsafe fn filled(&mut self, n: u32) {
        self.tail += n;
    }
}

impl Drop for Burst {
    #[inline]
    fn drop(&mut self) {
        if !self.is_empty()
            && let Some(host) = memory::host()
        {
            // SAFETY: packets that this value owns; WORKER_NONE is allowed to any thread.
            unsafe { (host.pkt_free)(WORKER_NONE, self.as_cells().as_ptr(), self.len() as u32) };
        }
    }
}

impl std::fmt::Debug for Burst {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a> IntoIterator for &'a Burst {
    type Item = &'a Packet;
    type IntoIter = std::slice::Iter<'a, Packet>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a> IntoIterator for &'a mut Burst {
    type Item = &'a mut Packet;
    type IntoIter = std::slice::IterMut<'a, Packet>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}
