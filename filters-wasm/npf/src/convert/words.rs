//! A rule or a map of npf.conf as it is put together, and the words in it.

use crate::{
    config::{Family, PortRange, Prefix},
    language::parse_rule,
};
use std::{
    fmt::{self, Display},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// A rule.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Words {
    /// `pass`, `block`, `block return` and so on.
    pub action: &'static str,
    /// `stateful` or `stateful-all`.
    pub state: Option<&'static str>,
    /// `in`, `out` or `forw`.
    pub direction: Option<&'static str>,
    pub is_final: bool,
    pub interface: Option<String>,
    pub matching: Matching,
    /// What stands behind the filter.
    pub options: Vec<String>,
}

/// Which packets.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Matching {
    pub family: Option<Family>,
    /// With flags or types behind them.
    pub protos: Vec<String>,
    pub from: End,
    pub to: End,
}

/// One end of a packet's way.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct End {
    pub not: bool,
    pub addresses: Vec<String>,
    pub ports: Vec<String>,
}

impl End {
    /// Whether it can be anything.
    pub fn is_any(&self) -> bool {
        self.addresses.is_empty() && self.ports.is_empty()
    }
}

impl Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.action)?;
        for word in self.state.iter().chain(&self.direction) {
            write!(f, " {word}")?;
        }
        if self.is_final {
            f.write_str(" final")?;
        }
        if let Some(interface) = &self.interface {
            write!(f, " on {}", quoted(interface))?;
        }
        write!(f, " {}", self.matching)?;
        self.options.iter().try_for_each(|option| write!(f, " {option}"))
    }
}

impl Display for Matching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(family) = self.family {
            write!(f, "family {} ", family_name(family))?;
        }
        if !self.protos.is_empty() {
            write!(f, "proto {} ", list(&self.protos))?;
        }
        match (self.from.is_any(), self.to.is_any()) {
            (true, true) => f.write_str("all"),
            (false, true) => write!(f, "from {}", self.from),
            (true, false) => write!(f, "to {}", self.to),
            (false, false) => write!(f, "from {} to {}", self.from, self.to),
        }
    }
}

impl Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = if self.not { "! " } else { "" };
        match self.addresses.is_empty() {
            true => f.write_str("any")?,
            false => write!(f, "{not}{}", list(&self.addresses))?,
        }
        if !self.ports.is_empty() {
            write!(f, " port {}", list(&self.ports))?;
        }
        Ok(())
    }
}

pub(super) fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "inet4",
        Family::V6 => "inet6",
    }
}

/// A word, or a list of several.
pub(super) fn list(words: &[String]) -> String {
    match words {
        [only] => only.clone(),
        several => format!("{{ {} }}", several.join(", ")),
    }
}

/// In quotation marks, in which there are no escapes.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", chosen(text, usize::MAX))
}

/// A name that someone chose, as npf.conf can have it: without quotation marks and control characters.
pub(super) fn chosen(text: &str, most: usize) -> String {
    let clean = text.chars().map(|c| if c == '"' { '\'' } else { c }).map(|c| if c.is_control() { ' ' } else { c });
    let mut clean: String = clean.collect();
    clean.truncate(clean.floor_char_boundary(most));
    clean
}

/// The option that gives a rule its name.
pub(super) fn name_option(name: &str) -> Option<String> {
    let name = chosen(name, 255);
    (!name.is_empty()).then(|| format!("name \"{name}\""))
}

/// The port of a number or of a service that the language knows.
pub(super) fn port_number(word: &str) -> Option<u16> {
    if !word.chars().all(|c| c.is_ascii_alphanumeric() || "-_+.".contains(c)) {
        return None;
    }
    let rule = parse_rule(&format!("pass to any port {word}"), &Default::default()).ok()?;
    let crate::config::Filter::Match(matching) = rule.filter else { return None };
    match matching.to.ports[..] {
        [PortRange { first, last }] if first == last => Some(first),
        _ => None,
    }
}

/// Ports as one word.
pub(super) fn port_range(first: u16, last: u16) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

/// All ports but those.
pub(super) fn all_ports_but(first: u16, last: u16) -> Vec<String> {
    let below = first.checked_sub(1).map(|end| port_range(0, end));
    let above = last.checked_add(1).map(|start| port_range(start, u16::MAX));
    below.into_iter().chain(above).collect()
}

/// The prefixes that have the addresses of a range and no other. None when it goes backwards or over families.
pub(super) fn range_prefixes(first: IpAddr, last: IpAddr) -> Option<Vec<Prefix>> {
    let (mut at, end, bits) = match (first, last) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits()), u128::from(b.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits(), 128),
        _ => return None,
    };
    if at > end {
        return None;
    }
    let mut prefixes = Vec::new();
    loop {
        // As large as its first address is aligned for, and not beyond the last.
        let mut free = at.trailing_zeros().min(bits);
        while free > 0 && at | low_bits(free) > end {
            free -= 1;
        }
        let address = match bits {
            32 => IpAddr::V4(Ipv4Addr::from_bits(at as u32)),
            _ => IpAddr::V6(Ipv6Addr::from_bits(at)),
        };
        prefixes.push(Prefix { address, len: (bits - free) as u8 });
        let last = at | low_bits(free);
        if last >= end {
            return Some(prefixes);
        }
        at = last + 1;
    }
}

/// So many bits, set at the end of a number.
fn low_bits(count: u32) -> u128 {
    u128::MAX.checked_shr(128 - count).unwrap_or(0)
}

/// A prefix as a word.
pub(super) fn prefix_word(prefix: &Prefix) -> String {
    match prefix.len == Family::of(prefix.address).bits() {
        true => prefix.address.to_string(),
        false => format!("{}/{}", prefix.address, prefix.len),
    }
}
