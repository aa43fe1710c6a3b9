//! The engine: what happens to a packet, step by step.
//!
//! ```text
//! headers -- fragments -- connections -- rules -- a new connection -- translation -- procedures -- an answer to the sender
//! ```
//!
//! The order is NetBSD's (`npf_packet_handler`): rules see addresses before they are translated, in both directions.
//! An engine belongs to one worker; what all of them have in common is a [`Ruleset`]. Time comes in with each packet.

mod burst;
mod calls;
mod express;
mod held;
mod judge;
mod limits;
mod load;
mod mapped;
mod maps;
mod outcome;
mod procedures;
mod random;
mod ruleset;
mod share;
#[cfg(test)]
mod share_tests;
#[cfg(test)]
mod tests;
mod translate;

use crate::{
    config::{Config, Family, Map, Rule, RuleId},
    evaluate::Where,
    fragments::{Limits as FragmentLimits, Outcome as Assembled, Reassembly},
    packet::Packet,
    params::Key as Param,
    plan::InterfaceNumber,
    state::{ConnId, Connection, Connections, Crossing, Direction, Limits as TableLimits, Millis, State, Tally},
    tables::Tables,
    wasm::RunningRuleset,
};
pub use express::{Glance, Passed};
pub use limits::{Limits, SOURCES_MAX};
pub use load::LoadError;
pub use maps::{DynamicMaps, PlacedMap};
pub use outcome::{Fault, Outcome, Overload, Stats};
pub use ruleset::{Addresses, EngineError, LOGS_MAX, Ruleset};
pub use share::{Elsewhere, Share, WORKERS_MAX};

use held::Held;
use procedures::Procedures;
use random::Random;
use std::{collections::HashMap, sync::Arc};

/// Packets whose memory is fetched at once.
const BURST: usize = 64;
/// From so many connections on it is; fewer are in the processor's caches anyway.
const WARM_FROM: usize = 4096;
/// Connections that are looked at, at most, when expired ones are removed beside a packet.
const EXPIRE_AT_ONCE: usize = 64;
/// Connections that are looked up again at once, after a reload.
const REVIEW_AT_ONCE: u32 = 256;
/// Milliseconds between two looks, where the one before left nothing; and the same for tables.
const SWEEP: u64 = 64;
const SWEEP_TABLES: u64 = 1000;

/// A module, where the rules were compiled.
type Module = Option<Box<dyn RunningRuleset>>;

/// An engine of one worker.
pub struct Engine {
    /// There but for the time of a packet, which borrows it.
    ruleset: Option<Arc<Ruleset>>,
    by: By,
    /// What bursts are decided on by, if the rules were compiled.
    module: Module,
    /// Those of now, for translation and answers; rules have theirs in them.
    addresses: Addresses,
    /// The headers of a burst, and its packets that wait for a rule: memory that is used again and again.
    packets: Vec<(usize, Option<Packet>)>,
    waiting: Vec<burst::Waiting>,
    express: express::Express,
    tables: Tables,
    fragments: Reassembly,
    connections: Connections,
    held: Held,
    procedures: Procedures,
    /// Where round-robin maps are.
    cursors: HashMap<RuleId, u64>,
    interfaces: Interfaces,
    /// What rules decided, by their numbers.
    tallies: Vec<Tally>,
    random: Random,
    stats: Stats,
    /// When connections and fragments, and when tables, are looked at again.
    next_sweep: u64,
    next_sweep_of_tables: u64,
    /// Connections from here on have not been looked up since the last reload; None: all have.
    review: Option<u32>,
    /// Tables are looked through for what has expired. Where others do that, it is not done here.
    expires_tables: bool,
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

/// Where and when packets are.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The interface that they cross.
    pub interface: &'a str,
    /// Which way.
    pub way: Where,
    /// The time, never less than before.
    pub now: Millis,
}

/// A packet of a burst.
#[derive(Debug)]
pub struct Item<'a> {
    /// Its first bytes, from the IP header on: all headers, and of an ICMP error what it quotes.
    pub bytes: &'a mut [u8],
    /// Bytes that it has.
    pub len: usize,
    /// The tag that it got where it came in ([`Ruleset::tag_number`]); 0 for none.
    pub tag: u16,
    /// Its checksum is open: [`Packet::checksum_is_open`].
    pub checksum_is_open: bool,
    /// Another worker has handed it over: it is judged here.
    pub was_steered: bool,
}

impl<'a> Item<'a> {
    /// A packet that is here as a whole, with nothing special about it.
    pub fn new(bytes: &'a mut [u8]) -> Item<'a> {
        Item { len: bytes.len(), bytes, tag: 0, checksum_is_open: false, was_steered: false }
    }

    fn read(&self) -> Option<Packet> {
        let packet = Packet::read_head(self.bytes, self.len).ok()?;
        Some(Packet { checksum_is_open: self.checksum_is_open, ..packet })
    }
}

/// Packets that cross the same interface the same way, in order.
pub trait Burst {
    /// How many there are.
    fn len(&self) -> usize;
    /// There are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// One of them, by its number. It may be asked for more than once before it is [`Burst::done`].
    fn item(&mut self, i: usize) -> Item<'_>;
    /// What becomes of it. Said once of each, in whatever order.
    fn done(&mut self, i: usize, outcome: Outcome, ruleset: &Ruleset);
    /// Shows what is seen of one at a glance. None: all of it is to be looked at, by [`Burst::item`].
    fn glance<R>(&mut self, i: usize, look: impl FnOnce(Glance<'_>) -> R) -> Option<R> {
        let Item { bytes, len, tag, was_steered, .. } = self.item(i);
        (!was_steered).then(|| look(Glance { bytes, len, tag }))
    }
    /// As [`Burst::done`], for one of which there was a [`Burst::glance`], and that goes on as it is, or translated.
    fn passed(&mut self, i: usize, passed: Passed<'_>, ruleset: &Ruleset) {
        let rule = ruleset.rules.get(passed.rule as usize).map(|r| r.id);
        let connection = passed.connection.map(State::name);
        self.done(i, Outcome { rule, tag: passed.tag, connection, ..Outcome::new() }, ruleset);
    }
}

/// Packets that are here as a whole, and who is told what becomes of them.
pub struct Packets<'a, F>(pub &'a mut [Vec<u8>], pub F);

impl<F: FnMut(usize, Outcome)> Burst for Packets<'_, F> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn item(&mut self, i: usize) -> Item<'_> {
        Item::new(&mut self.0[i])
    }

    fn done(&mut self, i: usize, outcome: Outcome, _: &Ruleset) {
        (self.1)(i, outcome);
    }
}

/// A place with numbers for names.
#[derive(Clone, Copy)]
struct Seat<'a> {
    interface: &'a str,
    way: Where,
    now: Millis,
    at: Crossing,
    in_plan: InterfaceNumber,
    /// The rule that decides on all plain packets here.
    always: Option<u32>,
    /// Maps may have a say about packets here that belong to no connection.
    is_mapped: bool,
}

/// Interfaces that packets crossed, by the numbers that connections know.
#[derive(Default)]
struct Interfaces {
    all: Vec<Interface>,
    numbers: HashMap<String, u16>,
    /// The one that was asked for last: mostly it is the next one too.
    last: u16,
}

/// An interface, and what the rules in force make of it.
struct Interface {
    name: String,
    in_plan: InterfaceNumber,
    /// [`Plan::always`] by the ways.
    always: [Option<u32>; 3],
    is_mapped: bool,
}

impl Interface {
    fn new(name: &str, ruleset: &Ruleset) -> Interface {
        let in_plan = ruleset.plan.interface(name);
        Interface {
            name: name.to_owned(),
            in_plan,
            always: [Where::In, Where::Out, Where::Forward].map(|way| ruleset.plan.always(in_plan, way).map(|r| r.0)),
            is_mapped: ruleset.may_map(name),
        }
    }
}

impl Interfaces {
    fn number_of(&mut self, name: &str, ruleset: &Ruleset) -> u16 {
        if self.all.get(usize::from(self.last)).is_some_and(|i| i.name == name) {
            return self.last;
        }
        self.last = match self.numbers.get(name) {
            Some(number) => *number,
            None => {
                // No router has had 65,535 interfaces; what is beyond shares a number that no rule has.
                let number = u16::try_from(self.all.len()).unwrap_or(u16::MAX).min(crate::state::INTERFACES_MAX - 1);
                self.numbers.insert(name.to_owned(), number);
                self.all.push(Interface::new(name, ruleset));
                number
            }
        };
        self.last
    }
}

impl Engine {
    /// An engine for rules. `seed` begins the random numbers: one that nobody can guess, but in tests.
    pub fn new(
        ruleset: Arc<Ruleset>,
        tables: Tables,
        addresses: Addresses,
        limits: TableLimits,
        seed: u64,
        now: Millis,
    ) -> Engine {
        let mut random = Random(seed);
        let connections = Connections::new(limits, &ruleset.config.params, random.next(), now);
        let mut held = Held::new(ruleset.limits.clone());
        held.limited.add(ruleset.rules.iter());
        Engine {
            tables,
            addresses,
            packets: Vec::with_capacity(BURST),
            waiting: Vec::with_capacity(BURST),
            express: express::Express::new(),
            by: By::default(),
            module: None,
            fragments: Reassembly::new(FragmentLimits::default()),
            connections,
            held,
            procedures: Procedures::new(&ruleset, None, now),
            cursors: HashMap::new(),
            interfaces: Interfaces::default(),
            tallies: vec![Tally::default(); ruleset.rules.len()],
            random,
            stats: Stats::default(),
            next_sweep: 0,
            next_sweep_of_tables: 0,
            review: None,
            expires_tables: true,
            ruleset: Some(ruleset),
        }
    }

    /// The engine of a single worker, without tables of before: [`Engine::new`] of a configuration.
    ///
    /// # Errors
    /// When the configuration cannot be run.
    pub fn alone(
        config: Arc<Config>,
        addresses: Addresses,
        limits: TableLimits,
        seed: u64,
        now: Millis,
    ) -> Result<Engine, EngineError> {
        let tables = Tables::new(&config);
        let ruleset = Arc::new(Ruleset::new(config, &*addresses)?);
        Ok(Engine::new(ruleset, tables, addresses, limits, seed, now))
    }

    /// Makes it that of one of several workers, before the first packet.
    pub fn share(&mut self, share: Share) {
        self.held.share = Some(share);
        if let Some(ruleset) = &self.ruleset {
            self.procedures = Procedures::new(ruleset, self.held.share.as_ref(), Millis(0));
        }
    }

    /// Somebody else sees to it that entries of tables expire.
    pub fn leave_tables(&mut self) {
        self.expires_tables = false;
    }

    /// Looks rules up in another way.
    pub fn look_up_by(&mut self, by: By) {
        self.by = by;
    }

    /// Puts other rules in force, at once. Connections whose rule, or map, is not there any more end when a packet of theirs
    /// comes, or, a few beside each burst and each [`Engine::tick`], soon.
    pub fn adopt(&mut self, ruleset: Arc<Ruleset>, now: Millis) {
        let mut tallies = vec![Tally::default(); ruleset.rules.len()];
        if let Some(old) = &self.ruleset {
            for (rule, tally) in ruleset.rules.iter().zip(&mut tallies) {
                let before = old.rule(rule.id).and_then(|(number, _)| self.tallies.get(number as usize));
                *tally = before.copied().unwrap_or_default();
            }
            if old.config.params != ruleset.config.params {
                self.connections.configure(&ruleset.config.params);
            }
            if !Arc::ptr_eq(&old.config, &ruleset.config) {
                self.procedures = Procedures::new(&ruleset, self.held.share.as_ref(), now);
            }
        }
        self.held.limited.add(ruleset.rules.iter());
        self.held.limits = ruleset.limits.clone();
        self.tallies = tallies;
        for interface in &mut self.interfaces.all {
            *interface = Interface::new(&interface.name, &ruleset);
        }
        self.ruleset = Some(ruleset);
        self.review = Some(0);
    }

    /// Decides on bursts by a module, which was made of the very rules that are in force; returns the one of before. Without one
    /// the plan decides, and so it does on single packets.
    pub fn set_module(&mut self, module: Option<Box<dyn RunningRuleset>>) -> Option<Box<dyn RunningRuleset>> {
        std::mem::replace(&mut self.module, module)
    }

    /// Puts another version of the tables in the place of the one that is here.
    pub fn set_tables(&mut self, tables: Tables) {
        self.tables = tables;
    }

    /// The addresses of interfaces have changed.
    pub fn set_addresses(&mut self, addresses: Addresses) {
        self.addresses = addresses;
    }

    /// Puts another configuration in force, with tables that keep what commands put into them, and ends at once every
    /// connection whose rule, or map, is not in it.
    ///
    /// # Errors
    /// When it cannot be run; then nothing changes.
    pub fn reload(&mut self, config: Arc<Config>, addresses: Addresses, now: Millis) -> Result<(), EngineError> {
        let Some(old) = self.ruleset.clone() else { return Ok(()) };
        let new = Arc::new(old.reloaded(config, &*addresses)?);
        self.addresses = addresses;
        let mut tables = Tables::new(&new.config);
        tables.keep(&new.config, &self.tables, &old.config);
        self.adopt(new, now);
        self.set_tables(tables);
        while self.review.is_some() {
            self.review();
        }
        Ok(())
    }

    /// Puts rules into a dynamic ruleset, in place of those that are there.
    ///
    /// # Errors
    /// When one cannot be run; then nothing changes.
    pub fn set_rules(&mut self, name: &str, rules: Vec<Rule>, now: Millis) -> Result<(), EngineError> {
        if let Some(old) = &self.ruleset {
            let new = old.with_rules(name, rules, &*self.addresses)?;
            self.adopt(Arc::new(new), now);
        }
        Ok(())
    }

    /// Puts maps into a map ruleset, in place of those that are there.
    ///
    /// # Errors
    /// None that is known; then nothing changes.
    pub fn set_maps(&mut self, name: &str, maps: Vec<Map>, now: Millis) -> Result<(), EngineError> {
        if let Some(old) = &self.ruleset {
            let new = old.with_maps(name, maps, &*self.addresses)?;
            self.adopt(Arc::new(new), now);
        }
        Ok(())
    }

    /// The rules in force.
    pub fn ruleset(&self) -> Option<&Arc<Ruleset>> {
        self.ruleset.as_ref()
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

    /// What each rule decided, its connections included, by its number in [`Engine::ruleset`].
    pub fn tallies(&self) -> &[Tally] {
        &self.tallies
    }

    /// Begins to count anew.
    pub fn zero_tallies(&mut self) {
        self.tallies.fill(Tally::default());
    }

    /// The name of an interface, by the number that connections know.
    pub fn interface_name(&self, number: u16) -> Option<&str> {
        self.interfaces.all.get(usize::from(number)).map(|i| i.name.as_str())
    }

    /// Connections in some slots of the table that the rules in force still know, and the slot to go on from; None: there are
    /// none behind.
    pub fn page(&self, slots: std::ops::Range<u32>) -> (impl Iterator<Item = (ConnId, &Connection)>, Option<u32>) {
        let (all, next) = self.connections.page(slots);
        let is_known = |c: &Connection| {
            self.ruleset.as_ref().is_some_and(|r| c.facts.serial == r.serial || r.facts_now(c.facts, c.map()).is_some())
        };
        (all.filter(move |(_, c)| is_known(c)), next)
    }

    /// Ends a connection.
    pub fn end(&mut self, id: ConnId) -> bool {
        let ended = self.connections.remove(id);
        if let Some(c) = &ended {
            self.held.release(id, c);
        }
        ended.is_some()
    }

    /// Does what is to be done from time to time, without a packet: what has expired ends.
    pub fn tick(&mut self, now: Millis) {
        self.sweep(now);
    }

    /// Whether nothing would be done by [`Engine::tick`] now or later: it need not be called until the next packet.
    pub fn is_idle(&self) -> bool {
        self.connections.is_empty()
            && self.held.mappings.is_empty()
            && self.review.is_none()
            && self.fragments.datagrams() == 0
    }

    /// Ends what has expired, a little beside each packet.
    fn sweep(&mut self, now: Millis) {
        self.held.now = now;
        if self.review.is_some() {
            self.review();
        }
        if self.expires_tables && now.0 >= self.next_sweep_of_tables {
            self.tables.expire(now);
            self.next_sweep_of_tables = now.0 + SWEEP_TABLES;
        }
        while let Some(call) = self.held.calls.over.pop() {
            self.end(call);
        }
        if now.0 >= self.next_sweep {
            self.fragments.expire(now.0);
            self.held.expire(now);
            if self.expire_connections(now, EXPIRE_AT_ONCE) < EXPIRE_AT_ONCE {
                self.next_sweep = now.0 + SWEEP;
            }
        }
    }

    fn expire_connections(&mut self, now: Millis, most: usize) -> usize {
        let held = &mut self.held;
        self.connections.expire(now, most, &mut |id, c| held.release(id, c))
    }

    /// Looks up connections again, after a reload: some of them.
    fn review(&mut self) {
        let (Some(from), Some(ruleset)) = (self.review, &self.ruleset) else { return };
        let held = &mut self.held;
        self.review = self.connections.retain(
            from..from.saturating_add(REVIEW_AT_ONCE),
            |c| if c.facts.serial == ruleset.serial { Some(c.facts) } else { ruleset.facts_now(c.facts, c.map()) },
            &mut |id, c| held.release(id, c),
        );
        if self.review.is_none() {
            self.held.limited.keep(|rule| ruleset.rule(rule).is_some());
        }
    }

    /// Judges a packet that begins at its IP header, and changes it as translation and procedures say. `tag` is what it got
    /// where it came in. Fragments are gathered; `bytes` become the whole packet.
    pub fn handle(&mut self, bytes: &mut Vec<u8>, place: &Place<'_>, tag: u16) -> Outcome {
        self.sweep(place.now);
        let mut outcome = Outcome::new();
        let packet = match self.assemble(bytes, place.now) {
            Ok(Some(packet)) => Some(packet),
            Ok(None) => {
                outcome.kept = true;
                return outcome;
            }
            Err(fault) => {
                self.fail(&mut outcome, fault);
                return outcome;
            }
        };
        self.seated(place, |engine, ruleset, seat| {
            let mut item = Item { tag, ..Item::new(bytes) };
            engine.judge(ruleset, &mut item, packet.as_ref(), seat, &mut outcome);
        });
        outcome
    }

    /// Judges packets that cross the same interface the same way, in order, and tells what becomes of each. Memory that they
    /// need is fetched for 64 of them at once. Fragments are judged as they are: who receives them has gathered them before.
    pub fn handle_burst(&mut self, burst: &mut impl Burst, place: &Place<'_>) {
        self.sweep(place.now);
        self.seated(place, |engine, ruleset, seat| {
            for first in (0..burst.len()).step_by(BURST) {
                let chunk = first..(first + BURST).min(burst.len());
                let mut module = engine.module.take();
                let left = match ruleset.passes_quickly && !ruleset.pptp && engine.by == By::Plan {
                    true => engine.express(&mut module, ruleset, burst, chunk.clone(), seat),
                    false => u64::MAX >> (BURST - chunk.len()),
                };
                if left != 0 {
                    let left = chunk.zip(0..).filter(|(_, bit)| left >> bit & 1 != 0).map(|(i, _)| i);
                    engine.general(&mut module, ruleset, burst, left, seat);
                }
                engine.module = module;
            }
        });
    }

    /// Judges packets of a burst, at most 64, one step after the other.
    fn general<B: Burst>(
        &mut self,
        module: &mut Module,
        ruleset: &Ruleset,
        burst: &mut B,
        numbers: impl Iterator<Item = usize>,
        seat: &Seat<'_>,
    ) {
        // Memory of the burst before: nothing is cleared nor moved that is not there.
        let mut packets = std::mem::take(&mut self.packets);
        packets.clear();
        packets.extend(numbers.map(|i| (i, burst.item(i).read())));
        if self.connections.len() >= WARM_FROM {
            self.connections.warm(packets.iter().flat_map(|(_, p)| p).map(|packet| (packet, seat.at)));
        }
        if let Some(module) = module {
            self.burst_by_module(&mut **module, ruleset, burst, &packets, seat);
        } else {
            for (i, packet) in &packets {
                let mut outcome = Outcome::new();
                self.judge(ruleset, &mut burst.item(*i), packet.as_ref(), seat, &mut outcome);
                burst.done(*i, outcome, ruleset);
            }
        }
        self.packets = packets;
    }

    /// Takes the ruleset out for as long as packets are judged by it.
    fn seated(&mut self, place: &Place<'_>, f: impl FnOnce(&mut Engine, &Ruleset, &Seat<'_>)) {
        // It is taken here and nowhere else, and always put back.
        let Some(ruleset) = self.ruleset.take() else { return };
        let number = self.interfaces.number_of(place.interface, &ruleset);
        let direction = if place.way == Where::In { Direction::In } else { Direction::Out };
        let here = self.interfaces.all.get(usize::from(number));
        let seat = Seat {
            interface: place.interface,
            way: place.way,
            now: place.now,
            at: Crossing { interface: Some(number), direction },
            in_plan: here.map_or(InterfaceNumber(0), |i| i.in_plan),
            always: here.and_then(|i| i.always[place.way as usize]),
            is_mapped: here.is_none_or(|i| i.is_mapped),
        };
        f(self, &ruleset, &seat);
        self.ruleset = Some(ruleset);
    }

    /// The headers of a packet, which is put together first if it is a fragment. None: others are missing.
    fn assemble(&mut self, bytes: &mut Vec<u8>, now: Millis) -> Result<Option<Packet>, Fault> {
        let packet = Packet::read(bytes).map_err(|_| Fault::Malformed)?;
        let reassembly = match packet.family {
            Family::V4 => Param::Ip4Reassembly,
            Family::V6 => Param::Ip6Reassembly,
        };
        let is_on = self.ruleset.as_ref().is_some_and(|r| r.config.params.is_on(reassembly));
        if packet.fragment.is_none() || !is_on {
            return Ok(Some(packet));
        }
        match self.fragments.take(bytes, &packet, now.0) {
            Assembled::Kept => {
                self.stats.fragments_kept += 1;
                Ok(None)
            }
            Assembled::Dropped(_) => Err(Fault::Fragment),
            Assembled::Whole(whole) => {
                self.stats.reassembled += 1;
                *bytes = whole;
                Packet::read(bytes).map(Some).map_err(|_| Fault::Malformed)
            }
        }
    }

    fn fail(&mut self, outcome: &mut Outcome, fault: Fault) {
        outcome.pass = false;
        outcome.fault = Some(fault);
        *self.stats.of(fault) += 1;
    }
}
