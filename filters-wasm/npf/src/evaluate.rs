//! The literal evaluator: what rules mean, written to be read. Whatever runs faster is tested against it.
//!
//! Rules are gone through in order. The last one that matches decides, unless one that matches is `final`. A group is a
//! barrier: where a rule before it has matched, it is not entered and nothing behind it is looked at. What a command has
//! put into a dynamic ruleset is final as a whole (`npf_ruleset_inspect` of NetBSD).

use crate::{
    config::{
        Address, Config, Directions, Endpoint, Family, Filter, Group, Item, Match, Proto, ProtoOptions, Rule, Ruleset,
    },
    packet::{Packet, Upper, number_of, proto, tcp_flag},
    tables::{Tables, lies_in},
};
use smpnet_bpf::{Dlt, ExprError, Program, compile_expr};
use std::{collections::HashMap, net::IpAddr};

/// Where a packet is. Plans and modules know the three by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Where {
    /// It comes in by an interface.
    In,
    /// It leaves by one, and is our own.
    Out,
    /// It leaves by one, and came in by another.
    Forward,
}

/// What is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The packet's headers.
    pub packet: &'a Packet,
    /// Its bytes, from the IP header on.
    pub bytes: &'a [u8],
    /// The interface.
    pub interface: &'a str,
    /// Which way it crosses it.
    pub way: Where,
    /// The tag that it carries.
    pub tag: Option<&'a str>,
}

/// Addresses of interfaces.
pub trait Interfaces {
    /// Those that an interface has now; none if there is no such interface.
    fn addresses(&self, name: &str) -> Vec<IpAddr>;
}

/// No interface has an address.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoInterfaces;

impl Interfaces for NoInterfaces {
    fn addresses(&self, _: &str) -> Vec<IpAddr> {
        Vec::new()
    }
}

impl Interfaces for HashMap<String, Vec<IpAddr>> {
    fn addresses(&self, name: &str) -> Vec<IpAddr> {
        self.get(name).cloned().unwrap_or_default()
    }
}

/// Rules of dynamic rulesets, by the rulesets' names.
pub type Dynamic = HashMap<String, Vec<Rule>>;

/// What rules are looked at with. The rules, those of dynamic rulesets too, live for `'r`.
pub struct Evaluator<'a, 'r> {
    /// The expressions of pcap-filter rules, compiled.
    programs: &'a Programs,
    tables: &'a Tables,
    interfaces: &'a dyn Interfaces,
    dynamic: &'r Dynamic,
    /// Whether a rule that would match may, as its limits say.
    within: &'a dyn Fn(&Rule) -> bool,
}

/// Compiled expressions of pcap-filter rules.
#[derive(Clone, Debug, Default)]
pub struct Programs {
    programs: HashMap<String, Program>,
}

impl Programs {
    /// Compiles the expressions of all rules of a configuration.
    ///
    /// # Errors
    /// The first that cannot be compiled, with the expression. The parser has found those.
    pub fn new(config: &Config) -> Result<Programs, (String, ExprError)> {
        let mut all = Programs::default();
        let mut rest: Vec<&Item> = config.groups.iter().flat_map(|g| &g.items).collect();
        while let Some(item) = rest.pop() {
            match item {
                Item::Rule(rule) => all.add(rule)?,
                Item::Group(group) => rest.extend(&group.items),
                Item::Ruleset(_) => {}
            }
        }
        Ok(all)
    }

    /// The program of an expression, if it is that of a rule.
    pub fn get(&self, text: &str) -> Option<&Program> {
        self.programs.get(text)
    }

    /// Compiles the expression of a rule, if it has one.
    ///
    /// # Errors
    /// As [`Programs::new`].
    pub fn add(&mut self, rule: &Rule) -> Result<(), (String, ExprError)> {
        if let Filter::Pcap(text) = &rule.filter
            && !self.programs.contains_key(text)
        {
            let compiled = compile_expr(text, Dlt::Raw).map_err(|e| (text.clone(), e))?;
            self.programs.insert(text.clone(), compiled.program);
        }
        Ok(())
    }
}

/// What a walk through items ended with.
enum Walk {
    /// Goes on behind them.
    On,
    /// Nothing more is looked at.
    Stop,
}

impl<'a, 'r> Evaluator<'a, 'r> {
    /// Looks rules up with these.
    pub fn new(
        programs: &'a Programs,
        tables: &'a Tables,
        interfaces: &'a dyn Interfaces,
        dynamic: &'r Dynamic,
        within: &'a dyn Fn(&Rule) -> bool,
    ) -> Evaluator<'a, 'r> {
        Evaluator { programs, tables, interfaces, dynamic, within }
    }

    /// The rule that decides on a packet. None: no rule matches, and the packet is blocked.
    pub fn decide(&self, config: &'r Config, asked: &Asked<'_>) -> Option<&'r Rule> {
        let mut found = None;
        for group in config.groups.iter().filter(|g| !g.layer2) {
            if let Walk::Stop = self.group(group, asked, &mut found) {
                break;
            }
        }
        found
    }

    fn group(&self, group: &'r Group, asked: &Asked<'_>, found: &mut Option<&'r Rule>) -> Walk {
        if found.is_some() {
            return Walk::Stop;
        }
        if !is_at(group.directions, group.interface.as_deref(), asked) {
            return Walk::On;
        }
        for item in &group.items {
            let walk = match item {
                Item::Group(inner) => self.group(inner, asked, found),
                Item::Rule(rule) if self.matches(rule, asked) => {
                    *found = Some(rule);
                    if rule.is_final { Walk::Stop } else { Walk::On }
                }
                Item::Rule(_) => Walk::On,
                Item::Ruleset(set) => self.ruleset(set, asked, found),
            };
            if let Walk::Stop = walk {
                return Walk::Stop;
            }
        }
        Walk::On
    }

    fn ruleset(&self, set: &Ruleset, asked: &Asked<'_>, found: &mut Option<&'r Rule>) -> Walk {
        if !is_at(set.directions, set.interface.as_deref(), asked) {
            return Walk::On;
        }
        let rules = self.dynamic.get(&set.name).map_or(&[][..], Vec::as_slice);
        let mut hit = None;
        for rule in rules {
            if self.matches(rule, asked) {
                hit = Some(rule);
                if rule.is_final {
                    break;
                }
            }
        }
        match hit {
            Some(rule) => {
                *found = Some(rule);
                Walk::Stop
            }
            None => Walk::On,
        }
    }

    /// Whether a rule matches.
    pub fn matches(&self, rule: &Rule, asked: &Asked<'_>) -> bool {
        is_at(rule.directions, rule.interface.as_deref(), asked)
            && rule.tagged.as_ref().is_none_or(|t| (asked.tag == Some(&t.name)) != t.not)
            && match &rule.filter {
                Filter::Match(m) => self.fits(m, asked.packet),
                Filter::Pcap(text) => self.programs.programs.get(text).is_some_and(|p| {
                    let len = asked.packet.len;
                    p.run(asked.bytes.get(..len).unwrap_or(asked.bytes), len as u32) != 0
                }),
                // Those stand in groups that are never looked at with an IP packet.
                Filter::Ether(_) => false,
            }
            && (self.within)(rule)
    }

    /// Whether a packet is what is asked for.
    pub fn fits(&self, m: &Match, packet: &Packet) -> bool {
        let with_ports = !m.from.ports.is_empty() || !m.to.ports.is_empty();
        m.family.is_none_or(|f| f == packet.family)
            && match m.protos.is_empty() {
                true => !with_ports || matches!(packet.proto, proto::TCP | proto::UDP),
                false => m.protos.iter().any(|p| is_proto(p, packet)),
            }
            && (!m.opening || is_opening(m, packet))
            && self.is_end(&m.from, packet, packet.src, packet.ports().map(|p| p.src))
            && self.is_end(&m.to, packet, packet.dst, packet.ports().map(|p| p.dst))
    }

    fn is_end(&self, end: &Endpoint, packet: &Packet, address: u128, port: Option<u16>) -> bool {
        let service = port.map(|port| (packet.proto, port));
        let is = |a: &Address| self.is_address(a, packet.family, address, service);
        (end.addresses.is_empty() || end.addresses.iter().any(is) != end.not)
            && (end.ports.is_empty() || port.is_some_and(|p| end.ports.iter().any(|range| range.contains(p))))
    }

    /// Whether an address is one of those.
    pub fn is_address(&self, of: &Address, family: Family, address: u128, service: Option<(u8, u16)>) -> bool {
        match of {
            Address::Prefix(prefix) => lies_in(prefix, family, address),
            Address::Table(table) => self.tables.contains(*table, family, address, service),
            Address::Interface { name, family: only, .. } => {
                only.is_none_or(|f| f == family)
                    && self
                        .interfaces
                        .addresses(name)
                        .into_iter()
                        .any(|a| Family::of(a) == family && number_of(a) == address)
            }
        }
    }
}

fn is_at(directions: Directions, interface: Option<&str>, asked: &Asked<'_>) -> bool {
    let way = match directions {
        Directions::Any => true,
        Directions::In => asked.way == Where::In,
        Directions::Out => asked.way != Where::In,
        Directions::Forward => asked.way == Where::Forward,
    };
    way && interface.is_none_or(|name| name == asked.interface)
}

fn is_proto(p: &Proto, packet: &Packet) -> bool {
    p.number == packet.proto
        && match (p.options, packet.upper) {
            (ProtoOptions::None, _) => true,
            (ProtoOptions::TcpFlags { value, mask }, Upper::Tcp(tcp)) => tcp.flags & mask == value,
            (ProtoOptions::Icmp { kind, code }, Upper::Icmp(icmp)) => {
                icmp.kind == kind && code.is_none_or(|c| c == icmp.code)
            }
            // A fragment behind the first has no header to look into.
            _ => false,
        }
}

/// Of TCP, only packets that open a connection: SYN without ACK, FIN and RST. Flags that a rule names take the place of that.
fn is_opening(m: &Match, packet: &Packet) -> bool {
    const MASK: u8 = tcp_flag::SYN | tcp_flag::ACK | tcp_flag::FIN | tcp_flag::RST;
    let named = m.protos.iter().any(|p| p.number == proto::TCP && p.options != ProtoOptions::None);
    match packet.upper {
        Upper::Tcp(tcp) if !named => tcp.flags & MASK == tcp_flag::SYN,
        _ => packet.proto != proto::TCP || named,
    }
}
