//! Very many routes and neighbours in the running tables, and transactions over them.

use super::frames::*;
use super::rig::*;
use crate::types::{RouteKind, RouteSpec, RouteStep};
use crate::wire::ethernet::Ethernet;
use crate::{ArpSpec, StackError};
use smpnet_abi::MacAddr;
use std::net::Ipv4Addr;
use std::time::Instant;

fn add(dst: &str, via: &str) -> RouteStep {
    RouteStep::Add(RouteSpec::via(net(dst), via.parse().unwrap()))
}

#[test]
fn steps_over_routes_are_all_done_or_none() {
    let mut r = Rig::router();
    r.route("172.16.0.0/16", "10.0.2.2");
    r.route("172.17.0.0/16", "10.0.2.2");
    let before = r.stack.routes();
    let changed = RouteSpec { dst: net("172.17.0.0/16"), kind: RouteKind::Blackhole };
    let good = [
        add("172.18.0.0/16", "10.0.2.2"),
        RouteStep::Delete(net("172.16.0.0/16")),
        RouteStep::Change(changed.clone()),
        add("172.16.0.0/16", "10.0.1.2"),
    ];
    for (bad, at) in [
        (add("172.18.0.0/16", "10.0.2.2"), 4),
        (add("172.19.0.0/16", "10.0.3.9"), 4),
        (add("172.19.0.0/16", "10.0.2.1"), 4),
        (RouteStep::Delete(net("10.0.1.0/24")), 4),
        (RouteStep::Change(RouteSpec { dst: net("172.20.0.0/16"), ..changed.clone() }), 4),
    ] {
        let steps: Vec<RouteStep> = good.iter().cloned().chain([bad.clone()]).collect();
        let (i, e) = r.stack.routes_apply(&steps).unwrap_err();
        assert_eq!(i, at, "{e}");
        assert_eq!(r.stack.routes(), before, "{bad:?}");
    }
    r.stack.routes_apply(&good).unwrap();
    r.host_a(&udp("10.0.1.2", "172.18.0.1", 1, 2, b""));
    assert_eq!(r.take(1).len(), 1);
    r.host_a(&udp("10.0.1.2", "172.17.0.1", 1, 2, b""));
    assert!(r.take(1).is_empty());
    // A route that covers a gateway changes how the next ones reach it, within one transaction too.
    let steps = [add("172.30.0.0/16", "10.0.2.2"), add("10.0.2.2/32", "10.0.1.2"), add("172.31.0.0/16", "10.0.2.2")];
    let (i, e) = r.stack.routes_apply(&steps).unwrap_err();
    assert!(i == 2 && matches!(e, StackError::GatewayUnreachable(_)), "{i} {e}");
    r.balanced();
}

#[test]
fn a_million_routes_are_in_the_running_tables() {
    let mut r = Rig::router();
    // Every /24 of 16.0.0.0/4 (less its last ones) and longer ones, by two gateways in turns.
    let dst = |n: u32| match n {
        0..900_000 => format!("{}/24", Ipv4Addr::from_bits(0x1000_0000 + (n << 8))),
        _ => format!("{}/30", Ipv4Addr::from_bits(0x2000_0000 + ((n - 900_000) << 6))),
    };
    let via = |n: u32| if n.is_multiple_of(2) { "10.0.2.2" } else { "10.0.1.2" };
    let steps: Vec<RouteStep> = (0..1_000_000).map(|n| add(&dst(n), via(n))).collect();
    let own = r.stack.route_count();
    let began = Instant::now();
    r.stack.routes_apply(&steps).unwrap();
    println!("a million routes added in {:?}", began.elapsed());
    assert_eq!(r.stack.route_count(), own + 1_000_000);
    for n in [0, 1, 2, 77_777, 899_999, 900_000, 900_001, 999_998, 999_999] {
        let host = net(&dst(n)).network() + 1;
        let to = Ipv4Addr::from_bits(host).to_string();
        let gateway = r.stack.route_get(to.parse().unwrap()).route.unwrap().nexthops[0].via.unwrap();
        assert_eq!(gateway.to_string(), via(n), "{n}");
        r.host_a(&udp("10.0.1.2", &to, 1, 2, b""));
        // Back to the host that sent it, or to the other one.
        let (back, on) = (r.take(0), r.take(1));
        let forwarded = if n.is_multiple_of(2) { on } else { back };
        assert!(forwarded.iter().any(|f| arp_of(f).is_none() && ip_of(f).0.dst == host), "{n}");
    }
    // One more that is there already: none of a million is changed.
    let twice: Vec<RouteStep> =
        (0..1_000_000).map(|n| RouteStep::Delete(net(&dst(n)))).chain([RouteStep::Delete(net("1.2.3.0/24"))]).collect();
    let began = Instant::now();
    assert_eq!(r.stack.routes_apply(&twice).unwrap_err().0, 1_000_000);
    println!("a million routes removed and put back in {:?}", began.elapsed());
    assert_eq!(r.stack.route_count(), own + 1_000_000);
    let again = r.stack.route_get("16.0.0.1".parse().unwrap()).route.unwrap();
    assert_eq!(again.dst, net("16.0.0.0/24"));
    r.stack.routes_apply(&twice[..1_000_000]).unwrap();
    assert_eq!(r.stack.route_count(), own);
    r.balanced();
}

#[test]
fn a_million_neighbours_are_in_the_running_tables() {
    let mut r = Rig::new(1);
    r.port("a0", "10.0.1.1/24");
    let wide = r.port("b0", "11.0.0.1/8");
    r.teach(0, "10.0.1.2", HOST_A);
    let station = |n: u32| {
        let [_, b, c, d] = n.to_be_bytes();
        MacAddr { bytes: [2, 7, 7, b, c, d] }
    };
    let address = |n: u32| Ipv4Addr::from_bits(0x0b00_0100 + n * 3);
    let began = Instant::now();
    for n in 0..1_000_000 {
        let spec = ArpSpec { address: address(n), mac: Some(station(n)), publish: false };
        r.stack.arp_set(wide, &spec).unwrap();
    }
    println!("a million neighbours entered in {:?}", began.elapsed());
    assert_eq!(r.stack.arp_list().len(), 1_000_001);
    for n in [0, 1, 65_535, 65_536, 500_000, 999_999] {
        r.host_a(&udp("10.0.1.2", &address(n).to_string(), 1, 2, b""));
        let out = r.take(1);
        assert_eq!(out.len(), 1, "{n}");
        assert_eq!(Ethernet::parse(&out[0]).unwrap().dst, station(n));
    }
    r.stack.arp_delete(Some(wide), address(5)).unwrap();
    assert_eq!(r.stack.arp_list().len(), 1_000_000);
    r.balanced();
}
