//! ICMP errors about translated packets (RFC 5508, section 4.2): the packet that they quote is translated back, so that
//! who sent it knows it again.
//!
//! An error about a packet whose source was translated comes back from outside, and quotes the translated source: it
//! needs the quote's source changed, and its own destination. An error that an inner host sends about a packet whose
//! destination was translated goes out, and quotes the inner destination: the quote's destination is changed, and the
//! error's own source. In both, the quote's side is the other one of the error's.

use super::{headers::Headers, rewrite::Change};
use crate::{
    edit::Edit,
    packet::{IcmpClass, Packet, Upper},
};

/// The headers of the packet that an ICMP error quotes. None: this is no ICMP error, or the quote has not even addresses.
pub(super) fn headers_of_quote(bytes: &[u8], packet: &Packet) -> Option<Headers> {
    let Upper::Icmp(icmp) = packet.upper else { return None };
    let IcmpClass::Error(at) = icmp.class else { return None };
    Headers::read(packet.here(bytes), at, packet.family)
}

/// Changes the packet that an ICMP error quotes, with its IP header's and its upper protocol's checksum where those are
/// there (RFC 5508, REQ-4), and the error's checksum. None of the error's own addresses changes.
///
/// Gives whether there was such a packet. Otherwise nothing is changed.
pub fn rewrite_quote(bytes: &mut [u8], packet: &Packet, change: Change) -> bool {
    let Some(headers) = headers_of_quote(bytes, packet) else { return false };
    let mut edit = Edit::new(bytes, packet);
    headers.change(&mut edit, change);
    let all = edit.take_all();
    edit.fix(packet.header + 2, all);
    true
}

/// Translates an ICMP error: its quote by `change`, and its own other side to the same address.
///
/// That is what an error needs that comes to, or is from, the very host that is translated. For an error that a router on
/// the inner side sends, `own` gives the address that stands for the router, and None leaves the router's
/// (RFC 5508, REQ-5). Gives whether this was an error with a quote. Otherwise nothing is changed.
pub fn translate(bytes: &mut [u8], packet: &Packet, change: Change, own: Option<u128>) -> bool {
    if !rewrite_quote(bytes, packet, change) {
        return false;
    }
    if own.is_some() {
        super::rewrite(bytes, packet, Change { side: change.side.other(), address: own, port_or_id: None });
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{address as addr, ends, error, icmp, is_right, tcp, udp};
    use crate::{
        nat::{Side, quoted::quoted},
        packet::{Ports, be16},
    };
    use proptest::prelude::*;

    fn change(side: Side, to: &str, port: u16) -> Change {
        Change { side, address: Some(addr(to)), port_or_id: Some(port) }
    }

    fn translated(bytes: &[u8], change: Change) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        let packet = Packet::read(&bytes).unwrap();
        assert!(translate(&mut bytes, &packet, change, change.address));
        bytes
    }

    #[test]
    fn an_error_from_outside_reaches_the_inner_host_and_quotes_its_packet() {
        let inner = udp(("10.1.1.1", 15000), ("198.51.100.1", 53), b"question");
        let outer = udp(("192.0.2.1", 4242), ("198.51.100.1", 53), b"question");
        let bytes = translated(&error("203.0.113.9", "192.0.2.1", 11, &outer), change(Side::Src, "10.1.1.1", 15000));
        assert_eq!(ends(&bytes), "203.0.113.9 > 10.1.1.1");
        assert_eq!(&bytes[28..], inner);
        assert!(is_right(&bytes));
    }

    #[test]
    fn an_error_of_an_inner_host_goes_out_and_quotes_what_came_in() {
        let inner = tcp(("198.51.100.1", 999), ("10.1.1.2", 6000), 2, &[], b"");
        let outer = tcp(("198.51.100.1", 999), ("192.0.2.1", 8000), 2, &[], b"");
        let bytes = translated(&error("10.1.1.2", "198.51.100.1", 3, &inner), change(Side::Dst, "192.0.2.1", 8000));
        assert_eq!(ends(&bytes), "192.0.2.1 > 198.51.100.1");
        assert_eq!(&bytes[28..], outer);
        assert!(is_right(&bytes));
    }

    #[test]
    fn icmpv6_errors_are_translated_both_ways() {
        let inner = tcp(("fd00::1", 5), ("2001:db8::80", 80), 0x10, &[], &[1; 33]);
        let outer = tcp(("2001:db8:1::1", 7), ("2001:db8::80", 80), 0x10, &[], &[1; 33]);
        let bytes = translated(&error("2001:db8::f", "2001:db8:1::1", 2, &outer), change(Side::Src, "fd00::1", 5));
        assert_eq!(ends(&bytes), "2001:db8::f > fd00::1");
        assert_eq!(&bytes[48..], inner);
        assert!(is_right(&bytes));
        let reply = udp(("2001:db8::80", 80), ("fd00::1", 5), b"odd");
        let seen = udp(("2001:db8::80", 80), ("2001:db8:1::1", 7), b"odd");
        let bytes = translated(&error("fd00::1", "2001:db8::80", 1, &reply), change(Side::Dst, "2001:db8:1::1", 7));
        assert_eq!(ends(&bytes), "2001:db8:1::1 > 2001:db8::80");
        assert_eq!(&bytes[48..], seen);
        assert!(is_right(&bytes));
    }

    #[test]
    fn errors_about_pings_get_the_identifier_back() {
        for (inner, outer, kind, from, at) in
            [("10.1.1.1", "192.0.2.1", 8, "198.51.100.1", 28), ("fd00::1", "2001:db8:1::1", 128, "2001:db8::1", 48)]
        {
            let ping = |host, id: u16| icmp(host, from, kind, 0, &[&id.to_be_bytes()[..], &[0, 1, 7]].concat());
            let kind = if at == 28 { 11 } else { 3 };
            let bytes = error(from, outer, kind, &ping(outer, 4242));
            let packet = Packet::read(&bytes).unwrap();
            assert_eq!(quoted(&bytes, &packet).unwrap().ids, Some(Ports { src: 4242, dst: 4242 }));
            let bytes = translated(&bytes, change(Side::Src, inner, 7));
            assert_eq!(&bytes[at..], ping(inner, 7));
            assert!(is_right(&bytes));
        }
    }

    #[test]
    fn a_truncated_quote_is_changed_as_far_as_it_goes() {
        for (inner, outer, header) in [
            (tcp(("10.1.1.1", 5), ("198.51.100.1", 80), 2, &[], b""), "192.0.2.1", 20),
            (tcp(("fd00::1", 5), ("2001:db8::1", 80), 2, &[], b""), "2001:db8:1::1", 40),
        ] {
            let from = if header == 20 { "203.0.113.9" } else { "2001:db8::f" };
            let mut whole = inner.clone();
            super::super::rewrite(&mut whole, &Packet::read(&inner).unwrap(), change(Side::Src, outer, 4242));
            for len in header..inner.len() {
                let packet = Packet::read(&inner).unwrap();
                let to = Change { side: Side::Src, address: Some(packet.src), port_or_id: Some(5) };
                let bytes = translated(&error(from, outer, 1 + (header == 20) as u8 * 10, &whole[..len]), to);
                let quote = &bytes[header + 8..];
                // What is only half there, of the checksum too, is left as it was.
                let at = |at, n: usize| if len >= at + n { &inner } else { &whole };
                assert_eq!(&quote[..header], &inner[..header]);
                for (i, &byte) in quote.iter().enumerate().skip(header) {
                    let from = match i - header {
                        0 | 1 => at(header, 2),
                        16 | 17 => at(header + 16, 2),
                        _ => &inner,
                    };
                    assert_eq!(byte, from[i], "byte {i} of {len}");
                }
                assert!(is_right(&bytes), "{len}");
            }
            let bytes = error(from, outer, 1 + (header == 20) as u8 * 10, &whole[..header - 1]);
            let packet = Packet::read(&bytes).unwrap();
            assert_eq!(quoted(&bytes, &packet), None);
            let mut same = bytes.clone();
            assert!(!translate(&mut same, &packet, change(Side::Src, outer, 1), None));
            assert_eq!(same, bytes);
        }
    }

    #[test]
    fn a_quote_without_udp_checksum_and_a_quote_of_a_later_fragment_are_left_without() {
        let mut outer = udp(("192.0.2.1", 4242), ("198.51.100.1", 53), b"question");
        outer[26..28].fill(0);
        let bytes = translated(&error("203.0.113.9", "192.0.2.1", 11, &outer), change(Side::Src, "10.1.1.1", 15000));
        assert_eq!(be16(&bytes, 28 + 26), 0);
        assert!(is_right(&bytes));
        outer[7] = 3;
        let bytes = translated(&error("203.0.113.9", "192.0.2.1", 11, &outer), change(Side::Src, "10.1.1.1", 15000));
        assert_eq!(&bytes[48..], &outer[20..]);
        assert_eq!(&bytes[40..44], [10, 1, 1, 1]);
        assert!(is_right(&bytes));
    }

    #[test]
    fn a_router_keeps_its_address_where_none_stands_for_it() {
        let inner = udp(("198.51.100.1", 999), ("10.1.1.2", 6000), b"");
        let mut bytes = error("10.1.1.254", "198.51.100.1", 3, &inner);
        let packet = Packet::read(&bytes).unwrap();
        assert!(translate(&mut bytes, &packet, change(Side::Dst, "192.0.2.1", 8000), None));
        assert_eq!(ends(&bytes), "10.1.1.254 > 198.51.100.1");
        assert!(is_right(&bytes));
    }

    #[test]
    fn a_packet_that_is_no_error_quotes_nothing() {
        let bytes = icmp("10.1.1.1", "10.1.1.2", 8, 0, &[0; 40]);
        assert_eq!(quoted(&bytes, &Packet::read(&bytes).unwrap()), None);
        // And a quote of the other family is none.
        let bytes = error("10.1.1.1", "10.1.1.2", 3, &udp(("fd00::1", 1), ("fd00::2", 2), b""));
        assert_eq!(quoted(&bytes, &Packet::read(&bytes).unwrap()), None);
    }

    proptest! {
        #[test]
        fn any_quote_leaves_right_checksums_and_undoing_restores_it(
            v6 in any::<bool>(), proto in prop::sample::select(vec![1u8, 6, 17, 0, 43, 44, 60, 58, 132]),
            mut quote in prop::collection::vec(any::<u8>(), 0..120), to in any::<u128>(), id in any::<u16>(),
            is_src in any::<bool>(),
        ) {
            if let Some(first) = quote.first_mut() {
                *first = if v6 { 0x60 } else { 0x40 | (*first & 15) };
            }
            if let Some(byte) = quote.get_mut(if v6 { 6 } else { 9 }) {
                *byte = proto;
            }
            let side = if is_src { Side::Src } else { Side::Dst };
            let (a, b) = if v6 { ("fd00::1", "fd00::2") } else { ("10.0.0.1", "10.0.0.2") };
            let before = error(a, b, 3, &quote);
            let packet = Packet::read(&before).unwrap();
            let to = if v6 { to } else { crate::packet::v4(to as u32) };
            let mut bytes = before.clone();
            let change = Change { side, address: Some(to), port_or_id: Some(id) };
            if translate(&mut bytes, &packet, change, Some(to)) {
                prop_assert!(is_right(&bytes));
                let seen = quoted(&bytes, &packet).unwrap();
                prop_assert_eq!(if is_src { seen.src } else { seen.dst }, to);
            } else {
                prop_assert_eq!(bytes, before);
            }
        }
    }
}
