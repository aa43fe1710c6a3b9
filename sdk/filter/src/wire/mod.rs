//! Headers: checked views of the bytes that the filter sees.
//!
//! Every `parse` takes bytes from the first one of its header on and returns `None` where the header is not whole or
//! contradicts itself; after that no method panics, and what lies behind the header is what there is of it: a packet may be
//! longer than the window.

mod arp;
mod dns;
mod ethernet;
mod icmp;
mod ipv4;
mod ipv6;
mod tcp;
mod udp;

pub use arp::Arp;
pub use dns::{Dns, DnsError, Name, Question, Questions};
pub use ethernet::{Ethernet, ether_type};
pub use icmp::Icmp;
pub use ipv4::Ipv4;
pub use ipv6::Ipv6;
pub use tcp::{Tcp, tcp_flags};
pub use udp::Udp;

use core::net::IpAddr;

/// Numbers of protocols over IP.
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
}

/// An IPv4 or IPv6 header.
#[derive(Clone, Copy, Debug)]
pub enum Ip<'a> {
    /// IPv4.
    V4(Ipv4<'a>),
    /// IPv6.
    V6(Ipv6<'a>),
}

impl<'a> Ip<'a> {
    /// Reads either, by the version in the first byte.
    pub fn parse(bytes: &'a [u8]) -> Option<Ip<'a>> {
        match bytes.first()? >> 4 {
            4 => Ipv4::parse(bytes).map(Ip::V4),
            6 => Ipv6::parse(bytes).map(Ip::V6),
            _ => None,
        }
    }

    /// Source address.
    pub fn source(&self) -> IpAddr {
        match self {
            Ip::V4(ip) => ip.source().into(),
            Ip::V6(ip) => ip.source().into(),
        }
    }

    /// Destination address.
    pub fn destination(&self) -> IpAddr {
        match self {
            Ip::V4(ip) => ip.destination().into(),
            Ip::V6(ip) => ip.destination().into(),
        }
    }

    /// Time to live, or hop limit.
    pub fn ttl(&self) -> u8 {
        match self {
            Ip::V4(ip) => ip.ttl(),
            Ip::V6(ip) => ip.hop_limit(),
        }
    }

    /// Protocol of what the packet carries, behind all extension headers.
    pub fn protocol(&self) -> u8 {
        match self {
            Ip::V4(ip) => ip.protocol(),
            Ip::V6(ip) => ip.protocol(),
        }
    }

    /// Whether it is a part of a fragmented packet, the first or a later one.
    pub fn is_fragment(&self) -> bool {
        match self {
            Ip::V4(ip) => ip.is_fragment(),
            Ip::V6(ip) => ip.is_fragment(),
        }
    }

    /// The transport header and what follows, as far as it is seen; `None` in a later fragment, which has no such header.
    pub fn transport(&self) -> Option<&'a [u8]> {
        match self {
            Ip::V4(ip) => ip.transport(),
            Ip::V6(ip) => ip.transport(),
        }
    }
}

/// The 16-bit number in network order at `off`.
pub(crate) fn be16(bytes: &[u8], off: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(off..)?.first_chunk()?))
}

/// The 32-bit number in network order at `off`.
pub(crate) fn be32(bytes: &[u8], off: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(off..)?.first_chunk()?))
}

#[cfg(test)]
mod tests;
