//! Rules of filters, in their order.

use super::{
    Nft,
    chains::{Chain, Ruleset, expressions, rule_path},
    matching::Criteria,
    values::{Read, Sets},
};
use crate::{
    config::Family,
    convert::{
        output::{Origin, Part},
        words::{End, Matching, Words, name_option, quoted},
    },
};
use serde_json::Value;

/// Chains that may be put into each other, and rules that may come of it.
const MAX_DEPTH: usize = 16;
const MAX_RULES: usize = 50_000;
/// Rules that the interfaces of one rule may make.
const MAX_PAIRS: usize = 4096;

/// The chain that is written, and how.
#[derive(Clone, Copy)]
struct Base<'r, 'v> {
    ruleset: &'r Ruleset<'v>,
    chain: &'r Chain<'v>,
    direction: &'static str,
    /// Another chain decides on what this one accepts.
    followed: bool,
}

/// A rule that is being written.
struct Rule<'r> {
    at: Origin,
    what: &'r str,
    criteria: Criteria,
    log: bool,
    name: Option<String>,
}

/// The rule that lets in what is not for this host, by one interface or by any. Rules of forwarding see the interface by
/// its tag.
pub(super) fn forwarded(interface: Option<&str>, state: Option<&'static str>) -> Words {
    let to = End { not: true, addresses: vec!["$local".to_owned()], ports: Vec::new() };
    Words {
        action: "pass",
        state,
        direction: Some("in"),
        is_final: true,
        interface: interface.map(str::to_owned),
        matching: Matching { to, ..Matching::default() },
        options: interface.map(|name| format!("tag {}", quoted(&tag(name)))).into_iter().collect(),
    }
}

/// The tag of what came in by an interface.
pub(super) fn tag(interface: &str) -> String {
    format!("from {interface}")
}

impl Nft {
    /// The chains of a hook, and what is done with what none of them decides on.
    pub(super) fn hook(&mut self, direction: &'static str, chains: &[&Chain<'_>], ruleset: &Ruleset<'_>) {
        for (i, chain) in chains.iter().enumerate() {
            let overlaps = |other: &&&Chain<'_>| match (other.family(), chain.family()) {
                (Some(a), Some(b)) => a == b,
                _ => true,
            };
            let followed = chains[i + 1..].iter().any(|other| overlaps(&other));
            self.out.comment(Part::Rules, &format!("chain {}", chain.path()));
            let base = Base { ruleset, chain, direction, followed };
            let mut criteria = Criteria::default();
            criteria.family = chain.family();
            self.chain(base, chain, &criteria, 0);
        }
        let drops = |family: Family| {
            let of = |chain: &&&Chain<'_>| chain.family().is_none_or(|f| f == family);
            chains.iter().filter(of).any(|chain| chain.drops)
        };
        let (v4, v6) = (drops(Family::V4), drops(Family::V6));
        let all = Origin::Path(chains.first().map_or_else(|| direction.to_owned(), |chain| chain.path()));
        let families = if v4 == v6 { vec![(None, v4)] } else { vec![(Some(Family::V4), v4), (Some(Family::V6), v6)] };
        for (family, drops) in families {
            let matching = Matching { family, ..Matching::default() };
            let block =
                Words { action: "block", direction: Some(direction), is_final: true, matching, ..Words::default() };
            if drops {
                self.out.rule(&all, "policy drop", &block);
                continue;
            }
            let pass = Words { action: "pass", ..block };
            if self.stateful {
                self.out.rule(&all, "policy accept", &Words { state: Some("stateful-all"), ..pass.clone() });
            }
            self.out.rule(&all, "policy accept", &pass);
        }
    }

    /// The rules of a chain for packets that are asked for so already.
    fn chain(&mut self, base: Base<'_, '_>, chain: &Chain<'_>, before: &Criteria, depth: usize) {
        // What a rule here could not be asked is not known of the packets behind it.
        let mut shut = false;
        for rule in &chain.rules {
            let what = expressions(rule);
            let at = Origin::Path(rule_path(rule));
            if self.written >= MAX_RULES {
                self.out.leave_out(Part::Rules, &at, &what, "with all jumps put in there are too many rules");
                return;
            }
            self.written += 1;
            let name = rule.get("comment").and_then(Value::as_str).map(str::to_owned);
            let start = Rule { at: at.clone(), what: &what, criteria: before.clone(), log: false, name };
            if let Err(why) = self.rule(base, rule, start, depth, &mut shut) {
                self.out.leave_out(Part::Rules, &at, &what, why);
            }
        }
    }

    fn rule(
        &mut self,
        base: Base<'_, '_>,
        value: &Value,
        mut rule: Rule<'_>,
        depth: usize,
        shut: &mut bool,
    ) -> Read<()> {
        let list = value.get("expr").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let sets = Sets { ruleset: base.ruleset, id: base.chain.id };
        // A rule with something unknown in it may have let its packets leave the chain.
        let leaves = list.iter().any(|e| e.get("return").is_some() || e.get("goto").is_some());
        for (i, expression) in list.iter().enumerate() {
            let Some((key, inner)) = expression.as_object().and_then(|map| map.iter().next()) else {
                *shut |= leaves;
                return Err("an expression is not understood".to_owned());
            };
            let done = match key.as_str() {
                "match" => rule.criteria.add(inner, sets),
                "counter" => Ok(()),
                "log" => {
                    rule.log = true;
                    let prefix = inner.get("prefix").and_then(Value::as_str).map(|p| p.trim().to_owned());
                    rule.name = rule.name.take().or(prefix);
                    if i + 1 == list.len() { Err("a rule that only logs does nothing here".to_owned()) } else { Ok(()) }
                }
                "limit" => limit(inner).and_then(|l| match rule.criteria.limit.replace(l) {
                    Some(_) => Err("a limit is asked for twice".to_owned()),
                    None => Ok(()),
                }),
                "vmap" => {
                    return self.vmap(base, inner, rule, depth, shut).inspect_err(|_| *shut = true);
                }
                _ => return self.verdict(base, key, inner, rule, depth, shut),
            };
            if let Err(why) = done {
                *shut |= leaves;
                return Err(why);
            }
        }
        // It only counted.
        Ok(())
    }

    /// A verdict for each value.
    fn vmap(&mut self, base: Base<'_, '_>, vmap: &Value, rule: Rule<'_>, depth: usize, shut: &mut bool) -> Read<()> {
        let sets = Sets { ruleset: base.ruleset, id: base.chain.id };
        let (Some(key), Some(data)) = (vmap.get("key"), vmap.pointer("/data/set").and_then(Value::as_array)) else {
            return Err("a verdict map is known only with its values beside it".to_owned());
        };
        for pair in data {
            let Some([value, verdict]) = pair.as_array().map(Vec::as_slice) else {
                return Err("a verdict map is not understood".to_owned());
            };
            let mut one =
                Rule { at: rule.at.clone(), criteria: rule.criteria.clone(), name: rule.name.clone(), ..rule };
            let Some((word, inner)) = verdict.as_object().and_then(|map| map.iter().next()) else {
                return Err("a verdict is not understood".to_owned());
            };
            let value = value.pointer("/elem/val").unwrap_or(value);
            let what = format!("{value} : {verdict}");
            let done = one.criteria.compare("==", key, value, sets);
            let at = one.at.clone();
            if let Err(why) = done.and_then(|()| self.verdict(base, word, inner, one, depth, shut)) {
                self.out.leave_out(Part::Rules, &at, &what, why);
            }
        }
        Ok(())
    }

    fn verdict(
        &mut self,
        base: Base<'_, '_>,
        word: &str,
        inner: &Value,
        rule: Rule<'_>,
        depth: usize,
        shut: &mut bool,
    ) -> Read<()> {
        match word {
            "accept" if *shut => Err("before it a rule that leaves the chain is not carried over".to_owned()),
            "accept" if base.followed => {
                Err("another chain of this hook decides after this one, which cannot be said here".to_owned())
            }
            "accept" => self.accept(base, rule),
            "drop" => self.decide(base, rule, "block", None),
            "reject" => {
                let reset = inner.get("type").and_then(Value::as_str) == Some("tcp reset");
                self.rejected |= !reset;
                self.decide(base, rule, if reset { "block return-rst" } else { "block return-icmp" }, None)
            }
            "jump" | "goto" => self.jump(base, word == "goto", inner, rule, depth, shut),
            "return" if depth == 0 => self.policy(base, rule),
            "return" => {
                *shut = true;
                Err("going back from a chain that is jumped to is not known; what it accepts behind this is left out"
                    .to_owned())
            }
            "continue" => Ok(()),
            "masquerade" | "snat" | "dnat" | "redirect" => {
                Err("translation stands in chains of type nat only".to_owned())
            }
            other => Err(format!("\"{other}\" is not known here")),
        }
    }

    fn policy(&mut self, base: Base<'_, '_>, rule: Rule<'_>) -> Read<()> {
        match (base.chain.drops, base.followed) {
            (true, _) => self.decide(base, rule, "block", None),
            (false, true) => Err("another chain of this hook decides after this one".to_owned()),
            (false, false) => self.accept(base, rule),
        }
    }

    fn jump(
        &mut self,
        base: Base<'_, '_>,
        goto: bool,
        inner: &Value,
        rule: Rule<'_>,
        depth: usize,
        shut: &mut bool,
    ) -> Read<()> {
        let name = inner.get("target").and_then(Value::as_str).unwrap_or("");
        let Some(chain) = base.ruleset.of(base.chain.id, name) else {
            return Err(format!("there is no chain {}", quoted(name)));
        };
        if depth >= MAX_DEPTH {
            return Err(format!("chains are put into each other more than {MAX_DEPTH} deep"));
        }
        if goto && depth > 0 {
            *shut = true;
            return Err("goto is known in base chains only".to_owned());
        }
        if rule.criteria.limit.is_some() {
            return Err("a limit of a jump is not known".to_owned());
        }
        self.chain(base, chain, &rule.criteria, depth + 1);
        if goto { self.policy(base, rule) } else { Ok(()) }
    }

    fn accept(&mut self, base: Base<'_, '_>, rule: Rule<'_>) -> Read<()> {
        let state = self.stateful.then_some("stateful-all");
        let Some(states) = &rule.criteria.states else { return self.decide(base, rule, "pass", state) };
        if states.iter().any(|s| s == "new") {
            return self.decide(base, rule, "pass", Some("stateful-all"));
        }
        if states.iter().all(|s| matches!(s.as_str(), "established" | "related")) {
            let why = "packets of connections, and ICMP errors about them, pass without a rule";
            self.out.comment(Part::Rules, "What belongs to a connection passes without a rule.");
            self.out.note(&rule.at, rule.what, why);
            return Ok(());
        }
        Err("only the states new, established and related are known".to_owned())
    }

    /// Writes rules for all interfaces.
    fn decide(
        &mut self,
        base: Base<'_, '_>,
        rule: Rule<'_>,
        action: &'static str,
        state: Option<&'static str>,
    ) -> Read<()> {
        let criteria = &rule.criteria;
        if action != "pass" {
            match criteria.states.as_deref() {
                None => {}
                // What is not new belongs to a connection, and is not asked.
                Some([state]) if state == "new" => {}
                Some([state]) if state == "invalid" => {
                    let why =
                        "what does not fit its connection is judged by the other rules; of TCP only a SYN opens one";
                    return Err(why.to_owned());
                }
                Some(_) => return Err("packets of connections pass without a rule".to_owned()),
            }
        }
        let (ins, outs) = (criteria.in_interfaces.clone(), criteria.out_interfaces.clone());
        let (interfaces, tags) = match base.direction {
            "in" if outs.is_none() => (ins, None),
            "out" if ins.is_none() => (outs, None),
            "forw" => (outs, ins),
            _ => return Err("its packets have no such interface".to_owned()),
        };
        let mut words = Words {
            action,
            state,
            direction: Some(base.direction),
            is_final: true,
            interface: None,
            matching: criteria.matching()?,
            options: Vec::new(),
        };
        words.options.extend(criteria.limit.clone());
        words.options.extend(rule.name.as_deref().and_then(name_option));
        if rule.log {
            words.options.push("log".to_owned());
        }
        let (interfaces, tags) = (each(interfaces), each(tags));
        if interfaces.len().saturating_mul(tags.len()) > MAX_PAIRS {
            return Err(format!("its interfaces make more than {MAX_PAIRS} rules"));
        }
        if criteria.limit.is_some() && interfaces.len() > 1 {
            self.out.note(&rule.at, rule.what, "the limit holds for each interface by itself");
        }
        for interface in interfaces {
            words.interface = interface;
            for from in &tags {
                let mut words = words.clone();
                if let Some(from) = from {
                    words.options.insert(0, format!("tagged {}", quoted(&tag(from))));
                    self.tagged.insert(from.clone());
                }
                self.out.rule(&rule.at, rule.what, &words);
            }
        }
        Ok(())
    }
}

/// Each of a list, or None where there is no list.
fn each(list: Option<Vec<String>>) -> Vec<Option<String>> {
    list.map_or_else(|| vec![None], |list| list.into_iter().map(Some).collect())
}

/// A limit as an option of npf.conf.
fn limit(value: &Value) -> Read<String> {
    let number = |key: &str| value.get(key).and_then(Value::as_u64);
    if value.get("inv").and_then(Value::as_bool) == Some(true) {
        return Err("a rule can be limited, not be for what exceeds a limit".to_owned());
    }
    if value.get("rate_unit").is_some_and(|unit| unit != "packets") {
        return Err("bytes are not limited by rules".to_owned());
    }
    let per = match value.get("per").and_then(Value::as_str) {
        Some("second") => "1s",
        Some("minute") => "1m",
        Some("hour") => "1h",
        Some("day") => "1d",
        _ => return Err("this limit is not understood".to_owned()),
    };
    let rate = number("rate").filter(|&rate| rate > 0).ok_or("this limit is not understood")?;
    Ok(format!("limit rate {rate}/{per} burst {}", number("burst").unwrap_or(5).max(rate)))
}
