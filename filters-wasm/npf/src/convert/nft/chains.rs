//! Chains, rules and sets as the JSON has them.

use crate::config::Family;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};

/// A table's family and name, and the name of something in it.
pub(super) type Id<'v> = (&'v str, &'v str, &'v str);

/// A chain.
#[derive(Debug, Default)]
pub(super) struct Chain<'v> {
    pub id: Id<'v>,
    pub kind: Option<&'v str>,
    pub hook: Option<&'v str>,
    pub priority: i64,
    /// What no rule decides on is dropped.
    pub drops: bool,
    pub rules: Vec<&'v Value>,
}

impl Chain<'_> {
    pub fn is_filter(&self) -> bool {
        self.kind == Some("filter") && matches!(self.hook, Some("input" | "output" | "forward"))
    }

    pub fn is_nat(&self) -> bool {
        self.kind == Some("nat")
    }

    /// The families of its packets.
    pub fn family(&self) -> Option<Family> {
        match self.id.0 {
            "ip" => Some(Family::V4),
            "ip6" => Some(Family::V6),
            _ => None,
        }
    }

    pub fn path(&self) -> String {
        [self.id.0, self.id.1, self.id.2].join(" ")
    }
}

/// All that is known of a ruleset.
#[derive(Debug, Default)]
pub(super) struct Ruleset<'v> {
    pub chains: Vec<Chain<'v>>,
    pub sets: Vec<(Id<'v>, &'v Value)>,
    index: HashMap<Id<'v>, usize>,
    /// Path, what, and why.
    pub left_out: Vec<(String, String, &'static str)>,
}

impl<'v> Ruleset<'v> {
    pub fn read(list: &'v [Value]) -> Ruleset<'v> {
        let mut ruleset = Ruleset::default();
        // Rules may stand before their chains.
        for chain in list.iter().filter_map(|item| item.get("chain")) {
            ruleset.chain(chain);
        }
        for item in list {
            if let Some(rule) = item.get("rule") {
                ruleset.rule(rule);
            } else if let Some(set) = item.get("set") {
                ruleset.sets.push((id(set, "name"), set));
            } else if !["metainfo", "table", "chain", "counter"].iter().any(|known| item.get(known).is_some()) {
                let why = "objects of this kind are not known";
                ruleset.left_out.push(("ruleset".to_owned(), item.to_string(), why));
            }
        }
        ruleset
    }

    fn chain(&mut self, value: &'v Value) {
        let text = |key: &str| value.get(key).and_then(Value::as_str);
        let chain = Chain {
            id: id(value, "name"),
            kind: text("type"),
            hook: text("hook"),
            priority: value.get("prio").and_then(Value::as_i64).unwrap_or(0),
            drops: text("policy") == Some("drop"),
            rules: Vec::new(),
        };
        if !matches!(chain.id.0, "ip" | "ip6" | "inet") {
            let why = "only the families ip, ip6 and inet are known";
            self.left_out.push((chain.path(), value.to_string(), why));
            return;
        }
        if chain.hook.is_some() && !chain.is_filter() && !chain.is_nat() {
            let why = "only chains of type filter in input, output and forward, and of type nat, are known";
            self.left_out.push((chain.path(), value.to_string(), why));
            return;
        }
        self.index.insert(chain.id, self.chains.len());
        self.chains.push(chain);
    }

    fn rule(&mut self, value: &'v Value) {
        match self.index.get(&id(value, "chain")) {
            Some(&at) => self.chains[at].rules.push(value),
            None => {
                let why = "its chain is not carried over";
                self.left_out.push((rule_path(value), expressions(value), why));
            }
        }
    }

    /// A chain of the same table.
    pub fn of(&self, id: Id<'_>, name: &str) -> Option<&Chain<'v>> {
        self.index.get(&(id.0, id.1, name)).and_then(|&at| self.chains.get(at))
    }

    pub fn set(&self, id: Id<'_>, name: &str) -> Option<&'v Value> {
        self.sets.iter().find(|(known, _)| *known == (id.0, id.1, name)).map(|(_, set)| *set)
    }

    /// Whether any rule of a filter lets established connections pass.
    pub fn accepts_established(&self) -> bool {
        let rules = self.chains.iter().filter(|c| !c.is_nat()).flat_map(|c| &c.rules);
        rules.into_iter().any(|rule| {
            let Some(list) = rule.get("expr").and_then(Value::as_array) else { return false };
            let asks = list
                .iter()
                .any(|e| (e.get("match").is_some() || e.get("vmap").is_some()) && mentions(e, "established"));
            asks && list.iter().any(|e| mentions_key(e, "accept"))
        })
    }

    /// The interfaces that rules name.
    pub fn interfaces(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for rule in self.chains.iter().flat_map(|c| &c.rules) {
            for expression in rule.get("expr").and_then(Value::as_array).into_iter().flatten() {
                let Some(matched) = expression.get("match") else { continue };
                let key = matched.pointer("/left/meta/key").and_then(Value::as_str);
                if matches!(key, Some("iif" | "iifname" | "oif" | "oifname"))
                    && let Some(right) = matched.get("right")
                {
                    each_text(right, &mut |name| {
                        if !name.contains(['*', '@']) && name != "lo" {
                            names.insert(name.to_owned());
                        }
                    });
                }
            }
        }
        names
    }
}

/// Where a rule is.
pub(super) fn rule_path(rule: &Value) -> String {
    let (family, table, chain) = id(rule, "chain");
    let handle = rule.get("handle").and_then(Value::as_u64).map(|h| format!(" handle {h}")).unwrap_or_default();
    format!("{family} {table} {chain}{handle}")
}

/// What a rule says.
pub(super) fn expressions(rule: &Value) -> String {
    rule.get("expr").unwrap_or(rule).to_string()
}

fn id<'v>(value: &'v Value, name: &str) -> Id<'v> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or("");
    (text("family"), text("table"), text(name))
}

fn mentions(value: &Value, word: &str) -> bool {
    let mut found = false;
    each_text(value, &mut |text| found |= text == word);
    found
}

fn mentions_key(value: &Value, key: &str) -> bool {
    match value {
        Value::Object(map) => map.iter().any(|(k, v)| k == key || mentions_key(v, key)),
        Value::Array(list) => list.iter().any(|v| mentions_key(v, key)),
        _ => false,
    }
}

/// All strings in a value.
fn each_text(value: &Value, visit: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => visit(text),
        Value::Array(list) => list.iter().for_each(|v| each_text(v, visit)),
        Value::Object(map) => map.values().for_each(|v| each_text(v, visit)),
        _ => {}
    }
}
