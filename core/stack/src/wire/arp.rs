//! ARP over Ethernet for IPv4 (RFC 826).

use super::{be16, be32, put16, put32};
use smpnet_abi::MacAddr;

/// Bytes of the packet.
pub const LEN: usize = 28;
/// Operation: who has.
pub const REQUEST: u16 = 1;
/// Operation: is at.
pub const REPLY: u16 = 2;

/// An ARP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Operation.
    pub op: u16,
    /// Sender's Ethernet address.
    pub sha: MacAddr,
    /// Sender's IPv4 address in host byte order; 0 in a probe (RFC 5227).
    pub spa: u32,
    /// Target's Ethernet address.
    pub tha: MacAddr,
    /// Target's IPv4 address in host byte order.
    pub tpa: u32,
}

impl Arp {
    /// Reads an ARP packet for IPv4 over Ethernet; none when it is malformed or of other types.
    pub fn parse(b: &[u8]) -> Option<Self> {
        let b = b.get(..LEN)?;
        if be16(b, 0) != 1 || be16(b, 2) != super::ethernet::TYPE_IPV4 || b[4] != 6 || b[5] != 4 {
            return None;
        }
        let op = be16(b, 6);
        if op != REQUEST && op != REPLY {
            return None;
        }
        let mut sha = MacAddr::default();
        let mut tha = MacAddr::default();
        sha.bytes.copy_from_slice(&b[8..14]);
        tha.bytes.copy_from_slice(&b[18..24]);
        Some(Arp { op, sha, spa: be32(b, 14), tha, tpa: be32(b, 24) })
    }

    /// Writes the packet to the start of `b`.
    pub fn emit(&self, b: &mut [u8]) {
        put16(b, 0, 1);
        put16(b, 2, super::ethernet::TYPE_IPV4);
        b[4] = 6;
        b[5] = 4;
        put16(b, 6, self.op);
        b[8..14].copy_from_slice(&self.sha.bytes);
        put32(b, 14, self.spa);
        b[18..24].copy_from_slice(&self.tha.bytes);
        put32(b, 24, self.tpa);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQ: [u8; 28] = [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 1, 2, 0, 0, 0, 0, 0, 0, 10, 0, 1, 1];

    #[test]
    fn a_request_is_parsed_and_emitted_as_it_was() {
        let a = Arp::parse(&REQ).unwrap();
        assert_eq!((a.op, a.spa, a.tpa), (REQUEST, 0x0a00_0102, 0x0a00_0101));
        let mut out = [0xff; 28];
        a.emit(&mut out);
        assert_eq!(out, REQ);
    }

    #[test]
    fn other_hardware_and_operations_are_refused() {
        for (at, v) in [(1, 6), (3, 1), (4, 8), (5, 6), (7, 9), (7, 0)] {
            let mut b = REQ;
            b[at] = v;
            assert!(Arp::parse(&b).is_none(), "byte {at} = {v}");
        }
        assert!(Arp::parse(&REQ[..27]).is_none());
    }
}
