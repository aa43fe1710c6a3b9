//! Packet memory: one sealed memfd cut into cells, per-worker caches over a shared ring of batches.
//!
//! A free cell is in one of three places: a worker's cache (an array, touched by that worker only), the shared ring
//! (batches of [`BATCH`] cells, lock-free), or the control cache (a locked list for threads that are no workers, and for
//! what does not fill a batch). Cells move between caches and ring only by whole batches, so a worker's `alloc` and `free`
//! are a copy of a few words, and the ring is touched once in some hundred packets.
//!
//! A free cell says so in its header: its `next` is `CELL_FREE`. The line is at hand when a packet is freed, so the mark
//! costs a store, and for it a plugin that frees a packet twice, or hands in one that it freed, does no harm.

mod burst;
mod cache;
mod memory;
mod packet;
#[cfg(test)]
mod tests;

pub use burst::Burst;
pub use memory::HugePages;
pub use packet::{Cells, Packet, Segments};

use crate::{Cpu, MAX_WORKERS, sync::lock};
use cache::{BATCH, Batch, Cache};
use crossbeam_queue::ArrayQueue;
use crossbeam_utils::CachePadded;
use memory::Memory;
use smpnet_abi::{BURST_MAX, CELL_NONE, Cell, HEADER_SIZE, PktHdr, PoolDesc};
use std::{
    cell::UnsafeCell,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

/// Size and shape of a [`Pool`].
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// Cells, 64 to 2^24.
    pub cells: u32,
    /// Least bytes of a cell, 2,048 to 32,768. Cells are made an odd multiple of 64 bytes, so that their headers do not all
    /// fall on the same few sets of a cache, as they would at a distance of a power of two.
    pub cell_size: u32,
    /// Bytes between header and data of a fresh packet, for headers that are put in front; a multiple of 8 that leaves
    /// at least 256 bytes of data.
    pub headroom: u32,
    /// Workers that get a cache, 1 to [`MAX_WORKERS`].
    pub workers: usize,
    /// Free cells that a worker keeps to itself at most, 64 to 65536.
    pub cache: u32,
    /// Whether to take huge pages.
    pub huge_pages: HugePages,
}

impl Default for PoolConfig {
    fn default() -> Self {
        PoolConfig { cells: 65536, cell_size: 2048, headroom: 128, workers: 1, cache: 256, huge_pages: HugePages::Auto }
    }
}

impl PoolConfig {
    /// Bytes from one cell to the next: [`PoolConfig::cell_size`] made an odd multiple of 64.
    pub fn cell_stride(&self) -> u32 {
        (self.cell_size.div_ceil(64) | 1) * 64
    }
}

/// Why a pool could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// A number of the configuration is out of range.
    #[error("packet pool: {what} is {value}, must be {range}")]
    Config {
        /// Name of the setting.
        what: &'static str,
        /// What it was.
        value: u64,
        /// What it may be.
        range: &'static str,
    },
    /// The system refused memory.
    #[error("packet pool: cannot {step} {bytes} bytes of {pages} memory: {source}{advice}")]
    Memory {
        /// What was being done.
        step: &'static str,
        /// How much memory.
        bytes: u64,
        /// Which pages.
        pages: &'static str,
        /// What to do about it, if anything.
        advice: String,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// Where the cells of a pool are. Exact when no worker runs; else every number is right for some recent moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// All cells.
    pub total: u64,
    /// Free, in the shared ring or the control cache.
    pub shared: u64,
    /// Free, in each worker's cache.
    pub caches: Vec<u64>,
    /// Owned by someone.
    pub in_use: u64,
    /// Times that fewer cells were given than asked for.
    pub alloc_failures: u64,
    /// Indices given to `free` that are no cells, or broken chains.
    pub bad_frees: u64,
    /// Bytes of a page of the mapping.
    pub page_size: u32,
}

/// What is wrong with a packet that came from a plugin ([`Pool::validate`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadPacket {
    /// The index, or one in the chain, is no cell.
    #[error("no such cell")]
    Index,
    /// The cell, or one in the chain, is free: who hands it in gave it back before.
    #[error("a cell that was given back already")]
    Free,
    /// The cell, or one in the chain, is in the same burst already.
    #[error("the same cell twice in one burst")]
    Twice,
    /// The bytes of a cell do not lie between its header and its end.
    #[error("data outside of the cell")]
    Bounds,
    /// `nsegs` does not count the chain.
    #[error("nsegs does not match the chain")]
    Segments,
    /// `pkt_len` is not the sum of the cells.
    #[error("pkt_len does not match the chain")]
    Length,
}

/// `next` of a free cell. No cell has this index, and no chain ends with it.
const CELL_FREE: Cell = CELL_NONE - 1;

/// Packets that a list holds already, for [`Pool::validate_next`].
pub trait Earlier: Copy {
    /// How many there are.
    fn count(self) -> usize;
    /// The first cell of packet `i`, which is below the count.
    fn head(self, i: usize) -> Cell;
}

impl Earlier for &[Cell] {
    #[inline(always)]
    fn count(self) -> usize {
        self.len()
    }

    #[inline(always)]
    fn head(self, i: usize) -> Cell {
        self[i]
    }
}

/// The packet pool.
pub struct Pool {
    desc: PoolDesc,
    caches: Box<[CachePadded<WorkerCache>]>,
    ring: ArrayQueue<Batch>,
    control: Mutex<Vec<Cell>>,
    bad_frees: AtomicU64,
    control_failures: AtomicU64,
    _memory: Memory,
}

struct WorkerCache {
    cache: UnsafeCell<Cache>,
    /// Length and failures of the cache, for other threads to read.
    len: AtomicU64,
    failures: AtomicU64,
}

// SAFETY: the cache of worker i is touched only by the thread that holds a `Cpu` of index i; the counts are atomic.
unsafe impl Sync for WorkerCache {}

impl WorkerCache {
    fn new(limit: usize) -> Self {
        let cache = UnsafeCell::new(Cache::new(limit));
        WorkerCache { cache, len: AtomicU64::new(0), failures: AtomicU64::new(0) }
    }

    /// Lets `f` use the cache, which is that of worker `_cpu`.
    #[inline(always)]
    fn with<R>(&self, _cpu: Cpu, f: impl FnOnce(&mut Cache) -> R) -> R {
        // SAFETY: this thread is the only one that touches this worker's cache (contract of `Cpu::assume`), and nothing that
        // this module runs on it comes back to the pool.
        let cache = unsafe { &mut *self.cache.get() };
        let answer = f(cache);
        self.len.store(cache.len() as u64, Ordering::Relaxed);
        self.failures.store(cache.failures(), Ordering::Relaxed);
        answer
    }

    fn counts(&self) -> (u64, u64) {
        (self.len.load(Ordering::Relaxed), self.failures.load(Ordering::Relaxed))
    }
}

impl Pool {
    /// Makes a pool with every cell free.
    ///
    /// # Errors
    /// [`PoolError::Config`] for numbers out of range; [`PoolError::Memory`] when there is not so much memory (with
    /// [`HugePages::Require`]: of huge pages). All of it is allocated here: none of it can fail later.
    pub fn new(c: &PoolConfig) -> Result<Pool, PoolError> {
        let check = |what, value: u64, range, ok: bool| {
            if ok { Ok(()) } else { Err(PoolError::Config { what, value, range }) }
        };
        check("cells", c.cells.into(), "64 to 16777216", (64..=1 << 24).contains(&c.cells))?;
        check("cell_size", c.cell_size.into(), "2048 to 32768", (2048..=32768).contains(&c.cell_size))?;
        let cell_size = c.cell_stride();
        check("workers", c.workers as u64, "1 to 64", (1..=MAX_WORKERS).contains(&c.workers))?;
        check("cache", c.cache.into(), "64 to 65536", (64..=65536).contains(&c.cache))?;
        let most = cell_size - HEADER_SIZE - 256;
        let fits = c.headroom.is_multiple_of(8) && c.headroom <= most;
        check("headroom", c.headroom.into(), "a multiple of 8 that leaves 256 bytes of a cell", fits)?;

        let memory = Memory::new(u64::from(c.cells) * u64::from(cell_size), c.huge_pages)?;
        let desc = PoolDesc {
            size: size_of::<PoolDesc>() as u32,
            cell_size,
            base: memory.base(),
            bytes: memory.bytes(),
            cells: c.cells,
            data_off: HEADER_SIZE + c.headroom,
            fd: memory.fd(),
            page_size: memory.page_size(),
        };
        // Only whole batches are in the ring, so it can never overflow.
        let ring = ArrayQueue::new(c.cells as usize / BATCH + 1);
        let cells: Vec<Cell> = (0..c.cells).collect();
        let (batches, rest) = cells.as_chunks::<BATCH>();
        for b in batches {
            let _ = ring.push(Batch(*b));
        }
        let pool = Pool {
            desc,
            caches: (0..c.workers).map(|_| CachePadded::new(WorkerCache::new(c.cache as usize))).collect(),
            ring,
            control: Mutex::new(rest.to_vec()),
            bad_frees: AtomicU64::new(0),
            control_failures: AtomicU64::new(0),
            _memory: memory,
        };
        let free = PktHdr { next: CELL_FREE, ..PktHdr::empty(pool.desc.data_off as u16) };
        cells.iter().for_each(|c| *Packet::new(&pool, *c).hdr_mut() = free);
        Ok(pool)
    }

    /// The pool as plugins see it.
    pub fn desc(&self) -> &PoolDesc {
        &self.desc
    }

    /// Cells in the pool.
    pub fn cells(&self) -> u32 {
        self.desc.cells
    }

    /// Bytes of a cell, its header included.
    #[inline(always)]
    pub fn cell_size(&self) -> usize {
        self.desc.cell_size as usize
    }

    /// Whether `c` is the index of a cell. Says nothing of who owns it.
    #[inline(always)]
    pub fn is_valid(&self, c: Cell) -> bool {
        c < self.desc.cells
    }

    /// Fills `out` with fresh packets (headers as of [`PktHdr::empty`]) and returns how many there were; those at the
    /// front. The caller owns them.
    #[inline]
    pub fn alloc(&self, cpu: Cpu, out: &mut [Cell]) -> usize {
        let n = self.caches[cpu.index()].with(cpu, |cache| cache.take(out, &self.ring));
        self.fresh(&out[..n]);
        n
    }

    /// Takes packets back, chains as a whole.
    #[inline]
    pub fn free(&self, cpu: Cpu, cells: &[Cell]) {
        self.caches[cpu.index()].with(cpu, |cache| {
            for &c in cells {
                self.walk_chain(c, |c| cache.put(c, &self.ring));
            }
        });
    }

    /// [`Pool::alloc`] for threads that are no workers: takes a lock.
    pub fn alloc_shared(&self, out: &mut [Cell]) -> usize {
        let mut control = lock(&self.control);
        while control.len() < out.len()
            && let Some(batch) = self.ring.pop()
        {
            control.extend_from_slice(&batch.0);
        }
        let n = out.len().min(control.len());
        let rest = control.len() - n;
        out[..n].copy_from_slice(&control[rest..]);
        control.truncate(rest);
        drop(control);
        if n < out.len() {
            self.control_failures.fetch_add(1, Ordering::Relaxed);
        }
        self.fresh(&out[..n]);
        n
    }

    /// [`Pool::free`] for threads that are no workers: takes a lock.
    pub fn free_shared(&self, cells: &[Cell]) {
        let mut control = lock(&self.control);
        for &c in cells {
            self.walk_chain(c, |c| control.push(c));
        }
        while let Some((rest, batch)) = control.split_last_chunk::<BATCH>() {
            let left = rest.len();
            let _ = self.ring.push(Batch(*batch));
            control.truncate(left);
        }
    }

    /// The packet whose first cell is `c`. The caller owns it: no one else looks at it as long as the view is used.
    ///
    /// # Panics
    /// When `c` is no cell. Indices from a plugin are checked by [`Pool::validate`] first.
    #[inline(always)]
    pub fn packet(&self, c: Cell) -> Packet<'_> {
        if !self.is_valid(c) {
            bad_index(c);
        }
        Packet::new(self, c)
    }

    /// Where the cells are, for loops over a burst.
    #[inline(always)]
    pub fn locate(&self) -> Cells<'_> {
        Cells::new(self)
    }

    /// Checks a packet that comes from outside: every index of its chain, every offset and length in it, the sums. With
    /// an `Ok` the chain can be walked without further checks.
    ///
    /// # Errors
    /// The first thing that is wrong. Such a packet must not be used; [`Pool::reclaim`] takes back what can be of it.
    #[inline]
    pub fn validate(&self, c: Cell) -> Result<(), BadPacket> {
        if !self.is_valid(c) {
            return Err(BadPacket::Index);
        }
        let hdr = Packet::new(self, c).hdr_copy();
        let in_cell = |h: &PktHdr| {
            u32::from(h.data_off) >= HEADER_SIZE
                && usize::from(h.data_off) + usize::from(h.data_len) <= self.cell_size()
        };
        if hdr.next == CELL_FREE {
            return Err(BadPacket::Free);
        }
        if !in_cell(&hdr) {
            return Err(BadPacket::Bounds);
        }
        if hdr.next == CELL_NONE && hdr.nsegs == 1 {
            return if hdr.pkt_len == u32::from(hdr.data_len) { Ok(()) } else { Err(BadPacket::Length) };
        }
        let (mut len, mut segs, mut next) = (u32::from(hdr.data_len), 1u8, hdr.next);
        while next != CELL_NONE {
            if !self.is_valid(next) {
                return Err(if next == CELL_FREE { BadPacket::Free } else { BadPacket::Index });
            }
            if segs == hdr.nsegs {
                return Err(BadPacket::Segments);
            }
            let h = Packet::new(self, next).hdr_copy();
            if !in_cell(&h) {
                return Err(BadPacket::Bounds);
            }
            (len, segs, next) = (len + u32::from(h.data_len), segs + 1, h.next);
        }
        match (segs == hdr.nsegs, len == hdr.pkt_len) {
            (true, true) => Ok(()),
            (true, false) => Err(BadPacket::Length),
            _ => Err(BadPacket::Segments),
        }
    }

    /// As [`Pool::validate`], for the packet that would follow `earlier` in a list of packets from one plugin: no cell of
    /// it may be in the list already. An accepted packet must then stand in the list, at the place after `earlier`.
    ///
    /// Costs a load, a comparison and a store: a cell's `scratch[1]` says where in the list it would stand, which is true
    /// only if it does stand there.
    ///
    /// # Errors
    /// As [`Pool::validate`], and [`BadPacket::Twice`].
    #[inline]
    pub fn validate_next(&self, earlier: impl Earlier, c: Cell) -> Result<(), BadPacket> {
        self.claim_any(earlier, c)
    }

    /// [`Pool::validate_next`] for each of the first `n` packets of a burst in its turn; `each` is shown those that are
    /// accepted.
    ///
    /// # Errors
    /// The place of the first that is wrong, and what is. Those before it are accepted.
    #[inline(always)]
    pub fn validate_burst<'p>(
        &'p self,
        cells: &[Cell; BURST_MAX as usize],
        n: usize,
        mut each: impl FnMut(Packet<'p>),
    ) -> Result<(), (usize, BadPacket)> {
        let (n, at) = (n.min(cells.len()), self.locate());
        let mut i = 0;
        while i < n
            && let Some(p) = at.get(cells[i])
            && Self::claim_single(p, cells, i)
        {
            each(p);
            i += 1;
        }
        // From the first on that is not as usual.
        for i in i..n {
            self.claim_any(&cells[..i], cells[i]).map_err(|e| (i, e))?;
            each(at.packet(cells[i]));
        }
        Ok(())
    }

    /// The usual case of [`Pool::validate_next`], in few instructions and without a branch that depends on the order of the
    /// cells: a sound packet of one cell, which is not among the packets before it, all of one cell. False, with nothing
    /// changed, when it is something else.
    #[inline(always)]
    fn claim_single(mut p: Packet<'_>, cells: &[Cell; BURST_MAX as usize], i: usize) -> bool {
        let h = p.hdr();
        let (off, len) = (u32::from(h.data_off), u32::from(h.data_len));
        let single = (h.next == CELL_NONE) & (h.nsegs == 1) & (h.pkt_len == len);
        let inside = (off >= HEADER_SIZE) & (off + len <= p.size);
        // What it says is mostly left from an earlier list.
        let was = h.scratch[1];
        let twice = (was < i as u64) & (cells[was as usize % cells.len()] == p.cell());
        if !(single & inside & !twice) {
            return false;
        }
        p.hdr_mut().scratch[1] = i as u64;
        true
    }

    fn claim_any(&self, earlier: impl Earlier, c: Cell) -> Result<(), BadPacket> {
        self.validate(c)?;
        let at = earlier.count() as u64;
        let mut p = Packet::new(self, c);
        if p.hdr().nsegs > 1 {
            return self.claim_chain(earlier, c);
        }
        let was = p.hdr().scratch[1];
        if was < at && self.holds(earlier.head(was as usize), c) {
            return Err(BadPacket::Twice);
        }
        p.hdr_mut().scratch[1] = at;
        Ok(())
    }

    /// [`Pool::validate_next`] for a chain that is sound by itself.
    #[cold]
    fn claim_chain(&self, earlier: impl Earlier, first: Cell) -> Result<(), BadPacket> {
        let at = earlier.count() as u64;
        let next = |c: &Cell| Some(Packet::new(self, *c).hdr().next).filter(|n| *n != CELL_NONE);
        for c in std::iter::successors(Some(first), next) {
            let was = Packet::new(self, c).hdr().scratch[1];
            if was < at && self.holds(earlier.head(was as usize), c) {
                return Err(BadPacket::Twice);
            }
        }
        for c in std::iter::successors(Some(first), next) {
            Packet::new(self, c).hdr_mut().scratch[1] = at;
        }
        Ok(())
    }

    /// Whether `c` is a cell of the packet `head`, which need not be sound.
    #[inline]
    fn holds(&self, head: Cell, c: Cell) -> bool {
        let mut at = head;
        for _ in 0..u8::MAX {
            if at == c {
                return true;
            }
            if !self.is_valid(at) {
                return false;
            }
            at = Packet::new(self, at).hdr().next;
        }
        false
    }

    /// Takes back what can be of a packet that [`Pool::validate_next`] refused: the cells from `c` on that are neither free
    /// nor held by one of `earlier`. False when `c` itself is none that could be taken.
    #[cold]
    pub fn reclaim(&self, cpu: Cpu, earlier: impl Earlier, c: Cell) -> bool {
        let takeable = |c: Cell| {
            self.is_valid(c)
                && Packet::new(self, c).hdr().next != CELL_FREE
                && !(0..earlier.count()).any(|i| self.holds(earlier.head(i), c))
        };
        if !takeable(c) {
            return false;
        }
        let mut last = Packet::new(self, c);
        for _ in 0..u8::MAX {
            let next = std::mem::replace(&mut last.hdr_mut().next, CELL_NONE);
            if !takeable(next) || self.holds(c, next) {
                break;
            }
            last.hdr_mut().next = next;
            last = Packet::new(self, next);
        }
        self.free(cpu, &[c]);
        true
    }

    /// Free cells, roughly.
    pub fn available(&self) -> u64 {
        let caches: u64 = self.caches.iter().map(|c| c.counts().0).sum();
        caches + (self.ring.len() * BATCH) as u64 + lock(&self.control).len() as u64
    }

    /// Where the cells are.
    pub fn stats(&self) -> PoolStats {
        let (caches, failures): (Vec<u64>, Vec<u64>) = self.caches.iter().map(|c| c.counts()).unzip();
        let shared = (self.ring.len() * BATCH) as u64 + lock(&self.control).len() as u64;
        let total = u64::from(self.desc.cells);
        PoolStats {
            total,
            shared,
            in_use: total.saturating_sub(shared + caches.iter().sum::<u64>()),
            caches,
            alloc_failures: failures.iter().sum::<u64>() + self.control_failures.load(Ordering::Relaxed),
            bad_frees: self.bad_frees.load(Ordering::Relaxed),
            page_size: self.desc.page_size,
        }
    }

    #[inline(always)]
    fn fresh(&self, cells: &[Cell]) {
        let hdr = PktHdr::empty(self.desc.data_off as u16);
        for &c in cells {
            let mut packet = Packet::new(self, c);
            debug_assert_eq!(packet.hdr().next, CELL_FREE, "cell {c} was given out twice");
            *packet.hdr_mut() = hdr;
        }
    }

    /// Marks every cell of a chain as free and hands it to `f`. A chain ends at CELL_NONE; one that comes to a bad index or
    /// to a free cell (so also one that comes back to itself) is cut there and counted.
    #[inline(always)]
    fn walk_chain(&self, first: Cell, mut f: impl FnMut(Cell)) {
        let mut c = first;
        // It ends, as each cell on the way becomes a free one.
        while self.is_valid(c) {
            let mut packet = Packet::new(self, c);
            let next = packet.hdr().next;
            if next == CELL_FREE {
                break;
            }
            packet.hdr_mut().next = CELL_FREE;
            f(c);
            if next == CELL_NONE {
                return;
            }
            c = next;
        }
        self.bad_free();
    }

    #[cold]
    fn bad_free(&self) {
        self.bad_frees.fetch_add(1, Ordering::Relaxed);
    }
}

#[cold]
#[inline(never)]
fn bad_index(c: Cell) -> ! {
    panic!("{c} is not the index of a cell");
}
