use super::frames::*;
use super::rig::*;
use crate::neigh::machine::SECOND;
use crate::types::{AddrOptions, AddrState};
use crate::wire::arp::{REPLY, REQUEST};
use crate::wire::ethernet::{BROADCAST, Ethernet};
use crate::wire::icmp::{ty, unreach};
use smpnet_abi::{DropReason, MacAddr};

fn pair() -> Rig {
    let mut r = Rig::new(1);
    r.port("a0", "10.0.1.1/24");
    r.port("b0", "10.0.2.1/24");
    r.teach(0, "10.0.1.2", HOST_A);
    r
}

#[test]
fn packets_wait_for_a_neighbour_and_go_in_order_when_it_answers() {
    let mut r = pair();
    for i in 0..3 {
        r.host_a(&udp("10.0.1.2", "10.0.2.2", i, 2, b""));
    }
    let out = r.take(1);
    assert_eq!(out.len(), 1, "one question for all of them");
    let ask = arp_of(&out[0]).unwrap();
    assert_eq!((ask.op, ask.spa, ask.tpa, ask.sha), (REQUEST, ip("10.0.2.1"), ip("10.0.2.2"), r.mac(1)));
    assert_eq!(Ethernet::parse(&out[0]).unwrap().dst, BROADCAST);
    assert_eq!(r.stack.accounting().held, 3);
    r.balanced();
    let answer = arp_reply(r.mac(1), mac(HOST_B), "10.0.2.2", "10.0.2.1");
    r.send(1, answer);
    let out = r.take(1);
    let ports: Vec<u8> = out.iter().map(|f| f[35]).collect();
    assert_eq!(ports, [0, 1, 2]);
    assert!(out.iter().all(|f| Ethernet::parse(f).unwrap().dst == mac(HOST_B) && ip_of(f).0.ttl == 63));
    assert_eq!(r.stack.accounting().held, 0);
    r.balanced();
}

#[test]
fn a_full_queue_loses_its_oldest_packets() {
    let mut r = pair();
    let frames: Vec<_> =
        (0..20u16).map(|i| ip_frame(r.mac(0), mac(HOST_A), &udp("10.0.1.2", "10.0.2.2", i, 2, b""))).collect();
    r.send_all(0, frames);
    assert_eq!((r.dropped(DropReason::ArpQueueFull), r.stack.accounting().held), (4, 16));
    r.take(1);
    let answer = arp_reply(r.mac(1), mac(HOST_B), "10.0.2.2", "10.0.2.1");
    r.send(1, answer);
    let ports: Vec<u8> = r.take(1).iter().map(|f| f[35]).collect();
    assert_eq!(ports, (4..20).collect::<Vec<u8>>());
    r.balanced();
}

#[test]
fn a_neighbour_that_never_answers_makes_its_packets_host_unreachable() {
    let mut r = pair();
    r.host_a(&udp("10.0.1.2", "10.0.2.2", 1, 2, b""));
    r.advance(4);
    let asked = r.take(1).iter().filter(|f| arp_of(f).is_some_and(|a| a.op == REQUEST)).count();
    assert_eq!(asked, 3);
    let back = r.take(0);
    let (_, icmp, _) = icmp_of(&back[0]);
    assert_eq!((icmp.ty, icmp.code), (ty::UNREACHABLE, unreach::HOST));
    assert_eq!(r.dropped(DropReason::ArpUnresolved), 1);
    assert!(r.stack.arp_list().iter().all(|a| a.address.to_string() != "10.0.2.2"));
    r.balanced();
}

#[test]
fn a_request_for_our_address_is_answered_and_its_sender_learnt() {
    let mut r = pair();
    r.send(1, arp_request(mac(HOST_B), "10.0.2.2", "10.0.2.1"));
    let out = r.take(1);
    let a = arp_of(&out[0]).unwrap();
    assert_eq!((a.op, a.sha, a.spa, a.tha, a.tpa), (REPLY, r.mac(1), ip("10.0.2.1"), mac(HOST_B), ip("10.0.2.2")));
    assert_eq!(Ethernet::parse(&out[0]).unwrap().dst, mac(HOST_B));
    let list = r.stack.arp_list();
    let b = list.iter().find(|e| e.address.to_string() == "10.0.2.2").unwrap();
    assert_eq!((b.mac.as_str(), b.state, b.interface.as_str()), (HOST_B, "stale", "b0"));
    r.send(1, arp_request(mac(HOST_B), "10.0.2.2", "10.0.2.77"));
    assert!(r.take(1).is_empty(), "an address that is not ours is not answered for");
    r.balanced();
}

#[test]
fn a_stale_neighbour_in_use_is_probed_and_lost_when_silent() {
    let mut r = pair();
    r.send(1, arp_request(mac(HOST_B), "10.0.2.2", "10.0.2.1"));
    r.take(1);
    r.host_a(&udp("10.0.1.2", "10.0.2.2", 1, 2, b""));
    assert_eq!(r.take(1).len(), 1, "a stale entry is used without asking");
    r.advance(6);
    let probes = r.take(1);
    let a = arp_of(&probes[0]).unwrap();
    assert_eq!((a.op, Ethernet::parse(&probes[0]).unwrap().dst), (REQUEST, mac(HOST_B)), "a unicast probe");
    r.advance(5);
    assert!(r.stack.arp_list().iter().all(|e| e.address.to_string() != "10.0.2.2"));
    r.host_a(&udp("10.0.1.2", "10.0.2.2", 1, 2, b""));
    assert_eq!(r.stack.accounting().held, 1, "the flow's remembered neighbour is gone too");
    r.balanced();
}

#[test]
fn a_neighbour_that_moves_takes_its_flows_along() {
    let mut r = Rig::router();
    let p = udp("10.0.1.2", "10.0.2.2", 1, 2, b"");
    r.host_a(&p);
    r.host_a(&p);
    assert!(r.take(1).iter().all(|f| Ethernet::parse(f).unwrap().dst == mac(HOST_B)));
    let moved = mac("02:00:00:00:00:bb");
    let answer = arp_reply(r.mac(1), moved, "10.0.2.2", "10.0.2.1");
    r.send(1, answer);
    r.host_a(&p);
    assert_eq!(Ethernet::parse(&r.take(1)[0]).unwrap().dst, moved);
    r.balanced();
}

#[test]
fn a_new_address_is_probed_then_ours_then_announced() {
    let mut r = pair();
    let b0 = r.index(1);
    r.stack.addr_add(b0, net("10.0.3.1/24"), AddrOptions::default()).unwrap();
    let state = |r: &Rig| {
        let all = r.stack.interfaces();
        all.iter().find(|i| i.index == b0).unwrap().addresses[1].state
    };
    assert_eq!(state(&r), AddrState::Tentative);
    r.host_a(&echo("10.0.1.2", "10.0.3.1", 1, b""));
    assert!(r.take(0).is_empty(), "a tentative address is not ours");
    r.advance(10);
    let sent: Vec<_> = r.take(1).iter().filter_map(|f| arp_of(f)).filter(|a| a.tpa == ip("10.0.3.1")).collect();
    let senders: Vec<u32> = sent.iter().map(|a| a.spa).filter(|s| *s != ip("10.0.2.1")).collect();
    assert_eq!(senders, [0, 0, 0, ip("10.0.3.1"), ip("10.0.3.1")], "three probes, two announcements");
    assert_eq!(state(&r), AddrState::Preferred);
    r.host_a(&echo("10.0.1.2", "10.0.3.1", 2, b""));
    assert!(r.take(0).iter().any(|f| arp_of(f).is_none()));
}

#[test]
fn an_address_that_another_station_has_is_not_taken() {
    let mut r = pair();
    let events = r.stack.events();
    let b0 = r.index(1);
    r.stack.addr_add(b0, net("10.0.3.1/24"), AddrOptions::default()).unwrap();
    r.advance(2);
    let objection = arp_reply(r.mac(1), mac(HOST_B), "10.0.3.1", "0.0.0.0");
    r.send(1, objection);
    let all = r.stack.interfaces();
    let addrs = &all.iter().find(|i| i.index == b0).unwrap().addresses;
    assert_eq!((addrs[0].state, addrs[1].state), (AddrState::Preferred, AddrState::Duplicated));
    assert!(events.try_iter().any(|e| e.kind == "conflict" && e.detail.contains("10.0.3.1")));
    r.take(1);
    r.advance(10);
    assert!(r.take(1).is_empty(), "no announcement");
    r.balanced();
}

#[test]
fn an_address_in_use_is_defended_once_in_ten_seconds() {
    let mut r = pair();
    for _ in 0..3 {
        r.send(1, arp_request(mac(HOST_B), "10.0.2.1", "10.0.2.9"));
    }
    let defences = |r: &Rig| {
        let own = |a: &crate::wire::arp::Arp| a.spa == ip("10.0.2.1") && a.tpa == ip("10.0.2.1");
        r.take(1).iter().filter_map(|f| arp_of(f)).filter(own).count()
    };
    assert_eq!(defences(&r), 1);
    r.now += 11 * SECOND;
    r.send(1, arp_request(mac(HOST_B), "10.0.2.1", "10.0.2.9"));
    assert_eq!(defences(&r), 1);
}

#[test]
fn permanent_and_published_entries_work_and_are_removed() {
    let mut r = pair();
    let (a0, b0) = (r.index(0), r.index(1));
    let spec = crate::control::ArpSpec { address: "10.0.2.2".parse().unwrap(), mac: Some(mac(HOST_B)), publish: false };
    r.stack.arp_set(b0, &spec).unwrap();
    r.host_a(&udp("10.0.1.2", "10.0.2.2", 1, 2, b""));
    assert_eq!(r.take(1).len(), 1, "sent without asking");
    let other = arp_reply(r.mac(1), mac("02:00:00:00:00:66"), "10.0.2.2", "10.0.2.1");
    r.send(1, other);
    r.host_a(&udp("10.0.1.2", "10.0.2.2", 1, 2, b""));
    assert_eq!(Ethernet::parse(&r.take(1)[0]).unwrap().dst, mac(HOST_B), "and not overwritten");
    let proxy = crate::control::ArpSpec { address: "10.0.1.50".parse().unwrap(), mac: None, publish: true };
    r.stack.arp_set(a0, &proxy).unwrap();
    r.send(0, arp_request(mac(HOST_A), "10.0.1.2", "10.0.1.50"));
    let a = arp_of(&r.take(0)[0]).unwrap();
    assert_eq!((a.op, a.spa, a.sha), (REPLY, ip("10.0.1.50"), r.mac(0)));
    r.stack.arp_delete(None, "10.0.1.50".parse().unwrap()).unwrap();
    r.stack.arp_delete(Some(b0), "10.0.2.2".parse().unwrap()).unwrap();
    assert!(r.stack.arp_delete(None, "10.0.2.2".parse().unwrap()).is_err());
    r.send(0, arp_request(mac(HOST_A), "10.0.1.2", "10.0.1.50"));
    assert!(r.take(0).is_empty());
    let bad = crate::control::ArpSpec {
        address: "10.0.2.3".parse().unwrap(),
        mac: Some(MacAddr { bytes: [1; 6] }),
        publish: false,
    };
    assert!(r.stack.arp_set(b0, &bad).is_err());
    r.balanced();
}

#[test]
fn malformed_arp_is_dropped() {
    let mut r = pair();
    let mut f = arp_request(mac(HOST_B), "10.0.2.2", "10.0.2.1");
    f[15] = 9;
    r.send(1, f);
    r.send(1, arp_request(BROADCAST, "10.0.2.2", "10.0.2.1"));
    assert_eq!(r.dropped(DropReason::ArpBad), 2);
    assert!(r.take(1).is_empty());
    r.balanced();
}
