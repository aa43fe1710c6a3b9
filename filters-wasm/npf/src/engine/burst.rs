//! Bursts: packets of connections pass at once, the others are decided on together by the module of the rules.

use super::{
    BURST, Burst, Engine, Fault, Outcome, Ruleset, Seat,
    judge::{Next, Standing},
};
use crate::{
    config::{Limit, TableId},
    packet::Packet,
    plan::{Numbered, RuleIndex},
    state::Millis,
    tables::Tables,
    wasm::{Facts, NONE, RulesetHost, RunningRuleset, Side},
};

/// A packet whose rule is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    /// Its number in the burst.
    number: usize,
    packet: Packet,
    standing: Standing,
}

/// What a module asks of an engine.
struct Asked<'a, B> {
    ruleset: &'a Ruleset,
    tables: &'a Tables,
    limits: &'a super::Limits,
    now: Millis,
    waiting: &'a [Waiting],
    burst: &'a mut B,
    /// A limit that was exceeded and has a table for those who do.
    over: Option<Limit>,
}

impl<B: Burst> Asked<'_, B> {
    fn waiting(&self, packet: usize) -> Option<&Waiting> {
        self.waiting.get(packet)
    }
}

impl<B: Burst> RulesetHost for Asked<'_, B> {
    fn is_in_table(&mut self, _: usize, facts: &Facts, table: TableId, side: Side) -> bool {
        self.tables.contains(table, facts.family(), facts.address(side), facts.service(side))
    }

    fn within(&mut self, packet: usize, rule: RuleIndex) -> bool {
        let (Some(waiting), Some(rule)) = (self.waiting(packet), self.ruleset.rules.get(rule.0 as usize)) else {
            return false;
        };
        let exceeded = self.limits.exceeded(rule, &waiting.packet, self.now).copied();
        if let Some(limit) = exceeded.filter(|l| l.overload.is_some()) {
            self.over = Some(limit);
        }
        exceeded.is_none()
    }

    fn bytes(&mut self, packet: usize) -> &[u8] {
        let Some(Waiting { number, packet, .. }) = self.waiting(packet).copied() else { return &[] };
        let item = self.burst.item(number);
        let len = packet.len.min(item.bytes.len());
        &item.bytes[..len]
    }
}

impl Engine {
    /// Judges a part of a burst by the module of its rules.
    pub(super) fn burst_by_module<B: Burst>(
        &mut self,
        module: &mut dyn RunningRuleset,
        ruleset: &Ruleset,
        burst: &mut B,
        packets: &[(usize, Option<Packet>)],
        seat: &Seat<'_>,
    ) {
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.clear();
        for (number, packet) in packets {
            let number = *number;
            let mut outcome = Outcome::new();
            let mut item = burst.item(number);
            if item.was_steered {
                // It may be half way through a hairpin.
                self.judge(ruleset, &mut item, packet.as_ref(), seat, &mut outcome);
                burst.done(number, outcome, ruleset);
                continue;
            }
            let judged = match packet {
                None => Err(Fault::Malformed),
                Some(packet) => match self.standing(ruleset, &item, packet, seat, false) {
                    Err(fault) => Err(fault),
                    Ok(Standing::Elsewhere(worker)) => {
                        outcome.steered_to(worker);
                        Ok(Next::Done)
                    }
                    Ok(standing) if !standing.asks_rules() => {
                        self.rest(ruleset, &mut item, packet, seat, (standing, false), None, &mut outcome)
                    }
                    Ok(standing) => {
                        let tag = ruleset.tag_in_plan(item.tag);
                        let (interface, way) = (seat.in_plan, seat.way);
                        let asked = Numbered { packet, bytes: item.bytes, interface, way, tag };
                        module.facts()[waiting.len()] = Facts::of(&asked);
                        waiting.push(Waiting { number, packet: *packet, standing });
                        // It may open a connection in the place of another one: those behind it are to see that one.
                        if standing == (Standing::OfNone { seen: true }) {
                            self.decide_all(module, ruleset, burst, &waiting, seat);
                            waiting.clear();
                        }
                        continue;
                    }
                },
            };
            self.settle(judged, ruleset, &mut item, seat, &mut outcome);
            burst.done(number, outcome, ruleset);
        }
        self.decide_all(module, ruleset, burst, &waiting, seat);
        self.waiting = waiting;
    }

    /// Decides on all that wait.
    fn decide_all<B: Burst>(
        &mut self,
        module: &mut dyn RunningRuleset,
        ruleset: &Ruleset,
        burst: &mut B,
        waiting: &[Waiting],
        seat: &Seat<'_>,
    ) {
        let began = self.connections.counters().inserted;
        // Limits count what each packet brings about, before the next one is asked for.
        let at_once = if ruleset.has_limits { 1 } else { BURST };
        for (waiting, first) in waiting.chunks(at_once).zip((0..).step_by(at_once)) {
            if first > 0 {
                module.facts()[0] = module.facts()[first];
            }
            self.decide_waiting(module, ruleset, burst, (waiting, began), seat);
        }
    }

    fn decide_waiting<B: Burst>(
        &mut self,
        module: &mut dyn RunningRuleset,
        ruleset: &Ruleset,
        burst: &mut B,
        (waiting, began): (&[Waiting], u64),
        seat: &Seat<'_>,
    ) {
        let (tables, limits, now) = (&self.tables, &*self.held.limits, seat.now);
        let mut asked = Asked { ruleset, tables, limits, now, waiting, burst, over: None };
        let mut rules = [NONE; BURST];
        let decided = module.decide(waiting.len(), &mut asked).map(|numbers| {
            rules[..numbers.len()].copy_from_slice(numbers);
        });
        let over = asked.over;
        if decided.is_err() {
            self.stats.module_faults += 1;
        }
        for (waiting, number) in waiting.iter().zip(rules) {
            let Waiting { number: place, packet, mut standing } = *waiting;
            let mut outcome = Outcome::new();
            let mut item = burst.item(place);
            // A packet before it in the burst may have opened its connection.
            if self.connections.counters().inserted != began && standing.is_of_none() {
                standing = match self.standing(ruleset, &item, &packet, seat, false) {
                    Ok(Standing::Elsewhere(_)) | Err(_) => standing,
                    Ok(standing) => standing,
                };
            }
            let decision = match &decided {
                _ if !standing.asks_rules() => None,
                Ok(()) if self.take_limits(ruleset, number, &packet, now) => {
                    self.exceeded(over, &packet, now, &mut outcome);
                    Some(number)
                }
                // Another worker took the last of a limit, or there is an error in the compiler of modules: the plan says.
                _ => Some(self.rule(ruleset, &item, &packet, seat, &mut outcome)),
            };
            let judged = self.rest(ruleset, &mut item, &packet, seat, (standing, false), decision, &mut outcome);
            self.settle(judged, ruleset, &mut item, seat, &mut outcome);
            burst.done(place, outcome, ruleset);
        }
    }
}
