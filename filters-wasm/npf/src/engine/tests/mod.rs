//! The reference's tables of rules and translation, and what its decisions say, by whole configurations.

mod load;
mod mapped;
mod maps;
mod pptp;
mod workers;

use super::*;
use crate::{
    checksum,
    evaluate::NoInterfaces,
    language::{NoFiles, parse},
    nat::ports::Translated,
    packet::{address_of, number_of as address_number, proto},
    replay::{Replay, hex},
    testing::{ip, is_right, udp},
};
use std::net::IpAddr;

fn engine(conf: &str) -> Engine {
    let parsed = parse("test.conf", conf, &NoFiles).unwrap_or_else(|e| panic!("{e}"));
    let addresses: HashMap<String, Vec<IpAddr>> = [
        ("npftest0".to_owned(), vec![a("192.0.2.1"), a("2001:db8::1")]),
        ("npftest1".to_owned(), vec![a("10.1.1.254")]),
    ]
    .into();
    Engine::alone(Arc::new(parsed.config), Arc::new(addresses), TableLimits::default(), 1, Millis(0)).unwrap()
}

fn a(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn tcp(src: (&str, u16), dst: (&str, u16), flags: u8, seq: u32, ack: u32) -> Vec<u8> {
    let mut body = [src.1.to_be_bytes(), dst.1.to_be_bytes()].concat();
    body.extend([seq.to_be_bytes(), ack.to_be_bytes()].concat());
    body.extend([0x50, flags, 0x10, 0, 0, 0, 0, 0]);
    ip(src.0, dst.0, proto::TCP, &body)
}

fn echo(src: &str, dst: &str, kind: u8, id: u16) -> Vec<u8> {
    let mut body = vec![kind, 0, 0, 0];
    body.extend([id.to_be_bytes(), [0, 1]].concat());
    ip(src, dst, if a(src).is_ipv4() { proto::ICMP } else { proto::ICMPV6 }, &body)
}

/// Both ends of a packet: addresses and ports.
fn ends(bytes: &[u8]) -> [(IpAddr, u16); 2] {
    let p = Packet::read(bytes).unwrap();
    let ports = p.ports();
    [
        (address_of(p.family, p.src), ports.map_or(0, |p| p.src)),
        (address_of(p.family, p.dst), ports.map_or(0, |p| p.dst)),
    ]
}

/// Hands a packet to an engine; what it is afterwards, if it passed.
fn pass(engine: &mut Engine, interface: &str, way: Where, bytes: &[u8]) -> Option<Vec<u8>> {
    pass_at(engine, interface, way, bytes, 0).0
}

fn pass_at(engine: &mut Engine, interface: &str, way: Where, bytes: &[u8], ms: u64) -> (Option<Vec<u8>>, Outcome) {
    let mut bytes = bytes.to_vec();
    let outcome = engine.handle(&mut bytes, &Place { interface, way, now: Millis(ms) }, 0);
    if outcome.pass && !outcome.kept {
        assert!(is_right(&bytes), "checksums of {}", hex(&bytes));
    }
    (outcome.pass.then_some(bytes), outcome)
}

const NAT: &str = r#"
$ext_if = "npftest0"
$int_if = "npftest1"
$pub_ip1 = 192.0.2.1
$pub_ip2 = 192.0.2.2
$pub_ip3 = 192.0.2.3
$local_ip1 = 10.1.1.1
$local_ip2 = 10.1.1.2
$local_ip3 = 10.1.1.3
$local_net = { 10.1.1.0/24 }
$ports = { 8000, 9000 }
$net_a = 10.100.0.0/16
$net_b = 10.255.0.0/16
$net6_inner = fd01:203:405::/48
$net6_outer = 2001:db8:1::/48

set portmap.max_port 65535

map $ext_if dynamic $local_ip1 port 6000 <- $pub_ip1 port 8000
map $ext_if dynamic $local_ip2 <-> $pub_ip2
map $ext_if static $local_ip3 <-> $pub_ip3
map $ext_if dynamic 10.1.1.0/24 -> $pub_ip1
map $ext_if static algo netmap $net_a <-> $net_b
map $ext_if static algo npt66 $net6_inner <-> $net6_outer

group "ext" on $ext_if {
    pass stateful out final from $local_net
    pass stateful in final family inet4 proto udp to { $pub_ip1, $pub_ip2 } port $ports
    pass out final from $local_ip3
    pass in final to $pub_ip3
    pass out final from $net_a
    pass final family inet6 all
    block all
}
group "int" on $int_if {
    block all
}
group default {
    block all
}
"#;

#[test]
fn the_reference_s_table_of_translation_holds() {
    let mut e = engine(NAT);
    let (ext, int) = ("npftest0", "npftest1");
    let (out, inward) = (Where::Forward, Where::In);
    // Rows 1 and 2: the port is drawn once, and stays.
    let first = udp(("10.1.1.1", 15000), ("192.0.2.101", 7000), b"x");
    let translated = pass(&mut e, ext, out, &first).unwrap();
    let [(src, port), dst] = ends(&translated);
    assert_eq!((src, dst), (a("192.0.2.1"), (a("192.0.2.101"), 7000)));
    assert!(port >= 1024);
    assert_eq!(pass(&mut e, ext, out, &first).unwrap(), translated);
    // Rows 3 to 6.
    assert_eq!(pass(&mut e, ext, inward, &first), None);
    assert_eq!(pass(&mut e, ext, inward, &udp(("192.0.2.101", 7000), ("10.1.1.1", 15000), b"")), None);
    let back = udp(("192.0.2.101", 7000), ("192.0.2.1", port), b"yz");
    assert_eq!(pass(&mut e, int, inward, &back), None, "translation is bound to its interface");
    assert_eq!(ends(&pass(&mut e, ext, inward, &back).unwrap())[1], (a("10.1.1.1"), 15000));
    // Rows 7 to 17: interface, way, from, to, and what becomes of the end that is translated.
    let rows = [
        (inward, ("192.0.2.102", 16000), ("192.0.2.1", 8000), ("10.1.1.1", 6000)),
        (out, ("10.1.1.1", 6000), ("192.0.2.102", 16000), ("192.0.2.1", 8000)),
        (inward, ("192.0.2.102", 17000), ("192.0.2.2", 9000), ("10.1.1.2", 9000)),
        (out, ("10.1.1.2", 9000), ("192.0.2.102", 17000), ("192.0.2.2", 9000)),
        (out, ("10.1.1.2", 18000), ("192.0.2.102", 9000), ("192.0.2.2", 18000)),
        (inward, ("192.0.2.102", 9000), ("192.0.2.2", 18000), ("10.1.1.2", 18000)),
        (out, ("10.1.1.3", 19000), ("192.0.2.103", 10000), ("192.0.2.3", 19000)),
        (inward, ("192.0.2.103", 10000), ("192.0.2.3", 19000), ("10.1.1.3", 19000)),
        (out, ("10.100.7.126", 12345), ("192.0.2.104", 12345), ("10.255.7.126", 12345)),
        (out, ("fd01:203:405:1::1234", 1000), ("2001:db8:fefe::1010", 1001), ("2001:db8:1:d550::1234", 1000)),
        (inward, ("2001:db8:fefe::1010", 1001), ("2001:db8:1:d550::1234", 1000), ("fd01:203:405:1::1234", 1000)),
    ];
    for (i, (way, from, to, becomes)) in rows.into_iter().enumerate() {
        let bytes = udp(from, to, b"data");
        let after = pass(&mut e, ext, way, &bytes).unwrap_or_else(|| panic!("row {}: blocked", i + 7));
        let (side, other) = if way == Where::In { (1, 0) } else { (0, 1) };
        assert_eq!(ends(&after)[side], (a(becomes.0), becomes.1), "row {}", i + 7);
        assert_eq!(ends(&after)[other], ends(&bytes)[other], "row {}", i + 7);
    }
}

const RULES: &str = r#"
$local_ip2 = 10.1.1.2
$local_ip3 = 10.1.1.3
$local_ip4 = 10.1.1.4
group "ext" on npftest0 { block all }
group "int" on npftest1 {
    ruleset "test-rules"
    pass stateful out final to $local_ip2
    pass out final to $local_ip3
    block final to $local_ip4
}
group default { block all }
"#;

#[test]
fn the_reference_s_table_of_rules_holds() {
    let mut e = engine(RULES);
    let row = |e: &mut Engine, from: &str, to: &str, way| {
        pass(e, "npftest1", way, &udp((from, 9000), (to, 9000), b"")).is_some()
    };
    assert!(row(&mut e, "10.1.1.1", "10.1.1.2", Where::Out));
    assert!(row(&mut e, "10.1.1.2", "10.1.1.1", Where::In), "the reply of the first");
    assert!(row(&mut e, "10.1.1.1", "10.1.1.3", Where::Out));
    assert!(!row(&mut e, "10.1.1.3", "10.1.1.1", Where::In), "no state was kept");
    assert!(!row(&mut e, "10.1.1.1", "10.1.1.4", Where::Out));
    // A dynamic rule comes before them, and is final.
    let block = crate::language::parse_rule("block all", &e.ruleset().unwrap().config).unwrap();
    e.set_rules("test-rules", vec![block], Millis(0)).unwrap();
    assert!(!row(&mut e, "10.1.1.9", "10.1.1.3", Where::Out));
    e.set_rules("test-rules", Vec::new(), Millis(0)).unwrap();
    assert!(row(&mut e, "10.1.1.9", "10.1.1.3", Where::Out));
}

#[test]
fn ping_udp_and_their_errors_pass_through_a_translation_both_ways() {
    let mut e = engine(
        "map npftest0 dynamic 10.1.1.0/24 -> 192.0.2.1\n\
         group \"e\" on npftest0 { pass stateful out final all\n block all }\ngroup default { pass all }",
    );
    // Two hosts ping the same one with the same identifier: theirs become different, and the answers find back.
    let asked =
        |e: &mut Engine, from: &str| pass(e, "npftest0", Where::Forward, &echo(from, "198.51.100.1", 8, 77)).unwrap();
    let id = |bytes: &[u8]| u16::from_be_bytes([bytes[24], bytes[25]]);
    let (one, two) = (asked(&mut e, "10.1.1.1"), asked(&mut e, "10.1.1.2"));
    assert_ne!(id(&one), id(&two));
    for (sent, to) in [(&one, "10.1.1.1"), (&two, "10.1.1.2")] {
        let back = pass(&mut e, "npftest0", Where::In, &echo("198.51.100.1", "192.0.2.1", 0, id(sent))).unwrap();
        assert_eq!((ends(&back)[1].0, id(&back)), (a(to), 77));
    }
    // A router outside says that a datagram was too large: the error and its quote are those of the host inside.
    let sent = udp(("10.1.1.1", 15000), ("198.51.100.1", 53), b"query");
    let seen = pass(&mut e, "npftest0", Where::Forward, &sent).unwrap();
    let mut body = vec![3, 4, 0, 0, 0, 0, 5, 0];
    body.extend_from_slice(&seen[..28]);
    let error = ip("203.0.113.9", "192.0.2.1", proto::ICMP, &body);
    let back = pass(&mut e, "npftest0", Where::In, &error).unwrap();
    assert_eq!(ends(&back).map(|e| e.0), [a("203.0.113.9"), a("10.1.1.1")]);
    assert_eq!(back[28..56], sent[..28], "the quote is the packet that was sent");
    // One about a packet that nobody sent does not pass.
    body[8 + 22] ^= 1;
    assert_eq!(pass(&mut e, "npftest0", Where::In, &ip("203.0.113.9", "192.0.2.1", proto::ICMP, &body)), None);
}

#[test]
fn ports_run_out_and_are_free_again_when_their_connections_end() {
    let mut e = engine(
        "set portmap.min_port 2000\nset portmap.max_port 2003\nset state.generic.timeout.new 10\n\
         map npftest0 dynamic 10.1.1.0/24 -> 192.0.2.1\n\
         group default { pass stateful out all }",
    );
    let send = |e: &mut Engine, port, ms| {
        pass_at(e, "npftest0", Where::Forward, &udp(("10.1.1.1", port), ("198.51.100.1", 53), b""), ms).1
    };
    for port in 1..=4 {
        assert!(send(&mut e, port, 0).pass);
    }
    let fifth = send(&mut e, 5, 1);
    assert_eq!((fifth.pass, fifth.fault), (false, Some(Fault::PortsExhausted)));
    assert_eq!((e.stats().nat_ports_exhausted, e.connections().len()), (1, 4));
    assert!(send(&mut e, 6, 11_000).pass, "the first four have expired");
}

fn at(engine: &mut Engine, bytes: &mut Vec<u8>, way: Where) -> Outcome {
    engine.handle(bytes, &Place { interface: "npftest0", way, now: Millis(0) }, 0)
}

#[test]
fn protocols_without_ports_are_translated_by_their_addresses() {
    let mut e = engine("map npftest0 dynamic 10.1.1.0/24 -> 192.0.2.1\ngroup default { pass stateful out all }");
    for number in [proto::ESP, proto::GRE, proto::AH, proto::SCTP] {
        let sent = ip("10.1.1.1", "198.51.100.1", number, &[7; 40]);
        let mut bytes = sent.clone();
        assert!(at(&mut e, &mut bytes, Where::Forward).pass);
        assert_eq!(ends(&bytes)[0].0, a("192.0.2.1"), "protocol {number}");
        let mut back = ip("198.51.100.1", "192.0.2.1", number, &[8, 7, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0]);
        if number == proto::SCTP {
            // The answer's ports are those of the first packet, the other way round.
            back[20..24].copy_from_slice(&[7, 7, 7, 7]);
        }
        assert!(at(&mut e, &mut back, Where::In).pass, "{number}");
        assert_eq!(ends(&back)[1].0, a("10.1.1.1"), "protocol {number}");
    }
}

#[test]
fn a_stateful_rule_for_tcp_and_udp_matches_both_and_only_what_opens_a_connection() {
    let mut e = engine("group default { pass stateful out proto { tcp, udp } all\n block in all }");
    let syn = tcp(("10.1.1.1", 1), ("198.51.100.1", 80), 0x02, 100, 0);
    assert!(pass(&mut e, "npftest0", Where::Out, &tcp(("10.1.1.1", 2), ("198.51.100.1", 80), 0x10, 9, 9)).is_none());
    assert!(pass(&mut e, "npftest0", Where::Out, &syn).is_some());
    assert!(pass(&mut e, "npftest0", Where::Out, &udp(("10.1.1.1", 1), ("198.51.100.1", 53), b"q")).is_some());
    let (answer, outcome) =
        pass_at(&mut e, "npftest0", Where::In, &tcp(("198.51.100.1", 80), ("10.1.1.1", 1), 0x12, 500, 101), 5);
    assert!(answer.is_some());
    assert_eq!(outcome.connection, Some("SYN_RECEIVED"));
    // Its window does not reach so far.
    let stray = tcp(("198.51.100.1", 80), ("10.1.1.1", 1), 0x10, 5_000_000, 101);
    assert!(pass(&mut e, "npftest0", Where::In, &stray).is_none());
    assert_eq!(e.stats().invalid_state, 1);
}

#[test]
fn fragments_are_judged_as_the_packet_that_they_are_of() {
    let rules = "group default { pass in final proto udp to any port 53\n block in all }";
    let mut e = engine(rules);
    let packet = udp(("10.1.1.1", 1), ("198.51.100.1", 53), &[0x5a; 40]);
    let cut = |from: usize, to: usize, more: u8| {
        let mut piece = packet[..20].to_vec();
        piece.extend_from_slice(&packet[20 + from..20 + to]);
        piece[2..4].copy_from_slice(&((20 + to - from) as u16).to_be_bytes());
        piece[6..8].copy_from_slice(&[more << 5, (from / 8) as u8]);
        piece[10..12].fill(0);
        let sum = checksum::of_ipv4_header(&piece[..20]);
        piece[10..12].copy_from_slice(&sum.to_be_bytes());
        piece
    };
    let (_, first) = pass_at(&mut e, "npftest0", Where::In, &cut(24, 48, 0), 0);
    assert!(first.kept);
    let (all, outcome) = pass_at(&mut e, "npftest0", Where::In, &cut(0, 24, 1), 1);
    assert_eq!((outcome.kept, outcome.pass, outcome.fault), (false, true, None));
    assert_eq!(ends(&all.unwrap()), ends(&packet));
    // Without that, a later fragment has no port, and no rule for ports matches.
    let mut e = engine(&format!("set ip4.reassembly off\n{rules}"));
    assert!(pass(&mut e, "npftest0", Where::In, &cut(24, 48, 0)).is_none());
}

#[test]
fn what_is_blocked_with_an_answer_is_answered() {
    let mut e = engine("group default { block return-rst in final proto tcp all\n block return-icmp in all }");
    let (_, o) = pass_at(&mut e, "npftest0", Where::In, &tcp(("10.1.1.1", 9), ("192.0.2.1", 80), 2, 41, 0), 0);
    let rst = o.reply.unwrap();
    assert_eq!(ends(&rst), [(a("192.0.2.1"), 80), (a("10.1.1.1"), 9)]);
    assert!(is_right(&rst) && rst[33] == 0x14);
    let (_, o) = pass_at(&mut e, "npftest0", Where::In, &udp(("10.1.1.1", 9), ("192.0.2.9", 80), b""), 0);
    let error = o.reply.unwrap();
    assert_eq!(ends(&error).map(|e| e.0), [a("192.0.2.1"), a("10.1.1.1")]);
    assert!(is_right(&error) && error[20..22] == [3, 13]);
}

#[test]
fn limits_hold_for_each_source_and_put_it_into_a_table() {
    let mut e = engine(
        "table <loud> type ipset timeout 60s\n\
         group default {\n\
           block in final from <loud>\n\
           pass stateful in final proto udp to any port 53 limit rate 2/1s burst 2 per source overload <loud>\n\
           pass stateful in final proto udp to any port 123 limit states 1 per source\n\
           block in all\n}",
    );
    let send = |e: &mut Engine, from: &str, sport, dport, ms| {
        pass_at(e, "npftest0", Where::In, &udp((from, sport), ("192.0.2.1", dport), b""), ms).0.is_some()
    };
    assert_eq!([1, 2, 3, 4].map(|p| send(&mut e, "10.0.0.1", p, 53, 0)), [true, true, false, false]);
    assert!(send(&mut e, "10.0.0.2", 1, 53, 0), "another source");
    assert_eq!((send(&mut e, "10.0.0.1", 9, 53, 30_000), send(&mut e, "10.0.0.1", 9, 53, 61_000)), (false, true));
    assert_eq!(e.stats().overloads, 1);
    assert_eq!((send(&mut e, "10.0.0.3", 1, 123, 61_000), send(&mut e, "10.0.0.3", 2, 123, 61_000)), (true, false));
    // When the first has expired there is room.
    assert!(send(&mut e, "10.0.0.3", 2, 123, 200_000));
}

#[test]
fn a_connection_that_only_translation_made_passes_nothing_by_itself() {
    let mut e = engine(
        "map npftest0 dynamic 10.1.1.0/24 -> 192.0.2.1\n\
         group default { pass out all\n block in all\n pass in from 198.51.100.1 }",
    );
    let sent = |to| udp(("10.1.1.1", 5), (to, 53), b"");
    let mut port = |to| ends(&pass(&mut e, "npftest0", Where::Forward, &sent(to)).unwrap())[0].1;
    let (one, two) = (port("198.51.100.1"), port("203.0.113.1"));
    let mut back = |from, port| pass(&mut e, "npftest0", Where::In, &udp((from, 53), ("192.0.2.1", port), b""));
    assert_eq!(ends(&back("198.51.100.1", one).unwrap())[1], (a("10.1.1.1"), 5));
    assert_eq!(back("203.0.113.1", two), None, "no rule lets it in");
}

#[test]
fn a_reload_keeps_connections_whose_rule_and_map_are_still_there() {
    let conf = |rest: &str| {
        format!(
            "map npftest0 dynamic 10.1.1.0/24 -> 192.0.2.1\ntable <t> type lpm\ngroup default {{ pass stateful out proto udp all\n {rest} }}"
        )
    };
    let config = |text: &str| Arc::new(parse("r.conf", text, &NoFiles).unwrap_or_else(|e| panic!("{e}")).config);
    let mut e = engine(&conf("block in all"));
    let seen = pass(&mut e, "npftest0", Where::Forward, &udp(("10.1.1.1", 5), ("198.51.100.1", 53), b"")).unwrap();
    let entry = crate::tables::host(Family::V4, address_number(a("203.0.113.1")));
    e.tables().add(crate::config::TableId(0), entry, Millis(0), None).unwrap();
    e.reload(config(&conf("block in from <t>\n block in all")), Arc::new(NoInterfaces), Millis(1)).unwrap();
    let back = udp(("198.51.100.1", 53), ("192.0.2.1", ends(&seen)[0].1), b"");
    assert_eq!(ends(&pass(&mut e, "npftest0", Where::In, &back).unwrap())[1], (a("10.1.1.1"), 5));
    assert_eq!(e.tables().entries(crate::config::TableId(0)).len(), 1);
    e.reload(
        config("group default { pass stateful out proto udp all\n block in all }"),
        Arc::new(NoInterfaces),
        Millis(2),
    )
    .unwrap();
    assert_eq!((e.connections().len(), pass(&mut e, "npftest0", Where::In, &back)), (0, None));
}

#[test]
fn a_static_map_is_for_each_packet_of_a_connection_that_rules_opened() {
    let mut e = engine(
        "map npftest0 static algo netmap 10.1.1.0/24 <-> 192.0.2.0/24\n\
         group default { pass stateful out final all\n pass in to 10.1.1.0/24\n pass in to 192.0.2.0/24 }",
    );
    let sent = udp(("10.1.1.7", 5), ("198.51.100.1", 53), b"x");
    for _ in 0..3 {
        let after = pass(&mut e, "npftest0", Where::Forward, &sent).unwrap();
        assert_eq!(ends(&after)[0], (a("192.0.2.7"), 5));
    }
    let back = pass(&mut e, "npftest0", Where::In, &udp(("198.51.100.1", 53), ("192.0.2.7", 5), b"")).unwrap();
    assert_eq!(ends(&back)[1], (a("10.1.1.7"), 5));
}

#[test]
fn a_burst_is_judged_as_its_packets_one_by_one() {
    let (mut one, mut many) = (engine(NAT), engine(NAT));
    let packet = |i: u16| match i % 5 {
        0 => vec![0x45; 9],
        1 => udp(("10.1.1.1", 1000 + i % 7), ("192.0.2.101", 7000), b"x"),
        2 => tcp(("10.1.1.7", 2000 + i % 11), ("192.0.2.101", 80), 2 + (i % 3) as u8 * 8, u32::from(i), 1),
        3 => echo("10.1.1.9", "192.0.2.101", 8, i % 4),
        _ => udp(("192.0.2.101", 7000), ("192.0.2.1", 1024 + i), b"y"),
    };
    let place = Place { interface: "npftest0", way: Where::Forward, now: Millis(5) };
    let mut burst: Vec<Vec<u8>> = (0..300).map(packet).collect();
    let mut alone = burst.clone();
    let singly: Vec<Outcome> = alone.iter_mut().map(|bytes| one.handle(bytes, &place, 0)).collect();
    let mut together = Vec::new();
    let mut told = |_, outcome| together.push(outcome);
    many.handle_burst(&mut Packets(&mut burst, &mut told), &place);
    assert_eq!((together, burst, many.stats()), (singly, alone, one.stats()));
    assert!(many.stats().passed_connections > 50 && many.stats().malformed == 60);
}

#[test]
fn a_tag_that_a_packet_got_where_it_came_in_is_seen_where_it_leaves() {
    let rules =
        "group default { pass in final on lan0 all tag \"lan\"\n pass forw final all tagged \"lan\"\n block all }";
    let mut replay = Replay::new(engine(rules));
    let packet = hex(&udp(("10.1.1.1", 5), ("198.51.100.1", 53), b""));
    let mut line = |more: &str, dir: &str, interface: &str| {
        replay.line(&format!(r#"{{"if":"{interface}","dir":"{dir}","pkt":"{packet}"{more}}}"#)).unwrap()
    };
    assert_eq!(line("", "in", "lan0").tag.as_deref(), Some("lan"));
    assert_eq!([r#","tag":"lan""#, ""].map(|tag| line(tag, "forw", "wan0").verdict), ["pass", "block"]);
}

#[test]
fn replay_takes_lines_and_gives_lines() {
    let mut replay = Replay::new(engine("group default { pass stateful out all }"));
    let packet = hex(&udp(("10.1.1.1", 5), ("198.51.100.1", 53), b""));
    let line = |t: f64, dir: &str, pkt: &str| format!(r#"{{"t":{t},"if":"eth0","dir":"{dir}","pkt":"{pkt}"}}"#);
    let judged = replay.line(&line(0.5, "out", &packet)).unwrap();
    assert_eq!((judged.n, judged.verdict, judged.out.as_deref()), (1, "pass", Some(&packet[..])));
    assert_eq!(judged.conn, Some("NEW"));
    let judged = serde_json::to_string(&replay.line(&line(1.0, "in", "4500")).unwrap()).unwrap();
    assert_eq!(
        judged,
        r#"{"n":2,"verdict":"block","rule":null,"conn":null,"out":null,"reply":null,"why":"malformed"}"#
    );
    for bad in ["", "{}", &line(-1.0, "in", ""), &line(0.0, "up", ""), &line(0.0, "in", "4"), &line(0.0, "in", "zz")] {
        assert!(replay.line(bad).is_err(), "{bad}");
    }
}
