//! ICMP errors: when one is sent, and what it says (RFC 792, RFC 1122 section 3.2.2, RFC 1812 section 4.3).

use super::decide::ErrorKind;
use crate::net::counters::{IcmpStat, IpStat};
use crate::net::path::Path;
use crate::route::NextHopKind;
use crate::wire::icmp::{HEADER_LEN, Icmp, ty, unreach};
use crate::wire::ipv4::{Ipv4, OFFSET_MASK, proto};
use smpnet_abi::{Cell, pkt_flags};
use std::sync::atomic::Ordering::Relaxed;

/// Most bytes of an error with its IP header (RFC 1812, section 4.3.2.3).
const MOST: usize = 576;
/// Precedence of internetwork control (RFC 1812, section 4.3.2.5).
const TOS: u8 = 0xc0;

/// A token bucket: so many errors a second, as many at once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bucket {
    /// Billionths of a token.
    level: u64,
    last: u64,
}

impl Bucket {
    /// Takes a token, if there is one. `rate` is per second; 0 means none.
    pub(crate) fn take(&mut self, now: u64, rate: u64) -> bool {
        const ONE: u64 = 1_000_000_000;
        let full = rate.saturating_mul(ONE);
        let gained = now.saturating_sub(self.last).saturating_mul(rate);
        self.level = if self.last == 0 { full } else { self.level.saturating_add(gained).min(full) };
        self.last = now.max(1);
        if self.level < ONE {
            return false;
        }
        self.level -= ONE;
        true
    }
}

/// Type, code and the four bytes after the checksum.
pub(crate) fn message(kind: ErrorKind) -> (u8, u8, u32) {
    match kind {
        ErrorKind::NetUnreach => (ty::UNREACHABLE, unreach::NET, 0),
        ErrorKind::HostUnreach => (ty::UNREACHABLE, unreach::HOST, 0),
        ErrorKind::ProtoUnreach => (ty::UNREACHABLE, unreach::PROTOCOL, 0),
        ErrorKind::PortUnreach => (ty::UNREACHABLE, unreach::PORT, 0),
        ErrorKind::NeedFrag(mtu) => (ty::UNREACHABLE, unreach::NEED_FRAG, mtu.min(0xffff)),
        ErrorKind::SourceRoute => (ty::UNREACHABLE, unreach::SOURCE_ROUTE, 0),
        ErrorKind::AdminProhibited => (ty::UNREACHABLE, unreach::ADMIN, 0),
        ErrorKind::TtlExceeded => (ty::TIME_EXCEEDED, 0, 0),
        ErrorKind::ReassemblyTime => (ty::TIME_EXCEEDED, 1, 0),
        ErrorKind::ParamProblem(at) => (ty::PARAM_PROBLEM, 0, u32::from(at) << 24),
        // For the host (code 1), as routers that do not look at the type of service do (RFC 1812, section 5.2.7.2).
        ErrorKind::Redirect(gateway) => (ty::REDIRECT, 1, gateway),
    }
}

/// Whether an error may be sent about a packet, by the packet alone (RFC 1122, section 3.2.2). `b` begins at its IP header.
pub(crate) fn answerable(b: &[u8], flags: u32) -> bool {
    if flags & (pkt_flags::BCAST | pkt_flags::MCAST | pkt_flags::LOCAL) != 0 {
        return false;
    }
    let Some(ip) = Ipv4::parse(b) else { return false };
    if ip.frag & OFFSET_MASK != 0 || ip.dst >= 0xe000_0000 || ip.src >= 0xe000_0000 {
        return false;
    }
    if matches!(ip.src >> 24, 0 | 127) {
        return false;
    }
    !(ip.proto == proto::ICMP && b.get(ip.header_len).is_none_or(|t| Icmp::is_error(*t)))
}

impl<'a> Path<'a> {
    /// Sends an ICMP error about a packet, if one may be sent. The packet stays the caller's; its data begins at the IP
    /// header.
    #[inline(never)]
    pub(crate) fn icmp_error(&mut self, about: Cell, kind: ErrorKind) {
        self.icmp_stat(IcmpStat::Error);
        let p = self.packet(about);
        let flags = p.hdr().flags;
        let rcvif = p.hdr().rcvif;
        let Some(ip) = Ipv4::parse(p.data()).filter(|_| answerable(p.data(), flags)) else {
            self.icmp_stat(IcmpStat::Oldshort);
            return;
        };
        // A broadcast is not answered, and a source that is a broadcast address of ours gets no answer either.
        let to = self.s.fib.resolve(self.s.fib.lookup(ip.dst), 0);
        if to.kind == NextHopKind::Broadcast {
            self.icmp_stat(IcmpStat::Oldshort);
            return;
        }
        let hop = self.s.fib.resolve(self.s.fib.lookup(ip.src), 0);
        let egress = match hop.kind {
            NextHopKind::Gateway | NextHopKind::Connected => hop.ifindex,
            NextHopKind::Local => crate::stack::LOOPBACK,
            _ => {
                self.icmp_stat(IcmpStat::Oldshort);
                return;
            }
        };
        let rate = u64::from(self.s.tunables.errppslimit.load(Relaxed));
        let share = if rate == 0 { 0 } else { rate.div_ceil(self.s.workers() as u64) };
        if !self.w.icmp.take(self.now, share) {
            self.icmp_stat(IcmpStat::Limited);
            return;
        }
        // From the interface that the packet came by, so that traceroute shows the way; else from the way out.
        let source = self
            .ifnet(rcvif)
            .and_then(|i| i.source_for(ip.src))
            .or_else(|| self.ifnet(egress).and_then(|o| self.s.source_address(self.section, o, ip.src)));
        let Some(source) = source else {
            self.ip_stat(IpStat::Ifnoaddr, 1);
            return;
        };
        let (ty, code, rest) = message(kind);
        let Some(mut m) = self.make() else { return };
        let most = ip.header_len + self.s.tunables.returndatabytes.load(Relaxed) as usize;
        let quote = (p.len() as usize).min(most).min(MOST - 20 - HEADER_LEN);
        let mut body = [0u8; MOST];
        let got = p.copy_to(&mut body[20 + HEADER_LEN..20 + HEADER_LEN + quote], 0);
        let total = 20 + HEADER_LEN + got;
        let (head, payload) = body[..total].split_at_mut(20 + HEADER_LEN);
        Icmp { ty, code, checksum: 0, rest }.emit(&mut head[20..], payload);
        self.w.ident = self.w.ident.wrapping_add(1);
        let header = Ipv4 {
            header_len: 20,
            tos: TOS,
            total_len: total as u16,
            id: self.w.ident,
            frag: 0,
            ttl: self.s.tunables.ttl.load(Relaxed) as u8,
            proto: proto::ICMP,
            checksum: 0,
            src: source,
            dst: ip.src,
        };
        header.emit(&mut body);
        if !m.set_data(&body[..total]) {
            self.drop(rcvif, smpnet_abi::DropReason::NoBuffer, m.cell());
            return;
        }
        m.hdr_mut().rcvif = 0;
        self.icmp_stat(match ty {
            ty::UNREACHABLE => IcmpStat::OutUnreach,
            ty::REDIRECT => {
                self.ip_stat(IpStat::Redirectsent, 1);
                IcmpStat::OutRedirect
            }
            ty::TIME_EXCEEDED => IcmpStat::OutTimxceed,
            _ => IcmpStat::OutParamprob,
        });
        self.ip_output(m.cell());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_rate_and_no_burst_above_it() {
        let mut b = Bucket::default();
        let s = 1_000_000_000u64;
        assert_eq!((0..200).filter(|_| b.take(s, 100)).count(), 100);
        assert_eq!((0..200).filter(|_| b.take(s + s / 10, 100)).count(), 10);
        assert_eq!((0..2000).filter(|_| b.take(100 * s, 100)).count(), 100);
        assert!(!b.take(200 * s, 0));
    }

    #[test]
    fn no_error_is_sent_about_errors_fragments_and_groups() {
        let packet = |f: &dyn Fn(&mut Ipv4), icmp: u8| {
            let mut h = Ipv4 {
                header_len: 20,
                tos: 0,
                total_len: 28,
                id: 0,
                frag: 0,
                ttl: 1,
                proto: proto::ICMP,
                checksum: 0,
                src: 0x0a00_0001,
                dst: 0x0a00_0002,
            };
            f(&mut h);
            let mut b = vec![0; 28];
            h.emit(&mut b);
            b[20] = icmp;
            b
        };
        assert!(answerable(&packet(&|_| {}, ty::ECHO), 0));
        assert!(!answerable(&packet(&|_| {}, ty::TIME_EXCEEDED), 0));
        assert!(!answerable(&packet(&|h| h.frag = 1, ty::ECHO), 0));
        assert!(answerable(&packet(&|h| h.frag = crate::wire::ipv4::MF, ty::ECHO), 0), "the first fragment counts");
        assert!(!answerable(&packet(&|h| h.dst = u32::MAX, ty::ECHO), 0));
        assert!(!answerable(&packet(&|h| h.src = 0, ty::ECHO), 0));
        assert!(!answerable(&packet(&|_| {}, ty::ECHO), pkt_flags::BCAST));
        assert!(!answerable(&packet(&|_| {}, ty::ECHO), pkt_flags::LOCAL));
    }
}
