//! From addresses to entries: what a packet asks for.

use super::slot::Mark;
use crate::{
    config::{Family, Prefix, TableEntry, TableKind},
    packet::{address_of, number_of},
    state::Millis,
};
use smpnet_trie::{ExactMap, PrefixMap};
use std::{
    hash::{BuildHasher, Hash, Hasher, RandomState},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// A protocol and one of its ports.
pub(super) type Service = (u8, u16);

/// What is known of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub until: Until,
    pub mark: Mark,
}

/// When an entry goes. Half as large as an optional time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Until(u64);

impl Until {
    pub(super) const NEVER: Until = Until(u64::MAX);

    pub(super) fn of(time: Option<Millis>) -> Until {
        time.map_or(Until::NEVER, |t| Until(t.0.min(u64::MAX - 1)))
    }

    pub(super) fn time(self) -> Option<Millis> {
        (self != Until::NEVER).then_some(Millis(self.0))
    }
}

/// The entries of a table, found by their kind's way. A clone is a version.
#[derive(Clone, Debug)]
pub(super) enum Index {
    /// Addresses, and services.
    Hosts(ExactMap<Key, Known, Keyed>),
    /// Prefixes, of which the longest counts.
    Prefixes(PrefixMap<u32, Known>, PrefixMap<u128, Known>),
}

impl Index {
    pub(super) fn new(kind: TableKind) -> Index {
        match kind {
            TableKind::Lpm => Index::Prefixes(PrefixMap::default(), PrefixMap::default()),
            TableKind::Ipset | TableKind::Const | TableKind::IpPort => Index::Hosts(ExactMap::default()),
        }
    }

    /// An index of these entries, each of which comes once. Fastest in their order.
    pub(super) fn of(kind: TableKind, entries: &[(TableEntry, Known)]) -> Index {
        let mut index = Index::new(kind);
        if let Index::Prefixes(v4, v6) = &mut index {
            // By families, so that each is built at once.
            let prefixes = || entries.iter().map(|(entry, known)| (entry.prefix, *known));
            *v4 = prefixes()
                .filter_map(|(p, known)| match p.address {
                    IpAddr::V4(a) => Some((a.to_bits(), p.len, known)),
                    IpAddr::V6(_) => None,
                })
                .collect();
            *v6 = prefixes()
                .filter_map(|(p, known)| match p.address {
                    IpAddr::V6(a) => Some((a.to_bits(), p.len, known)),
                    IpAddr::V4(_) => None,
                })
                .collect();
            return index;
        }
        for (entry, known) in entries {
            index.insert(entry, *known);
        }
        index
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Index::Hosts(hosts) => hosts.len(),
            Index::Prefixes(v4, v6) => v4.len() + v6.len(),
        }
    }

    /// The entry that an address is looked up to: the length of its prefix, and what is known. Not for a service where a
    /// table has none.
    #[inline]
    pub(super) fn find(&self, family: Family, address: u128, service: Option<Service>) -> Option<(u8, &Known)> {
        match self {
            Index::Hosts(hosts) => {
                let prefix = Prefix { address: address_of(family, address), len: family.bits() };
                hosts.get(&Key(TableEntry { prefix, service })).map(|known| (prefix.len, known))
            }
            Index::Prefixes(v4, v6) => match family {
                Family::V4 => v4.longest(address as u32),
                Family::V6 => v6.longest(address),
            },
        }
    }

    /// What is known of just this entry.
    pub(super) fn get(&self, entry: &TableEntry) -> Option<&Known> {
        let Prefix { address, len } = entry.prefix;
        match self {
            Index::Hosts(hosts) => hosts.get(&Key(*entry)),
            Index::Prefixes(v4, v6) => match address {
                IpAddr::V4(a) => v4.get(a.to_bits(), len),
                IpAddr::V6(a) => v6.get(a.to_bits(), len),
            },
        }
    }

    /// Enters it, or changes what is known. Returns what was.
    pub(super) fn insert(&mut self, entry: &TableEntry, known: Known) -> Option<Known> {
        let Prefix { address, len } = entry.prefix;
        match self {
            Index::Hosts(hosts) => hosts.insert(Key(*entry), known),
            Index::Prefixes(v4, v6) => match address {
                IpAddr::V4(a) => v4.insert(a.to_bits(), len, known),
                IpAddr::V6(a) => v6.insert(a.to_bits(), len, known),
            },
        }
    }

    /// Takes it out. Returns what was known.
    pub(super) fn remove(&mut self, entry: &TableEntry) -> Option<Known> {
        let Prefix { address, len } = entry.prefix;
        match self {
            Index::Hosts(hosts) => hosts.remove(&Key(*entry)),
            Index::Prefixes(v4, v6) => match address {
                IpAddr::V4(a) => v4.remove(a.to_bits(), len),
                IpAddr::V6(a) => v6.remove(a.to_bits(), len),
            },
        }
    }

    /// Calls `f` with each entry; in the order of [`Self::all`] or not.
    pub(super) fn for_each(&self, mut f: impl FnMut(TableEntry, &Known)) {
        match self {
            Index::Hosts(hosts) => hosts.for_each(|key, known| f(key.0, known)),
            Index::Prefixes(v4, v6) => {
                let entry = |address, len| TableEntry { prefix: Prefix { address, len }, service: None };
                v4.for_each(|a, len, known| f(entry(Ipv4Addr::from_bits(a).into(), len), known));
                v6.for_each(|a, len, known| f(entry(Ipv6Addr::from_bits(a).into(), len), known));
            }
        }
    }

    /// All entries, in the order of their addresses.
    pub(super) fn all(&self) -> Vec<(TableEntry, Known)> {
        let mut all = Vec::with_capacity(self.len());
        self.for_each(|entry, known| all.push((entry, *known)));
        if let Index::Hosts(_) = self {
            all.sort_unstable_by_key(|(entry, _)| order(entry));
        }
        all
    }
}

/// The order of entries.
pub(super) fn order(entry: &TableEntry) -> (IpAddr, u8, Option<Service>) {
    (entry.prefix.address, entry.prefix.len, entry.service)
}

/// An entry that is hashed as three words: the hash that is derived for it takes ten steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(TableEntry);

impl Hash for Key {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Prefix { address, len } = self.0.prefix;
        let service = self.0.service.map_or(0, |(proto, port)| 1 << 24 | u64::from(proto) << 16 | u64::from(port));
        state.write_u128(number_of(address));
        state.write_u64(service << 8 | u64::from(len));
    }
}

/// Makes hashes that an outsider who does not know the seeds cannot steer, as the table of connections does: folded 64x64
/// multiplications (the core of wyhash). Addresses of attackers get into tables, too (`overload`).
#[derive(Clone, Debug)]
pub(super) struct Keyed([u64; 2]);

impl Default for Keyed {
    fn default() -> Keyed {
        let random = RandomState::new();
        Keyed([random.hash_one(0), random.hash_one(1)])
    }
}

impl BuildHasher for Keyed {
    type Hasher = Folded;

    #[inline]
    fn build_hasher(&self) -> Folded {
        let Keyed([state, seed]) = *self;
        Folded { state, seed }
    }
}

pub(super) struct Folded {
    state: u64,
    seed: u64,
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

impl Hasher for Folded {
    #[inline]
    fn finish(&self) -> u64 {
        self.state
    }

    #[inline]
    fn write_u64(&mut self, word: u64) {
        self.state = fold(self.state ^ word, self.seed ^ 0x8ebc_6af0_9c88_c6e3);
    }

    #[inline]
    fn write_u128(&mut self, number: u128) {
        let [low, high] = [number as u64, (number >> 64) as u64];
        self.state = fold(low ^ self.state, high ^ self.seed ^ 0xa076_1d64_78bd_642f);
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }
}
