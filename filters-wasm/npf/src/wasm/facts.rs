//! What a module is told of a packet: one line of the cache for each.

use crate::{
    config::Family,
    packet::Upper,
    plan::{Numbered, UPPER_ICMP, UPPER_TCP},
};
use std::mem::offset_of;

/// Bytes of [`Facts`].
pub const FACTS_SIZE: u32 = 64;

/// The port of a packet that has none.
pub const NO_PORT: u32 = 0x1_0000;

/// An end of a packet's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Where it comes from.
    Source,
    /// Where it goes.
    Destination,
}

/// What rules ask of a packet. The host writes these into a module's memory; every bit pattern is a value.
///
/// Numbers of interfaces and tags are those of the plan that the module was made from.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The source's higher and lower 64 bits; of IPv4 the last 32 are the address.
    pub src: [u64; 2],
    /// The destination's.
    pub dst: [u64; 2],
    /// Source port; [`NO_PORT`] for none.
    pub sport: u32,
    /// Destination port.
    pub dport: u32,
    /// The protocol; of TCP 256 and the flags; of ICMP 512 and type times 256 plus code.
    pub upper: u32,
    /// [`crate::plan::InterfaceNumber`].
    pub interface: u32,
    /// [`crate::plan::TagNumber`].
    pub tag: u32,
    /// IPv4 0, IPv6 1.
    pub family: u8,
    /// In 0, out 1, forwarded 2.
    pub way: u8,
    /// The upper protocol's number.
    pub proto: u8,
    /// Always 0.
    pub reserved: [u8; 9],
}

pub(super) const SRC: u32 = offset_of!(Facts, src) as u32;
pub(super) const DST: u32 = offset_of!(Facts, dst) as u32;
pub(super) const SPORT: u32 = offset_of!(Facts, sport) as u32;
pub(super) const DPORT: u32 = offset_of!(Facts, dport) as u32;
pub(super) const UPPER: u32 = offset_of!(Facts, upper) as u32;
pub(super) const INTERFACE: u32 = offset_of!(Facts, interface) as u32;
pub(super) const TAG: u32 = offset_of!(Facts, tag) as u32;
pub(super) const FAMILY: u32 = offset_of!(Facts, family) as u32;
pub(super) const WAY: u32 = offset_of!(Facts, way) as u32;

const _: () = assert!(size_of::<Facts>() == FACTS_SIZE as usize && NO_PORT as u128 == crate::plan::NO_PORT);

impl Facts {
    /// What is known of a packet.
    #[inline]
    pub fn of(asked: &Numbered<'_>) -> Facts {
        let packet = asked.packet;
        let ports = packet.ports();
        let halves = |address: u128| [(address >> 64) as u64, address as u64];
        Facts {
            src: halves(packet.src),
            dst: halves(packet.dst),
            sport: ports.map_or(NO_PORT, |p| p.src.into()),
            dport: ports.map_or(NO_PORT, |p| p.dst.into()),
            upper: match packet.upper {
                Upper::Icmp(icmp) => UPPER_ICMP as u32 + u32::from(u16::from_be_bytes([icmp.kind, icmp.code])),
                Upper::Tcp(tcp) => UPPER_TCP as u32 + u32::from(tcp.flags),
                _ => packet.proto.into(),
            },
            interface: asked.interface.0,
            tag: asked.tag.0,
            family: packet.family as u8,
            way: asked.way as u8,
            proto: packet.proto,
            reserved: [0; 9],
        }
    }

    /// IPv4 or IPv6.
    pub fn family(&self) -> Family {
        if self.family == 0 { Family::V4 } else { Family::V6 }
    }

    /// An address, as [`crate::packet::Packet`] has it.
    pub fn address(&self, side: Side) -> u128 {
        let [high, low] = if side == Side::Source { self.src } else { self.dst };
        u128::from(high) << 64 | u128::from(low)
    }

    /// The protocol and a port, where the packet has some: what tables of services are asked for.
    pub fn service(&self, side: Side) -> Option<(u8, u16)> {
        let port = if side == Side::Source { self.sport } else { self.dport };
        u16::try_from(port).ok().map(|port| (self.proto, port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        evaluate::Where,
        packet::Packet,
        plan::{InterfaceNumber, TagNumber},
        testing::{icmp, ip, tcp},
    };

    fn facts(bytes: &[u8]) -> Facts {
        let packet = Packet::read(bytes).unwrap();
        let numbers = (InterfaceNumber(7), TagNumber(9));
        Facts::of(&Numbered { packet: &packet, bytes, interface: numbers.0, way: Where::Forward, tag: numbers.1 })
    }

    #[test]
    fn the_layout_is_what_modules_read() {
        assert_eq!([SRC, DST, SPORT, DPORT, UPPER, INTERFACE, TAG, FAMILY, WAY], [0, 16, 32, 36, 40, 44, 48, 52, 53]);
    }

    #[test]
    fn facts_are_those_of_the_packet() {
        let one = facts(&tcp(("10.0.0.1", 80), ("10.0.0.2", 90), 0x12, b"", b""));
        assert_eq!((one.family, one.src, one.dst[1] as u32), (0, [0, 0xffff_0a00_0001], 0x0a00_0002));
        assert_eq!((one.sport, one.dport, one.upper, one.way, one.interface, one.tag), (80, 90, 256 + 0x12, 2, 7, 9));
        assert_eq!(one.service(Side::Destination), Some((6, 90)));
        let two = facts(&icmp("2001:db8::1", "::2", 128, 3, &[0; 4]));
        assert_eq!((two.family, two.src[0], two.dst), (1, 0x2001_0db8 << 32, [0, 2]));
        assert_eq!((two.sport, two.upper, two.service(Side::Source)), (NO_PORT, 512 + (128 << 8) + 3, None));
        assert_eq!(two.address(Side::Source), 0x2001_0db8 << 96 | 1);
        assert_eq!(facts(&ip("10.0.0.1", "10.0.0.2", 47, &[0; 8])).upper, 47);
    }
}
