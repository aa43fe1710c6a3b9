//! The straight way of a frame whose flow is known: judged, rewritten in place and staged, without the stops of the
//! general path.
//!
//! It is taken only where nobody else wants a look: no filter on the way in, no protocol or tag but plain IPv4, no option,
//! no fragment. Whatever is unusual about a frame, down to a wrong checksum, leaves it untouched for the general path,
//! which decides and counts as if this one did not exist.

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
use smpnet_runtime::Burst;
use std::sync::atomic::Ordering::Relaxed;

const MAX: usize = BURST_MAX as usize;
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
struct Candidate {
    key: FlowKey,
    hash: u32,
    cell: Cell,
    /// Place in the burst.
    at: u8,
    total_len: u16,
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
        let gone = self.send_known(ifp, &candidates[..n]);
        if gone == u64::MAX >> (MAX - burst.len()) {
            return Burst::new();
        }
        let mut rest = Burst::new();
        for (i, c) in burst.iter().enumerate() {
            if gone >> i & 1 == 0 {
                rest.push(c);
            }
        }
        rest
    }

    /// Whether nobody but the flow cache has a say about what this interface receives.
    fn may_express(&self, ifp: &Ifnet) -> bool {
        let (all, own, t) = (&self.s.hooks, &ifp.shared.hooks, &self.s.tunables);
        let no_filter = all.ether_in.is_empty()
            && own.ether_in.is_empty()
            && all.inet_in.is_empty()
            && own.inet_in.is_empty()
            && t.reass_for_filters.load(Relaxed) == 0;
        no_filter && ifp.ether_types.is_empty() && t.forwarding.load(Relaxed) != 0 && self.w.flow.enabled()
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
            let p = self.packet(cell);
            let (flags, nsegs) = (p.hdr().flags, p.hdr().nsegs);
            let data = p.data();
            // Four bytes of ports are read whatever the protocol; shorter packets go the long way.
            let Some(f) = data.first_chunk::<{ HEADERS + 4 }>() else { continue };
            let total_len = be16(f, HEADER_LEN + 2);
            let end = HEADER_LEN + usize::from(total_len);
            let plain = nsegs == 1
                && flags & UNUSUAL == 0
                && f[..6] == ifp.mac.bytes
                && f[12..15] == [0x08, 0x00, 0x45]
                && be16(f, HEADER_LEN + 6) & (MF | OFFSET_MASK) == 0
                && f[HEADER_LEN + 8] > 1
                && (HEADERS + 4..=data.len()).contains(&end)
                && data.len() <= limit;
            if !plain {
                continue;
            }
            let Some(h) = f[HEADER_LEN..].first_chunk::<20>() else { continue };
            let (src, dst) = (be32(h, 12), be32(h, 16));
            if odd(src) || odd(dst) || flags & pkt_flags::RX_L3_OK == 0 && !header20_ok(h) {
                continue;
            }
            let ports = if has_ports(h[9]) { be32(f, HEADERS) } else { 0 };
            let key = FlowKey::new(src, dst, h[9], ports);
            let hash = key.hash(seed);
            self.w.flow.prefetch(hash);
            out[n] = Candidate { key, hash, cell, at: i as u8, total_len };
            n += 1;
        }
        n
    }

    /// Sends the candidates whose flow is known; a bit for each that is gone.
    #[inline]
    fn send_known(&mut self, ifp: &Ifnet, candidates: &[Candidate]) -> u64 {
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
            bytes += u64::from(p.len());
            let Some(f) = p.data_mut().first_chunk_mut::<HEADERS>() else { continue };
            f[..HEADER_LEN].copy_from_slice(&r.rewrite);
            decrement_ttl(&mut f[HEADER_LEN..]);
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
            let flags = h.flags;
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
            ifp.count(self.cpu, IfCounter::Ipackets, hits);
            ifp.count(self.cpu, IfCounter::Ibytes, bytes);
            for c in [IpStat::Total, IpStat::Forward, IpStat::Fastforward] {
                self.ip_stat(c, hits);
            }
            self.flow_stat(FlowStat::Hits, hits);
        }
        gone
    }
}
