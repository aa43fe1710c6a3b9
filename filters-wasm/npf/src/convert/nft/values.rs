//! The right sides of matches: addresses, ports, names.

use super::{
    Nft,
    chains::{Id, Ruleset},
};
use crate::convert::{
    output::{Origin, Part},
    words::{all_ports_but, chosen, port_number, port_range, prefix_word, range_prefixes},
};
use serde_json::Value;

/// What is read, or why it cannot be.
pub(super) type Read<T> = Result<T, String>;

/// Elements that a match may have with its sets put in, and how deep they may stand in each other.
const MAX_ELEMENTS: usize = 1 << 16;
const MAX_DEPTH: usize = 8;

/// Where sets are looked up: in the table of a chain.
#[derive(Clone, Copy)]
pub(super) struct Sets<'r, 'v> {
    pub ruleset: &'r Ruleset<'v>,
    pub id: Id<'r>,
}

impl<'v> Sets<'_, 'v> {
    /// The elements of a value: it itself, those of a set, or those of a named set. Of the latter the name too.
    pub fn elements(&self, value: &'v Value) -> Read<(Option<&'v str>, Vec<&'v Value>)> {
        if let Some(name) = value.as_str().and_then(|text| text.strip_prefix('@')) {
            let set = self.ruleset.set(self.id, name).ok_or_else(|| format!("there is no set {name}"))?;
            let mut out = Vec::new();
            if let Some(elements) = set.get("elem") {
                flat(elements, 0, &mut out)?;
            }
            return Ok((Some(name), out));
        }
        let mut out = Vec::new();
        flat(value, 0, &mut out)?;
        Ok((None, out))
    }

    /// Addresses as words of npf.conf.
    pub fn addresses(&self, value: &'v Value) -> Read<Vec<String>> {
        let (name, elements) = self.elements(value)?;
        let mut words: Vec<String> = Vec::new();
        if let Some(name) = name
            && self.ruleset.set(self.id, name).is_some_and(changes)
        {
            words.push(format!("<{}>", table_name(self.id, name)));
        }
        for element in elements {
            address(element, &mut words)?;
        }
        if words.is_empty() { Err("a set of addresses is empty".to_owned()) } else { Ok(words) }
    }

    /// Ports as ranges.
    pub fn ports(&self, value: &'v Value) -> Read<Vec<(u16, u16)>> {
        let (_, elements) = self.elements(value)?;
        let ports: Read<Vec<_>> = elements.into_iter().map(ports_of).collect();
        ports.and_then(|ports| if ports.is_empty() { Err("a set of ports is empty".to_owned()) } else { Ok(ports) })
    }

    /// Names or numbers.
    pub fn words(&self, value: &'v Value) -> Read<Vec<String>> {
        let (_, elements) = self.elements(value)?;
        let words: Read<Vec<_>> = elements.into_iter().map(word).collect();
        words.and_then(|words| if words.is_empty() { Err("a set is empty".to_owned()) } else { Ok(words) })
    }
}

impl Nft {
    /// Sets that change are tables.
    pub(super) fn sets(&mut self, ruleset: &Ruleset<'_>) {
        for (id, set) in &ruleset.sets {
            let at = Origin::Path([id.0, id.1, id.2].join(" "));
            let what = set.to_string();
            if !changes(set) {
                continue;
            }
            let kind = set.get("type").and_then(Value::as_str);
            if !matches!(kind, Some("ipv4_addr" | "ipv6_addr")) {
                let why = "only sets of addresses can change";
                self.out.leave_out(Part::Tables, &at, &what, why);
                continue;
            }
            let seconds = set.get("timeout").and_then(Value::as_u64).filter(|&s| s > 0);
            let timeout = seconds.map(|s| format!(" timeout {s}s")).unwrap_or_default();
            self.out.table(&at, &what, format!("table <{}> type lpm{timeout}", table_name(*id, id.2)));
            if set.get("elem").is_some() {
                let why = "the elements that it has now stand in the rules, where commands cannot remove them";
                self.out.note(&at, &what, why);
            }
        }
    }
}

/// Whether a set may change while it is used: rules or commands put elements in, or it is empty now.
fn changes(set: &Value) -> bool {
    let flags = set.get("flags").map(Value::to_string).unwrap_or_default();
    flags.contains("dynamic") || flags.contains("timeout") || set.get("elem").is_none()
}

fn table_name(id: Id<'_>, name: &str) -> String {
    let name = format!("{}-{}-{name}", id.0, id.1);
    chosen(&name, 255).chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }).collect()
}

fn flat<'v>(value: &'v Value, depth: usize, out: &mut Vec<&'v Value>) -> Read<()> {
    if depth > MAX_DEPTH || out.len() >= MAX_ELEMENTS {
        return Err("its sets are too large".to_owned());
    }
    match value {
        Value::Array(list) => list.iter().try_for_each(|v| flat(v, depth + 1, out)),
        Value::Object(map) => {
            if let Some(inner) = map.get("set") {
                return flat(inner, depth + 1, out);
            }
            if let Some(inner) = map.get("elem") {
                return flat(inner.get("val").unwrap_or(inner), depth + 1, out);
            }
            out.push(value);
            Ok(())
        }
        _ => {
            out.push(value);
            Ok(())
        }
    }
}

fn address(value: &Value, words: &mut Vec<String>) -> Read<()> {
    let text = |v: &Value| v.as_str().and_then(|t| t.parse::<std::net::IpAddr>().ok());
    if let Some(address) = text(value) {
        words.push(address.to_string());
        return Ok(());
    }
    if let Some(prefix) = value.get("prefix")
        && let (Some(address), Some(len)) =
            (prefix.get("addr").and_then(text), prefix.get("len").and_then(Value::as_u64))
    {
        words.push(format!("{address}/{len}"));
        return Ok(());
    }
    if let Some([first, last]) = value.get("range").and_then(Value::as_array).map(Vec::as_slice)
        && let (Some(first), Some(last)) = (text(first), text(last))
    {
        let prefixes = range_prefixes(first, last).ok_or("a range of addresses goes backwards")?;
        words.extend(prefixes.iter().map(prefix_word));
        return Ok(());
    }
    Err(format!("{value} is no address that is known here"))
}

fn port(value: &Value) -> Read<u16> {
    let number = value.as_u64().and_then(|n| u16::try_from(n).ok());
    let number = number.or_else(|| value.as_str().and_then(port_number));
    number.ok_or_else(|| format!("{value} is no port that is known here"))
}

fn ports_of(value: &Value) -> Read<(u16, u16)> {
    match value.get("range").and_then(Value::as_array).map(Vec::as_slice) {
        Some([first, last]) => Ok((port(first)?, port(last)?)),
        _ => port(value).map(|port| (port, port)),
    }
}

fn word(value: &Value) -> Read<String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err(format!("{value} is not understood")),
    }
}

/// Ports as words, for a comparison.
pub(super) fn compared(op: &str, ports: &[(u16, u16)]) -> Read<Vec<String>> {
    Ok(match (op, ports) {
        ("==" | "in", ports) => ports.iter().map(|&(a, b)| port_range(a, b)).collect(),
        ("!=", &[(first, last)]) => all_ports_but(first, last),
        ("<", &[(port, _)]) if port > 0 => vec![port_range(0, port - 1)],
        ("<=", &[(port, _)]) => vec![port_range(0, port)],
        (">", &[(port, _)]) if port < u16::MAX => vec![port_range(port + 1, u16::MAX)],
        (">=", &[(port, _)]) => vec![port_range(port, u16::MAX)],
        _ => return Err(format!("\"{op}\" is not known for several ports")),
    })
}
