//! Where the headers are of a packet that is translated: of the packet itself, or of one that an ICMP error quotes.

use super::rewrite::{Change, Side};
use crate::{
    checksum::{self, Delta},
    config::Family,
    edit::Edit,
    packet::{EXTENSIONS_MAX, IcmpClass, Packet, be16, proto},
};

/// Places of headers, in bytes from the beginning of the outermost packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Headers {
    pub family: Family,
    /// The IP header.
    pub ip: usize,
    /// The upper protocol.
    pub proto: u8,
    /// Its header; None in fragments behind the first, and where a quote ends before.
    pub upper: Option<usize>,
    /// The destination is not yet the last one: a routing header has it, and the upper protocol's checksum covers that
    /// one (RFC 8200, section 8.1).
    pub on_the_way: bool,
}

impl Headers {
    /// Of a packet that was read.
    pub fn of(bytes: &[u8], packet: &Packet) -> Headers {
        let later = packet.fragment.is_some_and(|f| f.offset != 0);
        let on_the_way = packet.family == Family::V6
            && packet.options
            && Headers::read_v6(bytes, 0).is_some_and(|headers| headers.on_the_way);
        Headers {
            family: packet.family,
            ip: 0,
            proto: packet.proto,
            upper: (!later).then_some(packet.header),
            on_the_way,
        }
    }

    /// Of a packet of which perhaps only the beginning is there. None when its addresses are not.
    pub fn read(bytes: &[u8], ip: usize, family: Family) -> Option<Headers> {
        match (family, bytes.get(ip)? >> 4) {
            (Family::V4, 4) => Headers::read_v4(bytes, ip),
            (Family::V6, 6) => Headers::read_v6(bytes, ip),
            _ => None,
        }
    }

    fn read_v4(bytes: &[u8], ip: usize) -> Option<Headers> {
        let head = bytes.get(ip..)?.first_chunk::<20>()?;
        let len = usize::from(head[0] & 15) * 4;
        let later = be16(head, 6) & 0x1fff != 0;
        Some(Headers {
            family: Family::V4,
            ip,
            proto: head[9],
            upper: (!later && len >= 20).then_some(ip + len),
            on_the_way: false,
        })
    }

    fn read_v6(bytes: &[u8], ip: usize) -> Option<Headers> {
        const FRAGMENT: u8 = 44;
        const ROUTING: u8 = 43;
        let head = bytes.get(ip..)?.first_chunk::<40>()?;
        let mut headers = Headers { family: Family::V6, ip, proto: head[6], upper: None, on_the_way: false };
        let mut at = ip + 40;
        for _ in 0..=EXTENSIONS_MAX {
            match headers.proto {
                0 | FRAGMENT | ROUTING | 60 | 135 | 139 | 140 => {
                    let Some(&[next, len, hi, left, ..]) = bytes.get(at..at + 8) else { return Some(headers) };
                    let kind = std::mem::replace(&mut headers.proto, next);
                    if kind == FRAGMENT && u16::from_be_bytes([hi, left]) & !7 != 0 {
                        return Some(headers);
                    }
                    headers.on_the_way |= kind == ROUTING && left != 0;
                    at += if kind == FRAGMENT { 8 } else { 8 + usize::from(len) * 8 };
                }
                _ => {
                    headers.upper = Some(at);
                    return Some(headers);
                }
            }
        }
        Some(headers)
    }

    /// Where a port of that side stands, or the identifier of an ICMP query, which both sides share.
    ///
    /// SCTP has ports, but its CRC32c covers the whole packet and its associations move between addresses: it is
    /// translated by address alone, as this project has decided.
    pub fn id(&self, bytes: &[u8], side: Side) -> Option<usize> {
        let upper = self.upper?;
        let class = match (self.proto, self.family) {
            (proto::TCP | proto::UDP, _) => return Some(upper + if side == Side::Src { 0 } else { 2 }),
            (proto::ICMP, Family::V4) => IcmpClass::of_v4,
            (proto::ICMPV6, Family::V6) => IcmpClass::of_v6,
            _ => return None,
        };
        let query = matches!(class(*bytes.get(upper)?, 0, 0), IcmpClass::Request(_) | IcmpClass::Reply(_));
        query.then_some(upper + 4)
    }

    /// Makes a change, and puts the checksums right that this packet has for itself.
    pub fn change(&self, edit: &mut Edit<'_>, change: Change) {
        let mut delta = Delta::default();
        if let Some(address) = change.address {
            let at = self.ip + address_at(self.family, change.side);
            let octets = address.to_be_bytes();
            match self.family {
                Family::V4 => {
                    delta = edit.put(at, &octets[12..]);
                    edit.fix(self.ip + 10, delta);
                }
                Family::V6 => delta = edit.put(at, &octets),
            }
            let covered = change.side == Side::Src || !self.on_the_way;
            if !covered || !checksum::covers_addresses(self.proto) {
                delta = Delta::default();
            }
        }
        let Some(upper) = self.upper else { return };
        let of_pseudo_header = delta;
        if let (Some(id), Some(at)) = (change.port_or_id, self.id(edit.bytes(), change.side)) {
            delta.add(edit.put(at, &id.to_be_bytes()));
        }
        match checksum::field_of(self.proto, self.family) {
            Some(field) if edit.checksum_is_open() => edit.fix_open(upper + field, of_pseudo_header),
            Some(field) if checksum::zero_is_none(self.proto) => edit.fix_udp(upper + field, delta),
            Some(field) => edit.fix(upper + field, delta),
            None => {}
        }
    }
}

/// Where the address of that side stands in an IP header.
pub(super) fn address_at(family: Family, side: Side) -> usize {
    match (family, side) {
        (Family::V4, Side::Src) => 12,
        (Family::V4, Side::Dst) => 16,
        (Family::V6, Side::Src) => 8,
        (Family::V6, Side::Dst) => 24,
    }
}
