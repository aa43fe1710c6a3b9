//! A packet of a burst, as the filter sees it.

use crate::wire::{Arp, Ethernet, Icmp, Ip, Ipv4, Ipv6, Tcp, Udp, ether_type, protocol};
use smpnet_filter_abi as abi;

/// What the packets of a burst begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// An Ethernet header.
    Ether,
    /// An IPv4 header.
    Inet,
    /// An IPv6 header.
    Inet6,
}

/// A packet, for reading. It is a small copy; what becomes of the packet is told to the [`Burst`](crate::Burst).
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    pub(crate) place: u8,
    pub(crate) layer: Layer,
    pub(crate) info: &'a abi::Packet,
    pub(crate) bytes: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Its place in the burst, from 0 on.
    pub fn place(&self) -> usize {
        usize::from(self.place)
    }

    /// Its first bytes: all of them, or as many as the window takes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// How many bytes it really has.
    pub fn wire_len(&self) -> u32 {
        self.info.wire_len
    }

    /// Whether it is longer than the window.
    pub fn is_cut(&self) -> bool {
        self.has(abi::packet_flags::CUT)
    }

    /// Whether it came as a link-level broadcast.
    pub fn is_broadcast(&self) -> bool {
        self.has(abi::packet_flags::BROADCAST)
    }

    /// Whether it came as a link-level multicast.
    pub fn is_multicast(&self) -> bool {
        self.has(abi::packet_flags::MULTICAST)
    }

    /// Whether this machine made it; otherwise it is on its way through, or to us.
    pub fn is_local(&self) -> bool {
        self.has(abi::packet_flags::LOCAL)
    }

    /// Whether it stands for several packets, into which it will be cut when it leaves.
    pub fn is_gso(&self) -> bool {
        self.has(abi::packet_flags::GSO)
    }

    /// The hash of its flow, the same in both directions.
    pub fn flow_hash(&self) -> Option<u32> {
        self.has(abi::packet_flags::HASH).then_some(self.info.flow_hash)
    }

    /// Its mark, 0 unless somebody set one.
    pub fn mark(&self) -> u32 {
        self.info.mark
    }

    /// The interface that it came through; 0 for none.
    pub fn rcvif(&self) -> u32 {
        self.info.rcvif
    }

    /// Tag control information of its 802.1Q tag, whether that stands in the bytes or was taken off by the NIC.
    pub fn vlan(&self) -> Option<u16> {
        if self.has(abi::packet_flags::VLAN) {
            return Some(self.info.vlan_tci);
        }
        self.ethernet()?.tag()
    }

    fn has(&self, flag: u16) -> bool {
        self.info.flags & flag != 0
    }

    /// The Ethernet header, at [`Layer::Ether`].
    pub fn ethernet(&self) -> Option<Ethernet<'a>> {
        if self.layer != Layer::Ether { None } else { Ethernet::parse(self.bytes) }
    }

    /// EtherType, and where its header begins in [`Packet::bytes`].
    #[inline(always)]
    fn network(&self) -> Option<(u16, usize)> {
        match self.layer {
            Layer::Inet => Some((ether_type::IPV4, 0)),
            Layer::Inet6 => Some((ether_type::IPV6, 0)),
            // Tunnels and tags that smpnet has found already.
            Layer::Ether if self.info.l3_off != abi::NO_OFFSET && self.info.ether_type != 0 => {
                Some((self.info.ether_type, usize::from(self.info.l3_off)))
            }
            Layer::Ether => self.ethernet().map(|e| (e.ether_type(), e.header_len())),
        }
    }

    /// Where the IPv4 or IPv6 header begins in [`Packet::bytes`].
    pub fn ip_offset(&self) -> Option<usize> {
        let (kind, off) = self.network()?;
        matches!(kind, ether_type::IPV4 | ether_type::IPV6).then_some(off)
    }

    /// Where the transport header begins in [`Packet::bytes`].
    pub fn transport_offset(&self) -> Option<usize> {
        let off = self.ip_offset()?;
        Some(off + self.ip().filter(|ip| ip.transport().is_some()).map(|ip| ip_header_len(&ip))?)
    }

    fn rest(&self, wanted: u16) -> Option<&'a [u8]> {
        let (kind, off) = self.network()?;
        if kind == wanted { self.bytes.get(off..) } else { None }
    }

    /// The ARP packet, if it is one.
    pub fn arp(&self) -> Option<Arp<'a>> {
        Arp::parse(self.rest(ether_type::ARP)?)
    }

    /// The IPv4 header, if it is an IPv4 packet.
    pub fn ipv4(&self) -> Option<Ipv4<'a>> {
        Ipv4::parse(self.rest(ether_type::IPV4)?)
    }

    /// The IPv6 header, if it is an IPv6 packet.
    pub fn ipv6(&self) -> Option<Ipv6<'a>> {
        Ipv6::parse(self.rest(ether_type::IPV6)?)
    }

    /// The IPv4 or IPv6 header.
    pub fn ip(&self) -> Option<Ip<'a>> {
        match self.network()? {
            (ether_type::IPV4, _) => self.ipv4().map(Ip::V4),
            (ether_type::IPV6, _) => self.ipv6().map(Ip::V6),
            _ => None,
        }
    }

    /// The transport header of this protocol. IPv4 is read in place, as most packets are, and the answer mostly no.
    #[inline(always)]
    fn transport(&self, wanted: u8) -> Option<&'a [u8]> {
        let (kind, off) = self.network()?;
        let bytes = self.bytes.get(off..)?;
        match kind {
            ether_type::IPV4 if *bytes.get(9)? == wanted => Ipv4::parse(bytes)?.transport(),
            ether_type::IPV6 => transport_of_ipv6(bytes, wanted),
            _ => None,
        }
    }

    /// The TCP header, if it is TCP and no later fragment.
    pub fn tcp(&self) -> Option<Tcp<'a>> {
        Tcp::parse(self.transport(protocol::TCP)?)
    }

    /// The UDP header, if it is UDP and no later fragment.
    pub fn udp(&self) -> Option<Udp<'a>> {
        Udp::parse(self.transport(protocol::UDP)?)
    }

    /// The ICMP message, if it is ICMP over IPv4.
    pub fn icmp(&self) -> Option<Icmp<'a>> {
        Icmp::parse(self.transport(protocol::ICMP)?)
    }

    /// The ICMPv6 message, if it is one.
    pub fn icmpv6(&self) -> Option<Icmp<'a>> {
        Icmp::parse(self.transport(protocol::ICMPV6)?)
    }
}

#[inline(never)]
fn transport_of_ipv6(bytes: &[u8], wanted: u8) -> Option<&[u8]> {
    let ip = Ipv6::parse(bytes)?;
    if ip.protocol() == wanted { ip.transport() } else { None }
}

fn ip_header_len(ip: &Ip<'_>) -> usize {
    match ip {
        Ip::V4(ip) => ip.header_len(),
        Ip::V6(ip) => ip.header_len(),
    }
}
