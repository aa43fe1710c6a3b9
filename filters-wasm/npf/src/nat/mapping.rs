//! Endpoint-independent mapping (RFC 4787, REQ-1; RFC 5382, REQ-1): whatever an inner address and port talks to, it is
//! seen as the same outer address and port.

use std::collections::{HashMap, hash_map::Entry};

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

/// Which outer end stands for which inner one, each as long as a connection uses it.
#[derive(Debug, Default)]
pub struct Mappings {
    by_inner: HashMap<End, Mapping>,
    by_outer: HashMap<End, End>,
}

#[derive(Debug)]
struct Mapping {
    outer: End,
    users: u32,
}

impl Mappings {
    /// None.
    pub fn new() -> Mappings {
        Mappings::default()
    }

    /// The outer end of an inner one that has one already. A connection uses it from now on, until [`Mappings::leave`].
    pub fn join(&mut self, inner: End) -> Option<End> {
        let mapping = self.by_inner.get_mut(&inner)?;
        mapping.users += 1;
        Some(mapping.outer)
    }

    /// Makes a mapping that one connection uses. False, and nothing is done, if one of the ends has another already.
    pub fn insert(&mut self, inner: End, outer: End) -> bool {
        let Entry::Vacant(by_outer) = self.by_outer.entry(outer) else { return false };
        let Entry::Vacant(by_inner) = self.by_inner.entry(inner) else { return false };
        by_outer.insert(inner);
        by_inner.insert(Mapping { outer, users: 1 });
        true
    }

    /// A connection is gone. Gives the outer end if it was the last one: its port can be released.
    pub fn leave(&mut self, inner: End) -> Option<End> {
        let mapping = self.by_inner.get_mut(&inner)?;
        mapping.users -= 1;
        if mapping.users > 0 {
            return None;
        }
        let outer = mapping.outer;
        self.by_inner.remove(&inner);
        self.by_outer.remove(&outer);
        Some(outer)
    }

    /// Whom an outer end stands for: of packets from anybody (RFC 4787, section 5, endpoint-independent filtering), and
    /// of packets from inside to the outer end (hairpinning, REQ-9).
    pub fn inner_of(&self, outer: End) -> Option<End> {
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

    #[test]
    fn a_mapping_lives_as_long_as_its_last_connection() {
        let mut mappings = Mappings::new();
        let (inner, outer) = (end(1, 5000), end(9, 1024));
        assert_eq!(mappings.join(inner), None);
        assert!(mappings.insert(inner, outer));
        assert_eq!(mappings.join(inner), Some(outer));
        assert_eq!(mappings.inner_of(outer), Some(inner));
        assert_eq!(mappings.leave(inner), None);
        assert_eq!(mappings.leave(inner), Some(outer));
        assert_eq!(mappings.leave(inner), None);
        assert_eq!(mappings.inner_of(outer), None);
        assert!(mappings.is_empty());
    }

    #[test]
    fn neither_end_has_two_mappings() {
        let mut mappings = Mappings::new();
        assert!(mappings.insert(end(1, 1), end(9, 1)));
        assert!(!mappings.insert(end(2, 1), end(9, 1)));
        assert!(!mappings.insert(end(1, 1), end(9, 2)));
        assert_eq!((mappings.len(), mappings.inner_of(end(9, 2))), (1, None));
        // Another protocol is another end.
        assert!(mappings.insert(End { proto: 6, ..end(1, 1) }, End { proto: 6, ..end(9, 1) }));
    }
}
