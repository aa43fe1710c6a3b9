//! Random configurations and packets that often meet.

use super::{icmp, ip, random, tcp, udp};
use crate::{
    config::{
        Action, Address, Config, Directions, Endpoint, EtherMatch, Family, Filter, Group, Item, Limit, LimitOf, Match,
        Place, PortRange, Prefix, Proto, ProtoOptions, Return, Rule, RuleId, Ruleset, Table, TableEntry, TableId,
        TableKind, TableSource, Tagged,
    },
    evaluate::{Dynamic, Programs},
    packet::proto,
    state::Millis,
    tables::Tables,
};
use std::{cell::RefCell, collections::HashMap, net::IpAddr};

/// What is asked about; no rule knows the last one.
pub const INTERFACES: [&str; 3] = ["eth0", "eth1", "eth2"];
/// As above.
pub const TAGS: [Option<&str>; 4] = [None, Some("red"), Some("blue"), Some("other")];

const V4: [&str; 5] = ["10.0.0.1", "10.0.0.2", "10.0.1.1", "192.0.2.9", "255.255.255.255"];
const V6: [&str; 5] = ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "fe80::1", "ffff:ffff::ffff"];
const LENGTHS_V4: [u8; 6] = [32, 31, 24, 16, 1, 0];
const LENGTHS_V6: [u8; 6] = [128, 127, 64, 33, 1, 0];
const PORTS: [u16; 7] = [0, 22, 53, 80, 443, 1024, 65535];
const PROTOS: [u8; 7] = [proto::TCP, proto::TCP, proto::UDP, proto::ICMP, proto::ICMPV6, proto::GRE, proto::SCTP];
const FLAGS: [u8; 6] = [0x02, 0x12, 0x10, 0x04, 0x11, 0x00];
const KINDS: [u8; 6] = [8, 0, 3, 128, 129, 1];
const EXPRESSIONS: [&str; 5] = ["tcp", "udp port 53", "ip6", "src net 10.0.0.0/24", "icmp or icmp6"];
const TABLES: [usize; 5] = [0, 1, 2, 40, 41];

/// Numbers that look random.
pub struct Dice(Box<dyn FnMut() -> u64>);

impl Dice {
    /// The same ones for the same seed.
    pub fn new(seed: u64) -> Dice {
        Dice(Box::new(random(seed)))
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        (self.0)() % n
    }

    /// True in `n` of a hundred cases.
    pub fn in_100(&mut self, n: u64) -> bool {
        self.below(100) < n
    }

    /// One of several.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    fn some<T>(&mut self, most: u64, mut make: impl FnMut(&mut Dice) -> T) -> Vec<T> {
        (0..1 + self.below(most)).map(|_| make(self)).collect()
    }
}

/// The programs of all expressions of random rules, and of all but the last. Compiling takes longer than comparing.
pub fn programs() -> [Programs; 2] {
    let mut programs = Programs::default();
    let mut each = EXPRESSIONS.iter().map(|text| {
        let filter = Filter::Pcap((*text).into());
        programs.add(&Rule { filter, ..rule(0, Match::default()) }).unwrap();
        programs.clone()
    });
    each.nth(EXPRESSIONS.len() - 2).zip(each.next()).map(|(most, all)| [all, most]).unwrap()
}

/// A configuration and what belongs to it.
pub struct Setting {
    /// The configuration.
    pub config: Config,
    /// The rules of its dynamic rulesets.
    pub dynamic: Dynamic,
    /// Addresses of interfaces.
    pub interfaces: HashMap<String, Vec<IpAddr>>,
    ids: u64,
}

impl Setting {
    /// Groups, rules, tables, dynamic rulesets.
    pub fn random(dice: &mut Dice) -> Setting {
        let address = |text: &&str| text.parse::<IpAddr>().unwrap();
        let mut setting = Setting {
            config: Config::default(),
            dynamic: Dynamic::new(),
            interfaces: HashMap::from([
                ("eth0".into(), [V4[0], V6[0], V6[3]].iter().map(address).collect()),
                ("eth1".into(), [V4[2]].iter().map(address).collect()),
            ]),
            ids: 0,
        };
        // The last number is of no table.
        setting.config.tables = (0..41).map(|n| table(n, dice)).collect();
        // Some rules that end most walks, or few that leave most packets.
        let groups = dice.below(5);
        setting.config.groups = (0..groups).map(|_| setting.group(0, dice)).collect();
        for name in ["one", "two"] {
            // None, or so many that a row has more than one word.
            let count = if dice.in_100(10) { 200 } else { dice.below(5) };
            let rules = (0..count).map(|_| setting.rule(dice)).collect();
            setting.dynamic.insert(name.into(), rules);
        }
        setting
    }

    /// Puts other entries into tables.
    pub fn change(&self, tables: &mut Tables, dice: &mut Dice) {
        for table in [0, 1, 2].map(TableId) {
            tables.flush(table).unwrap();
            for _ in 0..dice.below(4) {
                let _ = tables.add(table, entry(self.config.tables[table.0].kind, dice), Millis(0), None);
            }
        }
    }

    fn group(&mut self, depth: u64, dice: &mut Dice) -> Group {
        let many = dice.in_100(2);
        let count = if many { 700 } else { dice.below(12) };
        let items = (0..count).map(|_| match dice.below(if many { 1000 } else { 20 }) {
            0 | 1 if depth < 3 => Item::Group(self.group(depth + 1, dice)),
            2 => Item::Ruleset(Ruleset {
                name: dice.pick(&["one", "two", "three"]).into(),
                directions: directions(dice),
                interface: interface(dice),
                at: Place::default(),
            }),
            _ => Item::Rule(self.rule(dice)),
        });
        let items = items.collect();
        let (directions, interface) = (directions(dice), interface(dice));
        Group { name: None, directions, interface, layer2: dice.in_100(3), items, at: Place::default() }
    }

    fn rule(&mut self, dice: &mut Dice) -> Rule {
        self.ids += 1;
        let filter = match dice.below(40) {
            0 | 1 => Filter::Pcap(dice.pick(&EXPRESSIONS).into()),
            2 => Filter::Ether(EtherMatch::default()),
            _ => Filter::Match(filter(dice)),
        };
        let limit = Limit { of: LimitOf::States(1), per_source: None, overload: None };
        Rule {
            id: RuleId(self.ids),
            name: None,
            action: dice.pick(&[Action::Pass, Action::Block(Return::Nothing)]),
            state: None,
            directions: directions(dice),
            is_final: dice.in_100(20),
            interface: interface(dice),
            filter,
            apply: None,
            log: false,
            tagged: dice.in_100(10).then(|| Tagged { not: dice.in_100(40), name: dice.pick(&["red", "blue"]).into() }),
            tag: None,
            limits: if dice.in_100(15) { vec![limit] } else { Vec::new() },
            at: Place::default(),
        }
    }
}

/// Whether a rule with limits may: other answers each time, but the same for the same questions before it.
#[derive(Default)]
pub struct Limits(RefCell<Vec<u64>>);

impl Limits {
    /// What is answered of a rule.
    pub fn within(&self, rule: &Rule) -> bool {
        if rule.limits.is_empty() {
            return true;
        }
        let mut asked = self.0.borrow_mut();
        asked.push(rule.id.0);
        let seed = asked.iter().fold(0u64, |sum, id| (sum ^ id).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        seed >> 40 & 1 == 0
    }

    /// The rules that were asked for, in order.
    pub fn asked(&self) -> Vec<u64> {
        self.0.borrow().clone()
    }
}

/// A rule that passes what a match tells, and nothing more.
pub fn rule(id: u64, filter: Match) -> Rule {
    Rule {
        id: RuleId(id),
        name: None,
        action: Action::Pass,
        state: None,
        directions: Default::default(),
        is_final: false,
        interface: None,
        filter: Filter::Match(filter),
        apply: None,
        log: false,
        tagged: None,
        tag: None,
        limits: Vec::new(),
        at: Place::default(),
    }
}

fn directions(dice: &mut Dice) -> Directions {
    match dice.below(10) {
        0 => Directions::In,
        1 => Directions::Out,
        2 => Directions::Forward,
        _ => Directions::Any,
    }
}

fn interface(dice: &mut Dice) -> Option<String> {
    dice.in_100(15).then(|| dice.pick(&INTERFACES[..2]).into())
}

fn filter(dice: &mut Dice) -> Match {
    Match {
        family: dice.in_100(20).then(|| dice.pick(&[Family::V4, Family::V6])),
        protos: if dice.in_100(50) { dice.some(3, protocol) } else { Vec::new() },
        opening: dice.in_100(25),
        from: endpoint(dice),
        to: endpoint(dice),
    }
}

fn protocol(dice: &mut Dice) -> Proto {
    let number = dice.pick(&PROTOS);
    let options = match number {
        _ if dice.in_100(50) => ProtoOptions::None,
        proto::TCP => {
            let mask = dice.pick(&[0x17, 0x12, 0x3f, 0xff, 0x02]);
            ProtoOptions::TcpFlags { value: dice.pick(&FLAGS) & if dice.in_100(95) { mask } else { 0xff }, mask }
        }
        proto::ICMP | proto::ICMPV6 => {
            let kind = dice.pick(&KINDS);
            ProtoOptions::Icmp { kind, code: dice.in_100(30).then(|| dice.below(3) as u8) }
        }
        _ => ProtoOptions::None,
    };
    Proto { number, options }
}

fn endpoint(dice: &mut Dice) -> Endpoint {
    let addresses = if dice.in_100(35) { dice.some(3, address) } else { Vec::new() };
    let ports = if dice.in_100(20) { dice.some(2, port_range) } else { Vec::new() };
    Endpoint { not: dice.in_100(30), addresses, ports }
}

fn address(dice: &mut Dice) -> Address {
    match dice.below(10) {
        0 | 1 => Address::Table(TableId(dice.pick(&TABLES))),
        2 => Address::Interface {
            name: dice.pick(&["eth0", "eth1", "none"]).into(),
            family: dice.in_100(30).then(|| dice.pick(&[Family::V4, Family::V6])),
            fixed: dice.in_100(50),
        },
        _ => Address::Prefix(prefix(dice)),
    }
}

fn prefix(dice: &mut Dice) -> Prefix {
    let (text, len) = match dice.in_100(50) {
        true => (dice.pick(&V4), dice.pick(&LENGTHS_V4)),
        false => (dice.pick(&V6), dice.pick(&LENGTHS_V6)),
    };
    let address = text.parse().unwrap();
    // The parser clears the bits behind the length; the evaluator does not mind them.
    if dice.in_100(90) { Prefix::new(address, len).unwrap() } else { Prefix { address, len } }
}

fn port_range(dice: &mut Dice) -> PortRange {
    let (a, b) = (dice.pick(&PORTS), dice.pick(&PORTS));
    if dice.in_100(60) { PortRange { first: a, last: a } } else { PortRange { first: a.min(b), last: a.max(b) } }
}

fn table(n: usize, dice: &mut Dice) -> Table {
    let kind = match n {
        1 => TableKind::Lpm,
        2 => TableKind::IpPort,
        40 => TableKind::Const,
        _ => TableKind::Ipset,
    };
    let entries = if TABLES.contains(&n) { dice.some(4, |dice| entry(kind, dice)) } else { Vec::new() };
    let at = Place::default();
    Table { name: format!("t{n}"), kind, source: TableSource::Empty, entries, timeout: None, counters: false, at }
}

fn entry(kind: TableKind, dice: &mut Dice) -> TableEntry {
    let prefix = prefix(dice);
    let service = (kind == TableKind::IpPort).then(|| (dice.pick(&PROTOS), dice.pick(&PORTS)));
    let prefix = if kind == TableKind::Lpm {
        Prefix::new(prefix.address, prefix.len).unwrap()
    } else {
        Prefix::host(if dice.in_100(50) { V4[0] } else { V6[0] }.parse().unwrap())
    };
    TableEntry { prefix, service }
}

/// A packet with addresses, ports and all that rules ask for.
pub fn packet(dice: &mut Dice) -> Vec<u8> {
    let is_v4 = dice.in_100(50);
    let pool = if is_v4 { &V4 } else { &V6 };
    let (src, dst) = (dice.pick(pool), dice.pick(pool));
    let near = |dice: &mut Dice| dice.pick(&PORTS).wrapping_add(dice.in_100(10) as u16);
    let (sport, dport) = (near(dice), near(dice));
    let later = dice.in_100(8);
    let number = dice.pick(&PROTOS);
    if later && !is_v4 {
        return ip(src, dst, 44, &[number, 0, 0, 8, 0, 0, 0, 1, 1, 2, 3, 4]);
    }
    let mut bytes = match number {
        proto::TCP => tcp((src, sport), (dst, dport), dice.pick(&FLAGS), b"", b""),
        proto::UDP => udp((src, sport), (dst, dport), b""),
        proto::ICMP | proto::ICMPV6 => icmp(src, dst, dice.pick(&KINDS), dice.below(3) as u8, &[0; 4]),
        _ => ip(src, dst, number, &[&sport.to_be_bytes()[..], &dport.to_be_bytes(), &[0; 12]].concat()),
    };
    if later {
        bytes[7] = 1;
    }
    bytes
}
