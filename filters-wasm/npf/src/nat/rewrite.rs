//! Changing addresses, ports and ICMP identifiers of a packet.

use super::headers::Headers;
use crate::{edit::Edit, packet::Packet};

/// A side of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Where it comes from.
    Src,
    /// Where it goes.
    Dst,
}

impl Side {
    /// The other one: what replies need.
    pub fn other(self) -> Side {
        match self {
            Side::Src => Side::Dst,
            Side::Dst => Side::Src,
        }
    }
}

/// What is changed on one side of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Change {
    /// Which side.
    pub side: Side,
    /// Its new address, of the packet's family and in the form of [`Packet`].
    pub address: Option<u128>,
    /// Its new port, in TCP and UDP; of ICMP queries and replies, the new identifier, whatever the side. Other protocols
    /// keep what they have, SCTP too, and so do fragments behind the first.
    pub port_or_id: Option<u16>,
}

/// Changes a packet, and every checksum that covers what is changed: of the IPv4 header, TCP, UDP (0 stays 0), ICMP,
/// ICMPv6, and of UDP-Lite and DCCP for their addresses.
///
/// `packet` is how these bytes were read. It says how they were before, and may serve several changes one after the
/// other, as long as nothing but addresses, ports and identifiers changes. Nothing behind the packet's length is touched.
/// The quote within an ICMP error is not changed here but by [`super::icmp_error`].
pub fn rewrite(bytes: &mut [u8], packet: &Packet, change: Change) {
    let headers = Headers::of(bytes, packet);
    headers.change(&mut Edit::new(bytes, packet), change);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checksum,
        config::Family,
        packet::be16,
        testing::{address, ends, error, icmp, ip, is_right, tcp, udp},
    };
    use proptest::prelude::*;

    fn src(to: &str, port: impl Into<Option<u16>>) -> Change {
        Change { side: Side::Src, address: Some(address(to)), port_or_id: port.into() }
    }

    fn dst(to: &str, port: impl Into<Option<u16>>) -> Change {
        Change { side: Side::Dst, ..src(to, port) }
    }

    fn changed(bytes: &[u8], change: Change) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        let packet = Packet::read(&bytes).unwrap();
        rewrite(&mut bytes, &packet, change);
        bytes
    }

    #[test]
    fn udp_and_tcp_get_address_port_and_right_checksums() {
        let a = changed(&udp(("10.1.1.1", 15000), ("192.0.2.101", 7000), b"odd"), src("192.0.2.1", 1024));
        assert_eq!(ends(&a), "192.0.2.1.1024 > 192.0.2.101.7000");
        let b = changed(&tcp(("fd00::1", 1), ("2001:db8::2", 80), 2, &[], b""), dst("2001:db8::ffff", 8080));
        assert_eq!(ends(&b), "fd00::1.1 > 2001:db8::ffff.8080");
        assert!(is_right(&a) && is_right(&b));
    }

    #[test]
    fn a_udp_checksum_of_0_stays_0_in_both_families() {
        for (mut bytes, to) in [
            (udp(("10.1.1.1", 1), ("192.0.2.1", 2), b"x"), "10.9.9.9"),
            (udp(("fd00::1", 1), ("2001:db8::1", 2), b"x"), "fd00::2"),
        ] {
            let at = Packet::read(&bytes).unwrap().header + 6;
            bytes[at..at + 2].fill(0);
            let out = changed(&bytes, src(to, 77));
            assert_eq!(be16(&out, at), 0);
            assert!(is_right(&out));
        }
    }

    #[test]
    fn a_udp_checksum_that_becomes_0_is_written_as_ffff() {
        let bytes = udp(("10.1.1.1", 1), ("192.0.2.1", 0), b"x");
        // Adding its checksum to a word makes it 0.
        let out = changed(&bytes, Change { side: Side::Dst, address: None, port_or_id: Some(be16(&bytes, 26)) });
        assert_eq!(be16(&out, 26), 0xffff);
        assert!(is_right(&out));
    }

    #[test]
    fn icmp_identifiers_change_on_either_side_and_icmpv6_covers_addresses() {
        let ping = icmp("10.1.1.1", "192.0.2.1", 8, 0, &[0, 7, 0, 1, 9]);
        let out = changed(&ping, src("192.0.2.9", 0x1234));
        assert_eq!((be16(&out, 24), is_right(&out)), (0x1234, true));
        let reply = icmp("2001:db8::1", "2001:db8::9", 129, 0, &[0, 7, 0, 1, 9]);
        let out = changed(&reply, dst("fd00::1", 0x1234));
        assert_eq!((be16(&out, 44), is_right(&out)), (0x1234, true));
        let other = icmp("fd00::1", "fd00::2", 135, 0, &[0; 20]);
        let out = changed(&other, src("fd00::3", 0x1234));
        assert_eq!((be16(&out, 44), is_right(&out)), (0, true));
    }

    #[test]
    fn errors_change_by_address_only() {
        let quote = udp(("192.0.2.9", 5), ("198.51.100.1", 6), b"");
        let out = changed(&error("203.0.113.1", "192.0.2.9", 3, &quote), dst("10.0.0.1", 99));
        assert_eq!(&out[28..], quote);
        assert!(is_right(&out));
    }

    #[test]
    fn sctp_and_tunnels_change_by_address_only() {
        for proto in [132, 47, 50, 51, 200] {
            let body: Vec<u8> = (1..=16).collect();
            let out = changed(&ip("10.1.1.1", "192.0.2.1", proto, &body), src("192.0.2.9", 99));
            assert_eq!(&out[20..], body, "{proto}");
            assert!(is_right(&out));
        }
    }

    #[test]
    fn a_first_fragment_changes_as_the_whole_does_and_a_later_one_in_its_header_only() {
        let whole = udp(("10.1.1.1", 15000), ("192.0.2.101", 7000), &[7; 16]);
        let cut = |offset: u16, more: u16, data: &[u8]| {
            // Made as another protocol, of which the builder touches no checksum.
            let mut bytes = ip("10.1.1.1", "192.0.2.101", 99, data);
            bytes[9] = 17;
            bytes[6..8].copy_from_slice(&(more | (offset / 8)).to_be_bytes());
            let check = checksum::of_ipv4_header(&bytes[..20]);
            bytes[10..12].copy_from_slice(&check.to_be_bytes());
            bytes
        };
        let first = cut(0, 0x2000, &whole[20..36]);
        let later = cut(16, 0, &whole[36..]);
        let change = src("192.0.2.1", 4242);
        let (first, later, whole) = (changed(&first, change), changed(&later, change), changed(&whole, change));
        assert!(is_right(&first) && is_right(&later) && is_right(&whole));
        assert_eq!([&first[20..], &later[20..]].concat(), &whole[20..]);
    }

    #[test]
    fn a_destination_on_the_way_is_not_covered_by_the_checksum() {
        // A routing header with one segment left, whose address is the last destination.
        let last = "2001:db8::7".parse::<std::net::Ipv6Addr>().unwrap().octets();
        let plain = udp(("fd00::1", 1), ("2001:db8::7", 2), b"data");
        let mut body = vec![17, 2, 4, 1, 0, 0, 0, 0];
        body.extend(last);
        body.extend(&plain[40..]);
        let before = ip("fd00::1", "2001:db8::1", 43, &body);
        let after = changed(&before, dst("2001:db8::2", None));
        assert_eq!(&after[40..], &before[40..]);
    }

    #[test]
    fn dccp_and_udp_lite_follow_the_address() {
        let mut body = vec![0, 1, 0, 2, 0, 8, 0, 0];
        let mut plain = udp(("10.1.1.1", 1), ("192.0.2.1", 2), b"");
        body[6..8].copy_from_slice(&plain[26..28]);
        let lite = ip("10.1.1.1", "192.0.2.1", 136, &body);
        plain = changed(&plain, src("192.0.2.9", None));
        assert_eq!(changed(&lite, src("192.0.2.9", None))[26..28], plain[26..28]);
    }

    /// A packet of any kind with right checksums, something behind its end, and what is to be changed.
    fn any_packet() -> impl Strategy<Value = (Vec<u8>, Change)> {
        let kind = prop::sample::select(vec![6u8, 17, 1, 132, 50, 99]);
        let data = prop::collection::vec(any::<u8>(), 0..50);
        let ends = (any::<u128>(), any::<u128>(), any::<u16>(), any::<u16>());
        let change = (any::<bool>(), any::<Option<u128>>(), any::<Option<u16>>());
        (any::<bool>(), kind, ends, data, change, any::<u8>()).prop_map(
            |(v6, kind, (a, b, p, q), data, (is_src, address, port_or_id), icmp)| {
                let family = if v6 { Family::V6 } else { Family::V4 };
                let text = |a: u128| crate::packet::address_of(family, a).to_string();
                let (a, b) = (text(a), text(b));
                let mut bytes = match kind {
                    6 => tcp((&a, p), (&b, q), icmp, &data[..data.len() / 2], &data),
                    17 => udp((&a, p), (&b, q), &data),
                    1 => crate::testing::icmp(&a, &b, icmp, 0, &[&[1, 2, 3, 4], &data[..]].concat()),
                    proto => ip(&a, &b, proto, &[&[9; 12], &data[..]].concat()),
                };
                bytes.extend([0xaa; 5]);
                let address = address.map(|a| if v6 { a } else { crate::packet::v4(a as u32) });
                let side = if is_src { Side::Src } else { Side::Dst };
                (bytes, Change { side, address, port_or_id })
            },
        )
    }

    proptest! {
        #[test]
        fn a_change_leaves_right_checksums_and_undoing_it_restores_the_packet((before, change) in any_packet()) {
            let packet = Packet::read(&before).unwrap();
            let old = match change.side {
                Side::Src => packet.src,
                Side::Dst => packet.dst,
            };
            let headers = Headers::of(&before, &packet);
            let id = headers.id(&before, change.side).map(|at| be16(&before, at));
            let mut bytes = before.clone();
            rewrite(&mut bytes, &packet, change);
            prop_assert!(is_right(&bytes));
            let now = Packet::read(&bytes).unwrap();
            let seen = match change.side {
                Side::Src => now.src,
                Side::Dst => now.dst,
            };
            prop_assert_eq!(seen, change.address.unwrap_or(old));
            prop_assert_eq!(&bytes[packet.len..], &before[packet.len..]);
            let undo = Change {
                side: change.side,
                address: change.address.map(|_| old),
                port_or_id: change.port_or_id.and(id),
            };
            rewrite(&mut bytes, &packet, undo);
            prop_assert_eq!(bytes, before);
        }
    }
}
