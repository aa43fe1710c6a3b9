//! From keys to connections: an open-addressing hash table of eight bytes for each key.
//!
//! It is made once, for all the keys that there may ever be, and at most half full, so nothing is ever moved to a larger
//! one. What it holds is the hash of a key and where the key is; the caller compares the key itself.

use smpnet_runtime::{prefer_huge_pages, prefetch};

/// Connection and way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hit {
    pub slot: u32,
    pub forward: bool,
}

#[derive(Debug)]
pub(super) struct Index {
    /// The hash in the upper half; in the lower one the slot plus one and, lowest, the way. 0 is empty. Eight of them are
    /// a cache line, and neighbours are looked at one after the other.
    cells: Vec<u64>,
    mask: usize,
}

impl Index {
    /// For so many connections, of two keys each. The memory is touched as it is used.
    pub fn new(connections: usize) -> Index {
        let cells = (connections.max(1) * 4).next_power_of_two();
        let cells = vec![0; cells];
        prefer_huge_pages(&cells);
        Index { mask: cells.len() - 1, cells }
    }

    /// The first connection with that hash for which `is` is true.
    #[inline]
    pub fn find(&self, hash: u32, mut is: impl FnMut(Hit) -> bool) -> Option<Hit> {
        let mut at = hash as usize & self.mask;
        loop {
            let cell = self.cells[at];
            if cell == 0 {
                return None;
            }
            if (cell >> 32) as u32 == hash && is(hit(cell)) {
                return Some(hit(cell));
            }
            at = (at + 1) & self.mask;
        }
    }

    /// The cell in which a search begins; reading some of them first lets their cache misses overlap.
    #[inline]
    pub fn peek(&self, hash: u32) -> u64 {
        self.cells[hash as usize & self.mask]
    }

    /// Has that cell fetched, for a look at it some time later.
    #[inline]
    pub fn prefetch(&self, hash: u32) {
        prefetch(&raw const self.cells[hash as usize & self.mask]);
    }

    pub fn insert(&mut self, hash: u32, slot: u32, forward: bool) {
        let mut at = hash as usize & self.mask;
        while self.cells[at] != 0 {
            at = (at + 1) & self.mask;
        }
        self.cells[at] = cell(hash, slot, forward);
    }

    pub fn remove(&mut self, hash: u32, slot: u32, forward: bool) {
        let wanted = cell(hash, slot, forward);
        let mut at = hash as usize & self.mask;
        while self.cells[at] != wanted {
            if self.cells[at] == 0 {
                return;
            }
            at = (at + 1) & self.mask;
        }
        // Those behind it move up, so that no search ends at the gap and no marks of the dead pile up.
        let mut gap = at;
        loop {
            at = (at + 1) & self.mask;
            let cell = self.cells[at];
            if cell == 0 {
                break;
            }
            let home = (cell >> 32) as usize & self.mask;
            if (at.wrapping_sub(home) & self.mask) >= (at.wrapping_sub(gap) & self.mask) {
                self.cells[gap] = cell;
                gap = at;
            }
        }
        self.cells[gap] = 0;
    }
}

fn cell(hash: u32, slot: u32, forward: bool) -> u64 {
    u64::from(hash) << 32 | (u64::from(slot) + 1) << 1 | u64::from(forward)
}

fn hit(cell: u64) -> Hit {
    Hit { slot: ((cell as u32) >> 1).wrapping_sub(1), forward: cell & 1 != 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_a_gap_is_still_found() {
        let mut index = Index::new(4);
        // All of them want the last cell but one, or the first: they go round the end.
        for (slot, hash) in [(0, 14), (1, 30), (2, 46), (3, 16), (4, 62), (5, 15)] {
            index.insert(hash, slot, slot % 2 == 0);
        }
        index.remove(30, 1, false);
        index.remove(30, 1, false);
        index.remove(14, 0, true);
        for (slot, hash) in [(2, 46), (3, 16), (4, 62), (5, 15)] {
            assert_eq!(index.find(hash, |_| true), Some(Hit { slot, forward: slot % 2 == 0 }));
        }
        assert_eq!(index.find(30, |_| true), None);
    }
}
