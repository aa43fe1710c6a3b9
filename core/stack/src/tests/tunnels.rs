//! Interface kinds: a tunnel and a tagged interface made for these tests.

use super::frames::*;
use super::rig::*;
use crate::stack::Stack;
use crate::types::{AddrOptions, IfIndex, NextHopSpec, RouteKind, RouteSpec};
use crate::wire::icmp::Icmp;
use crate::wire::ipv4::{Ipv4, proto};
use smpnet_abi::{
    Cell, DropReason, ErrBuf, HostServices, IfConfig, IfKindInfo, IfKindTable, MacAddr, Text, UNSUPPORTED, if_type,
    offload, pkt_flags,
};
use smpnet_runtime::Cpu;
use std::ffi::c_void;
use std::sync::{Arc, Weak};

struct Tunnel {
    stack: Weak<Stack>,
    index: u32,
    local: u32,
    remote: u32,
    parent: u32,
    vid: u16,
}

unsafe fn tunnel<'a>(h: *mut c_void) -> (&'a Tunnel, Arc<Stack>) {
    // SAFETY: handles are leaked tunnels.
    let t: &Tunnel = unsafe { &*h.cast() };
    (t, t.stack.upgrade().unwrap())
}

unsafe fn slice<'a>(cells: *const Cell, n: u32) -> &'a [Cell] {
    // SAFETY: the caller's array has `n` cells.
    unsafe { std::slice::from_raw_parts(cells, n as usize) }
}

unsafe extern "C" fn gif_output(h: *mut c_void, worker: u32, cells: *const Cell, n: u32) -> i32 {
    // SAFETY: the caller's contract.
    let ((t, s), cells, cpu) = unsafe { (tunnel(h), slice(cells, n), Cpu::assume(worker)) };
    for c in cells {
        let mut p = s.rt.pool().packet(*c);
        let total = 20 + p.len() as u16;
        let df = u16::from(p.data()[6] & 0x40) << 8;
        p.push_front(20).unwrap();
        let outer = Ipv4 {
            header_len: 20,
            tos: 0,
            total_len: total,
            id: 0,
            frag: df,
            ttl: 30,
            proto: proto::IPIP,
            checksum: 0,
            src: t.local,
            dst: t.remote,
        };
        outer.emit(p.data_mut());
    }
    s.ip_output(cpu, cells);
    0
}

unsafe extern "C" fn gif_input(h: *mut c_void, worker: u32, cells: *const Cell, n: u32) -> i32 {
    // SAFETY: the caller's contract.
    let ((t, s), cells, cpu) = unsafe { (tunnel(h), slice(cells, n), Cpu::assume(worker)) };
    for c in cells {
        let mut p = s.rt.pool().packet(*c);
        let header = usize::from(p.hdr().l4_off - p.hdr().l3_off);
        assert!(p.pull_front(header));
        p.hdr_mut().ether_type = 0x0800;
    }
    s.if_input(cpu, t.index, cells);
    0
}

unsafe extern "C" fn vlan_output(h: *mut c_void, worker: u32, cells: *const Cell, n: u32) -> i32 {
    // SAFETY: the caller's contract.
    let ((t, s), cells, cpu) = unsafe { (tunnel(h), slice(cells, n), Cpu::assume(worker)) };
    for c in cells {
        let mut p = s.rt.pool().packet(*c);
        let h = p.hdr_mut();
        h.flags |= pkt_flags::VLAN;
        h.vlan_tci = t.vid;
    }
    s.if_output(cpu, t.parent, cells);
    0
}

unsafe extern "C" fn vlan_input(h: *mut c_void, worker: u32, cells: *const Cell, n: u32) -> i32 {
    // SAFETY: the caller's contract.
    let ((t, s), cells, cpu) = unsafe { (tunnel(h), slice(cells, n), Cpu::assume(worker)) };
    for c in cells {
        let mut p = s.rt.pool().packet(*c);
        assert_eq!(p.hdr().vlan_tci & 0xfff, t.vid);
        p.hdr_mut().flags &= !pkt_flags::VLAN;
    }
    s.if_input(cpu, t.index, cells);
    0
}

unsafe extern "C" fn create(_: *const HostServices, _: *const IfConfig, _: *mut IfKindInfo, _: *mut ErrBuf) -> i32 {
    UNSUPPORTED
}
unsafe extern "C" fn configure(_: *mut c_void, _: *const IfConfig, _: *mut IfKindInfo, _: *mut ErrBuf) -> i32 {
    UNSUPPORTED
}
unsafe extern "C" fn destroy(_: *mut c_void) -> i32 {
    0
}
unsafe extern "C" fn status(_: *mut c_void, _: *mut ErrBuf) -> i32 {
    UNSUPPORTED
}

static GIF: IfKindTable = IfKindTable {
    size: size_of::<IfKindTable>() as u32,
    flags: 0,
    name: Text::new("gif"),
    summary: Text::new("IPv4 in IPv4"),
    create,
    destroy,
    configure,
    output: gif_output,
    input: gif_input,
    status,
};

pub(super) static VLAN: IfKindTable =
    IfKindTable { name: Text::new("vlan"), output: vlan_output, input: vlan_input, ..GIF };

pub(super) fn kind(
    r: &Rig,
    name: &str,
    table: &'static IfKindTable,
    local: &str,
    remote: &str,
    parent: u32,
    vid: u16,
) -> IfIndex {
    let index = r.stack.if_reserve(name).unwrap();
    let t: &'static Tunnel = Box::leak(Box::new(Tunnel {
        stack: Arc::downgrade(&r.stack),
        index: index.get(),
        local: ip(local),
        remote: ip(remote),
        parent,
        vid,
    }));
    let raw = vid == 0;
    let info = IfKindInfo {
        size: size_of::<IfKindInfo>() as u32,
        if_type: if raw { if_type::RAW_IP } else { if_type::ETHER },
        handle: std::ptr::from_ref(t).cast_mut().cast(),
        mtu: if raw { 1280 } else { 1500 },
        mtu_min: 68,
        mtu_max: 8192,
        offloads: offload::SCATTER,
        parent,
        // A tagged interface has its parent's address, as vlan(4) has.
        mac: r.stack.if_info(parent).map_or(MacAddr::default(), |i| i.mac),
        _pad: 0,
    };
    r.stack.attach_kind(index, table, info).unwrap();
    r.stack.set_up(index, true).unwrap();
    index
}

fn gif(r: &Rig, name: &str, local: &str, remote: &str) -> IfIndex {
    let index = kind(r, name, &GIF, local, remote, 0, 0);
    let key = crate::encap_key(local.parse().unwrap(), remote.parse().unwrap(), proto::IPIP);
    r.stack.encap_attach(index, &key).unwrap();
    index
}

fn dev(dst: &str, i: IfIndex) -> RouteSpec {
    RouteSpec { dst: net(dst), kind: RouteKind::Forward(vec![NextHopSpec::dev(i)]) }
}

#[test]
fn packets_go_into_a_tunnel_and_come_out_of_it() {
    let mut r = Rig::router();
    let g = gif(&r, "gif0", "10.0.2.1", "10.0.2.2");
    r.stack.route_add(&dev("172.16.0.0/16", g)).unwrap();
    let inner = udp("10.0.1.2", "172.16.0.9", 1, 2, b"inside");
    for _ in 0..2 {
        r.host_a(&inner);
        let out = r.take(1);
        let (outer, body) = ip_of(&out[0]);
        assert_eq!((outer.src, outer.dst, outer.proto), (ip("10.0.2.1"), ip("10.0.2.2"), proto::IPIP));
        let (h, _) = ip_of_packet(&body);
        assert_eq!((h.dst, h.ttl), (ip("172.16.0.9"), 63));
    }
    let back = udp("172.16.0.9", "10.0.1.2", 2, 1, b"and back");
    let outer = packet(header("10.0.2.2", "10.0.2.1", proto::IPIP, back.len()), &back);
    let f = ip_frame(r.mac(1), mac(HOST_B), &outer);
    r.send(1, f);
    let out = r.take(0);
    assert_eq!(ip_of(&out[0]).0.src, ip("172.16.0.9"));
    let all = r.stack.interfaces();
    let c = all.iter().find(|i| i.name == "gif0").unwrap().counters;
    assert_eq!((c.ipackets, c.opackets), (1, 2));
    let stranger = packet(header("10.0.2.3", "10.0.2.1", proto::IPIP, back.len()), &back);
    let f = ip_frame(r.mac(1), mac(HOST_B), &stranger);
    r.send(1, f);
    assert_eq!((r.dropped(DropReason::EncapUnknown), r.stat("nogif")), (1, 1));
    r.balanced();
}

#[test]
fn packets_of_several_segments_are_cut_before_a_tunnel_wraps_them() {
    let (mut r, _) = tunnelled();
    let data = vec![7u8; 3000];
    let payload = udp_payload("10.0.1.2", "172.16.0.9", 1, 2, &data);
    let f = ip_frame(r.mac(0), mac(HOST_A), &packet(header("10.0.1.2", "172.16.0.9", 17, payload.len()), &payload));
    let flags = pkt_flags::GSO_UDP | OPEN;
    r.send_wire(0, Wire { bytes: f, flags, gso_size: 1000, csum_start: 34, csum_offset: 6, ..Wire::default() });
    let out = r.take_wires(1);
    assert_eq!(out.len(), 3);
    for w in &out {
        let (outer, body) = ip_of(&w.bytes);
        assert_eq!((outer.proto, outer.total_len), (proto::IPIP, 1048));
        let (inner, udp) = ip_of_packet(&body);
        let sum = crate::wire::checksum::Sum::new().pseudo(inner.src, inner.dst, 17, udp.len() as u32).add(&udp);
        assert_eq!((sum.finish(), udp.len()), (0, 1008));
    }
    r.balanced();
}

/// A router of a tunnel's way says that a packet did not pass: the error, with that much of the packet quoted.
fn error(r: &mut Rig, ty: u8, code: u8, rest: u32, quote: &[u8]) {
    let mut b = vec![0; 8];
    b.extend_from_slice(quote);
    let (h, p) = b.split_at_mut(8);
    Icmp { ty, code, checksum: 0, rest }.emit(h, p);
    let e = packet(header("10.0.2.77", "10.0.2.1", proto::ICMP, b.len()), &b);
    let f = ip_frame(r.mac(1), mac(HOST_B), &e);
    r.send(1, f);
}

fn path_mtus(r: &Rig) -> String {
    r.rt.sysctl().get("net.inet.ip.pathmtu").unwrap().to_string()
}

fn big(df: bool) -> Vec<u8> {
    let payload = udp_payload("10.0.1.2", "172.16.0.9", 1, 2, &[7; 1200]);
    let mut h = header("10.0.1.2", "172.16.0.9", proto::UDP, payload.len());
    h.frag = if df { 0x4000 } else { 0 };
    packet(h, &payload)
}

fn tunnelled() -> (Rig, IfIndex) {
    let r = Rig::router();
    let g = gif(&r, "gif0", "10.0.2.1", "10.0.2.2");
    r.stack.route_add(&dev("172.16.0.0/16", g)).unwrap();
    (r, g)
}

#[test]
fn a_path_mtu_of_a_tunnel_is_learned_told_inside_and_forgotten_in_time() {
    let (mut r, g) = tunnelled();
    r.host_a(&big(true));
    let out = r.take(1);
    let outer = out[0][14..].to_vec();
    assert_eq!((outer.len(), outer[6]), (1248, 0x40));
    // With all of the packet in the quote, the inner sender is told at once.
    error(&mut r, 3, 4, 1000, &outer[..100]);
    let told = r.take(0);
    let (h, icmp, quote) = icmp_of(&told[0]);
    assert_eq!((h.dst, icmp.ty, icmp.code, icmp.rest), (ip("10.0.1.2"), 3, 4, 980));
    assert_eq!(quote[..], outer[20..100]);
    assert_eq!(path_mtus(&r), "10.0.2.2 1000");
    // From now on by this router itself.
    r.host_a(&big(true));
    let told = r.take(0);
    let (h, icmp, quote) = icmp_of(&told[0]);
    assert_eq!((h.src, icmp.ty, icmp.code, icmp.rest), (ip("10.0.1.1"), 3, 4, 980));
    assert_eq!(ip_of_packet(&[&quote[..20], &[0; 1208][..]].concat()).0.dst, ip("172.16.0.9"));
    assert_eq!((r.take(1).len(), r.dropped(DropReason::IpNeedFrag)), (0, 1));
    // What may be fragmented is, to the MTU of the path.
    r.host_a(&big(false));
    let pieces = r.take(1);
    assert_eq!(pieces.iter().map(|f| ip_of(f).0.total_len).collect::<Vec<_>>(), [996, 272]);
    let counters = r.stack.interfaces().iter().find(|i| i.index == g).unwrap().counters;
    assert_eq!(counters.path_errors, 1);
    // A wider path does not come back by an error, but in time.
    error(&mut r, 3, 4, 1200, &outer[..100]);
    assert_eq!(path_mtus(&r), "10.0.2.2 1000");
    r.take(0);
    r.advance(601);
    assert_eq!(path_mtus(&r), "");
    r.teach(1, "10.0.2.2", HOST_B);
    r.host_a(&big(true));
    assert_eq!(r.take(1).len(), 1);
    r.balanced();
}

#[test]
fn a_router_that_does_not_say_its_mtu_is_met_with_a_plateau() {
    let (mut r, _) = tunnelled();
    r.host_a(&big(true));
    let outer = r.take(1)[0][14..].to_vec();
    error(&mut r, 3, 4, 0, &outer[..28]);
    assert_eq!(path_mtus(&r), "10.0.2.2 1006");
    assert!(r.take(0).is_empty(), "8 bytes of the inner packet do not name its sender");
    r.rt.sysctl().set("net.inet.ip.mtudisc", "0").unwrap();
    error(&mut r, 3, 4, 500, &outer[..28]);
    assert_eq!(path_mtus(&r), "10.0.2.2 1006");
    r.balanced();
}

#[test]
fn an_error_about_what_we_cannot_have_sent_changes_nothing() {
    let (mut r, g) = tunnelled();
    let inner = big(true);
    let quote = |src: &str, dst: &str, proto: u8, frag: u16| {
        let mut h = header(src, dst, proto, inner.len());
        h.frag = frag;
        packet(h, &inner)[..80].to_vec()
    };
    for q in [
        quote("10.0.2.9", "10.0.2.2", 4, 0x4000),
        quote("10.0.2.1", "10.0.2.3", 4, 0x4000),
        quote("10.0.2.1", "10.0.2.2", 4, 0),
        quote("10.0.2.1", "10.0.2.2", 4, 0x4001),
        quote("127.0.0.1", "10.0.2.2", 4, 0x4000),
        quote("10.0.2.1", "8.8.8.8", 1, 0),
        quote("10.0.2.1", "10.0.2.2", 4, 0x4000)[..27].to_vec(),
        vec![],
    ] {
        error(&mut r, 3, 4, 600, &q);
    }
    assert_eq!((path_mtus(&r).as_str(), r.take(0).len(), r.take(1).len()), ("", 0, 0));
    let icmp = r.stack.protocol_stats().icmp;
    let stat = |name: &str| icmp.iter().find(|(n, _)| *n == name).unwrap().1;
    assert_eq!((stat("in_unmatched"), stat("in_pmtu"), stat("in_relayed")), (8, 0, 0));
    let counters = r.stack.interfaces().iter().find(|i| i.index == g).unwrap().counters;
    assert_eq!(counters.path_errors, 1, "the one that is the tunnel's but was never sent with DF");
    r.balanced();
}

#[test]
fn an_error_in_the_tunnel_is_passed_on_as_host_unreachable() {
    let (mut r, g) = tunnelled();
    for (ty, code) in [(3, 1), (3, 3), (11, 0)] {
        r.host_a(&udp("10.0.1.2", "172.16.0.9", 1, 2, b"inside"));
        let outer = r.take(1)[0][14..].to_vec();
        error(&mut r, ty, code, 0, &outer);
        let told = r.take(0);
        let (h, icmp, quote) = icmp_of(&told[0]);
        assert_eq!((h.dst, icmp.ty, icmp.code), (ip("10.0.1.2"), 3, 1));
        assert_eq!(quote, outer[20..]);
    }
    // An error about an error is never passed on, nor one that quotes too little or garbage.
    let mut inner = echo("10.0.1.2", "172.16.0.9", 1, b"12345678");
    inner[20] = 3;
    let outer = packet(header("10.0.2.1", "10.0.2.2", 4, inner.len()), &inner);
    error(&mut r, 3, 1, 0, &outer);
    let good = udp("10.0.1.2", "172.16.0.9", 1, 2, b"inside");
    let mut outer = packet(header("10.0.2.1", "10.0.2.2", 4, good.len()), &good);
    error(&mut r, 3, 1, 0, &outer[..47]);
    outer[32] ^= 1;
    error(&mut r, 3, 1, 0, &outer);
    assert_eq!(r.take(0).len(), 0);
    let counters = r.stack.interfaces().iter().find(|i| i.index == g).unwrap().counters;
    assert_eq!(counters.path_errors, 6);
    r.balanced();
}

#[test]
fn a_tunnel_that_leads_into_itself_ends() {
    let mut r = Rig::router();
    let g = gif(&r, "gif0", "10.0.2.1", "192.168.9.9");
    r.stack.route_add(&dev("192.168.9.0/24", g)).unwrap();
    r.host_a(&udp("10.0.1.2", "192.168.9.1", 1, 2, b""));
    assert_eq!(r.dropped(DropReason::EncapNest), 1);
    r.balanced();
}

#[test]
fn two_tunnels_cannot_have_the_same_key() {
    let r = Rig::router();
    let g = gif(&r, "gif0", "10.0.2.1", "10.0.2.2");
    let h = kind(&r, "gif1", &GIF, "10.0.2.1", "10.0.2.2", 0, 0);
    let key = crate::encap_key("10.0.2.1".parse().unwrap(), "10.0.2.2".parse().unwrap(), proto::IPIP);
    let e = r.stack.encap_attach(h, &key).unwrap_err().to_string();
    assert!(e.contains("gif0"), "{e}");
    assert!(r.stack.encap_detach(h, &key).is_err());
    r.stack.encap_detach(g, &key).unwrap();
    r.stack.encap_attach(h, &key).unwrap();
}

#[test]
fn tagged_frames_go_by_their_vlan_interface_in_both_directions() {
    let mut r = Rig::router();
    let parent = r.index(1);
    let v = kind(&r, "vlan10", &VLAN, "0.0.0.0", "0.0.0.0", parent.get(), 10);
    r.stack.vlan_attach(parent, 10, v).unwrap();
    assert!(r.stack.vlan_attach(parent, 10, v).is_err(), "taken");
    assert!(r.stack.vlan_attach(parent, 4095, v).is_err());
    r.stack.addr_add(v, net("10.0.10.1/24"), AddrOptions { dad_count: Some(0) }).unwrap();
    r.run();
    r.take(1);
    let vmac = r.mac(1);
    let tag = |f: Vec<u8>, vid: u8| {
        let mut t = f[..12].to_vec();
        t.extend_from_slice(&[0x81, 0, 0, vid]);
        t.extend_from_slice(&f[12..]);
        t
    };
    r.send(1, tag(arp_request(mac(HOST_B), "10.0.10.2", "10.0.10.1"), 10));
    let out = r.take(1);
    assert_eq!(out[0][12..16], [0x81, 0, 0, 10], "the answer is tagged");
    r.send(1, tag(ip_frame(vmac, mac(HOST_B), &echo("10.0.10.2", "10.0.10.1", 1, b"tagged")), 10));
    let out = r.take(1);
    assert_eq!(out[0][12..16], [0x81, 0, 0, 10]);
    let (h, _) = ip_of_packet(&out[0][18..]);
    assert_eq!(h.dst, ip("10.0.10.2"));
    r.host_a(&udp("10.0.1.2", "10.0.10.2", 1, 2, b"routed into the vlan"));
    let out = r.take(1);
    assert_eq!(out[0][12..18], [0x81, 0, 0, 10, 8, 0]);
    r.send(1, tag(ip_frame(r.mac(1), mac(HOST_B), &echo("10.0.2.2", "10.0.2.1", 1, b"priority")), 0));
    assert_eq!(r.take(1).len(), 1, "id 0 counts as untagged");
    r.send(1, tag(ip_frame(vmac, mac(HOST_B), &echo("10.0.10.2", "10.0.10.1", 1, b"")), 11));
    assert_eq!(r.dropped(DropReason::VlanUnknown), 1);
    r.balanced();
}

#[test]
fn a_vlan_follows_the_link_of_its_parent() {
    let mut r = Rig::router();
    let parent = r.index(1);
    let v = kind(&r, "vlan10", &VLAN, "0.0.0.0", "0.0.0.0", parent.get(), 10);
    let running = |r: &Rig| r.stack.interfaces().iter().find(|i| i.index == v).unwrap().running;
    assert!(running(&r));
    r.stack.link_event(parent.get(), smpnet_abi::LinkState::default());
    r.run();
    assert!(!running(&r));
    r.stack.link_event(parent.get(), smpnet_abi::LinkState { state: 1, ..Default::default() });
    r.run();
    assert!(running(&r));
}
