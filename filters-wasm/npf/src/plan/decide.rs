//! A plan asked about a packet. This is what the module that a plan is compiled to does, in Rust.

use super::{
    Map, Plan, RuleIndex, Space,
    check::{Checker, Memo},
    image::Image,
    rows::BLOCK,
    shape,
};
use crate::{
    evaluate::{Asked, Where},
    packet::{Packet, Upper},
    tables::Tables,
};
use std::ops::ControlFlow;

/// Words of a rule's record, in the order of the constants below.
pub const RECORD: u32 = 6;
/// Record: the rule's number.
pub const RECORD_RULE: u32 = 0;
/// Record: [`FINAL`], [`DYNAMIC`] and [`LIMITED`].
pub const RECORD_FLAGS: u32 = 1;
/// Record: the number of the first rule of its dynamic ruleset; of others their own.
pub const RECORD_UNIT: u32 = 2;
/// Record: the number behind the last rule of its dynamic ruleset.
pub const RECORD_UNIT_END: u32 = 3;
/// Record: the position behind its segment, which ends at a barrier.
pub const RECORD_SEGMENT_END: u32 = 4;
/// Record: where its checks are ([`super::check`]); 0 for none.
pub const RECORD_CHECK: u32 = 5;

/// No rule behind it is looked at.
pub const FINAL: u32 = 1;
/// It is in a dynamic ruleset, which is final as a whole.
pub const DYNAMIC: u32 = 2;
/// It has limits: `within` is asked, in the order of the rules.
pub const LIMITED: u32 = 4;

/// Source and destination, their ports, the upper protocol, and interface with way.
const DIMENSIONS: usize = 6;

/// No rule.
pub const NONE: u32 = u32::MAX;

/// An interface as a plan numbers it; 0 is any that no rule names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct InterfaceNumber(pub u32);

/// A tag as a plan numbers it; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TagNumber(pub u32);

impl TagNumber {
    /// A tag that no rule asks for.
    pub const OTHER: TagNumber = TagNumber(u32::MAX);
}

/// [`Asked`] with numbers for names, as the packet path asks.
#[derive(Clone, Copy, Debug)]
pub struct Numbered<'a> {
    /// The packet's headers.
    pub packet: &'a Packet,
    /// Its bytes, from the IP header on.
    pub bytes: &'a [u8],
    /// The interface.
    pub interface: InterfaceNumber,
    /// Which way it crosses it.
    pub way: Where,
    /// The tag that it carries.
    pub tag: TagNumber,
}

/// Told what a decision costs. `()` does not listen.
pub trait Meter {
    /// So many words of tables were read.
    fn read(&mut self, words: u32);
    /// A rule fits in all dimensions.
    fn survivor(&mut self) {}
}

impl Meter for () {
    #[inline]
    fn read(&mut self, _: u32) {}
}

/// What decisions cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Words of 32 or 64 bits that were read of a plan's tables.
    pub words: u64,
    /// Rules that fit in all dimensions and were looked at one by one.
    pub survivors: u64,
}

impl Meter for Cost {
    fn read(&mut self, words: u32) {
        self.words += u64::from(words);
    }

    fn survivor(&mut self) {
        self.survivors += 1;
    }
}

/// What has matched so far in a segment.
struct Found {
    /// The last rule that matched and stops nothing.
    last: u32,
    /// The first final rule or dynamic ruleset that matched.
    unit: u32,
    /// Where that ends.
    unit_end: u32,
    /// The first final rule in it that matched.
    unit_final: u32,
    /// The last rule in it that matched.
    unit_last: u32,
}

impl Found {
    const NOTHING: Found = Found { last: NONE, unit: NONE, unit_end: NONE, unit_final: NONE, unit_last: NONE };

    fn rule(&self) -> u32 {
        match (self.unit, self.unit_final) {
            (NONE, _) => self.last,
            (_, NONE) => self.unit_last,
            (_, rule) => rule,
        }
    }

    /// The first rule that is not looked at any more.
    fn stop(&self) -> u32 {
        match (self.unit, self.unit_final) {
            (NONE, _) => NONE,
            (_, NONE) => self.unit_end,
            (_, rule) => rule,
        }
    }

    /// Whether it cannot matter if the rule matches.
    fn is_settled(&self, rule: u32, flags: u32, unit: u32) -> bool {
        if flags & (FINAL | DYNAMIC) != 0 {
            unit > self.unit || (unit == self.unit && rule > self.unit_final)
        } else {
            self.unit != NONE || (self.last != NONE && rule < self.last)
        }
    }

    /// A rule matches; those of a segment may come in any order.
    fn take(&mut self, rule: u32, flags: u32, unit: u32, unit_end: u32) {
        if flags & (FINAL | DYNAMIC) == 0 {
            self.last = if self.last == NONE { rule } else { self.last.max(rule) };
            return;
        }
        if unit < self.unit {
            *self = Found { last: self.last, unit, unit_end, unit_final: NONE, unit_last: rule };
        }
        if unit == self.unit {
            self.unit_last = self.unit_last.max(rule);
            if flags & FINAL != 0 {
                self.unit_final = self.unit_final.min(rule);
            }
        }
    }
}

impl Plan {
    /// The rule that decides on a packet. None: no rule matches, and the packet is blocked.
    ///
    /// `within` says whether a rule that would match may, as its limits say. It is asked for rules with limits only, for
    /// the very ones that the literal evaluator would ask for, in the same order.
    pub fn decide(&self, asked: &Asked<'_>, tables: &Tables, within: &dyn Fn(RuleIndex) -> bool) -> Option<RuleIndex> {
        self.decide_numbered(&self.numbered(asked), tables, within, &mut ())
    }

    /// The numbers for the names of a question.
    pub fn numbered<'a>(&self, asked: &Asked<'a>) -> Numbered<'a> {
        let Asked { packet, bytes, interface, way, tag } = *asked;
        Numbered { packet, bytes, interface: self.interface(interface), way, tag: self.tag(tag) }
    }

    /// As [`Plan::decide`], with numbers for names.
    pub fn decide_numbered(
        &self,
        asked: &Numbered<'_>,
        tables: &Tables,
        within: &dyn Fn(RuleIndex) -> bool,
        meter: &mut impl Meter,
    ) -> Option<RuleIndex> {
        let space = &self.spaces[asked.packet.family as usize];
        if space.rules == 0 {
            return None;
        }
        let image = &self.image;
        let memo = Memo::default();
        let checker = Checker { image, programs: &self.programs, asked, tables, memo, words: 0 };
        let mut walk = Walk { space, checker, within, meter, found: Found::NOTHING, segment_end: 0 };
        let interfaces = self.interfaces.len() as u32;
        // Where all is said, what it breaks with says no more.
        let _ = if space.small { walk.small(interfaces) } else { walk.large(interfaces) };
        let (words, found) = (walk.checker.words, walk.found.rule());
        meter.read(words);
        Some(RuleIndex(found)).filter(|rule| rule.0 != NONE)
    }
}

/// A decision that is being made.
struct Walk<'a, M> {
    space: &'a Space,
    checker: Checker<'a>,
    within: &'a dyn Fn(RuleIndex) -> bool,
    meter: &'a mut M,
    found: Found,
    /// The position behind the segment in which something may have been found.
    segment_end: u32,
}

impl<M: Meter> Walk<'_, M> {
    fn small(&mut self, interfaces: u32) -> ControlFlow<()> {
        let image = self.checker.image;
        let mut bits = u64::MAX >> (64 - self.space.rules.clamp(1, 64));
        let read = self.space.dimensions(self.checker.asked, interfaces, image, |map, step| {
            bits &= image.w(map.rows, step);
        });
        self.meter.read(read);
        self.rules(0, bits)
    }

    fn large(&mut self, interfaces: u32) -> ControlFlow<()> {
        let (image, space) = (self.checker.image, self.space);
        let (mut rows, mut count) = ([0; DIMENSIONS], 0);
        let read = space.dimensions(self.checker.asked, interfaces, image, |map, step| {
            rows[count] = image.n(map.rows, step);
            count += 1;
        });
        self.meter.read(read);
        let rows = &rows[..count];
        for sum in 0..space.sums {
            let mut words = u64::MAX;
            for row in rows {
                words &= image.w(space.summaries, row * space.sums + sum);
            }
            self.meter.read(count as u32);
            while words != 0 {
                let word = sum * 64 + words.trailing_zeros();
                words &= words - 1;
                if self.found.rule() != NONE && word * 64 >= self.segment_end {
                    return ControlFlow::Break(());
                }
                let (block, offset) = (word / BLOCK as u32, word % BLOCK as u32);
                let mut bits = u64::MAX;
                for row in rows {
                    let block = image.n(space.rows, row * space.stride + block);
                    bits &= image.w(space.blocks, block * BLOCK as u32 + offset);
                    self.meter.read(2);
                    if bits == 0 {
                        break;
                    }
                }
                self.rules(word, bits)?;
            }
        }
        ControlFlow::Continue(())
    }

    /// Looks at the rules whose bits are left of a word.
    #[inline]
    fn rules(&mut self, word: u32, mut bits: u64) -> ControlFlow<()> {
        let (image, space) = (self.checker.image, self.space);
        while bits != 0 {
            let position = word * 64 + bits.trailing_zeros();
            bits &= bits - 1;
            let record = space.records + position * RECORD;
            if position >= self.segment_end {
                if self.found.rule() != NONE {
                    return ControlFlow::Break(());
                }
                self.segment_end = image.n(record, RECORD_SEGMENT_END);
            }
            self.meter.survivor();
            self.meter.read(RECORD);
            let rule = image.n(record, RECORD_RULE);
            let flags = image.n(record, RECORD_FLAGS);
            let unit = image.n(record, RECORD_UNIT);
            let limited = flags & LIMITED != 0;
            // Whether a limit is asked changes what it answers later; so it is asked where the rule is reached.
            let skipped = if limited { rule >= self.found.stop() } else { self.found.is_settled(rule, flags, unit) };
            if skipped {
                continue;
            }
            let check = image.n(record, RECORD_CHECK);
            if (check == 0 || self.checker.holds(check)) && (!limited || (self.within)(RuleIndex(rule))) {
                self.found.take(rule, flags, unit, image.n(record, RECORD_UNIT_END));
            }
        }
        ControlFlow::Continue(())
    }
}

impl Space {
    /// The packet's step in each dimension in which rules ask something, those that tell most first; returns how many
    /// words were read, those that `take` reads at a step included.
    #[inline]
    fn dimensions(&self, asked: &Numbered<'_>, interfaces: u32, image: &Image, mut take: impl FnMut(&Map, u32)) -> u32 {
        let packet = asked.packet;
        let ports = packet.ports();
        let port = |port: Option<u16>| port.map_or(shape::NO_PORT as u32, u32::from);
        let way = asked.way as u32;
        let interface = if asked.interface.0 > interfaces { 0 } else { asked.interface.0 };
        let (upper, upper_number) = match packet.upper {
            Upper::Icmp(icmp) => (&self.icmp, u16::from_be_bytes([icmp.kind, icmp.code]).into()),
            Upper::Tcp(tcp) => (&self.upper, shape::UPPER_TCP as u32 + u32::from(tcp.flags)),
            _ => (&self.upper, packet.proto.into()),
        };
        let mut read = 0;
        for (map, address) in [(&self.dst, packet.dst), (&self.src, packet.src)] {
            if !map.open {
                // Of IPv4, the last 32 bits are the address.
                let (step, words) = map.step(address, image);
                take(map, step);
                read += words + 1;
            }
        }
        for (map, number) in [
            (&self.dport, port(ports.map(|p| p.dst))),
            (upper, upper_number),
            (&self.gates, shape::gate_number(way, interface, interfaces)),
            (&self.sport, port(ports.map(|p| p.src))),
        ] {
            if !map.open {
                let (step, words) = map.step_narrow(number, image);
                take(map, step);
                read += words + 1;
            }
        }
        read
    }
}
