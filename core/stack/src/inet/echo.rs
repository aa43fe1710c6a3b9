//! ICMP input: echo is answered on the spot, errors are acted upon, the rest is counted.

use super::decide::IpInfo;
use crate::net::counters::IcmpStat;
use crate::net::ifnet::Ifnet;
use crate::net::path::Path;
use crate::wire::checksum::{Sum, update};
use crate::wire::icmp::{Icmp, ty};
use crate::wire::{be16, ipv4, put16, put32};
use smpnet_abi::{Cell, DropReason, pkt_flags};
use std::sync::atomic::Ordering::Relaxed;

impl<'a> Path<'a> {
    pub(crate) fn icmp_input(&mut self, ifp: &'a Ifnet, c: Cell, info: &IpInfo, group: bool) {
        let p = self.packet(c);
        let at = usize::from(info.header_len);
        let Some(icmp) = p.data().get(at..).and_then(Icmp::parse) else {
            self.icmp_stat(IcmpStat::Tooshort);
            self.drop_on(ifp, DropReason::IcmpBad, c);
            return;
        };
        if p.hdr().flags & pkt_flags::RX_L4_OK == 0 && self.sum_from(c, at) != 0 {
            self.icmp_stat(IcmpStat::Checksum);
            self.drop_on(ifp, DropReason::L4BadChecksum, c);
            return;
        }
        self.icmp_stat(match icmp.ty {
            ty::ECHO_REPLY => IcmpStat::InEchoReply,
            ty::UNREACHABLE => IcmpStat::InUnreach,
            ty::REDIRECT => IcmpStat::InRedirect,
            ty::ECHO => IcmpStat::InEcho,
            ty::TIME_EXCEEDED => IcmpStat::InTimxceed,
            ty::PARAM_PROBLEM => IcmpStat::InParamprob,
            ty::TIMESTAMP => IcmpStat::InTstamp,
            _ => IcmpStat::InOther,
        });
        if icmp.ty != ty::ECHO {
            let error = matches!(icmp.ty, ty::UNREACHABLE | ty::TIME_EXCEEDED | ty::PARAM_PROBLEM);
            if error && !group && self.icmp_ctlinput(c, info, &icmp) {
                self.drop_on(ifp, DropReason::Consumed, c);
                return;
            }
            self.drop_on(ifp, DropReason::IcmpIgnored, c);
            return;
        }
        // RFC 1122, section 3.2.2.6: an echo to a group may be ignored, and is, against amplification.
        let group = group || p.hdr().flags & (pkt_flags::BCAST | pkt_flags::MCAST) != 0;
        let answers = !group || self.s.tunables.bmcastecho.load(Relaxed) != 0;
        // A group is no source: the answer comes from our address there.
        let from = if group { ifp.source_for(info.src) } else { Some(info.dst) };
        let Some(from) = from.filter(|_| answers && info.src >> 24 != 0) else {
            self.icmp_stat(IcmpStat::Bmcastecho);
            self.drop_on(ifp, DropReason::IcmpIgnored, c);
            return;
        };
        self.echo_reply(c, info, from);
    }

    /// Turns an echo round in place: the packet itself goes back.
    fn echo_reply(&mut self, c: Cell, info: &IpInfo, from: u32) {
        let mut p = self.packet(c);
        let at = usize::from(info.header_len);
        let ttl = self.s.tunables.ttl.load(Relaxed) as u8;
        self.w.ident = self.w.ident.wrapping_add(1);
        let ident = self.w.ident;
        let b = p.data_mut();
        let old = be16(b, at);
        b[at] = ty::ECHO_REPLY;
        let sum = update(be16(b, at + 2), old, be16(b, at));
        put16(b, at + 2, sum);
        put16(b, 4, ident);
        put16(b, 6, 0);
        b[8] = ttl;
        put32(b, 12, from);
        put32(b, 16, info.src);
        ipv4::refresh_checksum(b);
        let h = p.hdr_mut();
        h.flags &= !(pkt_flags::LOOPED | pkt_flags::HASH | pkt_flags::BCAST | pkt_flags::MCAST);
        h.rcvif = 0;
        self.icmp_stat(IcmpStat::Reflect);
        self.icmp_stat(IcmpStat::OutEchoReply);
        self.ip_output(c);
    }

    /// The checksum of a packet's bytes from `at` on, over all its cells.
    pub(crate) fn sum_from(&self, c: Cell, at: usize) -> u16 {
        let p = self.packet(c);
        let mut skip = at;
        let mut sum = Sum::new();
        for s in p.segments() {
            let cut = skip.min(s.len());
            sum = sum.add(&s[cut..]);
            skip -= cut;
        }
        sum.finish()
    }
}
