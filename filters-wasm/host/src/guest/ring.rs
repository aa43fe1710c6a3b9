//! What the host says of a packet.

use smpnet_abi::{PktHdr, pkt_flags};
use smpnet_filter_abi::{NO_OFFSET, layer, packet_flags};

/// What is known of a packet besides its bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Meta {
    pub(crate) wire_len: u32,
    pub(crate) flow_hash: u32,
    pub(crate) mark: u32,
    pub(crate) rcvif: u32,
    /// Bits of `packet_flags`.
    pub(crate) flags: u16,
    pub(crate) vlan_tci: u16,
}

impl Meta {
    #[inline(always)]
    pub(crate) fn of(h: &PktHdr) -> Meta {
        Meta {
            wire_len: h.pkt_len,
            flow_hash: h.flow_hash,
            mark: h.mark,
            rcvif: h.rcvif,
            flags: flags(h.flags),
            vlan_tci: h.vlan_tci,
        }
    }
}

#[inline(always)]
fn flags(h: u32) -> u16 {
    const GSO: u32 = pkt_flags::GSO_TCP4 | pkt_flags::GSO_TCP6 | pkt_flags::GSO_UDP;
    const ANY: u32 = pkt_flags::BCAST | pkt_flags::MCAST | pkt_flags::HASH | pkt_flags::VLAN | pkt_flags::LOCAL | GSO;
    // Most packets have none.
    if h & ANY == 0 {
        return 0;
    }
    let bit = |from: u32, to: u16| if h & from != 0 { to } else { 0 };
    bit(pkt_flags::BCAST, packet_flags::BROADCAST)
        | bit(pkt_flags::MCAST, packet_flags::MULTICAST)
        | bit(pkt_flags::HASH, packet_flags::HASH)
        | bit(pkt_flags::VLAN, packet_flags::VLAN)
        | bit(GSO, packet_flags::GSO)
        | bit(pkt_flags::LOCAL, packet_flags::LOCAL)
}

/// Where the headers of a packet begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Located {
    pub(crate) l3: u16,
    pub(crate) l4: u16,
    pub(crate) ether_type: u16,
}

const TYPE_IPV4: u16 = 0x0800;
const TYPE_IPV6: u16 = 0x86dd;

/// Finds the headers in what a module sees of a packet. A transport header is there unless the packet is a fragment
/// other than the first, or something stands in front of it (IPv6 extension headers).
#[inline(always)]
pub(crate) fn locate(at: u32, b: &[u8]) -> Located {
    let (l3, ether_type) = match at {
        layer::ETHER => match ethernet(b) {
            Some(found) => found,
            None => return Located { l3: NO_OFFSET, l4: NO_OFFSET, ether_type: 0 },
        },
        layer::INET6 => (0, TYPE_IPV6),
        _ => (0, TYPE_IPV4),
    };
    Located { l3, l4: transport(b, l3, ether_type), ether_type }
}

/// The network header behind an Ethernet header and its tags.
#[inline(always)]
fn ethernet(b: &[u8]) -> Option<(u16, u16)> {
    let mut at = 12;
    // 802.1Q and 802.1ad: at most two tags.
    for _ in 0..3 {
        let ty = u16::from_be_bytes([*b.get(at)?, *b.get(at + 1)?]);
        match ty {
            0x8100 | 0x88a8 => at += 4,
            // Below 1536 it is a length (IEEE 802.3).
            0..0x600 => return None,
            ty => return Some((at as u16 + 2, ty)),
        }
    }
    None
}

#[inline(always)]
fn transport(b: &[u8], l3: u16, ether_type: u16) -> u16 {
    let at = usize::from(l3);
    match ether_type {
        TYPE_IPV4 => {
            let Some(h) = b.get(at..at + 20) else { return NO_OFFSET };
            let len = u16::from(h[0] & 15) * 4;
            let fragment = u16::from_be_bytes([h[6], h[7]]) & 0x1fff != 0;
            if h[0] >> 4 != 4 || len < 20 || fragment { NO_OFFSET } else { l3 + len }
        }
        TYPE_IPV6 => match b.get(at + 6) {
            // TCP, UDP, ICMPv6, SCTP, UDP-Lite: no extension headers in between.
            Some(6 | 17 | 58 | 132 | 136) if b[at] >> 4 == 6 => l3 + 40,
            _ => NO_OFFSET,
        },
        _ => NO_OFFSET,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testrouter::{udp, udp_frame};

    #[test]
    fn headers_are_found_behind_tags_and_options_and_not_in_fragments() {
        let found = |layer, b: &[u8]| {
            let l = locate(layer, b);
            (l.l3, l.l4, l.ether_type)
        };
        let none = NO_OFFSET;
        assert_eq!(found(layer::INET, &udp(53, 0)), (0, 20, 0x800));
        assert_eq!(found(layer::ETHER, &udp_frame(53, 0)), (14, 34, 0x800));
        let mut tagged = udp_frame(53, 0);
        tagged.splice(12..12, [0x88, 0xa8, 0, 1, 0x81, 0, 0, 2]);
        assert_eq!(found(layer::ETHER, &tagged), (22, 42, 0x800));
        let mut options = udp(53, 8);
        options[0] = 0x47;
        assert_eq!(found(layer::INET, &options), (0, 28, 0x800));
        let mut fragment = udp(53, 0);
        fragment[7] = 1;
        assert_eq!(found(layer::INET, &fragment), (0, none, 0x800));
        let mut six = vec![0x60; 60];
        six[6] = 17;
        assert_eq!(found(layer::INET6, &six), (0, 40, 0x86dd));
        six[6] = 0;
        assert_eq!(found(layer::INET6, &six), (0, none, 0x86dd));
        assert_eq!(found(layer::ETHER, &[0; 13]), (none, none, 0));
        assert_eq!(found(layer::ETHER, &[0; 64]), (none, none, 0));
        assert_eq!(found(layer::INET, &[]), (0, none, 0x800));
    }
}
