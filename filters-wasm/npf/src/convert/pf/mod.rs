//! pf.conf(5), of OpenBSD and of FreeBSD, to npf.conf.
//!
//! Both languages let the last rule decide that matches, unless one is `quick`. What is different: pf passes what no rule
//! matches, `pass` keeps state unless it says `no state`, and rules behind a translation see translated addresses.

mod cursor;
mod emit;
mod hosts;
mod lex;
mod nat;
mod rule;
mod statement;

use super::{
    Converted,
    output::{Origin, Output, Part},
    words::{Matching, Words},
};
use lex::Macros;
use std::collections::HashMap;

/// Converts a pf.conf. Macros are put in; files that it includes are not looked at, and noted.
pub fn pf(text: &str) -> Converted {
    let mut pf = Pf::default();
    let everything = Words { action: "pass", matching: Matching::default(), ..Words::default() };
    pf.out.comment(Part::Rules, "pf passes what no rule matches.");
    pf.out.rule(&Origin::All, "", &everything);
    let statements = lex::statements(text);
    // Policies hold for rules before them too, and tables may be written behind their use.
    for statement in &statements {
        pf.policy(&statement.text);
        if pf.is_definition(&statement.text) {
            pf.statement(statement);
        }
    }
    for statement in statements.iter().filter(|s| !s.text.starts_with("table")) {
        pf.statement(statement);
    }
    pf.finish()
}

/// A conversion.
#[derive(Default)]
struct Pf {
    out: Output,
    macros: Macros,
    /// Entries that the tables have from the beginning.
    tables: HashMap<String, TableWords>,
    policy: Policy,
    /// Maps of rules that are quick, and of those that are not; the last of these counts.
    quick_maps: Vec<nat::MapLine>,
    maps: Vec<nat::MapLine>,
    /// Some rule says allow-opts.
    allow_options: bool,
    /// Some rule passes packets.
    passes: bool,
    stated: bool,
    returned: bool,
}

/// What stands for a table.
#[derive(Default)]
struct TableWords {
    words: Vec<String>,
    /// Why it cannot be used.
    broken: Option<String>,
}

/// What rules mean that do not say it.
#[derive(Default)]
struct Policy {
    block_returns: bool,
    if_bound: bool,
}

impl Pf {
    /// Looks for what holds for all rules.
    fn policy(&mut self, text: &str) {
        let words: Vec<_> = text.split_whitespace().collect();
        match words[..] {
            ["set", "block-policy", policy] => self.policy.block_returns = policy == "return",
            ["set", "state-policy", policy] => self.policy.if_bound = policy == "if-bound",
            _ => {}
        }
    }

    /// A macro or a table. Macros are set again for the rules, as these may come between two values of one.
    fn is_definition(&mut self, text: &str) -> bool {
        text.starts_with("table") || matches!(self.macros.define(text), Some(Ok(())))
    }

    fn finish(mut self) -> Converted {
        let all = Origin::All;
        if !self.quick_maps.is_empty() || !self.maps.is_empty() {
            let why = "rules see addresses as they are before translation; behind a translation, those of pf see \
                       translated ones. A map is for all packets that pass, whichever rule lets them";
            self.out.note(&all, "translation", why);
        }
        let maps = std::mem::take(&mut self.maps);
        // The first map that matches counts, and in pf the last that is not quick.
        for map in std::mem::take(&mut self.quick_maps).into_iter().chain(maps.into_iter().rev()) {
            self.out.map(&map.at, &map.what, map.line);
        }
        if self.stated {
            let why = "TCP connections begin with a SYN without FIN and RST where the rule names no protocol; pf looks \
                       at SYN and ACK only";
            self.out.note(&all, "keep state", why);
        }
        if self.returned {
            let why = "what is neither TCP nor UDP is answered by an ICMP error too, and the code is \
                       \"administratively prohibited\"";
            self.out.note(&all, "block return", why);
        }
        if self.passes && !self.allow_options {
            self.out.setting("# pf drops packets with IP options unless a rule says allow-opts.".to_owned());
            self.out.setting("set ip4.drop_options on".to_owned());
        } else if self.allow_options {
            let why = "pf passes packets with IP options only by rules with allow-opts; here all rules do";
            self.out.note(&all, "allow-opts", why);
        }
        self.out.finish("pf.conf")
    }
}
