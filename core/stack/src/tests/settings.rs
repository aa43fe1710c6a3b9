//! What the nodes of net.inet change.

use super::frames::*;
use super::rig::*;
use crate::wire::ethernet::{BROADCAST, Ethernet};
use crate::wire::icmp::{ty, unreach};
use crate::wire::{ipv4, ipv4::proto};
use smpnet_abi::DropReason;

fn set(r: &Rig, node: &str, value: &str) {
    r.rt.sysctl().set(node, value).unwrap();
}

const LOOSE: u8 = 131;
const STRICT: u8 = 137;

/// A packet with a source route: to `first`, then to each of `rest`.
fn routed(kind: u8, first: &str, rest: &[&str]) -> Vec<u8> {
    let mut options = vec![kind, 3 + 4 * rest.len() as u8, 4];
    rest.iter().for_each(|a| options.extend_from_slice(&ip(a).to_be_bytes()));
    options.resize(options.len().next_multiple_of(4), 0);
    let plain = udp("10.0.1.2", first, 1, 2, b"by a way of its own");
    let mut p = plain[..20].to_vec();
    p.extend_from_slice(&options);
    p.extend_from_slice(&plain[20..]);
    p[0] = 0x40 | ((20 + options.len()) / 4) as u8;
    let total = (p.len() as u16).to_be_bytes();
    p[2..4].copy_from_slice(&total);
    ipv4::refresh_checksum(&mut p[..20 + options.len()]);
    p
}

#[test]
fn source_routes_are_refused_until_they_are_allowed() {
    let mut r = Rig::router();
    for kind in [LOOSE, STRICT] {
        // To us with a stop left, to us as the end, and by us.
        for (first, rest) in [("10.0.1.1", &["10.0.2.2"][..]), ("10.0.1.1", &[]), ("10.0.2.2", &["10.0.2.9"])] {
            r.host_a(&routed(kind, first, rest));
            let (_, icmp, _) = icmp_of(&r.take(0)[0]);
            assert_eq!((icmp.ty, icmp.code), (ty::UNREACHABLE, unreach::SOURCE_ROUTE));
            assert!(r.take(1).is_empty());
        }
    }
    assert_eq!(r.dropped(DropReason::IpBadOption), 6);
    r.balanced();
}

#[test]
fn an_allowed_source_route_is_followed_and_our_address_recorded() {
    let mut r = Rig::router();
    set(&r, "net.inet.ip.allowsrcrt", "1");
    for kind in [LOOSE, STRICT] {
        r.host_a(&routed(kind, "10.0.1.1", &["10.0.2.2"]));
        let out = r.take(1);
        let b = &out[0][14..];
        assert_eq!(b[16..20], ip("10.0.2.2").to_be_bytes(), "the stop is the destination");
        assert_eq!(b[20..23], [kind, 7, 8], "and behind us");
        assert_eq!(b[23..27], ip("10.0.2.1").to_be_bytes(), "our address on the way out stands in its place");
        assert_eq!(b[8], 63);
        assert!(crate::wire::checksum::checksum(&b[..28]) == 0, "the header checksum holds");
        // At its end it is for us.
        r.host_a(&routed(kind, "10.0.1.1", &[]));
        let (_, icmp, _) = icmp_of(&r.take(0)[0]);
        assert_eq!((icmp.ty, icmp.code), (ty::UNREACHABLE, unreach::PORT));
    }
    r.host_a(&routed(LOOSE, "10.0.2.2", &["10.0.2.9"]));
    assert_eq!(r.take(1).len(), 1, "a loose one may pass by");
    r.route("172.16.0.0/16", "10.0.2.2");
    for (kind, first, rest) in [
        (STRICT, "10.0.2.2", "10.0.2.9"),
        (STRICT, "10.0.1.1", "172.16.0.1"),
        (LOOSE, "10.0.1.1", "127.0.0.1"),
        (LOOSE, "10.0.1.1", "198.51.100.1"),
    ] {
        r.host_a(&routed(kind, first, &[rest]));
        let (_, icmp, _) = icmp_of(&r.take(0)[0]);
        assert_eq!((icmp.ty, icmp.code), (ty::UNREACHABLE, unreach::SOURCE_ROUTE), "{kind} {first} {rest}");
        assert!(r.take(1).is_empty());
    }
    set(&r, "net.inet.ip.forwsrcrt", "0");
    r.host_a(&routed(LOOSE, "10.0.1.1", &["10.0.2.2"]));
    assert!(r.take(1).is_empty());
    assert_eq!(r.dropped(DropReason::IpNoForward), 1);
    r.balanced();
}

#[test]
fn source_routes_with_bent_pointers_are_parameter_problems_or_at_their_end() {
    let mut r = Rig::router();
    set(&r, "net.inet.ip.allowsrcrt", "1");
    for pointer in 0..=255u8 {
        for first in ["10.0.1.1", "10.0.2.2"] {
            let mut p = routed(LOOSE, first, &["10.0.2.2", "10.0.1.2"]);
            p[22] = pointer;
            ipv4::refresh_checksum(&mut p[..32]);
            r.host_a(&p);
            let out = [r.take(0), r.take(1)].concat();
            if pointer < 4 {
                assert_eq!(icmp_of(&out[0]).1.ty, ty::PARAM_PROBLEM, "{pointer}");
            }
        }
    }
    r.balanced();
}

#[test]
fn directed_broadcasts_are_forwarded_only_when_wanted() {
    let mut r = Rig::router();
    let p = udp("10.0.1.2", "10.0.2.255", 1, 9, b"wake up");
    r.host_a(&p);
    assert!(r.take(1).is_empty());
    assert_eq!(r.dropped(DropReason::IpBroadcast), 1);
    set(&r, "net.inet.ip.directed-broadcast", "1");
    for _ in 0..2 {
        r.host_a(&p);
        let out = r.take(1);
        assert_eq!(Ethernet::parse(&out[0]).unwrap().dst, BROADCAST);
        assert_eq!(ip_of(&out[0]).0.ttl, 63);
    }
    // One that came as a broadcast is not multiplied.
    r.send(0, ip_frame(BROADCAST, mac(HOST_A), &p));
    assert!(r.take(1).is_empty());
    r.balanced();
}

#[test]
fn echoes_to_groups_are_answered_only_when_wanted() {
    let mut r = Rig::router();
    let ask = || ip_frame(BROADCAST, mac(HOST_A), &echo("10.0.1.2", "10.0.1.255", 7, b"anybody"));
    r.send(0, ask());
    assert!(r.take(0).is_empty());
    set(&r, "net.inet.icmp.bmcastecho", "1");
    r.send(0, ask());
    let out = r.take(0);
    let (h, icmp, body) = icmp_of(&out[0]);
    assert_eq!((h.src, h.dst, icmp.ty), (ip("10.0.1.1"), ip("10.0.1.2"), ty::ECHO_REPLY));
    assert_eq!(body, b"anybody");
    assert_eq!(Ethernet::parse(&out[0]).unwrap().dst, mac(HOST_A), "to the one that asked alone");
    r.balanced();
}

#[test]
fn errors_quote_as_much_as_is_wanted() {
    let mut r = Rig::router();
    for (bytes, quoted) in [("548", 228), ("8", 28), ("100", 120)] {
        set(&r, "net.inet.icmp.returndatabytes", bytes);
        r.host_a(&packet(header("10.0.1.2", "10.0.1.1", 89, 208), &[7; 208]));
        let (h, icmp, body) = icmp_of(&r.take(0)[0]);
        assert_eq!((icmp.code, h.proto), (unreach::PROTOCOL, proto::ICMP));
        assert_eq!(body.len(), quoted, "{bytes}");
    }
}
