//! The rows of the reference's NAT table (section 2.2) that need no connection to be told, on packets with and without a
//! UDP checksum. Rows 3 to 5 are of packets that nothing translates. Rows 16 and 17 are `npt66`'s.

use super::{
    Change, Side, choose,
    ports::{PortMap, Translated},
    rewrite,
};
use crate::{
    config::{Family, PortRange, Prefix},
    packet::{Packet, be16, proto},
    testing::{address, ends, is_right, random, udp},
};

/// Translates a packet, once with a checksum and once without, and tells what became of it.
fn row(src: (&str, u16), dst: (&str, u16), change: Change) -> String {
    let mut with = udp(src, dst, b"payload");
    let mut without = with.clone();
    without[26..28].fill(0);
    for bytes in [&mut with, &mut without] {
        let packet = Packet::read(bytes).unwrap();
        rewrite(bytes, &packet, change);
        assert!(is_right(bytes));
    }
    assert_eq!(be16(&without, 26), 0);
    assert_eq!(ends(&with), ends(&without));
    ends(&with)
}

fn change(side: Side, to: &str, port: Option<u16>) -> Change {
    Change { side, address: Some(address(to)), port_or_id: port }
}

#[test]
fn rows_1_2_and_6_traditional_napt() {
    let of = Translated { address: address("192.0.2.1"), proto: proto::UDP };
    let range = PortRange { first: 1024, last: 65535 };
    let port = PortMap::new().get(of, range, &mut random(1)).unwrap();
    assert!(range.contains(port));
    let out = row(("10.1.1.1", 15000), ("192.0.2.101", 7000), change(Side::Src, "192.0.2.1", Some(port)));
    assert_eq!(out, format!("192.0.2.1.{port} > 192.0.2.101.7000"));
    let back = row(("192.0.2.101", 7000), ("192.0.2.1", port), change(Side::Dst, "10.1.1.1", Some(15000)));
    assert_eq!(back, "192.0.2.101.7000 > 10.1.1.1.15000");
}

#[test]
fn rows_7_and_8_redirect() {
    let to = row(("192.0.2.102", 16000), ("192.0.2.1", 8000), change(Side::Dst, "10.1.1.1", Some(6000)));
    assert_eq!(to, "192.0.2.102.16000 > 10.1.1.1.6000");
    let back = row(("10.1.1.1", 6000), ("192.0.2.102", 16000), change(Side::Src, "192.0.2.1", Some(8000)));
    assert_eq!(back, "192.0.2.1.8000 > 192.0.2.102.16000");
}

#[test]
fn rows_9_to_14_both_directions() {
    for (inner, outer, ports) in [
        ("10.1.1.2", "192.0.2.2", (9000, 17000)),
        ("10.1.1.2", "192.0.2.2", (18000, 9000)),
        ("10.1.1.3", "192.0.2.3", (19000, 10000)),
    ] {
        let peer = ("192.0.2.103", ports.1);
        let out = row((inner, ports.0), peer, change(Side::Src, outer, None));
        assert_eq!(out, format!("{outer}.{} > 192.0.2.103.{}", ports.0, ports.1));
        let back = row(peer, (outer, ports.0), change(Side::Dst, inner, None));
        assert_eq!(back, format!("192.0.2.103.{} > {inner}.{}", ports.1, ports.0));
    }
}

#[test]
fn row_15_netmap() {
    let prefix = Prefix::new("10.255.0.0".parse().unwrap(), 16).unwrap();
    let to = choose::netmap(prefix, Family::V4, address("10.100.7.126"));
    let change = Change { side: Side::Src, address: to, port_or_id: None };
    let out = row(("10.100.7.126", 12345), ("192.0.2.104", 12345), change);
    assert_eq!(out, "10.255.7.126.12345 > 192.0.2.104.12345");
}
