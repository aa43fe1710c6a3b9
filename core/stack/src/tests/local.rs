use super::frames::*;
use super::rig::*;
use crate::wire::icmp::{ty, unreach};
use crate::wire::ipv4::proto;
use crate::{Beside, Segments};
use smpnet_abi::DropReason;

#[test]
fn an_echo_to_an_address_of_ours_is_answered() {
    let mut r = Rig::router();
    r.host_a(&echo("10.0.1.2", "10.0.1.1", 7, b"payload of the ping"));
    let (ip4, icmp, body) = icmp_of(&r.take(0)[0]);
    assert_eq!((ip4.src, ip4.dst, ip4.ttl), (ip("10.0.1.1"), ip("10.0.1.2"), 64));
    assert_eq!((icmp.ty, icmp.rest), (ty::ECHO_REPLY, 0xbeef_0007));
    assert_eq!(body, b"payload of the ping");
    r.host_a(&echo("10.0.1.2", "10.0.2.1", 8, b"the far side's address is ours too"));
    let (ip4, _, _) = icmp_of(&r.take(0)[0]);
    assert_eq!(ip4.src, ip("10.0.2.1"));
    r.balanced();
}

#[test]
fn an_echo_with_a_wrong_checksum_or_to_a_broadcast_is_not_answered() {
    let mut r = Rig::router();
    let mut p = echo("10.0.1.2", "10.0.1.1", 7, b"payload");
    p[30] ^= 1;
    r.host_a(&p);
    r.host_a(&echo("10.0.1.2", "10.0.1.255", 7, b""));
    r.host_a(&echo("10.0.1.2", "255.255.255.255", 7, b""));
    assert!(r.take(0).is_empty());
    assert_eq!((r.dropped(DropReason::L4BadChecksum), r.dropped(DropReason::IcmpIgnored)), (1, 2));
    r.balanced();
}

#[test]
fn what_nothing_listens_for_is_unreachable() {
    let mut r = Rig::router();
    r.host_a(&udp("10.0.1.2", "10.0.1.1", 1, 2, b""));
    let (_, icmp, _) = icmp_of(&r.take(0)[0]);
    assert_eq!((icmp.ty, icmp.code), (ty::UNREACHABLE, unreach::PORT));
    r.host_a(&packet(header("10.0.1.2", "10.0.1.1", 89, 4), b"ospf"));
    let (_, icmp, _) = icmp_of(&r.take(0)[0]);
    assert_eq!((icmp.ty, icmp.code), (ty::UNREACHABLE, unreach::PROTOCOL));
    assert_eq!((r.dropped(DropReason::PortUnreach), r.dropped(DropReason::ProtoUnreach)), (1, 1));
    r.balanced();
}

#[test]
fn no_error_answers_an_error() {
    let mut r = Rig::router();
    let quote = udp("10.0.2.2", "10.0.1.2", 1, 2, b"");
    let mut m = vec![0; 8];
    m.extend_from_slice(&quote);
    let (head, body) = m.split_at_mut(8);
    crate::wire::icmp::Icmp { ty: ty::UNREACHABLE, code: 1, checksum: 0, rest: 0 }.emit(head, body);
    let mut h = header("10.0.1.2", "10.0.2.2", proto::ICMP, m.len());
    h.ttl = 1;
    r.host_a(&packet(h, &m));
    assert!(r.take(0).is_empty());
    assert_eq!(r.dropped(DropReason::IpTtl), 1);
    r.balanced();
}

#[test]
fn icmp_errors_are_limited() {
    let mut r = Rig::router();
    r.rt.sysctl().set("net.inet.icmp.errppslimit", "10").unwrap();
    let frames: Vec<_> =
        (0..60u16).map(|i| ip_frame(r.mac(0), mac(HOST_A), &udp("10.0.1.2", "192.0.2.1", i, 2, b""))).collect();
    r.send_all(0, frames);
    let n = r.take(0).len();
    assert!((10..=12).contains(&n), "{n} errors");
    assert_eq!(r.dropped(DropReason::IpNoRoute), 60);
    r.balanced();
}

#[test]
fn malformed_packets_are_dropped_each_for_its_reason() {
    let mut r = Rig::router();
    let good = udp("10.0.1.2", "10.0.2.2", 1, 2, b"");
    let with = |at: usize, v: u8| {
        let mut b = good.clone();
        b[at] = v;
        b
    };
    r.host_a(&with(0, 0x65));
    r.host_a(&with(0, 0x44));
    r.host_a(&with(2, 0x7f));
    r.host_a(&with(10, 0x12));
    r.host_a(&udp("127.0.0.1", "10.0.2.2", 1, 2, b""));
    r.host_a(&udp("224.0.0.1", "10.0.2.2", 1, 2, b""));
    let reasons = [
        DropReason::IpBadVersion,
        DropReason::IpBadHeaderLength,
        DropReason::IpBadLength,
        DropReason::IpBadChecksum,
        DropReason::IpMartian,
        DropReason::IpBadSource,
    ];
    for reason in reasons {
        assert_eq!(r.dropped(reason), 1, "{reason:?}");
    }
    assert!(r.take(0).is_empty() && r.take(1).is_empty());
    assert_eq!((r.stat("badvers"), r.stat("badaddr"), r.stat("total")), (1, 2, 6));
    r.balanced();
}

#[test]
fn explain_tells_the_way_and_changes_nothing() {
    let mut r = Rig::router();
    let before = (r.stack.accounting(), r.stack.drops());
    let index = r.index(0);
    let say = |p: &[u8]| {
        let f = ip_frame(r.mac(0), mac(HOST_A), p);
        r.stack.explain(index, &f, &|_| Vec::new())
    };
    let steps = say(&udp("10.0.1.2", "10.0.2.2", 1, 2, b""));
    let stages: Vec<_> = steps.iter().map(|s| (s.stage, s.decision.as_str())).collect();
    let want = [
        ("interface", "received"),
        ("ether", "ours"),
        ("ip", "valid"),
        ("route", "connected"),
        ("forward", "forwarded"),
        ("neighbour", "reachable"),
        ("output", "sent"),
    ];
    assert_eq!(stages, want);
    let last = say(&udp("10.0.1.2", "192.0.2.1", 1, 2, b"")).pop().unwrap();
    assert_eq!(last.decision, "drop ip_no_route");
    let last = say(&echo("10.0.1.2", "10.0.1.1", 1, b"")).pop().unwrap();
    assert_eq!((last.stage, last.decision.as_str()), ("icmp", "answered"));
    assert_eq!((r.stack.accounting(), r.stack.drops()), before);
    r.run();
    assert!(r.take(1).is_empty());
}

#[test]
fn explain_knows_segments_tags_and_redirects() {
    let r = Rig::router();
    let index = r.index(0);
    let tell = |packet: &[u8], beside: Beside| -> Vec<String> {
        let f = ip_frame(r.mac(0), mac(HOST_A), packet);
        let steps = r.stack.explain_with(index, &f, beside, &|_| Vec::new());
        steps.into_iter().map(|s| format!("{} {}: {}", s.stage, s.decision, s.detail)).collect()
    };
    let has = |steps: &[String], what: &str| steps.iter().any(|s| s.starts_with(what));
    let segments = |s: &str| Beside { segments: Some(s.parse().unwrap()), ..Beside::default() };
    let large = udp("10.0.1.2", "10.0.2.2", 1, 2, &[0; 4000]);
    // Without a word of the device it is no frame of this interface.
    assert!(tell(&large, Beside::default()).last().unwrap().starts_with("ether drop oversize"));
    let steps = tell(&large, segments("udp:1000"));
    assert!(has(&steps, "segments cut: 4 of up to 1028 bytes, in software"), "{steps:?}");
    assert!(has(&steps, "output sent"));
    let steps = tell(&large, segments("udp:1473"));
    assert!(has(&steps, "forward drop ip_cannot_fragment"), "{steps:?}");
    let mut tcp = vec![0; 20];
    tcp[12] = 5 << 4;
    tcp.extend_from_slice(&[0; 3000]);
    let tcp = packet(header("10.0.1.2", "10.0.2.2", 6, tcp.len()), &tcp);
    let steps = tell(&tcp, segments("tcp:2000"));
    assert!(has(&steps, "forward smaller segments: 1460 bytes each"), "{steps:?}");
    assert!(has(&steps, "segments cut: 3 of up to 1500 bytes, in software"), "{steps:?}");
    for wrong in ["udp", "udp:0", "sctp:5", "tcp:65536"] {
        assert!(wrong.parse::<Segments>().is_err(), "{wrong}");
    }
    let tag = |vlan_tci| Beside { vlan_tci: Some(vlan_tci), ..Beside::default() };
    let small = udp("10.0.1.2", "10.0.2.2", 1, 2, b"");
    assert!(has(&tell(&small, tag(5)), "vlan drop vlan_unknown"));
    assert!(has(&tell(&small, tag(0xe000)), "output sent"));
    // Back to where it came from.
    r.route("172.16.0.0/16", "10.0.1.2");
    let back = udp("10.0.1.9", "172.16.0.1", 1, 2, b"");
    assert!(has(&tell(&back, Beside::default()), "redirect sent: 10.0.1.2"));
    r.rt.sysctl().set("net.inet.ip.redirect", "0").unwrap();
    assert!(!has(&tell(&back, Beside::default()), "redirect"));
}
