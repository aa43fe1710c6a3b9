//! What decisions cost, by the number of rules: words of tables in every run, time and memory when asked
//! (`cargo test --release -p smpnet-npf --lib -- --ignored --nocapture a_decision_takes`).

use super::super::*;
use crate::{
    config::{Address, Directions, Endpoint, Group, Item, Match, Place, PortRange, Prefix, Proto, ProtoOptions},
    evaluate::{Asked, Evaluator, NoInterfaces, Where},
    packet::{Packet, Ports, Tcp, Upper, proto},
    tables::Tables,
    testing::random::{Dice, rule},
};
use std::{hint::black_box, time::Instant};

/// What random rules look like.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Both addresses, protocol and both ports are given.
    Full,
    /// Most leave something open, as written by people: often any source and nearly always any source port.
    Mixed,
}

const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];

fn number(dice: &mut Dice) -> u64 {
    dice.below(1 << 32)
}

fn filter(kind: Kind, family: Family, dice: &mut Dice) -> Match {
    let full = matches!(kind, Kind::Full);
    let mut open = |n| !full && dice.in_100(n);
    let (any_src, any_dst) = (open(50), open(20));
    let (any_proto, any_sport, any_dport, is_range) = (open(15), open(90), open(25), open(25));
    // Few rules are for everybody.
    let any_dst = any_dst && !any_src;
    let end = |any, any_port, is_range, dice: &mut Dice| {
        let address = random_address(family, dice);
        let host_bits = if dice.in_100(50) { 0 } else { dice.below(16) as u8 };
        let prefix = Prefix::new(address, family.bits() - host_bits);
        let port = dice.below(65536) as u16;
        let last = if is_range { port.saturating_add(dice.below(1000) as u16) } else { port };
        Endpoint {
            not: false,
            addresses: if any { Vec::new() } else { prefix.into_iter().map(Address::Prefix).collect() },
            ports: if any_port { Vec::new() } else { vec![PortRange { first: port, last }] },
        }
    };
    let (from, to) = (end(any_src, any_sport, false, dice), end(any_dst, any_dport, is_range, dice));
    let number = dice.pick(&[proto::TCP, proto::UDP]);
    let protos = if any_proto { Vec::new() } else { vec![Proto { number, options: ProtoOptions::None }] };
    Match { family: None, protos, opening: false, from, to }
}

fn random_address(family: Family, dice: &mut Dice) -> std::net::IpAddr {
    let v4 = number(dice) as u32;
    let v6 = 0x2001_0db8 << 96 | u128::from(number(dice)) << 48 | u128::from(number(dice));
    if family == Family::V4 { std::net::IpAddr::V4(v4.into()) } else { std::net::IpAddr::V6(v6.into()) }
}

fn config(kind: Kind, family: Family, count: usize) -> Config {
    let mut dice = Dice::new(count as u64);
    let items = (0..count).map(|n| Item::Rule(rule(n as u64, filter(kind, family, &mut dice)))).collect();
    let at = Place::default();
    let group = Group { name: None, directions: Default::default(), interface: None, layer2: false, items, at };
    Config { groups: vec![group], ..Config::default() }
}

/// Half are random, half meet a rule at least.
fn packets(config: &Config, family: Family, count: usize) -> Vec<Packet> {
    let mut dice = Dice::new(5);
    let none = Dynamic::new();
    let rules = rules(config, &none);
    let packet = |n: usize| {
        let meant = match &rules[dice.below(rules.len() as u64) as usize].filter {
            crate::config::Filter::Match(m) if n.is_multiple_of(2) => m.clone(),
            _ => Match::default(),
        };
        let mut end = |end: &Endpoint| {
            let address = match end.addresses.first() {
                Some(Address::Prefix(prefix)) => prefix.address,
                _ => random_address(family, &mut dice),
            };
            (crate::packet::number_of(address), end.ports.first().map_or(dice.below(65536) as u16, |p| p.first))
        };
        let ((src, sport), (dst, dport)) = (end(&meant.from), end(&meant.to));
        let ports = Ports { src: sport, dst: dport };
        let number = meant.protos.first().map_or(proto::TCP, |p| p.number);
        let tcp = Tcp { ports, flags: 0x10, seq: 0, ack: 0, window: 0, header: 20, data: 0 };
        let upper = if number == proto::TCP { Upper::Tcp(tcp) } else { Upper::Udp(ports) };
        let (proto, fragment) = (number, None);
        Packet {
            family,
            src,
            dst,
            proto,
            ttl: 64,
            header: 20,
            len: 0,
            fragment,
            options: false,
            upper,
            checksum_is_open: false,
        }
    };
    (0..count).map(packet).collect()
}

fn numbered(packet: &Packet) -> Numbered<'_> {
    Numbered { packet, bytes: &[], interface: InterfaceNumber(0), way: Where::In, tag: TagNumber(0) }
}

fn plan(config: &Config) -> Plan {
    Plan::new(config, &Programs::default(), &NoInterfaces, &Dynamic::new())
}

#[test]
fn a_thousand_rules_cost_at_most_four_times_what_ten_cost_and_ten_thousand_eight() {
    for (kind, family) in [Kind::Full, Kind::Mixed].into_iter().flat_map(|k| [Family::V4, Family::V6].map(|f| (k, f))) {
        let words = SIZES.map(|count| {
            let config = config(kind, family, count);
            let plan = plan(&config);
            let mut cost = Cost::default();
            let packets = packets(&config, family, 2_000);
            for packet in &packets {
                plan.decide_numbered(&numbered(packet), &Tables::default(), &|_| true, &mut cost);
            }
            println!("{kind:?} {family:?} {count}: {cost:?} for {} packets, {} bytes", packets.len(), plan.bytes());
            // What grows with the rules squared is less than what the rules themselves need.
            assert!(plan.bytes() < 100_000 + 1_000 * count, "{} bytes for {count} rules", plan.bytes());
            cost.words as f64 / packets.len() as f64
        });
        assert!(words[2] <= 4.0 * words[0], "{kind:?} {family:?}: {words:?}");
        assert!(words[3] <= 8.0 * words[0], "{kind:?} {family:?}: {words:?}");
    }
}

#[test]
#[ignore = "prints times, which say nothing on a busy machine"]
fn a_decision_takes_about_as_long_with_many_rules_as_with_few() {
    let none = Dynamic::new();
    let tables = Tables::default();
    for (kind, family) in [Kind::Full, Kind::Mixed].into_iter().flat_map(|k| [Family::V4, Family::V6].map(|f| (k, f))) {
        for count in SIZES {
            let config = config(kind, family, count);
            let packets = packets(&config, family, 4096);
            let builds = (0..5).map(|_| {
                let start = Instant::now();
                black_box(plan(&config));
                start.elapsed()
            });
            let build = builds.min().unwrap_or_default();
            let plan = plan(&config);
            // The best of some rounds, since other work on the machine only adds.
            let rounds = (0..50).map(|_| {
                let start = Instant::now();
                for packet in &packets {
                    black_box(plan.decide_numbered(&numbered(black_box(packet)), &tables, &|_| true, &mut ()));
                }
                start.elapsed()
            });
            let fast = rounds.min().unwrap_or_default().as_nanos() as f64 / packets.len() as f64;
            let (programs, within) = (Programs::default(), |_: &Rule| true);
            let evaluator = Evaluator::new(&programs, &tables, &NoInterfaces, &none, &within);
            let few = &packets[..(200_000 / count).min(packets.len())];
            let rounds = (0..5).map(|_| {
                let start = Instant::now();
                for packet in few {
                    let asked = Asked { packet, bytes: &[], interface: "eth0", way: Where::In, tag: None };
                    black_box(evaluator.decide(&config, black_box(&asked)));
                }
                start.elapsed()
            });
            let slow = rounds.min().unwrap_or_default().as_nanos() as f64 / few.len() as f64;
            println!(
                "{kind:?} {family:?} {count:6} rules: plan {fast:7.1} ns, evaluator {slow:9.1} ns; built in {build:?}, {} KiB",
                plan.bytes() / 1024
            );
        }
    }
}

/// Rules that make rows as different as can be: wide prefixes within each other, lists, wide ranges of ports at both
/// ends, flags, ICMP types, and a hundred interfaces.
fn wild(count: usize) -> Config {
    let mut dice = Dice::new(count as u64);
    let wide = |family: Family, dice: &mut Dice| {
        let ports = |dice: &mut Dice| {
            let (a, b) = (dice.below(65536) as u16, dice.below(65536) as u16);
            PortRange { first: a.min(b), last: a.max(b) }
        };
        let addresses = (0..1 + dice.below(3)).filter_map(|_| {
            let len = dice.below(u64::from(family.bits())) as u8;
            Prefix::new(random_address(family, dice), len).map(Address::Prefix)
        });
        let addresses = addresses.collect();
        Endpoint { not: dice.in_100(20), addresses, ports: vec![ports(dice), ports(dice)] }
    };
    let items = (0..count).map(|n| {
        let family = dice.pick(&[Family::V4, Family::V6]);
        let (from, to) = (wide(family, &mut dice), wide(family, &mut dice));
        let options = ProtoOptions::TcpFlags { value: dice.below(64) as u8, mask: 0x3f };
        let protos =
            vec![Proto { number: proto::TCP, options }, Proto { number: proto::UDP, options: ProtoOptions::None }];
        let one = rule(n as u64, Match { family: None, protos, opening: false, from, to });
        let interface = dice.in_100(80).then(|| format!("eth{}", dice.below(100)));
        Item::Rule(Rule { interface, directions: dice.pick(&[Directions::In, Directions::Out]), ..one })
    });
    let (items, at) = (items.collect(), Place::default());
    let group = Group { name: None, directions: Default::default(), interface: None, layer2: false, items, at };
    Config { groups: vec![group], ..Config::default() }
}

#[test]
fn memory_grows_with_the_rules_even_where_all_overlap() {
    for count in [100, 1_000, 5_000] {
        let config = wild(count);
        let start = Instant::now();
        let plan = plan(&config);
        println!("wild {count}: {} KiB, built in {:?}", plan.bytes() / 1024, start.elapsed());
        // An end of a range is a row: a block of 64 bytes and a number for each block, of which there is one in 512 rules.
        let end = 64 + 12 + (count as f64 / 512.0).ceil() as usize * 12;
        assert!(plan.bytes() < 600_000 + count * 8 * end, "{} bytes for {count} rules", plan.bytes());
    }
}
