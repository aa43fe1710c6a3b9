//! Frames made by hand, for what no ordinary host would send.

use std::net::Ipv4Addr;

use crate::link::Mac;
use crate::sock::checksum;

/// An Ethernet frame, padded to the 60 bytes that Ethernet wants.
pub fn ether(dst: Mac, src: Mac, ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut f = [&dst[..], &src, &ether_type.to_be_bytes(), payload].concat();
    f.resize(f.len().max(60), 0);
    f
}

/// The same with an 802.1Q tag of that id.
pub fn tagged(dst: Mac, src: Mac, id: u16, ether_type: u16, payload: &[u8]) -> Vec<u8> {
    ether(dst, src, 0x8100, &[&id.to_be_bytes(), &ether_type.to_be_bytes(), payload].concat())
}

/// An ARP message for IPv4 over Ethernet: `op` 1 asks, 2 answers.
pub fn arp(op: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut a = vec![0, 1, 8, 0, 6, 4];
    a.extend(op.to_be_bytes());
    a.extend(sender.0);
    a.extend(sender.1.octets());
    a.extend(target.0);
    a.extend(target.1.octets());
    a
}

/// An IPv4 packet with `options` (a multiple of four bytes) and a right checksum.
pub fn ip(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, ttl: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let header = 20 + options.len();
    let mut p = vec![0x40 | (header / 4) as u8, 0];
    p.extend(((header + payload.len()) as u16).to_be_bytes());
    p.extend([0x12, 0x34, 0, 0, ttl, protocol, 0, 0]);
    p.extend(src.octets());
    p.extend(dst.octets());
    p.extend(options);
    let sum = checksum(&p);
    p[10..12].copy_from_slice(&sum.to_be_bytes());
    p.extend(payload);
    p
}

/// The same packet with this TOS byte (DSCP and ECN) and a right checksum.
pub fn with_tos(mut packet: Vec<u8>, tos: u8) -> Vec<u8> {
    let header = usize::from(packet[0] & 15) * 4;
    packet[1] = tos;
    packet[10..12].fill(0);
    let sum = checksum(&packet[..header]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// A UDP datagram without a checksum.
pub fn udp(src: u16, dst: u16, payload: &[u8]) -> Vec<u8> {
    let len = (8 + payload.len()) as u16;
    [&src.to_be_bytes()[..], &dst.to_be_bytes(), &len.to_be_bytes(), &[0, 0], payload].concat()
}

/// An ICMP error with the four bytes behind its checksum and what it quotes.
pub fn icmp_error(kind: u8, code: u8, rest: u32, quote: &[u8]) -> Vec<u8> {
    let mut p = vec![kind, code, 0, 0];
    p.extend_from_slice(&rest.to_be_bytes());
    p.extend_from_slice(quote);
    let sum = checksum(&p);
    p[2..4].copy_from_slice(&sum.to_be_bytes());
    p
}

/// An ICMP echo request.
pub fn echo(id: u16, seq: u16, payload: &[u8]) -> Vec<u8> {
    let mut p = [&[8, 0, 0, 0][..], &id.to_be_bytes(), &seq.to_be_bytes(), payload].concat();
    let sum = checksum(&p);
    p[2..4].copy_from_slice(&sum.to_be_bytes());
    p
}

#[cfg(test)]
mod tests {
    use super::{echo, ether, ip};
    use crate::sock::{checksum, ipv4};

    #[test]
    fn crafted_packets_have_right_lengths_and_checksums() {
        let p = ip([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 1, 64, &[1, 1, 1, 0], &echo(1, 2, b"abc"));
        let view = ipv4(&p).unwrap();
        assert_eq!((view.protocol, view.payload.len(), checksum(&p[..24]), checksum(view.payload)), (1, 11, 0, 0));
        assert_eq!(ether([1; 6], [2; 6], 0x800, &[]).len(), 60);
    }
}
