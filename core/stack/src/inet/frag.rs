//! Fragmentation (RFC 791, section 3.2; RFC 1812, section 5.2.6).

use crate::net::counters::IpStat;
use crate::net::path::Path;
use crate::wire::ipv4::{Ipv4, MF, OFFSET_MASK};
use smpnet_abi::{Cell, DropReason, pkt_flags};
use smpnet_runtime::Packet;

/// The options that every fragment carries: those whose copy bit is set, padded to four bytes.
pub(crate) fn copied_options(options: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut i = 0;
    while i < options.len() {
        match options[i] {
            0 => break,
            1 => i += 1,
            kind => {
                let Some(len) = options.get(i + 1).map(|l| usize::from(*l)).filter(|l| *l >= 2) else { break };
                let Some(bytes) = options.get(i..i + len) else { break };
                if kind & 0x80 != 0 {
                    out.extend_from_slice(bytes);
                }
                i += len;
            }
        }
    }
    while out.len() % 4 != 0 {
        out.push(0);
    }
    out
}

impl<'a> Path<'a> {
    /// Cuts a packet into fragments for an MTU and hands each of them to `send`. The packet itself ends here.
    pub(crate) fn fragment(&mut self, c: Cell, mtu: u32, mut send: impl FnMut(&mut Path<'a>, Cell)) {
        let mut p = self.packet(c);
        if p.hdr().flags & pkt_flags::CSUM_PARTIAL != 0 {
            self.complete_checksum(c);
        }
        let Some(ip) = Ipv4::parse(p.data()).filter(|h| p.data().len() >= h.header_len && h.header_len >= 20) else {
            self.drop(p.hdr().rcvif, DropReason::IpCannotFragment, c);
            return;
        };
        let options = copied_options(&p.data()[20..ip.header_len]);
        let first_header = p.data()[..ip.header_len].to_vec();
        let mut later_header = first_header[..20].to_vec();
        later_header.extend_from_slice(&options);
        let payload = usize::from(ip.total_len) - ip.header_len;
        let mut pieces = Vec::new();
        let mut at = 0;
        let mut ok = true;
        while at < payload {
            let header = if at == 0 { &first_header } else { &later_header };
            let room = (mtu as usize).saturating_sub(header.len()) & !7;
            if room == 0 {
                ok = false;
                break;
            }
            let n = room.min(payload - at);
            let Some(mut piece) = self.build(header, &p, ip.header_len + at, n) else {
                ok = false;
                break;
            };
            let more = at + n < payload;
            let h = Ipv4 {
                header_len: header.len(),
                total_len: (header.len() + n) as u16,
                frag: (ip.frag & !OFFSET_MASK & !MF)
                    | ((ip.frag & OFFSET_MASK) + (at / 8) as u16)
                    | if more { MF } else { ip.frag & MF },
                ..ip
            };
            h.emit(piece.data_mut());
            let (from, to) = (p.hdr(), piece.cell());
            let (flags, rcvif, mark) = (from.flags, from.rcvif, from.mark);
            let keep = pkt_flags::LOCAL | (pkt_flags::NEST_MASK << pkt_flags::NEST_SHIFT);
            let hdr = piece.hdr_mut();
            (hdr.flags, hdr.rcvif, hdr.mark) = (flags & keep, rcvif, mark);
            hdr.l3_off = hdr.data_off;
            hdr.l4_off = hdr.data_off + h.header_len as u16;
            hdr.l4_proto = ip.proto;
            hdr.ether_type = crate::wire::ethernet::TYPE_IPV4;
            pieces.push(to);
            at += n;
        }
        let rcvif = p.hdr_mut().rcvif;
        if !ok {
            for piece in pieces {
                self.drop(rcvif, DropReason::NoBuffer, piece);
            }
            self.drop(rcvif, DropReason::IpCannotFragment, c);
            return;
        }
        self.ip_stat(IpStat::Fragmented, 1);
        self.ip_stat(IpStat::Ofragments, pieces.len() as u64);
        for piece in pieces {
            send(self, piece);
        }
        self.drop(rcvif, DropReason::Consumed, c);
    }

    /// A fresh packet of `header` and `n` bytes of `from` from `off` on, over as many cells as it takes.
    pub(crate) fn build(&mut self, header: &[u8], from: &Packet<'a>, off: usize, n: usize) -> Option<Packet<'a>> {
        let mut first = self.make()?;
        if !first.set_data(header) {
            self.drop(0, DropReason::NoBuffer, first.cell());
            return None;
        }
        let mut at = 0;
        let take = n.min(first.tailroom());
        if let Some(room) = first.push_back(take) {
            at += from.copy_to(room, off);
        }
        while at < n {
            let mut c = [0; 1];
            if self.pool.alloc(self.cpu, &mut c) == 0 {
                self.drop(0, DropReason::NoBuffer, first.cell());
                return None;
            }
            let mut next = self.packet(c[0]);
            let take = (n - at).min(next.tailroom());
            let got = next.push_back(take).map_or(0, |room| from.copy_to(room, off + at));
            if got == 0 || !first.append(next) {
                self.pool.free(self.cpu, &c);
                self.drop(0, DropReason::NoBuffer, first.cell());
                return None;
            }
            at += got;
        }
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_options_with_the_copy_bit_go_into_later_fragments() {
        // Record route (not copied), no-operation, router alert (copied), end.
        let options = [7, 7, 4, 0, 0, 0, 0, 1, 0x94, 4, 0, 0, 0, 0, 0, 0];
        assert_eq!(copied_options(&options), [0x94, 4, 0, 0]);
        assert_eq!(copied_options(&[0x82, 3, 9]), [0x82, 3, 9, 0]);
        assert_eq!(copied_options(&[0x82, 0]), [0u8; 0]);
        assert_eq!(copied_options(&[0x82, 9, 1]), [0u8; 0]);
    }
}
