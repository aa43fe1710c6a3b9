//! The straight way past filters: all candidates of a burst are shown to the hooks together, and those that pass go on.
//!
//! Every packet is shown to a hook once. From then on it is counted as received, and where no way is prepared for it, or
//! a hook has changed it into something that is not plain, it takes the general path from behind that hook.

use super::counters::{IfCounter, IpStat};
use super::express::{Candidate, Own, begins, others, plain_frame, plain_packet};
use super::hooks::Asked;
use super::ifnet::Ifnet;
use super::path::Path;
use crate::wire::ethernet::{HEADER_LEN, TYPE_IPV4};
use smpnet_runtime::{Burst, Dir, Layer, Packet};

impl<'a> Path<'a> {
    /// As [`Path::express`], where filters are asked on the way in.
    #[inline(never)]
    pub(super) fn express_hooked(&mut self, ifp: &'a Ifnet, burst: &Burst, found: &mut [Candidate]) -> Burst {
        let rest = others(burst, found.iter().fold(0, |set, k| set | 1 << k.at));
        if found.is_empty() {
            return rest;
        }
        ifp.count(self.cpu, IfCounter::Ipackets, found.len() as u64);
        let mut found = found;
        if !(self.s.hooks.ether_in.is_empty() && ifp.shared.hooks.ether_in.is_empty()) {
            found = self.express_ether_hooked(ifp, found);
        } else {
            let bytes = found.iter().map(|k| u64::from(self.packet(k.cell).len())).sum();
            ifp.count(self.cpu, IfCounter::Ibytes, bytes);
        }
        if self.s.hooks.inet_in.is_empty() && ifp.shared.hooks.inet_in.is_empty() {
            let gone = self.send_known::<{ begins::ETHER }>(ifp, found).set;
            self.ip_stat(IpStat::Total, u64::from(gone.count_ones()));
            if gone.count_ones() as usize != found.len() {
                self.ether_demux(ifp, &left(found, gone));
            }
        } else {
            self.express_inet_hooked(ifp, found);
        }
        rest
    }

    /// Shows candidates to the hooks of frames and counts their bytes, which may be others afterwards. Returns those that
    /// are still candidates; what else passed is on its way.
    fn express_ether_hooked<'c>(&mut self, ifp: &'a Ifnet, found: &'c mut [Candidate]) -> &'c mut [Candidate] {
        let (mut kept, mut bytes) = (Burst::new(), 0);
        for k in found.iter() {
            bytes += u64::from(self.packet(k.cell).len());
            kept.push(k.cell);
        }
        ifp.count(self.cpu, IfCounter::Ibytes, bytes);
        let asked = self.run_hooks(ifp, Layer::Ether, Dir::In, &mut kept);
        let found = survivors(found, &kept);
        if asked != Asked::Edited {
            return found;
        }
        let own = Own::of(ifp);
        let mut other = Burst::new();
        let found = self.judged_again(found, &mut other, |p| plain_frame(p, own));
        self.ether_demux(ifp, &other);
        found
    }

    /// Shows candidates, frames so far, to the inet hooks.
    fn express_inet_hooked(&mut self, ifp: &'a Ifnet, found: &mut [Candidate]) {
        let mut kept = Burst::new();
        for k in found.iter() {
            let mut p = self.packet(k.cell);
            // A candidate's header is in its first cell.
            let proto = p.data().get(HEADER_LEN + 9).copied().unwrap_or_default();
            let h = p.hdr_mut();
            h.l2_off = h.data_off;
            h.data_off += HEADER_LEN as u16;
            // What Ethernet padded is not the packet's.
            h.data_len = k.total_len;
            h.pkt_len = u32::from(k.total_len);
            h.l3_off = h.data_off;
            h.l4_off = h.data_off + 20;
            h.l4_proto = proto;
            h.ether_type = TYPE_IPV4;
            kept.push(k.cell);
        }
        self.ip_stat(IpStat::Total, found.len() as u64);
        let asked = self.run_hooks(ifp, Layer::Inet, Dir::In, &mut kept);
        let mut found = survivors(found, &kept);
        let mut other = Burst::new();
        if asked == Asked::Edited {
            found = self.judged_again(found, &mut other, whole_plain_packet);
        }
        let gone = self.send_known::<{ begins::INET }>(ifp, found).set;
        if gone.count_ones() as usize != found.len() {
            other.extend_from_slice(left(found, gone).as_slice());
        }
        if !other.is_empty() {
            self.ip_filtered(ifp, &other);
        }
    }

    /// Looks at packets again that a filter may have changed; those that are no candidates any more go to `other`.
    fn judged_again<'c>(
        &mut self,
        found: &'c mut [Candidate],
        other: &mut Burst,
        judge: impl Fn(&Packet<'a>) -> Option<(u32, u16)>,
    ) -> &'c mut [Candidate] {
        let mut n = 0;
        for i in 0..found.len() {
            let mut k = found[i];
            match judge(&self.packet(k.cell)) {
                Some((dst, total_len)) => {
                    (k.dst, k.total_len) = (dst, total_len);
                    found[n] = k;
                    n += 1;
                }
                None => other.push(k.cell),
            }
        }
        &mut found[..n]
    }
}

/// Judges a packet behind the inet hooks, where its Ethernet header still has its place in front and nothing is behind it.
fn whole_plain_packet(p: &Packet<'_>) -> Option<(u32, u16)> {
    let (h, data) = (p.hdr(), p.data());
    let (dst, total_len) = plain_packet(data.first_chunk()?, data.len() as u32, h.flags)?;
    let whole = h.nsegs == 1 && usize::from(total_len) == data.len() && p.headroom() >= HEADER_LEN;
    whole.then_some((dst, total_len))
}

/// The candidates that are in `kept`, which is in their order.
fn survivors<'c>(found: &'c mut [Candidate], kept: &Burst) -> &'c mut [Candidate] {
    let kept = kept.as_slice();
    let mut n = 0;
    if kept.len() == found.len() {
        n = kept.len();
    } else {
        for i in 0..found.len() {
            if kept.get(n) == Some(&found[i].cell) {
                found[n] = found[i];
                n += 1;
            }
        }
    }
    &mut found[..n]
}

/// The candidates that are not in `gone`.
fn left(found: &[Candidate], gone: u64) -> Burst {
    let mut left = Burst::new();
    for k in found {
        if gone >> k.at & 1 == 0 {
            left.push(k.cell);
        }
    }
    left
}
