//! Keys of packets, and of packets that ICMP errors quote.

use super::*;
use crate::state::tests::{icmp, ipv4, ipv6, tcp, udp};
use proptest::prelude::*;

const IN: Crossing = Crossing { interface: Some(3), direction: Direction::In };
const OUT: Crossing = Crossing { interface: Some(3), direction: Direction::Out };
const BOUND: Binding = Binding { interface: true, direction: true };
const FREE: Binding = Binding { interface: false, direction: false };

fn key(bytes: &[u8], at: Crossing, binding: Binding) -> Option<Key> {
    Key::of(&Packet::read(bytes).unwrap(), at, binding)
}

#[test]
fn what_comes_back_has_the_reverse_key() {
    let request = |id| icmp(8, id);
    let reply = |id| icmp(0, id);
    for (there, back) in [
        (ipv4(6, 1, 2, &tcp(1000, 80, 2, 0, 0)), ipv4(6, 2, 1, &tcp(80, 1000, 18, 0, 0))),
        (ipv4(17, 1, 2, &udp(1000, 53)), ipv4(17, 2, 1, &udp(53, 1000))),
        (ipv6(17, 1, 2, &udp(1000, 53)), ipv6(17, 2, 1, &udp(53, 1000))),
        (
            ipv4(132, 1, 2, &[3, 232, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0]),
            ipv4(132, 2, 1, &[0, 9, 3, 232, 0, 0, 0, 0, 0, 0, 0, 0]),
        ),
        (ipv4(1, 1, 2, &request(7)), ipv4(1, 2, 1, &reply(7))),
        (ipv6(58, 1, 2, &icmp(128, 7)), ipv6(58, 2, 1, &icmp(129, 7))),
        (ipv4(50, 1, 2, &[0; 8]), ipv4(50, 2, 1, &[9; 8])),
        (ipv4(51, 1, 2, &[0; 8]), ipv4(51, 2, 1, &[9; 8])),
        (ipv4(47, 1, 2, &[0; 8]), ipv4(47, 2, 1, &[0; 8])),
    ] {
        for binding in [BOUND, FREE] {
            let there = key(&there, OUT, binding).unwrap();
            assert_eq!(Some(there.reverse()), key(&back, IN, binding));
            assert_eq!(there.reverse().reverse(), there);
            assert_ne!(there, there.reverse());
        }
    }
}

#[test]
fn a_query_from_the_other_side_is_another_connection() {
    let there = key(&ipv4(1, 1, 2, &icmp(8, 7)), IN, FREE).unwrap();
    let back = key(&ipv4(1, 2, 1, &icmp(8, 7)), IN, FREE).unwrap();
    assert_ne!(there.reverse(), back);
    assert!(there.reverse().is_answer() && !back.is_answer());
}

#[test]
fn keys_are_bound_as_parameters_and_rules_say() {
    let packet = ipv4(17, 1, 2, &udp(1000, 53));
    let elsewhere = Crossing { interface: Some(4), ..IN };
    let at = |crossing, interface, direction| key(&packet, crossing, Binding { interface, direction }).unwrap();
    for (interface, direction) in [(true, true), (true, false), (false, true), (false, false)] {
        assert_eq!(at(IN, interface, direction) == at(elsewhere, interface, direction), !interface);
        assert_eq!(at(IN, interface, direction) == at(OUT, interface, direction), !direction);
        assert_eq!(at(IN, interface, direction).interface(), interface.then_some(3));
        assert_eq!(at(OUT, interface, direction).direction(), direction.then_some(Direction::Out));
    }
    let mut params = Params::default();
    assert_eq!(Binding::new(&params, Stateful::Interface), BOUND);
    assert_eq!(Binding::new(&params, Stateful::All), Binding { interface: false, direction: true });
    params.set(Param::StateKeyInterface, 0);
    params.set(Param::StateKeyDirection, 0);
    assert_eq!(Binding::new(&params, Stateful::Interface), FREE);
}

#[test]
fn an_ipv6_address_that_maps_ipv4_is_not_that_ipv4_address() {
    let mut mapped = ipv6(17, 1, 2, &udp(1000, 53));
    mapped[8..24].copy_from_slice(&v4(0x0a00_0001).to_be_bytes());
    mapped[24..40].copy_from_slice(&v4(0x0a00_0002).to_be_bytes());
    let (six, four) = (key(&mapped, IN, FREE).unwrap(), key(&ipv4(17, 1, 2, &udp(1000, 53)), IN, FREE).unwrap());
    assert_eq!((six.source(), six.destination(), six.ids()), (four.source(), four.destination(), four.ids()));
    assert_ne!(six, four);
}

#[test]
fn some_packets_have_no_key() {
    let mut later = ipv4(17, 1, 2, &udp(1000, 53));
    later[7] = 1;
    for bytes in [
        later,
        ipv4(1, 1, 2, &icmp(3, 0)),
        ipv4(1, 1, 2, &icmp(9, 0)),
        ipv6(58, 1, 2, &icmp(135, 0)),
        ipv4(89, 1, 2, &[0; 20]),
    ] {
        assert_eq!(key(&bytes, IN, FREE), None, "{bytes:x?}");
    }
}

#[test]
fn translation_changes_ports_or_the_one_identifier() {
    let of = |packet: &[u8]| key(packet, OUT, BOUND).unwrap();
    let udp = of(&ipv4(17, 1, 2, &udp(1000, 53)));
    let after = udp.with_source(99, 4000);
    assert_eq!((after.source(), after.destination(), after.ids()), (99, udp.destination(), (4000, 53)));
    assert_eq!(udp.with_destination(99, 4000).ids(), (1000, 4000));
    let ping = of(&ipv4(1, 1, 2, &icmp(8, 7)));
    assert_eq!(ping.with_source(99, 4000).ids(), (4000, 4000));
    assert_eq!(ping.with_source(99, 4000).reverse().ids(), (4000, 4000));
    assert_eq!(of(&ipv4(50, 1, 2, &[0; 8])).with_source(99, 4000).ids(), (0, 0));
}

#[test]
fn eight_bytes_of_the_quoted_packet_suffice() {
    for whole in [
        ipv4(6, 1, 2, &tcp(1000, 80, 16, 77, 500)),
        ipv4(17, 1, 2, &udp(1000, 53)),
        ipv6(6, 1, 2, &tcp(1000, 80, 16, 77, 500)),
        ipv4(1, 1, 2, &icmp(8, 7)),
        ipv4(1, 1, 2, &icmp(0, 7)),
        ipv6(58, 1, 2, &icmp(128, 7)),
        ipv4(50, 1, 2, &[0; 8]),
    ] {
        let packet = Packet::read(&whole).unwrap();
        let quoted = read_quoted(&whole[..packet.header + 8]).unwrap();
        assert_eq!(quoted.answer.reverse(), Key::of(&packet, IN, FREE).unwrap());
        assert_eq!(quoted.seq, (packet.proto == 6).then_some(77));
        if packet.proto != 50 {
            assert_eq!(read_quoted(&whole[..packet.header + 7]), None);
        }
    }
}

#[test]
fn quoted_extension_headers_are_skipped() {
    let mut body = vec![44, 0, 0, 0, 0, 0, 0, 0];
    body.extend([60, 0, 0, 1, 0, 0, 0, 5]);
    body.extend([17, 1]);
    body.extend([0; 14]);
    body.extend(udp(1000, 53));
    let packet = ipv6(0, 1, 2, &body);
    let expected = key(&ipv6(17, 1, 2, &udp(1000, 53)), IN, FREE).unwrap();
    assert_eq!(read_quoted(&packet).unwrap().answer.reverse(), expected);
    // A fragment behind the first.
    let mut later = packet.clone();
    later[51] = 8;
    assert_eq!(read_quoted(&later), None);
}

#[test]
fn nothing_is_known_of_some_quoted_packets() {
    let mut fragment = ipv4(17, 1, 2, &udp(1000, 53));
    fragment[7] = 1;
    for bytes in [fragment, ipv4(1, 1, 2, &icmp(3, 0)), ipv4(58, 1, 2, &icmp(128, 0)), ipv4(89, 1, 2, &[0; 8]), vec![]]
    {
        assert_eq!(read_quoted(&bytes), None, "{bytes:x?}");
    }
}

proptest! {
    #[test]
    fn quoted_bytes_never_make_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..120), six in any::<bool>()) {
        if let Some(first) = bytes.first_mut() {
            *first = if six { 0x60 } else { 0x40 | *first & 15 };
        }
        read_quoted(&bytes);
    }

    #[test]
    fn what_ids_and_addresses_a_key_was_made_of_it_tells(
        src in any::<(u128, u16)>(), dst in any::<(u128, u16)>(), interface in any::<Option<u16>>()
    ) {
        let interface = interface.filter(|i| *i < INTERFACES_MAX);
        let key = Key::new(Family::V6, 17, src, dst).bound(Crossing { interface, direction: Direction::Out }, BOUND);
        prop_assert_eq!(((key.source(), key.ids().0), (key.destination(), key.ids().1)), (src, dst));
        prop_assert_eq!((key.interface(), key.direction(), key.proto()), (interface, Some(Direction::Out), 17));
    }
}
