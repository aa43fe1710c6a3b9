use super::frames::*;
use super::rig::*;
use crate::types::{NextHopSpec, RouteKind, RouteSpec};
use crate::wire::ethernet::Ethernet;
use crate::wire::icmp::{ty, unreach};
use crate::wire::ipv4::{DF, proto};
use smpnet_abi::DropReason;

#[test]
fn a_packet_is_forwarded_with_its_ttl_less_one_and_the_rest_unchanged() {
    let mut r = Rig::router();
    let p = udp("10.0.1.2", "10.0.2.2", 4000, 5000, b"hello");
    r.host_a(&p);
    let out = r.take(1);
    assert_eq!(out.len(), 1);
    let e = Ethernet::parse(&out[0]).unwrap();
    assert_eq!((e.dst, e.src), (mac(HOST_B), r.mac(1)));
    let (h, body) = ip_of(&out[0]);
    assert_eq!(h.ttl, 63);
    assert_eq!(body, udp_payload("10.0.1.2", "10.0.2.2", 4000, 5000, b"hello"));
    assert_eq!(out[0].len(), 14 + p.len(), "the padding of the short frame is gone");
    assert!(r.take(0).is_empty());
    r.balanced();
}

#[test]
fn packets_wait_in_the_ports_while_reception_is_held() {
    let mut r = Rig::router();
    r.stack.hold_reception(true);
    r.host_a(&udp("10.0.1.2", "10.0.2.2", 4000, 5000, b"hello"));
    assert!(r.take(1).is_empty());
    r.stack.hold_reception(false);
    r.run();
    assert_eq!(r.take(1).len(), 1);
    r.balanced();
}

#[test]
fn the_second_packet_to_a_next_hop_takes_the_prepared_way() {
    let mut r = Rig::router();
    let before = r.stack.adjacency_status();
    for _ in 0..5 {
        r.host_a(&udp("10.0.1.2", "10.0.2.2", 4000, 5000, b"x"));
    }
    let s = r.stack.adjacency_status();
    assert_eq!((s.hits - before.hits, s.inserts - before.inserts), (4, 1));
    let out = r.take(1);
    assert_eq!(out.len(), 5);
    assert!(out.iter().all(|f| *f == out[0]), "both ways make the same frame");
    assert_eq!((r.stat("forward"), r.stat("fastforward")), (5, 4));
    r.balanced();
}

#[test]
fn a_route_change_takes_effect_on_the_next_packet() {
    let mut r = Rig::router();
    r.port("c0", "10.0.9.1/24");
    r.teach(2, "10.0.9.2", "02:00:00:00:00:0c");
    r.route("10.0.3.0/24", "10.0.2.2");
    let p = udp("10.0.1.2", "10.0.3.9", 1, 2, b"x");
    r.host_a(&p);
    r.host_a(&p);
    assert_eq!((r.take(1).len(), r.take(2).len()), (2, 0));
    r.stack.route_change(&RouteSpec::via(net("10.0.3.0/24"), "10.0.9.2".parse().unwrap())).unwrap();
    r.host_a(&p);
    assert_eq!((r.take(1).len(), r.take(2).len()), (0, 1));
    r.stack.route_delete(net("10.0.3.0/24")).unwrap();
    r.host_a(&p);
    assert_eq!((r.take(1).len(), r.take(2).len()), (0, 0));
    assert_eq!(r.dropped(DropReason::IpNoRoute), 1);
    assert_eq!(r.stack.adjacency_status().stale, 0, "a route's change leaves the prepared ways as they are");
    r.balanced();
}

#[test]
fn an_expired_ttl_is_answered_from_the_address_that_the_packet_came_to() {
    let mut r = Rig::router();
    let mut h = header("10.0.1.2", "10.0.2.2", proto::UDP, 12);
    h.ttl = 1;
    r.host_a(&packet(h, &udp_payload("10.0.1.2", "10.0.2.2", 4000, 33434, b"tr")));
    let back = r.take(0);
    assert_eq!(back.len(), 1);
    let (ip4, icmp, quote) = icmp_of(&back[0]);
    assert_eq!((ip4.src, ip4.dst, ip4.tos), (ip("10.0.1.1"), ip("10.0.1.2"), 0xc0));
    assert_eq!((icmp.ty, icmp.code), (ty::TIME_EXCEEDED, 0));
    assert_eq!(quote[12..20], [10, 0, 1, 2, 10, 0, 2, 2]);
    assert!(r.take(1).is_empty());
    assert_eq!(r.dropped(DropReason::IpTtl), 1);
    r.balanced();
}

#[test]
fn a_destination_without_route_is_net_unreachable() {
    let mut r = Rig::router();
    r.host_a(&udp("10.0.1.2", "192.0.2.1", 1, 2, b""));
    let (_, icmp, _) = icmp_of(&r.take(0)[0]);
    assert_eq!((icmp.ty, icmp.code), (ty::UNREACHABLE, unreach::NET));
    assert_eq!((r.dropped(DropReason::IpNoRoute), r.stat("noroute")), (1, 1));
    r.balanced();
}

#[test]
fn a_blackhole_is_silent_and_a_reject_route_answers() {
    let mut r = Rig::router();
    r.stack.route_add(&RouteSpec { dst: net("10.5.0.0/16"), kind: RouteKind::Blackhole }).unwrap();
    r.stack.route_add(&RouteSpec { dst: net("10.6.0.0/16"), kind: RouteKind::Reject }).unwrap();
    r.host_a(&udp("10.0.1.2", "10.5.0.1", 1, 2, b""));
    assert!(r.take(0).is_empty());
    r.host_a(&udp("10.0.1.2", "10.6.0.1", 1, 2, b""));
    let (_, icmp, _) = icmp_of(&r.take(0)[0]);
    assert_eq!((icmp.ty, icmp.code), (ty::UNREACHABLE, unreach::HOST));
    assert_eq!((r.dropped(DropReason::IpBlackhole), r.dropped(DropReason::IpReject)), (1, 1));
    r.balanced();
}

#[test]
fn a_large_packet_that_must_not_be_fragmented_is_told_the_mtu() {
    let mut r = Rig::router();
    r.stack.set_mtu(r.index(1), 1280).unwrap();
    let data = vec![7; 1372];
    let payload = udp_payload("10.0.1.2", "10.0.2.2", 1, 2, &data);
    let mut h = header("10.0.1.2", "10.0.2.2", proto::UDP, payload.len());
    h.frag = DF;
    r.host_a(&packet(h, &payload));
    let (_, icmp, quote) = icmp_of(&r.take(0)[0]);
    assert_eq!((icmp.ty, icmp.code, icmp.rest), (ty::UNREACHABLE, unreach::NEED_FRAG, 1280));
    assert_eq!(quote.len(), 576 - 28, "as much of the packet as fits into 576 bytes");
    assert_eq!(r.dropped(DropReason::IpNeedFrag), 1);
    r.balanced();
}

#[test]
fn a_host_that_should_have_asked_a_neighbour_is_redirected_and_served() {
    let mut r = Rig::router();
    r.teach(0, "10.0.1.9", "02:00:00:00:00:19");
    r.route("10.7.0.0/16", "10.0.1.9");
    r.host_a(&udp("10.0.1.2", "10.7.0.1", 1, 2, b""));
    let out = r.take(0);
    assert_eq!(out.len(), 2);
    let redirect = out.iter().find(|f| ip_of(f).0.proto == proto::ICMP).unwrap();
    let (ip4, icmp, _) = icmp_of(redirect);
    assert_eq!((icmp.ty, icmp.code, icmp.rest), (ty::REDIRECT, 1, ip("10.0.1.9")));
    assert_eq!(ip4.dst, ip("10.0.1.2"));
    let served = out.iter().find(|f| ip_of(f).0.proto == proto::UDP).unwrap();
    assert_eq!(Ethernet::parse(served).unwrap().dst, mac("02:00:00:00:00:19"));
    r.rt.sysctl().set("net.inet.ip.redirect", "0").unwrap();
    r.host_a(&udp("10.0.1.2", "10.7.0.1", 1, 2, b""));
    assert_eq!(r.take(0).len(), 1, "no redirect when it is turned off");
    r.balanced();
}

#[test]
fn flows_are_spread_over_two_gateways_and_each_flow_keeps_its_own() {
    let mut r = Rig::router();
    r.teach(1, "10.0.2.3", "02:00:00:00:00:0d");
    let via = |g: &str| NextHopSpec::via(g.parse().unwrap());
    let kind = RouteKind::Forward(vec![via("10.0.2.2"), via("10.0.2.3")]);
    r.stack.route_add(&RouteSpec { dst: net("10.8.0.0/16"), kind }).unwrap();
    let send = |r: &mut Rig| {
        let frames: Vec<_> = (0..200u16)
            .map(|i| ip_frame(r.mac(0), mac(HOST_A), &udp("10.0.1.2", "10.8.0.1", 1000 + i, 80, b"")))
            .collect();
        r.send_all(0, frames);
        let mut by_port: Vec<_> = r
            .take(1)
            .iter()
            .map(|f| (u16::from_be_bytes([f[34], f[35]]), Ethernet::parse(f).unwrap().dst.bytes[5]))
            .collect();
        by_port.sort_unstable();
        by_port
    };
    let first = send(&mut r);
    assert_eq!(first.len(), 200);
    let b = first.iter().filter(|(_, m)| *m == 0x0b).count();
    assert!((60..140).contains(&b), "{b} of 200 by the first gateway");
    assert_eq!(send(&mut r), first);
    r.balanced();
}

#[test]
fn nothing_is_forwarded_when_forwarding_is_off() {
    let mut r = Rig::router();
    r.rt.sysctl().set("net.inet.ip.forwarding", "0").unwrap();
    r.host_a(&udp("10.0.1.2", "10.0.2.2", 1, 2, b""));
    assert!(r.take(1).is_empty() && r.take(0).is_empty());
    assert_eq!((r.dropped(DropReason::IpNoForward), r.stat("cantforward")), (1, 1));
    r.host_a(&echo("10.0.1.2", "10.0.1.1", 1, b"still ours"));
    assert_eq!(r.take(0).len(), 1);
    r.balanced();
}

#[test]
fn broadcasts_are_not_forwarded() {
    let mut r = Rig::router();
    let p = udp("10.0.1.2", "10.0.2.2", 1, 2, b"");
    r.send(0, ip_frame(crate::wire::ethernet::BROADCAST, mac(HOST_A), &p));
    r.host_a(&udp("10.0.1.2", "10.0.2.255", 1, 2, b""));
    r.host_a(&udp("10.0.1.2", "224.0.0.9", 1, 2, b""));
    assert!(r.take(1).is_empty() && r.take(0).is_empty());
    assert_eq!((r.dropped(DropReason::IpBroadcast), r.stat("bcastdenied")), (3, 3));
    r.balanced();
}

#[test]
fn frames_for_others_runts_and_unknown_types_are_dropped_by_name() {
    let mut r = Rig::router();
    let p = udp("10.0.1.2", "10.0.2.2", 1, 2, b"");
    r.send(0, ip_frame(mac("02:00:00:00:00:77"), mac(HOST_A), &p));
    r.send(0, vec![1, 2, 3]);
    r.send(0, frame(r.mac(0), mac(HOST_A), 0x86dd, &[0x60; 40]));
    r.send(0, frame(r.mac(0), mac(HOST_A), 0x8100, &[0, 5, 8, 0, 0x45]));
    r.send(0, ip_frame(r.mac(0), mac(HOST_A), &vec![0x45; 1600]));
    let reasons =
        [DropReason::NotForUs, DropReason::Runt, DropReason::NoProto, DropReason::VlanUnknown, DropReason::Oversize];
    for reason in reasons {
        assert_eq!(r.dropped(reason), 1, "{reason:?}");
    }
    let all = r.stack.interfaces();
    let a0 = all.iter().find(|i| i.name == "a0").unwrap();
    assert_eq!((a0.counters.noproto, a0.counters.ierrors), (2, 2));
    r.balanced();
}

#[test]
fn a_full_ring_drops_what_does_not_fit_and_says_so() {
    let mut r = Rig::router();
    let before = r.take(1);
    assert!(before.is_empty(), "{before:02x?}");
    let sent = |r: &Rig| {
        let all = r.stack.interfaces();
        let c = all.iter().find(|i| i.name == "b0").unwrap().counters;
        (c.opackets, c.oerrors)
    };
    let (packets, errors) = sent(&r);
    *r.wire(1).room.lock().unwrap() = Some(10);
    let frames: Vec<_> =
        (0..32u16).map(|i| ip_frame(r.mac(0), mac(HOST_A), &udp("10.0.1.2", "10.0.2.2", i, 80, b""))).collect();
    r.send_all(0, frames);
    assert_eq!(r.take(1).len(), 10);
    assert_eq!(r.dropped(DropReason::TxRingFull), 22);
    assert_eq!(sent(&r), (packets + 10, errors + 22));
    *r.wire(1).room.lock().unwrap() = None;
    r.balanced();
}

#[test]
fn two_workers_share_a_port_of_one_transmit_queue() {
    let mut r = Rig::new(2);
    r.port_with("a0", "10.0.1.1/24", 0, 2, 2);
    r.port("b0", "10.0.2.1/24");
    r.teach(0, "10.0.1.2", HOST_A);
    r.teach(1, "10.0.2.2", HOST_B);
    let frames: Vec<_> =
        (0..300u16).map(|i| ip_frame(r.mac(0), mac(HOST_A), &udp("10.0.1.2", "10.0.2.2", i, 80, b""))).collect();
    r.send_all(0, frames);
    assert_eq!(r.take(1).len(), 300);
    r.balanced();
}

#[test]
fn a_port_of_one_queue_spreads_its_flows_over_workers_when_asked() {
    let mut r = Rig::new(2);
    r.port("a0", "10.0.1.1/24");
    r.port("b0", "10.0.2.1/24");
    r.teach(0, "10.0.1.2", HOST_A);
    r.teach(1, "10.0.2.2", HOST_B);
    r.rt.sysctl().set("net.interfaces.a0.rps_hash", "toeplitz").unwrap();
    let frames: Vec<_> = (0..64u32)
        .map(|i| {
            let src = format!("10.0.1.{}", 2 + i);
            ip_frame(r.mac(0), mac(HOST_A), &udp(&src, "10.0.2.2", 1, 80, b""))
        })
        .collect();
    r.send_all(0, frames);
    assert_eq!(r.take(1).len(), 64);
    let forwarded = crate::net::counters::base::IP + crate::net::counters::IpStat::Forward as usize;
    let per_worker = r.stack.counters.per_cpu(forwarded);
    assert!(per_worker[0] > 10 && per_worker[1] > 10, "{per_worker:?}");
    r.balanced();
}
