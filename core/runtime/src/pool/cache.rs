//! A worker's own free cells.

use crossbeam_queue::ArrayQueue;
use smpnet_abi::Cell;

/// Cells that move between a cache and the shared ring at once.
pub(super) const BATCH: usize = 64;

/// A batch of free cells.
pub(super) struct Batch(pub(super) [Cell; BATCH]);

/// A stack of free cells: what was freed last is given out first, because it is warm.
pub(super) struct Cache {
    /// Room for `limit` cells and one batch.
    cells: Box<[Cell]>,
    len: usize,
    limit: usize,
    /// Times that not all that was asked for was there.
    failures: u64,
}

impl Cache {
    pub(super) fn new(limit: usize) -> Self {
        Cache { cells: vec![0; limit + BATCH].into(), len: 0, limit, failures: 0 }
    }

    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[inline(always)]
    pub(super) fn failures(&self) -> u64 {
        self.failures
    }

    /// Fills `out` from its front and returns how many cells there were.
    #[inline(always)]
    pub(super) fn take(&mut self, out: &mut [Cell], ring: &ArrayQueue<Batch>) -> usize {
        if out.len() <= self.len {
            let rest = self.len - out.len();
            out.copy_from_slice(&self.cells[rest..self.len]);
            self.len = rest;
            return out.len();
        }
        self.take_slow(out, ring)
    }

    #[inline(never)]
    fn take_slow(&mut self, out: &mut [Cell], ring: &ArrayQueue<Batch>) -> usize {
        let mut done = 0;
        while done < out.len() {
            if self.len == 0 && !self.refill(ring) {
                self.failures += 1;
                break;
            }
            let n = self.len.min(out.len() - done);
            self.len -= n;
            out[done..done + n].copy_from_slice(&self.cells[self.len..self.len + n]);
            done += n;
        }
        done
    }

    /// Half of the limit at once, so that the ring is touched rarely; whether there was anything.
    fn refill(&mut self, ring: &ArrayQueue<Batch>) -> bool {
        while self.len + BATCH <= (self.limit / 2).max(BATCH)
            && let Some(batch) = ring.pop()
        {
            self.cells[self.len..self.len + BATCH].copy_from_slice(&batch.0);
            self.len += BATCH;
        }
        self.len > 0
    }

    /// Adds a free cell; spills what is too much.
    #[inline(always)]
    pub(super) fn put(&mut self, c: Cell, ring: &ArrayQueue<Batch>) {
        self.cells[self.len] = c;
        self.len += 1;
        if self.len == self.cells.len() {
            self.spill(ring);
        }
    }

    /// Gives the coldest cells to the ring, down to half of the limit.
    #[inline(never)]
    fn spill(&mut self, ring: &ArrayQueue<Batch>) {
        let batches = (self.len - self.limit / 2) / BATCH;
        let (cold, _) = self.cells[..batches * BATCH].as_chunks::<BATCH>();
        for batch in cold {
            // The ring holds every batch that the pool's cells can make.
            let pushed = ring.push(Batch(*batch));
            debug_assert!(pushed.is_ok());
        }
        self.cells.copy_within(batches * BATCH..self.len, 0);
        self.len -= batches * BATCH;
    }
}
