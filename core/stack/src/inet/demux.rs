//! Encapsulated packets: which tunnel interface takes an outer header.

use super::decide::IpInfo;
use crate::net::ifnet::Ifnet;
use crate::net::path::Path;
use crate::types::IfIndex;
use smpnet_abi::Cell;
use std::collections::HashMap;

/// Outer addresses in host byte order (0: any) and protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct EncapV4 {
    pub remote: u32,
    pub local: u32,
    pub protocol: u8,
}

/// Who takes what. Replaced as a whole when it changes.
#[derive(Clone, Default)]
pub(crate) struct EncapTable {
    keys: HashMap<EncapV4, IfIndex>,
    /// How many keys a protocol has, so that most packets cost one look.
    protocols: HashMap<u8, u32>,
}

impl EncapTable {
    /// The taker of an outer header: exact, then any remote, then any local, then any of both.
    pub(crate) fn find(&self, remote: u32, local: u32, protocol: u8) -> Option<IfIndex> {
        if !self.protocols.contains_key(&protocol) {
            return None;
        }
        [(remote, local), (0, local), (remote, 0), (0, 0)]
            .iter()
            .find_map(|&(remote, local)| self.keys.get(&EncapV4 { remote, local, protocol }).copied())
    }

    pub(crate) fn has_protocol(&self, protocol: u8) -> bool {
        self.protocols.contains_key(&protocol)
    }

    pub(crate) fn get(&self, key: &EncapV4) -> Option<IfIndex> {
        self.keys.get(key).copied()
    }

    pub(crate) fn insert(&mut self, key: EncapV4, to: IfIndex) {
        if self.keys.insert(key, to).is_none() {
            *self.protocols.entry(key.protocol).or_insert(0) += 1;
        }
    }

    pub(crate) fn remove(&mut self, key: &EncapV4) -> bool {
        if self.keys.remove(key).is_none() {
            return false;
        }
        if let Some(n) = self.protocols.get_mut(&key.protocol) {
            *n -= 1;
            if *n == 0 {
                self.protocols.remove(&key.protocol);
            }
        }
        true
    }

    /// The keys of an interface.
    pub(crate) fn keys_of(&self, to: IfIndex) -> Vec<EncapV4> {
        self.keys.iter().filter(|(_, i)| **i == to).map(|(k, _)| *k).collect()
    }
}

impl<'a> Path<'a> {
    /// Gives a packet to the tunnel that takes its outer header; false when there is none.
    pub(crate) fn encap_input(&mut self, ifp: &'a Ifnet, c: Cell, info: &IpInfo) -> bool {
        let table = self.s.encap.read(self.section);
        let Some(to) = table.find(info.src, info.dst, info.proto) else { return false };
        let Some(kind) = self.ifnet(to.get()) else { return false };
        let mut p = self.packet(c);
        let off = p.hdr().data_off;
        let h = p.hdr_mut();
        h.l3_off = off;
        h.l4_off = off + u16::from(info.header_len);
        h.l4_proto = info.proto;
        self.kind_input(kind, ifp, &[c]);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exact_key_goes_before_wildcards() {
        let i = |n| IfIndex::new(n).unwrap();
        let mut t = EncapTable::default();
        t.insert(EncapV4 { remote: 0, local: 0, protocol: 4 }, i(1));
        t.insert(EncapV4 { remote: 0, local: 7, protocol: 4 }, i(2));
        t.insert(EncapV4 { remote: 9, local: 7, protocol: 4 }, i(3));
        assert_eq!(t.find(9, 7, 4), Some(i(3)));
        assert_eq!(t.find(8, 7, 4), Some(i(2)));
        assert_eq!(t.find(8, 6, 4), Some(i(1)));
        assert_eq!(t.find(9, 7, 41), None);
        assert!(t.remove(&EncapV4 { remote: 0, local: 0, protocol: 4 }));
        assert_eq!(t.find(8, 6, 4), None);
        assert!(t.has_protocol(4) && !t.has_protocol(47));
        assert_eq!(t.keys_of(i(2)).len(), 1);
    }
}
