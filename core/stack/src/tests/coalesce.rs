//! Segments of TCP flows on their way out of a port that cuts packets: which leave together, and that cutting gives them back.

use super::express::Random;
use super::frames::*;
use super::rig::*;
use crate::types::{Dirs, IfCounters, Layer};
use crate::wire::checksum::Sum;
use crate::wire::ipv4::{self, DF, MF, proto};
use smpnet_abi::{Cell, DropReason, offload, pkt_flags};
use smpnet_runtime::{HookCx, PfilHook, Value};
use std::sync::Arc;

const CUTS: u32 = offload::TX_CSUM | offload::TSO4 | offload::SCATTER;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const URG: u8 = 0x20;
const ECE: u8 = 0x40;
const CWR: u8 = 0x80;

/// A segment from host A to host B. Whatever a test bends, the checksums are right.
#[derive(Clone)]
struct Seg {
    ip: ipv4::Ipv4,
    port: u16,
    seq: u32,
    ack: u32,
    control: u8,
    window: u16,
    urgent: u16,
    options: Vec<u8>,
    len: usize,
}

type Bend = fn(&mut Seg);

/// A timestamp (RFC 7323), as nearly every segment has.
const OPTIONS: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];

impl Seg {
    /// Segment `i` of those of `size` bytes.
    fn new(i: usize, size: usize) -> Seg {
        let mut ip = header("10.0.1.2", "10.0.2.2", proto::TCP, 0);
        // Identification and sequence number pass through 0.
        (ip.id, ip.frag) = (0xfffeu16.wrapping_add(i as u16), DF);
        let seq = 0xffff_f000u32.wrapping_add((i * size) as u32);
        Seg { ip, port: 80, seq, ack: 7, control: ACK, window: 500, urgent: 0, options: OPTIONS.to_vec(), len: size }
    }

    fn with(mut self, bend: impl FnOnce(&mut Seg)) -> Seg {
        bend(&mut self);
        self
    }

    fn tcp(&self) -> Vec<u8> {
        let mut b = vec![0u8; 20];
        b[..4].copy_from_slice(&[0x10, 0, (self.port >> 8) as u8, self.port as u8]);
        b[4..8].copy_from_slice(&self.seq.to_be_bytes());
        b[8..12].copy_from_slice(&self.ack.to_be_bytes());
        (b[12], b[13]) = (((20 + self.options.len()) << 2) as u8, self.control);
        b[14..16].copy_from_slice(&self.window.to_be_bytes());
        b[18..20].copy_from_slice(&self.urgent.to_be_bytes());
        b.extend_from_slice(&self.options);
        b.extend((0..self.len).map(|i| (self.seq.wrapping_add(i as u32).wrapping_mul(0x9e37_79b9) >> 24) as u8));
        b
    }

    fn pseudo(&self, len: usize) -> Sum {
        Sum::new().pseudo(self.ip.src, self.ip.dst, proto::TCP, len as u32)
    }

    /// As it comes to the first port of `r`.
    fn wire(&self, r: &Rig) -> Wire {
        let mut tcp = self.tcp();
        let sum = self.pseudo(tcp.len()).add(&tcp).finish();
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        self.around(r, &tcp)
    }

    /// The same with its checksum left open.
    fn open_wire(&self, r: &Rig) -> Wire {
        let mut tcp = self.tcp();
        let sum = self.pseudo(tcp.len()).fold();
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        Wire { flags: OPEN, csum_start: 34, csum_offset: 16, ..self.around(r, &tcp) }
    }

    fn around(&self, r: &Rig, tcp: &[u8]) -> Wire {
        let mut ip = self.ip;
        ip.total_len = (ip.header_len + tcp.len()) as u16;
        Wire { bytes: ip_frame(r.mac(0), mac(HOST_A), &packet(ip, tcp)), ..Wire::default() }
    }
}

/// The router of the tests whose way out takes what `offloads` says.
fn router(offloads: u32) -> Rig {
    let mut r = Rig::new(1);
    r.port("a0", "10.0.1.1/24");
    r.port_with("b0", "10.0.2.1/24", offloads, 1, 1);
    r.teach(0, "10.0.1.2", HOST_A);
    r.teach(1, "10.0.2.2", HOST_B);
    r
}

/// Lets packets come as bursts, and takes what went out.
fn forward(r: &mut Rig, wires: impl IntoIterator<Item = Wire>) -> Vec<Wire> {
    r.wire(0).rx.lock().unwrap().extend(wires);
    r.run();
    let out = r.take_wires(1);
    r.balanced();
    out
}

/// The counters of the way out.
fn counters(r: &Rig) -> IfCounters {
    r.stack.interfaces().into_iter().find(|i| i.index == r.index(1)).unwrap().counters
}

fn number(r: &Rig, node: &str) -> u64 {
    match r.rt.sysctl().get(node).unwrap() {
        Value::UInt(n) => n,
        other => panic!("{node} is {other:?}"),
    }
}

/// Segments that left in larger packets, and these packets.
fn joined(r: &Rig) -> (u64, u64) {
    (number(r, "net.inet.tcp.stats.coalesced"), number(r, "net.inet.tcp.stats.coalesced_packets"))
}

/// Lets packets go on through a router whose way out takes nothing but plain packets.
fn cut(r: &mut Rig, wires: &[Wire]) -> Vec<Vec<u8>> {
    let to = r.mac(0);
    let again = wires.iter().cloned().map(|mut w| {
        w.bytes[..6].copy_from_slice(&to.bytes);
        w
    });
    let again: Vec<_> = again.collect();
    forward(r, again).into_iter().map(|w| w.bytes).collect()
}

#[test]
fn segments_that_leave_together_are_one_packet_and_cutting_gives_them_back() {
    for open in [false, true] {
        let (mut plain, mut r) = (Rig::router(), router(CUTS));
        let segs = (0..6).map(|i| Seg::new(i, 1000)).chain([Seg::new(6, 1000).with(|s| {
            s.len = 399;
            s.control |= PSH;
        })]);
        let wires: Vec<_> = segs.map(|s| if open { s.open_wire(&r) } else { s.wire(&r) }).collect();
        let before = counters(&r);
        let singly = forward(&mut plain, wires.clone());
        let out = forward(&mut r, wires);
        assert_eq!(out.len(), 1);
        let w = &out[0];
        assert_eq!(w.flags & (pkt_flags::GSO_TCP4 | OPEN), pkt_flags::GSO_TCP4 | OPEN);
        assert_eq!((w.gso_size, w.csum_start, w.csum_offset), (1000, 34, 16));
        let (h, tcp) = ip_of(&w.bytes);
        assert_eq!((usize::from(h.total_len), w.bytes.len()), (20 + 32 + 6399, 14 + 20 + 32 + 6399));
        assert_eq!((h.id, h.ttl, tcp[13]), (0xfffe, 63, ACK | PSH));
        let open_sum = Sum::new().pseudo(h.src, h.dst, proto::TCP, 32 + 6399).fold();
        assert_eq!(tcp[16..18], open_sum.to_be_bytes());

        let singly: Vec<_> = singly.into_iter().map(|w| w.bytes).collect();
        let after = counters(&r);
        let bytes = singly.iter().map(|b| b.len() as u64).sum::<u64>();
        assert_eq!((after.opackets - before.opackets, after.obytes - before.obytes), (7, bytes));
        assert_eq!(joined(&r), (7, 1));
        let plain_wires: Vec<_> = singly.into_iter().map(|bytes| Wire { bytes, ..Wire::default() }).collect();
        assert_eq!(cut(&mut plain, &out), cut(&mut plain, &plain_wires));
    }
}

#[test]
fn only_a_port_that_takes_all_of_it_and_only_when_wanted() {
    for lacks in [offload::TX_CSUM, offload::TSO4, offload::SCATTER] {
        let mut r = router(CUTS & !lacks);
        let wires: Vec<_> = (0..4).map(|i| Seg::new(i, 1000).wire(&r)).collect();
        assert_eq!((forward(&mut r, wires).len(), joined(&r)), (4, (0, 0)));
    }
    let mut r = router(CUTS);
    for (wanted, packets) in [("0", 4), ("1", 1)] {
        r.rt.sysctl().set("net.inet.tcp.coalesce", wanted).unwrap();
        let wires: Vec<_> = (0..4).map(|i| Seg::new(i, 1000).wire(&r)).collect();
        assert_eq!(forward(&mut r, wires).len(), packets);
    }
}

/// Sends a segment and `second` behind it; both must go alone and as if nobody had thought of joining them.
fn stay_apart(what: &str, second: impl Fn(Seg, &Rig) -> Wire) {
    let (mut plain, mut r) = (router(CUTS), router(CUTS));
    plain.rt.sysctl().set("net.inet.tcp.coalesce", "0").unwrap();
    let wires = |r: &Rig| [Seg::new(0, 1000).wire(r), second(Seg::new(1, 1000), r)];
    let (singly, out) = (wires(&plain), wires(&r));
    let (singly, out) = (forward(&mut plain, singly), forward(&mut r, out));
    assert_eq!(out.len(), 2, "{what}");
    for (w, as_it_came) in out.iter().zip(&singly) {
        assert_eq!((&w.bytes, w.flags, w.gso_size), (&as_it_came.bytes, as_it_came.flags, 0), "{what}");
    }
    assert_eq!(joined(&r), (0, 0), "{what}");
}

#[test]
fn what_differs_in_anything_but_its_place_in_the_stream_goes_alone() {
    let bends: [(&str, Bend); 26] = [
        ("source", |s| s.ip.src += 1),
        ("destination port", |s| s.port = 81),
        ("type of service", |s| s.ip.tos = 4),
        ("congestion mark", |s| s.ip.tos = 3),
        ("time to live", |s| s.ip.ttl = 63),
        ("no DF", |s| s.ip.frag = 0),
        ("a reserved bit", |s| s.ip.frag |= 0x8000),
        ("a fragment", |s| s.ip.frag = MF),
        ("the same identification", |s| s.ip.id = 0xfffe),
        ("a later identification", |s| s.ip.id += 1),
        ("an option of IP", |s| s.ip.header_len = 24),
        ("a gap", |s| s.seq = s.seq.wrapping_add(1)),
        ("a repetition", |s| s.seq = s.seq.wrapping_sub(1000)),
        ("acknowledgement", |s| s.ack += 1),
        ("window", |s| s.window += 1),
        ("urgent pointer", |s| s.urgent = 1),
        ("a later timestamp", |s| s.options[7] = 2),
        ("no options", |s| s.options.clear()),
        ("longer", |s| s.len = 1001),
        ("no data", |s| s.len = 0),
        ("no ACK", |s| s.control = PSH),
        ("FIN", |s| s.control |= FIN),
        ("SYN", |s| s.control |= SYN),
        ("RST", |s| s.control |= RST),
        ("URG", |s| s.control |= URG),
        ("ECE", |s| s.control |= ECE),
    ];
    for (what, bend) in bends {
        stay_apart(what, |s, r| s.with(bend).wire(r));
    }
    stay_apart("CWR", |s, r| s.with(|s| s.control |= CWR).wire(r));
    stay_apart("a reserved bit of TCP", |s, r| {
        let mut w = s.wire(r);
        w.bytes[14 + 20 + 12] |= 1;
        let sum = crate::wire::checksum::update(u16::from_be_bytes([w.bytes[50], w.bytes[51]]), 0x8010, 0x8110);
        w.bytes[50..52].copy_from_slice(&sum.to_be_bytes());
        w
    });
}

#[test]
fn a_wrong_checksum_goes_out_wrong_and_alone() {
    stay_apart("a flipped bit", |s, r| {
        let mut w = s.wire(r);
        *w.bytes.last_mut().unwrap() ^= 1;
        w
    });
    stay_apart("what the device found wrong", |s, r| Wire { flags: pkt_flags::RX_L4_BAD, ..s.wire(r) });
    stay_apart("an open checksum that will come out wrong", |s, r| {
        let mut w = s.open_wire(r);
        w.bytes[51] ^= 1;
        w
    });
    stay_apart("an open checksum of something else", |s, r| Wire { csum_start: 30, ..s.open_wire(r) });
    // A wrong one in front neither, and what follows it is joined without it.
    let mut r = router(CUTS);
    let mut wires: Vec<_> = (0..4).map(|i| Seg::new(i, 1000).wire(&r)).collect();
    *wires[0].bytes.last_mut().unwrap() ^= 1;
    let out = forward(&mut r, wires);
    assert_eq!((out.len(), joined(&r)), (2, (3, 1)));
    assert_eq!((out[0].flags & OPEN, out[1].gso_size), (0, 1000));
}

#[test]
fn what_the_device_has_verified_is_not_read_again() {
    let mut r = router(CUTS);
    // Wrong, to show who was believed.
    let wires: Vec<_> = (0..2).map(|i| Seg::new(i, 1000).wire(&r)).collect();
    let wires = wires.into_iter().map(|mut w| {
        *w.bytes.last_mut().unwrap() ^= 1;
        Wire { flags: pkt_flags::RX_L4_OK, ..w }
    });
    let wires: Vec<_> = wires.collect();
    assert_eq!((forward(&mut r, wires).len(), joined(&r)), (1, (2, 1)));
}

/// What a filter does to packets of odd identification.
#[derive(Clone, Copy, Debug)]
enum Odd {
    Mark,
    Tag,
    /// As a frame may come through a bridge, which does not look.
    BreakHeader,
}

impl PfilHook for Odd {
    fn name(&self) -> &str {
        "odd"
    }

    fn filter(&self, cx: &HookCx<'_>, cells: &[Cell], _: &mut [u32]) -> bool {
        for c in cells {
            let mut p = cx.pool.packet(*c);
            let odd = p.data()[14 + 5] & 1;
            match self {
                Odd::Mark => p.hdr_mut().mark = odd.into(),
                Odd::Tag => {
                    let h = p.hdr_mut();
                    (h.flags, h.vlan_tci) = (h.flags | pkt_flags::VLAN, odd.into());
                }
                Odd::BreakHeader => p.data_mut()[14 + 10] ^= odd,
            }
        }
        true
    }
}

#[test]
fn marks_tags_and_broken_headers_keep_packets_apart() {
    for what in [Odd::Mark, Odd::Tag, Odd::BreakHeader] {
        let mut r = router(CUTS | offload::TX_VLAN);
        r.stack.pfil_attach(Layer::Ether, None, Dirs::Out, 0, Arc::new(what)).unwrap();
        let wires: Vec<_> = (0..4).map(|i| Seg::new(i, 1000).wire(&r)).collect();
        assert_eq!((forward(&mut r, wires).len(), joined(&r)), (4, (0, 0)), "{what:?}");
    }
}

#[test]
fn a_packet_ends_with_push_with_a_short_segment_and_at_64_kib() {
    let lens = |segs: Vec<Seg>| -> Vec<usize> {
        let mut r = router(CUTS);
        let wires: Vec<_> = segs.iter().map(|s| s.wire(&r)).collect();
        forward(&mut r, wires).iter().map(|w| w.bytes.len() - 66).collect()
    };
    let push = |i| Seg::new(i, 1000).with(|s| s.control |= PSH);
    assert_eq!(lens(vec![Seg::new(0, 1000), push(1), Seg::new(2, 1000), push(3)]), [2000, 2000]);
    assert_eq!(lens(vec![push(0), Seg::new(1, 1000), Seg::new(2, 1000)]), [1000, 2000]);
    let short = |i| Seg::new(i, 1000).with(|s| s.len = 999);
    let next = Seg::new(2, 1000).with(|s| s.seq = s.seq.wrapping_sub(1));
    assert_eq!(lens(vec![Seg::new(0, 1000), short(1), next]), [1999, 1000]);
    // 45 segments of 1,448 bytes are more than IP can say.
    assert_eq!(lens((0..46).map(|i| Seg::new(i, 1448)).collect()), [45 * 1448, 1448]);
    assert_eq!(lens((0..64).map(|i| Seg::new(i, 1)).collect()), [64]);
}

#[test]
fn nothing_of_a_flow_is_moved_past_anything_of_it() {
    // What stands between the second and the third segment, and in how many packets all go out.
    let ack = |s: &mut Seg| s.len = 0;
    let fragment = |s: &mut Seg| (s.ip.frag, s.len) = (MF, 16);
    let other = |s: &mut Seg| s.port = 81;
    let bends: [(&str, Bend, usize); 3] = [("ack", ack, 3), ("fragment", fragment, 3), ("other flow", other, 2)];
    for (what, bend, packets) in bends {
        let mut r = router(CUTS);
        let mut segs: Vec<_> = (0..4).map(|i| Seg::new(i, 1000)).collect();
        segs.insert(2, Seg::new(2, 1000).with(bend));
        let wires: Vec<_> = segs.iter().map(|s| s.wire(&r)).collect();
        let out = forward(&mut r, wires);
        let lens: Vec<_> = out.iter().map(|w| w.bytes.len()).collect();
        assert_eq!(out.len(), packets, "{what}: {lens:?}");
        // UDP is no reason to wait.
        let mut wires: Vec<_> = (0..4).map(|i| Seg::new(i, 1000).wire(&r)).collect();
        let bytes = ip_frame(r.mac(0), mac(HOST_A), &udp("10.0.1.2", "10.0.2.2", 1, 2, &[0; 100]));
        wires.insert(2, Wire { bytes, ..Wire::default() });
        assert_eq!(forward(&mut r, wires).len(), 2);
    }
}

#[test]
fn flows_in_turns_are_gathered_side_by_side() {
    // One more than there is room for still leaves the other ones.
    for flows in [2, 8] {
        let mut r = router(CUTS);
        let wires: Vec<_> = (0..4)
            .flat_map(|i| (0..flows).map(move |f| Seg::new(i, 500).with(|s| s.port = f)))
            .map(|s| s.wire(&r))
            .collect();
        let out = forward(&mut r, wires);
        assert_eq!((out.len(), joined(&r).0), (usize::from(flows), 4 * u64::from(flows)));
    }
}

#[test]
fn a_full_ring_drops_every_segment_and_counts_each() {
    let mut r = router(CUTS);
    *r.wire(1).room.lock().unwrap() = Some(1);
    let before = counters(&r);
    // Two packets of three segments, and one alone.
    let segs = (0..6).map(|i| if i < 3 { Seg::new(i, 1000) } else { Seg::new(i, 1000).with(|s| s.window = 3) });
    let last = Seg::new(6, 1000).with(|s| (s.port, s.control) = (81, ACK | PSH));
    let wires: Vec<_> = segs.chain([last]).map(|s| s.wire(&r)).collect();
    let lens: Vec<_> = wires.iter().map(|w| w.bytes.len() as u64).collect();
    let out = forward(&mut r, wires);
    let after = counters(&r);
    assert_eq!((out.len(), joined(&r), r.dropped(DropReason::TxRingFull)), (1, (6, 2), 4));
    assert_eq!((after.opackets - before.opackets, after.oerrors - before.oerrors), (3, 4));
    assert_eq!(after.obytes - before.obytes, lens[..3].iter().sum::<u64>());
}

#[test]
fn random_bursts_come_out_of_a_port_that_cuts_as_they_came() {
    let mut random = Random(0x1f83_d9ab_fb41_bd6b);
    let (mut plain, mut r) = (Rig::router(), router(CUTS));
    for r in [&plain, &r] {
        // Unusual packets, such as fragments, are forwarded after those of a burst that go straight.
        r.rt.sysctl().set("net.inet.ip.express", "0").unwrap();
    }
    let mut all = 0;
    for round in 0..500 {
        let mut next: Vec<_> = (0..3).map(|f| Seg::new(0, 100 + 611 * f)).collect();
        let wires: Vec<_> = (0..1 + random.below(100))
            .map(|_| {
                let f = random.below(3) as usize;
                next[f].port = f as u16;
                let mut s = next[f].clone();
                let flips = random.below(40);
                match flips {
                    0 => s.control |= PSH,
                    1 => s.len = 1 + random.below(s.len as u64) as usize,
                    2 => s.control |= random.one(&[FIN, RST, URG, ECE, CWR]),
                    3 => s.len = 0,
                    4 => s.ip.id = random.below(65536) as u16,
                    5 => s.seq = random.below(1 << 32) as u32,
                    6 => s.ip.ttl = 9,
                    7 => s.window = 9,
                    8 => s.options = vec![1; random.one(&[0, 4, 12])],
                    9 => s.ip.frag = random.one(&[0, MF, MF | DF, 0x8000 | DF]),
                    10 => s.len += 1,
                    _ => {}
                }
                (next[f].seq, next[f].ip.id) = (s.seq.wrapping_add(s.len as u32), s.ip.id.wrapping_add(1));
                match flips {
                    // Not open in a fragment, of which no device would say so.
                    11..20 => s.open_wire(&r),
                    20 => {
                        let mut w = s.wire(&r);
                        let at = 34 + random.below(w.bytes.len() as u64 - 34) as usize;
                        w.bytes[at] ^= 1 << random.below(8);
                        w
                    }
                    21 => Wire { flags: pkt_flags::RX_L4_OK, ..s.wire(&r) },
                    _ => s.wire(&r),
                }
            })
            .collect();
        let singly = forward(&mut plain, wires.clone());
        let out = forward(&mut r, wires);
        all += singly.len();
        let (out, singly) = (by_flow(cut(&mut plain, &out)), by_flow(cut(&mut plain, &singly)));
        // Not `assert_eq`: it would print them all.
        let wrong = out.iter().zip(&singly).position(|(a, b)| a != b);
        assert_eq!((out.len(), wrong), (singly.len(), None), "round {round}");
    }
    let merged = joined(&r).0 as usize;
    assert!(merged > all / 4, "{merged} of {all}");
}

/// Frames in the order of each flow.
fn by_flow(mut frames: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    frames.sort_by_key(|f| f[26..38].to_vec());
    frames
}

#[test]
fn a_packet_of_several_segments_is_not_overtaken_by_those_behind_it() {
    let mut r = router(CUTS);
    r.rt.sysctl().set("net.inet.tcp.coalesce", "0").unwrap();
    // From then on the way is prepared.
    let first = vec![Seg::new(0, 10).wire(&r)];
    assert_eq!(forward(&mut r, first).len(), 1);
    let wires: Vec<_> = (1..8)
        .map(|i| match i {
            3 | 5 => Seg::new(i, 1000).open_wire(&r),
            _ => Seg::new(i, 1000).wire(&r),
        })
        .map(|mut w| {
            if w.flags & pkt_flags::CSUM_PARTIAL != 0 {
                (w.flags, w.gso_size) = (w.flags | pkt_flags::GSO_TCP4, 500);
            }
            w
        })
        .collect();
    let sent: Vec<_> = wires.iter().map(|w| w.bytes[38..42].to_vec()).collect();
    let out: Vec<_> = forward(&mut r, wires).iter().map(|w| w.bytes[38..42].to_vec()).collect();
    assert_eq!(out, sent, "sequence numbers");
    let straight = r.stack.protocol_stats().ip.iter().find(|(n, _)| *n == "fastforward").unwrap().1;
    assert!(straight >= 2, "those before it go straight");
}
