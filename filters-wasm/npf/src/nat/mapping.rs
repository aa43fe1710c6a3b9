//! Endpoint-independent mapping (RFC 4787, REQ-1; RFC 5382, REQ-1): whatever an inner address and port talks to, it is
//! seen as the same outer address and port.
//!
//! A mapping lives as long as a connection uses it, and two minutes more (RFC 4787, REQ-5), so that who was told of an outer
//! end still finds it.

use crate::{
    config::RuleId,
    state::{Key, Millis},
};
use std::collections::{HashMap, VecDeque, hash_map::Entry};

/// Milliseconds that a mapping stays which no connection uses (RFC 4787, REQ-5).
pub const LINGER: u64 = 120_000;

/// An address and a port, or an ICMP identifier, of a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct End {
    /// The address, in the form of [`crate::packet::Packet`].
    pub address: u128,
    /// The port or identifier.
    pub port: u16,
    /// The protocol.
    pub proto: u8,
}

impl End {
    /// Where packets with a key come from.
    pub fn source(key: &Key) -> End {
        let (address, port) = key.source_end();
        End { address, port, proto: key.proto() }
    }

    /// Where they go.
    pub fn destination(key: &Key) -> End {
        let (address, port) = key.destination_end();
        End { address, port, proto: key.proto() }
    }
}

/// An inner end, and the map that translates it.
pub type Inner = (RuleId, End);

/// Which outer end stands for which inner one.
#[derive(Debug, Default)]
pub struct Mappings {
    by_inner: HashMap<Inner, Mapping>,
    by_outer: HashMap<End, Inner>,
    /// Those that were left, in that order; some are used again.
    left: VecDeque<(Millis, Inner)>,
}

#[derive(Debug)]
struct Mapping {
    outer: End,
    users: u32,
    /// When the last connection left.
    since: Millis,
}

impl Mappings {
    /// None.
    pub fn new() -> Mappings {
        Mappings::default()
    }

    /// The outer end of an inner one that has one already. A connection uses it from now on, until [`Mappings::leave`].
    pub fn join(&mut self, inner: Inner) -> Option<End> {
        let mapping = self.by_inner.get_mut(&inner)?;
        mapping.users += 1;
        Some(mapping.outer)
    }

    /// Makes a mapping that one connection uses. False, and nothing is done, if one of the ends has another already.
    pub fn insert(&mut self, inner: Inner, outer: End) -> bool {
        let Entry::Vacant(by_outer) = self.by_outer.entry(outer) else { return false };
        let Entry::Vacant(by_inner) = self.by_inner.entry(inner) else { return false };
        by_outer.insert(inner);
        by_inner.insert(Mapping { outer, users: 1, since: Millis(0) });
        true
    }

    /// A connection is gone.
    pub fn leave(&mut self, inner: Inner, now: Millis) {
        let Some(mapping) = self.by_inner.get_mut(&inner).filter(|m| m.users > 0) else { return };
        mapping.users -= 1;
        if mapping.users == 0 {
            mapping.since = now;
            self.left.push_back((now, inner));
        }
    }

    /// The outer end of a mapping whose time is over, and which is no more: its port can be released. None: there is no other.
    pub fn expire(&mut self, now: Millis) -> Option<End> {
        while let Some((since, inner)) = self.left.front().copied().filter(|(since, _)| now.since(*since) >= LINGER) {
            self.left.pop_front();
            if self.by_inner.get(&inner).is_some_and(|m| m.users == 0 && m.since == since)
                && let Some(Mapping { outer, .. }) = self.by_inner.remove(&inner)
            {
                self.by_outer.remove(&outer);
                return Some(outer);
            }
        }
        None
    }

    /// Whom an outer end stands for: of packets from anybody (RFC 4787, section 5, endpoint-independent filtering), and
    /// of packets from inside to the outer end (hairpinning, REQ-9).
    pub fn inner_of(&self, outer: End) -> Option<Inner> {
        self.by_outer.get(&outer).copied()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_inner.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_inner.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(address: u128, port: u16) -> End {
        End { address, port, proto: 17 }
    }

    fn inner(address: u128, port: u16) -> Inner {
        (RuleId(1), end(address, port))
    }

    #[test]
    fn a_mapping_lives_two_minutes_longer_than_its_last_connection() {
        let mut mappings = Mappings::new();
        let (inner, outer) = (inner(1, 5000), end(9, 1024));
        assert_eq!(mappings.join(inner), None);
        assert!(mappings.insert(inner, outer));
        assert_eq!(mappings.join(inner), Some(outer));
        assert_eq!(mappings.inner_of(outer), Some(inner));
        mappings.leave(inner, Millis(5));
        assert_eq!(mappings.expire(Millis(LINGER * 2)), None, "one uses it");
        mappings.leave(inner, Millis(10));
        assert_eq!(mappings.expire(Millis(LINGER + 9)), None);
        assert_eq!(mappings.join(inner), Some(outer));
        mappings.leave(inner, Millis(20));
        assert_eq!((mappings.expire(Millis(LINGER + 19)), mappings.expire(Millis(LINGER + 20))), (None, Some(outer)));
        mappings.leave(inner, Millis(30));
        assert_eq!((mappings.inner_of(outer), mappings.expire(Millis(u64::MAX))), (None, None));
        assert!(mappings.is_empty() && mappings.left.is_empty());
    }

    #[test]
    fn neither_end_has_two_mappings() {
        let mut mappings = Mappings::new();
        assert!(mappings.insert(inner(1, 1), end(9, 1)));
        assert!(!mappings.insert(inner(2, 1), end(9, 1)));
        assert!(!mappings.insert(inner(1, 1), end(9, 2)));
        assert_eq!((mappings.len(), mappings.inner_of(end(9, 2))), (1, None));
        // Another protocol is another end, and another map's is another mapping.
        let tcp = End { proto: 6, ..end(1, 1) };
        assert!(mappings.insert((RuleId(1), tcp), End { proto: 6, ..end(9, 1) }));
        assert!(mappings.insert((RuleId(2), end(1, 1)), end(9, 2)));
    }
}
