//! Names of entries: which one it is of all that a table ever had, and the cell that counts for it.

use smpnet_trie::PrefixMap;

const INDEX_BITS: u32 = 24;
/// The index of an entry that nothing counts for.
const NONE: u64 = (1 << INDEX_BITS) - 1;
const SERIAL_MAX: u64 = u64::MAX >> INDEX_BITS;

/// The cell that counts for an entry of a table with `counters`, from when the entry is added until it is removed.
///
/// It is a small number, which later entries get again, and a serial number, by which a cell knows whom it counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot(u64);

impl Slot {
    /// Number of the cell: below what [`super::Tables::slots`] says.
    pub fn index(self) -> usize {
        (self.0 & NONE) as usize
    }

    /// What a cell is stamped with. Never 0.
    pub(super) fn stamp(self) -> u64 {
        self.0
    }
}

/// A serial number, in the upper 40 bits, and the index of a cell.
///
/// Serial numbers come again after 2^40 entries: at a million a second, after twelve days. Harm is done only when the same cell
/// gets the very number that it had last, and no packet was counted in it in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark(u64);

impl Mark {
    pub(super) fn slot(self) -> Option<Slot> {
        (self.0 & NONE != NONE).then_some(Slot(self.0))
    }

    pub(super) fn number(self) -> u64 {
        self.0
    }
}

/// Gives marks to entries. Persistent as all of a table is.
#[derive(Clone, Debug)]
pub(super) struct Marks {
    counts: bool,
    /// Of the entry that was marked last.
    serial: u64,
    /// Cells that were ever given to an entry: all below this.
    used: u32,
    /// Those of them that no entry has.
    free: PrefixMap<u32, ()>,
}

impl Marks {
    /// Marks with cells, or without.
    pub(super) fn new(counts: bool) -> Marks {
        Marks { counts, serial: 0, used: 0, free: PrefixMap::default() }
    }

    pub(super) fn counts(&self) -> bool {
        self.counts
    }

    /// One above the greatest index of all marks that were given.
    pub(super) fn used(&self) -> usize {
        self.used as usize
    }

    pub(super) fn mark(&mut self) -> Mark {
        self.serial = self.serial % SERIAL_MAX + 1;
        Mark(self.serial << INDEX_BITS | self.index())
    }

    pub(super) fn give_back(&mut self, mark: Mark) {
        if let Some(slot) = mark.slot() {
            self.free.insert(slot.index() as u32, u8::MAX, ());
        }
    }

    /// As if all were given back. Serial numbers go on.
    pub(super) fn clear(&mut self) {
        self.free.clear();
        self.used = 0;
    }

    /// The lowest that is free, so that cells stay few. Entries beyond the last index are not counted.
    fn index(&mut self) -> u64 {
        if !self.counts {
            return NONE;
        }
        if let Some(index) = self.free.first().map(|(index, ..)| index) {
            self.free.remove(index, u8::MAX);
            return u64::from(index);
        }
        let index = u64::from(self.used);
        self.used += u32::from(index < NONE);
        index
    }
}
