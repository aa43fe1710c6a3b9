//! The straight way of a frame whose flow is known: judged, rewritten in place and staged, without the stops of the
//! general path.
//!
//! It is taken only by what is plain: no protocol or tag but IPv4, no option, no fragment. Whatever is unusual about a
//! frame, down to a wrong checksum, leaves it untouched for the general path, which decides and counts as if this one did
//! not exist. Filters on the way in are asked between judging and rewriting ([`super::express_hooks`]); those on the way
//! out stand behind the stages of both ways.

use super::counters::{FlowStat, IfCounter, IpStat};
use super::ether::max_frame;
use super::ifnet::Ifnet;
use super::path::{AHEAD, Path};
use crate::flow::{Found, NO_NEIGHBOUR};
use crate::hash::FlowKey;
use crate::inet::decide::odd;
use crate::inet::input::{decrement_ttl, has_ports};
use crate::wire::checksum::header20_ok;
use crate::wire::ethernet::{HEADER_LEN, TYPE_IPV4};
use crate::wire::ipv4::{MF, OFFSET_MASK};
use crate::wire::{be16, be32};
use smpnet_abi::{BURST_MAX, Cell, pkt_flags};
use smpnet_runtime::{Burst, Packet};
use std::sync::atomic::Ordering::Relaxed;

pub(super) const MAX: usize = BURST_MAX as usize;
/// Ethernet and IPv4 header without options.
const HEADERS: usize = HEADER_LEN + 20;

/// Flags of packets that the general path has to see.
const UNUSUAL: u32 = pkt_flags::RX_L3_BAD
    | pkt_flags::BCAST
    | pkt_flags::MCAST
    | pkt_flags::NO_FAST_FWD
    | pkt_flags::LOOPED
    | pkt_flags::VLAN
    | pkt_flags::GSO_TCP4
    | pkt_flags::GSO_TCP6
    | pkt_flags::GSO_UDP;

/// A frame that may go straight on, if its flow is known.
#[derive(Clone, Copy, Default)]
pub(super) struct Candidate {
    pub key: FlowKey,
    pub hash: u32,
    pub cell: Cell,
    /// Place in the burst.
    pub at: u8,
    pub total_len: u16,
}

/// What the candidates' data begins with.
pub(super) mod begins {
    /// The Ethernet header.
    pub const ETHER: bool = false;
    /// The IP header, with the Ethernet header in front of it.
    pub const INET: bool = true;
}

/// The packets that went, a bit for the place in the burst of each.
pub(super) struct Gone {
    pub set: u64,
    /// Of them as frames.
    bytes: u64,
}

impl<'a> Path<'a> {
    /// Forwards the frames of `burst` whose way is known, and returns the others as they were, in their order. The packets
    /// of one flow keep their order: either all of them are known or none is.
    pub(crate) fn express(&mut self, ifp: &'a Ifnet, burst: &Burst) -> Burst {
        // Steering may have taken every packet of a burst to other workers.
        if burst.is_empty() || !self.may_express(ifp) {
            return burst.clone();
        }
        let mut candidates = [Candidate::default(); MAX];
        let n = self.candidates(ifp, burst, &mut candidates);
        if self.is_hooked(ifp) {
            return self.express_hooked(ifp, burst, &mut candidates[..n]);
        }
        let gone = self.send_known::<{ begins::ETHER }>(ifp, &candidates[..n]);
        if gone.set != 0 {
            let hits = u64::from(gone.set.count_ones());
            ifp.count(self.cpu, IfCounter::Ipackets, hits);
            ifp.count(self.cpu, IfCounter::Ibytes, gone.bytes);
            self.ip_stat(IpStat::Total, hits);
        }
        others(burst, gone.set)
    }

    /// Whether nobody but filters and the flow cache has a say about what this interface receives.
    fn may_express(&self, ifp: &Ifnet) -> bool {
        let t = &self.s.tunables;
        // Fragments that filters want to see whole are no candidates, so that wish does not matter here.
        ifp.ether_types.iter().all(|(taken, _)| *taken != TYPE_IPV4)
            && t.forwarding.load(Relaxed) != 0
            && t.express.load(Relaxed) != 0
            && self.w.flow.enabled()
    }

    /// Whether filters are asked about what this interface receives.
    fn is_hooked(&self, ifp: &Ifnet) -> bool {
        let (all, own) = (&self.s.hooks, &ifp.shared.hooks);
        !(all.ether_in.is_empty() && own.ether_in.is_empty() && all.inet_in.is_empty() && own.inet_in.is_empty())
    }

    /// Picks the frames that are plain IPv4 and in order, and asks for their flows' memory.
    #[inline]
    fn candidates(&mut self, ifp: &Ifnet, burst: &Burst, out: &mut [Candidate; MAX]) -> usize {
        let seed = self.s.seed;
        let limit = max_frame(ifp.mtu) as usize;
        let cells = burst.as_slice();
        let mut n = 0;
        for (i, &cell) in cells.iter().enumerate() {
            if let Some(ahead) = cells.get(i + AHEAD) {
                self.packet(*ahead).prefetch();
            }
            let Some((key, total_len)) = plain_frame(&self.packet(cell), ifp, limit) else { continue };
            let hash = key.hash(seed);
            self.w.flow.prefetch(hash);
            out[n] = Candidate { key, hash, cell, at: i as u8, total_len };
            n += 1;
        }
        n
    }

    /// Sends the candidates whose flow is known.
    #[inline]
    pub(super) fn send_known<const BEGINS: bool>(&mut self, ifp: &Ifnet, candidates: &[Candidate]) -> Gone {
        let rcvif = ifp.index.get();
        let (mut gone, mut bytes) = (0u64, 0u64);
        // Packets for the same interface in a row are staged together.
        let (mut out, mut egress, mut all_flags) = (Burst::new(), 0, 0);
        for k in candidates {
            let Found::Hit(r) = self.w.flow.find(k.key, k.hash, self.generation) else { continue };
            let usable = r.egress != rcvif
                && u32::from(k.total_len) <= r.mtu
                && r.neigh != NO_NEIGHBOUR
                && self.s.slab.word(r.neigh).0 == r.word;
            if !usable {
                continue;
            }
            let mut p = self.packet(k.cell);
            let h = p.hdr_mut();
            let flags = h.flags;
            if BEGINS == begins::INET {
                // The Ethernet header is still in front; all else in the packet's header was written for the filters.
                h.data_off = h.data_off.wrapping_sub(HEADER_LEN as u16);
                h.data_len = k.total_len + HEADER_LEN as u16;
                h.pkt_len = u32::from(h.data_len);
            }
            bytes += u64::from(p.len());
            let Some(f) = p.data_mut().first_chunk_mut::<HEADERS>() else { continue };
            f[..HEADER_LEN].copy_from_slice(&r.rewrite);
            decrement_ttl(&mut f[HEADER_LEN..]);
            if BEGINS == begins::ETHER {
                let proto = f[HEADER_LEN + 9];
                let h = p.hdr_mut();
                // What Ethernet padded is not the packet's.
                h.data_len = k.total_len + HEADER_LEN as u16;
                h.pkt_len = u32::from(h.data_len);
                h.l2_off = h.data_off;
                h.l3_off = h.data_off + HEADER_LEN as u16;
                h.l4_off = h.data_off + HEADERS as u16;
                h.l4_proto = proto;
                h.ether_type = TYPE_IPV4;
            }
            gone |= 1 << k.at;
            if r.egress != egress {
                self.stage_ip_run(egress, all_flags, &mut out);
                (egress, all_flags) = (r.egress, 0);
            }
            all_flags |= flags;
            out.push(k.cell);
        }
        self.stage_ip_run(egress, all_flags, &mut out);
        let hits = u64::from(gone.count_ones());
        if hits > 0 {
            self.ip_stat(IpStat::Forward, hits);
            self.ip_stat(IpStat::Fastforward, hits);
            self.flow_stat(FlowStat::Hits, hits);
        }
        Gone { set: gone, bytes }
    }
}

/// The flow and the total length of a frame that is plain IPv4 and in order.
#[inline(always)]
pub(super) fn plain_frame(p: &Packet<'_>, ifp: &Ifnet, limit: usize) -> Option<(FlowKey, u16)> {
    let (flags, nsegs) = (p.hdr().flags, p.hdr().nsegs);
    let data = p.data();
    // Four bytes of ports are read whatever the protocol; shorter packets go the long way.
    let f = data.first_chunk::<{ HEADERS + 4 }>()?;
    if f[..6] != ifp.mac.bytes || f[12..14] != [0x08, 0x00] || nsegs != 1 || data.len() > limit {
        return None;
    }
    plain_packet(f[HEADER_LEN..].first_chunk()?, data.len() - HEADER_LEN, flags)
}

/// The flow and the total length of a packet of `len` bytes, whatever is behind it counted in, that is plain IPv4 and in
/// order.
#[inline(always)]
pub(super) fn plain_packet(b: &[u8; 24], len: usize, flags: u32) -> Option<(FlowKey, u16)> {
    let total_len = be16(b, 2);
    let plain = flags & UNUSUAL == 0
        && b[0] == 0x45
        && be16(b, 6) & (MF | OFFSET_MASK) == 0
        && b[8] > 1
        && (24..=len).contains(&usize::from(total_len));
    if !plain {
        return None;
    }
    let h = b.first_chunk::<20>()?;
    let (src, dst) = (be32(h, 12), be32(h, 16));
    if odd(src) || odd(dst) || flags & pkt_flags::RX_L3_OK == 0 && !header20_ok(h) {
        return None;
    }
    let ports = if has_ports(h[9]) { be32(b, 20) } else { 0 };
    Some((FlowKey::new(src, dst, h[9], ports), total_len))
}

/// The packets of a burst that are not in `set`.
pub(super) fn others(burst: &Burst, set: u64) -> Burst {
    let mut rest = Burst::new();
    if set == u64::MAX >> (MAX - burst.len()) {
        return rest;
    }
    for (i, c) in burst.iter().enumerate() {
        if set >> i & 1 == 0 {
            rest.push(c);
        }
    }
    rest
}
