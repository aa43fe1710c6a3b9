//! The engine: what happens to a packet, step by step.
//!
//! ```text
//! headers -- fragments -- connections -- rules -- a new connection -- translation -- procedures -- an answer to the sender
//! ```
//!
//! The order is NetBSD's (`npf_packet_handler`): rules see addresses before they are translated, in both directions.
//! An engine belongs to one worker. Time comes in with each packet, and addresses of interfaces by a trait.

mod in_force;
mod limits;
mod outcome;
mod procedures;
mod random;
#[cfg(test)]
mod tests;
mod translate;

use crate::{
    config::{Action, Config, Family, Limit, Return, Rule, RuleId, Stateful},
    evaluate::{Asked, Dynamic, Evaluator, Interfaces, Where},
    fragments::{Limits as FragmentLimits, Outcome as Assembled, Reassembly},
    nat::{
        ports::{PortMap, Translated},
        rewrite,
    },
    packet::{Packet, Upper},
    params::Key as Param,
    plan::RuleIndex,
    reply,
    state::{Binding, ConnId, Connection, Connections, Crossing, Direction, Inspect, Limits as TableLimits, Millis},
    tables::{Tables, host},
};
pub use in_force::EngineError;
pub use outcome::{Fault, Outcome, Stats};

use in_force::{InForce, programs};
use limits::Limits;
use procedures::Procedures;
use random::Random;
use std::{cell::Cell, collections::HashMap, sync::Arc};
use translate::{Maps, Translation, address_on};

/// Packets whose memory is fetched at once.
const BURST: usize = 64;
/// From so many connections on it is; fewer are in the processor's caches anyway.
const WARM_FROM: usize = 4096;
/// Connections that are looked at, at most, when expired ones are removed beside a packet.
const EXPIRE_AT_ONCE: usize = 64;
/// Milliseconds between two looks, where the one before left nothing; and the same for tables, which are looked through whole.
const SWEEP: u64 = 64;
const SWEEP_TABLES: u64 = 1000;

/// An engine of one worker.
pub struct Engine {
    /// There but for the time of a packet, which borrows it.
    in_force: Option<Box<InForce>>,
    by: By,
    tables: Tables,
    fragments: Reassembly,
    connections: Connections,
    ports: PortMap,
    limits: Limits,
    procedures: Procedures,
    /// Where round-robin maps are.
    cursors: HashMap<RuleId, u64>,
    /// Names of interfaces, by the numbers that connections know.
    interfaces: Vec<String>,
    /// Names of tags.
    tags: Vec<String>,
    random: Random,
    stats: Stats,
    /// When connections and fragments, and when tables, are looked at again.
    next_sweep: u64,
    next_sweep_of_tables: u64,
}

/// What rules are looked up by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum By {
    /// Decision structures.
    #[default]
    Plan,
    /// The literal evaluator, rule by rule.
    Literal,
}

/// Where and when a packet is.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The interface that it crosses.
    pub interface: &'a str,
    /// Which way.
    pub way: Where,
    /// The tag that it got where it came in.
    pub tag: Option<&'a str>,
    /// Addresses of all interfaces.
    pub interfaces: &'a dyn Interfaces,
    /// The time, never less than before.
    pub now: Millis,
}

impl Engine {
    /// An engine for a configuration. Addresses of interfaces that rules name are those of now, until
    /// [`Engine::readdress`]. `seed` begins the random numbers: one that nobody can guess, but in tests.
    ///
    /// # Errors
    /// When the configuration cannot be run.
    pub fn new(
        config: Arc<Config>,
        interfaces: &dyn Interfaces,
        limits: TableLimits,
        seed: u64,
        now: Millis,
    ) -> Result<Engine, EngineError> {
        let mut random = Random(seed);
        let connections = Connections::new(limits, &config.params, random.next(), now);
        let mut limits = Limits::default();
        limits.configure(config.rules());
        Ok(Engine {
            tables: Tables::new(&config),
            by: By::default(),
            fragments: Reassembly::new(FragmentLimits::default()),
            connections,
            ports: PortMap::new(),
            limits,
            procedures: Procedures::new(&config, now),
            cursors: HashMap::new(),
            interfaces: Vec::new(),
            tags: Vec::new(),
            random,
            stats: Stats::default(),
            next_sweep: 0,
            next_sweep_of_tables: 0,
            in_force: Some(InForce::new(config.clone(), Dynamic::new(), programs(&config)?, interfaces)),
        })
    }

    /// Looks rules up in another way.
    pub fn look_up_by(&mut self, by: By) {
        self.by = by;
    }

    /// The connections.
    pub fn connections(&self) -> &Connections {
        &self.connections
    }

    /// The tables, to be looked at and changed.
    pub fn tables(&mut self) -> &mut Tables {
        &mut self.tables
    }

    /// Fragments that wait for others.
    pub fn fragments(&self) -> &Reassembly {
        &self.fragments
    }

    /// What has happened to packets.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Ends what has expired, a little beside each packet.
    fn sweep(&mut self, now: Millis) {
        if now.0 >= self.next_sweep_of_tables {
            self.tables.expire(now);
            self.next_sweep_of_tables = now.0 + SWEEP_TABLES;
        }
        if now.0 >= self.next_sweep {
            self.fragments.expire(now.0);
            if self.expire_connections(now, EXPIRE_AT_ONCE) < EXPIRE_AT_ONCE {
                self.next_sweep = now.0 + SWEEP;
            }
        }
    }

    fn expire_connections(&mut self, now: Millis, most: usize) -> usize {
        let (limits, ports) = (&mut self.limits, &mut self.ports);
        self.connections.expire(now, most, &mut |_, c| gone(c, ports, limits))
    }

    /// Judges a packet that begins at its IP header, and changes it as translation and procedures say.
    pub fn handle(&mut self, bytes: &mut Vec<u8>, place: &Place<'_>) -> Outcome {
        self.sweep(place.now);
        let packet = Packet::read(bytes).ok();
        self.handle_read(bytes, packet, place)
    }

    /// Judges packets that cross the same interface the same way, in order, and tells what becomes of each. It does what
    /// [`Engine::handle`] does with one after the other; memory that they need is fetched for 64 of them at once.
    pub fn handle_burst(&mut self, burst: &mut [Vec<u8>], place: &Place<'_>, mut tell: impl FnMut(usize, Outcome)) {
        let at = self.crossing(place);
        for (chunk, first) in burst.chunks_mut(BURST).zip((0..).step_by(BURST)) {
            self.sweep(place.now);
            let mut packets = [const { None }; BURST];
            for (packet, bytes) in packets.iter_mut().zip(&*chunk) {
                *packet = Packet::read(bytes).ok();
            }
            if self.connections.len() >= WARM_FROM {
                self.connections.warm(packets.iter().flatten().map(|packet| (packet, at)));
            }
            for ((bytes, packet), i) in chunk.iter_mut().zip(packets).zip(first..) {
                let outcome = self.handle_read(bytes, packet, place);
                tell(i, outcome);
            }
        }
    }

    fn handle_read(&mut self, bytes: &mut Vec<u8>, packet: Option<Packet>, place: &Place<'_>) -> Outcome {
        let mut outcome = Outcome::new();
        let in_force = self.in_force.take();
        let judged = match (&in_force, packet) {
            (Some(in_force), Some(packet)) => self.judge(in_force, bytes, packet, place, &mut outcome),
            (_, None) => Err(Fault::Malformed),
            // It is taken here and nowhere else for longer than a line, and always put back.
            (None, _) => Err(Fault::NoRule),
        };
        self.in_force = in_force;
        if let Err(fault) = judged {
            outcome.pass = false;
            outcome.fault = Some(fault);
            *self.stats.of(fault) += 1;
        }
        outcome
    }

    fn judge(
        &mut self,
        in_force: &InForce,
        bytes: &mut Vec<u8>,
        mut packet: Packet,
        place: &Place<'_>,
        outcome: &mut Outcome,
    ) -> Result<(), Fault> {
        let config = &*in_force.config;
        let now = place.now;
        let (drop_options, reassembly) = switches(&packet);
        if packet.options && config.params.is_on(drop_options) {
            return Err(Fault::Options);
        }
        if packet.fragment.is_some() && config.params.is_on(reassembly) {
            match self.fragments.take(bytes, &packet, now.0) {
                Assembled::Kept => {
                    self.stats.fragments_kept += 1;
                    outcome.kept = true;
                    return Ok(());
                }
                Assembled::Dropped(_) => return Err(Fault::Fragment),
                Assembled::Whole(whole) => {
                    self.stats.reassembled += 1;
                    *bytes = whole;
                    packet = Packet::read(bytes).map_err(|_| Fault::Malformed)?;
                }
            }
        }
        let at = self.crossing(place);
        let mut related = false;
        let mut known = match self.connections.inspect(bytes, &packet, at, now) {
            Inspect::Pass { conn, forward } => Some((conn, forward)),
            Inspect::Related { conn, forward } => {
                related = true;
                Some((conn, forward))
            }
            Inspect::Invalid { .. } => {
                self.stats.invalid_state += 1;
                None
            }
            Inspect::None | Inspect::Over { .. } => None,
        };
        let mut procedure = None;
        let mut decided = None;
        let is_new = known.is_none();
        // A connection that only translation made passes nothing: the rules are asked for each of its packets.
        let passing = known.and_then(|(conn, _)| self.connections.get(conn)).filter(|c| c.facts.rule.is_some());
        if let Some(connection) = passing {
            let facts = connection.facts;
            (outcome.rule, procedure) = (facts.rule, facts.procedure);
            outcome.tag = facts.tag.and_then(|t| self.tags.get(usize::from(t)).cloned());
            self.stats.passed_connections += 1;
        } else {
            let rule = self.rule(in_force, bytes, &packet, place);
            decided = rule;
            match rule {
                None if config.groups.is_empty() => {}
                None => return Err(Fault::NoRule),
                Some(rule) => {
                    outcome.rule = Some(rule.id);
                    outcome.tag = rule.tag.clone().or_else(|| place.tag.map(str::to_owned));
                    procedure = rule.apply.map(|p| p.0);
                    if rule.log {
                        outcome.logs.push(procedures::DEFAULT_LOG.into());
                    }
                    if let Action::Block(how) = rule.action {
                        self.stats.blocked_rules += 1;
                        outcome.pass = false;
                        self.procedure(config, procedure, bytes, &packet, outcome, now);
                        outcome.reply = answer(how, bytes, &packet, place);
                        return Ok(());
                    }
                    self.stats.passed_rules += 1;
                    match (rule.state, known) {
                        // An error about a connection does not open it.
                        (Some(_), Some((conn, _))) if !related => self.adopt(conn, rule, &packet, now),
                        (Some(stateful), None) => {
                            known = self.open(config, bytes, &packet, at, rule, stateful, now).map(|conn| (conn, true));
                        }
                        (None, _) | (Some(_), Some(_)) => {}
                    }
                }
            }
        }
        self.translate(in_force, bytes, &packet, place, at, is_new, &mut known)?;
        outcome.connection = known.and_then(|(conn, _)| self.connections.get(conn)).map(|c| c.state().name());
        if !self.procedure(config, procedure, bytes, &packet, outcome, now) {
            outcome.pass = false;
            return Err(Fault::Procedure);
        }
        // A rule that keeps no state counts each packet that it lets pass.
        if let Some(rule) = decided.filter(|r| r.state.is_none()) {
            self.limits.count(rule, &packet, now);
        }
        Ok(())
    }

    /// The rule that decides, and what limits say of those that would have.
    fn rule<'c>(
        &mut self,
        in_force: &'c InForce,
        bytes: &[u8],
        packet: &Packet,
        place: &Place<'c>,
    ) -> Option<&'c Rule> {
        let Place { interface, way, interfaces, now, .. } = *place;
        let over: Cell<Option<Limit>> = Cell::new(None);
        let within = |rule: &Rule| {
            let exceeded = if rule.limits.is_empty() { None } else { self.limits.exceeded(rule, packet, now) };
            if let Some(limit) = exceeded.filter(|l| l.overload.is_some()) {
                over.set(Some(*limit));
            }
            exceeded.is_none()
        };
        let InForce { config, dynamic, programs, plan, rules, .. } = in_force;
        let asked = Asked { packet, bytes, interface, way, tag: place.tag };
        let rule = match self.by {
            By::Plan => {
                let by_number = |index: RuleIndex| rules.get(index.0 as usize).is_some_and(within);
                plan.decide(&asked, &self.tables, &by_number).and_then(|index| rules.get(index.0 as usize))
            }
            By::Literal => Evaluator::new(programs, &self.tables, interfaces, dynamic, &within).decide(config, &asked),
        };
        if let Some((table, stay)) = over.get().and_then(|l| l.overload) {
            let stay = stay.map(|s| Millis(u64::try_from(s.as_millis()).unwrap_or(u64::MAX)));
            // It may be there already, by a command.
            if self.tables.add(table, host(packet.family, packet.src), now, stay).is_ok() {
                self.stats.overloads += 1;
            }
        }
        rule
    }

    /// Opens the connection of a packet that a stateful rule let pass. It passes without one, too.
    #[allow(clippy::too_many_arguments, reason = "a packet, where it is, and what decided on it")]
    fn open(
        &mut self,
        config: &Config,
        bytes: &[u8],
        packet: &Packet,
        at: Crossing,
        rule: &Rule,
        stateful: Stateful,
        now: Millis,
    ) -> Option<ConnId> {
        let binding = Binding::new(&config.params, stateful);
        let tag = rule.tag.as_ref().map(|tag| number_of(&mut self.tags, tag));
        let mut connection = Connection::open(bytes, packet, at, binding, now)?;
        connection.facts.rule = Some(rule.id);
        connection.facts.procedure = rule.apply.map(|p| p.0);
        connection.facts.tag = tag;
        self.limits.count(rule, packet, now);
        self.insert(connection, now)
    }

    /// A stateful rule lets a packet pass whose connection was only translated so far: it passes from now on.
    fn adopt(&mut self, conn: ConnId, rule: &Rule, packet: &Packet, now: Millis) {
        let tag = rule.tag.as_ref().map(|tag| number_of(&mut self.tags, tag));
        let Some(facts) = self.connections.facts_mut(conn) else { return };
        (facts.rule, facts.procedure, facts.tag) = (Some(rule.id), rule.apply.map(|p| p.0), tag);
        self.limits.count(rule, packet, now);
        if let Some(connection) = self.connections.get(conn) {
            self.limits.begun(connection);
        }
    }

    fn insert(&mut self, connection: Connection, now: Millis) -> Option<ConnId> {
        let (limits, ports) = (&mut self.limits, &mut self.ports);
        match self.connections.insert(connection, now, &mut |_, c| gone(c, ports, limits)) {
            Ok(id) => {
                if let Some(c) = self.connections.get(id) {
                    self.limits.begun(c);
                }
                Some(id)
            }
            Err(_) => {
                self.stats.not_opened += 1;
                None
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "a packet, where it is, and what it belongs to")]
    fn translate(
        &mut self,
        in_force: &InForce,
        bytes: &mut [u8],
        packet: &Packet,
        place: &Place<'_>,
        at: Crossing,
        is_new: bool,
        known: &mut Option<(ConnId, bool)>,
    ) -> Result<(), Fault> {
        let Place { interface, way, interfaces, now, .. } = *place;
        let InForce { config, dynamic, programs, .. } = in_force;
        if let Some((conn, forward)) = *known
            && self.connections.get(conn).is_some_and(|c| c.nat().is_some())
        {
            self.translate_known(config, bytes, packet, conn, forward, at);
            return Ok(());
        }
        // A connection that began without a translation has none; maps without connections are for each packet.
        if config.maps.is_empty() || !is_new && !in_force.has_static_maps {
            return Ok(());
        }
        let within = |_: &Rule| true;
        let evaluator = Evaluator::new(programs, &self.tables, interfaces, dynamic, &within);
        let mut maps =
            Maps { config, tables: &self.tables, interfaces, only_static: !is_new, cursors: &mut self.cursors };
        let (map, kind, address, port) = match maps.plan(packet, interface, way, &evaluator)? {
            None => return Ok(()),
            Some(Translation::Static(change)) => {
                rewrite(bytes, packet, change);
                return Ok(());
            }
            Some(Translation::Npt(npt, way)) => {
                return if npt.rewrite(bytes, packet, way) { Ok(()) } else { Err(Fault::NoAddress) };
            }
            Some(Translation::Dynamic { map, kind, address, port }) => (map, kind, address, port),
        };
        let conn = match *known {
            Some((conn, _)) => conn,
            None => {
                let binding = Binding::new(&config.params, Stateful::Interface);
                let connection = Connection::open(bytes, packet, at, binding, now).ok_or(Fault::NoState)?;
                self.insert(connection, now).ok_or(Fault::NoState)?
            }
        };
        *known = Some((conn, true));
        self.begin_translation(bytes, packet, conn, (map, kind, address, port)).inspect_err(|_| {
            if let Some(c) = self.connections.remove(conn) {
                gone(&c, &mut self.ports, &mut self.limits);
            }
        })
    }

    fn crossing(&mut self, place: &Place<'_>) -> Crossing {
        let direction = if place.way == Where::In { Direction::In } else { Direction::Out };
        Crossing { interface: Some(number_of(&mut self.interfaces, place.interface)), direction }
    }
}

/// A connection has ended: its port is free again, and its rule has one less.
fn gone(connection: &Connection, ports: &mut PortMap, limits: &mut Limits) {
    if let Some(nat) = connection.nat().filter(|n| n.port_taken) {
        ports.release(Translated { address: nat.translated.0, proto: connection.forward().proto() }, nat.translated.1);
    }
    limits.ended(connection);
}

/// The number of a name, which it keeps.
fn number_of(names: &mut Vec<String>, name: &str) -> u16 {
    let found = names.iter().position(|n| n == name).unwrap_or_else(|| {
        names.push(name.to_owned());
        names.len() - 1
    });
    // No router has 65,535 interfaces, and no configuration as many tags.
    u16::try_from(found).unwrap_or(crate::state::INTERFACES_MAX - 1)
}

fn number_of_interface(names: &[String], name: &str) -> Option<u16> {
    names.iter().position(|n| n == name).and_then(|n| u16::try_from(n).ok())
}

/// The parameters that say what is done with options and with fragments.
fn switches(packet: &Packet) -> (Param, Param) {
    match packet.family {
        Family::V4 => (Param::Ip4DropOptions, Param::Ip4Reassembly),
        Family::V6 => (Param::Ip6DropOptions, Param::Ip6Reassembly),
    }
}

fn answer(how: Return, bytes: &[u8], packet: &Packet, place: &Place<'_>) -> Option<Vec<u8>> {
    if how == Return::Nothing || matches!(packet.upper, Upper::Unknown) && packet.fragment.is_some() {
        return None;
    }
    reply::answer(how, bytes, packet, address_on(place.interfaces, place.interface, packet.family))
}
