//! Rules.

use super::{MAX_RULES, Resolver, TableUse, values, values::Wrong};
use crate::{
    config::{
        Action, EtherAddress, EtherMatch, Filter, Limit, LimitOf, Proto, ProtoOptions, Return, Rule, RuleId,
        SourceBits, Tagged,
    },
    language::{
        ast::{Element, EtherDecl, FilterDecl, LimitDecl, LimitOfDecl, Name, RuleDecl},
        names,
        source::{did_you_mean, quote},
    },
    packet::proto,
};
use smpnet_bpf::{Dlt, compile_expr};
use std::rc::Rc;

/// Longest packet expression, in bytes.
const MAX_EXPRESSION: usize = 4096;

impl Resolver<'_, '_> {
    /// A rule. `layer2` says what its group looks at, where that is known.
    pub(super) fn rule(&mut self, decl: RuleDecl, layer2: Option<bool>) -> Option<Rule> {
        self.rules += 1;
        if self.rules > MAX_RULES {
            if self.rules == MAX_RULES + 1 {
                self.session.error(decl.span, format!("there are more than {MAX_RULES} rules"));
            }
            return None;
        }
        let interface = self.gate(&decl.gate);
        let filter = self.rule_filter(&decl, layer2);
        let options = &decl.options;
        let name = self.optional(&options.name, "rule");
        let tag = self.optional(&options.tag, "tag");
        let tagged = match &options.tagged {
            Some((not, name)) => self.chosen(name, "tag").map(|name| Some(Tagged { not: *not, name })),
            None => Some(None),
        };
        let apply = match &options.apply {
            Some(name) => self.procedure_id(name).map(Some),
            None => Some(None),
        };
        let limits: Vec<_> = options.limits.iter().map(|limit| self.limit(limit, &decl)).collect();
        let limits: Option<Vec<_>> = limits.into_iter().collect();
        if decl.state.is_some() && decl.action != Action::Pass {
            self.session.report.warn(
                decl.span,
                "a rule that blocks opens no connection: \"stateful\" does nothing here",
                None,
            );
        }
        Some(Rule {
            id: RuleId::default(),
            name: name?,
            action: decl.action,
            state: decl.state,
            directions: decl.gate.directions,
            is_final: decl.is_final,
            interface: interface?,
            filter: filter?,
            apply: apply?,
            log: options.log,
            tagged: tagged?,
            tag: tag?,
            limits: limits?,
            at: self.session.sources.place(decl.span),
        })
    }

    fn optional(&mut self, name: &Option<Name>, what: &str) -> Option<Option<String>> {
        match name {
            Some(name) => self.chosen(name, what).map(Some),
            None => Some(None),
        }
    }

    fn procedure_id(&mut self, name: &Name) -> Option<crate::config::ProcedureId> {
        let id = self.procedures.get(&name.text).copied();
        if id.is_none() {
            let hint = did_you_mean(&name.text, self.procedures.keys().map(String::as_str));
            self.session.report.error(name.span, format!("there is no procedure {}", quote(&name.text)), hint);
        }
        id
    }

    fn rule_filter(&mut self, decl: &RuleDecl, layer2: Option<bool>) -> Option<Filter> {
        let is_ether = matches!(decl.filter, FilterDecl::Ether(_));
        match layer2 {
            Some(true) if !is_ether => {
                let hint = "write: pass ether ..., or move the rule to a group without layer-2";
                self.session.error_hint(decl.span, "rules of a layer-2 group look at Ethernet headers only", hint);
                return None;
            }
            Some(false) if is_ether => {
                let hint = "write layer-2 behind the name of the group";
                self.session.error_hint(decl.span, "ether rules stand in layer-2 groups only", hint);
                return None;
            }
            _ => {}
        }
        match &decl.filter {
            FilterDecl::Match(matching) => {
                let mut matching = self.matching(matching)?;
                matching.opening = decl.state.is_some() && implied_opening(&matching.protos);
                Some(Filter::Match(matching))
            }
            FilterDecl::Pcap(expression) => self.pcap(expression),
            FilterDecl::Ether(ether) => {
                if decl.state.is_some() || !matches!(decl.action, Action::Pass | Action::Block(Return::Nothing)) {
                    self.session
                        .error(decl.span, "ether rules open no connections and answer nothing: they pass or block");
                    return None;
                }
                self.ether(ether)
            }
        }
    }

    fn pcap(&mut self, expression: &Name) -> Option<Filter> {
        if expression.text.len() > MAX_EXPRESSION {
            self.session.error(expression.span, format!("the expression is longer than {MAX_EXPRESSION} bytes"));
            return None;
        }
        let text = expression.text.split(['\n', '\r']).collect::<Vec<_>>().join(" ");
        match compile_expr(&text, Dlt::Raw) {
            Ok(_) => Some(Filter::Pcap(text)),
            Err(e) => {
                let hint = "see pcap-filter(7); packets begin at their IP header";
                self.session.error_hint(expression.span, format!("this packet expression is wrong: {e}"), hint);
                None
            }
        }
    }

    fn ether(&mut self, decl: &EtherDecl) -> Option<Filter> {
        let from = self.ether_end(&decl.from);
        let to = self.ether_end(&decl.to);
        let ether_type = match &decl.ether_type {
            Some(kind) => self.scalar(kind, "type of Ethernet", ether_type).map(Some),
            None => Some(None),
        };
        Some(Filter::Ether(EtherMatch { from: from?, to: to?, ether_type: ether_type? }))
    }

    fn ether_end(&mut self, end: &Option<(bool, Rc<Element>)>) -> Option<Option<EtherAddress>> {
        let Some((not, element)) = end else { return Some(None) };
        let address = self.scalar(element, "Ethernet address", |word| match word {
            "any" => Ok(None),
            word => values::ether_address(word).map(Some).ok_or_else(|| {
                let message = format!("{} is no Ethernet address", quote(word));
                Wrong::hint(message, "write six bytes: 02:00:5e:10:00:01")
            }),
        })?;
        if address.is_none() && *not {
            self.session.error(element.span, "\"! any\" matches nothing");
            return None;
        }
        Some(address.map(|address| EtherAddress { not: *not, address }))
    }

    fn limit(&mut self, decl: &LimitDecl, rule: &RuleDecl) -> Option<Limit> {
        const MOST: u64 = u32::MAX as u64;
        let of = match &decl.of {
            LimitOfDecl::States(count) => {
                if rule.state.is_none() || rule.action != Action::Pass {
                    let hint = "write: pass stateful ...";
                    self.session.error_hint(decl.span, "only a rule that opens connections can limit them", hint);
                    return None;
                }
                LimitOf::States(self.number(count, "number of connections", 1, MOST)? as u32)
            }
            LimitOfDecl::Rate { count, per, burst } => {
                let count = self.number(count, "number", 1, MOST)?;
                let per = self.scalar(per, "time", values::duration)?;
                let burst = match burst {
                    Some(burst) => self.number(burst, "burst of this rate", count, MOST)?,
                    None => count,
                };
                LimitOf::Rate { count: count as u32, per, burst: burst as u32 }
            }
        };
        let per_source = match &decl.per_source {
            Some((v4, v6)) => {
                let mut bits = |length: &Option<Rc<Element>>, most: u8| match length {
                    Some(length) => self.number(length, "length of a prefix", 1, u64::from(most)).map(|n| n as u8),
                    None => Some(most),
                };
                let (v4, v6) = (bits(v4, 32), bits(v6, 128));
                Some(SourceBits { v4: v4?, v6: v6? })
            }
            None => None,
        };
        let overload = match &decl.overload {
            Some((name, time)) => {
                let time = match time {
                    Some(time) => Some(self.scalar(time, "time", values::duration)?),
                    None => None,
                };
                let id = self.table_id(&name.text, name.span)?;
                self.table_uses.push((id, name.span, TableUse::Overload));
                Some((id, time))
            }
            None => None,
        };
        Some(Limit { of, per_source, overload })
    }
}

/// Whether TCP packets must be the first ones of their connections when the rule is stateful: TCP can match, and no
/// flags are named.
pub(in crate::language) fn implied_opening(protos: &[Proto]) -> bool {
    let tcp = |p: &&Proto| p.number == proto::TCP;
    (protos.is_empty() || protos.iter().any(|p| p.number == proto::TCP))
        && protos.iter().filter(tcp).all(|p| p.options == ProtoOptions::None)
}

fn ether_type(word: &str) -> Result<u16, Wrong> {
    let number = values::number(word).and_then(|n| u16::try_from(n).ok());
    number.or_else(|| names::ether_type(word)).ok_or_else(|| {
        let hint = did_you_mean(word, names::ether_types())
            .unwrap_or_else(|| "it is a number up to 0xffff, or a name such as ip, ip6 or arp".into());
        Wrong::hint(format!("{} is no type of Ethernet", quote(word)), hint)
    })
}
