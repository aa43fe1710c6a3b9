//! What a rule asks of the packets of one family: a set of numbers in each dimension, and what only a check can tell.

use super::{
    check::{Checks, Names, Sided, Test},
    flatten::{Flat, Gate, WAYS},
    ranges::{Ranges, complement, merged},
};
use crate::{
    config::{Address, Endpoint, Family, Filter, Match, PortRange, Prefix, Proto, ProtoOptions},
    evaluate::{Interfaces, Programs},
    packet::{number_of, proto, tcp_flag},
};
use std::{collections::HashMap, net::IpAddr};

/// Upper protocols as numbers: from 0 those of packets without TCP and ICMP headers, from 256 the flags of TCP, from 512
/// type and code of ICMP.
pub(crate) const UPPER_TCP: u128 = 256;
/// See [`UPPER_TCP`].
pub(crate) const UPPER_ICMP: u128 = 512;
/// The last of those.
pub(super) const UPPER_TOP: u128 = UPPER_ICMP + 0xffff;
/// The port of packets that have none.
pub(crate) const NO_PORT: u128 = 0x1_0000;

/// The dimensions of a rule.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    /// Numbers as [`gate_number`] makes them.
    pub gate: Ranges,
    /// Addresses; of IPv4 the 32 bits.
    pub src: Ranges,
    pub dst: Ranges,
    /// Numbers from 0 to [`UPPER_TOP`].
    pub upper: Ranges,
    /// Ports, and [`NO_PORT`].
    pub sport: Ranges,
    pub dport: Ranges,
    /// Where its checks are; 0 for none.
    pub check: u32,
}

/// The number of a way over an interface. Interface 0 is any that no rule names.
pub(super) fn gate_number(way: u32, interface: u32, interfaces: u32) -> u32 {
    way * (interfaces + 1) + interface
}

/// The largest address of a family.
pub(super) fn top_of(family: Family) -> u128 {
    u128::MAX >> (128 - u32::from(family.bits()))
}

/// Makes shapes, and remembers what it has asked.
pub(super) struct Shaper<'a> {
    pub family: Family,
    /// The names that rules tell apart, sorted.
    pub interfaces: &'a [String],
    pub of_interfaces: &'a dyn Interfaces,
    /// The addresses of interfaces, so that all rules see the same.
    pub known: HashMap<String, Vec<IpAddr>>,
    pub uppers: HashMap<(Vec<Proto>, bool, bool), Ranges>,
}

impl Shaper<'_> {
    /// The shape of a rule. None: no packet of the family matches it.
    pub fn shape(
        &mut self,
        flat: &Flat<'_>,
        programs: &Programs,
        checks: &mut Checks,
        names: &mut Names,
    ) -> Option<Shape> {
        let gate = self.gate(flat.gate);
        let mut tests: Vec<Test> = flat.rule.tagged.iter().map(|t| Test::Tag { name: &t.name, not: t.not }).collect();
        let any_port = vec![(0, NO_PORT)];
        let any_address = vec![(0, top_of(self.family))];
        let mut shape = Shape {
            gate,
            src: any_address.clone(),
            dst: any_address,
            upper: vec![(0, UPPER_TOP)],
            sport: any_port.clone(),
            dport: any_port,
            check: 0,
        };
        match &flat.rule.filter {
            Filter::Ether(_) => return None,
            Filter::Pcap(text) => tests.push(Test::Program(programs.get(text)?, text)),
            Filter::Match(m) if m.family.is_some_and(|f| f != self.family) => return None,
            Filter::Match(m) => {
                shape.upper = self.upper(m);
                (shape.sport, shape.dport) = (ports(&m.from), ports(&m.to));
                for (end, is_source, side) in [(&m.from, true, &mut shape.src), (&m.to, false, &mut shape.dst)] {
                    let (addresses, tables) = self.addresses(end);
                    if !tables.is_empty() && !end.not {
                        // One of these or in a table: a packet with any address may be meant.
                        if addresses != *side {
                            tests.push(Test::Addresses(Sided { is_source, not: false, tables, ranges: addresses }));
                        }
                        continue;
                    }
                    if !end.addresses.is_empty() {
                        *side = if end.not { complement(&addresses, top_of(self.family)) } else { addresses };
                    }
                    if !tables.is_empty() {
                        tests.push(Test::Addresses(Sided { is_source, not: true, tables, ranges: Vec::new() }));
                    }
                }
            }
        }
        let all = [&shape.gate, &shape.src, &shape.dst, &shape.upper, &shape.sport, &shape.dport];
        if all.iter().any(|ranges| ranges.is_empty()) {
            return None;
        }
        shape.check = checks.add(&tests, names);
        Some(shape)
    }

    fn gate(&self, gate: Gate<'_>) -> Ranges {
        let count = self.interfaces.len() as u32;
        let among = match gate.interface {
            None => (0, count),
            Some(name) => match self.interfaces.binary_search_by(|i| i.as_str().cmp(name)) {
                Ok(n) => (n as u32 + 1, n as u32 + 1),
                Err(_) => return Vec::new(),
            },
        };
        let ways = (0..WAYS.count_ones()).filter(|way| gate.ways & 1 << way != 0);
        let number = |way, interface| u128::from(gate_number(way, interface, count));
        merged(ways.map(|way| (number(way, among.0), number(way, among.1))).collect())
    }

    /// The addresses of an end that are known now, and the tables that stand beside them.
    fn addresses(&mut self, end: &Endpoint) -> (Ranges, Vec<u32>) {
        let (mut ranges, mut tables) = (Vec::new(), Vec::new());
        for address in &end.addresses {
            match address {
                Address::Prefix(prefix) if Family::of(prefix.address) == self.family => ranges.push(range_of(prefix)),
                Address::Prefix(_) => {}
                Address::Table(table) => tables.push(u32::try_from(table.0).unwrap_or(u32::MAX)),
                Address::Interface { name, family, .. } if family.is_none_or(|f| f == self.family) => {
                    let of_interfaces = self.of_interfaces;
                    let known = self.known.entry(name.clone()).or_insert_with(|| of_interfaces.addresses(name));
                    let hosts = known.iter().filter(|a| Family::of(**a) == self.family);
                    ranges.extend(hosts.map(|a| range_of(&Prefix::host(*a))));
                }
                Address::Interface { .. } => {}
            }
        }
        (merged(ranges), tables)
    }

    fn upper(&mut self, m: &Match) -> Ranges {
        let with_ports = !m.from.ports.is_empty() || !m.to.ports.is_empty();
        let family = self.family;
        let asked = (m.protos.clone(), m.opening, with_ports);
        self.uppers.entry(asked).or_insert_with(|| upper(m, with_ports, family)).clone()
    }
}

fn range_of(prefix: &Prefix) -> (u128, u128) {
    let family = Family::of(prefix.address);
    let host_bits = u32::from(family.bits().saturating_sub(prefix.len));
    let hosts = u128::MAX.checked_shr(128 - host_bits).unwrap_or(0);
    let address = number_of(prefix.address) & top_of(family);
    (address & !hosts, address | hosts)
}

fn ports(end: &Endpoint) -> Ranges {
    if end.ports.is_empty() {
        return vec![(0, NO_PORT)];
    }
    merged(end.ports.iter().map(|&PortRange { first, last }| (first.into(), last.into())).collect())
}

/// Which upper protocols, flags, types and codes are meant (`fits`, `is_proto` and `is_opening` of the evaluator).
fn upper(m: &Match, with_ports: bool, family: Family) -> Ranges {
    const OPENING: u8 = tcp_flag::SYN | tcp_flag::ACK | tcp_flag::FIN | tcp_flag::RST;
    let named = m.protos.iter().any(|p| p.number == proto::TCP && p.options != ProtoOptions::None);
    let plain = |number: u8| match m.protos.is_empty() {
        true => !with_ports || matches!(number, proto::TCP | proto::UDP),
        false => m.protos.iter().any(|p| p.number == number && p.options == ProtoOptions::None),
    };
    let has_flags = |flags: u8| {
        m.protos.is_empty()
            || m.protos.iter().any(|p| {
                p.number == proto::TCP
                    && match p.options {
                        ProtoOptions::None => true,
                        ProtoOptions::TcpFlags { value, mask } => flags & mask == value,
                        ProtoOptions::Icmp { .. } => false,
                    }
            })
    };
    let mut ranges: Ranges = Vec::new();
    for number in 0..=u8::MAX {
        // A fragment of TCP behind the first tells no flags: whether it opens a connection is not known, so it does not.
        if plain(number) && (!m.opening || number != proto::TCP || named) {
            ranges.push((number.into(), number.into()));
        }
        if has_flags(number) && (!m.opening || named || number & OPENING == tcp_flag::SYN) {
            ranges.push((UPPER_TCP + u128::from(number), UPPER_TCP + u128::from(number)));
        }
    }
    let icmp = if family == Family::V4 { proto::ICMP } else { proto::ICMPV6 };
    if plain(icmp) {
        ranges.push((UPPER_ICMP, UPPER_TOP));
    }
    for p in m.protos.iter().filter(|p| p.number == icmp) {
        if let ProtoOptions::Icmp { kind, code } = p.options {
            let first = UPPER_ICMP + u128::from(u16::from_be_bytes([kind, code.unwrap_or(0)]));
            ranges.push((first, first + if code.is_none() { 255 } else { 0 }));
        }
    }
    merged(ranges)
}
