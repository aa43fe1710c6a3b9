//! The straight way of a frame whose next hop has a prepared way: judged, rewritten in place and staged, without the stops of the
//! general path.
//!
//! It is taken only by what is plain: no protocol or tag but IPv4, no option, no fragment. Whatever is unusual about a
//! frame, down to a wrong checksum, leaves it untouched for the general path, which decides and counts as if this one did
//! not exist. Filters on the way in are asked between judging and rewriting ([`super::express_hooks`]); those on the way
//! out stand behind the stages of both ways.

use super::counters::{AdjStat, IfCounter, IpStat};
use super::ether::max_frame;
use super::ifnet::Ifnet;
use super::path::Path;
use crate::adjacency::{Adjacency, Found};
use crate::hash::FlowKey;
use crate::inet::decide::{GSO, ODD, odd};
use crate::inet::input::{decrement_ttl, has_ports};
use crate::wire::checksum::header20_ok;
use crate::wire::ethernet::{HEADER_LEN, TYPE_IPV4};
use crate::wire::ipv4::{MF, OFFSET_MASK};
use crate::wire::{be16, be32};
use smpnet_abi::{BURST_MAX, Cell, PktHdr, pkt_flags};
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
    | GSO;

/// A frame that may go straight on, if the way to its next hop is prepared.
#[derive(Clone, Copy, Default)]
pub(super) struct Candidate {
    pub dst: u32,
    pub cell: Cell,
    pub total_len: u16,
    /// Place in the burst.
    pub at: u8,
    _pad: u8,
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
    /// Forwards the frames of `burst` whose way is prepared, and returns the others as they were, in their order. The packets
    /// of one flow keep their order: all of them have the same way, but those with options, fragments, and those that are too
    /// large for it; from a packet on that is to be cut into segments none goes straight.
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

    /// Whether nobody but filters and the forwarding table has a say about what this interface receives.
    fn may_express(&self, ifp: &Ifnet) -> bool {
        let t = &self.s.tunables;
        // Fragments that filters want to see whole are no candidates, so that wish does not matter here.
        ifp.ether_types.iter().all(|(taken, _)| *taken != TYPE_IPV4)
            && t.forwarding.load(Relaxed) != 0
            && t.express.load(Relaxed) != 0
            && self.w.adjacencies.enabled()
    }

    /// Whether filters are asked about what this interface receives.
    fn is_hooked(&self, ifp: &Ifnet) -> bool {
        let (all, own) = (&self.s.hooks, &ifp.shared.hooks);
        !(all.ether_in.is_empty() && own.ether_in.is_empty() && all.inet_in.is_empty() && own.inet_in.is_empty())
    }

    /// Picks the frames that are plain IPv4 and in order, and asks for the memory of their routes.
    #[inline]
    fn candidates(&self, ifp: &Ifnet, burst: &Burst, out: &mut [Candidate; MAX]) -> usize {
        let (pool, fib, own) = (self.pool.locate(), &*self.s.fib, Own::of(ifp));
        let mut n = 0;
        for (i, cell) in burst.iter().enumerate() {
            let p = pool.packet(cell);
            let Some((dst, total_len)) = plain_frame(&p, own) else {
                if p.hdr().flags & GSO != 0 {
                    // What is to be cut takes the general path, and what follows of its flow must not overtake it.
                    break;
                }
                continue;
            };
            fib.prefetch(dst);
            out[n] = Candidate { dst, cell, total_len, at: i as u8, _pad: 0 };
            n += 1;
        }
        n
    }

    /// The prepared way of each candidate that has one and may take it.
    #[inline]
    fn ways<'w, const BEGINS: bool>(
        &'w self,
        ifp: &Ifnet,
        candidates: &[Candidate],
        out: &mut [Option<&'w Adjacency>; MAX],
    ) {
        let (fib, slab, table) = (&*self.s.fib, &*self.s.slab, self.w.adjacencies.table());
        let (generation, rcvif) = (self.generation, ifp.index.get());
        for (k, out) in candidates.iter().zip(out) {
            let next = fib.neighbour(fib.lookup(k.dst), k.dst, || {
                let p = self.packet(k.cell);
                let at = if BEGINS == begins::ETHER { HEADER_LEN } else { 0 };
                flow_of(p.data().get(at..).unwrap_or_default()).hash(self.s.seed)
            });
            // No entry is for no next hop, so that those go the long way too.
            let Found::Hit(way) = table.find(next, generation) else { continue };
            // A raw IP interface's word is no neighbour's.
            let usable = way.egress != rcvif && u32::from(k.total_len) <= way.mtu && slab.word(way.neigh).0 == way.word;
            *out = usable.then_some(way);
        }
    }

    /// Sends the candidates whose way is prepared.
    #[inline]
    pub(super) fn send_known<const BEGINS: bool>(&mut self, ifp: &Ifnet, candidates: &[Candidate]) -> Gone {
        let mut ways = [None; MAX];
        self.ways::<BEGINS>(ifp, candidates, &mut ways);
        let pool = self.pool.locate();
        let (mut gone, mut bytes, mut flags) = (0u64, 0u64, 0u32);
        let (mut sent, mut egress) = (Burst::new(), [0u32; MAX]);
        for (k, way) in candidates.iter().zip(&ways) {
            let Some(way) = way else { continue };
            let mut p = pool.packet(k.cell);
            let h = p.hdr_mut();
            flags |= h.flags;
            bytes += u64::from(h.pkt_len);
            if BEGINS == begins::INET {
                // The Ethernet header is still in front; all else in the packet's header was written for the filters.
                h.data_off = h.data_off.wrapping_sub(HEADER_LEN as u16);
                h.data_len = k.total_len + HEADER_LEN as u16;
                h.pkt_len = u32::from(h.data_len);
            }
            let Some(f) = p.head_mut::<HEADERS>() else { continue };
            f[..HEADER_LEN].copy_from_slice(&way.rewrite);
            decrement_ttl(&mut f[HEADER_LEN..]);
            if BEGINS == begins::ETHER {
                let proto = f[HEADER_LEN + 9];
                set_layers(p.hdr_mut(), k.total_len, proto);
            }
            gone |= 1 << k.at;
            egress[sent.len()] = way.egress;
            sent.push(k.cell);
        }
        self.stage_sent(&mut sent, &egress, flags);
        let hits = u64::from(gone.count_ones());
        if hits > 0 {
            self.ip_stat(IpStat::Forward, hits);
            self.ip_stat(IpStat::Fastforward, hits);
            self.adj_stat(AdjStat::Hits, hits);
        }
        Gone { set: gone, bytes }
    }

    /// Stages packets, each for the interface in its place of `egress`; those for the same one in a row together.
    #[inline]
    fn stage_sent(&mut self, sent: &mut Burst, egress: &[u32; MAX], flags: u32) {
        let egress = &egress[..sent.len()];
        let Some(&first) = egress.first() else { return };
        if egress.iter().all(|e| *e == first) {
            self.stage_ip_run(first, flags, sent);
            return;
        }
        let mut rest = sent.as_slice();
        for run in egress.chunk_by(|a, b| a == b) {
            let (these, others) = rest.split_at(run.len());
            let mut burst = Burst::new();
            burst.extend_from_slice(these);
            self.stage_ip_run(run[0], flags, &mut burst);
            rest = others;
        }
    }
}

/// What a frame for an interface looks like.
#[derive(Clone, Copy)]
pub(super) struct Own {
    /// The interface's address, its first byte lowest.
    mac: u64,
    /// Bytes of the longest frame.
    limit: u32,
}

impl Own {
    pub(super) fn of(ifp: &Ifnet) -> Own {
        let [a, b, c, d, e, f] = ifp.mac.bytes;
        Own { mac: u64::from_le_bytes([a, b, c, d, e, f, 0, 0]), limit: max_frame(ifp.mtu) }
    }
}

/// The destination and the total length of a frame that is plain IPv4 and in order.
#[inline(always)]
pub(super) fn plain_frame(p: &Packet<'_>, own: Own) -> Option<(u32, u16)> {
    let h = p.hdr();
    let (flags, nsegs, len) = (h.flags, h.nsegs, u32::from(h.data_len));
    let f = p.head::<HEADERS>()?;
    let dst = u64::from_le_bytes(*f.first_chunk()?) & 0xffff_ffff_ffff;
    if dst != own.mac || f[12..14] != [0x08, 0x00] || nsegs != 1 || len > own.limit {
        return None;
    }
    plain_packet(f[HEADER_LEN..].first_chunk()?, len - HEADER_LEN as u32, flags)
}

/// The destination and the total length of a packet of `len` bytes, at least 20, whatever is behind it counted in, that is
/// plain IPv4 and in order.
#[inline(always)]
pub(super) fn plain_packet(h: &[u8; 20], len: u32, flags: u32) -> Option<(u32, u16)> {
    let (total_len, dst) = (be16(h, 2), be32(h, 16));
    let plain = flags & UNUSUAL == 0
        && h[0] == 0x45
        && be16(h, 6) & (MF | OFFSET_MASK) == 0
        && h[8] > 1
        && (20..=len).contains(&u32::from(total_len))
        && !(ODD[usize::from(h[12])] | odd(dst));
    if !plain || flags & pkt_flags::RX_L3_OK == 0 && !header20_ok(h) {
        return None;
    }
    Some((dst, total_len))
}

/// The flow of a plain packet, as [`crate::inet::decide::IpInfo::key`] has it.
fn flow_of(b: &[u8]) -> FlowKey {
    let Some(h) = b.first_chunk::<20>() else { return FlowKey::default() };
    let ports = match b.get(20..24) {
        Some(p) if has_ports(h[9]) => be32(p, 0),
        _ => 0,
    };
    FlowKey::new(be32(h, 12), be32(h, 16), h[9], ports)
}

/// Says of a frame, plain IPv4 behind an Ethernet header, what is where in it, and takes off it what Ethernet padded.
#[inline(always)]
fn set_layers(h: &mut PktHdr, total_len: u16, proto: u8) {
    // Read first: the compiler reads more than these two bytes, and would wait for a store just before.
    let off = u64::from(h.data_off);
    h.data_len = total_len + HEADER_LEN as u16;
    h.pkt_len = u32::from(h.data_len);
    h.l4_proto = proto;
    // Four neighbours of 16 bits from one word, so that they are one store.
    let l3 = off + HEADER_LEN as u64;
    let all = off | (l3 & 0xffff) << 16 | ((l3 + 20) & 0xffff) << 32 | u64::from(TYPE_IPV4) << 48;
    (h.l2_off, h.l3_off) = (all as u16, (all >> 16) as u16);
    (h.l4_off, h.ether_type) = ((all >> 32) as u16, (all >> 48) as u16);
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
