use super::frames::*;
use super::rig::*;
use crate::wire::checksum::Sum;
use crate::wire::icmp::ty;
use crate::wire::ipv4::{DF, Ipv4, MF, proto};
use smpnet_abi::{DropReason, offload, pkt_flags};

fn big(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 7 + i / 256) as u8).collect()
}

/// A datagram cut by hand: `cuts` are offsets of the payload in bytes.
fn pieces(id: u16, payload: &[u8], proto: u8, dst: &str, cuts: &[usize]) -> Vec<Vec<u8>> {
    let mut bounds = vec![0];
    bounds.extend_from_slice(cuts);
    bounds.push(payload.len());
    bounds
        .windows(2)
        .map(|w| {
            let mut h = header("10.0.1.2", dst, proto, w[1] - w[0]);
            h.id = id;
            h.frag = (w[0] / 8) as u16 | if w[1] < payload.len() { MF } else { 0 };
            packet(h, &payload[w[0]..w[1]])
        })
        .collect()
}

#[test]
fn a_large_packet_is_cut_into_fragments_that_make_it_whole_again() {
    let mut r = Rig::router();
    r.stack.set_mtu(r.index(1), 600).unwrap();
    let data = big(1400);
    r.host_a(&udp("10.0.1.2", "10.0.2.2", 1, 2, &data));
    let out = r.take(1);
    assert_eq!(out.len(), 3);
    let mut whole = vec![0; 1408];
    for (i, f) in out.iter().enumerate() {
        let (h, body) = ip_of(f);
        assert!(usize::from(h.total_len) <= 600);
        assert_eq!((h.ttl, h.id), (63, 0x1234));
        assert_eq!(h.frag & MF != 0, i < 2);
        let at = usize::from(h.frag & 0x1fff) * 8;
        whole[at..at + body.len()].copy_from_slice(&body);
    }
    assert_eq!(whole, udp_payload("10.0.1.2", "10.0.2.2", 1, 2, &data));
    assert_eq!((r.stat("fragmented"), r.stat("ofragments")), (1, 3));
    r.balanced();
}

#[test]
fn fragments_are_forwarded_as_they_are() {
    let mut r = Rig::router();
    let payload = udp_payload("10.0.1.2", "10.0.2.2", 1, 2, &big(1000));
    for p in pieces(9, &payload, proto::UDP, "10.0.2.2", &[504]) {
        r.host_a(&p);
    }
    let out = r.take(1);
    assert_eq!(out.len(), 2);
    assert_eq!(ip_of(&out[1]).0.frag, 63);
    assert_eq!(r.stat("fragments"), 0);
    r.balanced();
}

#[test]
fn a_large_ping_to_us_in_fragments_is_answered_whole() {
    let mut r = Rig::router();
    let e = echo("10.0.1.2", "10.0.1.1", 3, &big(5000));
    let mut parts = pieces(77, &e[20..], proto::ICMP, "10.0.1.1", &[1480, 2960, 4440]);
    parts.swap(0, 2);
    for p in parts {
        r.host_a(&p);
    }
    assert_eq!(r.stat("reassembled"), 1);
    let out = r.take(0);
    assert_eq!(out.len(), 4, "the answer is cut again for the MTU");
    let mut whole = vec![0; 5008];
    for f in &out {
        let (h, body) = ip_of(f);
        let at = usize::from(h.frag & 0x1fff) * 8;
        whole[at..at + body.len()].copy_from_slice(&body);
    }
    assert_eq!(whole[0], ty::ECHO_REPLY);
    assert_eq!(whole[8..], big(5000));
    assert_eq!(crate::wire::checksum::checksum(&whole), 0);
    r.balanced();
}

#[test]
fn overlapping_fragments_end_their_datagram() {
    let mut r = Rig::router();
    let e = echo("10.0.1.2", "10.0.1.1", 3, &big(1000));
    let parts = pieces(5, &e[20..], proto::ICMP, "10.0.1.1", &[504]);
    r.host_a(&parts[0]);
    let mut h = header("10.0.1.2", "10.0.1.1", proto::ICMP, 64);
    (h.id, h.frag) = (5, (496 / 8) | MF);
    r.host_a(&packet(h, &[0; 64]));
    assert_eq!(r.dropped(DropReason::ReassBad), 2);
    r.host_a(&parts[1]);
    assert!(r.take(0).is_empty());
    assert_eq!(r.stack.accounting().held, 1);
    r.balanced();
}

#[test]
fn an_incomplete_datagram_is_given_up_after_thirty_seconds() {
    let mut r = Rig::router();
    let e = echo("10.0.1.2", "10.0.1.1", 3, &big(1000));
    r.host_a(&pieces(5, &e[20..], proto::ICMP, "10.0.1.1", &[504])[0]);
    r.advance(29);
    assert_eq!(r.stack.accounting().held, 1);
    r.advance(3);
    assert_eq!((r.stack.accounting().held, r.dropped(DropReason::ReassTimeout)), (0, 1));
    // The router asked for A's address again meanwhile; the error is the IP packet.
    let sent = r.take(0);
    let (_, icmp, _) = icmp_of(sent.iter().find(|f| arp_of(f).is_none()).unwrap());
    assert_eq!((icmp.ty, icmp.code), (ty::TIME_EXCEEDED, 1));
    r.balanced();
}

#[test]
fn the_datagram_above_the_limit_is_refused_and_the_others_complete() {
    let mut r = Rig::router();
    let e = echo("10.0.1.2", "10.0.1.1", 3, &big(100));
    for id in 0..201 {
        r.host_a(&pieces(id, &e[20..], proto::ICMP, "10.0.1.1", &[48])[0]);
    }
    assert_eq!(r.dropped(DropReason::ReassLimit), 1);
    assert_eq!(r.stack.accounting().held, 200);
    r.host_a(&pieces(0, &e[20..], proto::ICMP, "10.0.1.1", &[48])[1]);
    assert_eq!(r.stat("reassembled"), 1);
    assert_eq!(r.take(0).len(), 1);
    r.balanced();
}

#[test]
fn fragments_find_each_other_on_two_workers() {
    let mut r = Rig::new(2);
    r.port_with("a0", "10.0.1.1/24", 0, 2, 2);
    r.teach(0, "10.0.1.2", HOST_A);
    let e = echo("10.0.1.2", "10.0.1.1", 3, &big(3000));
    let frames: Vec<_> = pieces(5, &e[20..], proto::ICMP, "10.0.1.1", &[1000, 2000])
        .iter()
        .map(|p| ip_frame(r.mac(0), mac(HOST_A), p))
        .collect();
    for f in frames {
        r.send(0, f);
    }
    assert_eq!(r.stat("reassembled"), 1);
    assert_eq!(r.take(0).len(), 3);
    r.balanced();
}

#[test]
fn filters_that_ask_see_whole_packets_which_are_cut_again_on_the_way_out() {
    let mut r = Rig::router();
    r.stack.filters_want_whole_packets(true);
    let payload = udp_payload("10.0.1.2", "10.0.2.2", 1, 2, &big(2000));
    for p in pieces(9, &payload, proto::UDP, "10.0.2.2", &[1000]) {
        r.host_a(&p);
    }
    assert_eq!((r.stat("reassembled"), r.stat("ofragments")), (1, 2));
    assert_eq!(r.take(1).len(), 2);
    r.stack.filters_want_whole_packets(false);
    r.balanced();
}

#[test]
fn an_open_checksum_is_completed_for_a_port_that_cannot() {
    let mut r = Rig::router();
    let data = b"to be summed";
    let mut p = udp("10.0.1.2", "10.0.2.2", 1, 2, data);
    let right = p[26..28].to_vec();
    let len = (8 + data.len()) as u32;
    let open = Sum::new().pseudo(ip("10.0.1.2"), ip("10.0.2.2"), 17, len).fold();
    p[26..28].copy_from_slice(&open.to_be_bytes());
    let bytes = ip_frame(r.mac(0), mac(HOST_A), &p);
    r.send_wire(0, Wire { bytes, flags: OPEN, csum_start: 34, csum_offset: 6, ..Wire::default() });
    let out = r.take_wires(1);
    assert_eq!(out[0].flags & pkt_flags::CSUM_PARTIAL, 0);
    assert_eq!(out[0].bytes[40..42], right);
    r.balanced();
}

#[test]
fn offload_flags_are_carried_to_a_port_that_can() {
    let mut r = Rig::new(1);
    r.port("a0", "10.0.1.1/24");
    r.port_with("b0", "10.0.2.1/24", offload::TX_CSUM | offload::TSO4 | offload::SCATTER, 1, 1);
    r.teach(0, "10.0.1.2", HOST_A);
    r.teach(1, "10.0.2.2", HOST_B);
    r.send_wire(0, tcp_wire(&r, 4000, DF));
    let out = r.take_wires(1);
    assert_eq!(out.len(), 1);
    let w = &out[0];
    assert_eq!(
        w.flags & (pkt_flags::GSO_TCP4 | pkt_flags::CSUM_PARTIAL),
        pkt_flags::GSO_TCP4 | pkt_flags::CSUM_PARTIAL
    );
    assert_eq!((w.gso_size, w.csum_start, w.csum_offset), (1448, 34, 16));
    assert_eq!(ip_of(&w.bytes).0.ttl, 63);
    r.balanced();
}

/// A TCP packet of several segments as a Linux peer's vnet header describes it.
fn tcp_wire(r: &Rig, n: usize, frag: u16) -> Wire {
    let mut seg = vec![0u8; 20];
    seg[..4].copy_from_slice(&[0x10, 0, 0, 80]);
    seg[4..8].copy_from_slice(&1000u32.to_be_bytes());
    seg[12] = 5 << 4;
    seg[13] = 0x18;
    seg.extend_from_slice(&big(n));
    let open = Sum::new().pseudo(ip("10.0.1.2"), ip("10.0.2.2"), 6, seg.len() as u32).fold();
    seg[16..18].copy_from_slice(&open.to_be_bytes());
    let mut h = header("10.0.1.2", "10.0.2.2", proto::TCP, seg.len());
    h.frag = frag;
    Wire {
        bytes: ip_frame(r.mac(0), mac(HOST_A), &packet(h, &seg)),
        flags: pkt_flags::GSO_TCP4 | pkt_flags::CSUM_PARTIAL,
        gso_size: 1448,
        csum_start: 34,
        csum_offset: 16,
        ..Wire::default()
    }
}

#[test]
fn a_tcp_packet_is_segmented_for_a_port_that_cannot() {
    // With checksums left to it (as to AF_XDP) or not.
    for offloads in [0, offload::TX_CSUM | offload::SCATTER] {
        a_tcp_packet_is_segmented_for(offloads);
    }
}

fn a_tcp_packet_is_segmented_for(offloads: u32) {
    let mut r = Rig::new(1);
    r.port("a0", "10.0.1.1/24");
    r.port_with("b0", "10.0.2.1/24", offloads, 1, 1);
    r.teach(0, "10.0.1.2", HOST_A);
    r.teach(1, "10.0.2.2", HOST_B);
    let w = tcp_wire(&r, 4000, DF);
    r.send_wire(0, w);
    let out = r.take_wires(1);
    assert_eq!(out.len(), 3);
    let mut data = Vec::new();
    for (i, w) in out.iter().enumerate() {
        assert_eq!(w.flags & (pkt_flags::GSO_TCP4 | pkt_flags::CSUM_PARTIAL), 0);
        let (h, body) = ip_of(&w.bytes);
        assert_eq!((h.id, h.ttl), (0x1234 + i as u16, 63));
        let sum = Sum::new().pseudo(h.src, h.dst, 6, body.len() as u32).add(&body);
        assert_eq!(sum.finish(), 0, "TCP checksum of segment {i}");
        assert_eq!(u32::from_be_bytes([body[4], body[5], body[6], body[7]]) as usize, 1000 + data.len());
        assert_eq!(body[13], if i == 2 { 0x18 } else { 0x10 }, "PSH in the last segment only");
        data.extend_from_slice(&body[20..]);
    }
    assert_eq!(data, big(4000));
    r.balanced();
}

#[test]
fn segments_are_made_smaller_for_a_smaller_mtu_unless_that_is_forbidden() {
    let mut r = Rig::router();
    r.stack.set_mtu(r.index(1), 1000).unwrap();
    let w = tcp_wire(&r, 4000, 0);
    r.send_wire(0, w);
    let out = r.take(1);
    assert_eq!(out.len(), 5);
    assert!(out.iter().all(|f| ip_of(f).0.total_len <= 1000));
    let w = tcp_wire(&r, 4000, DF);
    r.send_wire(0, w);
    assert!(r.take(1).is_empty());
    assert_eq!(icmp_of(&r.take(0)[0]).1.rest, 1000);
    r.balanced();
}

/// UDP messages in one packet, as a Linux peer's vnet header describes them.
fn udp_wire(r: &Rig, n: usize, gso_size: u16) -> Wire {
    let mut seg = vec![0u8; 8];
    seg[..4].copy_from_slice(&[0x10, 0, 0, 80]);
    seg[4..6].copy_from_slice(&(8 + n as u16).to_be_bytes());
    seg.extend_from_slice(&big(n));
    let open = Sum::new().pseudo(ip("10.0.1.2"), ip("10.0.2.2"), 17, seg.len() as u32).fold();
    seg[6..8].copy_from_slice(&open.to_be_bytes());
    let mut h = header("10.0.1.2", "10.0.2.2", proto::UDP, seg.len());
    (h.frag, h.id) = (DF, 0xfffe);
    Wire {
        bytes: ip_frame(r.mac(0), mac(HOST_A), &packet(h, &seg)),
        flags: pkt_flags::GSO_UDP | pkt_flags::CSUM_PARTIAL,
        gso_size,
        csum_start: 34,
        csum_offset: 6,
        ..Wire::default()
    }
}

/// The messages in segments, whose lengths, checksums and identifications are in order.
fn messages(packets: &[(Ipv4, Vec<u8>)]) -> Vec<Vec<u8>> {
    let check = |(i, (h, body)): (usize, &(Ipv4, Vec<u8>))| {
        assert_eq!((h.id, h.ttl, h.frag, h.proto), (0xfffe_u16.wrapping_add(i as u16), 63, DF, proto::UDP));
        assert_eq!(usize::from(h.total_len), 20 + body.len());
        assert_eq!(usize::from(u16::from_be_bytes([body[4], body[5]])), body.len(), "UDP length of {i}");
        assert_ne!(body[6..8], [0, 0], "0 would mean no checksum");
        let sum = Sum::new().pseudo(h.src, h.dst, 17, body.len() as u32).add(body);
        assert_eq!(sum.finish(), 0, "UDP checksum of {i}");
        assert_eq!(body[..4], [0x10, 0, 0, 80]);
        body[8..].to_vec()
    };
    packets.iter().enumerate().map(check).collect()
}

#[test]
fn udp_messages_are_cut_apart_for_a_port_that_cannot() {
    // Whole segments, a shorter last one, one alone, single bytes, and more than a burst of them.
    for (n, size) in [(3000, 1000), (4000, 1472), (700, 1472), (5, 1), (9000, 64)] {
        let mut r = Rig::router();
        let w = udp_wire(&r, n, size);
        r.send_wire(0, w);
        let out = r.take_wires(1);
        assert_eq!(out.len(), n.div_ceil(usize::from(size)), "{n} bytes by {size}");
        assert!(out.iter().all(|w| w.flags & (pkt_flags::GSO_UDP | pkt_flags::CSUM_PARTIAL) == 0));
        let packets: Vec<_> = out.iter().map(|w| ip_of(&w.bytes)).collect();
        let messages = messages(&packets);
        assert!(messages[..messages.len() - 1].iter().all(|m| m.len() == usize::from(size)));
        assert_eq!(messages.concat(), big(n));
        r.balanced();
    }
}

#[test]
fn udp_messages_stay_together_for_a_port_that_cuts_them_itself() {
    let mut r = Rig::new(1);
    r.port("a0", "10.0.1.1/24");
    r.port_with("b0", "10.0.2.1/24", offload::TX_CSUM | offload::USO | offload::SCATTER, 1, 1);
    r.teach(0, "10.0.1.2", HOST_A);
    r.teach(1, "10.0.2.2", HOST_B);
    let w = udp_wire(&r, 3000, 1000);
    r.send_wire(0, w);
    let out = r.take_wires(1);
    assert_eq!((out.len(), out[0].gso_size, out[0].csum_start, out[0].csum_offset), (1, 1000, 34, 6));
    assert_eq!(out[0].flags & (pkt_flags::GSO_UDP | pkt_flags::CSUM_PARTIAL), pkt_flags::GSO_UDP | OPEN);
    r.balanced();
}

#[test]
fn what_cannot_be_cut_is_dropped_by_name() {
    let mut r = Rig::router();
    let mut w = udp_wire(&r, 1400, 0);
    r.send_wire(0, w.clone());
    // TCP's flag on UDP.
    (w.gso_size, w.flags) = (1000, pkt_flags::GSO_TCP4 | OPEN);
    r.send_wire(0, w);
    assert_eq!((r.take(1).len(), r.dropped(DropReason::TxUnsupported)), (0, 2));
    r.balanced();
}

#[test]
fn an_open_checksum_is_completed_before_a_packet_is_fragmented() {
    let mut r = Rig::router();
    r.stack.set_mtu(r.index(1), 600).unwrap();
    let mut w = udp_wire(&r, 1400, 0);
    w.flags = OPEN;
    w.bytes[20] &= !0x40;
    crate::wire::ipv4::refresh_checksum(&mut w.bytes[14..34]);
    r.send_wire(0, w);
    let out = r.take_wires(1);
    assert_eq!(out.len(), 3);
    assert!(out.iter().all(|w| w.flags & OPEN == 0));
    let parts: Vec<_> = out.iter().map(|w| ip_of(&w.bytes)).collect();
    let whole: Vec<u8> = parts.iter().flat_map(|(_, b)| b.clone()).collect();
    assert!(parts.iter().all(|(h, _)| h.id == 0xfffe && h.total_len <= 600));
    let sum = Sum::new().pseudo(parts[0].0.src, parts[0].0.dst, 17, whole.len() as u32);
    assert_eq!(sum.add(&whole).finish(), 0);
    assert_eq!(whole[8..], big(1400));
    r.balanced();
}

#[test]
fn what_this_router_sends_is_fragmented_for_its_way_out() {
    let mut r = Rig::router();
    r.stack.set_mtu(r.index(0), 600).unwrap();
    let request = echo("10.0.1.2", "10.0.1.1", 1, &big(1400));
    let to = r.mac(0);
    let cut = |packet: &[u8], from: usize, to: usize| {
        let (mut h, body) = ip_of_packet(packet);
        let n = to.min(body.len()) - from;
        (h.total_len, h.frag) = (20 + n as u16, (from / 8) as u16 | if from + n < body.len() { MF } else { 0 });
        super::frames::packet(h, &body[from..from + n])
    };
    // The request comes in fragments that fit the link, and so goes the answer.
    for (from, until) in [(0, 576), (576, 1152), (1152, 2000)] {
        r.send(0, ip_frame(to, mac(HOST_A), &cut(&request, from, until)));
    }
    let parts: Vec<_> = r.take(0).iter().map(|f| ip_of(f)).collect();
    let ids: Vec<u16> = parts.iter().map(|(h, _)| h.id).collect();
    assert!(ids.len() == 3 && ids.iter().all(|i| *i == ids[0]), "{ids:?}");
    let at: Vec<_> = parts.iter().map(|(h, b)| (h.frag & 0x1fff, h.frag & MF != 0, b.len())).collect();
    assert_eq!(at, [(0, true, 576), (72, true, 576), (144, false, 256)]);
    let whole: Vec<u8> = parts.into_iter().flat_map(|(_, b)| b).collect();
    assert_eq!((crate::wire::checksum::checksum(&whole), whole[0]), (0, 0));
    assert_eq!(whole[8..], big(1400));
    r.balanced();
}
