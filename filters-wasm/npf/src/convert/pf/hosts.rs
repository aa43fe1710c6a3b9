//! Addresses and ports.

use super::{
    Pf,
    cursor::{Cursor, Read},
    lex::Token,
};
use crate::{
    config::Family,
    convert::words::{End, all_ports_but, port_number, port_range, prefix_word, quoted, range_prefixes},
};
use std::net::IpAddr;

/// An entry of a list of addresses, as words of npf.conf. None for any.
#[derive(Clone, Debug)]
pub(super) struct Host {
    pub not: bool,
    pub words: Vec<String>,
    pub any: bool,
}

/// Addresses and ports of one side.
#[derive(Clone, Debug, Default)]
pub(super) struct Hosts {
    hosts: Vec<Host>,
    pub ports: Vec<String>,
}

impl Hosts {
    /// Rules of which each has one; pf makes one of each entry of a list. Entries that are not negated can stay together.
    pub fn ends(&self) -> Vec<End> {
        let end = |not, addresses| End { not, addresses, ports: self.ports.clone() };
        if self.hosts.is_empty() || self.hosts.iter().any(|h| h.any && !h.not) {
            return vec![end(false, Vec::new())];
        }
        let plain: Vec<_> = self.hosts.iter().filter(|h| !h.not).flat_map(|h| h.words.clone()).collect();
        let negated = self.hosts.iter().filter(|h| h.not && !h.any).map(|h| end(true, h.words.clone()));
        let plain = (!plain.is_empty()).then(|| end(false, plain));
        plain.into_iter().chain(negated).collect()
    }
}

impl Pf {
    /// What stands behind `from` or `to`: addresses, and ports perhaps.
    pub(super) fn hosts(&self, cursor: &mut Cursor<'_>, family: Option<Family>) -> Read<Hosts> {
        let mut hosts = Hosts::default();
        if cursor.word() != "port" {
            hosts.hosts = cursor.list(|cursor| self.host(cursor, family))?;
            if hosts.hosts.is_empty() {
                return Err("a list of addresses is empty".to_owned());
            }
        }
        if cursor.take_word("port") {
            hosts.ports = cursor.list(ports)?.concat();
            if hosts.ports.is_empty() {
                return Err("no port is left".to_owned());
            }
        }
        Ok(hosts)
    }

    /// An address, or something that stands for several.
    pub(super) fn host(&self, cursor: &mut Cursor<'_>, family: Option<Family>) -> Read<Host> {
        let mut not = false;
        while cursor.take("!") {
            not = !not;
        }
        let words = match cursor.next() {
            Some(Token::Mark("<")) => {
                let name = cursor.text("the name of a table")?.to_owned();
                if !cursor.take(">") {
                    return Err("the name of a table is not closed".to_owned());
                }
                self.table_words(&name)?
            }
            Some(Token::Mark("(")) => {
                let name = cursor.text("the name of an interface")?;
                if !cursor.take(")") {
                    return Err("a bracket is not closed".to_owned());
                }
                interface_addresses(name, true, family)?
            }
            Some(Token::Word(word)) if word == "any" => return Ok(Host { not, words: Vec::new(), any: true }),
            Some(Token::Word(word)) => address(word, cursor, family)?,
            Some(Token::Text(_) | Token::Mark(_)) | None => return Err("an address is missing".to_owned()),
        };
        Ok(Host { not, words, any: false })
    }

    fn table_words(&self, name: &str) -> Read<Vec<String>> {
        match self.tables.get(name) {
            Some(table) => match &table.broken {
                Some(why) => Err(format!("<{name}> could not be carried over: {why}")),
                None => Ok(table.words.clone()),
            },
            None => Err(format!("there is no table <{name}> before it")),
        }
    }
}

/// An address that begins with a word.
fn address(word: &str, cursor: &mut Cursor<'_>, family: Option<Family>) -> Read<Vec<String>> {
    match word {
        "no-route" | "urpf-failed" | "self" | "route" => return Err(format!("\"{word}\" is not known here")),
        _ => {}
    }
    if cursor.take("/") {
        let mask = cursor.text("the length of a prefix")?;
        return Ok(vec![format!("{word}/{mask}")]);
    }
    if let Ok(first) = word.parse::<IpAddr>() {
        if cursor.take_word("-") {
            let last =
                cursor.text("the end of a range")?.parse::<IpAddr>().map_err(|_| "the end of a range is no address")?;
            let prefixes = range_prefixes(first, last).ok_or("a range of addresses goes backwards")?;
            return Ok(prefixes.iter().map(prefix_word).collect());
        }
        return Ok(vec![first.to_string()]);
    }
    if let Some((first, last)) = word.split_once('-')
        && let (Ok(first), Ok(last)) = (first.parse(), last.parse())
    {
        let prefixes = range_prefixes(first, last).ok_or("a range of addresses goes backwards")?;
        return Ok(prefixes.iter().map(prefix_word).collect());
    }
    if looks_like_interface(word.split(':').next().unwrap_or(word)) {
        return interface_addresses(word, false, family);
    }
    Err(format!("{} is no address: names of hosts and of groups of interfaces are not looked up", quoted(word)))
}

/// Letters and then digits, as the BSDs name interfaces; so are no hosts.
pub(super) fn looks_like_interface(word: &str) -> bool {
    let digits = word.trim_start_matches(|c: char| c.is_ascii_alphabetic());
    digits.len() < word.len() && !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

/// The addresses of an interface: as they are, or as they were when the file was read.
fn interface_addresses(name: &str, dynamic: bool, family: Option<Family>) -> Read<Vec<String>> {
    if let Some((name, modifier)) = name.split_once(':') {
        return Err(format!("only all addresses of {name} can be named, not its \":{modifier}\""));
    }
    let name = quoted(name);
    let fixed = |family| match family {
        Family::V4 => format!("inet4({name})"),
        Family::V6 => format!("inet6({name})"),
    };
    Ok(match (dynamic, family) {
        (true, _) => vec![format!("ifaddrs({name})")],
        (false, Some(family)) => vec![fixed(family)],
        (false, None) => vec![fixed(Family::V4), fixed(Family::V6)],
    })
}

/// An entry of a list of ports, as ranges.
pub(super) fn ports(cursor: &mut Cursor<'_>) -> Read<Vec<String>> {
    let number =
        |word: &str| port_number(word).ok_or_else(|| format!("{} is no port that is known here", quoted(word)));
    let mark = match cursor.peek() {
        Some(Token::Mark(mark @ ("=" | "!=" | "<" | "<=" | ">" | ">="))) => *mark,
        _ => "",
    };
    if !mark.is_empty() {
        cursor.next();
        let word = cursor.text("a port")?;
        let port = match word.split_once(':') {
            Some((first, last)) if mark == "!=" || mark == "=" => {
                let (first, last) = (number(first)?, number(last)?);
                return Ok(if mark == "=" { vec![port_range(first, last)] } else { all_ports_but(first, last) });
            }
            _ => number(word)?,
        };
        return Ok(match mark {
            "=" => vec![port_range(port, port)],
            "!=" => all_ports_but(port, port),
            "<" => port.checked_sub(1).map(|last| port_range(0, last)).into_iter().collect(),
            "<=" => vec![port_range(0, port)],
            ">" => port.checked_add(1).map(|first| port_range(first, u16::MAX)).into_iter().collect(),
            _ => vec![port_range(port, u16::MAX)],
        });
    }
    let word = cursor.text("a port")?;
    if let Some((first, last)) = word.split_once(':') {
        // "80:" and ":80" are up to the ends.
        let first = if first.is_empty() { 0 } else { number(first)? };
        let last = if last.is_empty() || last == "*" { u16::MAX } else { number(last)? };
        if first > last {
            return Err("a range of ports goes backwards".to_owned());
        }
        return Ok(vec![port_range(first, last)]);
    }
    let first = number(word)?;
    if cursor.take("><") {
        let last = number(cursor.text("a port")?)?;
        // Between, without the ends.
        let inner = first.checked_add(1).zip(last.checked_sub(1)).filter(|(a, b)| a <= b);
        return Ok(inner.map(|(a, b)| port_range(a, b)).into_iter().collect());
    }
    if cursor.take("<>") {
        let last = number(cursor.text("a port")?)?;
        return Ok(if first <= last { all_ports_but(first, last) } else { Vec::new() });
    }
    Ok(vec![port_range(first, first)])
}
