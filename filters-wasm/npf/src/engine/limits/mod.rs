//! Limits of rules: how many connections there may be at once, and how many may begin in a time.
//!
//! A rate is kept as the time at which the next one would be due if they came evenly (the generic cell rate algorithm of
//! ITU-T I.371), so that a source costs one number. All workers have the same numbers ([`Limits`]), which come with the
//! [`super::Ruleset`]: a limit holds for all of them together, to the last packet.
//!
//! Whether a rule's limits allow a packet is asked while rules are looked up ([`Limits::exceeded`]), and its place is taken when
//! the rule has decided ([`Limits::take`]). Between the two another worker may have taken the last one: then the rule does not
//! match, and rules are looked up again without it.

mod table;

use crate::{
    config::{Family, Limit, LimitOf, Rule, RuleId, SourceBits},
    packet::{Packet, v4},
    state::{Connection, Millis},
};
use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::OnceLock,
};
use table::{Kind, NOBODY, NUMBER_MAX, Table};

/// Sources that are remembered at once, about: room is divided among them by chance, and one that finds none is refused until
/// another one has been quiet. Of half as many one in a hundred thousand is, of so many one in a hundred.
pub const SOURCES_MAX: usize = 1 << 16;

/// Fifteen names each.
const BUCKETS: usize = SOURCES_MAX / 8;

/// What all workers know of limits: 2 MiB from the first configuration with a limit on.
#[derive(Debug, Default)]
pub struct Limits {
    table: OnceLock<Table>,
    /// Names are hashes with a key that nobody outside knows, so that no source can choose which others it displaces. Of a
    /// million sources, two have the same 64 bits once in a million starts.
    names: RandomState,
}

impl Limits {
    /// Makes room, once, if a rule has limits.
    pub(super) fn prepare<'r>(&self, mut rules: impl Iterator<Item = &'r Rule>) {
        if rules.any(|r| !r.limits.is_empty()) {
            self.table.get_or_init(|| Table::new(BUCKETS));
        }
    }

    /// The first limit of a rule that a packet exceeds, or, for want of room, may not come under.
    pub(super) fn exceeded<'a>(&self, rule: &'a Rule, packet: &Packet, now: Millis) -> Option<&'a Limit> {
        let now = nanos(now);
        let allows = |(i, limit): (usize, &Limit)| {
            let Some(table) = self.table.get() else { return true };
            match table.get(self.name(rule.id, i, limit, packet.family, packet.src), now) {
                Ok(n) => raised(limit, n.unwrap_or(0), now).is_some(),
                Err(_) => false,
            }
        };
        rule.limits.iter().enumerate().find(|each| !allows(*each)).map(|(_, limit)| limit)
    }

    /// A rule has decided on a packet: what begins with it is counted, by all limits of the rule or by none.
    ///
    /// # Errors
    /// The limit that is exceeded, or has no room.
    pub(super) fn take<'a>(&self, rule: &'a Rule, packet: &Packet, now: Millis) -> Result<(), &'a Limit> {
        let (family, src, now) = (packet.family, packet.src, nanos(now));
        for (i, limit) in rule.limits.iter().enumerate() {
            let name = self.name(rule.id, i, limit, family, src);
            let Some(table) = self.table.get() else { return Ok(()) };
            let (to, back) = (|n| raised(limit, n, now), |n| lowered(limit, n));
            if table.change(name, kind(limit), now, to, back).is_err() {
                self.lower(rule.id, rule.limits.iter().enumerate().take(i), family, src);
                return Err(limit);
            }
        }
        Ok(())
    }

    /// Nothing came of it: [`Limits::take`] is undone.
    pub(super) fn give_back(&self, rule: &Rule, packet: &Packet) {
        self.lower(rule.id, rule.limits.iter().enumerate(), packet.family, packet.src);
    }

    /// It was let pass, but is no connection.
    pub(super) fn give_back_states(&self, rule: &Rule, packet: &Packet) {
        self.lower(rule.id, of_states(&rule.limits), packet.family, packet.src);
    }

    fn lower<'l>(&self, rule: RuleId, limits: impl Iterator<Item = (usize, &'l Limit)>, family: Family, src: u128) {
        let Some(table) = self.table.get() else { return };
        for (i, limit) in limits {
            table.undo(self.name(rule, i, limit, family, src), |n| lowered(limit, n));
        }
    }

    fn name(&self, rule: RuleId, i: usize, limit: &Limit, family: Family, src: u128) -> u64 {
        self.names.hash_one((rule, i, source(limit.per_source, family, src))).max(NOBODY + 1)
    }
}

/// Limits of connections of the rules that connections of a worker have, those of before the last reload too.
#[derive(Debug, Default)]
pub(super) struct Limited {
    of: HashMap<RuleId, Vec<Limit>>,
}

impl Limited {
    /// More rules that connections may have.
    pub fn add<'r>(&mut self, rules: impl Iterator<Item = &'r Rule>) {
        let limited = rules.filter(|r| of_states(&r.limits).next().is_some());
        self.of.extend(limited.map(|r| (r.id, r.limits.clone())));
    }

    /// No connection has any other rule than these.
    pub fn keep(&mut self, is_there: impl Fn(RuleId) -> bool) {
        self.of.retain(|rule, _| is_there(*rule));
    }

    /// A connection that was loaded counts, whatever the limits. False: there is no room for its source.
    pub fn begun(&self, limits: &Limits, connection: &Connection) -> bool {
        let (Some((rule, all)), Some(table)) = (self.limits_of(connection), limits.table.get()) else { return true };
        let (family, src) = (connection.forward().family(), connection.forward().source());
        for (n, (i, limit)) in of_states(all).enumerate() {
            let name = limits.name(rule, i, limit, family, src);
            if table.change(name, Kind::Count, 0, |n| Some(n + 1), |n| lowered(limit, n)).is_err() {
                limits.lower(rule, of_states(all).take(n), family, src);
                return false;
            }
        }
        true
    }

    /// A connection is gone.
    pub fn ended(&self, limits: &Limits, connection: &Connection) {
        if let Some((rule, all)) = self.limits_of(connection) {
            limits.lower(rule, of_states(all), connection.forward().family(), connection.forward().source());
        }
    }

    fn limits_of(&self, connection: &Connection) -> Option<(RuleId, &[Limit])> {
        let rule = connection.facts.rule.filter(|_| !self.of.is_empty())?;
        Some((rule, self.of.get(&rule)?))
    }
}

fn of_states(limits: &[Limit]) -> impl Iterator<Item = (usize, &Limit)> {
    limits.iter().enumerate().filter(|(_, l)| matches!(l.of, LimitOf::States(_)))
}

fn kind(limit: &Limit) -> Kind {
    match limit.of {
        LimitOf::States(_) => Kind::Count,
        LimitOf::Rate { .. } => Kind::Time,
    }
}

/// The number of a limit after one more; None if that would be too many.
fn raised(limit: &Limit, n: u64, now: u64) -> Option<u64> {
    match limit.of {
        LimitOf::States(most) => (n < u64::from(most)).then_some(n + 1),
        LimitOf::Rate { burst, .. } => {
            let early = u64::from(burst.max(1) - 1).saturating_mul(step(limit));
            (n.saturating_sub(now) <= early).then(|| n.max(now).saturating_add(step(limit)).min(NUMBER_MAX))
        }
    }
}

/// And after one less. A time that is in the past by that says the same as any other in the past.
fn lowered(limit: &Limit, n: u64) -> u64 {
    match limit.of {
        LimitOf::States(_) => n.saturating_sub(1),
        LimitOf::Rate { .. } => n.saturating_sub(step(limit)),
    }
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
    now.0.saturating_mul(1_000_000).min(NUMBER_MAX)
}

/// Nanoseconds from one to the next.
fn step(limit: &Limit) -> u64 {
    match limit.of {
        LimitOf::Rate { count, per, .. } => u64::try_from(per.as_nanos()).unwrap_or(u64::MAX) / u64::from(count.max(1)),
        LimitOf::States(_) => 0,
    }
}

#[cfg(test)]
mod tests;
