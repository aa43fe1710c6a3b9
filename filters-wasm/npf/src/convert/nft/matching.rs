//! What a rule asks of packets.

use super::{
    names::icmp_type,
    values::{Read, Sets, compared},
};
use crate::{
    config::Family,
    convert::words::{End, Matching},
};
use serde_json::Value;

/// What is asked, of the chains before too.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Criteria {
    pub in_interfaces: Option<Vec<String>>,
    pub out_interfaces: Option<Vec<String>>,
    pub family: Option<Family>,
    protos: Option<Vec<String>>,
    flags: Option<String>,
    icmp: Option<(bool, Vec<String>)>,
    icmp_code: Option<String>,
    from: Option<(bool, Vec<String>)>,
    to: Option<(bool, Vec<String>)>,
    from_ports: Option<Vec<String>>,
    to_ports: Option<Vec<String>>,
    /// States of connections.
    pub states: Option<Vec<String>>,
    /// As an option of npf.conf.
    pub limit: Option<String>,
}

/// Sets what was not asked before, or was asked just so.
fn once<T: PartialEq>(slot: &mut Option<T>, value: T, what: &str) -> Read<()> {
    match slot {
        Some(before) if *before != value => Err(format!("{what} is asked for twice")),
        _ => {
            *slot = Some(value);
            Ok(())
        }
    }
}

impl Criteria {
    /// Adds a match.
    pub fn add<'v>(&mut self, matched: &'v Value, sets: Sets<'_, 'v>) -> Read<()> {
        let op = matched.get("op").and_then(Value::as_str).unwrap_or("==");
        let (Some(left), Some(right)) = (matched.get("left"), matched.get("right")) else {
            return Err("a match has no two sides".to_owned());
        };
        self.compare(op, left, right, sets)
    }

    /// Adds a comparison.
    pub fn compare<'v>(&mut self, op: &str, left: &'v Value, right: &'v Value, sets: Sets<'_, 'v>) -> Read<()> {
        let text = |value: &'v Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or("");
        if let Some(meta) = left.get("meta") {
            return self.meta(op, text(meta, "key"), right, sets);
        }
        if let Some(payload) = left.get("payload") {
            return self.payload(op, text(payload, "protocol"), text(payload, "field"), right, sets);
        }
        if left.get("ct").is_some_and(|ct| text(ct, "key") == "state") {
            equal(op)?;
            return once(&mut self.states, sets.words(right)?, "the state of the connection");
        }
        if let Some([field, mask]) = left.get("&").and_then(Value::as_array).map(Vec::as_slice)
            && let Some(payload) = field.get("payload")
            && (text(payload, "protocol"), text(payload, "field")) == ("tcp", "flags")
            && op == "=="
        {
            let (value, mask) = (flags(right, sets)?, flags(mask, sets)?);
            if value.is_empty() {
                return Err("that no flag is set cannot be asked here".to_owned());
            }
            self.protos(vec!["tcp".to_owned()])?;
            return once(&mut self.flags, format!("{value}/{mask}"), "flags of TCP");
        }
        Err(format!("{left} is not known here"))
    }

    fn meta<'v>(&mut self, op: &str, key: &str, right: &'v Value, sets: Sets<'_, 'v>) -> Read<()> {
        equal(op)?;
        let words = sets.words(right)?;
        match key {
            "iif" | "iifname" => once(&mut self.in_interfaces, interfaces(words)?, "the interface by which it comes"),
            "oif" | "oifname" => once(&mut self.out_interfaces, interfaces(words)?, "the interface by which it leaves"),
            "l4proto" => self.protos(words),
            "nfproto" | "protocol" => match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                ["ipv4" | "ip"] => self.family(Family::V4),
                ["ipv6" | "ip6"] => self.family(Family::V6),
                _ => Err("this family is not known here".to_owned()),
            },
            other => Err(format!("\"meta {other}\" is not known here")),
        }
    }

    fn payload<'v>(&mut self, op: &str, protocol: &str, field: &str, right: &'v Value, sets: Sets<'_, 'v>) -> Read<()> {
        match (protocol, field) {
            ("ip" | "ip6", "saddr" | "daddr") => {
                self.family(if protocol == "ip" { Family::V4 } else { Family::V6 })?;
                let not = match op {
                    "==" => false,
                    "!=" => true,
                    _ => return Err(format!("\"{op}\" is not known for addresses")),
                };
                let slot = if field == "saddr" { &mut self.from } else { &mut self.to };
                once(slot, (not, sets.addresses(right)?), "an address")
            }
            ("ip", "protocol") | ("ip6", "nexthdr") => {
                equal(op)?;
                self.family(if protocol == "ip" { Family::V4 } else { Family::V6 })?;
                self.protos(sets.words(right)?)
            }
            ("tcp" | "udp" | "sctp" | "dccp" | "udplite" | "th", "sport" | "dport") => {
                if protocol != "th" {
                    self.protos(vec![protocol.to_owned()])?;
                }
                let ports = compared(op, &sets.ports(right)?)?;
                let slot = if field == "sport" { &mut self.from_ports } else { &mut self.to_ports };
                once(slot, ports, "a port")
            }
            ("tcp", "flags") if op == "in" || op == "==" => {
                let value = flags(right, sets)?;
                // "in": any of them is set.
                let asked = match (op, value.len()) {
                    ("in", 1) => format!("{value}/{value}"),
                    ("==", 1..) => format!("{value}/FSRPAUEW"),
                    _ => return Err("that any of several flags is set cannot be asked here".to_owned()),
                };
                self.protos(vec!["tcp".to_owned()])?;
                once(&mut self.flags, asked, "flags of TCP")
            }
            ("icmp" | "icmpv6", "type") => {
                equal(op)?;
                let v6 = protocol == "icmpv6";
                self.protos(vec![protocol.to_owned()])?;
                let number = |name: String| {
                    let number = name.parse().ok().or_else(|| icmp_type(v6, &name));
                    number.map(|n: u8| n.to_string()).ok_or_else(|| format!("\"{name}\" is no type of ICMP"))
                };
                let types: Read<Vec<_>> = sets.words(right)?.into_iter().map(number).collect();
                once(&mut self.icmp, (v6, types?), "a type of ICMP")
            }
            ("icmp" | "icmpv6", "code") => {
                equal(op)?;
                match sets.words(right)?.as_slice() {
                    [code] if code.parse::<u8>().is_ok() => once(&mut self.icmp_code, code.clone(), "a code of ICMP"),
                    _ => Err("only one code of ICMP, as a number, is known".to_owned()),
                }
            }
            _ => Err(format!("\"{protocol} {field}\" is not known here")),
        }
    }

    pub fn family(&mut self, family: Family) -> Read<()> {
        once(&mut self.family, family, "the family")
    }

    /// Protocols: those that are asked for by all.
    fn protos(&mut self, words: Vec<String>) -> Read<()> {
        let words: Vec<_> = words.into_iter().map(|w| if w == "ipv6-icmp" { "icmpv6".to_owned() } else { w }).collect();
        let both = match &self.protos {
            None => words,
            Some(before) => before.iter().filter(|p| words.contains(p)).cloned().collect(),
        };
        if both.is_empty() {
            return Err("no protocol is left that it could match".to_owned());
        }
        self.protos = Some(both);
        Ok(())
    }

    /// What is asked of addresses, protocols and ports, as npf.conf says it.
    pub fn matching(&self) -> Read<Matching> {
        let mut protos = self.protos.clone().unwrap_or_default();
        if let Some((v6, types)) = &self.icmp {
            let proto = if *v6 { "ipv6-icmp" } else { "icmp" };
            let code = self.icmp_code.as_ref().map(|c| format!(" code {c}")).unwrap_or_default();
            protos = types.iter().map(|t| format!("{proto} icmp-type {t}{code}")).collect();
        } else if self.icmp_code.is_some() {
            return Err("a code of ICMP is asked without a type".to_owned());
        }
        if let Some(flags) = &self.flags {
            protos = vec![format!("tcp flags {flags}")];
        }
        if protos.is_empty() && (self.from_ports.is_some() || self.to_ports.is_some()) {
            protos = ["tcp", "udp", "sctp", "dccp", "udplite"].map(str::to_owned).to_vec();
        }
        let end = |addresses: &Option<(bool, Vec<String>)>, ports: &Option<Vec<String>>| {
            let (not, addresses) = addresses.clone().unwrap_or_default();
            End { not, addresses, ports: ports.clone().unwrap_or_default() }
        };
        Ok(Matching {
            family: self.family,
            protos,
            from: end(&self.from, &self.from_ports),
            to: end(&self.to, &self.to_ports),
        })
    }
}

fn equal(op: &str) -> Read<()> {
    // "in" is how bits are asked for, and sets by some versions.
    if op == "==" || op == "in" { Ok(()) } else { Err(format!("\"{op}\" is not known here")) }
}

fn interfaces(names: Vec<String>) -> Read<Vec<String>> {
    match names.iter().find(|name| name.ends_with('*')) {
        Some(name) => Err(format!("one interface can be named, not all of \"{name}\"")),
        None => Ok(names),
    }
}

/// Letters of flags.
fn flags<'v>(value: &'v Value, sets: Sets<'_, 'v>) -> Read<String> {
    let value = value.get("|").unwrap_or(value);
    let letter = |name: &String| {
        Ok(match name.as_str() {
            "fin" => 'F',
            "syn" => 'S',
            "rst" => 'R',
            "psh" => 'P',
            "ack" => 'A',
            "urg" => 'U',
            "ecn" | "ece" => 'E',
            "cwr" => 'W',
            other => return Err(format!("\"{other}\" is no flag of TCP")),
        })
    };
    sets.words(value)?.iter().map(letter).collect()
}
