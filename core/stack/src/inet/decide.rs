//! The decisions of the IPv4 path as pure functions, shared by the workers and by `explain`.

use crate::hash::FlowKey;
use crate::route::{NextHop, NextHopKind};
use crate::wire::checksum::{checksum, header20_ok};
use crate::wire::ipv4::{DF, MF, OFFSET_MASK, proto};
use crate::wire::tcp::Tcp;
use crate::wire::{be16, be32};
use smpnet_abi::{DropReason, pkt_flags};

/// What the path knows of a packet whose header is in order.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct IpInfo {
    pub src: u32,
    pub dst: u32,
    /// `src << 16 | dst` of TCP and UDP; 0 for fragments and other protocols.
    pub ports: u32,
    pub total_len: u16,
    /// DF, MF and offset.
    pub frag: u16,
    pub ttl: u8,
    pub proto: u8,
    /// Bytes of the header.
    pub header_len: u8,
    /// Must take the long way: options, fragment, group destination.
    pub slow: bool,
}

impl IpInfo {
    #[inline(always)]
    pub(crate) fn key(&self) -> FlowKey {
        FlowKey::new(self.src, self.dst, self.proto, self.ports)
    }

    pub(crate) fn is_fragment(&self) -> bool {
        self.frag & (MF | OFFSET_MASK) != 0
    }

    pub(crate) fn df(&self) -> bool {
        self.frag & DF != 0
    }
}

/// Judges an IPv4 header (RFC 1812, section 5.2.2; RFC 1122, section 3.2.1). `b` is what the first cell holds from the IP
/// header on, `pkt_len` the bytes of the whole packet from there.
#[inline(always)]
pub(crate) fn validate(b: &[u8], pkt_len: u32, flags: u32) -> Result<IpInfo, DropReason> {
    let Some(h) = b.first_chunk::<20>() else {
        return Err(DropReason::IpTooShort);
    };
    if h[0] != 0x45 {
        if h[0] >> 4 != 4 {
            return Err(DropReason::IpBadVersion);
        }
        if h[0] & 0xf < 5 {
            return Err(DropReason::IpBadHeaderLength);
        }
    }
    let header_len = usize::from(h[0] & 0xf) * 4;
    let total_len = be16(h, 2);
    if header_len > b.len() {
        return Err(DropReason::IpBadHeaderLength);
    }
    if usize::from(total_len) < header_len || u32::from(total_len) > pkt_len {
        // A packet that was merged by its device (LRO) or is to be cut has no total length that fits 16 bits, at most.
        return Err(DropReason::IpBadLength);
    }
    if flags & (pkt_flags::RX_L3_OK | pkt_flags::RX_L3_BAD) == 0 {
        let good = if header_len == 20 { header20_ok(h) } else { checksum(&b[..header_len]) == 0 };
        if !good {
            return Err(DropReason::IpBadChecksum);
        }
    } else if flags & pkt_flags::RX_L3_BAD != 0 {
        return Err(DropReason::IpBadChecksum);
    }
    let src = be32(h, 12);
    let dst = be32(h, 16);
    let group = dst >= 0xe000_0000;
    if let Some(reason) = martian(src, dst, flags) {
        return Err(reason);
    }
    let frag = be16(h, 6);
    let proto = h[9];
    let fragment = frag & (MF | OFFSET_MASK) != 0;
    let ports = if (proto == proto::TCP || proto == proto::UDP) && !fragment {
        match b.get(header_len..header_len + 4) {
            Some(p) => be32(p, 0),
            None => 0,
        }
    } else {
        0
    };
    Ok(IpInfo {
        src,
        dst,
        ports,
        total_len,
        frag,
        ttl: h[8],
        proto,
        header_len: header_len as u8,
        slow: fragment || group || header_len > 20,
    })
}

/// Whether an address is not in 1/8 to 126/8 or 128/8 to 223/8, so that it needs a closer look.
#[inline(always)]
pub(crate) fn odd(a: u32) -> bool {
    ODD[(a >> 24) as usize]
}

/// [`odd`] by the first byte.
pub(crate) static ODD: [bool; 256] = {
    let mut odd = [true; 256];
    let mut i = 1;
    while i < 224 {
        odd[i] = i == 127;
        i += 1;
    }
    odd
};

/// Addresses that cannot come from the wire (RFC 1122, section 3.2.1.3; RFC 1812, section 5.3.7).
#[inline(always)]
fn martian(src: u32, dst: u32, flags: u32) -> Option<DropReason> {
    if !odd(src) && !odd(dst) {
        return None;
    }
    if src >= 0xe000_0000 {
        return Some(DropReason::IpBadSource);
    }
    if src >> 24 == 0 && !(src == 0 && dst == u32::MAX) {
        return Some(DropReason::IpMartian);
    }
    if (src >> 24 == 127 || dst >> 24 == 127) && flags & pkt_flags::LOOPED == 0 {
        return Some(DropReason::IpMartian);
    }
    if dst >> 24 == 0 || dst >= 0xf000_0000 && dst != u32::MAX {
        return Some(DropReason::IpMartian);
    }
    None
}

/// The ICMP error that goes with a drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    NetUnreach,
    HostUnreach,
    ProtoUnreach,
    PortUnreach,
    /// With the MTU of the next hop (RFC 1191).
    NeedFrag(u32),
    SourceRoute,
    AdminProhibited,
    TtlExceeded,
    ReassemblyTime,
    /// With the offset of the octet in question.
    ParamProblem(u8),
    /// With the better gateway.
    Redirect(u32),
}

/// Where a packet goes by its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Sent on, to the neighbour `next` of interface `egress`.
    Forward {
        /// Interface.
        egress: u32,
        /// Gateway or destination.
        next: u32,
    },
    /// Delivered here.
    Local,
    /// Delivered here as a broadcast or multicast.
    LocalGroup,
    /// Dropped, with the error that is answered, if any.
    Drop(DropReason, Option<ErrorKind>),
}

/// The all-hosts group, which every host listens to (RFC 1112).
const ALL_HOSTS: u32 = 0xe000_0001;

/// The way of a packet that came in on `rcvif`, given the next hop of the table. Does not look at the TTL, which matters
/// only once the way out is known.
#[inline(always)]
pub(crate) fn way(dst: u32, flags: u32, rcvif: u32, hop: NextHop, forwarding: bool) -> Way {
    if dst >= 0xe000_0000 {
        // Limited broadcast and multicast never leave the link (RFC 1812, section 5.3.5 and 5.3.4 without routing).
        if dst == u32::MAX || dst == ALL_HOSTS {
            return Way::LocalGroup;
        }
        return Way::Drop(DropReason::IpBroadcast, None);
    }
    match hop.kind {
        NextHopKind::Local => return Way::Local,
        NextHopKind::Broadcast => {
            // Directed broadcasts into another network are not forwarded (RFC 2644).
            if hop.ifindex == rcvif {
                return Way::LocalGroup;
            }
            return Way::Drop(DropReason::IpBroadcast, None);
        }
        _ => {}
    }
    if flags & (pkt_flags::BCAST | pkt_flags::MCAST) != 0 {
        // RFC 1122, section 3.3.6, and RFC 1812, section 5.3.4.
        return Way::Drop(DropReason::IpBroadcast, None);
    }
    if !forwarding {
        return Way::Drop(DropReason::IpNoForward, None);
    }
    match hop.kind {
        NextHopKind::Gateway => Way::Forward { egress: hop.ifindex, next: hop.gateway },
        NextHopKind::Connected => Way::Forward { egress: hop.ifindex, next: dst },
        NextHopKind::Blackhole => Way::Drop(DropReason::IpBlackhole, None),
        NextHopKind::Reject => Way::Drop(DropReason::IpReject, Some(ErrorKind::HostUnreach)),
        _ => Way::Drop(DropReason::IpNoRoute, Some(ErrorKind::NetUnreach)),
    }
}

/// Flags of packets that will be cut into segments.
pub(crate) const GSO: u32 = pkt_flags::GSO_TCP4 | pkt_flags::GSO_TCP6 | pkt_flags::GSO_UDP;

/// Bytes of the IP packet on the wire: the packet, or one of the segments of `gso_size` that it will be cut into. `b` begins
/// at the IP header.
#[inline(always)]
pub(crate) fn segment_len(b: &[u8], info: &IpInfo, flags: u32, gso_size: u16) -> u32 {
    if flags & GSO == 0 {
        return u32::from(info.total_len);
    }
    let l4 = if flags & pkt_flags::GSO_UDP != 0 {
        8
    } else {
        b.get(usize::from(info.header_len)..).and_then(Tcp::parse).map_or(20, |t| t.header_len)
    };
    u32::from(info.header_len) + l4 as u32 + u32::from(gso_size)
}

/// The size that segments are made to fit an MTU with: a sender of TCP that may be fragmented does not care where the cuts
/// are. UDP segments are messages, which cannot be cut elsewhere.
pub(crate) fn smaller_segments(segment: u32, flags: u32, gso_size: u16, mtu: u32) -> Option<u16> {
    let headers = segment - u32::from(gso_size);
    (flags & pkt_flags::GSO_TCP4 != 0 && mtu > headers).then(|| (mtu - headers) as u16)
}

/// How a packet fits the way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    Fits,
    Fragment,
    Drop(DropReason, Option<ErrorKind>),
}

/// Whether a packet fits an MTU. For one that is to be cut into segments, `segment` is the bytes of one of them with its
/// IP header; else it is the total length.
#[inline(always)]
pub(crate) fn fit(segment: u32, df: bool, mtu: u32) -> Fit {
    if segment <= mtu {
        Fit::Fits
    } else if df {
        Fit::Drop(DropReason::IpNeedFrag, Some(ErrorKind::NeedFrag(mtu)))
    } else {
        Fit::Fragment
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::IfIndex;
    use crate::wire::ipv4::Ipv4;

    fn header(f: impl FnOnce(&mut Ipv4)) -> Vec<u8> {
        let mut h = Ipv4 {
            header_len: 20,
            tos: 0,
            total_len: 28,
            id: 1,
            frag: 0,
            ttl: 64,
            proto: proto::UDP,
            checksum: 0,
            src: 0x0a00_0102,
            dst: 0x0a00_0202,
        };
        f(&mut h);
        let mut b = vec![0; 28];
        h.emit(&mut b);
        b[20..24].copy_from_slice(&[0x13, 0x88, 0x00, 0x35]);
        b
    }

    fn judge(b: &[u8]) -> Result<IpInfo, DropReason> {
        validate(b, b.len() as u32, 0)
    }

    #[test]
    fn a_good_header_is_taken_apart() {
        let i = judge(&header(|_| {})).unwrap();
        assert_eq!((i.src, i.dst, i.ports), (0x0a00_0102, 0x0a00_0202, 0x1388_0035));
        assert!(!i.slow);
    }

    #[test]
    fn every_fault_of_a_header_has_its_reason() {
        let good = header(|_| {});
        let with = |at: usize, v: u8| {
            let mut b = good.clone();
            b[at] = v;
            b
        };
        assert_eq!(judge(&good[..19]).unwrap_err(), DropReason::IpTooShort);
        assert_eq!(judge(&with(0, 0x65)).unwrap_err(), DropReason::IpBadVersion);
        assert_eq!(judge(&with(0, 0x44)).unwrap_err(), DropReason::IpBadHeaderLength);
        assert_eq!(judge(&with(0, 0x4f)).unwrap_err(), DropReason::IpBadHeaderLength, "60 bytes in 28");
        assert_eq!(judge(&with(3, 29)).unwrap_err(), DropReason::IpBadLength);
        assert_eq!(judge(&with(3, 19)).unwrap_err(), DropReason::IpBadLength);
        assert_eq!(judge(&with(8, 63)).unwrap_err(), DropReason::IpBadChecksum);
        assert!(validate(&with(8, 63), 28, pkt_flags::RX_L3_OK).is_ok(), "the device's word is taken");
        assert_eq!(validate(&good, 28, pkt_flags::RX_L3_BAD).unwrap_err(), DropReason::IpBadChecksum);
    }

    #[test]
    fn addresses_that_cannot_be_on_the_wire_are_refused() {
        let from = |src| judge(&header(|h| h.src = src));
        let to = |dst| judge(&header(|h| h.dst = dst));
        assert_eq!(from(0xe000_0001).unwrap_err(), DropReason::IpBadSource);
        assert_eq!(from(0xf000_0001).unwrap_err(), DropReason::IpBadSource);
        assert_eq!(from(0xffff_ffff).unwrap_err(), DropReason::IpBadSource);
        assert_eq!(from(0x7f00_0001).unwrap_err(), DropReason::IpMartian);
        assert_eq!(from(0x0000_0000).unwrap_err(), DropReason::IpMartian);
        assert_eq!(to(0x7f00_0001).unwrap_err(), DropReason::IpMartian);
        assert_eq!(to(0x0000_0001).unwrap_err(), DropReason::IpMartian);
        assert_eq!(to(0xf000_0001).unwrap_err(), DropReason::IpMartian);
        let dhcp = header(|h| (h.src, h.dst) = (0, u32::MAX));
        assert!(judge(&dhcp).unwrap().slow, "a DHCP client may speak");
        let looped = header(|h| (h.src, h.dst) = (0x7f00_0001, 0x7f00_0001));
        assert!(validate(&looped, 28, pkt_flags::LOOPED).is_ok());
    }

    #[test]
    fn fragments_have_no_ports_and_take_the_long_way() {
        let i = judge(&header(|h| h.frag = MF)).unwrap();
        assert_eq!((i.ports, i.slow, i.is_fragment()), (0, true, true));
        let i = judge(&header(|h| h.frag = DF)).unwrap();
        assert_eq!((i.ports, i.slow, i.df()), (0x1388_0035, false, true));
    }

    #[test]
    fn groups_and_link_broadcasts_are_never_forwarded() {
        let out = NextHop::gateway(IfIndex::new(2).unwrap(), 0x0a00_0001);
        let forward = Way::Forward { egress: 2, next: 0x0a00_0001 };
        assert_eq!(way(0x0102_0304, 0, 1, out, true), forward);
        assert_eq!(way(0x0102_0304, 0, 1, out, false), Way::Drop(DropReason::IpNoForward, None));
        let dropped = Way::Drop(DropReason::IpBroadcast, None);
        assert_eq!(way(0x0102_0304, pkt_flags::BCAST, 1, out, true), dropped);
        assert_eq!(way(0x0102_0304, pkt_flags::MCAST, 1, out, true), dropped);
        assert_eq!(way(0xe000_0005, 0, 1, out, true), dropped);
        assert_eq!(way(u32::MAX, 0, 1, out, true), Way::LocalGroup);
        let bcast = NextHop::broadcast(IfIndex::new(2).unwrap());
        assert_eq!(way(0x0a00_02ff, 0, 1, bcast, true), dropped, "a directed broadcast into another network");
        assert_eq!(way(0x0a00_02ff, 0, 2, bcast, true), Way::LocalGroup);
    }

    #[test]
    fn what_is_too_large_is_fragmented_unless_it_must_not_be() {
        assert_eq!(fit(1500, true, 1500), Fit::Fits);
        assert_eq!(fit(1501, false, 1500), Fit::Fragment);
        assert_eq!(fit(1501, true, 1400), Fit::Drop(DropReason::IpNeedFrag, Some(ErrorKind::NeedFrag(1400))));
    }
}
