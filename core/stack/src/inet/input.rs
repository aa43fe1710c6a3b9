//! IPv4 input: judge headers, ask filters, look destinations up, and send on what has a prepared way.

use super::decide::{GSO, IpInfo, validate};
use crate::adjacency::{Found, NO_NEIGHBOUR, Next};
use crate::net::counters::{Account, AdjStat, IpStat};
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

/// Flags of packets that must take the long way.
const NOT_FAST: u32 = pkt_flags::BCAST | pkt_flags::MCAST | pkt_flags::NO_FAST_FWD | pkt_flags::LOOPED | GSO;

/// Whether a packet went by a prepared way.
enum Prepared {
    Sent,
    /// Its way was prepared before a change.
    Stale,
    No,
}

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
            self.ip_dispatch(ifp, kept.as_slice(), &infos);
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
        self.ip_dispatch(ifp, kept.as_slice(), &infos);
    }

    /// Packets that filters have passed: each by the prepared way to its next hop, where there is one.
    pub(crate) fn ip_dispatch(&mut self, ifp: &'a Ifnet, cells: &[Cell], infos: &[IpInfo; MAX]) {
        let infos = &infos[..cells.len()];
        let forwarding = self.s.tunables.forwarding.load(Relaxed) != 0;
        let prepared = forwarding && self.w.adjacencies.enabled();
        let mut dsts = [0u32; MAX];
        let mut ids = [0u32; MAX];
        for (dst, info) in dsts.iter_mut().zip(infos) {
            *dst = info.dst;
        }
        self.s.fib.lookup_batch(&dsts[..infos.len()], &mut ids[..infos.len()]);
        let (mut hits, mut misses, mut stale) = (0, 0, 0);
        for ((&c, info), &id) in cells.iter().zip(infos).zip(&ids) {
            let hash = || info.key().hash(self.s.seed);
            let usual = prepared && !info.slow && self.packet(c).hdr().flags & NOT_FAST == 0;
            let next = if usual { self.s.fib.neighbour(id, info.dst, hash) } else { Next::NONE };
            if next != Next::NONE {
                match self.send_prepared(ifp, c, info, next) {
                    Prepared::Sent => {
                        hits += 1;
                        continue;
                    }
                    Prepared::Stale => stale += 1,
                    Prepared::No => {}
                }
                misses += 1;
            }
            let hop = self.s.fib.resolve(id, info.key().hash(self.s.seed));
            self.ip_route(ifp, c, info, hop, forwarding);
        }
        self.ip_stat(IpStat::Forward, hits);
        self.ip_stat(IpStat::Fastforward, hits);
        self.adj_stat(AdjStat::Hits, hits);
        if misses > 0 {
            self.adj_stat(AdjStat::Misses, misses);
            self.adj_stat(AdjStat::Stale, stale);
        }
    }

    /// Sends a packet on by the prepared way to its next hop, if there is one that it may take.
    fn send_prepared(&mut self, ifp: &'a Ifnet, c: Cell, info: &IpInfo, next: Next) -> Prepared {
        let rcvif = ifp.index.get();
        let way = match self.w.adjacencies.table().find(next, self.generation) {
            Found::Hit(way) => *way,
            Found::Stale => return Prepared::Stale,
            Found::Miss => return Prepared::No,
        };
        let usable = way.egress != rcvif
            && u32::from(info.total_len) <= way.mtu
            && info.ttl > 1
            && (way.neigh == NO_NEIGHBOUR || self.s.slab.word(way.neigh).0 == way.word);
        let mut p = self.packet(c);
        if !usable || way.neigh != NO_NEIGHBOUR && p.headroom() < HEADER_LEN {
            return Prepared::No;
        }
        let flags = p.hdr().flags;
        decrement_ttl(p.data_mut());
        if way.neigh != NO_NEIGHBOUR
            && let Some(front) = p.push_front(HEADER_LEN)
        {
            front.copy_from_slice(&way.rewrite);
        }
        self.stage_ip(way.egress, flags, c);
        Prepared::Sent
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
