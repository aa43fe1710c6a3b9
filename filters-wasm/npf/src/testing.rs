//! Packets for tests, with right checksums, and random configurations. For tests of other crates too, by the feature `testing`.

#![allow(clippy::unwrap_used, reason = "for tests")]

pub mod random;

use crate::{
    checksum,
    packet::{Packet, address_of, number_of},
};
use std::net::IpAddr;

/// An address as [`Packet`] holds it.
pub fn address(text: &str) -> u128 {
    number_of(text.parse().unwrap())
}

/// An IP packet; both addresses of one family.
pub fn ip(src: &str, dst: &str, proto: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = match (src.parse().unwrap(), dst.parse().unwrap()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let len = (20 + body.len()) as u16;
            let mut head = vec![0x45, 0, 0, 0, 0x12, 0x34, 0, 0, 64, proto, 0, 0];
            head[2..4].copy_from_slice(&len.to_be_bytes());
            head.extend(src.octets());
            head.extend(dst.octets());
            head
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut head = vec![0x60, 0, 0, 0, 0, 0, proto, 63];
            head[4..6].copy_from_slice(&(body.len() as u16).to_be_bytes());
            head.extend(src.octets());
            head.extend(dst.octets());
            head
        }
        _ => panic!("{src} and {dst}"),
    };
    bytes.extend_from_slice(body);
    let packet = Packet::read(&bytes).unwrap();
    checksum::fill(&mut bytes, &packet);
    bytes
}

/// A UDP packet.
pub fn udp(src: (&str, u16), dst: (&str, u16), data: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for word in [src.1, dst.1, 8 + data.len() as u16, 0] {
        body.extend(word.to_be_bytes());
    }
    body.extend_from_slice(data);
    ip(src.0, dst.0, 17, &body)
}

/// A TCP packet with sequence number 1000, acknowledging 2000. Options are filled up to whole words with zeros.
pub fn tcp(src: (&str, u16), dst: (&str, u16), flags: u8, options: &[u8], data: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(src.1.to_be_bytes());
    body.extend(dst.1.to_be_bytes());
    body.extend(1000u32.to_be_bytes());
    body.extend(2000u32.to_be_bytes());
    let words = 5 + options.len().div_ceil(4);
    body.extend([(words as u8) << 4, flags, 0x20, 0, 0, 0, 0, 0]);
    body.extend_from_slice(options);
    body.resize(words * 4, 0);
    body.extend_from_slice(data);
    ip(src.0, dst.0, 6, &body)
}

/// An ICMP or ICMPv6 message, by the family of its addresses; `rest` begins with the second word.
pub fn icmp(src: &str, dst: &str, kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
    let mut body = vec![kind, code, 0, 0];
    body.extend_from_slice(rest);
    ip(src, dst, if src.contains(':') { 58 } else { 1 }, &body)
}

/// An ICMP error of that type about a packet.
pub fn error(src: &str, dst: &str, kind: u8, quote: &[u8]) -> Vec<u8> {
    icmp(src, dst, kind, 0, &[&[0; 4], quote].concat())
}

/// `address.port > address.port`, as far as the packet says.
pub fn ends(bytes: &[u8]) -> String {
    let packet = Packet::read(bytes).unwrap();
    let (src, dst) = (address_of(packet.family, packet.src), address_of(packet.family, packet.dst));
    match packet.ports() {
        Some(ports) => format!("{src}.{} > {dst}.{}", ports.src, ports.dst),
        None => format!("{src} > {dst}"),
    }
}

/// Whether the packet can be read and all its checksums are right.
pub fn is_right(bytes: &[u8]) -> bool {
    checksum::is_right(bytes, &Packet::read(bytes).unwrap())
}

/// Numbers that look random, the same ones for the same seed (splitmix64).
pub fn random(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
