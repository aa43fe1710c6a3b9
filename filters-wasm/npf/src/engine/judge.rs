//! One packet's way through the engine.

use super::{
    By, Engine, Fault, Item, Outcome, Overload, Ruleset, Seat, Share, calls::call_key, mapped::key_of, translate::Maps,
    translate::Translation,
};
use crate::{
    config::{Action, Family, Limit, Return, Rule, RuleId, Stateful},
    evaluate::{Asked, Evaluator, Interfaces, Where},
    nat::rewrite,
    packet::{Packet, Upper},
    params::Key as Param,
    plan::{Numbered, RuleIndex},
    reply,
    state::{Binding, ConnId, Connection, Inspect, Millis},
    tables::host,
    wasm::NONE,
};
use std::cell::Cell;

use super::translate::address_on;

/// What is to be done with a packet that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing.
    Done,
    /// It has been translated as if it left, and goes to an outer end: now as if it came in.
    Turn,
}

/// What a packet is to the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It belongs to one.
    Of {
        /// Which.
        conn: ConnId,
        /// It goes the way of the first packet.
        forward: bool,
        /// It is an error about one of its packets.
        related: bool,
        /// No rule is asked.
        passes: bool,
        /// Its state after this packet: those behind it in a burst may have changed it when rules have decided.
        state: &'static str,
    },
    /// It belongs to one that neither translates nor runs a procedure, and passes: nothing more is to be asked.
    Quick {
        /// The rule that let it pass, and its number.
        rule: RuleId,
        number: u32,
        /// The tag of its packets.
        tag: u16,
        /// Its state.
        state: &'static str,
    },
    /// It belongs to none; if `seen`, that is not for want of one with its addresses.
    OfNone { seen: bool },
    /// It is for another worker to say.
    Elsewhere(u8),
}

impl Standing {
    /// Whether rules decide on it.
    pub(super) fn asks_rules(self) -> bool {
        !matches!(self, Standing::Quick { .. } | Standing::Of { passes: true, .. } | Standing::Elsewhere(_))
    }

    /// There was no connection with its addresses.
    pub(super) fn is_of_none(self) -> bool {
        self == Standing::OfNone { seen: false }
    }
}

impl Engine {
    /// Judges a packet. None: its headers could not be read.
    pub(super) fn judge(
        &mut self,
        ruleset: &Ruleset,
        item: &mut Item<'_>,
        packet: Option<&Packet>,
        seat: &Seat<'_>,
        outcome: &mut Outcome,
    ) {
        let Some(packet) = packet else { return self.fail(outcome, Fault::Malformed) };
        if item.was_steered && self.is_turned(ruleset, item.bytes, packet) {
            return self.second_half(ruleset, item, packet, seat, outcome);
        }
        let judged = self.steps(ruleset, item, packet, seat, outcome);
        self.settle(judged, ruleset, item, seat, outcome);
    }

    /// What its steps say is done to a packet.
    pub(super) fn settle(
        &mut self,
        judged: Result<Next, Fault>,
        ruleset: &Ruleset,
        item: &mut Item<'_>,
        seat: &Seat<'_>,
        outcome: &mut Outcome,
    ) {
        match judged {
            Ok(Next::Done) => {}
            Ok(Next::Turn) => self.turn(ruleset, item, seat, outcome),
            Err(fault) => self.fail(outcome, fault),
        }
    }

    /// A packet was translated as if it left, and goes to an outer end.
    #[cold]
    fn turn(&mut self, ruleset: &Ruleset, item: &mut Item<'_>, seat: &Seat<'_>, outcome: &mut Outcome) {
        let Some(packet) = item.read() else { return self.fail(outcome, Fault::Malformed) };
        match self.turns_to(item.bytes, &packet) {
            Some(owner) => {
                self.stats.steered += 1;
                outcome.steered_to(owner);
            }
            None => self.second_half(ruleset, item, &packet, seat, outcome),
        }
    }

    fn second_half(
        &mut self,
        ruleset: &Ruleset,
        item: &mut Item<'_>,
        packet: &Packet,
        seat: &Seat<'_>,
        outcome: &mut Outcome,
    ) {
        let half = self.standing(ruleset, item, packet, seat, true);
        let half = half.and_then(|standing| self.rest(ruleset, item, packet, seat, (standing, true), None, outcome));
        match half {
            Ok(_) => outcome.turned = outcome.pass,
            Err(fault) => self.fail(outcome, fault),
        }
    }

    #[inline(always)]
    fn steps(
        &mut self,
        ruleset: &Ruleset,
        item: &mut Item<'_>,
        packet: &Packet,
        seat: &Seat<'_>,
        outcome: &mut Outcome,
    ) -> Result<Next, Fault> {
        let standing = self.standing(ruleset, item, packet, seat, false)?;
        if let Standing::Elsewhere(worker) = standing {
            outcome.steered_to(worker);
            return Ok(Next::Done);
        }
        let rule = standing.asks_rules().then(|| self.rule(ruleset, item, packet, seat, outcome));
        self.rest(ruleset, item, packet, seat, (standing, false), rule, outcome)
    }

    /// The first steps: what a packet is to the connections. `turned`: it is in the second half of a hairpin.
    pub(super) fn standing(
        &mut self,
        ruleset: &Ruleset,
        item: &Item<'_>,
        packet: &Packet,
        seat: &Seat<'_>,
        turned: bool,
    ) -> Result<Standing, Fault> {
        if packet.options && ruleset.config.params.is_on(drop_options(packet)) {
            return Err(Fault::Options);
        }
        let inspected = match ruleset.pptp {
            true => self.inspect_with_calls(ruleset, item.bytes, packet, seat),
            false => self.connections.inspect(item.bytes, packet, seat.at, seat.now),
        };
        let (conn, forward, related) = match inspected {
            Inspect::Pass { conn, forward } => (conn, forward, false),
            Inspect::Related { conn, forward } => (conn, forward, true),
            Inspect::Invalid { .. } => {
                self.stats.invalid_state += 1;
                return Ok(Standing::OfNone { seen: true });
            }
            Inspect::Over { .. } => return Ok(Standing::OfNone { seen: true }),
            Inspect::None => {
                return Ok(match self.owner(ruleset, item, packet).filter(|_| !turned) {
                    Some(worker) => {
                        self.stats.steered += 1;
                        Standing::Elsewhere(worker)
                    }
                    None => Standing::OfNone { seen: false },
                });
            }
        };
        if let Some(c) = self.connections.get(conn)
            && c.facts.serial == ruleset.serial
            && ruleset.passes_quickly
            && c.facts.procedure.is_none()
            && c.map().is_none()
            && let Some(rule) = c.facts.rule
        {
            let (number, tag) = (c.facts.number, c.facts.tag);
            return Ok(Standing::Quick { rule, number, tag, state: c.state().name() });
        }
        if !self.is_still_valid(ruleset, conn) {
            return Ok(Standing::OfNone { seen: true });
        }
        // A connection that only translation made passes nothing: the rules are asked for each of its packets, but for what
        // answers a hairpin.
        let passes = self.connections.get(conn).is_some_and(|c| c.facts.rule.is_some() || c.turns_inward());
        let state = self.connections.get(conn).map_or("", |c| c.state().name());
        Ok(Standing::Of { conn, forward, related, passes, state })
    }

    /// The other steps. `rule` is the number of the rule that decides, or [`NONE`], where the packet's standing asks for it.
    #[allow(clippy::too_many_arguments, reason = "a packet, where it is, and what is known of it")]
    pub(super) fn rest(
        &mut self,
        ruleset: &Ruleset,
        item: &mut Item<'_>,
        packet: &Packet,
        seat: &Seat<'_>,
        (standing, turned): (Standing, bool),
        rule: Option<u32>,
        outcome: &mut Outcome,
    ) -> Result<Next, Fault> {
        if let Standing::Quick { rule, number, tag, state } = standing {
            outcome.rule = Some(rule);
            outcome.tag = if tag != 0 { tag } else { item.tag };
            outcome.connection = Some(state);
            self.tally(number, packet);
            self.stats.passed_connections += 1;
            return Ok(Next::Done);
        }
        let config = &*ruleset.config;
        let now = seat.now;
        let (mut known, related) = match standing {
            Standing::Of { conn, forward, related, .. } => (Some((conn, forward)), related),
            _ => (None, false),
        };
        let is_new = known.is_none();
        let mut procedure = None;
        let mut decided = None;
        let passing = known.filter(|_| !standing.asks_rules()).and_then(|(conn, _)| self.connections.get(conn));
        if turned {
            // The rules were asked before the first half.
        } else if let Some(connection) = passing {
            let facts = connection.facts;
            outcome.rule = facts.rule;
            outcome.tag = if facts.tag != 0 { facts.tag } else { item.tag };
            procedure = facts.procedure.and_then(|p| ruleset.procedure_at(p));
            self.tally(facts.number, packet);
            self.stats.passed_connections += 1;
        } else {
            let number = rule.unwrap_or(NONE);
            let rule = ruleset.rules.get(number as usize);
            decided = rule;
            match rule {
                None if config.groups.is_empty() => {}
                None => return Err(Fault::NoRule),
                Some(rule) => {
                    self.tally(number, packet);
                    outcome.rule = Some(rule.id);
                    outcome.tag = if rule.tag.is_some() { ruleset.tag_number(rule.tag.as_deref()) } else { item.tag };
                    procedure = rule.apply.map(|p| p.0);
                    if rule.log {
                        outcome.logs |= 1;
                    }
                    if let Action::Block(how) = rule.action {
                        self.stats.blocked_rules += 1;
                        outcome.pass = false;
                        self.procedure(ruleset, procedure, item.bytes, packet, outcome, now);
                        outcome.reply = answer(how, item.bytes, packet, &*self.addresses, seat);
                        return Ok(Next::Done);
                    }
                    self.stats.passed_rules += 1;
                    match (rule.state, known) {
                        // An error about a connection does not open it.
                        (Some(_), Some((conn, _))) if !related => self.adopt_connection(ruleset, conn, rule),
                        (Some(stateful), None) => {
                            let opened = self.open(ruleset, item.bytes, packet, seat, rule, stateful);
                            known = opened.map(|conn| (conn, true));
                        }
                        (Some(_), Some(_)) => self.held.limits.give_back(rule, packet),
                        (None, _) => {}
                    }
                }
            }
        }
        let mut goes_on = self.translate(ruleset, item.bytes, packet, seat, (is_new, turned), &mut known);
        outcome.connection = match standing {
            Standing::Of { state, .. } => Some(state),
            _ => known.and_then(|(conn, _)| self.connections.get(conn)).map(|c| c.state().name()),
        };
        if goes_on.is_ok() && !self.procedure(ruleset, procedure, item.bytes, packet, outcome, now) {
            goes_on = Err(Fault::Procedure);
        }
        if !ruleset.hairpins.is_empty() && seat.way == Where::In && goes_on.is_ok() {
            outcome.inward = self.is_inward(ruleset, item.bytes, packet, seat);
        }
        // A rule that keeps no state counts each packet that it lets pass.
        if goes_on.is_err()
            && let Some(rule) = decided.filter(|r| r.state.is_none())
        {
            self.held.limits.give_back(rule, packet);
        }
        goes_on
    }

    /// The connection of a packet, which may be one of a call of PPTP.
    #[inline(never)]
    fn inspect_with_calls(&mut self, ruleset: &Ruleset, bytes: &[u8], packet: &Packet, seat: &Seat<'_>) -> Inspect {
        if let Some(key) = call_key(ruleset, bytes, packet) {
            let inspected = self.connections.inspect_call(key, packet, seat.at, seat.now);
            if inspected != Inspect::None {
                return inspected;
            }
        }
        self.connections.inspect(bytes, packet, seat.at, seat.now)
    }

    /// The other worker that a packet belongs to which belongs to no connection here.
    #[inline(always)]
    fn owner(&self, ruleset: &Ruleset, item: &Item<'_>, packet: &Packet) -> Option<u8> {
        let share = self.held.share.as_ref()?;
        if ruleset.has_state && !item.was_steered { self.owner_by(ruleset, share, item.bytes, packet) } else { None }
    }

    #[inline(never)]
    fn owner_by(&self, ruleset: &Ruleset, share: &Share, bytes: &[u8], packet: &Packet) -> Option<u8> {
        let key = call_key(ruleset, bytes, packet).or_else(|| key_of(bytes, packet))?;
        share.owner(&key, || self.mapping_owner(ruleset, share, &key))
    }

    /// Whether a connection is one of the rules that are in force; one of others ends, if its rule or map is not there.
    fn is_still_valid(&mut self, ruleset: &Ruleset, conn: ConnId) -> bool {
        let Some(connection) = self.connections.get(conn) else { return false };
        if connection.facts.serial == ruleset.serial {
            return true;
        }
        let now = ruleset.facts_now(connection.facts, connection.map());
        match now {
            Some(facts) => {
                if let Some(known) = self.connections.facts_mut(conn) {
                    *known = facts;
                }
                true
            }
            None => {
                self.end(conn);
                false
            }
        }
    }

    fn tally(&mut self, number: u32, packet: &Packet) {
        if let Some(tally) = self.tallies.get_mut(number as usize) {
            tally.packets += 1;
            tally.bytes += packet.len as u64;
        }
    }

    /// The number of the rule that decides, or [`NONE`]. Of its limits, what this packet needs is taken.
    pub(super) fn rule(
        &mut self,
        ruleset: &Ruleset,
        item: &Item<'_>,
        packet: &Packet,
        seat: &Seat<'_>,
        outcome: &mut Outcome,
    ) -> u32 {
        let over = Cell::new(None);
        let mut decided = self.look_up(ruleset, item, packet, seat, &[], &over);
        if decided.is_some_and(|(_, rule)| !rule.limits.is_empty()) {
            decided = self.within_limits(ruleset, item, packet, seat, decided, &over);
        }
        self.exceeded(over.get(), packet, seat.now, outcome);
        decided.map_or(NONE, |(number, _)| number)
    }

    /// Takes of a rule's limits what a packet needs that the rule decides on. False: another worker was faster, and the
    /// rule does not match any more.
    pub(super) fn take_limits(&mut self, ruleset: &Ruleset, number: u32, packet: &Packet, now: Millis) -> bool {
        let rule = ruleset.rules.get(number as usize);
        rule.is_none_or(|rule| !takes_limits(rule) || self.held.limits.take(rule, packet, now).is_ok())
    }

    /// What a packet needs under the limits of the rule that decides is taken. Where another worker was faster to take the last
    /// of it, rules are looked up again.
    #[inline(never)]
    fn within_limits<'c>(
        &self,
        ruleset: &'c Ruleset,
        item: &Item<'_>,
        packet: &Packet,
        seat: &Seat<'_>,
        mut decided: Option<(u32, &'c Rule)>,
        over: &Cell<Option<Limit>>,
    ) -> Option<(u32, &'c Rule)> {
        // Memory is allocated for the first.
        let mut lost = Vec::new();
        while let Some((_, rule)) = decided.filter(|(_, r)| takes_limits(r)) {
            let Err(limit) = self.held.limits.take(rule, packet, seat.now) else { break };
            if limit.overload.is_some() {
                over.set(Some(*limit));
            }
            lost.push(rule.id);
            decided = self.look_up(ruleset, item, packet, seat, &lost, over);
        }
        decided
    }

    /// The rule that decides as far as limits can be told now. `over` becomes the last one that a rule exceeds.
    #[inline(always)]
    fn look_up<'c>(
        &self,
        ruleset: &'c Ruleset,
        item: &Item<'_>,
        packet: &Packet,
        seat: &Seat<'_>,
        lost: &[RuleId],
        over: &Cell<Option<Limit>>,
    ) -> Option<(u32, &'c Rule)> {
        let within = |rule: &Rule| {
            if rule.limits.is_empty() {
                return true;
            }
            if lost.contains(&rule.id) {
                return false;
            }
            let exceeded = self.held.limits.exceeded(rule, packet, seat.now);
            if let Some(limit) = exceeded.filter(|l| l.overload.is_some()) {
                over.set(Some(*limit));
            }
            exceeded.is_none()
        };
        let Ruleset { config, dynamic, programs, plan, rules, .. } = ruleset;
        match self.by {
            By::Plan => {
                let tag = ruleset.tag_in_plan(item.tag);
                let asked = Numbered { packet, bytes: item.bytes, interface: seat.in_plan, way: seat.way, tag };
                let by_number = |index: RuleIndex| rules.get(index.0 as usize).is_some_and(within);
                plan.decide_numbered(&asked, &self.tables, &by_number, &mut ())
                    .and_then(|index| Some((index.0, rules.get(index.0 as usize)?)))
            }
            By::Literal => {
                let tag = ruleset.tag(item.tag);
                let asked = Asked { packet, bytes: item.bytes, interface: seat.interface, way: seat.way, tag };
                let evaluator = Evaluator::new(programs, &self.tables, &*self.addresses, dynamic, &within);
                evaluator.decide(config, &asked).and_then(|rule| ruleset.rule(rule.id))
            }
        }
    }

    /// Puts the source of a packet that exceeded a limit into the table for those.
    pub(super) fn exceeded(&mut self, limit: Option<Limit>, packet: &Packet, now: Millis, outcome: &mut Outcome) {
        let Some((table, stay)) = limit.and_then(|l| l.overload) else { return };
        let stay = stay.map(|s| Millis(u64::try_from(s.as_millis()).unwrap_or(u64::MAX)));
        let entry = host(packet.family, packet.src);
        // It may be there already, by a command.
        if self.tables.add(table, entry, now, stay).is_ok() {
            self.stats.overloads += 1;
            outcome.overload = Some(Overload { table, entry, stay });
        }
    }

    /// Opens the connection of a packet that a stateful rule let pass. It passes without one, too.
    fn open(
        &mut self,
        ruleset: &Ruleset,
        bytes: &[u8],
        packet: &Packet,
        seat: &Seat<'_>,
        rule: &Rule,
        stateful: Stateful,
    ) -> Option<ConnId> {
        let binding = Binding::new(&ruleset.config.params, stateful);
        let Some(mut connection) = Connection::open(bytes, packet, seat.at, binding, seat.now) else {
            self.held.limits.give_back(rule, packet);
            return None;
        };
        connection.facts = crate::state::Facts { interface: seat.at.interface, ..ruleset.facts_of(rule) };
        let opened = self.insert(connection, seat.now);
        if opened.is_none() {
            self.held.limits.give_back_states(rule, packet);
        }
        opened
    }

    /// A stateful rule lets a packet pass whose connection was only translated so far: it passes from now on.
    fn adopt_connection(&mut self, ruleset: &Ruleset, conn: ConnId, rule: &Rule) {
        if let Some(facts) = self.connections.facts_mut(conn) {
            *facts = crate::state::Facts { interface: facts.interface, ..ruleset.facts_of(rule) };
        }
    }

    pub(super) fn insert(&mut self, connection: Connection, now: Millis) -> Option<ConnId> {
        let held = &mut self.held;
        let inserted = self.connections.insert(connection, now, &mut |id, c| held.release(id, c));
        if inserted.is_err() {
            self.stats.not_opened += 1;
        }
        inserted.ok()
    }

    /// Translates a packet, as its connection or a map says.
    #[inline(always)]
    fn translate(
        &mut self,
        ruleset: &Ruleset,
        bytes: &mut [u8],
        packet: &Packet,
        seat: &Seat<'_>,
        (is_new, turned): (bool, bool),
        known: &mut Option<(ConnId, bool)>,
    ) -> Result<Next, Fault> {
        if let Some((conn, forward)) = *known
            && self.connections.get(conn).is_some_and(|c| c.map().is_some())
        {
            let turns = self.translate_known(bytes, packet, conn, forward, seat.at);
            if ruleset.pptp {
                self.follow_calls(bytes, packet, conn, forward, seat);
            }
            return Ok(if turns { Next::Turn } else { Next::Done });
        }
        // A connection that began without a translation has none; maps without connections are for each packet.
        if ruleset.maps.is_empty() || !is_new && !ruleset.has_static_maps {
            return Ok(Next::Done);
        }
        self.translate_by_maps(ruleset, bytes, packet, seat, (is_new, turned), known)
    }

    /// Translates a packet that has no translation yet, if a map is for it.
    #[inline(never)]
    fn translate_by_maps(
        &mut self,
        ruleset: &Ruleset,
        bytes: &mut [u8],
        packet: &Packet,
        seat: &Seat<'_>,
        (is_new, turned): (bool, bool),
        known: &mut Option<(ConnId, bool)>,
    ) -> Result<Next, Fault> {
        let Ruleset { config, dynamic, programs, maps, .. } = ruleset;
        let within = |_: &Rule| true;
        let evaluator = Evaluator::new(programs, &self.tables, &*self.addresses, dynamic, &within);
        let mut maps = Maps {
            config,
            maps,
            tables: &self.tables,
            interfaces: &*self.addresses,
            only_static: !is_new,
            cursors: &mut self.cursors,
            held: &self.held,
            turned,
        };
        let plan = match maps.plan(packet, seat.interface, seat.way, &evaluator)? {
            // Half a hairpin does not go on: the mapping has just ended.
            None if turned => return Err(Fault::NoState),
            None => return Ok(Next::Done),
            Some(Translation::Static(change)) => {
                rewrite(bytes, packet, change);
                return Ok(Next::Done);
            }
            Some(Translation::Npt(npt, way)) => {
                return if npt.rewrite(bytes, packet, way) { Ok(Next::Done) } else { Err(Fault::NoAddress) };
            }
            Some(Translation::Dynamic(plan)) => plan,
        };
        let conn = match *known {
            Some((conn, _)) => conn,
            None => {
                let stateful = if plan.hold.hairpin { Stateful::All } else { Stateful::Interface };
                let binding = Binding::new(&config.params, stateful);
                let mut connection =
                    Connection::open(bytes, packet, seat.at, binding, seat.now).ok_or(Fault::NoState)?;
                connection.facts.serial = ruleset.serial;
                connection.facts.number = u32::MAX;
                self.insert(connection, seat.now).ok_or(Fault::NoState)?
            }
        };
        *known = Some((conn, true));
        self.begin_translation(ruleset, bytes, packet, conn, plan, seat.at).inspect_err(|_| _ = self.end(conn))?;
        Ok(if plan.hold.hairpin && !turned { Next::Turn } else { Next::Done })
    }
}

/// Whether what a rule decides on counts under limits of it.
fn takes_limits(rule: &Rule) -> bool {
    !rule.limits.is_empty() && rule.action == Action::Pass
}

/// The parameter that says what is done with options.
fn drop_options(packet: &Packet) -> Param {
    match packet.family {
        Family::V4 => Param::Ip4DropOptions,
        Family::V6 => Param::Ip6DropOptions,
    }
}

fn answer(how: Return, bytes: &[u8], packet: &Packet, interfaces: &dyn Interfaces, seat: &Seat<'_>) -> Option<Vec<u8>> {
    if how == Return::Nothing || matches!(packet.upper, Upper::Unknown) && packet.fragment.is_some() {
        return None;
    }
    reply::answer(how, bytes, packet, address_on(interfaces, seat.interface, packet.family))
}
