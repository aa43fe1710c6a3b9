//! The table of connections.

use super::*;
use crate::packet::{number_of, v4};
use proptest::prelude::*;
use std::{collections::HashMap, net::IpAddr};

/// An IPv4 packet from 10.0.0.`src` to 10.0.0.`dst`.
pub(super) fn ipv4(proto: u8, src: u8, dst: u8, body: &[u8]) -> Vec<u8> {
    let mut p = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, proto, 0, 0, 10, 0, 0, src, 10, 0, 0, dst];
    p[2..4].copy_from_slice(&((20 + body.len()) as u16).to_be_bytes());
    p.extend_from_slice(body);
    p
}

/// An IPv6 packet from ::`src` to ::`dst`.
pub(super) fn ipv6(proto: u8, src: u8, dst: u8, body: &[u8]) -> Vec<u8> {
    let mut p = vec![0x60, 0, 0, 0, 0, 0, proto, 64];
    p[4..6].copy_from_slice(&(body.len() as u16).to_be_bytes());
    p.resize(40, 0);
    (p[23], p[39]) = (src, dst);
    p.extend_from_slice(body);
    p
}

pub(super) fn udp(src: u16, dst: u16) -> Vec<u8> {
    let mut b = [src.to_be_bytes(), dst.to_be_bytes()].concat();
    b.extend([0, 8, 0, 0]);
    b
}

pub(super) fn tcp(src: u16, dst: u16, flags: u8, seq: u32, ack: u32) -> Vec<u8> {
    let mut b = [src.to_be_bytes(), dst.to_be_bytes()].concat();
    b.extend(seq.to_be_bytes());
    b.extend(ack.to_be_bytes());
    b.extend([0x50, flags, 0x10, 0, 0, 0, 0, 0]);
    b
}

pub(super) fn icmp(kind: u8, id: u16) -> Vec<u8> {
    vec![kind, 0, 0, 0, (id >> 8) as u8, id as u8, 0, 1]
}

/// An ICMP error about a packet.
fn icmp_error(kind: u8, about: &[u8]) -> Vec<u8> {
    [&[kind, 1, 0, 0, 0, 0, 0, 0], about].concat()
}

const INSIDE: u16 = 1;
const OUTSIDE: u16 = 2;

fn out() -> Crossing {
    Crossing { interface: Some(OUTSIDE), direction: Direction::Out }
}

fn back() -> Crossing {
    Crossing { interface: Some(OUTSIDE), direction: Direction::In }
}

fn nobody(id: ConnId, connection: &Connection) {
    panic!("{id:?} ended: {connection:?}");
}

fn table(capacity: usize) -> Connections {
    Connections::new(Limits { capacity, half_open_percent: 100 }, &Params::default(), 7, Millis(0))
}

fn open(bytes: &[u8], at: Crossing, now: u64) -> Connection {
    let binding = Binding::new(&Params::default(), Stateful::Interface);
    Connection::open(bytes, &Packet::read(bytes).unwrap(), at, binding, Millis(now)).unwrap()
}

impl Connections {
    fn see(&mut self, bytes: &[u8], at: Crossing, now: u64) -> Inspect {
        self.inspect(bytes, &Packet::read(bytes).unwrap(), at, Millis(now))
    }

    fn begin(&mut self, bytes: &[u8], at: Crossing, now: u64) -> ConnId {
        self.insert(open(bytes, at, now), Millis(now), &mut nobody).unwrap()
    }
}

fn snat(original: (u128, u16), translated: (u128, u16)) -> Nat {
    Nat {
        map: RuleId(5),
        kind: NatKind::Source,
        original,
        translated,
        port_taken: true,
        interface: Some(OUTSIDE),
        hold: Hold::default(),
    }
}

#[test]
fn what_every_packet_needs_of_a_connection_is_in_two_cache_lines() {
    use std::mem::offset_of;
    assert!(offset_of!(Connection, generation) + 4 <= 128);
    assert_eq!((align_of::<Connection>(), size_of::<Connection>()), (128, 256));
}

#[test]
fn a_connection_passes_both_ways_and_counts() {
    let mut table = table(10);
    let (there, answer) = (ipv4(17, 1, 2, &udp(1000, 53)), ipv4(17, 2, 1, &udp(53, 1000)));
    assert_eq!(table.see(&there, out(), 0), Inspect::None);
    let conn = table.begin(&there, out(), 0);
    assert_eq!(table.see(&answer, back(), 5), Inspect::Pass { conn, forward: false });
    assert_eq!(table.see(&there, out(), 9), Inspect::Pass { conn, forward: true });
    let connection = table.get(conn).unwrap();
    assert_eq!(connection.tally(true), Tally { packets: 2, bytes: 56 });
    assert_eq!(connection.tally(false), Tally { packets: 1, bytes: 28 });
    assert_eq!((connection.created(), connection.last()), (Millis(0), Millis(9)));
    assert_eq!((connection.state().name(), table.half_open()), ("ESTABLISHED", 0));
    // Elsewhere, or the other way, they are not its packets.
    assert_eq!(table.see(&there, back(), 9), Inspect::None);
    assert_eq!(table.see(&there, Crossing { interface: Some(INSIDE), ..out() }, 9), Inspect::None);
    assert_eq!(table.remove(conn).unwrap().tally(true).packets, 2);
    assert_eq!((table.see(&answer, back(), 9), table.get(conn).is_none(), table.len()), (Inspect::None, true, 0));
    assert!(table.remove(conn).is_none());
}

#[test]
fn stateful_all_is_found_on_every_interface() {
    let mut table = table(10);
    let bytes = ipv4(17, 1, 2, &udp(1000, 53));
    let binding = Binding::new(&Params::default(), Stateful::All);
    let connection = Connection::open(&bytes, &Packet::read(&bytes).unwrap(), out(), binding, Millis(0)).unwrap();
    assert_eq!(connection.facts.interface, Some(OUTSIDE));
    let conn = table.insert(connection, Millis(0), &mut nobody).unwrap();
    let elsewhere = Crossing { interface: Some(INSIDE), ..back() };
    assert_eq!(table.see(&ipv4(17, 2, 1, &udp(53, 1000)), elsewhere, 0), Inspect::Pass { conn, forward: false });
    table.remove(conn);
    assert_eq!(table.floating_count(), 0);
}

impl Connections {
    fn floating_count(&self) -> usize {
        self.iter().filter(|(_, c)| c.forward().interface().is_none()).count()
    }
}

#[test]
fn what_cannot_be_a_connection_opens_none() {
    let binding = Binding::new(&Params::default(), Stateful::Interface);
    for bytes in [
        ipv4(1, 1, 2, &icmp(0, 7)),
        ipv4(1, 1, 2, &icmp(3, 7)),
        ipv6(58, 1, 2, &icmp(136, 7)),
        ipv4(6, 1, 2, &tcp(1, 2, 0x12, 0, 0)),
        ipv4(6, 1, 2, &tcp(1, 2, 0x04, 0, 0)),
        ipv4(89, 1, 2, &[0; 30]),
    ] {
        let packet = Packet::read(&bytes).unwrap();
        assert!(Connection::open(&bytes, &packet, out(), binding, Millis(0)).is_none(), "{bytes:x?}");
    }
}

#[test]
fn every_protocol_with_state_is_answered() {
    for (there, answer) in [
        (ipv4(1, 1, 2, &icmp(8, 7)), ipv4(1, 2, 1, &icmp(0, 7))),
        (ipv6(58, 1, 2, &icmp(128, 7)), ipv6(58, 2, 1, &icmp(129, 7))),
        (ipv4(47, 1, 2, &[0; 8]), ipv4(47, 2, 1, &[0; 8])),
        (ipv4(50, 1, 2, &[1; 8]), ipv4(50, 2, 1, &[2; 8])),
        (ipv6(51, 1, 2, &[1; 8]), ipv6(51, 2, 1, &[2; 8])),
        (
            ipv4(132, 1, 2, &[0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0]),
            ipv4(132, 2, 1, &[0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
        ),
    ] {
        let mut table = table(10);
        let conn = table.begin(&there, out(), 0);
        assert_eq!(table.see(&answer, back(), 0), Inspect::Pass { conn, forward: false });
        assert_eq!(table.get(conn).unwrap().state().name(), "ESTABLISHED");
        // A query of the other side's is not part of it.
        if there[0] == 0x45 && there[9] == 1 {
            assert_eq!(table.see(&ipv4(1, 2, 1, &icmp(8, 7)), back(), 0), Inspect::None);
        }
    }
}

#[test]
fn translated_packets_come_back_to_the_translated_address() {
    let mut table = table(10);
    let there = ipv4(17, 1, 2, &udp(1000, 53));
    let nat = snat((v4(0x0a00_0001), 1000), (v4(0x0a00_0063), 4000));
    let mut connection = open(&there, out(), 0);
    connection.translate(nat);
    let conn = table.insert(connection, Millis(0), &mut nobody).unwrap();
    let answer = ipv4(17, 2, 99, &udp(53, 4000));
    assert_eq!(table.see(&answer, back(), 0), Inspect::Pass { conn, forward: false });
    assert_eq!(table.see(&there, out(), 0), Inspect::Pass { conn, forward: true });
    assert_eq!(table.see(&ipv4(17, 2, 1, &udp(53, 1000)), back(), 0), Inspect::None);
    assert_eq!(table.get(conn).unwrap().nat(), Some(nat));
    // Another one would get the same answers.
    let mut other = open(&ipv4(17, 3, 2, &udp(1000, 53)), out(), 0);
    other.translate(nat);
    assert_eq!(table.insert(other, Millis(0), &mut nobody), Err(Refused::Duplicate));
    let other = table.begin(&ipv4(17, 3, 2, &udp(1000, 53)), out(), 0);
    assert_eq!(table.translate(other, nat), Err(Refused::Duplicate));
    assert_eq!(table.see(&ipv4(17, 2, 3, &udp(53, 1000)), back(), 0), Inspect::Pass { conn: other, forward: false });
    table.translate(other, Nat { translated: (nat.translated.0, 4001), ..nat }).unwrap();
    assert_eq!(table.see(&ipv4(17, 2, 3, &udp(53, 1000)), back(), 0), Inspect::None);
    assert_eq!(table.see(&ipv4(17, 2, 99, &udp(53, 4001)), back(), 0), Inspect::Pass { conn: other, forward: false });
    assert_eq!(table.counters().duplicate, 2);
}

#[test]
fn a_translated_destination_answers() {
    let mut table = table(10);
    let mut connection = open(&ipv4(6, 2, 99, &tcp(5000, 80, 2, 9, 0)), back(), 0);
    connection.translate(Nat { kind: NatKind::Destination, ..snat((v4(0x0a00_0063), 80), (v4(0x0a00_0001), 8080)) });
    let conn = table.insert(connection, Millis(0), &mut nobody).unwrap();
    let answer = ipv4(6, 1, 2, &tcp(8080, 5000, 0x12, 70, 10));
    assert_eq!(table.see(&answer, out(), 0), Inspect::Pass { conn, forward: false });
}

#[test]
fn icmp_errors_belong_to_what_they_quote() {
    let mut table = table(10);
    let there = ipv4(6, 1, 2, &tcp(1000, 80, 2, 500, 0));
    let nat = snat((v4(0x0a00_0001), 1000), (v4(0x0a00_0063), 4000));
    let mut connection = open(&there, out(), 0);
    connection.translate(nat);
    let conn = table.insert(connection, Millis(0), &mut nobody).unwrap();
    // As it was on the wire, cut to eight bytes behind its header.
    let sent = ipv4(6, 99, 2, &tcp(4000, 80, 2, 500, 0));
    let error = |about: &[u8], to| ipv4(1, 77, to, &icmp_error(3, &about[..28]));
    assert_eq!(table.see(&error(&sent, 99), back(), 0), Inspect::Related { conn, forward: false });
    // Not to its sender, of what was not sent, not of what was seen inside.
    assert_eq!(table.see(&error(&sent, 98), back(), 0), Inspect::Invalid { conn });
    let guessed = ipv4(6, 99, 2, &tcp(4000, 80, 2, 70_000, 0));
    assert_eq!(table.see(&error(&guessed, 99), back(), 0), Inspect::Invalid { conn });
    assert_eq!(table.see(&error(&there, 1), back(), 0), Inspect::None);
    // The inner host's, about what came to it.
    assert!(matches!(table.see(&ipv4(6, 2, 99, &tcp(80, 4000, 0x12, 40, 501)), back(), 0), Inspect::Pass { .. }));
    let came = ipv4(6, 2, 1, &tcp(80, 1000, 0x12, 40, 501));
    assert_eq!(table.see(&ipv4(1, 1, 2, &icmp_error(3, &came)), out(), 0), Inspect::Related { conn, forward: true });
    assert_eq!((table.counters().related, table.counters().invalid), (2, 2));

    let ping = ipv6(58, 1, 2, &icmp(128, 7));
    let conn = table.begin(&ping, out(), 0);
    let error = ipv6(58, 9, 1, &icmp_error(2, &ping));
    assert_eq!(table.see(&error, back(), 0), Inspect::Related { conn, forward: false });
    // Quoted is one of the other family, or nothing.
    assert_eq!(table.see(&ipv6(58, 9, 1, &icmp_error(1, &sent)), back(), 0), Inspect::None);
    assert_eq!(table.see(&ipv6(58, 9, 1, &icmp_error(1, &[])), back(), 0), Inspect::None);
}

#[test]
fn a_tcp_connection_that_is_over_makes_room_for_the_next() {
    let mut table = table(10);
    let syn = |seq| ipv4(6, 1, 2, &tcp(1000, 80, 2, seq, 0));
    let conn = table.begin(&syn(99), out(), 0);
    assert_eq!(table.insert(open(&syn(99), out(), 0), Millis(0), &mut nobody), Err(Refused::Duplicate));
    let refused = ipv4(6, 2, 1, &tcp(80, 1000, 0x14, 0, 100));
    assert_eq!(table.see(&refused, back(), 1), Inspect::Pass { conn, forward: false });
    assert_eq!((table.get(conn).unwrap().state().name(), table.half_open()), ("CLOSED", 0));
    assert_eq!(table.see(&syn(5000), out(), 2), Inspect::Over { conn });
    let mut ended = vec![];
    let next = table.insert(open(&syn(5000), out(), 2), Millis(2), &mut |id, _| ended.push(id)).unwrap();
    assert_eq!((ended, table.len(), table.counters().replaced), (vec![conn], 1, 1));
    assert_ne!(conn, next);
    assert!(table.get(conn).is_none());
    let beyond = ipv4(6, 1, 2, &tcp(1000, 80, 0x10, 99_000, 1));
    assert_eq!(table.see(&beyond, out(), 3), Inspect::Invalid { conn: next });
}

#[test]
fn connections_expire_as_their_state_says() {
    // The way through the states of TCP, and when it expires after each, in seconds.
    let steps = [
        (true, 2u8, 99, 0, 30),
        (false, 0x12, 499, 100, 30),
        (true, 0x10, 100, 500, 86_400),
        (true, 0x11, 100, 500, 21_600),
        (false, 0x10, 500, 101, 21_600),
        (false, 0x11, 500, 101, 240),
        (true, 0x10, 101, 501, 240),
    ];
    for upto in 1..=steps.len() {
        let mut table = table(10);
        let mut now = 0;
        for (i, &(forward, flags, seq, ack, _)) in steps[..upto].iter().enumerate() {
            now += 1000;
            let bytes = if forward {
                ipv4(6, 1, 2, &tcp(1000, 80, flags, seq, ack))
            } else {
                ipv4(6, 2, 1, &tcp(80, 1000, flags, seq, ack))
            };
            if i == 0 {
                table.begin(&bytes, out(), now);
            } else {
                let at = if forward { out() } else { back() };
                assert!(matches!(table.see(&bytes, at, now), Inspect::Pass { .. }), "{i}");
            }
            table.expire(Millis(now), 100, &mut nobody);
        }
        let deadline = now + steps[upto - 1].4 * 1000;
        assert_eq!(table.expire(Millis(deadline - 1), 100, &mut nobody), 0);
        assert_eq!(table.expire(Millis(deadline + 256), 100, &mut |_, _| {}), 1, "step {upto}");
        assert_eq!(table.len(), 0);
    }
}

#[test]
fn what_comes_after_a_reset_does_not_hold_the_connection() {
    let mut table = table(10);
    table.begin(&ipv4(6, 1, 2, &tcp(1000, 80, 2, 99, 0)), out(), 0);
    table.see(&ipv4(6, 2, 1, &tcp(80, 1000, 0x12, 499, 100)), back(), 0);
    table.see(&ipv4(6, 1, 2, &tcp(1000, 80, 0x10, 100, 500)), out(), 0);
    table.expire(Millis(5000), 10, &mut nobody);
    assert!(matches!(table.see(&ipv4(6, 1, 2, &tcp(1000, 80, 4, 100, 0)), out(), 5000), Inspect::Pass { .. }));
    assert!(matches!(table.see(&ipv4(6, 2, 1, &tcp(80, 1000, 0x10, 500, 100)), back(), 14_000), Inspect::Pass { .. }));
    assert_eq!(table.expire(Millis(15_256), 10, &mut |_, _| {}), 1);
}

#[test]
fn shorter_timeouts_count_for_those_that_wait() {
    let mut table = table(10);
    let there = ipv4(47, 1, 2, &[0; 8]);
    table.begin(&there, out(), 0);
    table.see(&ipv4(47, 2, 1, &[0; 8]), back(), 0);
    let mut params = Params::default();
    params.set(Param::StateGenericTimeoutGre, 20);
    table.configure(&params);
    assert_eq!(table.expire(Millis(600_000), 10, &mut |_, _| {}), 1);
}

#[test]
fn one_removal_looks_at_no_more_than_gc_step() {
    // Of npf_gc_test.c: active, expired, gc.step, and what is left after one run.
    for (active, expired, step, left) in [
        (0, 0, 256, 0),
        (1, 0, 256, 1),
        (0, 1, 256, 0),
        (1, 1, 256, 1),
        (0, 2, 256, 0),
        (0, 128, 256, 0),
        (0, 512, 256, 256),
        (0, 512, 128, 384),
    ] {
        let mut table = table(1000);
        for i in 0..expired {
            table.begin(&ipv4(17, 1, 2, &udp(i, 1)), out(), 0);
        }
        for i in 0..active {
            table.begin(&ipv4(17, 1, 2, &udp(i, 2)), out(), 40_000);
        }
        table.expire(Millis(40_000), step, &mut |_, _| {});
        assert_eq!(table.len(), left, "{active} active, {expired} expired, step {step}");
    }
}

#[test]
fn incomplete_connections_make_room_the_oldest_first_and_complete_ones_do_not() {
    let mut table = Connections::new(Limits { capacity: 8, half_open_percent: 50 }, &Params::default(), 7, Millis(0));
    let conns: Vec<ConnId> = (0..4).map(|i| table.begin(&ipv4(17, 1, 2, &udp(i, 1)), out(), 0)).collect();
    // The second one is answered; the next two make the half-open ones too many.
    table.see(&ipv4(17, 2, 1, &udp(1, 1)), back(), 0);
    let mut ended = vec![];
    for i in 4..7 {
        table.insert(open(&ipv4(17, 1, 2, &udp(i, 1)), out(), 0), Millis(0), &mut |id, _| ended.push(id)).unwrap();
    }
    assert_eq!(ended, [conns[0], conns[2]]);
    assert_eq!((table.len(), table.half_open(), table.counters().evicted), (5, 4, 2));
    // Full of complete ones: nothing makes room.
    for i in 0..7 {
        table.see(&ipv4(17, 2, 1, &udp(1, i)), back(), 0);
    }
    for i in 10..13 {
        table.begin(&ipv4(17, 1, 2, &udp(i, 1)), out(), 0);
        table.see(&ipv4(17, 2, 1, &udp(1, i)), back(), 0);
    }
    let more = open(&ipv4(17, 1, 2, &udp(20, 1)), out(), 0);
    assert_eq!(table.insert(more.clone(), Millis(0), &mut nobody), Err(Refused::Full));
    assert_eq!((table.len(), table.half_open(), table.counters().full), (8, 0, 1));
    // But those that have expired do.
    assert!(table.insert(more, Millis(61_000), &mut |_, _| {}).is_ok());
}

#[test]
fn incomplete_connections_have_less_time_when_there_are_many() {
    for (count, patience) in [(49, 30_000), (50, 15_000), (75, 3_750)] {
        let mut table = table(100);
        for i in 0..count {
            table.begin(&ipv4(17, 1, 2, &udp(i, 1)), out(), 0);
        }
        assert_eq!(table.expire(Millis(patience - 1), 100, &mut nobody), 0, "{count}");
        assert!(table.expire(Millis(patience + 256), 100, &mut |_, _| {}) > 0, "{count}");
        assert_eq!(table.counters().expired_early > 0, patience < 30_000);
    }
}

#[test]
fn a_flood_does_not_harm_what_is_established() {
    let mut table = Connections::new(Limits { capacity: 100, half_open_percent: 50 }, &Params::default(), 7, Millis(0));
    let established = table.begin(&ipv4(17, 9, 2, &udp(9, 1)), out(), 0);
    table.see(&ipv4(17, 2, 9, &udp(1, 9)), back(), 0);
    for i in 0..10_000 {
        let bytes = ipv4(6, 1, 2, &tcp(i, 80, 2, 0, 0));
        table.insert(open(&bytes, out(), u64::from(i)), Millis(u64::from(i)), &mut |_, _| {}).unwrap();
        assert!(table.half_open() <= 50 && table.len() <= 51);
    }
    assert!(
        matches!(table.see(&ipv4(17, 9, 2, &udp(9, 1)), out(), 10_000), Inspect::Pass { conn, .. } if conn == established)
    );
    assert_eq!(table.counters().evicted, 9950);
}

#[test]
fn what_is_not_to_be_kept_ends_and_the_rest_has_its_new_facts() {
    let mut table = table(100);
    for i in 0..10 {
        let id = table.begin(&ipv4(17, 1, 2, &udp(i, 1)), out(), 0);
        table.facts_mut(id).unwrap().rule = Some(RuleId(u64::from(i)));
    }
    let mut ended = 0;
    let next = table.retain(
        0..7,
        |c| c.facts.rule.filter(|r| r.0 % 3 == 0).map(|r| Facts { rule: Some(RuleId(r.0 + 100)), ..c.facts }),
        &mut |_, _| ended += 1,
    );
    assert_eq!(next, Some(7), "three are left to be asked about");
    let rest = table.retain(
        7..100,
        |c| c.facts.rule.filter(|r| r.0 % 3 == 0).map(|r| Facts { rule: Some(RuleId(r.0 + 100)), ..c.facts }),
        &mut |_, _| ended += 1,
    );
    assert_eq!(rest, None);
    let mut rules: Vec<u64> = table.iter().map(|(_, c)| c.facts.rule.unwrap().0).collect();
    rules.sort_unstable();
    assert_eq!((rules, ended, table.counters().removed), (vec![100, 103, 106, 109], 6, 6));
}

struct Plain;

impl Names for Plain {
    fn interface(&self, number: u16) -> Option<String> {
        Some(format!("if{number}"))
    }
    fn interface_number(&self, name: &str) -> Option<u16> {
        name.strip_prefix("if")?.parse().ok()
    }
    fn procedure(&self, number: u16) -> Option<String> {
        Some(format!("p{number}"))
    }
    fn procedure_number(&self, name: &str) -> Option<u16> {
        name.strip_prefix('p')?.parse().ok()
    }
    fn tag(&self, number: u16) -> Option<String> {
        (number != 0).then(|| format!("t{number}"))
    }
    fn tag_number(&self, name: &str) -> Option<u16> {
        name.strip_prefix('t')?.parse().ok()
    }
}

#[test]
fn what_is_saved_is_loaded_the_same() {
    let mut table = table(100);
    let syn = [tcp(1000, 80, 2, 99, 0), vec![]].concat();
    let tcp4 = table.begin(&ipv4(6, 1, 2, &syn), out(), 1000);
    table.see(&ipv4(6, 2, 1, &tcp(80, 1000, 0x12, 499, 100)), back(), 1000);
    table.see(&ipv4(6, 1, 2, &tcp(1000, 80, 0x10, 100, 500)), out(), 2500);
    *table.facts_mut(tcp4).unwrap() = Facts {
        rule: Some(RuleId(u64::MAX)),
        procedure: Some(2),
        interface: Some(OUTSIDE),
        tag: 9,
        ..Facts::default()
    };
    let mut translated = open(&ipv6(17, 1, 2, &udp(1000, 53)), out(), 1000);
    let outer: IpAddr = "2001:db8::63".parse().unwrap();
    translated.translate(snat((1, 1000), (number_of(outer), 4000)));
    table.insert(translated, Millis(1000), &mut nobody).unwrap();
    let mut ping = open(&ipv4(1, 1, 2, &icmp(8, 7)), out(), 1000);
    ping.translate(snat((v4(0x0a00_0001), 7), (v4(0x0a00_0063), 4000)));
    table.insert(ping, Millis(1000), &mut nobody).unwrap();
    let bytes = ipv4(50, 1, 2, &[0; 8]);
    let floating = Binding { interface: false, direction: false };
    let esp = Connection::open(&bytes, &Packet::read(&bytes).unwrap(), back(), floating, Millis(1000)).unwrap();
    table.insert(esp, Millis(1000), &mut nobody).unwrap();

    let text = serde_json::to_string(&table.records(&Plain, Millis(3000))).unwrap();
    let records: Vec<ConnectionRecord> = serde_json::from_str(&text).unwrap();
    let mut loaded = Connections::new(table.limits(), &Params::default(), 8, Millis(500_000));
    for record in &records {
        loaded.load(record, &Plain, Millis(500_000), &mut nobody).unwrap();
    }
    assert_eq!(loaded.records(&Plain, Millis(500_000)), records);
    let keys = |table: &Connections| {
        let mut all: Vec<String> = table
            .iter()
            .map(|(_, c)| format!("{:?}", (c.forward, c.backward, c.state, c.nat(), c.facts, c.tally)))
            .collect();
        all.sort_unstable();
        all
    };
    assert_eq!(keys(&loaded), keys(&table));
    // They go on as if nothing had been.
    let answer = ipv4(6, 2, 1, &tcp(80, 1000, 0x10, 500, 100));
    assert!(matches!(loaded.see(&answer, back(), 500_001), Inspect::Pass { forward: false, .. }));
    let pong = ipv4(1, 2, 99, &icmp(0, 4000));
    assert!(matches!(loaded.see(&pong, back(), 500_001), Inspect::Pass { forward: false, .. }));
}

#[test]
fn records_that_contradict_themselves_are_refused() {
    let mut table = table(100);
    table.begin(&ipv4(17, 1, 2, &udp(1000, 53)), out(), 0);
    let good = table.records(&Plain, Millis(0)).remove(0);
    let mut load = |record: ConnectionRecord| table.load(&record, &Plain, Millis(0), &mut nobody).unwrap_err();
    assert_eq!(load(good.clone()), RecordError::Refused(Refused::Duplicate));
    let six = "::1".parse().unwrap();
    assert_eq!(load(ConnectionRecord { destination: (six, 1), ..good.clone() }), RecordError::Family);
    assert_eq!(load(ConnectionRecord { proto: 6, ..good.clone() }), RecordError::State(6));
    let unknown = RecordError::Unknown { what: "interface", name: "eth7".into() };
    assert_eq!(load(ConnectionRecord { bound_to: Some("eth7".into()), ..good }), unknown);
}

/// What the model does: open, see, answer, remove by its place, let time pass.
#[derive(Clone, Debug)]
enum Step {
    Open(u16),
    See(u16, bool),
    Translate(u16, u16),
    Remove(u16),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u16..64).prop_map(Step::Open),
        4 => (0u16..64, any::<bool>()).prop_map(|(i, f)| Step::See(i, f)),
        1 => (0u16..64, 0u16..64).prop_map(|(i, to)| Step::Translate(i, to)),
        1 => (0u16..64).prop_map(Step::Remove),
        2 => (0u64..40_000).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn it_does_what_a_map_would(steps in prop::collection::vec(step(), 1..300), seed in any::<u64>()) {
        struct Entry { conn: ConnId, answered: bool, last: u64, port: u16 }
        let mut table = Connections::new(
            Limits { capacity: 64, half_open_percent: 100 }, &Params::default(), seed, Millis(0));
        let mut model: HashMap<u16, Entry> = HashMap::new();
        let mut now = 0u64;
        let there = |i: u16| ipv4(17, 1, 2, &udp(1000 + i, 53));
        let answer = |port: u16| ipv4(17, 2, 1, &udp(53, port));
        for step in steps {
            match step {
                Step::Open(i) => {
                    let result = table.insert(open(&there(i), out(), now), Millis(now), &mut nobody);
                    let taken = model.contains_key(&i) || model.values().any(|e| e.port == 1000 + i);
                    prop_assert_eq!(result.is_err(), taken);
                    if let Ok(conn) = result {
                        model.insert(i, Entry { conn, answered: false, last: now, port: 1000 + i });
                    }
                }
                Step::See(i, true) => {
                    let expected = model.get_mut(&i).map_or(Inspect::None, |e| {
                        e.last = now;
                        Inspect::Pass { conn: e.conn, forward: true }
                    });
                    let bytes = there(i);
                    let packet = Packet::read(&bytes).unwrap();
                    table.warm([(&packet, out())].into_iter());
                    prop_assert_eq!(table.see(&bytes, out(), now), expected);
                }
                Step::See(i, false) => {
                    let expected = model.values_mut().find(|e| e.port == 1000 + i).map_or(Inspect::None, |e| {
                        (e.last, e.answered) = (now, true);
                        Inspect::Pass { conn: e.conn, forward: false }
                    });
                    prop_assert_eq!(table.see(&answer(1000 + i), back(), now), expected);
                }
                Step::Translate(i, to) => {
                    let free = model.iter().all(|(j, e)| *j == i || e.port != 1000 + to);
                    if let Some(entry) = model.get_mut(&i) {
                        let nat = snat((v4(0x0a00_0001), 1000 + i), (v4(0x0a00_0001), 1000 + to));
                        prop_assert_eq!(table.translate(entry.conn, nat).is_ok(), free);
                        if free {
                            entry.port = 1000 + to;
                        }
                    }
                }
                Step::Remove(i) => {
                    if let Some(entry) = model.remove(&i) {
                        prop_assert!(table.remove(entry.conn).is_some());
                        prop_assert!(table.get(entry.conn).is_none());
                    }
                }
                Step::Wait(time) => {
                    now += time;
                    // Beyond half full, incomplete ones go earlier; they may then, and must by their full time.
                    let mut ended = vec![];
                    table.expire(Millis(now), usize::MAX, &mut |id, _| ended.push(id));
                    let crowded = model.len() * 2 >= 64;
                    for (i, e) in &model {
                        let deadline = e.last + if e.answered { 60_000 } else { 30_000 };
                        let is_gone = ended.contains(&e.conn);
                        prop_assert!(!is_gone || now >= deadline || (crowded && !e.answered), "{i} too early");
                        prop_assert!(is_gone || now < deadline + 256, "{i} too late");
                    }
                    model.retain(|_, e| !ended.contains(&e.conn));
                }
            }
            prop_assert_eq!(table.len(), model.len());
            prop_assert_eq!(table.half_open(), model.values().filter(|e| !e.answered).count());
            prop_assert_eq!(table.iter().count(), model.len());
        }
    }
}
