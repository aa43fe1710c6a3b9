//! What is read of a packet that looks like most of them: IPv4 without options, no fragment, TCP in the midst of a connection
//! or UDP. Everything else, down to a length that does not fit, is none of these, and is read by [`crate::packet`].

use crate::{
    checksum::Delta,
    config::Family,
    evaluate::Where,
    nat::{Change, Side},
    packet::{Ports, Tcp, be16, be32, proto, tcp_flag},
    plan::{InterfaceNumber, TagNumber, UPPER_TCP},
    state::ShortKey,
    wasm::Facts,
};

/// Bytes of its IP header.
const IP: usize = 20;
/// MF and offset in an IP header.
const FRAGMENT: u16 = 0x3fff;

/// A packet that looks like most of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plain {
    /// Addresses, ports and protocol; where it is read, bound to nothing.
    pub key: ShortKey,
    /// Bytes from the IP header on.
    pub len: u16,
    /// Of TCP.
    flags: u8,
    /// Words of TCP's header; of UDP 0.
    words: u8,
}

/// What a packet is to the straight way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// It is plain.
    Plain(Plain),
    /// It is something else.
    Other {
        /// It may have a key as plain packets have.
        has_ports: bool,
    },
}

impl Plain {
    /// Reads a packet of `whole` bytes of which the first are here.
    #[inline(always)]
    pub fn read(bytes: &[u8], whole: usize) -> Read {
        let Some(head) = bytes.first_chunk::<28>() else { return Read::Other { has_ports: false } };
        let (len, proto) = (be16(head, 2), head[9]);
        let size = usize::from(len);
        let other = Read::Other { has_ports: matches!(proto, proto::TCP | proto::UDP) };
        if head[0] != 0x45 || be16(head, 6) & FRAGMENT != 0 || size < head.len() || size > whole {
            return other;
        }
        let key = ShortKey::new(proto, be32(head, 12), be32(head, 16), be32(head, IP));
        match proto {
            proto::UDP => Read::Plain(Plain { key, len, flags: 0, words: 0 }),
            proto::TCP => {
                let Some(&[offset, flags]) = bytes.get(IP + 12..IP + 14).and_then(|b| b.first_chunk()) else {
                    return other;
                };
                let header = usize::from(offset >> 4) * 4;
                if header < 20 || IP + header > size.min(bytes.len()) {
                    return other;
                }
                Read::Plain(Plain { key, len, flags, words: offset >> 4 })
            }
            _ => other,
        }
    }

    /// It is of TCP.
    #[inline(always)]
    pub fn is_tcp(&self) -> bool {
        self.words != 0
    }

    /// It is of TCP and may change what comes behind it: SYN, FIN, RST, and what is unusual.
    #[inline(always)]
    pub fn moves(&self) -> bool {
        let moves = tcp_flag::SYN | tcp_flag::FIN | tcp_flag::RST;
        self.is_tcp() && self.flags & (moves | tcp_flag::ACK) != tcp_flag::ACK
    }

    /// Its TCP header. `bytes` are those that it was read from.
    #[inline(always)]
    pub fn tcp(&self, bytes: &[u8]) -> Tcp {
        let header = usize::from(self.words) * 4;
        let (src, dst) = self.key.ports();
        let behind = bytes.get(IP..).and_then(|b| b.first_chunk::<20>()).unwrap_or(&[0; 20]);
        Tcp {
            ports: Ports { src, dst },
            flags: self.flags,
            seq: be32(behind, 4),
            ack: be32(behind, 8),
            window: be16(behind, 14),
            header,
            data: usize::from(self.len).saturating_sub(IP + header),
        }
    }

    /// Changes its address and port on a side, and the checksums that cover them. `bytes` are those that it was read from; `is_open`
    /// as [`crate::packet::Packet::checksum_is_open`].
    #[inline]
    pub fn rewrite(&self, bytes: &mut [u8], change: Change, is_open: bool) {
        let (address_at, port_at) = match change.side {
            Side::Src => (12, IP),
            Side::Dst => (16, IP + 2),
        };
        let (mut addresses, mut ports) = (Delta::default(), Delta::default());
        let mut put = |at: usize, new: u16, delta: &mut Delta| {
            if let Some(word) = bytes.get_mut(at..).and_then(|b| b.first_chunk_mut::<2>()) {
                delta.word(u16::from_be_bytes(*word), new);
                *word = new.to_be_bytes();
            }
        };
        if let Some(address) = change.address {
            put(address_at, (address >> 16) as u16, &mut addresses);
            put(address_at + 2, address as u16, &mut addresses);
        }
        if let Some(port) = change.port_or_id {
            put(port_at, port, &mut ports);
        }
        let upper_at = if self.is_tcp() { IP + 16 } else { IP + 6 };
        for (at, is_upper) in [(10, false), (upper_at, true)] {
            let Some(word) = bytes.get_mut(at..).and_then(|b| b.first_chunk_mut::<2>()) else { continue };
            let check = u16::from_be_bytes(*word);
            let mut both = addresses;
            both.add(ports);
            let new = match is_upper {
                false => addresses.apply(check),
                // What sends it sums up the ports.
                true if is_open => addresses.apply_open(check),
                true if self.is_tcp() => both.apply(check),
                true => both.apply_udp(check),
            };
            *word = new.to_be_bytes();
        }
    }

    /// What a module is told of it.
    #[inline(always)]
    pub fn facts(&self, interface: InterfaceNumber, way: Where, tag: TagNumber) -> Facts {
        let proto = if self.is_tcp() { proto::TCP } else { proto::UDP };
        let (src, dst) = self.key.ports();
        let [from, to] = self.key.addresses();
        Facts {
            src: [0, from],
            dst: [0, to],
            sport: src.into(),
            dport: dst.into(),
            upper: if self.is_tcp() { UPPER_TCP as u32 + u32::from(self.flags) } else { proto.into() },
            interface: interface.0,
            tag: tag.0,
            family: Family::V4 as u8,
            way: way as u8,
            proto,
            reserved: [0; 9],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        packet::Packet,
        plan::Numbered,
        state::{Binding, Bound, Crossing, Direction, Key},
        testing::{tcp, udp},
    };
    use proptest::prelude::*;

    /// A packet that may be plain.
    fn packet() -> impl Strategy<Value = Vec<u8>> {
        let ends = (any::<[u8; 4]>(), any::<[u8; 4]>(), any::<u16>(), any::<u16>());
        let body = (any::<bool>(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..30), 0..3usize);
        (ends, body).prop_map(|((src, dst, sport, dport), (is_tcp, flags, data, words))| {
            let text = |a: [u8; 4]| std::net::Ipv4Addr::from(a).to_string();
            let (src, dst) = (text(src), text(dst));
            match is_tcp {
                true => tcp((&src, sport), (&dst, dport), flags, &vec![1; words * 4], &data),
                false => udp((&src, sport), (&dst, dport), &data),
            }
        })
    }

    proptest! {
        #[test]
        fn it_is_what_the_long_way_reads(
            mut bytes in packet(),
            damage in prop::option::of((0..40usize, any::<u8>())),
            cut in 0..60usize,
            behind in 0..20usize,
        ) {
            if let Some((at, byte)) = damage
                && let Some(b) = bytes.get_mut(at)
            {
                *b = byte;
            }
            let whole = bytes.len() + behind;
            bytes.resize(whole, 7);
            bytes.truncate(whole - cut.min(whole) / 2);
            let Read::Plain(plain) = Plain::read(&bytes, whole) else { return Ok(()) };
            let packet = Packet::read_head(&bytes, whole).unwrap();
            prop_assert!(packet.fragment.is_none() && !packet.options && packet.header == 20);
            prop_assert_eq!(packet.len, usize::from(plain.len));
            prop_assert_eq!(Key::unbound(&packet), Some(plain.key.whole()));
            if let crate::packet::Upper::Tcp(tcp) = packet.upper {
                prop_assert_eq!(tcp, plain.tcp(&bytes));
            }
            let at = Crossing { interface: Some(9), direction: Direction::Out };
            let binding = Binding { interface: true, direction: true };
            prop_assert!(plain.key.bound(Bound::new(at, binding)).is(&Key::unbound(&packet).unwrap().bound(at, binding)));
            let (interface, way, tag) = (InterfaceNumber(3), Where::Forward, TagNumber(4));
            let asked = Numbered { packet: &packet, bytes: &bytes, interface, way, tag };
            prop_assert_eq!(plain.facts(interface, way, tag), Facts::of(&asked));
        }
    }

    proptest! {
        #[test]
        fn it_is_translated_as_the_long_way_does(
            mut bytes in packet(),
            (src, address, port) in (any::<bool>(), any::<u32>(), any::<u16>()),
            (is_open, no_checksum) in (any::<bool>(), any::<bool>()),
        ) {
            let Read::Plain(plain) = Plain::read(&bytes, bytes.len()) else { return Ok(()) };
            if no_checksum && !plain.is_tcp() {
                bytes[26..28].fill(0);
            }
            let mut other = bytes.clone();
            let side = if src { Side::Src } else { Side::Dst };
            let address = Some(crate::packet::v4(address));
            let change = Change { side, address, port_or_id: Some(port) };
            plain.rewrite(&mut bytes, change, is_open);
            let packet = Packet { checksum_is_open: is_open, ..Packet::read(&other).unwrap() };
            crate::nat::rewrite(&mut other, &packet, change);
            prop_assert_eq!(bytes, other);
        }
    }

    #[test]
    fn most_packets_are_plain_and_those_that_move_tcp_are_told_apart() {
        let read = |bytes: &[u8]| match Plain::read(bytes, bytes.len()) {
            Read::Plain(plain) => plain,
            other => panic!("{other:?}"),
        };
        let segment = |flags| tcp(("10.0.0.1", 80), ("10.0.0.2", 90), flags, b"", b"x");
        assert!(!read(&udp(("10.0.0.1", 80), ("10.0.0.2", 90), b"")).moves());
        for flags in [tcp_flag::ACK, tcp_flag::ACK | 0x08, tcp_flag::ACK | 0xc0] {
            let plain = read(&segment(flags));
            assert!(!plain.moves() && plain.tcp(&segment(flags)).data == 1, "{flags:#x}");
        }
        for flags in [0, tcp_flag::SYN, tcp_flag::SYN | tcp_flag::ACK, 0x11, 0x04, 0x14] {
            assert!(read(&segment(flags)).moves(), "{flags:#x}");
        }
    }
}
