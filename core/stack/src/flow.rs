//! The flow cache of one worker: the prepared way out of a flow.
//!
//! An open-addressed table of 64-byte entries. A flow lives within a window of [`WINDOW`] entries from its home, so a
//! look-up is mostly one cache line, and a full window evicts the entry that is longest unused. An entry is valid only
//! while the global generation is the one it was made under, and while its neighbour's word is the same; so nothing is
//! ever removed: a change of routes, addresses, interfaces or filters raises the generation, and the packet after it takes
//! the long way.

use crate::hash::FlowKey;
use crate::lazy::{LazyArray, Zeroed};
use crate::wire::ethernet::HEADER_LEN;
use smpnet_runtime::prefetch;

const WINDOW: usize = 8;
/// Least entries of a table in use.
pub(crate) const MIN_FLOWS: usize = 64;
/// Most entries of a table.
pub(crate) const MAX_FLOWS: usize = 1 << 24;
/// No neighbour: a raw IP interface.
pub(crate) const NO_NEIGHBOUR: u32 = u32::MAX;

/// Where the packets of a flow go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FlowRoute {
    pub egress: u32,
    pub mtu: u32,
    /// Slot of the neighbour and the word it had, or [`NO_NEIGHBOUR`].
    pub neigh: u32,
    pub word: u64,
    /// Ethernet header to put in front; unused without neighbour.
    pub rewrite: [u8; HEADER_LEN],
}

#[repr(C, align(64))]
struct Entry {
    key: FlowKey,
    word: u64,
    generation: u32,
    egress: u32,
    neigh: u32,
    mtu: u32,
    used: u32,
    rewrite: [u8; HEADER_LEN],
    _pad: [u8; 6],
}

const _: () = assert!(size_of::<Entry>() == 64);

// SAFETY: integers and arrays of them. An entry of zeroes is vacant, because generation 0 is never current.
unsafe impl Zeroed for Entry {}

/// What a look-up found.
#[derive(Debug)]
pub(crate) enum Found {
    /// The flow's way out; the caller still compares the neighbour's word.
    Hit(FlowRoute),
    /// An entry of an older generation.
    Stale,
    /// Nothing.
    Miss,
}

/// The table of one worker.
pub(crate) struct FlowCache {
    /// In huge pages: with a million flows nearly every look-up would miss the TLB, and in a virtual machine such a miss
    /// costs more than the cache line.
    entries: Option<LazyArray<Entry>>,
    mask: usize,
    /// Counts look-ups, as a clock for evictions.
    clock: u32,
}

impl FlowCache {
    /// A table of `flows` entries, rounded up to a power of two; 0 caches nothing.
    pub(crate) fn new(flows: usize) -> FlowCache {
        if flows == 0 {
            return FlowCache { entries: None, mask: 0, clock: 0 };
        }
        let n = flows.clamp(MIN_FLOWS, MAX_FLOWS).next_power_of_two();
        // Without memory for it a worker remembers nothing, and all packets take the long way.
        FlowCache { entries: LazyArray::new(n, true).ok(), mask: n - 1, clock: 0 }
    }

    #[inline(always)]
    pub(crate) fn enabled(&self) -> bool {
        self.entries.is_some()
    }

    /// Asks for the line of a flow, ahead of [`FlowCache::find`].
    #[inline(always)]
    pub(crate) fn prefetch(&self, hash: u32) {
        if let Some(entries) = &self.entries {
            prefetch(&raw const entries[hash as usize & self.mask]);
        }
    }

    /// Looks a flow up.
    #[inline(always)]
    pub(crate) fn find(&mut self, key: FlowKey, hash: u32, generation: u32) -> Found {
        let Some(entries) = &mut self.entries else { return Found::Miss };
        self.clock = self.clock.wrapping_add(1);
        for i in 0..WINDOW {
            let e = &mut entries[(hash as usize + i) & self.mask];
            if e.key == key {
                if e.generation != generation {
                    return if e.generation == 0 { Found::Miss } else { Found::Stale };
                }
                e.used = self.clock;
                return Found::Hit(FlowRoute {
                    egress: e.egress,
                    mtu: e.mtu,
                    neigh: e.neigh,
                    word: e.word,
                    rewrite: e.rewrite,
                });
            }
            if e.generation == 0 {
                return Found::Miss;
            }
        }
        Found::Miss
    }

    /// Remembers a flow. Returns whether a living one had to go for it.
    pub(crate) fn insert(&mut self, key: FlowKey, hash: u32, generation: u32, r: &FlowRoute) -> bool {
        let Some(entries) = &mut self.entries else { return false };
        // The same flow, else the first dead entry, else the one that was longest unused.
        let mut best = hash as usize & self.mask;
        let mut best_age = 0u64;
        for i in 0..WINDOW {
            let at = (hash as usize + i) & self.mask;
            let e = &entries[at];
            let vacant = e.generation == 0;
            let age = if e.key == key && !vacant {
                u64::MAX
            } else if e.generation != generation {
                // The earlier the better: the nearer to its home.
                (1 << 40) - i as u64
            } else {
                u64::from(self.clock.wrapping_sub(e.used)) + 1
            };
            if age > best_age {
                (best, best_age) = (at, age);
            }
            if vacant || age == u64::MAX {
                break;
            }
        }
        let evicted = best_age < 1 << 39;
        entries[best] = Entry {
            key,
            word: r.word,
            generation,
            egress: r.egress,
            neigh: r.neigh,
            mtu: r.mtu,
            used: self.clock,
            rewrite: r.rewrite,
            _pad: [0; 6],
        };
        evicted
    }

    /// Entries of the given generation.
    #[cfg(test)]
    fn live(&self, generation: u32) -> usize {
        self.entries.iter().flat_map(|e| e.iter()).filter(|e| e.generation == generation).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(egress: u32) -> FlowRoute {
        FlowRoute { egress, mtu: 1500, neigh: 1, word: 2, rewrite: [7; 14] }
    }

    fn key(i: u32) -> FlowKey {
        FlowKey::new(0x0a00_0000 + i, 0x0a01_0001, 17, 5000 << 16 | i & 0xffff)
    }

    #[test]
    fn ten_thousand_flows_fit_into_the_default_table() {
        let mut c = FlowCache::new(16384);
        let mut evicted = 0;
        for i in 0..10_000 {
            evicted += usize::from(c.insert(key(i), key(i).hash(1), 1, &route(i)));
        }
        let hits = (0..10_000)
            .filter(|&i| matches!(c.find(key(i), key(i).hash(1), 1), Found::Hit(r) if r.egress == i))
            .count();
        assert!(evicted < 250 && hits > 9_750, "{evicted} evicted, {hits} hits");
    }

    #[test]
    fn a_raised_generation_makes_every_flow_stale_and_its_place_free() {
        let mut c = FlowCache::new(64);
        c.insert(key(1), key(1).hash(1), 1, &route(5));
        assert!(matches!(c.find(key(1), key(1).hash(1), 1), Found::Hit(_)));
        assert!(matches!(c.find(key(1), key(1).hash(1), 2), Found::Stale));
        assert!(matches!(c.find(key(2), key(2).hash(1), 2), Found::Miss));
        assert!(!c.insert(key(1), key(1).hash(1), 2, &route(6)));
        assert!(matches!(c.find(key(1), key(1).hash(1), 2), Found::Hit(r) if r.egress == 6));
        assert_eq!(c.live(2), 1);
    }

    #[test]
    fn a_full_window_evicts_the_flow_that_was_longest_unused() {
        let mut c = FlowCache::new(64);
        for i in 0..8 {
            assert!(!c.insert(key(i), 0, 1, &route(i)));
        }
        for i in (0..8).filter(|i| *i != 3) {
            assert!(matches!(c.find(key(i), 0, 1), Found::Hit(_)));
        }
        assert!(c.insert(key(100), 0, 1, &route(100)));
        assert!(matches!(c.find(key(3), 0, 1), Found::Miss));
        assert!(matches!(c.find(key(100), 0, 1), Found::Hit(_)));
    }

    #[test]
    fn a_table_of_no_entries_remembers_nothing() {
        let mut c = FlowCache::new(0);
        assert!(!c.insert(key(1), 1, 1, &route(1)));
        assert!(matches!(c.find(key(1), 1, 1), Found::Miss));
    }
}
