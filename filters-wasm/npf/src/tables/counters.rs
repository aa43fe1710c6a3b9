//! Packets and bytes of a table's entries: each worker counts for itself, and whoever asks adds up.
//!
//! A worker's cells are written by that worker alone, by plain stores; no line is shared for writing. Cells are made by the
//! thread that changes tables, before workers see entries that need them. A cell that comes to another entry need not be
//! cleared from outside, which nobody could do without a race: it carries the stamp of the entry it counts for, and the worker
//! that first counts for another one starts anew.

use super::slot::Slot;
use crate::state::Tally;
use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering, fence},
};

/// Cells of the first block; each following one has twice as many as the one before.
const FIRST: usize = 1 << 10;
/// Blocks that hold all cells that a [`Slot`] can name.
const BLOCKS: usize = 15;

/// What one worker counts for the entries of one table, as others see it.
#[derive(Debug, Default)]
pub struct TableCounters {
    /// They never move, so a worker goes on counting while one is added.
    blocks: [OnceLock<Box<[Cell]>>; BLOCKS],
    missed: AtomicU64,
}

/// A worker's own end of its [`TableCounters`]. There is one of it, so each cell has one writer.
#[derive(Debug)]
pub struct Counting(Arc<TableCounters>);

#[derive(Debug, Default)]
struct Cell {
    /// Of the entry that is counted for; 0 for none, or while it changes.
    stamp: AtomicU64,
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl Counting {
    /// Counters with cells for `slots` entries; see [`TableCounters::reserve`].
    pub fn new(slots: usize) -> Counting {
        let counters = TableCounters::default();
        counters.reserve(slots);
        Counting(Arc::new(counters))
    }

    /// What others read, and make cells in.
    pub fn counters(&self) -> &Arc<TableCounters> {
        &self.0
    }

    /// Counts a packet of `bytes` that a rule found an entry for. Allocates nothing and waits for nothing.
    ///
    /// A worker takes up versions of tables in their order, and never goes back: a slot of an entry that is gone would take
    /// the cell from the entry that has it now.
    #[inline]
    pub fn count(&mut self, slot: Slot, bytes: u64) {
        let Some(cell) = self.0.cell(slot.index()) else {
            add(&self.0.missed, 1);
            return;
        };
        if cell.stamp.load(Ordering::Relaxed) != slot.stamp() {
            cell.start(slot);
        }
        add(&cell.packets, 1);
        add(&cell.bytes, bytes);
    }
}

impl TableCounters {
    /// Makes cells for entries whose slots are below `slots`, at most what a [`Slot`] can name. For the thread that changes
    /// tables, with what [`super::Tables::slots`] says, before workers see that version.
    pub fn reserve(&self, slots: usize) {
        for (i, block) in self.blocks.iter().enumerate() {
            let (before, len) = (FIRST * ((1 << i) - 1), FIRST << i);
            if slots > before {
                block.get_or_init(|| (0..len).map(|_| Cell::default()).collect());
            }
        }
    }

    /// What this worker counted for an entry. On any thread. Packets that are counted meanwhile are in it, or not yet; bytes
    /// may be a packet behind.
    pub fn tally(&self, slot: Slot) -> Tally {
        self.cell(slot.index()).and_then(|cell| cell.tally(slot)).unwrap_or_default()
    }

    /// Packets that were not counted because nobody had made their cells.
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    #[inline]
    fn cell(&self, index: usize) -> Option<&Cell> {
        // Block i begins at FIRST * (2^i - 1).
        let at = index + FIRST;
        let i = (at / FIRST).ilog2();
        self.blocks.get(i as usize)?.get()?.get(at - (FIRST << i))
    }
}

/// What all workers counted for an entry.
pub fn sum<'a>(slot: Slot, workers: impl IntoIterator<Item = &'a TableCounters>) -> Tally {
    workers.into_iter().map(|w| w.tally(slot)).fold(Tally::default(), |all, one| Tally {
        packets: all.packets.wrapping_add(one.packets),
        bytes: all.bytes.wrapping_add(one.bytes),
    })
}

impl Cell {
    /// Starts to count for another entry. Readers see the old counts under the old stamp, or none: a sequence lock.
    #[cold]
    fn start(&self, slot: Slot) {
        self.stamp.store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        self.packets.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
        self.stamp.store(slot.stamp(), Ordering::Release);
    }

    /// None when it counts for another entry.
    fn tally(&self, slot: Slot) -> Option<Tally> {
        let stamp = self.stamp.load(Ordering::Acquire);
        let [packets, bytes] = [&self.packets, &self.bytes].map(|c| c.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        let same = stamp == slot.stamp() && self.stamp.load(Ordering::Relaxed) == stamp;
        same.then_some(Tally { packets, bytes })
    }
}

/// Of a counter with one writer: no instruction that locks a line.
#[inline]
fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::slot::Marks;
    use std::sync::atomic::AtomicUsize;

    fn tally(packets: u64, bytes: u64) -> Tally {
        Tally { packets, bytes }
    }

    #[test]
    fn what_workers_count_is_added_up_and_a_cell_that_comes_to_another_entry_starts_anew() {
        let mut marks = Marks::new(true);
        let (first, other) = (marks.mark(), marks.mark());
        let [a, b] = [first, other].map(|mark| mark.slot().unwrap());
        let mut workers = [Counting::new(marks.used()), Counting::new(marks.used())];
        for (worker, slot, bytes) in [(0, a, 100), (0, a, 60), (1, a, 40), (1, b, 1500)] {
            workers[worker].count(slot, bytes);
        }
        let all = |workers: &[Counting; 2], slot| sum(slot, workers.iter().map(|w| &**w.counters()));
        assert_eq!((all(&workers, a), all(&workers, b)), (tally(3, 200), tally(1, 1500)));

        marks.give_back(first);
        let c = marks.mark().slot().unwrap();
        assert_eq!((c.index(), marks.used()), (a.index(), 2));
        assert_eq!(all(&workers, c), tally(0, 0));
        workers[0].count(c, 9);
        assert_eq!((all(&workers, c), all(&workers, a)), (tally(1, 9), tally(1, 40)));
    }

    #[test]
    fn cells_are_made_in_time_or_it_is_said_how_many_packets_were_not_counted() {
        let mut marks = Marks::new(true);
        let slots: Vec<_> = (0..10_000).map(|_| marks.mark().slot().unwrap()).collect();
        let mut worker = Counting::new(0);
        worker.count(slots[0], 1);
        for made in [1, FIRST, FIRST + 1, 3 * FIRST, 3 * FIRST + 1, 10_000] {
            worker.counters().reserve(made);
            worker.count(slots[made - 1], 7);
            assert_eq!(worker.counters().tally(slots[made - 1]), tally(1, 7));
        }
        assert_eq!(worker.counters().missed(), 1);
        slots.iter().for_each(|slot| worker.count(*slot, 0));
        assert_eq!(worker.counters().missed(), 1);
    }

    #[test]
    fn a_reader_never_sees_the_counts_of_another_entry() {
        let mut marks = Marks::new(true);
        let mut last = marks.mark();
        let slots: Vec<_> = (0..200_000)
            .map(|_| {
                marks.give_back(last);
                last = marks.mark();
                last.slot().unwrap()
            })
            .collect();
        let mut worker = Counting::new(1);
        let counters = worker.counters().clone();
        let now = AtomicUsize::new(0);
        std::thread::scope(|s| {
            s.spawn(|| {
                loop {
                    let i = now.load(Ordering::Relaxed);
                    let Some(slot) = slots.get(i) else { break };
                    // Entry i gets three packets, each of i + 1 bytes.
                    let Tally { packets, bytes } = counters.tally(*slot);
                    let each = i as u64 + 1;
                    assert!(packets <= 3 && bytes.is_multiple_of(each) && bytes / each <= 3, "{i} {packets} {bytes}");
                }
            });
            for (i, slot) in slots.iter().enumerate() {
                now.store(i, Ordering::Relaxed);
                (0..3).for_each(|_| worker.count(*slot, i as u64 + 1));
            }
            now.store(slots.len(), Ordering::Relaxed);
        });
    }
}
