//! A table of a fixed size that forgets what was not used for longest.

use std_or_alloc::{Box, vec};

#[cfg(any(feature = "std", not(target_arch = "wasm32")))]
mod std_or_alloc {
    pub use std::{boxed::Box, vec};
}

#[cfg(not(any(feature = "std", not(target_arch = "wasm32"))))]
mod std_or_alloc {
    extern crate alloc;
    pub use alloc::{boxed::Box, vec};
}

/// Entries of a set: a key is only ever in one set, so that a look-up reads that many keys and no more.
const WAYS: usize = 8;

/// A table from `K` to `V` with room for a fixed number of entries. It is divided into sets of 8; a key that is not there
/// takes the place of the entry of its set that was not used for longest. So each call costs the same, whatever an attacker
/// sends.
#[derive(Clone, Debug)]
pub struct Lru<K, V> {
    slots: Box<[Option<Slot<K, V>>]>,
    seed: u64,
    mask: usize,
    clock: u64,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Slot<K, V> {
    key: K,
    value: V,
    used: u64,
}

impl<K: Copy + Eq + AsRef<[u8]>, V: Copy> Lru<K, V> {
    /// Room for at least `entries` (rounded up to a power of two, 8 or more). Memory is taken here and nowhere else.
    pub fn new(entries: usize) -> Lru<K, V> {
        let sets = entries.div_ceil(WAYS).max(1).next_power_of_two();
        Lru { slots: vec![None; sets * WAYS].into_boxed_slice(), seed: 0, mask: sets - 1, clock: 0, len: 0 }
    }

    /// Bytes that a table of so many entries takes.
    pub const fn bytes(entries: usize) -> usize {
        entries.next_multiple_of(WAYS).next_power_of_two() * size_of::<Option<Slot<K, V>>>()
    }

    /// Makes it hard to send keys that all belong to one set: by a number that a sender cannot know, such as the time of
    /// the first burst. Only while the table is empty.
    pub fn seed(&mut self, seed: u64) {
        if self.len == 0 {
            self.seed = seed;
        }
    }

    /// Entries that it has room for.
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Entries that it has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn set(&mut self, key: &K) -> &mut [Option<Slot<K, V>>] {
        let first = (hash(key.as_ref(), self.seed) as usize & self.mask) * WAYS;
        // The mask is that of the number of sets.
        &mut self.slots[first..first + WAYS]
    }

    /// The value of a key, which counts as used.
    pub fn get(&mut self, key: &K) -> Option<&mut V> {
        self.clock += 1;
        let now = self.clock;
        let slot = self.set(key).iter_mut().flatten().find(|s| s.key == *key)?;
        slot.used = now;
        Some(&mut slot.value)
    }

    /// Puts a key in that is not there, and returns its value, and the entry that had to go for it.
    pub fn insert(&mut self, key: K, value: V) -> (&mut V, Option<(K, V)>) {
        self.clock += 1;
        let slot = Slot { key, value, used: self.clock };
        let set = self.set(&key);
        let same = set.iter().position(|s| s.as_ref().is_some_and(|s| s.key == key));
        let oldest = || (0..WAYS).min_by_key(|i| set[*i].as_ref().map_or(0, |s| s.used)).unwrap_or(0);
        let at = same.unwrap_or_else(oldest);
        let old = set[at].take().map(|s| (s.key, s.value));
        let evicted = old.filter(|_| same.is_none());
        if old.is_none() {
            self.len += 1;
        }
        // Found again, as the count was changed meanwhile.
        let value = &mut self.set(&key)[at].insert(slot).value;
        (value, evicted)
    }

    /// Removes a key.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let slot = self.set(key).iter_mut().find(|s| s.as_ref().is_some_and(|s| s.key == *key))?;
        let value = slot.take().map(|s| s.value);
        self.len -= 1;
        value
    }

    /// The entries from place `from` on, each with its place, which stays the same while the table is not changed.
    pub fn entries(&self, from: usize) -> impl Iterator<Item = (usize, &K, &V)> {
        let slots = self.slots.iter().enumerate().skip(from);
        slots.filter_map(|(at, slot)| slot.as_ref().map(|s| (at, &s.key, &s.value)))
    }
}

/// A hash of bytes for tables (FNV-1a, finished by a mixer of splitmix64): quick for short keys, and different with each
/// seed. It is no secret: who knows the seed can make keys of one hash.
pub fn hash(bytes: &[u8], seed: u64) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325 ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut chunks = bytes.chunks_exact(4);
    let mut step = |word: u64| h = (h ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    for chunk in &mut chunks {
        step(u64::from(u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]])));
    }
    for byte in chunks.remainder() {
        step(u64::from(*byte));
    }
    h = (h ^ h >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h = (h ^ h >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    h ^ h >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn a_full_set_forgets_the_entry_that_was_not_used_for_longest() {
        let mut table = Lru::<[u8; 1], u32>::new(1);
        assert_eq!(table.capacity(), WAYS);
        for key in 0..8 {
            assert!(table.insert([key], u32::from(key)).1.is_none());
        }
        assert_eq!(table.get(&[0]), Some(&mut 0), "which is used now");
        assert_eq!(table.insert([8], 8).1, Some(([1], 1)));
        assert!(table.get(&[1]).is_none() && table.get(&[0]).is_some());
        assert_eq!((table.len(), table.remove(&[8]), table.remove(&[8]), table.len()), (8, Some(8), None, 7));
    }

    #[test]
    fn keys_spread_over_the_sets() {
        let mut table = Lru::<[u8; 4], ()>::new(8192);
        for key in 0..4096u32 {
            table.insert(key.to_be_bytes(), ());
        }
        assert!(table.len() > 3900, "only {} of 4096 found a place", table.len());
    }

    proptest! {
        #[test]
        fn it_holds_what_a_map_holds_but_for_what_it_evicted(
            operations in proptest::collection::vec((0u8..3, 0u8..40, any::<u32>()), 0..400),
            seed in any::<u64>(),
        ) {
            let (mut table, mut map) = (Lru::<[u8; 1], u32>::new(32), HashMap::new());
            table.seed(seed);
            for (what, key, value) in operations {
                match what {
                    0 => {
                        if let Some((gone, old)) = table.insert([key], value).1 {
                            prop_assert_eq!(map.remove(&gone[0]), Some(old));
                        }
                        map.insert(key, value);
                    }
                    1 => prop_assert_eq!(table.remove(&[key]), map.remove(&key)),
                    _ => prop_assert_eq!(table.get(&[key]).copied(), map.get(&key).copied()),
                }
                prop_assert_eq!(table.len(), map.len());
                prop_assert_eq!(table.entries(0).count(), map.len());
            }
        }
    }
}
