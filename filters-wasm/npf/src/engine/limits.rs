//! Limits of rules: how many connections there may be at once, and how many may begin in a time.
//!
//! A rate is kept as the time at which the next one would be due if they came evenly (the generic cell rate algorithm of
//! ITU-T I.371), so that a source costs one number.

use crate::{
    config::{Family, Limit, LimitOf, Rule, RuleId, SourceBits},
    packet::{Packet, v4},
    state::{Connection, Millis},
};
use std::collections::HashMap;

/// Sources that are remembered at once. Where there are more, those beyond are refused until some have been quiet.
pub const SOURCES_MAX: usize = 1 << 16;

/// A limit of a rule, and the source that it is kept for; None where it is for all.
type Key = (RuleId, usize, Option<u128>);

/// What limits know.
#[derive(Debug, Default)]
pub struct Limits {
    /// Limits of connections, by the rules that have some: what is asked when a connection ends.
    of: HashMap<RuleId, Vec<Limit>>,
    /// When the next one would be due, in nanoseconds.
    due: HashMap<Key, u64>,
    /// Connections at the moment.
    states: HashMap<Key, u32>,
}

impl Limits {
    /// The first limit of a rule that a packet exceeds.
    pub fn exceeded<'a>(&self, rule: &'a Rule, packet: &Packet, now: Millis) -> Option<&'a Limit> {
        let mut all = rule.limits.iter().enumerate();
        all.find(|(i, limit)| !self.allows(rule.id, *i, limit, packet, now)).map(|(_, limit)| limit)
    }

    fn allows(&self, rule: RuleId, i: usize, limit: &Limit, packet: &Packet, now: Millis) -> bool {
        let key = (rule, i, source(limit.per_source, packet.family, packet.src));
        match limit.of {
            LimitOf::States(most) => match self.states.get(&key) {
                Some(n) => *n < most,
                None => most > 0 && self.states.len() < SOURCES_MAX,
            },
            LimitOf::Rate { burst, .. } => match self.due.get(&key) {
                Some(due) => due.saturating_sub(nanos(now)) <= u64::from(burst.max(1) - 1) * step(limit),
                None => self.due.len() < SOURCES_MAX,
            },
        }
    }

    /// A rule decided on a packet that begins a connection, or on any packet if it is not stateful.
    pub fn count(&mut self, rule: &Rule, packet: &Packet, now: Millis) {
        for (i, limit) in rule.limits.iter().enumerate() {
            if let LimitOf::Rate { .. } = limit.of {
                if self.due.len() >= SOURCES_MAX {
                    self.due.retain(|_, due| *due > nanos(now));
                }
                let key = (rule.id, i, source(limit.per_source, packet.family, packet.src));
                let due = self.due.entry(key).or_default();
                *due = (*due).max(nanos(now)).saturating_add(step(limit));
            }
        }
    }

    /// The rules that there are from now on. What is known of those that stay is kept.
    pub fn configure<'r>(&mut self, rules: impl Iterator<Item = &'r Rule>) {
        let limited = rules.filter(|r| r.limits.iter().any(|l| matches!(l.of, LimitOf::States(_))));
        self.of = limited.map(|r| (r.id, r.limits.clone())).collect();
        self.states.retain(|(rule, ..), _| self.of.contains_key(rule));
    }

    /// A connection that a rule opened began.
    pub fn begun(&mut self, connection: &Connection) {
        for key in keys(&self.of, connection) {
            *self.states.entry(key).or_default() += 1;
        }
    }

    /// It is gone.
    pub fn ended(&mut self, connection: &Connection) {
        for key in keys(&self.of, connection) {
            if let Some(n) = self.states.get_mut(&key) {
                *n -= 1;
                if *n == 0 {
                    self.states.remove(&key);
                }
            }
        }
    }
}

/// What a connection counts for.
fn keys<'a>(of: &'a HashMap<RuleId, Vec<Limit>>, connection: &Connection) -> impl Iterator<Item = Key> + use<'a> {
    let rule = connection.facts.rule.filter(|_| !of.is_empty());
    let (family, src) = (connection.forward().family(), connection.forward().source());
    let limits = rule.and_then(|r| of.get_key_value(&r)).into_iter();
    limits.flat_map(move |(rule, limits)| {
        let all = limits.iter().enumerate().filter(|(_, l)| matches!(l.of, LimitOf::States(_)));
        all.map(move |(i, l)| (*rule, i, source(l.per_source, family, src)))
    })
}

fn source(bits: Option<SourceBits>, family: Family, address: u128) -> Option<u128> {
    let bits = bits?;
    Some(match family {
        Family::V4 => {
            let low = u32::from(32u8.saturating_sub(bits.v4));
            v4((address as u32).checked_shr(low).unwrap_or(0).checked_shl(low).unwrap_or(0))
        }
        Family::V6 => {
            let low = u32::from(128u8.saturating_sub(bits.v6));
            address.checked_shr(low).unwrap_or(0).checked_shl(low).unwrap_or(0)
        }
    })
}

fn nanos(now: Millis) -> u64 {
    now.0.saturating_mul(1_000_000)
}

/// Nanoseconds from one to the next.
fn step(limit: &Limit) -> u64 {
    match limit.of {
        LimitOf::Rate { count, per, .. } => u64::try_from(per.as_nanos()).unwrap_or(u64::MAX) / u64::from(count.max(1)),
        LimitOf::States(_) => 0,
    }
}
