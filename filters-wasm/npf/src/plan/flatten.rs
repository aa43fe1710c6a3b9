//! A configuration's rules in one row: what the nesting of groups and rulesets means for each is written beside it.

use crate::{
    config::{Config, Directions, Group, Item, Rule, Ruleset},
    evaluate::Dynamic,
};
use std::{collections::BTreeSet, slice};

/// The ways that a packet can go, as bits: in, out, forwarded.
pub(super) const WAYS: u8 = 0b111;

/// A rule in its place.
pub(super) struct Flat<'a> {
    pub rule: &'a Rule,
    /// How many barriers are before it. A packet that a rule decided on is not looked at behind the next barrier.
    pub segment: u32,
    /// The first rule of its dynamic ruleset; the rule itself where it is in none.
    pub unit: u32,
    /// Behind the last rule of its dynamic ruleset.
    pub unit_end: u32,
    /// It is in a dynamic ruleset.
    pub dynamic: bool,
    pub gate: Gate<'a>,
}

/// Which packets get to a rule through its groups, its ruleset and its own words.
#[derive(Clone, Copy, Default)]
pub(super) struct Gate<'a> {
    /// Bits of the ways that are left.
    pub ways: u8,
    pub interface: Option<&'a str>,
}

impl<'a> Gate<'a> {
    fn narrowed(self, directions: Directions, interface: Option<&'a str>) -> Gate<'a> {
        let ways = match directions {
            Directions::Any => WAYS,
            Directions::In => 0b001,
            Directions::Out => 0b110,
            Directions::Forward => 0b100,
        };
        // A packet crosses one interface: two names are none.
        let conflict = matches!((self.interface, interface), (Some(a), Some(b)) if a != b);
        Gate { ways: if conflict { 0 } else { self.ways & ways }, interface: self.interface.or(interface) }
    }
}

/// The rules in the order in which they are looked at; the place of each is its [`super::RuleIndex`].
pub(super) fn flatten<'a>(config: &'a Config, dynamic: &'a Dynamic) -> Vec<Flat<'a>> {
    let mut rules = Vec::new();
    let mut segment = 0;
    let open = Gate { ways: WAYS, interface: None };
    for group in config.groups.iter().filter(|g| !g.layer2) {
        let enter = |group: &'a Group, gate: Gate<'a>| -> (slice::Iter<'a, Item>, Gate<'a>) {
            (group.items.iter(), gate.narrowed(group.directions, group.interface.as_deref()))
        };
        segment += 1;
        let mut levels = vec![enter(group, open)];
        while let Some((items, gate)) = levels.last_mut() {
            let gate = *gate;
            match items.next() {
                None => drop(levels.pop()),
                Some(Item::Rule(rule)) => {
                    let unit = rules.len() as u32;
                    let gate = gate.narrowed(rule.directions, rule.interface.as_deref());
                    rules.push(Flat { rule, segment, unit, unit_end: unit + 1, dynamic: false, gate });
                }
                // A group is a barrier for packets that cannot get in, too.
                Some(Item::Group(inner)) => {
                    segment += 1;
                    levels.push(enter(inner, gate));
                }
                Some(Item::Ruleset(set)) => ruleset(set, gate, segment, dynamic, &mut rules),
            }
        }
    }
    rules
}

fn ruleset<'a>(set: &'a Ruleset, gate: Gate<'a>, segment: u32, dynamic: &'a Dynamic, rules: &mut Vec<Flat<'a>>) {
    let inside = dynamic.get(&set.name).map_or(&[][..], Vec::as_slice);
    let unit = rules.len() as u32;
    let gate = gate.narrowed(set.directions, set.interface.as_deref());
    rules.extend(inside.iter().map(|rule| {
        let gate = gate.narrowed(rule.directions, rule.interface.as_deref());
        Flat { rule, segment, unit, unit_end: unit + inside.len() as u32, dynamic: true, gate }
    }));
}

/// The interfaces that the rules tell apart, sorted.
pub(super) fn interfaces(rules: &[Flat<'_>]) -> Vec<String> {
    let names: BTreeSet<&str> = rules.iter().filter_map(|r| r.gate.interface).collect();
    names.into_iter().map(str::to_owned).collect()
}
