//! Why a packet was dropped: one list for counters, `netstat`, capture and `explain`.

macro_rules! drop_reasons {
    ($($(#[$meta:meta])* $variant:ident = $code:literal, $name:literal, $text:literal;)*) => {
        /// Why a packet was dropped. The numbers are part of the ABI; new ones are added at the end.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        #[non_exhaustive]
        pub enum DropReason {
            $(#[doc = $text] $(#[$meta])* $variant = $code,)*
        }

        impl DropReason {
            /// Every reason, in the order of the numbers, beginning with 0.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)*];

            /// The name of the counter, such as `ip_bad_checksum`.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)* }
            }

            /// One line that explains the reason to an operator.
            pub const fn text(self) -> &'static str {
                match self { $(DropReason::$variant => $text,)* }
            }
        }
    };
}

drop_reasons! {
    Unspecified = 0, "unspecified", "a plugin dropped the packet without naming a reason";
    IfDown = 1, "if_down", "the interface is down, detached or quarantined";
    NoBuffer = 2, "no_buffer", "no packet cell was free";
    TxRingFull = 3, "tx_ring_full", "the transmit ring of the outgoing port was full";
    TxUnsupported = 4, "tx_unsupported", "the outgoing port cannot carry such a packet";
    Runt = 5, "runt", "the frame is shorter than its link header";
    Oversize = 6, "oversize", "the frame is longer than the interface takes";
    NotForUs = 7, "not_for_us", "the frame is addressed to another station";
    NoProto = 8, "no_proto", "no protocol takes this EtherType";
    VlanUnknown = 9, "vlan_unknown", "no vlan interface takes this 802.1Q id";
    Filtered = 10, "filtered", "a packet filter dropped it";
    FilterFault = 11, "filter_fault", "a packet filter failed and its policy is to drop";
    ArpBad = 12, "arp_bad", "the ARP packet is malformed";
    ArpUnresolved = 13, "arp_unresolved", "the neighbour did not answer ARP";
    ArpQueueFull = 14, "arp_queue_full", "too many packets wait for one neighbour";
    IpBadVersion = 15, "ip_bad_version", "the IP version is not that of the EtherType";
    IpTooShort = 16, "ip_too_short", "the packet is shorter than an IP header";
    IpBadHeaderLength = 17, "ip_bad_header_length", "the IP header length is below 20 or beyond the packet";
    IpBadLength = 18, "ip_bad_length", "the IP total length is beyond the packet";
    IpBadChecksum = 19, "ip_bad_checksum", "the IP header checksum is wrong";
    IpBadSource = 20, "ip_bad_source", "the source address is not a host's (multicast, broadcast or class E)";
    IpMartian = 21, "ip_martian", "a loopback or zero address came in from the wire";
    IpBadOption = 22, "ip_bad_option", "an IP option is malformed or refused";
    IpNoForward = 23, "ip_no_forward", "forwarding is turned off and the packet is not for us";
    IpNoRoute = 24, "ip_no_route", "no route leads to the destination";
    IpReject = 25, "ip_reject", "a reject route covers the destination";
    IpBlackhole = 26, "ip_blackhole", "a blackhole route covers the destination";
    IpTtl = 27, "ip_ttl", "the time to live ran out";
    IpNeedFrag = 28, "ip_need_frag", "too large for the way out and must not be fragmented";
    IpCannotFragment = 29, "ip_cannot_fragment", "the packet could not be fragmented";
    IpBroadcast = 30, "ip_broadcast", "a link-level broadcast or multicast is not forwarded";
    IpNoRouteSource = 31, "ip_no_source", "no source address fits the way out";
    ReassTimeout = 32, "reass_timeout", "fragments were missing when the time ran out";
    ReassLimit = 33, "reass_limit", "too many datagrams are being reassembled";
    ReassBad = 34, "reass_bad", "the fragments overlap or do not fit together";
    ProtoUnreach = 35, "proto_unreach", "delivered here, but no protocol takes it";
    PortUnreach = 36, "port_unreach", "delivered here, but nothing listens on the port";
    IcmpBad = 37, "icmp_bad", "the ICMP message is malformed";
    IcmpIgnored = 38, "icmp_ignored", "the ICMP message is of no use to a router";
    IcmpLimited = 39, "icmp_limited", "an ICMP answer was suppressed by the rate limit";
    EncapUnknown = 40, "encap_unknown", "no tunnel takes this outer header";
    EncapBad = 41, "encap_bad", "the encapsulated packet is malformed";
    EncapNest = 42, "encap_nest", "the packet passed too many tunnels";
    QueueFull = 43, "queue_full", "the queue to another worker was full";
    PluginFault = 44, "plugin_fault", "a plugin failed while it held the packet";
    Shutdown = 45, "shutdown", "the packet was in flight when its interface went away";
    UdpBad = 46, "udp_bad", "the UDP header is malformed";
    L4BadChecksum = 47, "l4_bad_checksum", "the TCP, UDP or ICMP checksum is wrong";
    Consumed = 48, "consumed", "taken by its receiver (not lost)";
    RxMissed = 49, "rx_missed", "the port lost it before smpnet saw it: no room in its ring, or no free cell";
}

impl DropReason {
    /// The reason of that number; numbers that this version does not know are `Unspecified`.
    pub fn from_code(code: u32) -> Self {
        DropReason::ALL.get(code as usize).copied().unwrap_or(DropReason::Unspecified)
    }
}

#[cfg(test)]
mod tests {
    use super::DropReason;

    #[test]
    fn codes_are_dense_and_names_unique() {
        let mut names = std::collections::HashSet::new();
        for (i, r) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*r as usize, i);
            assert!(names.insert(r.name()), "{} stands twice", r.name());
        }
    }
}
