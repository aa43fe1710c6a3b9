//! Rules: reading them.

use super::{
    Pf,
    cursor::{Cursor, Read},
    hosts::Hosts,
    lex::Token,
    nat::Translation,
};
use crate::{
    config::Family,
    convert::{maps::Kind, output::Origin, words::quoted},
};

/// What of TCP's flags is asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Flags {
    /// The rule says nothing.
    #[default]
    Unsaid,
    Any,
    /// `S/SA`
    Are(String),
}

/// What a rule says of state.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum State {
    #[default]
    Unsaid,
    No,
    Keep,
}

/// Bounds of the connections of a rule.
#[derive(Clone, Debug, Default)]
pub(super) struct Bounds {
    /// As options of npf.conf, and whether sources that exceed them overload a table.
    pub limits: Vec<(String, bool)>,
    pub overload: Option<String>,
    pub if_bound: Option<bool>,
}

/// A rule of pf.
#[derive(Clone, Debug, Default)]
pub(super) struct PfRule {
    pub action: &'static str,
    pub direction: Option<&'static str>,
    pub log: bool,
    pub quick: bool,
    pub interfaces: Vec<String>,
    pub family: Option<Family>,
    pub protos: Vec<String>,
    pub from: Hosts,
    pub to: Hosts,
    pub flags: Flags,
    /// `icmp-type T code C`, with the protocol.
    pub icmp: Vec<String>,
    pub state: State,
    pub bounds: Bounds,
    pub label: Option<String>,
    pub tag: Option<String>,
    /// With `!` before it, if it must not be there.
    pub tagged: Option<String>,
    pub translations: Vec<Translation>,
    /// What changes nothing about which packets it is for, and is left out.
    pub dropped: Vec<String>,
    pub allow_options: bool,
}

impl Pf {
    /// A rule; its action is next.
    pub(super) fn rule(&mut self, at: &Origin, what: &str, cursor: &mut Cursor<'_>) -> Read<()> {
        let mut rule = PfRule::default();
        match cursor.text("the action")? {
            "pass" => rule.action = "pass",
            "match" => rule.action = "match",
            _ => {
                rule.action = if self.policy.block_returns { "block return" } else { "block" };
                self.block_option(&mut rule, cursor);
            }
        }
        self.head(&mut rule, cursor)?;
        if !cursor.take_word("all") {
            if cursor.take_word("from") {
                rule.from = self.hosts(cursor, rule.family)?;
                no_os(cursor)?;
            }
            if cursor.take_word("to") {
                rule.to = self.hosts(cursor, rule.family)?;
            }
        }
        while !cursor.at_end() {
            self.option(&mut rule, cursor)?;
        }
        self.emit(at, what, rule)
    }

    fn block_option(&mut self, rule: &mut PfRule, cursor: &mut Cursor<'_>) {
        rule.action = match cursor.word() {
            "drop" => "block",
            "return" => "block return",
            "return-rst" => "block return-rst",
            "return-icmp" | "return-icmp6" => "block return-icmp",
            _ => return,
        };
        cursor.next();
        if let Some(code) = cursor.skip_round() {
            rule.dropped.push(format!("the answer's code or TTL ({code})"));
        }
    }

    /// What stands before the addresses.
    pub(super) fn head(&mut self, rule: &mut PfRule, cursor: &mut Cursor<'_>) -> Read<()> {
        loop {
            match cursor.word() {
                "in" => rule.direction = Some("in"),
                "out" => rule.direction = Some("out"),
                "quick" => rule.quick = true,
                "inet" => rule.family = Some(Family::V4),
                "inet6" => rule.family = Some(Family::V6),
                "log" => {
                    rule.log = true;
                    cursor.next();
                    if let Some(options) = cursor.skip_round() {
                        rule.dropped.push(format!("log ({options})"));
                    }
                    continue;
                }
                "on" => {
                    cursor.next();
                    rule.interfaces = cursor.list(|cursor| {
                        if cursor.take("!") {
                            return Err("\"on\" cannot be negated here".to_owned());
                        }
                        cursor.text("the name of an interface").map(str::to_owned)
                    })?;
                    if rule.interfaces.iter().any(|name| name == "any") {
                        rule.interfaces.clear();
                    }
                    continue;
                }
                "proto" => {
                    cursor.next();
                    rule.protos = cursor.list(|cursor| cursor.text("a protocol").map(str::to_owned))?;
                    continue;
                }
                "rdomain" => return Err("routing domains are not known here".to_owned()),
                _ => return Ok(()),
            }
            cursor.next();
        }
    }

    /// An option behind the addresses.
    fn option(&mut self, rule: &mut PfRule, cursor: &mut Cursor<'_>) -> Read<()> {
        if cursor.take(",") {
            return Ok(());
        }
        if cursor.take("!") {
            if !cursor.take_word("tagged") {
                return Err("\"!\" stands before something that cannot be negated".to_owned());
            }
            rule.tagged = Some(format!("tagged ! {}", quoted(cursor.text("a tag")?)));
            return Ok(());
        }
        let Some(Token::Word(word)) = cursor.next() else {
            return Err("an option is not understood".to_owned());
        };
        match word.as_str() {
            "flags" => rule.flags = flags(cursor)?,
            "icmp-type" | "icmp6-type" => {
                let proto = if word == "icmp-type" { "icmp" } else { "ipv6-icmp" };
                rule.icmp = cursor.list(|cursor| {
                    let kind = cursor.text("a type of ICMP")?.to_owned();
                    Ok(match cursor.take_word("code") {
                        true => format!("{proto} icmp-type {kind} code {}", cursor.text("a code of ICMP")?),
                        false => format!("{proto} icmp-type {kind}"),
                    })
                })?;
            }
            "no" if cursor.take_word("state") => rule.state = State::No,
            "keep" | "modulate" | "synproxy" if cursor.take_word("state") => {
                rule.state = State::Keep;
                if word != "keep" {
                    rule.dropped.push(format!("{word} state, which is keep state here"));
                }
                self.state_options(rule, cursor)?;
            }
            "label" => rule.label = Some(cursor.text("a label")?.to_owned()),
            "tag" => rule.tag = Some(cursor.text("a tag")?.to_owned()),
            "tagged" => rule.tagged = Some(format!("tagged {}", quoted(cursor.text("a tag")?))),
            "allow-opts" => rule.allow_options = true,
            "queue" => rule.dropped.push(format!("queue {}", round_or_word(cursor)?)),
            "set" => rule.dropped.push(format!("set {}", round_or_words(cursor)?)),
            "nat-to" => rule.translations.push(self.translation(Kind::Nat, cursor, rule.family)?),
            "rdr-to" => rule.translations.push(self.translation(Kind::Rdr, cursor, rule.family)?),
            "binat-to" => rule.translations.push(self.translation(Kind::Binat, cursor, rule.family)?),
            "user" | "group" | "os" | "tos" | "fragment" | "fragments" | "received-on" | "rtable" | "probability"
            | "once" | "max-pkt-rate" | "prio" | "route-to" | "reply-to" | "dup-to" | "divert-to" | "divert-reply"
            | "divert-packet" | "af-to" | "dnpipe" | "dnqueue" | "ridentifier" | "scrub" => {
                return Err(format!("\"{word}\" is not known here"));
            }
            other => return Err(format!("{} is not understood", quoted(other))),
        }
        Ok(())
    }

    /// What stands in round brackets behind `keep state`.
    fn state_options(&mut self, rule: &mut PfRule, cursor: &mut Cursor<'_>) -> Read<()> {
        if !cursor.take("(") {
            return Ok(());
        }
        let mut rate = None;
        let bounds = &mut rule.bounds;
        while !cursor.take(")") {
            if cursor.take(",") {
                continue;
            }
            let word = cursor.text("an option of the state")?;
            match word {
                "max" => bounds.limits.push((format!("limit states {}", number(cursor)?), false)),
                "max-src-states" => {
                    bounds.limits.push((format!("limit states {} per source", number(cursor)?), false));
                }
                "max-src-conn" => {
                    let count = number(cursor)?;
                    bounds.limits.push((format!("limit states {count} per source"), true));
                    rule.dropped.push("that max-src-conn counts connections that were answered only".to_owned());
                }
                "max-src-conn-rate" => {
                    let count = number(cursor)?;
                    if !cursor.take("/") {
                        return Err("a rate is a number, \"/\", and seconds".to_owned());
                    }
                    rate = Some((format!("limit rate {count}/{}s per source", number(cursor)?), true));
                }
                "overload" => {
                    if !cursor.take("<") {
                        return Err("the name of a table is missing".to_owned());
                    }
                    let name = cursor.text("the name of a table")?;
                    cursor.take(">");
                    bounds.overload = Some(format!("overload <{name}>"));
                    if cursor.take_word("flush") {
                        cursor.take_word("global");
                        rule.dropped.push("flush: connections that are there stay".to_owned());
                    }
                }
                "if-bound" => bounds.if_bound = Some(true),
                "floating" => bounds.if_bound = Some(false),
                "source-track" => {
                    if matches!(cursor.word(), "rule" | "global") {
                        cursor.next();
                    }
                }
                "max-src-nodes" => {
                    let count = number(cursor)?;
                    rule.dropped.push(format!("max-src-nodes {count}"));
                }
                "no-sync" | "sloppy" | "pflow" | "allow-related" => rule.dropped.push(word.to_owned()),
                timeout => {
                    let value = cursor.text("a value")?;
                    rule.dropped.push(format!("{timeout} {value}"));
                }
            }
        }
        bounds.limits.extend(rate);
        Ok(())
    }
}

fn number(cursor: &mut Cursor<'_>) -> Read<u32> {
    cursor.text("a number")?.parse().map_err(|_| "a number is missing".to_owned())
}

fn no_os(cursor: &mut Cursor<'_>) -> Read<()> {
    if cursor.word() == "os" { Err("\"os\" is not known here".to_owned()) } else { Ok(()) }
}

fn round_or_word(cursor: &mut Cursor<'_>) -> Read<String> {
    match cursor.skip_round() {
        Some(inner) => Ok(inner),
        None => cursor.text("a value").map(str::to_owned),
    }
}

/// `(prio 5, queue q)` or `prio 5`.
fn round_or_words(cursor: &mut Cursor<'_>) -> Read<String> {
    if let Some(inner) = cursor.skip_round() {
        return Ok(inner);
    }
    let name = cursor.text("what is set")?;
    Ok(format!("{name} {}", round_or_word(cursor)?))
}

/// What stands behind `flags`.
fn flags(cursor: &mut Cursor<'_>) -> Read<Flags> {
    if cursor.take("/") {
        return Err("that none of some flags is set cannot be asked here".to_owned());
    }
    let value = cursor.text("flags of TCP")?;
    if value == "any" {
        return Ok(Flags::Any);
    }
    match cursor.take("/") {
        true => Ok(Flags::Are(format!("{value}/{}", cursor.text("flags of TCP")?))),
        false => Ok(Flags::Are(format!("{value}/FSRPAUEW"))),
    }
}
