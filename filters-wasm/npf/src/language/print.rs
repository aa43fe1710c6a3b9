//! A configuration as npf.conf(5) text, which parses to the same configuration again.

use super::names;
use crate::{
    config::{
        Action, Address, Alg, Arrow, Call, Config, Directions, Endpoint, EtherAddress, EtherMatch, Family, Filter,
        Group, Item, Limit, LimitOf, Map, MapAlgo, MapItem, Match, PortRange, Prefix, Procedure, Proto, ProtoOptions,
        Return, RndBlock, Rule, RuleId, Ruleset, Stateful, Table, TableId, TableKind, TableSource,
    },
    packet::proto,
    params::PARAMS,
};
use std::{
    fmt::{self, Write},
    time::Duration,
};

/// How much is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Everything, with all parameters: `npfctl validate`.
    Whole,
    /// Parameters that are not as they always are, and the ids of rules: `npfctl show`.
    Shown,
}

/// A configuration, all of it.
pub fn print(config: &Config) -> String {
    whole(config, Form::Whole)
}

/// A configuration with the ids of its rules, and with those parameters only that have not their defaults.
pub fn print_shown(config: &Config) -> String {
    whole(config, Form::Shown)
}

/// A rule, in one line without its end.
pub fn print_rule(config: &Config, rule: &Rule) -> String {
    text(|out| Printer { config, out }.rule(rule, true))
}

/// A map, in one line without its end.
pub fn print_map(config: &Config, map: &Map) -> String {
    text(|out| Printer { config, out }.map(map))
}

/// What identifies a rule: FNV-1a with 64 bits over what it says without `name`, `log` and `tag`, which change nothing
/// about which packets it is for, and over how many rules before it say the same.
pub fn rule_id(config: &Config, rule: &Rule, ordinal: u32) -> RuleId {
    hash(&rule_identity(config, rule), ordinal)
}

/// What identifies a map: as of rules, over all that it says.
pub fn map_id(config: &Config, map: &Map, ordinal: u32) -> RuleId {
    hash(&print_map(config, map), ordinal)
}

/// What of a rule its id is made of.
pub(super) fn rule_identity(config: &Config, rule: &Rule) -> String {
    text(|out| Printer { config, out }.rule(rule, false))
}

/// FNV-1a, which is the same in every version of this program.
pub(super) fn hash(text: &str, ordinal: u32) -> RuleId {
    let bytes = text.bytes().chain(ordinal.to_le_bytes());
    RuleId(bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)))
}

/// A time with the largest unit that leaves no fraction.
pub(super) fn duration(time: Duration) -> String {
    let milliseconds = time.as_millis();
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
    match units.iter().find(|(_, unit)| milliseconds >= *unit && milliseconds.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", milliseconds / unit),
        None => format!("{milliseconds}ms"),
    }
}

/// Writing into a string cannot fail.
fn text(write: impl FnOnce(&mut String) -> fmt::Result) -> String {
    let mut out = String::new();
    let _ = write(&mut out);
    out
}

fn whole(config: &Config, form: Form) -> String {
    text(|out| Printer { config, out }.whole(form))
}

struct Printer<'c, 'o> {
    config: &'c Config,
    out: &'o mut String,
}

impl Printer<'_, '_> {
    fn whole(&mut self, form: Form) -> fmt::Result {
        let config = self.config;
        for param in PARAMS {
            let value = config.params.get(param.key);
            if form == Form::Shown && value == param.default {
                continue;
            }
            match (param.min, param.max, value) {
                (0, 1, 0) => writeln!(self.out, "set {} off", param.name)?,
                (0, 1, 1) => writeln!(self.out, "set {} on", param.name)?,
                _ => writeln!(self.out, "set {} {value}", param.name)?,
            }
        }
        for alg in &config.algs {
            let name = match alg {
                Alg::Icmp => "icmp",
                Alg::Pptp => "pptp",
            };
            writeln!(self.out, "alg \"{name}\"")?;
        }
        for table in &config.tables {
            self.table(table)?;
        }
        for procedure in &config.procedures {
            self.procedure(procedure)?;
        }
        for item in &config.maps {
            match item {
                MapItem::Map(map) => {
                    self.map(map)?;
                    self.id(map.id, form)?;
                }
                MapItem::Ruleset(ruleset) => {
                    self.out.push_str("map ");
                    self.ruleset(ruleset)?;
                }
            }
            self.out.push('\n');
        }
        config.groups.iter().try_for_each(|group| self.group(group, 0, form))
    }

    fn id(&mut self, id: RuleId, form: Form) -> fmt::Result {
        if form == Form::Shown { write!(self.out, " # id=\"{id}\"") } else { Ok(()) }
    }

    fn table(&mut self, table: &Table) -> fmt::Result {
        let kind = match table.kind {
            TableKind::Ipset => "ipset",
            TableKind::Lpm => "lpm",
            TableKind::Const => "const",
            TableKind::IpPort => "ipport",
        };
        write!(self.out, "table <{}> type {kind}", table.name)?;
        if let TableSource::File(path) = &table.source {
            write!(self.out, " file \"{path}\"")?;
        }
        if let Some(time) = table.timeout {
            write!(self.out, " timeout {}", duration(time))?;
        }
        self.out.push_str(if table.counters { " counters\n" } else { "\n" });
        Ok(())
    }

    fn procedure(&mut self, procedure: &Procedure) -> fmt::Result {
        writeln!(self.out, "procedure \"{}\" {{", procedure.name)?;
        for call in &procedure.calls {
            self.out.push('\t');
            self.call(call)?;
            self.out.push('\n');
        }
        self.out.push_str("}\n");
        Ok(())
    }

    fn call(&mut self, call: &Call) -> fmt::Result {
        match call {
            Call::Log { interface } => write!(self.out, "log: \"{interface}\""),
            Call::Route { interface } => write!(self.out, "route: \"route-interface\" \"{interface}\""),
            Call::Wasm { module } => write!(self.out, "wasm: \"module\" \"{module}\""),
            Call::RndBlock(RndBlock::Percentage(percentage)) => {
                write!(self.out, "rndblock: \"percentage\" {percentage}")
            }
            Call::RndBlock(RndBlock::Mod(every)) => write!(self.out, "rndblock: \"mod\" {every}"),
            Call::RateLimit { bitrate, normal_burst, extended_burst } => write!(
                self.out,
                "ratelimit: \"bitrate\" {bitrate}, \"normal-burst\" {normal_burst}, \"extended-burst\" {extended_burst}"
            ),
            Call::Normalize(normalize) => {
                let mut options = Vec::new();
                if normalize.random_id {
                    options.push("\"random-id\"".to_owned());
                }
                if normalize.min_ttl > 0 {
                    options.push(format!("\"min-ttl\" {}", normalize.min_ttl));
                }
                if normalize.max_mss > 0 {
                    options.push(format!("\"max-mss\" {}", normalize.max_mss));
                }
                if normalize.no_df {
                    options.push("\"no-df\"".to_owned());
                }
                write!(self.out, "normalize: {}", options.join(", "))
            }
        }
    }

    fn group(&mut self, group: &Group, depth: usize, form: Form) -> fmt::Result {
        let indent = "\t".repeat(depth);
        match &group.name {
            Some(name) => write!(self.out, "{indent}group \"{name}\"")?,
            None => write!(self.out, "{indent}group default")?,
        }
        self.gate(group.directions, &group.interface)?;
        if group.layer2 {
            self.out.push_str(" layer-2");
        }
        self.out.push_str(" {\n");
        for item in &group.items {
            match item {
                Item::Group(inner) => self.group(inner, depth + 1, form)?,
                Item::Rule(rule) => {
                    write!(self.out, "{indent}\t")?;
                    self.rule(rule, true)?;
                    self.id(rule.id, form)?;
                    self.out.push('\n');
                }
                Item::Ruleset(ruleset) => {
                    write!(self.out, "{indent}\t")?;
                    self.ruleset(ruleset)?;
                    self.out.push('\n');
                }
            }
        }
        writeln!(self.out, "{indent}}}")
    }

    fn ruleset(&mut self, ruleset: &Ruleset) -> fmt::Result {
        write!(self.out, "ruleset \"{}\"", ruleset.name)?;
        self.gate(ruleset.directions, &ruleset.interface)
    }

    fn gate(&mut self, directions: Directions, interface: &Option<String>) -> fmt::Result {
        self.out.push_str(match directions {
            Directions::Any => "",
            Directions::In => " in",
            Directions::Out => " out",
            Directions::Forward => " forw",
        });
        match interface {
            Some(interface) => write!(self.out, " on \"{interface}\""),
            None => Ok(()),
        }
    }

    fn rule(&mut self, rule: &Rule, labels: bool) -> fmt::Result {
        self.out.push_str(match rule.action {
            Action::Pass => "pass",
            Action::Block(Return::Nothing) => "block",
            Action::Block(Return::Any) => "block return",
            Action::Block(Return::Rst) => "block return-rst",
            Action::Block(Return::Icmp) => "block return-icmp",
        });
        self.out.push_str(match rule.state {
            Some(Stateful::Interface) => " stateful",
            Some(Stateful::All) => " stateful-all",
            None => "",
        });
        if matches!(rule.filter, Filter::Ether(_)) {
            self.out.push_str(" ether");
        }
        self.gate_final(rule)?;
        match &rule.filter {
            Filter::Match(matching) => self.matching(matching)?,
            Filter::Pcap(expression) => write!(self.out, " pcap-filter \"{expression}\"")?,
            Filter::Ether(ether) => self.ether(ether)?,
        }
        if let Some(tagged) = &rule.tagged {
            write!(self.out, " tagged {}\"{}\"", if tagged.not { "! " } else { "" }, tagged.name)?;
        }
        if let Some(id) = rule.apply {
            let name = self.config.procedures.get(id.0).map_or("?", |p| &p.name);
            write!(self.out, " apply \"{name}\"")?;
        }
        rule.limits.iter().try_for_each(|limit| self.limit(limit))?;
        if labels {
            if let Some(name) = &rule.name {
                write!(self.out, " name \"{name}\"")?;
            }
            if rule.log {
                self.out.push_str(" log");
            }
            if let Some(tag) = &rule.tag {
                write!(self.out, " tag \"{tag}\"")?;
            }
        }
        Ok(())
    }

    fn gate_final(&mut self, rule: &Rule) -> fmt::Result {
        self.gate(rule.directions, &None)?;
        if rule.is_final {
            self.out.push_str(" final");
        }
        self.gate(Directions::Any, &rule.interface)
    }

    fn matching(&mut self, matching: &Match) -> fmt::Result {
        match matching.family {
            Some(Family::V4) => self.out.push_str(" family inet4"),
            Some(Family::V6) => self.out.push_str(" family inet6"),
            None => {}
        }
        self.protos(&matching.protos)?;
        let everything = Endpoint::default();
        if matching.from == everything && matching.to == everything {
            self.out.push_str(" all");
            return Ok(());
        }
        if matching.from != everything {
            self.out.push_str(" from ");
            self.endpoint(&matching.from)?;
        }
        if matching.to != everything {
            self.out.push_str(" to ");
            self.endpoint(&matching.to)?;
        }
        Ok(())
    }

    fn protos(&mut self, protos: &[Proto]) -> fmt::Result {
        if protos.is_empty() {
            return Ok(());
        }
        self.out.push_str(" proto ");
        self.list(protos, |p, proto| p.proto(proto))
    }

    fn proto(&mut self, proto: &Proto) -> fmt::Result {
        match names::protocol_name(proto.number) {
            Some(name) => self.out.push_str(name),
            None => write!(self.out, "{}", proto.number)?,
        }
        match proto.options {
            ProtoOptions::None => Ok(()),
            ProtoOptions::TcpFlags { value, mask } => {
                write!(self.out, " flags {}/{}", names::tcp_letters(value), names::tcp_letters(mask))
            }
            ProtoOptions::Icmp { kind, code } => {
                let v6 = proto.number == proto::ICMPV6;
                match names::icmp_types(v6).find(|name| names::icmp_type(v6, name) == Some(kind)) {
                    Some(name) => write!(self.out, " icmp-type {name}")?,
                    None => write!(self.out, " icmp-type {kind}")?,
                }
                match code {
                    Some(code) => write!(self.out, " code {code}"),
                    None => Ok(()),
                }
            }
        }
    }

    /// One by itself, several in braces.
    fn list<T>(&mut self, items: &[T], mut one: impl FnMut(&mut Self, &T) -> fmt::Result) -> fmt::Result {
        if let [only] = items {
            return one(self, only);
        }
        self.out.push_str("{ ");
        for (i, item) in items.iter().enumerate() {
            self.out.push_str(if i > 0 { ", " } else { "" });
            one(self, item)?;
        }
        self.out.push_str(" }");
        Ok(())
    }

    fn endpoint(&mut self, end: &Endpoint) -> fmt::Result {
        self.out.push_str(if end.not { "! " } else { "" });
        if end.addresses.is_empty() {
            self.out.push_str("any");
        } else {
            self.list(&end.addresses, |p, address| p.address(address))?;
        }
        self.ports(&end.ports)
    }

    fn ports(&mut self, ports: &[PortRange]) -> fmt::Result {
        if ports.is_empty() {
            return Ok(());
        }
        self.out.push_str(" port ");
        self.list(ports, |p, range| match range.first == range.last {
            true => write!(p.out, "{}", range.first),
            false => write!(p.out, "{}-{}", range.first, range.last),
        })
    }

    fn address(&mut self, address: &Address) -> fmt::Result {
        match address {
            Address::Prefix(Prefix { address, len }) if *len == Family::of(*address).bits() => {
                write!(self.out, "{address}")
            }
            Address::Prefix(Prefix { address, len }) => write!(self.out, "{address}/{len}"),
            Address::Table(id) => {
                let name = self.table_name(*id).to_owned();
                write!(self.out, "<{name}>")
            }
            Address::Interface { name, family, .. } => {
                let function = match family {
                    Some(Family::V4) => "inet4",
                    Some(Family::V6) => "inet6",
                    None => "ifaddrs",
                };
                write!(self.out, "{function}(\"{name}\")")
            }
        }
    }

    fn table_name(&self, id: TableId) -> &str {
        self.config.tables.get(id.0).map_or("?", |table| &table.name)
    }

    fn ether(&mut self, ether: &EtherMatch) -> fmt::Result {
        if *ether == EtherMatch::default() {
            self.out.push_str(" all");
            return Ok(());
        }
        for (word, end) in [("from", ether.from), ("to", ether.to)] {
            if let Some(EtherAddress { not, address: [a, b, c, d, e, f] }) = end {
                let not = if not { "! " } else { "" };
                write!(self.out, " {word} {not}{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")?;
            }
        }
        match ether.ether_type {
            Some(kind) => write!(self.out, " type {kind:#06x}"),
            None => Ok(()),
        }
    }

    fn limit(&mut self, limit: &Limit) -> fmt::Result {
        match limit.of {
            LimitOf::States(count) => write!(self.out, " limit states {count}")?,
            LimitOf::Rate { count, per, burst } => {
                write!(self.out, " limit rate {count}/{} burst {burst}", duration(per))?;
            }
        }
        if let Some(bits) = limit.per_source {
            write!(self.out, " per source /{} /{}", bits.v4, bits.v6)?;
        }
        if let Some((id, time)) = limit.overload {
            let name = self.table_name(id).to_owned();
            write!(self.out, " overload <{name}>")?;
            if let Some(time) = time {
                write!(self.out, " for {}", duration(time))?;
            }
        }
        Ok(())
    }

    fn map(&mut self, map: &Map) -> fmt::Result {
        write!(self.out, "map \"{}\" {}", map.interface, if map.is_static { "static" } else { "dynamic" })?;
        self.out.push_str(match map.algo {
            Some(MapAlgo::Netmap) => " algo netmap",
            Some(MapAlgo::IpHash) => " algo ip-hash",
            Some(MapAlgo::RoundRobin) => " algo round-robin",
            Some(MapAlgo::Npt66) => " algo npt66",
            None => "",
        });
        self.out.push_str(if map.no_ports { " no-ports" } else { "" });
        self.out.push_str(if map.endpoint_independent { " endpoint-independent" } else { "" });
        self.out.push_str(if map.hairpin { " hairpin" } else { "" });
        if !map.has_filter {
            self.protos(&map.filter.protos)?;
        }
        self.out.push(' ');
        self.list(&map.inner.addresses, |p, address| p.address(address))?;
        self.ports(map.inner.ports.as_slice())?;
        self.out.push_str(match map.arrow {
            Arrow::Out => " -> ",
            Arrow::In => " <- ",
            Arrow::Both => " <-> ",
        });
        self.list(&map.outer.addresses, |p, address| p.address(address))?;
        self.ports(map.outer.ports.as_slice())?;
        if map.has_filter {
            self.out.push_str(" pass");
            self.matching(&map.filter)?;
        }
        Ok(())
    }
}
