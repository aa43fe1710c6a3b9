//! Packets for tests.

use crate::wire::{protocol, tcp_flags};
use std::net::{IpAddr, SocketAddr};
use std::vec;
use std::vec::Vec;

/// A packet that is put together: Ethernet, IPv4 or IPv6, and TCP, UDP or ICMP, with right lengths and checksums.
#[derive(Clone, Debug)]
pub struct Frame {
    source: SocketAddr,
    destination: SocketAddr,
    protocol: u8,
    ttl: u8,
    dscp: u8,
    flags: u8,
    vlan: Option<u16>,
    payload: Vec<u8>,
}

impl Frame {
    /// A UDP packet: `Frame::udp("10.0.0.1:4000", "10.0.0.2:53")`.
    pub fn udp(source: &str, destination: &str) -> Frame {
        Frame::new(source, destination, protocol::UDP)
    }

    /// A TCP packet with the SYN flag alone.
    pub fn tcp(source: &str, destination: &str) -> Frame {
        Frame::new(source, destination, protocol::TCP)
    }

    /// An echo request; the ports are its identifier and sequence number.
    pub fn icmp(source: &str, destination: &str) -> Frame {
        let frame = Frame::new(source, destination, protocol::ICMP);
        let v6 = frame.source.is_ipv6();
        Frame { protocol: if v6 { protocol::ICMPV6 } else { protocol::ICMP }, ..frame }
    }

    fn new(source: &str, destination: &str, protocol: u8) -> Frame {
        let read = |text: &str| -> SocketAddr { text.parse().unwrap_or_else(|e| panic!("{text}: {e}")) };
        let (source, destination) = (read(source), read(destination));
        assert_eq!(source.is_ipv4(), destination.is_ipv4(), "both of one family");
        Frame { source, destination, protocol, ttl: 64, dscp: 0, flags: tcp_flags::SYN, vlan: None, payload: vec![] }
    }

    /// With this payload.
    pub fn payload(mut self, payload: &[u8]) -> Frame {
        self.payload = payload.to_vec();
        self
    }

    /// With this time to live.
    pub fn ttl(mut self, ttl: u8) -> Frame {
        self.ttl = ttl;
        self
    }

    /// With this differentiated services code point.
    pub fn dscp(mut self, dscp: u8) -> Frame {
        self.dscp = dscp;
        self
    }

    /// With these TCP flags.
    pub fn flags(mut self, flags: u8) -> Frame {
        self.flags = flags;
        self
    }

    /// With an 802.1Q tag.
    pub fn vlan(mut self, tci: u16) -> Frame {
        self.vlan = Some(tci);
        self
    }

    /// The packet from its Ethernet header on.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        if let Some(tci) = self.vlan {
            out.extend([0x81, 0]);
            out.extend(tci.to_be_bytes());
        }
        out.extend(if self.source.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] });
        out.extend(self.ip());
        out
    }

    /// The packet from its IP header on.
    pub fn ip(&self) -> Vec<u8> {
        let transport = self.transport();
        let mut out = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut head = vec![0x45, self.dscp << 2];
                head.extend((20 + transport.len() as u16).to_be_bytes());
                head.extend([0, 1, 0x40, 0, self.ttl, self.protocol, 0, 0]);
                head.extend(source.octets());
                head.extend(destination.octets());
                let sum = checksum(&[&head]);
                head[10..12].copy_from_slice(&sum.to_be_bytes());
                head
            }
            (source, destination) => {
                let class = self.dscp << 2;
                let mut head = vec![0x60 | class >> 4, class << 4, 0, 0];
                head.extend((transport.len() as u16).to_be_bytes());
                head.extend([self.protocol, self.ttl]);
                head.extend(octets(source));
                head.extend(octets(destination));
                head
            }
        };
        out.extend(transport);
        out
    }

    fn transport(&self) -> Vec<u8> {
        let (from, to) = (self.source.port().to_be_bytes(), self.destination.port().to_be_bytes());
        let (mut out, field) = match self.protocol {
            protocol::UDP => {
                let len = (8 + self.payload.len() as u16).to_be_bytes();
                (vec![from[0], from[1], to[0], to[1], len[0], len[1], 0, 0], 6)
            }
            protocol::TCP => {
                let mut head = vec![from[0], from[1], to[0], to[1], 0, 0, 0, 1, 0, 0, 0, 0];
                head.extend([0x50, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
                (head, 16)
            }
            kind => (vec![if kind == protocol::ICMP { 8 } else { 128 }, 0, 0, 0, from[0], from[1], to[0], to[1]], 2),
        };
        out.extend(&self.payload);
        let sum = match checksum(&[&self.pseudo_header(out.len()), &out]) {
            0 if self.protocol == protocol::UDP => 0xffff,
            sum => sum,
        };
        out[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        out
    }

    /// What the checksum covers besides (RFC 768, RFC 8200 section 8.1); nothing with ICMP over IPv4.
    fn pseudo_header(&self, len: usize) -> Vec<u8> {
        if self.protocol == protocol::ICMP {
            return vec![];
        }
        let mut out = octets(self.source.ip());
        out.extend(octets(self.destination.ip()));
        out.extend((len as u32).to_be_bytes());
        out.extend([0, 0, 0, self.protocol]);
        out
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// The Internet checksum (RFC 1071) of parts of which all but the last have an even length.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|p| p.chunks(2));
    let sum = words.map(|w| u32::from(w[0]) << 8 | u32::from(w.get(1).copied().unwrap_or(0))).sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

/// The payload of a DNS query for the address of a name: `dns_query("www.example.org")`.
pub fn dns_query(name: &str) -> Vec<u8> {
    let mut out = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.').filter(|l| !l.is_empty()) {
        out.push(u8::try_from(label.len()).unwrap_or_else(|_| panic!("{label} is too long")));
        out.extend(label.as_bytes());
    }
    out.extend([0, 0, 1, 0, 1]);
    out
}
