//! The adjacencies of one worker: the prepared way to each neighbour that packets are forwarded to.
//!
//! What a packet needs at its way out depends on its next hop alone. So what is remembered is a next hop's, not a flow's:
//! new flows find it prepared, a million of them share what they share, and a change of routes makes none of it false,
//! because the forwarding table is asked for every packet (one memory access, [`crate::route::Fib`]).
//!
//! An open-addressed table of 64-byte entries. A next hop lives within a window of [`WINDOW`] entries from its home. An
//! entry is valid only while the global generation is the one it was made under, and while its neighbour's word is the
//! same; so nothing is ever removed: a change of interfaces, addresses or filters raises the generation, a change of the
//! neighbour changes its word, and the packet after it takes the long way.

use crate::lazy::{LazyArray, Zeroed};
use crate::wire::ethernet::HEADER_LEN;

const WINDOW: usize = 8;
/// Least entries of a table in use.
pub(crate) const MIN_ADJACENCIES: usize = 64;
/// Most entries of a table.
pub(crate) const MAX_ADJACENCIES: usize = 1 << 22;
/// No neighbour: a raw IP interface.
pub(crate) const NO_NEIGHBOUR: u32 = u32::MAX;
/// What stands for the word of no neighbour. None ever has it.
pub(crate) const NO_WORD: u64 = u64::MAX;

/// A next hop that packets are sent to: an interface and an address on its link. 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Next(pub u64);

impl Next {
    pub(crate) const NONE: Next = Next(0);

    #[inline(always)]
    pub(crate) const fn new(ifindex: u32, address: u32) -> Next {
        Next((ifindex as u64) << 32 | address as u64)
    }
}

/// How packets go to a next hop.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Adjacency {
    pub next: Next,
    /// The word that the neighbour had; [`NO_WORD`] with [`NO_NEIGHBOUR`].
    pub word: u64,
    generation: u32,
    pub egress: u32,
    pub mtu: u32,
    /// Slot of the neighbour, or [`NO_NEIGHBOUR`].
    pub neigh: u32,
    /// Ethernet header to put in front; unused without neighbour.
    pub rewrite: [u8; HEADER_LEN],
    _pad: [u8; 18],
}

const _: () = assert!(size_of::<Adjacency>() == 64);

// SAFETY: integers and arrays of them. An entry of zeroes is vacant, because generation 0 is never current.
unsafe impl Zeroed for Adjacency {}

impl Adjacency {
    pub(crate) fn new(next: Next, mtu: u32, neigh: u32, word: u64, rewrite: [u8; HEADER_LEN]) -> Adjacency {
        let egress = (next.0 >> 32) as u32;
        Adjacency { next, word, generation: 0, egress, mtu, neigh, rewrite, _pad: [0; 18] }
    }
}

/// What a look-up found.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    /// The way; the caller still compares the neighbour's word.
    Hit(&'a Adjacency),
    /// An entry of an older generation.
    Stale,
    /// Nothing.
    Miss,
}

/// The table of one worker.
pub(crate) struct Adjacencies {
    /// In huge pages: with very many neighbours nearly every look-up would miss the TLB, and in a virtual machine such a
    /// miss costs more than the cache line.
    entries: Option<LazyArray<Adjacency>>,
}

impl Adjacencies {
    /// A table of `n` entries, rounded up to a power of two; 0 remembers nothing.
    pub(crate) fn new(n: usize) -> Adjacencies {
        if n == 0 {
            return Adjacencies { entries: None };
        }
        let n = n.clamp(MIN_ADJACENCIES, MAX_ADJACENCIES).next_power_of_two();
        // Without memory for it a worker remembers nothing, and all packets take the long way.
        Adjacencies { entries: LazyArray::new(n, true).ok() }
    }

    #[inline(always)]
    pub(crate) fn enabled(&self) -> bool {
        self.entries.is_some()
    }

    /// The table to look into, by value: for loops over a burst.
    #[inline(always)]
    pub(crate) fn table(&self) -> Table<'_> {
        Table(self.entries.as_deref().unwrap_or_default())
    }

    /// Remembers a way. Returns whether a valid one had to go for it.
    pub(crate) fn insert(&mut self, generation: u32, a: Adjacency) -> bool {
        let home = self.table().home(a.next);
        let Some(entries) = &mut self.entries else { return false };
        let mask = entries.len() - 1;
        let at = |i: usize| (home + i) & mask;
        // The same next hop wherever it is, else the first place that is vacant or of an older generation.
        let place = (0..WINDOW)
            .take_while(|i| *i == 0 || entries[at(i - 1)].generation != 0)
            .find(|i| entries[at(*i)].next == a.next)
            .or_else(|| (0..WINDOW).find(|i| entries[at(*i)].generation != generation));
        // In a full window any may go; one that the newcomer's own bits choose differs from newcomer to newcomer.
        let i = place.unwrap_or((a.next.0 ^ a.next.0 >> 7) as usize % WINDOW);
        entries[at(i)] = Adjacency { generation, ..a };
        place.is_none()
    }
}

/// See [`Adjacencies::table`]. A power of two of entries, or none.
#[derive(Clone, Copy)]
pub(crate) struct Table<'a>(&'a [Adjacency]);

impl<'a> Table<'a> {
    /// Where a next hop's window begins. Addresses on a link are the operator's and the neighbours', few of them a
    /// stranger's, so a multiplication that spreads consecutive ones is enough.
    #[inline(always)]
    fn home(self, next: Next) -> usize {
        self.wrap((next.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize)
    }

    #[inline(always)]
    fn wrap(self, at: usize) -> usize {
        at & self.0.len().wrapping_sub(1)
    }

    /// Looks a next hop up.
    #[inline(always)]
    pub(crate) fn find(self, next: Next, generation: u32) -> Found<'a> {
        let home = self.home(next);
        let Some(a) = self.0.get(home) else { return Found::Miss };
        if a.next != next {
            return self.find_behind(home, next, generation);
        }
        if a.generation == generation { Found::Hit(a) } else { Found::Stale }
    }

    /// Looks into the rest of a window.
    #[inline(never)]
    fn find_behind(self, home: usize, next: Next, generation: u32) -> Found<'a> {
        for i in 0..WINDOW {
            let a = &self.0[self.wrap(home + i)];
            if a.next == next {
                return if a.generation == generation { Found::Hit(a) } else { Found::Stale };
            }
            if a.generation == 0 {
                return Found::Miss;
            }
        }
        Found::Miss
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(i: u32) -> Adjacency {
        Adjacency::new(Next::new(3, 0x0a00_0000 + i), 1500, 1, 2, [7; 14])
    }

    fn hit(t: &Adjacencies, i: u32, generation: u32) -> bool {
        matches!(t.table().find(to(i).next, generation), Found::Hit(a) if a.next == to(i).next && a.egress == 3)
    }

    #[test]
    fn ten_thousand_neighbours_fit_into_the_default_table() {
        let mut t = Adjacencies::new(16384);
        let evicted = (0..10_000).filter(|i| t.insert(1, to(*i))).count();
        let hits = (0..10_000).filter(|i| hit(&t, *i, 1)).count();
        assert!(evicted < 250 && hits > 9_750, "{evicted} evicted, {hits} hits");
    }

    #[test]
    fn a_raised_generation_makes_every_way_stale_and_its_place_free() {
        let mut t = Adjacencies::new(64);
        t.insert(1, to(1));
        assert!(hit(&t, 1, 1));
        assert!(matches!(t.table().find(to(1).next, 2), Found::Stale));
        assert!(matches!(t.table().find(to(2).next, 2), Found::Miss));
        assert!(!t.insert(2, to(1)));
        assert!(hit(&t, 1, 2));
    }

    #[test]
    fn a_next_hop_never_has_two_entries() {
        let mut t = Adjacencies::new(64);
        let shifted: Vec<u32> =
            (0..4000).filter(|i| t.table().home(to(*i).next) == t.table().home(to(0).next)).take(9).collect();
        for i in &shifted[..8] {
            assert!(!t.insert(1, to(*i)));
        }
        // The first goes stale with all others; the last, entered again, takes its own place and not the first's.
        assert!(!t.insert(2, to(shifted[7])));
        assert!(matches!(t.table().find(to(shifted[0]).next, 2), Found::Stale));
        assert!(hit(&t, shifted[7], 2));
        for i in &shifted[..7] {
            assert!(!t.insert(2, to(*i)));
        }
        assert!(t.insert(2, to(shifted[8])), "a full window gives one up");
        assert_eq!(shifted.iter().filter(|i| hit(&t, **i, 2)).count(), 8);
    }

    #[test]
    fn a_table_of_no_entries_remembers_nothing() {
        let mut t = Adjacencies::new(0);
        assert!(!t.insert(1, to(1)));
        assert!(matches!(t.table().find(to(1).next, 1), Found::Miss));
    }
}
