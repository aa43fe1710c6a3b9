//! The straight way of most packets: plain ones of connections that run no procedure, translated or not, and plain ones that a
//! rule passes which does nothing else.
//!
//! It is taken by whole bursts, step by step, so that the memory of all packets is fetched at the same time. Whatever is not
//! plain in some way is left as it is for the general way, which decides and counts as if this one did not exist. Packets
//! of a burst may so be judged out of order; where that could be told, they are left to it as well: behind a packet that may
//! begin or move a connection, what is of the same protocol.

use super::{BURST, Burst, Engine, Item, Module, Ruleset, Seat, WARM_FROM};
use crate::{
    config::TableId,
    plain::{Plain, Read},
    plan::RuleIndex,
    state::{Bound, Quick, State, Tally},
    tables::Tables,
    wasm::{Facts, NONE, RulesetHost, Side},
};
use std::ops::Range;

/// What is seen of a packet at a glance.
#[derive(Clone, Copy, Debug)]
pub struct Glance<'a> {
    /// Its first bytes, from the IP header on.
    pub bytes: &'a [u8],
    /// Bytes that it has.
    pub len: usize,
    /// Its tag: [`super::Item::tag`].
    pub tag: u16,
}

/// A packet goes on.
#[derive(Clone, Copy, Debug)]
pub struct Passed<'a> {
    /// The number of the rule that decided, also of the connection that it belongs to.
    pub rule: u32,
    /// The tag that it carries from here on.
    pub tag: u16,
    /// The state of its connection.
    pub connection: Option<&'a State>,
    /// Its addresses and ports were changed.
    pub is_translated: bool,
}

/// A packet on its way.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Its key is bound to where it is.
    plain: Plain,
    hash: u32,
    tag: u16,
    /// Its number in the part of the burst that is judged at once.
    place: u8,
}

/// Memory that is used again and again.
#[derive(Default)]
pub(super) struct Express {
    seen: Vec<Seen>,
    /// Those that belong to no connection.
    unknown: Vec<Seen>,
}

impl Express {
    pub fn new() -> Express {
        Express { seen: Vec::with_capacity(BURST), unknown: Vec::with_capacity(BURST) }
    }
}

/// What rules decided, those of the same one in a row together.
struct Run {
    rule: u32,
    tally: Tally,
}

impl Run {
    fn new() -> Run {
        Run { rule: NONE, tally: Tally::default() }
    }

    #[inline(always)]
    fn count(&mut self, tallies: &mut [Tally], rule: u32, len: u16) {
        if rule != self.rule {
            self.end(tallies);
            self.rule = rule;
        }
        self.tally.packets += 1;
        self.tally.bytes += u64::from(len);
    }

    fn end(&mut self, tallies: &mut [Tally]) {
        if let Some(tally) = tallies.get_mut(self.rule as usize) {
            tally.packets += self.tally.packets;
            tally.bytes += self.tally.bytes;
        }
        self.tally = Tally::default();
    }
}

/// What a module asks of an engine about plain packets, of rules without limits.
struct Asked<'a, B> {
    tables: &'a Tables,
    unknown: &'a [Seen],
    burst: &'a mut B,
    /// The number of the first packet of the part.
    first: usize,
}

impl<B: Burst> RulesetHost for Asked<'_, B> {
    fn is_in_table(&mut self, _: usize, facts: &Facts, table: TableId, side: Side) -> bool {
        self.tables.contains(table, facts.family(), facts.address(side), facts.service(side))
    }

    fn within(&mut self, _: usize, _: RuleIndex) -> bool {
        false
    }

    fn bytes(&mut self, packet: usize) -> &[u8] {
        let Some(seen) = self.unknown.get(packet) else { return &[] };
        let bytes = self.burst.item(self.first + usize::from(seen.place)).bytes;
        let len = usize::from(seen.plain.len).min(bytes.len());
        &bytes[..len]
    }
}

impl Engine {
    /// Judges the packets of a part of a burst that are plain. Returns those that are left, a bit for each.
    pub(super) fn express<B: Burst>(
        &mut self,
        module: &mut Module,
        ruleset: &Ruleset,
        burst: &mut B,
        chunk: Range<usize>,
        seat: &Seat<'_>,
    ) -> u64 {
        let (first, all) = (chunk.start, u64::MAX >> (BURST - chunk.len()));
        let steers = self.held.share.is_some() && ruleset.has_state;
        if let Some(rule) = seat.always
            && !steers
            && !seat.is_mapped
            && !self.connections.any_at(seat.at.interface)
        {
            return all & !self.pass_all(ruleset, burst, chunk, rule);
        }
        let mut work = std::mem::take(&mut self.express);
        let (bound, floating) = self.connections.bindings();
        self.glance(&mut work.seen, burst, chunk, Bound::new(seat.at, bound));
        if self.connections.len() >= WARM_FROM {
            work.seen.iter().for_each(|seen| self.connections.prefetch_found(seen.hash));
        }
        let floating = floating.map(|binding| Bound::new(seat.at, binding));
        work.unknown.clear();
        let mut done = self.pass_connections(ruleset, &mut work, (burst, first), floating, seat);
        if !work.unknown.is_empty() && !seat.is_mapped {
            done |= self.pass_rules(module, ruleset, &mut work.unknown, (burst, first), seat);
        }
        self.express = work;
        all & !done
    }

    /// Passes all packets in order, where no connection can be and the same rule always decides.
    #[inline]
    fn pass_all<B: Burst>(&mut self, ruleset: &Ruleset, burst: &mut B, chunk: Range<usize>, rule: u32) -> u64 {
        if !ruleset.just_passes(rule) {
            return 0;
        }
        let (mut done, mut run) = (0u64, Run::new());
        for (number, place) in chunk.zip(0..) {
            let read = burst.glance(number, |g| (Plain::read(g.bytes, g.len), g.tag));
            let Some((Read::Plain(plain), tag)) = read else { continue };
            run.count(&mut self.tallies, rule, plain.len);
            burst.passed(number, Passed { rule, tag, connection: None, is_translated: false }, ruleset);
            done |= 1 << place;
        }
        run.end(&mut self.tallies);
        self.stats.passed_rules += u64::from(done.count_ones());
        done
    }

    /// Reads the plain packets, and has the memory fetched that they will need.
    #[inline]
    fn glance<B: Burst>(&self, seen: &mut Vec<Seen>, burst: &mut B, chunk: Range<usize>, bound: Bound) {
        seen.clear();
        let mut held = [false; 2];
        for (number, place) in chunk.zip(0..) {
            let read = burst.glance(number, |g| (Plain::read(g.bytes, g.len), g.tag));
            match read {
                Some((Read::Plain(mut plain), tag)) if !plain.moves() => {
                    if held[usize::from(plain.is_tcp())] {
                        continue;
                    }
                    plain.key = plain.key.bound(bound);
                    let hash = self.connections.hash_short(&plain.key);
                    self.connections.prefetch_search(hash);
                    seen.push(Seen { plain, hash, tag, place });
                }
                None => held = [true; 2],
                Some((Read::Plain(plain), _)) => held[usize::from(plain.is_tcp())] = true,
                Some((Read::Other { has_ports: true }, _)) => held = [true; 2],
                Some((Read::Other { has_ports: false }, _)) => {}
            }
        }
    }

    /// Passes what belongs to a connection; those that belong to none become unknown.
    #[inline]
    fn pass_connections<B: Burst>(
        &mut self,
        ruleset: &Ruleset,
        work: &mut Express,
        (burst, first): (&mut B, usize),
        floating: Option<Bound>,
        seat: &Seat<'_>,
    ) -> u64 {
        let (mut done, mut run, mut held) = (0u64, Run::new(), [false; 2]);
        for packet in &work.seen {
            let Seen { ref plain, hash, tag, place } = *packet;
            let (number, at) = (first + usize::from(place), (ruleset.serial, seat.at, seat.now));
            if held[usize::from(plain.is_tcp())] {
                continue;
            }
            let mut tcp = || burst.glance(number, |g| plain.tcp(g.bytes)).unwrap_or_else(|| plain.tcp(&[]));
            let mut quick = self.connections.pass_quickly((&plain.key, hash), at, plain.len, &mut tcp);
            if let (Quick::Unknown, Some(bound)) = (&quick, floating) {
                let key = plain.key.bound(bound);
                let hash = self.connections.hash_short(&key);
                quick = self.connections.pass_quickly((&key, hash), at, plain.len, &mut tcp);
            }
            match quick {
                Quick::Passes(connection, change) => {
                    let facts = &connection.facts;
                    if let Some(change) = change {
                        let Item { bytes, checksum_is_open, .. } = burst.item(number);
                        plain.rewrite(bytes, change, checksum_is_open);
                    }
                    run.count(&mut self.tallies, facts.number, plain.len);
                    let tag = if facts.tag != 0 { facts.tag } else { tag };
                    let (connection, is_translated) = (Some(connection.state()), change.is_some());
                    burst.passed(number, Passed { rule: facts.number, tag, connection, is_translated }, ruleset);
                    done |= 1 << place;
                }
                Quick::Unknown => work.unknown.push(*packet),
                Quick::Ask => held[usize::from(plain.is_tcp())] = true,
            }
        }
        run.end(&mut self.tallies);
        self.stats.passed_connections += u64::from(done.count_ones());
        done
    }

    /// Passes what a rule passes that does nothing else.
    #[inline]
    fn pass_rules<B: Burst>(
        &mut self,
        module: &mut Module,
        ruleset: &Ruleset,
        unknown: &mut Vec<Seen>,
        (burst, first): (&mut B, usize),
        seat: &Seat<'_>,
    ) -> u64 {
        if let Some(share) = self.held.share.as_ref().filter(|_| ruleset.has_state) {
            unknown.retain(|packet| {
                let key = packet.plain.key.bound(Bound::NOTHING).whole();
                share.owner(&key, || self.mapping_owner(ruleset, share, &key)).is_none()
            });
        }
        let mut done = 0u64;
        let mut run = Run::new();
        let mut pass = |packet: &Seen, rule: u32, burst: &mut B| {
            run.count(&mut self.tallies, rule, packet.plain.len);
            let number = first + usize::from(packet.place);
            let passed = Passed { rule, tag: packet.tag, connection: None, is_translated: false };
            burst.passed(number, passed, ruleset);
            done |= 1 << packet.place;
        };
        if let Some(rule) = seat.always {
            if ruleset.just_passes(rule) {
                unknown.iter().for_each(|packet| pass(packet, rule, burst));
            }
        } else if let Some(module) = module.as_mut().filter(|_| !ruleset.has_limits && !unknown.is_empty()) {
            for (packet, facts) in unknown.iter().zip(module.facts()) {
                *facts = packet.plain.facts(seat.in_plan, seat.way, ruleset.tag_in_plan(packet.tag));
            }
            let mut asked = Asked { tables: &self.tables, unknown, burst, first };
            match module.decide(unknown.len(), &mut asked) {
                Ok(rules) => {
                    for (packet, rule) in unknown.iter().zip(rules) {
                        if ruleset.just_passes(*rule) {
                            pass(packet, *rule, burst);
                        } else if ruleset.opens(*rule) {
                            break;
                        }
                    }
                }
                Err(_) => self.stats.module_faults += 1,
            }
        }
        run.end(&mut self.tallies);
        self.stats.passed_rules += u64::from(done.count_ones());
        done
    }
}
