//! Filters, plugins that break the rules, and interfaces that come and go.

use super::frames::*;
use super::rig::*;
use crate::error::StackError;
use crate::stack::Stack;
use crate::types::{AddrOptions, Dirs, Layer};
use smpnet_abi::{Cell, DropReason, PortInfo, RX_FAULT, pkt_flags, verdict};
use smpnet_runtime::{HookCx, HugePages, PfilHook, PoolConfig, Runtime, RuntimeConfig};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Drops UDP to one port; the data begins where the layer says.
struct Block {
    port: u16,
    at: usize,
    seen: AtomicU64,
}

impl Block {
    fn new(port: u16, layer: Layer) -> Arc<Block> {
        Arc::new(Block { port, at: if layer == Layer::Ether { 36 } else { 22 }, seen: AtomicU64::new(0) })
    }
}

impl PfilHook for Block {
    fn name(&self) -> &str {
        "block"
    }

    fn filter(&self, cx: &HookCx<'_>, cells: &[Cell], verdicts: &mut [u32]) -> bool {
        for (c, v) in cells.iter().zip(verdicts) {
            self.seen.fetch_add(1, Relaxed);
            let p = cx.pool.packet(*c);
            if p.data().get(self.at..self.at + 2) == Some(&self.port.to_be_bytes()) {
                *v = verdict::DROP;
            }
        }
        false
    }
}

#[test]
fn a_filter_drops_at_each_hook_and_cached_flows_do_not_escape_it() {
    let places = [
        (Layer::Ether, Dirs::In, 0),
        (Layer::Inet, Dirs::In, 0),
        (Layer::Inet, Dirs::Out, 1),
        (Layer::Ether, Dirs::Out, 1),
    ];
    for (layer, dirs, port) in places {
        for everywhere in [true, false] {
            let mut r = Rig::router();
            let ifindex = (!everywhere).then(|| r.index(port));
            let blocked = udp("10.0.1.2", "10.0.2.2", 9, 5000, b"");
            let free = udp("10.0.1.2", "10.0.2.2", 9, 5001, b"");
            r.host_a(&blocked);
            r.host_a(&free);
            assert_eq!(r.take(1).len(), 2);
            let hook = Block::new(5000, layer);
            let id = r.stack.pfil_attach(layer, ifindex, dirs, 0, hook.clone()).unwrap();
            r.host_a(&blocked);
            r.host_a(&free);
            let out = r.take(1);
            assert_eq!(out.len(), 1, "{layer:?} {dirs:?}");
            assert_eq!(ip_of(&out[0]).0.ttl, 63);
            assert_eq!((r.dropped(DropReason::Filtered), hook.seen.load(Relaxed)), (1, 2));
            assert_eq!(r.stack.hooks()[0].name, "block");
            let other = Block::new(5001, layer);
            r.stack.pfil_replace(id, other).unwrap();
            r.host_a(&blocked);
            r.host_a(&free);
            assert_eq!(r.take(1).len(), 1);
            r.stack.pfil_detach(id).unwrap();
            r.host_a(&blocked);
            assert_eq!(r.take(1).len(), 1);
            assert!(matches!(r.stack.pfil_detach(id), Err(StackError::NoHook(_))));
            r.balanced();
        }
    }
}

/// Rejects everything that was not made here.
struct Reject;

impl PfilHook for Reject {
    fn name(&self) -> &str {
        "reject"
    }

    fn filter(&self, cx: &HookCx<'_>, cells: &[Cell], verdicts: &mut [u32]) -> bool {
        for (c, v) in cells.iter().zip(verdicts) {
            if cx.pool.packet(*c).hdr().flags & pkt_flags::LOCAL == 0 {
                *v = verdict::REJECT;
            }
        }
        false
    }
}

#[test]
fn what_a_filter_rejects_is_dropped_and_its_sender_is_told() {
    for (layer, dirs) in
        [(Layer::Ether, Dirs::In), (Layer::Inet, Dirs::In), (Layer::Inet, Dirs::Out), (Layer::Ether, Dirs::Out)]
    {
        let mut r = Rig::router();
        let id = r.stack.pfil_attach(layer, None, dirs, 0, Arc::new(Reject)).unwrap();
        let sent = udp("10.0.1.2", "10.0.2.2", 9, 5000, b"not wanted");
        for _ in 0..2 {
            r.host_a(&sent);
            let answers = r.take(0);
            assert_eq!(answers.len(), 1, "{layer:?} {dirs:?}");
            let (ip_header, icmp, quote) = icmp_of(&answers[0]);
            assert_eq!((icmp.ty, icmp.code, icmp.rest), (3, 13, 0));
            assert_eq!((ip_header.src, ip_header.dst), (ip("10.0.1.1"), ip("10.0.1.2")));
            assert_eq!((quote[12..20].to_vec(), quote[20..].to_vec()), (sent[12..20].to_vec(), sent[20..].to_vec()));
            assert!(r.take(1).is_empty());
        }
        assert_eq!(r.dropped(DropReason::Filtered), 2);
        r.stack.pfil_detach(id).unwrap();
        r.host_a(&sent);
        assert_eq!(r.take(1).len(), 1);
        r.balanced();
    }
}

/// Drops frames tagged with one id, as `vlan 5` does, and counts the tagged and all.
struct Vlan5([AtomicU64; 2]);

impl PfilHook for Vlan5 {
    fn name(&self) -> &str {
        "vlan 5"
    }

    fn filter(&self, cx: &HookCx<'_>, cells: &[Cell], verdicts: &mut [u32]) -> bool {
        for (c, v) in cells.iter().zip(verdicts) {
            let p = cx.pool.packet(*c);
            self.0[1].fetch_add(1, Relaxed);
            if p.data()[12..14] == [0x81, 0] {
                self.0[0].fetch_add(1, Relaxed);
            }
            if p.data()[12..16] == [0x81, 0, 0, 5] {
                *v = verdict::DROP;
            }
        }
        false
    }
}

#[test]
fn filters_of_frames_see_a_tag_that_the_device_took_off() {
    let mut r = Rig::router();
    let (mac_a, packet) = (r.mac(0), udp("10.0.1.2", "10.0.2.2", 9, 5000, b"priority tagged or not"));
    let wire = |tci| Wire {
        bytes: ip_frame(mac_a, mac(HOST_A), &packet),
        flags: pkt_flags::VLAN,
        vlan_tci: tci,
        ..Wire::default()
    };
    for _ in 0..2 {
        r.send_wire(0, wire(0xe000));
        assert_eq!(r.take(1).len(), 1, "id 0 counts as untagged");
        r.send_wire(0, wire(5));
    }
    assert_eq!(r.dropped(DropReason::VlanUnknown), 2);
    let hook = Arc::new(Vlan5(Default::default()));
    r.stack.pfil_attach(Layer::Ether, None, Dirs::In, 0, hook.clone()).unwrap();
    r.send_wire(0, wire(5));
    assert_eq!((r.dropped(DropReason::Filtered), r.dropped(DropReason::VlanUnknown)), (1, 2));
    r.send_wire(0, wire(6));
    assert_eq!((r.dropped(DropReason::Filtered), r.dropped(DropReason::VlanUnknown)), (1, 3));
    r.send_wire(0, wire(0xe000));
    r.host_a(&packet);
    let out = r.take(1);
    assert_eq!((out.len(), &out[0], ip_of(&out[0]).0.ttl), (2, &out[1], 63), "and goes on as without the filter");
    assert_eq!(hook.0.each_ref().map(|n| n.load(Relaxed)), [3, 4]);
    r.balanced();
}

#[test]
fn a_rejected_packet_that_must_not_be_answered_is_only_dropped() {
    let mut r = Rig::router();
    r.stack.pfil_attach(Layer::Inet, None, Dirs::In, 0, Arc::new(Reject)).unwrap();
    let payload = udp_payload("10.0.1.2", "10.0.2.2", 9, 5000, b"silence");
    let h = |dst: &str| header("10.0.1.2", dst, 17, payload.len());
    let mut later = h("10.0.2.2");
    later.frag = 1;
    let mut error = echo("10.0.1.2", "10.0.2.2", 1, b"12345678");
    error[20] = 11;
    let silent = [packet(later, &payload), packet(h("10.0.1.255"), &payload), packet(h("224.0.0.1"), &payload), error];
    for p in &silent {
        r.host_a(p);
    }
    let f = frame(mac("ff:ff:ff:ff:ff:ff"), mac(HOST_A), 0x0800, &packet(h("10.0.2.2"), &payload));
    r.send(0, f);
    // What is not even IP is dropped at the link without a word.
    r.stack.pfil_attach(Layer::Ether, None, Dirs::In, 0, Arc::new(Reject)).unwrap();
    let f = frame(r.mac(0), mac(HOST_A), 0x86dd, &payload);
    r.send(0, f);
    assert_eq!(r.take(0), [[0u8; 0]; 0]);
    assert_eq!(r.dropped(DropReason::Filtered), 6);
    // The limit holds for these errors too.
    r.rt.sysctl().set("net.inet.icmp.errppslimit", "0").unwrap();
    r.host_a(&packet(h("10.0.2.2"), &payload));
    assert_eq!((r.take(0).len(), r.dropped(DropReason::Filtered)), (0, 7));
    r.balanced();
}

#[test]
fn a_port_that_breaks_the_rules_is_quarantined_and_the_others_go_on() {
    for (n, cells, what) in [
        (65, vec![], "more packets than it was asked for"),
        (RX_FAULT, vec![], "rx_burst failed"),
        (1, vec![0xdead_beef], "bad packet"),
    ] {
        let mut r = Rig::router();
        r.port("c0", "10.0.9.1/24");
        let events = r.stack.events();
        *r.wire(2).misbehave.lock().unwrap() = Some((n, cells));
        r.run();
        let all = r.stack.interfaces();
        let c0 = all.iter().find(|i| i.name == "c0").unwrap();
        assert!(!c0.running);
        assert!(c0.quarantine.as_ref().is_some_and(|q| q.contains(what)), "{:?}", c0.quarantine);
        assert!(events.try_iter().any(|e| e.kind == "quarantine" && e.interface == "c0"));
        let calls = *r.wire(2).calls.lock().unwrap();
        r.host_a(&udp("10.0.1.2", "10.0.2.2", 1, 2, b""));
        assert_eq!(r.take(1).len(), 1, "the router forwards on its other ports");
        r.host_a(&udp("10.0.1.2", "10.0.9.2", 1, 2, b""));
        assert_eq!(*r.wire(2).calls.lock().unwrap(), calls, "and calls nothing of the bad one");
        assert_eq!(r.dropped(DropReason::IfDown), 1);
        r.balanced();
    }
}

#[test]
fn an_interface_that_is_down_takes_and_sends_nothing() {
    let mut r = Rig::router();
    let p = udp("10.0.1.2", "10.0.2.2", 1, 2, b"");
    r.host_a(&p);
    r.stack.set_up(r.index(1), false).unwrap();
    r.host_a(&p);
    assert_eq!((r.take(1).len(), r.dropped(DropReason::IfDown)), (1, 1));
    assert!(r.stack.arp_list().iter().all(|a| a.interface != "b0"), "its neighbours are forgotten");
    r.stack.set_up(r.index(1), true).unwrap();
    r.teach(1, "10.0.2.2", HOST_B);
    r.host_a(&p);
    assert_eq!(r.take(1).len(), 1);
    r.balanced();
}

#[test]
fn bad_requests_say_what_is_wrong_and_change_nothing() {
    let r = Rig::router();
    let s = r.stack.clone();
    let (a0, b0) = (r.index(0), r.index(1));
    let before = (s.routes(), s.interfaces().len());
    let say = |e: Result<(), StackError>| e.unwrap_err().to_string();
    let add = |i, a: &str| say(s.addr_add(i, net(a), AddrOptions::default()));
    assert_eq!(add(b0, "10.0.1.7/16"), "10.0.1.7/16 overlaps 10.0.1.1/24 of interface `a0`");
    assert!(add(b0, "224.0.0.1/24").contains("multicast"));
    assert!(add(b0, "10.9.9.0/24").contains("network's own"));
    assert!(add(b0, "127.0.0.2/32").contains("loopback"));
    assert!(say(s.addr_del(a0, net("10.0.1.9/24"))).contains("has no address 10.0.1.9/24"));
    assert!(say(s.route_delete(net("10.0.1.0/24"))).contains("belongs to an address of interface `a0`"));
    assert!(say(s.route_delete(net("10.77.0.0/24"))).contains("no route to 10.77.0.0/24"));
    let via = |d: &str, g: &str| crate::types::RouteSpec::via(net(d), g.parse().unwrap());
    assert!(say(s.route_add(&via("10.3.0.0/16", "192.0.2.1"))).contains("gateway 192.0.2.1"));
    assert!(say(s.route_add(&via("10.0.1.0/24", "10.0.2.2"))).contains("exists already"));
    assert!(say(s.route_add(&via("10.3.0.0/16", "10.0.2.1"))).contains("address of this router"));
    assert!(say(s.set_mtu(a0, 60)).contains("68 to 9000"));
    assert!(s.if_reserve("a0").unwrap_err().to_string().contains("exists already"));
    assert!(s.if_reserve("a name with spaces").unwrap_err().to_string().contains("is not an interface name"));
    assert_eq!((s.routes(), s.interfaces().len()), before);
    r.balanced();
}

#[test]
fn an_address_leaves_exactly_its_routes_behind_and_takes_them_along() {
    let r = Rig::router();
    let routes = |r: &Rig| r.stack.routes().iter().map(|r| (r.dst.to_string(), r.flags.clone())).collect::<Vec<_>>();
    let before = routes(&r);
    r.address(r.index(1), "10.0.5.1/24");
    let new: Vec<_> = routes(&r).into_iter().filter(|x| !before.contains(x)).collect();
    let want = [("10.0.5.0/32", "UHb"), ("10.0.5.0/24", "UC"), ("10.0.5.1/32", "UHl"), ("10.0.5.255/32", "UHb")];
    let mut new: Vec<_> = new.iter().map(|(d, f)| (d.as_str(), f.as_str())).collect();
    new.sort_unstable();
    let mut want = want.to_vec();
    want.sort_unstable();
    assert_eq!(new, want);
    r.stack.addr_del(r.index(1), net("10.0.5.1/24")).unwrap();
    assert_eq!(routes(&r), before);
    let answer = r.stack.route_get("10.0.2.77".parse().unwrap());
    assert_eq!(answer.source.unwrap().to_string(), "10.0.2.1");
    assert_eq!(answer.route.unwrap().kind, "connected");
}

/// A stack with two workers that run by themselves.
fn two_workers(cells: u32) -> (Arc<Runtime>, Arc<Stack>) {
    let pool = PoolConfig { cells, workers: 2, huge_pages: HugePages::Never, ..PoolConfig::default() };
    let config = RuntimeConfig { cpus: vec![None; 2], pool, ..RuntimeConfig::default() };
    let rt = Runtime::start(config).unwrap();
    let stack = Stack::new(rt.clone()).unwrap();
    (rt, stack)
}

/// A port without an event that could wake a worker, with a queue for each of some workers.
fn polled_port(
    rt: &Arc<Runtime>,
    stack: &Stack,
    name: &str,
    last: u8,
    queues: u16,
) -> (crate::types::IfIndex, &'static MemPort) {
    let index = stack.if_reserve(name).unwrap();
    let port: &'static MemPort = Box::leak(Box::new(MemPort { rt: Some(rt.clone()), ..MemPort::default() }));
    let info = PortInfo {
        size: size_of::<PortInfo>() as u32,
        flags: smpnet_abi::port_flags::POLL_ONLY,
        port: std::ptr::from_ref(port).cast_mut().cast(),
        rx_queues: queues,
        tx_queues: queues,
        mtu: 1500,
        mtu_max: 1500,
        offloads: 0,
        mac: smpnet_abi::MacAddr { bytes: [2, 0, 0, 0, 3, last] },
        rss_table: 0,
        rss_key: 0,
        _pad: [0; 3],
    };
    stack.attach_port(index, &TABLE, info).unwrap();
    (index, port)
}

#[test]
fn every_worker_wakes_for_a_port_that_goes_up_and_for_reception_that_is_let_go() {
    let (rt, stack) = two_workers(1024);
    let (index, port) = polled_port(&rt, &stack, "a0", 1, 2);
    let all_ask = |what: &str| {
        let end = Instant::now() + Duration::from_secs(20);
        while port.asked.load(Relaxed) != 0b11 {
            assert!(Instant::now() < end, "{what}: workers {:#b} asked", port.asked.load(Relaxed));
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    // The workers have nothing to do and sleep.
    std::thread::sleep(Duration::from_millis(20));
    stack.set_up(index, true).unwrap();
    all_ask("up");
    stack.set_up(index, false).unwrap();
    stack.hold_reception(true);
    stack.set_up(index, true).unwrap();
    rt.domain().perform();
    port.asked.store(0, Relaxed);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(port.asked.load(Relaxed), 0);
    stack.hold_reception(false);
    all_ask("let go");
    rt.stop();
}

#[test]
fn interfaces_come_and_go_under_traffic_without_losing_count() {
    let (rt, stack) = two_workers(4096);
    let attach = |name: &str, address: &str, last: u8| {
        let (index, port) = polled_port(&rt, &stack, name, last, 1);
        stack.set_up(index, true).unwrap();
        stack.addr_add(index, net(address), AddrOptions { dad_count: Some(0) }).unwrap();
        (index, port)
    };
    let (_, a) = attach("a0", "10.0.1.1/24", 1);
    let to_a = smpnet_abi::MacAddr { bytes: [2, 0, 0, 0, 3, 1] };
    for round in 0..20u8 {
        let (b0, b) = attach("b0", "10.0.2.1/24", 2);
        for i in 0..100u16 {
            let p = udp("10.0.1.2", &format!("10.0.2.{}", 2 + i % 5), i, 2, &[round]);
            let bytes = ip_frame(to_a, mac(HOST_A), &p);
            a.rx.lock().unwrap().push_back(Wire { bytes, ..Wire::default() });
        }
        let to_b = smpnet_abi::MacAddr { bytes: [2, 0, 0, 0, 3, 2] };
        for h in 2..5u8 {
            let bytes = arp_request(mac("02:00:00:00:00:0b"), &format!("10.0.2.{h}"), "10.0.2.1");
            b.rx.lock().unwrap().push_back(Wire { bytes, ..Wire::default() });
        }
        let _ = to_b;
        std::thread::sleep(Duration::from_millis(u64::from(round % 4)));
        stack.detach(b0).unwrap();
        assert!(stack.if_by_name("b0").is_none());
    }
    let end = Instant::now() + Duration::from_secs(5);
    while !a.rx.lock().unwrap().is_empty() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    let gone = stack.shutdown();
    assert_eq!(gone.len(), 1);
    let acc = stack.accounting();
    assert_eq!((acc.missing(), acc.held), (0, 0), "{acc:?}");
    assert!(acc.received >= 1000, "{acc:?}");
    let report = rt.stop();
    assert_eq!(report.cells_in_use, 0, "{report:?}");
}
