//! IPv4 input: judge headers, ask filters, and find the way of each packet in the flow cache or the routing table.

use super::decide::{IpInfo, validate};
use crate::flow::Found;
use crate::net::counters::{Account, FlowStat, IpStat};
use crate::net::hooks::Asked;
use crate::net::ifnet::Ifnet;
use crate::net::path::Path;
use crate::wire::checksum::less_one_ttl;
use crate::wire::ethernet::HEADER_LEN;
use crate::wire::ipv4::proto;
use crate::wire::{be16, put16};
use smpnet_abi::{BURST_MAX, Cell, pkt_flags};
use smpnet_runtime::{Burst, Dir, Layer};
use std::sync::atomic::Ordering::Relaxed;

const MAX: usize = BURST_MAX as usize;

/// Flags of packets that must not go by the flow cache.
const NOT_FAST: u32 = pkt_flags::BCAST
    | pkt_flags::MCAST
    | pkt_flags::NO_FAST_FWD
    | pkt_flags::LOOPED
    | pkt_flags::GSO_TCP4
    | pkt_flags::GSO_TCP6
    | pkt_flags::GSO_UDP;

impl<'a> Path<'a> {
    /// IPv4 packets, stripped of their link header.
    pub(crate) fn ip_input(&mut self, ifp: &'a Ifnet, burst: &Burst) {
        if burst.is_empty() {
            return;
        }
        self.ip_stat(IpStat::Total, burst.len() as u64);
        let mut infos = [IpInfo::default(); MAX];
        let mut kept = Burst::new();
        for c in burst.iter() {
            let mut p = self.packet(c);
            if p.hdr().nsegs > 1 {
                self.pull_up(&mut p);
            }
            match validate(p.data(), p.len(), p.hdr().flags) {
                Ok(info) => {
                    // Ethernet pads short frames: what is beyond the total length is not the packet's.
                    if u32::from(info.total_len) < p.len() {
                        p.truncate(u32::from(info.total_len));
                    }
                    p.hdr_mut().l4_proto = info.proto;
                    p.hdr_mut().l4_off = p.hdr().l3_off + u16::from(info.header_len);
                    infos[kept.len()] = info;
                    kept.push(c);
                }
                Err(reason) => self.drop_on(ifp, reason, c),
            }
        }
        if self.s.tunables.reass_for_filters.load(Relaxed) > 0 {
            self.gather_fragments(ifp, &mut infos, &mut kept);
        }
        if self.run_hooks(ifp, Layer::Inet, Dir::In, &mut kept) == Asked::No {
            self.ip_dispatch(ifp, kept.as_slice(), &mut infos);
        } else {
            self.ip_filtered(ifp, &kept);
        }
    }

    /// Packets that the inet hooks have passed. A filter may have changed them, so they are looked at once more.
    pub(crate) fn ip_filtered(&mut self, ifp: &'a Ifnet, burst: &Burst) {
        let mut infos = [IpInfo::default(); MAX];
        let mut kept = Burst::new();
        for c in burst.iter() {
            let p = self.packet(c);
            match validate(p.data(), p.len(), p.hdr().flags) {
                Ok(info) => {
                    infos[kept.len()] = info;
                    kept.push(c);
                }
                Err(reason) => self.drop_on(ifp, reason, c),
            }
        }
        self.ip_dispatch(ifp, kept.as_slice(), &mut infos);
    }

    /// Packets that filters have passed: by the flow cache where it knows them, else by the routing table.
    pub(crate) fn ip_dispatch(&mut self, ifp: &'a Ifnet, cells: &[Cell], infos: &mut [IpInfo; MAX]) {
        let forwarding = self.s.tunables.forwarding.load(Relaxed) != 0;
        let seed = self.s.seed;
        for info in &mut infos[..cells.len()] {
            info.hash = info.key().hash(seed);
            self.w.flow.prefetch(info.hash);
        }
        let mut miss = [0u8; MAX];
        let mut misses = 0;
        let (mut hits, mut stale) = (0, 0);
        let rcvif = ifp.index.get();
        let use_flows = forwarding && self.w.flow.enabled();
        for (i, &c) in cells.iter().enumerate() {
            let info = &infos[i];
            let mut p = self.pool.packet(c);
            let flags = p.hdr().flags;
            if use_flows && !info.slow && flags & NOT_FAST == 0 {
                match self.w.flow.find(info.key(), info.hash, self.generation) {
                    Found::Hit(r)
                        if r.egress != rcvif
                            && u32::from(info.total_len) <= r.mtu
                            && info.ttl > 1
                            && (r.neigh == crate::flow::NO_NEIGHBOUR || self.s.slab.word(r.neigh).0 == r.word) =>
                    {
                        hits += 1;
                        decrement_ttl(p.data_mut());
                        if r.neigh != crate::flow::NO_NEIGHBOUR {
                            if let Some(front) = p.push_front(HEADER_LEN) {
                                front.copy_from_slice(&r.rewrite);
                            } else {
                                self.drop(rcvif, smpnet_abi::DropReason::NoBuffer, c);
                                continue;
                            }
                        }
                        self.stage_ip(r.egress, flags, c);
                        continue;
                    }
                    Found::Stale => stale += 1,
                    _ => {}
                }
            }
            miss[misses] = i as u8;
            misses += 1;
        }
        if hits > 0 {
            self.ip_stat(IpStat::Forward, hits);
            self.ip_stat(IpStat::Fastforward, hits);
            self.flow_stat(FlowStat::Hits, hits);
        }
        if misses == 0 {
            return;
        }
        self.flow_stat(FlowStat::Misses, misses as u64);
        self.flow_stat(FlowStat::Stale, stale);
        let mut dsts = [0u32; MAX];
        let mut ids = [0u32; MAX];
        for (d, i) in dsts.iter_mut().zip(&miss[..misses]) {
            *d = infos[usize::from(*i)].dst;
        }
        self.s.fib.lookup_batch(&dsts[..misses], &mut ids[..misses]);
        for (id, i) in ids.iter().zip(&miss[..misses]) {
            let i = usize::from(*i);
            let hop = self.s.fib.resolve(*id, infos[i].hash);
            self.ip_route(ifp, cells[i], &infos[i], hop, forwarding);
        }
    }

    /// Brings the headers of a packet of several cells into the first one, as far as they fit.
    pub(crate) fn pull_up(&mut self, p: &mut smpnet_runtime::Packet<'a>) {
        // 60 bytes of IP header with options and 60 of TCP are the most that is ever looked at.
        let want = (p.len() as usize).min(120);
        let have = p.data().len();
        if have >= want {
            return;
        }
        let need = (want - have).min(p.tailroom());
        let mut bytes = [0u8; 120];
        let got = p.copy_to(&mut bytes[..need], have);
        let start = usize::from(p.hdr().data_off) - smpnet_abi::HEADER_SIZE as usize + have;
        p.cell_bytes_mut()[start..start + got].copy_from_slice(&bytes[..got]);
        p.hdr_mut().data_len += got as u16;
        // The bytes go off the front of the cells behind.
        let mut left = got;
        let mut next = p.hdr().next;
        while left > 0 && self.pool.is_valid(next) {
            let mut q = self.pool.packet(next);
            let n = left.min(q.data().len());
            let h = q.hdr_mut();
            h.data_off += n as u16;
            h.data_len -= n as u16;
            left -= n;
            next = q.hdr().next;
        }
    }

    /// Fragments that filters want to see whole are gathered first.
    #[inline(never)]
    fn gather_fragments(&mut self, ifp: &'a Ifnet, infos: &mut [IpInfo; MAX], kept: &mut Burst) {
        let all = kept.clone();
        let before = *infos;
        kept.clear();
        for (c, info) in all.iter().zip(before) {
            if info.is_fragment() && info.dst < 0xe000_0000 {
                self.account(Account::HeldIn, 1);
                self.fragment_to_owner(ifp.index.get(), c, &info);
                continue;
            }
            infos[kept.len()] = info;
            kept.push(c);
        }
    }
}

/// Takes one off the TTL and corrects the checksum (RFC 1624). `h` holds an IPv4 header.
#[inline(always)]
pub(crate) fn decrement_ttl(h: &mut [u8]) {
    let Some(h) = h.first_chunk_mut::<20>() else { return };
    let sum = less_one_ttl(be16(h, 10));
    h[8] = h[8].wrapping_sub(1);
    put16(h, 10, sum);
}

/// Whether the ports of a protocol are in the first four bytes of its header.
pub(crate) const fn has_ports(p: u8) -> bool {
    p == proto::TCP || p == proto::UDP
}
