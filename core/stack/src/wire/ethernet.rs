//! Ethernet II (RFC 894) and the 802.1Q tag.

use super::{be16, put16};
use smpnet_abi::MacAddr;

/// Bytes of the header.
pub const HEADER_LEN: usize = 14;
/// Bytes of an 802.1Q tag.
pub const VLAN_TAG_LEN: usize = 4;
/// Least bytes of a frame without its check sequence.
pub const MIN_FRAME: usize = 60;
/// EtherType of IPv4.
pub const TYPE_IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const TYPE_ARP: u16 = 0x0806;
/// EtherType of an 802.1Q tag.
pub const TYPE_VLAN: u16 = 0x8100;
/// EtherType of an 802.1ad service tag.
pub const TYPE_QINQ: u16 = 0x88a8;
/// EtherType of IPv6.
pub const TYPE_IPV6: u16 = 0x86dd;
/// The broadcast address.
pub const BROADCAST: MacAddr = MacAddr { bytes: [0xff; 6] };

/// An Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ethernet {
    /// Destination.
    pub dst: MacAddr,
    /// Source.
    pub src: MacAddr,
    /// EtherType, or a length below 0x600 (802.3).
    pub ether_type: u16,
}

impl Ethernet {
    /// Reads the header at the start of `b`; none when `b` is too short.
    pub fn parse(b: &[u8]) -> Option<Self> {
        let b = b.get(..HEADER_LEN)?;
        let mut dst = MacAddr::default();
        let mut src = MacAddr::default();
        dst.bytes.copy_from_slice(&b[..6]);
        src.bytes.copy_from_slice(&b[6..12]);
        Some(Ethernet { dst, src, ether_type: be16(b, 12) })
    }

    /// The header as bytes.
    pub fn bytes(&self) -> [u8; HEADER_LEN] {
        let mut b = [0; HEADER_LEN];
        b[..6].copy_from_slice(&self.dst.bytes);
        b[6..12].copy_from_slice(&self.src.bytes);
        put16(&mut b, 12, self.ether_type);
        b
    }

    /// Writes the header to the start of `b`.
    pub fn emit(&self, b: &mut [u8]) {
        b[..HEADER_LEN].copy_from_slice(&self.bytes());
    }
}

/// Whether the address is a group's (multicast or broadcast).
#[inline(always)]
pub fn is_group(mac: &[u8]) -> bool {
    mac[0] & 1 != 0
}

/// The address as a number below 2^48, in transmission order.
#[inline]
pub fn mac_to_u64(mac: MacAddr) -> u64 {
    let b = mac.bytes;
    u64::from_be_bytes([0, 0, b[0], b[1], b[2], b[3], b[4], b[5]])
}

/// The inverse of [`mac_to_u64`].
#[inline]
pub fn mac_from_u64(v: u64) -> MacAddr {
    let b = v.to_be_bytes();
    MacAddr { bytes: [b[2], b[3], b[4], b[5], b[6], b[7]] }
}

/// The multicast address of an IPv4 group (RFC 1112, section 6.4).
pub fn multicast_mac(group: u32) -> MacAddr {
    let g = group.to_be_bytes();
    MacAddr { bytes: [0x01, 0x00, 0x5e, g[1] & 0x7f, g[2], g[3]] }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: [u8; 14] = [0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2, 0x08, 0x00];

    #[test]
    fn a_header_is_parsed_and_emitted_as_it_was() {
        let e = Ethernet::parse(&FRAME).unwrap();
        assert_eq!(e.dst, MacAddr { bytes: [2, 0, 0, 0, 0, 1] });
        assert_eq!(e.ether_type, TYPE_IPV4);
        let mut out = [0; 20];
        e.emit(&mut out);
        assert_eq!(out[..14], FRAME);
        assert!(Ethernet::parse(&FRAME[..13]).is_none());
    }

    #[test]
    fn an_address_survives_being_a_number() {
        let mac = MacAddr { bytes: [1, 2, 3, 4, 5, 6] };
        assert_eq!(mac_to_u64(mac), 0x0102_0304_0506);
        assert_eq!(mac_from_u64(mac_to_u64(mac)), mac);
    }

    #[test]
    fn groups_map_to_their_low_23_bits() {
        assert_eq!(multicast_mac(0xe080_0001).bytes, [1, 0, 0x5e, 0, 0, 1]);
    }
}
