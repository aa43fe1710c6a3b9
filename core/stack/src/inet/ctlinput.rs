//! ICMP errors about packets that this machine sent (NetBSD's ctlinput): what they tell is kept and passed on.
//!
//! An error counts only when the packet that it quotes can be one of ours: it was sent from an address of this router, and,
//! where it is a tunnel's, between the two ends of that tunnel. A stranger who knows neither changes nothing. The quote of a
//! tunnel's packet that is long enough to hold the inner header tells the inner sender too (RFC 2003, section 4).

use super::decide::{ErrorKind, IpInfo};
use super::pmtu::told;
use crate::net::counters::{IcmpStat, IfCounter};
use crate::net::path::Path;
use crate::route::NextHopKind;
use crate::slow::SlowEvent;
use crate::wire::checksum::checksum;
use crate::wire::icmp::{HEADER_LEN, Icmp, ty, unreach};
use crate::wire::ipv4::{DF, Ipv4, OFFSET_MASK, proto};
use smpnet_abi::{Cell, pkt_flags};
use std::sync::atomic::Ordering::Relaxed;

/// Bytes behind the quoted header that every error has (RFC 792).
const QUOTED: usize = 8;

/// What an error means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// The packet did not fit.
    TooBig,
    /// It did not arrive.
    Unreachable,
    /// Nothing that is passed on.
    Other,
}

fn meaning(icmp: &Icmp) -> Meaning {
    match (icmp.ty, icmp.code) {
        (ty::UNREACHABLE, unreach::NEED_FRAG) => Meaning::TooBig,
        // A router on the tunnel's way that rejects or loses the outer packet; RFC 2003, sections 4.1 and 4.4.
        (ty::UNREACHABLE, _) | (ty::TIME_EXCEEDED, 0) => Meaning::Unreachable,
        _ => Meaning::Other,
    }
}

impl<'a> Path<'a> {
    /// Acts upon an error that arrived in `c`, which stays the caller's; its bytes are not to be read as before
    /// afterwards. Returns whether the packet that it quotes is one of ours.
    #[inline(never)]
    pub(crate) fn icmp_ctlinput(&mut self, c: Cell, info: &IpInfo, icmp: &Icmp) -> bool {
        let at = usize::from(info.header_len) + HEADER_LEN;
        let mut p = self.packet(c);
        let Some((sent, tunnel)) = self.our_packet(p.data().get(at..).unwrap_or_default()) else {
            self.icmp_stat(IcmpStat::InUnmatched);
            return false;
        };
        if let Some(ifp) = self.ifnet(tunnel) {
            ifp.count(self.cpu, IfCounter::PathErrors, 1);
        }
        let meaning = meaning(icmp);
        let mtu = told(icmp.rest as u16, sent.total_len);
        if meaning == Meaning::TooBig {
            // What may be fragmented never draws this error: it was made up.
            if sent.frag & DF == 0 || self.s.tunables.mtudisc.load(Relaxed) == 0 {
                self.icmp_stat(IcmpStat::InUnmatched);
                return false;
            }
            self.s.slow.push(SlowEvent::PathMtu { dst: sent.dst, mtu });
            self.icmp_stat(IcmpStat::InPmtu);
        }
        if tunnel != 0 && sent.proto == proto::IPIP && p.pull_front(at + sent.header_len) {
            let kind = match meaning {
                Meaning::TooBig => Some(ErrorKind::NeedFrag(mtu.saturating_sub(sent.header_len as u32))),
                Meaning::Unreachable => Some(ErrorKind::HostUnreach),
                Meaning::Other => None,
            };
            if let Some(kind) = kind {
                self.tell_inner(c, tunnel, kind);
            }
        }
        true
    }

    /// The header of a quoted packet that this machine can have sent, and the tunnel it is of (0 for none).
    fn our_packet(&self, quote: &[u8]) -> Option<(Ipv4, u32)> {
        let ip = Ipv4::parse(quote).filter(|h| h.header_len >= 20 && quote.len() >= h.header_len + QUOTED)?;
        // Only a first fragment shows what it is of.
        if ip.frag & OFFSET_MASK != 0 || usize::from(ip.total_len) < ip.header_len {
            return None;
        }
        let owner = self.s.fib.resolve(self.s.fib.lookup(ip.src), 0).kind;
        if owner != NextHopKind::Local || ip.src >> 24 == 127 {
            return None;
        }
        let table = self.s.encap.read(self.section);
        let tunnel = table.find(ip.dst, ip.src, ip.proto).map_or(0, |i| i.get());
        // A protocol that only tunnels send was sent by one of them or not at all.
        (tunnel != 0 || !table.has_protocol(ip.proto)).then_some((ip, tunnel))
    }

    /// Tells the sender of an inner packet, with which the data of `c` begins (perhaps not all of it is there), an error.
    fn tell_inner(&mut self, c: Cell, tunnel: u32, kind: ErrorKind) {
        let mut p = self.packet(c);
        let Some(inner) = Ipv4::parse(p.data()).filter(|h| h.header_len >= 20) else { return };
        let whole = p.data().get(..inner.header_len).is_some_and(|h| checksum(h) == 0);
        // What may be fragmented is, from now on, before it goes into the tunnel.
        let too_big = matches!(kind, ErrorKind::NeedFrag(_));
        if !whole || p.data().len() < inner.header_len + QUOTED || too_big && inner.frag & DF == 0 {
            return;
        }
        p.truncate(u32::from(inner.total_len));
        let h = p.hdr_mut();
        h.flags &= !(pkt_flags::LOCAL | pkt_flags::BCAST | pkt_flags::MCAST);
        h.rcvif = tunnel;
        self.icmp_stat(IcmpStat::InRelayed);
        self.icmp_error(c, kind);
    }

    /// A packet made here is too large for its way. When it is a tunnel's, the sender of the inner packet is told. The
    /// packet stays the caller's.
    #[inline(never)]
    pub(crate) fn tell_tunnel_too_big(&mut self, c: Cell, outer: &Ipv4, mtu: u32) {
        let mut p = self.packet(c);
        // Packets that arrived here know by what interface; this router's own have no one to be told.
        if outer.proto != proto::IPIP || p.hdr().rcvif == 0 || !p.pull_front(outer.header_len) {
            return;
        }
        let rcvif = p.hdr().rcvif;
        self.tell_inner(c, rcvif, ErrorKind::NeedFrag(mtu.saturating_sub(outer.header_len as u32)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_mean_what_rfc_2003_says() {
        let icmp = |ty, code| Icmp { ty, code, checksum: 0, rest: 0 };
        assert_eq!(meaning(&icmp(3, 4)), Meaning::TooBig);
        for code in [0, 1, 2, 3, 13] {
            assert_eq!(meaning(&icmp(3, code)), Meaning::Unreachable);
        }
        assert_eq!(meaning(&icmp(11, 0)), Meaning::Unreachable);
        assert_eq!((meaning(&icmp(11, 1)), meaning(&icmp(12, 0))), (Meaning::Other, Meaning::Other));
    }
}
