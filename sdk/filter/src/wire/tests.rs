use super::*;
use proptest::prelude::*;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::vec::Vec;

/// 10.0.0.1 -> 10.0.0.2, UDP 5353 -> 53, DF, TTL 64, DSCP 46, one option word.
const UDP_OVER_IPV4: &[u8] = &[
    0x46, 0xb8, 0, 36, 0x12, 0x34, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 1, 1, 1, 1, // IPv4
    0x14, 0xe9, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4, // UDP
];

#[test]
fn an_ipv4_header_reads_as_it_was_written_and_padding_is_left_out() {
    let mut bytes = UDP_OVER_IPV4.to_vec();
    bytes.extend([0; 10]);
    let ip = Ipv4::parse(&bytes).unwrap();
    assert_eq!((ip.header_len(), ip.options(), ip.total_len()), (24, &[1u8; 4][..], 36));
    assert_eq!((ip.dscp(), ip.ecn(), ip.ttl(), ip.protocol(), ip.id()), (46, 0, 64, protocol::UDP, 0x1234));
    assert_eq!((ip.source(), ip.destination()), (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)));
    assert!(ip.dont_fragment() && !ip.is_fragment());
    let udp = Udp::parse(ip.transport().unwrap()).unwrap();
    assert_eq!((udp.source_port(), udp.destination_port(), udp.payload()), (5353, 53, &[1u8, 2, 3, 4][..]));
}

#[test]
fn headers_that_contradict_themselves_are_none() {
    let with = |at: usize, byte: u8| {
        let mut bytes = UDP_OVER_IPV4.to_vec();
        bytes[at] = byte;
        bytes
    };
    assert!(Ipv4::parse(&with(0, 0x65)).is_none(), "version 6");
    assert!(Ipv4::parse(&with(0, 0x44)).is_none(), "a header of 16 bytes");
    assert!(Ipv4::parse(&with(0, 0x4f)).is_none(), "a header longer than the packet");
    assert!(Ipv4::parse(&with(3, 20)).is_none(), "a packet shorter than its header");
    assert!(Ipv4::parse(&UDP_OVER_IPV4[..23]).is_none(), "a header cut off");
    assert!(Udp::parse(&[0, 1, 0, 2, 0, 7, 0, 0]).is_none(), "UDP of 7 bytes");
    assert!(Tcp::parse(&[0; 20]).is_none(), "TCP with a header of 0 bytes");
}

#[test]
fn a_later_fragment_has_no_transport_header() {
    let mut bytes = UDP_OVER_IPV4.to_vec();
    (bytes[6], bytes[7]) = (0x20, 3);
    let ip = Ip::parse(&bytes).unwrap();
    assert!(ip.is_fragment() && ip.transport().is_none());
}

#[test]
fn tags_are_passed_over_and_the_inner_one_told() {
    let mut frame = std::vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xa8, 0, 5, 0x81, 0, 0x20, 7, 8, 0];
    frame.extend(UDP_OVER_IPV4);
    let e = Ethernet::parse(&frame).unwrap();
    assert_eq!((e.ether_type(), e.tag(), e.header_len()), (ether_type::IPV4, Some(0x2007), 22));
    assert_eq!((e.destination()[5], e.source()[5]), (1, 2));
    assert!(Ipv4::parse(e.payload()).is_some());
    assert!(Ethernet::parse(&frame[..20]).is_none(), "a tag without its type");
}

#[test]
fn an_arp_request_is_read() {
    let mut arp = std::vec![0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1];
    arp.extend([0, 0, 0, 0, 0, 0, 10, 0, 0, 2]);
    let a = Arp::parse(&arp).unwrap();
    assert_eq!((a.operation(), a.sender(), a.target()), (1, Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)));
    assert_eq!((a.sender_mac(), a.target_mac()), ([2, 0, 0, 0, 0, 1], [0; 6]));
    arp[5] = 16;
    assert!(Arp::parse(&arp).is_none());
}

fn ipv6(next: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = std::vec![0x60, 0, 0, 0, 0, rest.len() as u8, next, 64];
    bytes.extend(Ipv6Addr::LOCALHOST.octets());
    bytes.extend(Ipv6Addr::UNSPECIFIED.octets());
    bytes.extend(rest);
    bytes
}

#[test]
fn extension_headers_of_ipv6_are_passed_over() {
    // Hop-by-hop of 8, routing of 16, authentication of 16 bytes, then a fragment header that is alone, then UDP.
    let mut rest = Vec::new();
    rest.extend([43, 0, 0, 0, 0, 0, 0, 0]);
    rest.extend([51, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    rest.extend([44, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    rest.extend([17, 0, 0, 0, 0, 0, 0, 9]);
    rest.extend([0, 1, 0, 2, 0, 8, 0, 0]);
    let bytes = ipv6(0, &rest);
    let ip = Ipv6::parse(&bytes).unwrap();
    assert_eq!((ip.next_header(), ip.protocol(), ip.header_len()), (0, 17, 88));
    assert!(!ip.is_fragment());
    assert_eq!(Udp::parse(ip.transport().unwrap()).unwrap().destination_port(), 2);
    assert_eq!((ip.source(), ip.destination()), (Ipv6Addr::LOCALHOST, Ipv6Addr::UNSPECIFIED));
}

#[test]
fn a_later_fragment_of_ipv6_has_no_transport_header_and_cut_extensions_are_not_passed() {
    let bytes = ipv6(44, &[60, 0, 0, 8, 0, 0, 0, 9, 1, 2, 3, 4, 5, 6, 7, 8]);
    let ip = Ip::parse(&bytes).unwrap();
    assert!(ip.is_fragment() && ip.transport().is_none());
    let Ip::V6(ip) = ip else { panic!("IPv6") };
    assert_eq!((ip.fragment_offset(), ip.protocol()), (8, 60), "what lies in the fragment is not read");
    let bytes = ipv6(60, &[17, 4, 0, 0, 0, 0, 0, 0]);
    assert_eq!(Ipv6::parse(&bytes).unwrap().protocol(), 60);
    let endless = ipv6(60, &[60u8, 0, 0, 0, 0, 0, 0, 0].repeat(20));
    assert_eq!(Ipv6::parse(&endless).unwrap().header_len(), 40 + 8 * 8);
}

#[test]
fn a_syn_opens_and_a_syn_ack_does_not() {
    let mut head = [0u8; 24];
    (head[12], head[13]) = (0x60, tcp_flags::SYN);
    assert!(Tcp::parse(&head).unwrap().is_open());
    assert_eq!((Tcp::parse(&head).unwrap().options().len(), Tcp::parse(&head).unwrap().header_len()), (4, 24));
    head[13] |= tcp_flags::ACK;
    assert!(!Tcp::parse(&head).unwrap().is_open());
}

fn message(names: &[&[u8]]) -> Vec<u8> {
    let mut m = std::vec![0, 7, 1, 0, 0, names.len() as u8, 0, 0, 0, 0, 0, 0];
    for name in names {
        m.extend(*name);
        m.extend([0, 1, 0, 1]);
    }
    m
}

fn names(message: &[u8]) -> Vec<Result<std::string::String, DnsError>> {
    let text = |q: Question| std::string::String::from_utf8_lossy(q.name.as_bytes()).into_owned();
    Dns::parse(message).unwrap().questions().map(|q| q.map(text)).collect()
}

#[test]
fn names_are_folded_and_pointers_followed_backwards() {
    let m = message(&[b"\x03WwW\x07Example\x03oRg\x00", b"\x04mail\xc0\x10", b"\xc0\x21"]);
    let d = Dns::parse(&m).unwrap();
    assert!(d.is_query() && d.opcode() == 0 && d.rcode() == 0 && d.id() == 7 && d.question_count() == 3);
    assert_eq!(names(&m), [Ok("www.example.org".into()), Ok("mail.example.org".into()), Ok("mail.example.org".into())]);
    let name = d.questions().next().unwrap().unwrap().name;
    assert_eq!(name.labels(), 3);
    let suffixes: Vec<&[u8]> = name.suffixes(2).collect();
    assert_eq!(suffixes, [&b"org"[..], b"example.org"]);
    assert_eq!(Name::parse(&message(&[b"\0"]), 12).unwrap().0.suffixes(9).count(), 0, "the root has no labels");
}

#[test]
fn names_that_lead_astray_are_errors() {
    assert_eq!(names(&message(&[b"\xc0\x0c"])), [Err(DnsError::Label)], "a pointer to itself");
    assert_eq!(names(&message(&[b"\xc0\x20"])), [Err(DnsError::Label)], "a pointer forward");
    assert_eq!(names(&message(&[b"\xc0\x02"])), [Err(DnsError::Label)], "a pointer into the header");
    assert_eq!(names(&message(&[b"\x03a.b\x00"])), [Err(DnsError::Dot)]);
    assert_eq!(names(&message(&[b"\x40a\x00"])), [Err(DnsError::Label)], "a reserved length");
    assert_eq!(names(&message(&[b"\x3fabc"])), [Err(DnsError::Cut)]);
    let long = [&[63u8][..], &[b'a'; 63]].concat().repeat(4);
    assert_eq!(names(&message(&[&[&long[..], &[0]].concat()])), [Err(DnsError::Long)]);
    let longest = [&long[..192], &[61], &[b'a'; 61], &[0]].concat();
    assert_eq!(names(&message(&[&longest]))[0].as_ref().unwrap().len(), 253);
}

/// Looks at everything that a view has.
fn read_all(bytes: &[u8]) {
    if let Some(e) = Ethernet::parse(bytes) {
        let _ = (e.destination(), e.source(), e.ether_type(), e.tag(), e.payload());
    }
    if let Some(a) = Arp::parse(bytes) {
        let _ = (a.operation(), a.sender(), a.target(), a.sender_mac(), a.target_mac());
    }
    if let Some(ip) = Ip::parse(bytes) {
        let _ = (ip.source(), ip.destination(), ip.protocol(), ip.ttl(), ip.is_fragment());
        let rest = ip.transport().unwrap_or(&[]);
        assert!(rest.len() < bytes.len());
        let _ = (Tcp::parse(rest), Udp::parse(rest), Icmp::parse(rest));
    }
    if let Some(t) = Tcp::parse(bytes) {
        assert!(t.options().len() + t.payload().len() <= bytes.len());
    }
    if let Some(d) = Dns::parse(bytes) {
        for q in d.questions().flatten() {
            let text = q.name.as_bytes();
            assert!(text.len() <= 253 && q.name.suffixes(200).all(|s| text.ends_with(s)));
            assert_eq!(q.name.suffixes(200).count(), q.name.labels());
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        read_all(&bytes);
    }

    #[test]
    fn bytes_that_look_like_ip_are_read_without_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 20..200),
        first in prop_oneof![Just(0x45u8), Just(0x60), 0x40u8..0x50],
        next in prop_oneof![Just(0u8), Just(43), Just(44), Just(51), Just(60), Just(6), Just(17)],
        total in 0u8..200,
    ) {
        (bytes[0], bytes[6], bytes[9]) = (first, next, next);
        (bytes[2], bytes[3]) = (0, total);
        read_all(&bytes);
    }

    #[test]
    fn names_of_random_labels_and_pointers_are_read_without_panic(
        rest in proptest::collection::vec(prop_oneof![0u8..5, Just(0xc0), any::<u8>()], 0..300),
        count in 0u8..12,
    ) {
        let mut bytes = std::vec![0, 0, 0, 0, 0, count, 0, 0, 0, 0, 0, 0];
        bytes.extend(rest);
        read_all(&bytes);
    }
}
