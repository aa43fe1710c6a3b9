//! Forwarding and output of IPv4 packets whose way is not prepared.

use super::decide::{ErrorKind, Fit, GSO, IpInfo, Way, fit, segment_len, smaller_segments, way};
use super::input::decrement_ttl;
use crate::adjacency::{Adjacency, NO_NEIGHBOUR, NO_WORD, Next};
use crate::hash::FlowKey;
use crate::neigh::table::Usable;
use crate::net::counters::{AdjStat, IpStat};
use crate::net::ifnet::{Ifnet, Medium};
use crate::net::path::Path;
use crate::route::{NextHop, NextHopKind};
use crate::slow::SlowEvent;
use crate::wire::ethernet::{BROADCAST, Ethernet, HEADER_LEN, TYPE_IPV4, mac_from_u64, multicast_mac};
use crate::wire::ipv4::Ipv4;
use smpnet_abi::{Cell, DropReason, pkt_flags};
use std::sync::atomic::Ordering::Relaxed;

impl<'a> Path<'a> {
    /// The long way of a packet that came in.
    pub(crate) fn ip_route(&mut self, ifp: &'a Ifnet, c: Cell, info: &IpInfo, hop: NextHop, forwarding: bool) {
        self.ip_route_from(ifp, c, info, hop, forwarding, false);
    }

    /// As [`Path::ip_route`]; `stop` for a packet whose source route led it here.
    pub(crate) fn ip_route_from(
        &mut self,
        ifp: &'a Ifnet,
        c: Cell,
        info: &IpInfo,
        hop: NextHop,
        forwarding: bool,
        stop: bool,
    ) {
        let flags = self.packet(c).hdr().flags;
        let rcvif = ifp.index.get();
        if hop.kind == NextHopKind::Broadcast && forwarding && hop.ifindex != rcvif {
            let from_group = flags & (pkt_flags::BCAST | pkt_flags::MCAST) != 0;
            // Into another network only when the operator wants that (RFC 2644).
            if !from_group && self.s.tunables.directed_broadcast.load(Relaxed) != 0 {
                self.ip_forward(ifp, c, info, hop.ifindex, u32::MAX, stop);
                return;
            }
        }
        match way(info.dst, flags, rcvif, hop, forwarding) {
            Way::Local => self.ip_local(ifp, c, info, false),
            Way::LocalGroup => self.ip_local(ifp, c, info, true),
            Way::Drop(reason, error) => {
                if let Some(kind) = error {
                    self.icmp_error(c, kind);
                }
                self.drop_on(ifp, reason, c);
            }
            Way::Forward { egress, next } => self.ip_forward(ifp, c, info, egress, next, stop),
        }
    }

    fn ip_forward(&mut self, ifp: &'a Ifnet, c: Cell, info: &IpInfo, egress: u32, next: u32, stop: bool) {
        if info.ttl <= 1 {
            self.icmp_error(c, ErrorKind::TtlExceeded);
            self.drop_on(ifp, DropReason::IpTtl, c);
            return;
        }
        let Some(out) = self.ifnet(egress).filter(|o| o.running) else {
            self.ip_stat(IpStat::Ifdrop, 1);
            self.icmp_error(c, ErrorKind::HostUnreach);
            self.drop(egress, DropReason::IfDown, c);
            return;
        };
        if info.header_len > 20 && !self.forward_options(ifp, out, c, info, stop) {
            return;
        }
        if egress == ifp.index.get()
            && self.s.tunables.redirect.load(Relaxed) != 0
            && info.header_len == 20
            && ifp.medium == Medium::Ether
            && ifp.on_link(info.src)
            && ifp.on_link(next)
        {
            // RFC 1812, section 5.2.7.2: the sender is a neighbour of the better gateway. The packet still goes.
            self.icmp_error(c, ErrorKind::Redirect(next));
        }
        let mut p = self.packet(c);
        let flags = p.hdr().flags;
        match fit(self.segment_len(c, info), info.df(), out.mtu) {
            Fit::Drop(reason, error) => {
                if let Some(kind) = error {
                    self.icmp_error(c, kind);
                }
                self.drop_on(ifp, reason, c);
                return;
            }
            Fit::Fragment if flags & GSO == 0 && !self.cuts_behind_hooks() => {
                decrement_ttl(p.data_mut());
                self.ip_stat(IpStat::Forward, 1);
                self.fragment(c, out.mtu, |path, piece| {
                    path.ip_send(out, piece, next, false);
                });
                return;
            }
            Fit::Fragment if flags & GSO != 0 && !self.shrink_segments(c, info, out.mtu) => {
                self.drop_on(ifp, DropReason::IpCannotFragment, c);
                return;
            }
            _ => {}
        }
        decrement_ttl(p.data_mut());
        self.ip_stat(IpStat::Forward, 1);
        let plain =
            !info.slow && egress != ifp.index.get() && flags & (pkt_flags::NO_FAST_FWD | pkt_flags::LOOPED | GSO) == 0;
        self.ip_send(out, c, next, plain);
    }

    fn segment_len(&self, c: Cell, info: &IpInfo) -> u32 {
        let p = self.packet(c);
        segment_len(p.data(), info, p.hdr().flags, p.hdr().gso_size)
    }

    /// Makes the segments that a packet will be cut into fit an MTU; false when that cannot be.
    fn shrink_segments(&self, c: Cell, info: &IpInfo, mtu: u32) -> bool {
        let segment = self.segment_len(c, info);
        let mut p = self.packet(c);
        let h = p.hdr_mut();
        let size = smaller_segments(segment, h.flags, h.gso_size, mtu);
        h.gso_size = size.unwrap_or(h.gso_size);
        size.is_some()
    }

    /// Sends a packet to a neighbour of an interface: resolves it, puts the link header in front and stages it; or holds it
    /// until the neighbour answers. After a `plain` packet others like it may follow, so its way is prepared for them.
    pub(crate) fn ip_send(&mut self, out: &'a Ifnet, c: Cell, next: u32, plain: bool) {
        let mut p = self.packet(c);
        let flags = p.hdr().flags & !(pkt_flags::BCAST | pkt_flags::MCAST);
        p.hdr_mut().flags = flags;
        let egress = out.index.get();
        if out.medium == Medium::RawIp {
            if plain {
                self.prepare(out, next, NO_NEIGHBOUR, NO_WORD, [0; HEADER_LEN]);
            }
            p.hdr_mut().ether_type = TYPE_IPV4;
            self.stage_ip(egress, flags, c);
            return;
        }
        let group = if next == u32::MAX || next >> 28 == 0xe { Some(next) } else { None };
        let (mac, slot, word) = match group {
            Some(u32::MAX) => (BROADCAST, NO_NEIGHBOUR, 0),
            Some(g) => (multicast_mac(g), NO_NEIGHBOUR, 0),
            None => {
                let slot = out.shared.neigh.find(self.section, next);
                let word = slot.map(|s| self.s.slab.word(s));
                match (slot, word) {
                    (Some(slot), Some(w)) if w.usable() != Usable::No => {
                        let word = if w.usable() == Usable::Stale { self.tell_used(egress, next, slot, w) } else { w };
                        (mac_from_u64(w.mac()), slot, word.0)
                    }
                    _ => {
                        self.hold_packet(out, next, c);
                        return;
                    }
                }
            }
        };
        let header = Ethernet { dst: mac, src: out.mac, ether_type: TYPE_IPV4 }.bytes();
        if plain && slot != NO_NEIGHBOUR {
            self.prepare(out, next, slot, word, header);
        }
        // Read before the header is pushed: a wider load right after narrower stores would wait for them.
        let l3 = p.hdr().data_off;
        match p.push_front(HEADER_LEN) {
            Some(front) => front.copy_from_slice(&header),
            None => {
                self.drop_on(out, DropReason::NoBuffer, c);
                return;
            }
        }
        let h = p.hdr_mut();
        h.l2_off = l3 - HEADER_LEN as u16;
        h.l3_off = l3;
        h.ether_type = TYPE_IPV4;
        self.stage_ip(egress, flags, c);
    }

    /// Tells the control side that a stale neighbour is in use. Returns the word that it has from now on.
    fn tell_used(
        &mut self,
        ifindex: u32,
        ip: u32,
        slot: u32,
        seen: crate::neigh::table::Word,
    ) -> crate::neigh::table::Word {
        if self.s.slab.claim_use(slot, seen) && !self.s.slow.push(SlowEvent::Used { ifindex, ip }) {
            self.s.slab.unclaim_use(slot, seen);
        }
        self.s.slab.word(slot)
    }

    fn prepare(&mut self, out: &Ifnet, next: u32, neigh: u32, word: u64, rewrite: [u8; HEADER_LEN]) {
        let way = Adjacency::new(Next::new(out.index.get(), next), out.mtu, neigh, word, rewrite);
        let evicted = self.w.adjacencies.insert(self.generation, way);
        self.adj_stat(AdjStat::Inserts, 1);
        if evicted {
            self.adj_stat(AdjStat::Evictions, 1);
        }
    }

    /// Routes a packet that was made here, by this stack or by a plugin. Its data begins at the IP header, whose checksum
    /// is right; a source of 0.0.0.0 is filled in.
    pub(crate) fn ip_output(&mut self, c: Cell) {
        let mut p = self.packet(c);
        let Some(ip) = Ipv4::parse(p.data()).filter(|h| h.header_len >= 20 && h.header_len <= p.data().len()) else {
            self.drop(p.hdr().rcvif, DropReason::IpTooShort, c);
            return;
        };
        let rcvif = p.hdr().rcvif;
        let off = p.hdr().data_off;
        let h = p.hdr_mut();
        h.flags |= pkt_flags::LOCAL;
        h.flags &= !(pkt_flags::BCAST | pkt_flags::MCAST | pkt_flags::RX_L3_OK | pkt_flags::RX_L3_BAD);
        h.l3_off = off;
        h.l4_off = off + ip.header_len as u16;
        h.l4_proto = ip.proto;
        h.ether_type = TYPE_IPV4;
        self.ip_stat(IpStat::Localout, 1);
        let key = FlowKey::new(ip.src, ip.dst, ip.proto, 0);
        let hop = self.s.fib.resolve(self.s.fib.lookup(ip.dst), key.hash(self.s.seed));
        let (egress, next) = match hop.kind {
            NextHopKind::Gateway => (hop.ifindex, hop.gateway),
            NextHopKind::Connected => (hop.ifindex, ip.dst),
            NextHopKind::Broadcast => (hop.ifindex, u32::MAX),
            // To ourselves: through the loopback interface.
            NextHopKind::Local => (crate::stack::LOOPBACK, ip.dst),
            NextHopKind::Blackhole => return self.drop(rcvif, DropReason::IpBlackhole, c),
            NextHopKind::Reject => return self.drop(rcvif, DropReason::IpReject, c),
            NextHopKind::None | NextHopKind::Multipath => return self.drop(rcvif, DropReason::IpNoRoute, c),
        };
        let Some(out) = self.ifnet(egress).filter(|o| o.running) else {
            self.ip_stat(IpStat::Ifdrop, 1);
            self.drop(egress, DropReason::IfDown, c);
            return;
        };
        if ip.src == 0 && !self.fill_source(out, next, c) {
            return;
        }
        let info = IpInfo {
            src: ip.src,
            dst: ip.dst,
            total_len: ip.total_len,
            frag: ip.frag,
            ttl: ip.ttl,
            proto: ip.proto,
            header_len: ip.header_len as u8,
            ..IpInfo::default()
        };
        let mtu = self.path_mtu(ip.dst, out.mtu);
        match fit(self.segment_len(c, &info), info.df(), mtu) {
            Fit::Drop(reason, _) => {
                self.tell_tunnel_too_big(c, &ip, mtu);
                self.drop_on(out, reason, c);
            }
            // Where hooks see whole packets, it is cut behind them.
            Fit::Fragment if p.hdr().flags & GSO == 0 && !(self.cuts_behind_hooks() && mtu == out.mtu) => {
                self.fragment(c, mtu, |path, piece| path.ip_send(out, piece, next, false));
            }
            _ => self.ip_send(out, c, next, false),
        }
    }

    /// Sends a packet out of an interface to its destination, whatever the routes say.
    pub(crate) fn ip_send_by(&mut self, ifindex: u32, c: Cell, came_in: bool) {
        let mut p = self.packet(c);
        let rcvif = p.hdr().rcvif;
        let Some(out) = self.ifnet(ifindex).filter(|o| o.running) else {
            self.ip_stat(IpStat::Ifdrop, 1);
            return self.drop(ifindex, DropReason::IfDown, c);
        };
        let info = match crate::inet::decide::validate(p.data(), p.len(), p.hdr().flags) {
            Ok(info) => info,
            Err(reason) => return self.drop(rcvif, reason, c),
        };
        // Filters could send a packet round for ever.
        let limit = self.s.tunables.max_nest.load(Relaxed);
        if p.hdr().flags >> pkt_flags::NEST_SHIFT & pkt_flags::NEST_MASK >= limit {
            return self.drop(rcvif, DropReason::EncapNest, c);
        }
        p.hdr_mut().flags += 1 << pkt_flags::NEST_SHIFT;
        if came_in && info.ttl <= 1 {
            self.icmp_error(c, ErrorKind::TtlExceeded);
            return self.drop(rcvif, DropReason::IpTtl, c);
        }
        match fit(self.segment_len(c, &info), info.df(), out.mtu) {
            Fit::Drop(reason, error) => {
                if let Some(kind) = error {
                    self.icmp_error(c, kind);
                }
                return self.drop(rcvif, reason, c);
            }
            Fit::Fragment if p.hdr().flags & GSO != 0 && !self.shrink_segments(c, &info, out.mtu) => {
                return self.drop(rcvif, DropReason::IpCannotFragment, c);
            }
            _ => {}
        }
        if came_in {
            decrement_ttl(p.data_mut());
            self.ip_stat(IpStat::Forward, 1);
        }
        if p.len() > out.mtu && p.hdr().flags & GSO == 0 && !self.cuts_behind_hooks() {
            self.fragment(c, out.mtu, |path, piece| path.ip_send(out, piece, info.dst, false));
        } else {
            self.ip_send(out, c, info.dst, false);
        }
    }

    /// The source address of a packet made here that has none (RFC 1122, section 3.3.4.3).
    fn fill_source(&mut self, out: &'a Ifnet, next: u32, c: Cell) -> bool {
        let Some(src) = self.s.source_address(self.section, out, next) else {
            self.drop_on(out, DropReason::IpNoRouteSource, c);
            return false;
        };
        let mut p = self.packet(c);
        let b = p.data_mut();
        crate::wire::put32(b, 12, src);
        crate::wire::ipv4::refresh_checksum(b);
        true
    }
}
