//! Rules.

use super::{Parse, Parser};
use crate::{
    config::{Action, Family, Return, Stateful},
    language::{
        ast::{
            Element, EndpointDecl, EtherDecl, FilterDecl, Gate, LimitDecl, LimitOfDecl, MatchDecl, Name, ProtoDecl,
            RuleDecl, RuleOptions,
        },
        lex::Token,
        source::Span,
    },
};
use std::rc::Rc;

/// What can stand behind a filter.
pub(super) const OPTIONS: &[&str] = &["apply", "name", "log", "tag", "tagged", "limit"];

/// What can stand before and in a filter.
const FILTER: &[&str] = &[
    "stateful",
    "stateful-all",
    "in",
    "out",
    "forw",
    "final",
    "quick",
    "on",
    "family",
    "proto",
    "all",
    "from",
    "to",
    "pcap-filter",
    "ether",
    "tagged",
    "return",
    "return-rst",
    "return-icmp",
];

const END_OF_FILTER: &str = "all, from, to or pcap-filter";

impl Parser<'_, '_> {
    /// A rule; `pass` or `block` is next, or it is none.
    pub(super) fn rule(&mut self) -> Parse<RuleDecl> {
        let span = self.peek().span;
        let action = self.action()?;
        let mut gate = Gate::default();
        let (mut state, mut is_final, mut ether) = (None, false, false);
        // The grammar has these in one order; which one is easily forgotten, and nothing depends on it.
        loop {
            if self.gate_option(&mut gate, true)? {
                continue;
            }
            let at = self.peek().span;
            match self.word() {
                "stateful" | "stateful-all" if state.is_some() => return Err(self.twice(at, "\"stateful\"")),
                "stateful" => state = Some(Stateful::Interface),
                "stateful-all" => state = Some(Stateful::All),
                "final" | "quick" if is_final => return Err(self.twice(at, "\"final\"")),
                "final" | "quick" => is_final = true,
                "ether" if ether => return Err(self.twice(at, "\"ether\"")),
                "ether" => ether = true,
                _ => break,
            }
            self.advance();
        }
        let mut options = RuleOptions::default();
        let filter = if ether { FilterDecl::Ether(self.ether()?) } else { self.filter(&mut options)? };
        self.options(&mut options)?;
        Ok(RuleDecl { action, state, gate, is_final, filter, options, span: span.to(self.last()) })
    }

    fn action(&mut self) -> Parse<Action> {
        if self.take_word("pass").is_some() {
            return Ok(Action::Pass);
        }
        if self.take_word("block").is_none() {
            return Err(self.expected("pass or block", &["pass", "block"]));
        }
        let answer = match self.word() {
            "return" => Return::Any,
            "return-rst" => Return::Rst,
            "return-icmp" => Return::Icmp,
            _ => return Ok(Action::Block(Return::Nothing)),
        };
        self.advance();
        Ok(Action::Block(answer))
    }

    fn filter(&mut self, options: &mut RuleOptions) -> Parse<FilterDecl> {
        self.early_tagged(options)?;
        if self.take_word("pcap-filter").is_some() {
            return Ok(FilterDecl::Pcap(self.text("an expression of pcap-filter(7)")?));
        }
        let mut filter = self.match_head()?;
        self.early_tagged(options)?;
        self.match_ends(&mut filter, END_OF_FILTER)?;
        Ok(FilterDecl::Match(filter))
    }

    /// `[family F] [proto ...]`
    pub(super) fn match_head(&mut self) -> Parse<MatchDecl> {
        let mut filter = MatchDecl { span: self.peek().span, ..MatchDecl::default() };
        if self.take_word("family").is_some() {
            filter.family = Some(match self.word() {
                "inet4" | "inet" => Family::V4,
                "inet6" => Family::V6,
                _ => return Err(self.expected("inet4 or inet6", &["inet4", "inet6"])),
            });
            self.advance();
        }
        if self.take_word("proto").is_some() {
            filter.protos = self.one_or_list("a protocol", Self::proto)?;
        }
        Ok(filter)
    }

    /// `all`, or `from` and `to`.
    pub(super) fn match_ends(&mut self, filter: &mut MatchDecl, what: &str) -> Parse<()> {
        if self.take_word("all").is_none() {
            let from = self.take_word("from");
            if from.is_some() {
                filter.from = self.endpoint()?;
            }
            if self.take_word("to").is_some() {
                filter.to = self.endpoint()?;
            } else if from.is_none() {
                return Err(self.expected(what, FILTER));
            }
        }
        filter.span = filter.span.to(self.last());
        Ok(())
    }

    fn proto(&mut self) -> Parse<ProtoDecl> {
        let number = self.scalar("a protocol")?;
        let mut proto = ProtoDecl { number, flags: None, icmp: None };
        if self.take_word("flags").is_some() {
            let value = self.any_word("flags of TCP, such as S")?;
            let mask = match self.take(Token::Slash) {
                Some(_) => Some(self.any_word("the flags that are looked at, such as SAFR")?),
                None => None,
            };
            proto.flags = Some((value, mask));
        } else if self.take_word("icmp-type").is_some() {
            let kind = self.scalar("a type of ICMP")?;
            let code = match self.take_word("code") {
                Some(_) => Some(self.scalar("a code of ICMP")?),
                None => None,
            };
            proto.icmp = Some((kind, code));
        }
        Ok(proto)
    }

    /// What follows `from` or `to`.
    fn endpoint(&mut self) -> Parse<EndpointDecl> {
        let span = self.peek().span;
        let mut end = EndpointDecl { not: self.take(Token::Not).is_some(), ..EndpointDecl::default() };
        if end.not || !self.is_word("port") {
            end.addresses = self.elements("an address")?;
        }
        self.ports(&mut end)?;
        end.span = span.to(self.last());
        Ok(end)
    }

    /// A side of a map.
    pub(super) fn segment(&mut self) -> Parse<EndpointDecl> {
        let span = self.peek().span;
        let addresses = self.elements("an address")?;
        let mut end = EndpointDecl { addresses, ..EndpointDecl::default() };
        self.ports(&mut end)?;
        end.span = span.to(self.last());
        Ok(end)
    }

    fn ports(&mut self, end: &mut EndpointDecl) -> Parse<()> {
        if self.take_word("port").is_some() {
            if let Some(at) = self.take(Token::Not) {
                self.session.error_hint(at, "ports cannot be negated", "write the ranges that are left");
                return Err(super::Failed);
            }
            end.ports = self.elements("a port")?;
        }
        Ok(())
    }

    fn ether(&mut self) -> Parse<EtherDecl> {
        let mut ether = EtherDecl::default();
        if self.take_word("all").is_some() {
            return Ok(ether);
        }
        let start = self.at;
        loop {
            let at = self.peek().span;
            match self.word() {
                "from" if ether.from.is_some() => return Err(self.twice(at, "\"from\"")),
                "from" => ether.from = self.ether_address()?,
                "to" if ether.to.is_some() => return Err(self.twice(at, "\"to\"")),
                "to" => ether.to = self.ether_address()?,
                "type" if ether.ether_type.is_some() => return Err(self.twice(at, "\"type\"")),
                "type" => {
                    self.advance();
                    ether.ether_type = Some(self.scalar("a type of Ethernet")?);
                }
                _ if self.at == start => {
                    return Err(self.expected("all, from, to or type", &["all", "from", "to", "type"]));
                }
                _ => return Ok(ether),
            }
        }
    }

    fn ether_address(&mut self) -> Parse<Option<(bool, Rc<Element>)>> {
        self.advance();
        let not = self.take(Token::Not).is_some();
        let address = self.scalar("an Ethernet address")?;
        Ok(Some((not, address)))
    }

    fn early_tagged(&mut self, options: &mut RuleOptions) -> Parse<()> {
        while self.is_word("tagged") {
            let at = self.advance().span;
            self.tagged(options, at)?;
        }
        Ok(())
    }

    fn tagged(&mut self, options: &mut RuleOptions, at: Span) -> Parse<()> {
        if options.tagged.is_some() {
            return Err(self.twice(at, "\"tagged\""));
        }
        let not = self.take(Token::Not).is_some();
        options.tagged = Some((not, self.text("a tag")?));
        Ok(())
    }

    /// What stands behind a filter, in any order.
    fn options(&mut self, options: &mut RuleOptions) -> Parse<()> {
        loop {
            if !OPTIONS.contains(&self.word()) {
                return Ok(());
            }
            let option = self.name_here();
            match &*option.text {
                "log" if options.log => return Err(self.twice(option.span, "\"log\"")),
                "log" => options.log = true,
                "tagged" => self.tagged(options, option.span)?,
                "limit" => {
                    let limit = self.limit(option.span)?;
                    options.limits.push(limit);
                }
                "apply" => {
                    let value = self.word_or_text("the name of a procedure")?;
                    self.once(&mut options.apply, value, &option)?;
                }
                "name" => {
                    let value = self.text("a name")?;
                    self.once(&mut options.name, value, &option)?;
                }
                _ => {
                    let value = self.text("a tag")?;
                    self.once(&mut options.tag, value, &option)?;
                }
            }
        }
    }

    fn once(&mut self, slot: &mut Option<Name>, value: Name, option: &Name) -> Parse<()> {
        if slot.replace(value).is_some() {
            return Err(self.twice(option.span, &format!("\"{}\"", option.text)));
        }
        Ok(())
    }

    /// What follows `limit`.
    fn limit(&mut self, span: Span) -> Parse<LimitDecl> {
        let of = if self.take_word("states").is_some() {
            LimitOfDecl::States(self.scalar("a number")?)
        } else if self.take_word("rate").is_some() {
            let count = self.scalar("a number")?;
            self.need(Token::Slash, "\"/\" and a time, such as /1s")?;
            let per = self.scalar("a time such as 1s")?;
            let burst = match self.take_word("burst") {
                Some(_) => Some(self.scalar("a number")?),
                None => None,
            };
            LimitOfDecl::Rate { count, per, burst }
        } else {
            return Err(self.expected("states or rate", &["states", "rate"]));
        };
        let mut limit = LimitDecl { of, per_source: None, overload: None, span };
        loop {
            let at = self.peek().span;
            if self.take_word("per").is_some() {
                if limit.per_source.is_some() {
                    return Err(self.twice(at, "\"per source\""));
                }
                if self.take_word("source").is_none() {
                    return Err(self.expected("\"source\"", &["source"]));
                }
                let v4 = self.prefix_length()?;
                let v6 = if v4.is_some() { self.prefix_length()? } else { None };
                limit.per_source = Some((v4, v6));
            } else if self.take_word("overload").is_some() {
                if limit.overload.is_some() {
                    return Err(self.twice(at, "\"overload\""));
                }
                let table = self.table_name("the name of a table")?;
                let time = match self.take_word("for") {
                    Some(_) => Some(self.scalar("a time such as 10m")?),
                    None => None,
                };
                limit.overload = Some((table, time));
            } else {
                limit.span = span.to(self.last());
                return Ok(limit);
            }
        }
    }

    fn prefix_length(&mut self) -> Parse<Option<Rc<Element>>> {
        match self.take(Token::Slash) {
            Some(_) => Ok(Some(self.scalar("the length of a prefix")?)),
            None => Ok(None),
        }
    }
}
