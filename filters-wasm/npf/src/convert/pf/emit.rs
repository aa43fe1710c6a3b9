//! Rules: writing them.

use super::{
    Pf,
    cursor::Read,
    rule::{Flags, PfRule, State},
};
use crate::convert::{
    output::Origin,
    words::{End, Matching, Words, name_option, quoted},
};

/// Rules that one rule of pf may become.
const MAX_RULES: usize = 4096;

impl Pf {
    /// Writes a rule, and the maps of its translations.
    pub(super) fn emit(&mut self, at: &Origin, what: &str, rule: PfRule) -> Read<()> {
        if rule.action == "match" && rule.translations.is_empty() {
            return Err("a match rule does nothing here but translate".to_owned());
        }
        // What cannot be translated must not be passed as if it were.
        let mut maps = Vec::new();
        for translation in &rule.translations {
            maps.extend(self.map_lines(at, what, &rule, translation)?);
        }
        for translation in &rule.translations {
            for left_out in &translation.dropped {
                self.out.note(at, what, format!("left out: {left_out}"));
            }
        }
        if rule.action != "match" {
            self.emit_filter(at, what, &rule)?;
        }
        if rule.quick {
            self.quick_maps.extend(maps)
        } else {
            self.maps.extend(maps)
        }
        for left_out in &rule.dropped {
            self.out.note(at, what, format!("left out: {left_out}"));
        }
        Ok(())
    }

    pub(super) fn emit_filter(&mut self, at: &Origin, what: &str, rule: &PfRule) -> Read<()> {
        let stateful = rule.action == "pass" && rule.state != State::No;
        let protos = self.protos(rule, stateful)?;
        let bound = rule.bounds.if_bound.unwrap_or(self.policy.if_bound);
        let mut words = Words {
            action: rule.action,
            state: stateful.then_some(if bound { "stateful" } else { "stateful-all" }),
            direction: rule.direction,
            is_final: rule.quick,
            matching: Matching { family: rule.family, protos, ..Matching::default() },
            ..Words::default()
        };
        if stateful {
            words.options.extend(self.limits(rule));
        }
        let mut beyond = None;
        if stateful && !rule.bounds.limits.is_empty() {
            beyond = Some(Words { action: "block", state: None, options: Vec::new(), ..words.clone() });
            if words.matching.protos.is_empty() {
                let why =
                    "beyond its limits TCP packets of any flags are blocked, not only those that open connections";
                self.out.note(at, what, why);
            }
        }
        words.options.extend(rule.label.as_deref().and_then(name_option));
        for options in [&mut words.options].into_iter().chain(beyond.as_mut().map(|b| &mut b.options)) {
            options.extend(rule.tagged.clone());
        }
        if rule.log {
            words.options.push("log".to_owned());
        }
        if let Some(tag) = &rule.tag {
            words.options.push(format!("tag {}", quoted(tag)));
            if !rule.quick {
                let why = "a tag is given by the rule that decides; in pf by every rule that matches";
                self.out.note(at, what, why);
            }
        }
        self.passes |= rule.action == "pass";
        self.allow_options |= rule.allow_options;
        self.stated |= stateful && words.matching.protos.is_empty();
        self.returned |= rule.action == "block return";
        rule.interfaces.iter().for_each(|name| self.note_group(at, what, name));
        for (interface, from, to) in combinations(rule)? {
            for words in [Some(&mut words), beyond.as_mut()].into_iter().flatten() {
                words.interface = interface.clone();
                (words.matching.from, words.matching.to) = (from.clone(), to.clone());
            }
            // The one that counts stands last, or first if it is final.
            match (&beyond, rule.quick) {
                (None, _) => _ = self.out.rule(at, what, &words),
                (Some(beyond), true) => {
                    // If the one is not understood, the other would block all.
                    if self.out.rule(at, what, &words) {
                        self.out.rule(at, what, beyond);
                    }
                }
                (Some(beyond), false) => {
                    self.out.rule(at, what, beyond);
                    self.out.rule(at, what, &words);
                }
            }
        }
        Ok(())
    }

    fn limits(&self, rule: &PfRule) -> Vec<String> {
        let overload = rule.bounds.overload.as_deref();
        let with = |(limit, overloads): &(String, bool)| match overload {
            Some(overload) if *overloads => format!("{limit} {overload}"),
            _ => limit.clone(),
        };
        rule.bounds.limits.iter().map(with).collect()
    }

    /// Protocols with what is asked of their packets. A rule that keeps state asks for SYN without ACK if it says nothing.
    pub(super) fn protos(&self, rule: &PfRule, stateful: bool) -> Read<Vec<String>> {
        if !rule.icmp.is_empty() {
            let other = |p: &String| !matches!(p.as_str(), "icmp" | "icmp6" | "ipv6-icmp" | "1" | "58");
            return match rule.protos.iter().any(other) {
                true => Err("types of ICMP are asked of another protocol".to_owned()),
                false => Ok(rule.icmp.clone()),
            };
        }
        let is_tcp = |p: &String| p == "tcp" || p == "6";
        let may_be_tcp = rule.protos.is_empty() || rule.protos.iter().any(is_tcp);
        let flags = match (&rule.flags, stateful) {
            (Flags::Any, true) if may_be_tcp => {
                let why = "connections are kept only from their first packet on: \"flags any\" with state is not known";
                return Err(why.to_owned());
            }
            (Flags::Any, _) | (Flags::Unsaid, false) => None,
            (Flags::Unsaid, true) => Some("S/SA"),
            (Flags::Are(flags), _) => Some(flags.as_str()),
        };
        match flags {
            // What keeps state begins with a SYN anyway.
            Some("S/SA" | "S/SAFR" | "S/FSRA") if rule.protos.is_empty() && stateful => Ok(Vec::new()),
            Some(_) if rule.protos.is_empty() => Err("flags can be asked only with \"proto tcp\"".to_owned()),
            Some(flags) => {
                let with = |p: &String| if is_tcp(p) { format!("tcp flags {flags}") } else { p.clone() };
                Ok(rule.protos.iter().map(with).collect())
            }
            None => Ok(rule.protos.clone()),
        }
    }
}

/// The rules that pf makes of the lists of one.
pub(super) fn combinations(rule: &PfRule) -> Read<Vec<(Option<String>, End, End)>> {
    let interfaces: Vec<_> = match rule.interfaces.is_empty() {
        true => vec![None],
        false => rule.interfaces.iter().cloned().map(Some).collect(),
    };
    let (from, to) = (rule.from.ends(), rule.to.ends());
    if interfaces.len().saturating_mul(from.len()).saturating_mul(to.len()) > MAX_RULES {
        return Err(format!("its lists make more than {MAX_RULES} rules"));
    }
    let mut all = Vec::new();
    for interface in &interfaces {
        for from in &from {
            all.extend(to.iter().map(|to| (interface.clone(), from.clone(), to.clone())));
        }
    }
    Ok(all)
}
