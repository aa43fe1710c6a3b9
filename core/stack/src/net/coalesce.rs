//! Coalescing at the way out: segments of a TCP flow that leave in one burst become one packet for a port that cuts packets
//! again ([`offload::TSO4`]), so that a system call, a descriptor and the passage of a receiver's stack are paid for once.
//!
//! It is the last thing before the driver: filters, listeners and counters see every segment by itself. Nothing is copied:
//! the cells are chained, and the headers of all but the first stand unused in front of their data. A chain has at most as
//! many cells as the burst had packets. Nothing waits for what may come with the next burst.
//!
//! Other ports pay a test for each burst. A port that cuts pays, where nothing is joined, 5 ns for a packet that is not
//! TCP's and 25 to 40 ns for one that is, measured on bursts in the cache (80 ns where each is of the flow of the one before
//! and differs from it).
//!
//! What is joined, [`segment`](super::gso) or the device behind the port cuts into the same packets, byte by byte. This
//! rules out what Linux calls a fixed IP identification. A segment's checksum is not carried over but made anew, so it must
//! be known to be right before: what is wrong goes out wrong, alone, for its receiver to see.

use super::counters::TcpStat;
use super::ifnet::{Ifnet, Medium};
use super::path::Path;
use crate::inet::decide::GSO;
use crate::wire::checksum::{Sum, header20_ok};
use crate::wire::ethernet::{HEADER_LEN, TYPE_IPV4};
use crate::wire::ipv4::{self, DF, MF, OFFSET_MASK, proto};
use crate::wire::tcp::{self, ACK, PSH};
use crate::wire::{be16, be32, put16};
use smpnet_abi::{BURST_MAX, CELL_NONE, Cell, offload, pkt_flags};
use smpnet_runtime::{Burst, Packet};
use std::sync::atomic::Ordering::Relaxed;

const MAX: usize = BURST_MAX as usize;
/// What a port has to offer.
const NEEDS: u32 = offload::TSO4 | offload::TX_CSUM | offload::SCATTER;
/// Flows of a burst that segments are gathered for at once; one more takes the place of one of them.
const FLOWS: usize = 8;
/// An IPv4 header without options.
const IP_LEN: usize = ipv4::HEADER_LEN;
/// Where TCP's checksum stands in its header.
const TCP_SUM: usize = 16;

/// How many packets each packet of a burst stands for.
pub(super) struct Lots([u8; MAX]);

impl Lots {
    /// The packets that those in these places of the burst stand for.
    pub(super) fn of(&self, places: std::ops::Range<usize>) -> u64 {
        self.0[places].iter().map(|n| u64::from(*n)).sum()
    }
}

/// Addresses and ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Flow {
    src: u32,
    dst: u32,
    ports: u32,
}

impl Flow {
    fn tag(self) -> u32 {
        self.src ^ self.dst.rotate_left(8) ^ self.ports
    }
}

/// What a look at the headers of a TCP packet tells.
#[derive(Clone, Copy, Debug)]
enum Look {
    /// Of nobody knows which flow: none may have packets moved past it.
    Unknown,
    /// To go alone, with nothing of its flow moved past it.
    Alone(Flow),
    /// A segment that may be joined with others.
    Segment(Segment),
}

/// A segment that may be joined with others.
#[derive(Clone, Copy, Debug)]
struct Segment {
    flow: Flow,
    /// Bytes of all headers, the link's too.
    headers: usize,
    payload: usize,
    seq: u32,
    id: u16,
    push: bool,
}

/// A packet that may take further segments.
#[derive(Clone, Copy, Default)]
struct Gathering {
    flow: Flow,
    /// Its place in the burst that goes out.
    at: usize,
    headers: usize,
    /// Payload of every segment but the last.
    size: usize,
    /// The last cell of the chain.
    last: Cell,
    next_seq: u32,
    next_id: u16,
    /// The checksums of the first segment were found right.
    checked: bool,
}

/// The packets that may take further segments, at most one of a flow.
#[derive(Default)]
struct Table {
    list: [Gathering; FLOWS],
    /// A word of each one's flow, which most others differ in.
    tags: [u32; FLOWS],
    used: usize,
    /// The one that gives way when there is no room, each in its turn.
    victim: usize,
}

impl Table {
    fn find(&self, flow: Flow) -> Option<usize> {
        (0..self.used).find(|i| self.tags[*i] == flow.tag() && self.list[*i].flow == flow)
    }

    fn remove(&mut self, flow: Flow) {
        if let Some(i) = self.find(flow) {
            self.used -= 1;
            self.list[i] = self.list[self.used];
            self.tags[i] = self.tags[self.used];
        }
    }

    fn insert(&mut self, g: Gathering) {
        let i = if self.used < FLOWS {
            self.used += 1;
            self.used - 1
        } else {
            self.victim = (self.victim + 1) % FLOWS;
            self.victim
        };
        self.tags[i] = g.flow.tag();
        self.list[i] = g;
    }
}

impl<'a> Path<'a> {
    /// Joins what can be joined of a burst that leaves by a port. None when that is nothing: the burst is as it was.
    #[inline]
    pub(super) fn coalesce(&mut self, ifp: &Ifnet, burst: &mut Burst) -> Option<Lots> {
        if ifp.offloads & NEEDS != NEEDS || burst.len() < 2 || self.s.tunables.coalesce.load(Relaxed) == 0 {
            return None;
        }
        self.join_all(link_len(ifp), burst)
    }

    #[inline(never)]
    fn join_all(&mut self, link: usize, burst: &mut Burst) -> Option<Lots> {
        let mut table = Table::default();
        let mut lots = [1u8; MAX];
        let n = burst.len();
        let cells = burst.as_mut_slice();
        let mut out = 0;
        for at in 0..n {
            let cell = cells[at];
            let p = self.packet(cell);
            if !is_tcp(&p, link) {
                cells[out] = cell;
                out += 1;
                continue;
            }
            match look(&p, link) {
                Look::Unknown => table.used = 0,
                Look::Alone(flow) => table.remove(flow),
                Look::Segment(s) => {
                    if let Some(i) = table.find(s.flow) {
                        let g = &mut table.list[i];
                        if self.join(cells[g.at], g, cell, &s, link) {
                            lots[g.at] += 1;
                            if s.push || s.payload < g.size {
                                table.remove(s.flow);
                            }
                            continue;
                        }
                        table.remove(s.flow);
                    }
                    if !s.push {
                        table.insert(s.first(cell, out));
                    }
                }
            }
            cells[out] = cell;
            out += 1;
        }
        if out == n {
            return None;
        }
        burst.truncate(out);
        let (mut packets, mut segments) = (0, 0);
        for (c, lot) in burst.iter().zip(&lots).filter(|(_, lot)| **lot > 1) {
            self.describe(c, link);
            packets += 1;
            segments += u64::from(*lot);
        }
        self.tcp_stat(TcpStat::Coalesced, segments);
        self.tcp_stat(TcpStat::CoalescedPackets, packets);
        Some(Lots(lots))
    }

    /// Appends a segment to the packet that gathers its flow's. False, and nothing done, when it is not its continuation in
    /// everything.
    fn join(&self, head: Cell, g: &mut Gathering, cell: Cell, s: &Segment, link: usize) -> bool {
        let (mut first, mut p) = (self.packet(head), self.packet(cell));
        let (h, f) = (first.hdr(), p.hdr());
        let fits = s.seq == g.next_seq
            && s.id == g.next_id
            && s.headers == g.headers
            && s.payload <= g.size
            && first.len() as usize - link + s.payload <= usize::from(u16::MAX)
            && h.mark == f.mark
            && (h.flags ^ f.flags) & pkt_flags::VLAN == 0
            && (h.flags & pkt_flags::VLAN == 0 || h.vlan_tci == f.vlan_tci)
            && alike(&first.data()[..s.headers], &p.data()[..s.headers], link);
        if !fits {
            return false;
        }
        // Last, because it may have to read all that there is.
        g.checked = g.checked || sums_are_right(&first, link);
        if !g.checked || !sums_are_right(&p, link) || !p.pull_front(s.headers) {
            return false;
        }
        // Not by `append`, which looks for the end of the chain.
        self.packet(g.last).hdr_mut().next = cell;
        g.last = cell;
        g.next_seq = s.end();
        g.next_id = s.id.wrapping_add(1);
        let h = first.hdr_mut();
        h.nsegs += 1;
        h.pkt_len += s.payload as u32;
        h.gso_size = g.size as u16;
        if s.push {
            first.data_mut()[link + IP_LEN + 13] |= PSH;
        }
        true
    }

    /// Makes the headers of a chain of segments those of one packet that is to be cut.
    fn describe(&self, cell: Cell, link: usize) {
        let mut p = self.packet(cell);
        let l4 = link + IP_LEN;
        set_length(&mut p, link);
        let h = p.hdr_mut();
        h.flags |= pkt_flags::GSO_TCP4 | pkt_flags::CSUM_PARTIAL;
        h.csum_start = h.data_off + l4 as u16;
        h.csum_offset = TCP_SUM as u16;
        (h.l2_off, h.l3_off, h.l4_off) = (h.data_off, h.data_off + link as u16, h.csum_start);
        (h.ether_type, h.l4_proto) = (TYPE_IPV4, proto::TCP);
    }

    /// Takes a chain of joined segments apart again, to be dropped one by one: calls `f` with each.
    #[cold]
    pub(super) fn take_apart(&mut self, ifp: &Ifnet, cell: Cell, mut f: impl FnMut(&mut Path<'a>, Cell)) {
        let link = link_len(ifp);
        let mut first = self.packet(cell);
        let headers = link + IP_LEN + usize::from(first.data()[link + IP_LEN + 12] >> 4) * 4;
        let h = first.hdr_mut();
        let mut next = std::mem::replace(&mut h.next, CELL_NONE);
        h.nsegs = 1;
        h.pkt_len = u32::from(h.data_len);
        // Its checksum is open now, if it was not before.
        h.flags &= !pkt_flags::GSO_TCP4;
        first.data_mut()[link + IP_LEN + 13] &= !PSH;
        set_length(&mut first, link);
        f(self, cell);
        while self.pool.is_valid(next) {
            let cell = next;
            let mut p = self.packet(cell);
            next = std::mem::replace(&mut p.hdr_mut().next, CELL_NONE);
            // The headers are still there.
            let _ = p.push_front(headers);
            f(self, cell);
        }
    }
}

impl Segment {
    /// Where the next segment's data begins.
    fn end(&self) -> u32 {
        self.seq.wrapping_add(self.payload as u32)
    }

    /// This one as the first of a packet.
    fn first(&self, cell: Cell, at: usize) -> Gathering {
        Gathering {
            flow: self.flow,
            at,
            headers: self.headers,
            size: self.payload,
            last: cell,
            next_seq: self.end(),
            next_id: self.id.wrapping_add(1),
            checked: false,
        }
    }
}

/// Bytes before the IP header. Frames with a tag among their bytes, which only filters of frames bring about on a port that
/// would insert it, go alone.
fn link_len(ifp: &Ifnet) -> usize {
    if ifp.medium == Medium::Ether { HEADER_LEN } else { 0 }
}

/// Whether a packet is of TCP over IPv4. Of the others, which may be all of them, nothing more is read.
#[inline(always)]
fn is_tcp(p: &Packet<'_>, link: usize) -> bool {
    let data = p.data();
    let Some(ip) = data.get(link..link + IP_LEN) else { return false };
    ip[9] == proto::TCP && ip[0] >> 4 == 4 && (link == 0 || be16(data, link - 2) == TYPE_IPV4)
}

/// Looks at the headers of a packet of TCP over IPv4.
fn look(p: &Packet<'_>, link: usize) -> Look {
    let data = p.data();
    let Some(headers) = data.get(link..).and_then(|b| b.first_chunk::<{ IP_LEN + tcp::HEADER_LEN }>()) else {
        return Look::Unknown;
    };
    let (ip, tcp) = (&headers[..IP_LEN], &headers[IP_LEN..]);
    if ip[0] != 0x45 || be16(ip, 6) & (MF | OFFSET_MASK) != 0 {
        return Look::Unknown;
    }
    let flow = Flow { src: be32(ip, 12), dst: be32(ip, 16), ports: be32(tcp, 0) };
    let total = usize::from(be16(ip, 2));
    let headers = link + IP_LEN + usize::from(tcp[12] >> 4) * 4;
    let (hdr, control) = (p.hdr(), tcp[13]);
    let plain = hdr.flags & (GSO | pkt_flags::RX_L4_BAD) == 0
        && hdr.nsegs == 1
        && p.len() as usize == data.len()
        && data.len() == link + total
        && headers >= link + IP_LEN + tcp::HEADER_LEN
        && headers < data.len()
        && be16(ip, 6) == DF
        && control & !PSH == ACK;
    if !plain {
        return Look::Alone(flow);
    }
    let payload = data.len() - headers;
    let (seq, id, push) = (be32(tcp, 4), be16(ip, 4), control & PSH != 0);
    Look::Segment(Segment { flow, headers, payload, seq, id, push })
}

/// Whether headers are the same but for what cutting makes anew: IP's length, identification and checksum, TCP's sequence
/// number, PSH and checksum.
fn alike(a: &[u8], b: &[u8], link: usize) -> bool {
    // The link's header and type of service; DF, time to live and protocol; addresses and ports; acknowledgement and header
    // length; window; urgent pointer and options.
    let ip = link..a.len();
    let (x, y) = (&a[ip.clone()], &b[ip]);
    a[..link + 2] == b[..link + 2]
        && x[6..10] == y[6..10]
        && x[12..24] == y[12..24]
        && x[28..33] == y[28..33]
        && x[34..36] == y[34..36]
        && x[38..] == y[38..]
}

/// Whether the checksums of a packet of one cell are known to be right, or TCP's will be when the device completes it.
fn sums_are_right(p: &Packet<'_>, link: usize) -> bool {
    let (h, l4) = (p.hdr(), link + IP_LEN);
    let (ip, tcp) = p.data()[link..].split_at(IP_LEN);
    // Nobody has looked at the header of what merely passes by, as through a bridge.
    if !ip.first_chunk().is_some_and(header20_ok) {
        return false;
    }
    let pseudo = Sum::new().pseudo(be32(ip, 12), be32(ip, 16), proto::TCP, tcp.len() as u32);
    if h.flags & pkt_flags::CSUM_PARTIAL != 0 {
        let place = (usize::from(h.csum_start), usize::from(h.csum_offset));
        return place == (usize::from(h.data_off) + l4, TCP_SUM) && be16(tcp, TCP_SUM) == pseudo.fold();
    }
    // Whoever changed the packet since the device looked at it has taken the flag off.
    h.flags & pkt_flags::RX_L4_OK != 0 || pseudo.add(tcp).finish() == 0
}

/// Writes the length of a packet into its IP header, and the sum of TCP's pseudo-header, where an open checksum has it.
fn set_length(p: &mut Packet<'_>, link: usize) {
    let total = p.len() as usize - link;
    let (ip, tcp) = p.data_mut()[link..].split_at_mut(IP_LEN);
    put16(ip, 2, total as u16);
    ipv4::refresh_checksum(ip);
    let len = (total - IP_LEN) as u32;
    put16(tcp, TCP_SUM, Sum::new().pseudo(be32(ip, 12), be32(ip, 16), proto::TCP, len).fold());
}
