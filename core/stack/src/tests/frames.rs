//! Frames, byte by byte.

use crate::types::parse_mac;
use crate::wire::arp::{Arp, REPLY, REQUEST};
use crate::wire::checksum::{Sum, checksum};
use crate::wire::ethernet::{BROADCAST, Ethernet, TYPE_ARP, TYPE_IPV4};
use crate::wire::icmp::{Icmp, ty};
use crate::wire::ipv4::{Ipv4, proto};
use crate::wire::udp::Udp;
use smpnet_abi::MacAddr;
use std::net::Ipv4Addr;

pub fn mac(s: &str) -> MacAddr {
    parse_mac(s).unwrap()
}

pub fn ip(s: &str) -> u32 {
    s.parse::<Ipv4Addr>().unwrap().to_bits()
}

/// An IPv4 header to be bent by tests.
pub fn header(src: &str, dst: &str, proto: u8, payload: usize) -> Ipv4 {
    Ipv4 {
        header_len: 20,
        tos: 0,
        total_len: (20 + payload) as u16,
        id: 0x1234,
        frag: 0,
        ttl: 64,
        proto,
        checksum: 0,
        src: ip(src),
        dst: ip(dst),
    }
}

pub fn packet(h: Ipv4, payload: &[u8]) -> Vec<u8> {
    let mut b = vec![0; h.header_len];
    b.extend_from_slice(payload);
    h.emit(&mut b);
    b
}

pub fn udp_payload(src: &str, dst: &str, sport: u16, dport: u16, data: &[u8]) -> Vec<u8> {
    let mut b = vec![0; 8];
    b.extend_from_slice(data);
    let len = b.len() as u16;
    Udp { src: sport, dst: dport, len, checksum: 0 }.emit(&mut b);
    let sum = Sum::new().pseudo(ip(src), ip(dst), proto::UDP, u32::from(len)).add(&b).finish();
    b[6..8].copy_from_slice(&sum.to_be_bytes());
    b
}

pub fn udp(src: &str, dst: &str, sport: u16, dport: u16, data: &[u8]) -> Vec<u8> {
    let payload = udp_payload(src, dst, sport, dport, data);
    packet(header(src, dst, proto::UDP, payload.len()), &payload)
}

pub fn echo(src: &str, dst: &str, seq: u16, data: &[u8]) -> Vec<u8> {
    let mut b = vec![0; 8];
    b.extend_from_slice(data);
    let (h, p) = b.split_at_mut(8);
    Icmp { ty: ty::ECHO, code: 0, checksum: 0, rest: 0xbeef_0000 | u32::from(seq) }.emit(h, p);
    packet(header(src, dst, proto::ICMP, b.len()), &b)
}

pub fn frame(dst: MacAddr, src: MacAddr, ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut b = Ethernet { dst, src, ether_type }.bytes().to_vec();
    b.extend_from_slice(payload);
    while b.len() < 60 {
        b.push(0);
    }
    b
}

pub fn ip_frame(dst: MacAddr, src: MacAddr, packet: &[u8]) -> Vec<u8> {
    frame(dst, src, TYPE_IPV4, packet)
}

pub fn arp_request(sha: MacAddr, spa: &str, tpa: &str) -> Vec<u8> {
    let mut b = [0; 28];
    Arp { op: REQUEST, sha, spa: ip(spa), tha: MacAddr::default(), tpa: ip(tpa) }.emit(&mut b);
    frame(BROADCAST, sha, TYPE_ARP, &b)
}

pub fn arp_reply(to: MacAddr, sha: MacAddr, spa: &str, tpa: &str) -> Vec<u8> {
    let mut b = [0; 28];
    Arp { op: REPLY, sha, spa: ip(spa), tha: to, tpa: ip(tpa) }.emit(&mut b);
    frame(to, sha, TYPE_ARP, &b)
}

/// The IP packet in a frame, checked: version, header checksum, length; padding taken off.
pub fn ip_of(frame: &[u8]) -> (Ipv4, Vec<u8>) {
    let e = Ethernet::parse(frame).unwrap();
    assert_eq!(e.ether_type, TYPE_IPV4);
    ip_of_packet(&frame[14..])
}

pub fn ip_of_packet(b: &[u8]) -> (Ipv4, Vec<u8>) {
    let h = Ipv4::parse(b).expect("an IPv4 packet");
    assert_eq!(checksum(&b[..h.header_len]), 0, "header checksum");
    (h, b[h.header_len..usize::from(h.total_len)].to_vec())
}

/// The ICMP message in a frame, checked: header, type, code, the rest, what follows.
pub fn icmp_of(frame: &[u8]) -> (Ipv4, Icmp, Vec<u8>) {
    let (h, body) = ip_of(frame);
    assert_eq!(h.proto, proto::ICMP);
    assert_eq!(checksum(&body), 0, "ICMP checksum");
    (h, Icmp::parse(&body).unwrap(), body[8..].to_vec())
}

pub fn arp_of(frame: &[u8]) -> Option<Arp> {
    let e = Ethernet::parse(frame)?;
    (e.ether_type == TYPE_ARP).then(|| Arp::parse(&frame[14..]).expect("a good ARP packet"))
}
