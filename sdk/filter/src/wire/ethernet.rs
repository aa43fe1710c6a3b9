//! Ethernet II with 802.1Q and 802.1ad tags.

use super::be16;

/// Values of the type field.
pub mod ether_type {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// An 802.1Q tag.
    pub const VLAN: u16 = 0x8100;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// An 802.1ad tag.
    pub const QINQ: u16 = 0x88a8;
}

/// An Ethernet header with at most two tags.
#[derive(Clone, Copy, Debug)]
pub struct Ethernet<'a> {
    head: &'a [u8; 14],
    ether_type: u16,
    tag: Option<u16>,
    len: usize,
    payload: &'a [u8],
}

impl<'a> Ethernet<'a> {
    /// Reads the header and up to two tags.
    pub fn parse(bytes: &'a [u8]) -> Option<Ethernet<'a>> {
        let head = bytes.first_chunk::<14>()?;
        let (mut kind, mut tag, mut len) = (be16(head, 12)?, None, 14);
        for _ in 0..2 {
            if kind != ether_type::VLAN && kind != ether_type::QINQ {
                break;
            }
            // The inner tag is the one that says which network it is.
            tag = Some(be16(bytes, len)?);
            kind = be16(bytes, len + 2)?;
            len += 4;
        }
        Some(Ethernet { head, ether_type: kind, tag, len, payload: bytes.get(len..)? })
    }

    /// Destination address.
    pub fn destination(&self) -> [u8; 6] {
        let [a, b, c, d, e, f, ..] = *self.head;
        [a, b, c, d, e, f]
    }

    /// Source address.
    pub fn source(&self) -> [u8; 6] {
        let [_, _, _, _, _, _, a, b, c, d, e, f, ..] = *self.head;
        [a, b, c, d, e, f]
    }

    /// The type behind the tags: one of [`ether_type`], or another one.
    pub fn ether_type(&self) -> u16 {
        self.ether_type
    }

    /// Tag control information of the innermost tag in the bytes.
    pub fn tag(&self) -> Option<u16> {
        self.tag
    }

    /// Bytes of the header with its tags.
    pub fn header_len(&self) -> usize {
        self.len
    }

    /// What follows.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}
