//! What a port's hardware lacks, in software: checksums, TCP and UDP segmentation, tag insertion, one-cell packets.

use super::ifnet::{Ifnet, Kind, Medium, Port};
use super::path::Path;
use crate::inet::decide::GSO;
use crate::wire::checksum::Sum;
use crate::wire::ethernet::{HEADER_LEN, TYPE_IPV4, TYPE_VLAN, VLAN_TAG_LEN};
use crate::wire::ipv4::{self, Ipv4, proto};
use crate::wire::tcp::{CWR, FIN, PSH, Tcp};
use crate::wire::{be16, put16, put32};
use smpnet_abi::{Cell, DropReason, offload, pkt_flags};
use smpnet_runtime::Burst;

impl<'a> Path<'a> {
    /// Sends frames some of which want what the port may lack.
    #[inline(never)]
    pub(crate) fn software_offload(&mut self, ifp: &'a Ifnet, port: &'a Port, burst: &Burst) {
        let mut ready = Burst::new();
        for c in burst.iter() {
            let mut p = self.packet(c);
            let flags = p.hdr().flags;
            let has = |bit| ifp.offloads & bit != 0;
            if flags & pkt_flags::VLAN != 0 && !has(offload::TX_VLAN) && !insert_tag(&mut p) {
                self.drop_on(ifp, DropReason::NoBuffer, c);
                continue;
            }
            let hardware = flags & GSO == 0
                || flags & pkt_flags::GSO_TCP4 != 0 && has(offload::TSO4) && has(offload::TX_CSUM)
                || flags & pkt_flags::GSO_TCP6 != 0 && has(offload::TSO6) && has(offload::TX_CSUM)
                || flags & pkt_flags::GSO_UDP != 0 && has(offload::USO) && has(offload::TX_CSUM);
            if !hardware {
                self.cut(ifp, c, &mut ready, |path, mut burst| path.port_output(ifp, port, &mut burst));
                continue;
            }
            if flags & pkt_flags::CSUM_PARTIAL != 0 && !has(offload::TX_CSUM) {
                self.complete_checksum(c);
            }
            if ready.is_full() {
                self.port_output(ifp, port, &mut std::mem::take(&mut ready));
            }
            ready.push(c);
        }
        if !ready.is_empty() {
            self.port_output(ifp, port, &mut ready);
        }
    }

    /// Gives packets to an interface of IP packets that takes none that are still to be cut.
    #[inline(never)]
    pub(super) fn segments_for_kind(&mut self, ifp: &'a Ifnet, kind: &'a Kind, burst: &Burst) {
        let mut ready = Burst::new();
        for c in burst.iter() {
            if self.packet(c).hdr().flags & GSO != 0 {
                self.cut(ifp, c, &mut ready, |path, mut burst| path.kind_output(ifp, kind, &mut burst));
                continue;
            }
            if ready.is_full() {
                self.kind_output(ifp, kind, &mut std::mem::take(&mut ready));
            }
            ready.push(c);
        }
        self.kind_output(ifp, kind, &mut ready);
    }

    /// Puts the segments of a packet, which ends here, into `ready`, and sends that whenever it is full.
    fn cut(&mut self, ifp: &'a Ifnet, c: Cell, ready: &mut Burst, mut send: impl FnMut(&mut Path<'a>, Burst)) {
        let Some(pieces) = self.segment(ifp, c) else {
            self.drop_on(ifp, DropReason::TxUnsupported, c);
            return;
        };
        for piece in pieces {
            if ready.is_full() {
                send(self, std::mem::take(ready));
            }
            ready.push(piece);
        }
        self.drop_on(ifp, DropReason::Consumed, c);
    }

    /// Completes a checksum that was left to the hardware.
    pub(crate) fn complete_checksum(&mut self, c: Cell) {
        let mut p = self.packet(c);
        let h = *p.hdr();
        let flags = &mut p.hdr_mut().flags;
        *flags &= !pkt_flags::CSUM_PARTIAL;
        let Some(start) = usize::from(h.csum_start).checked_sub(usize::from(h.data_off)) else { return };
        let field = h.csum_start.saturating_add(h.csum_offset);
        let sum = self.sum_from(c, start);
        if let Some(b) = p.at_mut(field, 2) {
            // 0 means "no checksum" to UDP, and all ones is the same number (RFC 768).
            b.copy_from_slice(&if sum == 0 { 0xffff } else { sum }.to_be_bytes());
        }
    }

    /// Cuts a packet into segments of its `gso_size`; none when it cannot be done. The packet stays the caller's.
    fn segment(&mut self, ifp: &'a Ifnet, c: Cell) -> Option<Vec<Cell>> {
        let mut p = self.packet(c);
        if p.hdr().nsegs > 1 {
            self.pull_up(&mut p);
        }
        let hdr = *p.hdr();
        let l2 = if ifp.medium == Medium::Ether { HEADER_LEN } else { 0 };
        let data = p.data();
        let l2 = if l2 > 0 && data.len() > 14 && be16(data, 12) == TYPE_VLAN { l2 + VLAN_TAG_LEN } else { l2 };
        if l2 > 0 && be16(data.get(l2 - 2..l2)?, 0) != TYPE_IPV4 {
            return None;
        }
        let ip = Ipv4::parse(data.get(l2..)?).filter(|h| h.header_len >= 20)?;
        let l4 = l2 + ip.header_len;
        let tcp = match ip.proto {
            proto::TCP if hdr.flags & pkt_flags::GSO_TCP4 != 0 => Some(Tcp::parse(data.get(l4..)?)?),
            proto::UDP if hdr.flags & pkt_flags::GSO_UDP != 0 => None,
            _ => return None,
        };
        let header_len = l4 + tcp.map_or(8, |t| t.header_len);
        let size = usize::from(hdr.gso_size);
        let total = p.len() as usize;
        if size == 0 || data.len() < header_len || total <= header_len {
            return None;
        }
        let header = data[..header_len].to_vec();
        let payload = total - header_len;
        let mut pieces = Vec::with_capacity(payload.div_ceil(size));
        let mut at = 0;
        while at < payload {
            let n = size.min(payload - at);
            let Some(mut q) = self.build(&header, &p, header_len + at, n) else {
                for piece in pieces {
                    self.drop_on(ifp, DropReason::NoBuffer, piece);
                }
                return None;
            };
            let last = at + n == payload;
            let i = (at / size) as u16;
            {
                let h = q.hdr_mut();
                let keep = GSO | pkt_flags::GSO_ECN | pkt_flags::CSUM_PARTIAL;
                (h.flags, h.rcvif, h.mark, h.vlan_tci) = (hdr.flags & !keep, hdr.rcvif, hdr.mark, hdr.vlan_tci);
                h.l2_off = h.data_off;
                h.l3_off = h.data_off + l2 as u16;
                h.l4_off = h.data_off + l4 as u16;
                h.ether_type = TYPE_IPV4;
                h.l4_proto = ip.proto;
            }
            let b = q.data_mut();
            let l4_len = header_len - l4 + n;
            put16(&mut b[l2..], 2, (ip.header_len + l4_len) as u16);
            put16(&mut b[l2..], 4, ip.id.wrapping_add(i));
            ipv4::refresh_checksum(&mut b[l2..l4]);
            let field = match tcp {
                Some(t) => {
                    put32(&mut b[l4..], 4, t.seq.wrapping_add(at as u32));
                    let mut f = t.flags;
                    if !last {
                        f &= !(FIN | PSH);
                    }
                    if i > 0 {
                        f &= !CWR;
                    }
                    b[l4 + 13] = f;
                    16
                }
                None => {
                    put16(&mut b[l4..], 4, l4_len as u16);
                    6
                }
            };
            put16(&mut b[l4..], field, Sum::new().pseudo(ip.src, ip.dst, ip.proto, l4_len as u32).fold());
            let cell = q.cell();
            let sum = self.sum_from(cell, l4);
            put16(&mut q.data_mut()[l4..], field, if sum == 0 && tcp.is_none() { 0xffff } else { sum });
            pieces.push(cell);
            at += n;
        }
        Some(pieces)
    }

    /// Copies packets of several cells into one for a port that takes no others; what does not fit is dropped.
    pub(crate) fn in_single_cells(&mut self, ifp: &'a Ifnet, burst: &Burst) -> Burst {
        let mut out = Burst::new();
        for c in burst.iter() {
            let p = self.packet(c);
            if p.hdr().nsegs <= 1 {
                out.push(c);
                continue;
            }
            let n = p.len() as usize;
            let built = if n <= self.pool.cell_size() - self.pool.desc().data_off as usize {
                self.build(&[], &p, 0, n)
            } else {
                None
            };
            match built {
                Some(mut q) if q.hdr().nsegs == 1 => {
                    let (from, to) = (*p.hdr(), q.hdr_mut());
                    let shift =
                        |off: u16| if off == 0 { 0 } else { off.wrapping_sub(from.data_off).wrapping_add(to.data_off) };
                    (to.flags, to.rcvif, to.mark, to.vlan_tci) = (from.flags, from.rcvif, from.mark, from.vlan_tci);
                    (to.gso_size, to.csum_offset) = (from.gso_size, from.csum_offset);
                    (to.l2_off, to.l3_off, to.l4_off) = (shift(from.l2_off), shift(from.l3_off), shift(from.l4_off));
                    to.csum_start = shift(from.csum_start);
                    out.push(q.cell());
                    self.drop_on(ifp, DropReason::Consumed, c);
                }
                Some(q) => {
                    self.drop_on(ifp, DropReason::TxUnsupported, q.cell());
                    self.drop_on(ifp, DropReason::Consumed, c);
                }
                None => self.drop_on(ifp, DropReason::TxUnsupported, c),
            }
        }
        out
    }
}

/// Puts an 802.1Q tag from the header into the bytes.
pub(super) fn insert_tag(p: &mut smpnet_runtime::Packet<'_>) -> bool {
    let tci = p.hdr().vlan_tci;
    if p.data().len() < HEADER_LEN || p.push_front(VLAN_TAG_LEN).is_none() {
        return false;
    }
    let b = p.data_mut();
    b.copy_within(VLAN_TAG_LEN..VLAN_TAG_LEN + 12, 0);
    put16(b, 12, TYPE_VLAN);
    put16(b, 14, tci);
    p.hdr_mut().flags &= !pkt_flags::VLAN;
    true
}
