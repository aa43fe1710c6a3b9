//! Rules as decision structures: what [`crate::evaluate::Evaluator`] decides, at a cost that hardly grows with the rules.
//!
//! A plan is made of a configuration and is data: two arrays of words ([`Image`]), the places of their parts ([`Space`],
//! [`Map`]), and the programs of pcap-filter rules. It is what the WebAssembly module of a configuration is made of: the
//! arrays become data segments, the places constants, and [`Plan::decide_numbered`] the code. Nothing is allocated and no
//! loop is unbounded when a packet is asked about.
//!
//! # How a packet is decided on
//!
//! ```text
//!   packet ── dst ────── Map ── row ┐
//!          ── src ────── Map ── row │                                   records of the rules
//!          ── dport ──── Map ── row ├─ AND of summaries ─ AND of words ─ whose bits are left ─ checks ─ decision
//!          ── upper ──── Map ── row │
//!          ── gate ───── Map ── row │
//!          ── sport ──── Map ── row ┘
//! ```
//!
//! 1. Each *dimension* is a number: the addresses; the ports, 65536 for none; the upper protocol (a protocol's number, of
//!    TCP 256 + flags; of ICMP a map of its own for type and code); and the gate, which is the interface and the way:
//!    `way * (interfaces + 1) + interface`, with ways in, out, forwarded. A [`Map`] leads from it to a *row*: a bit for
//!    each rule that takes the number. A dimension in which no rule asks anything ([`Map::open`]) is left out.
//! 2. A row is `stride` numbers of blocks (narrow, at `rows + row * stride`). A block is eight words of 64 bits (wide, at
//!    `blocks + block * 8`), kept once however many rows share it. A bit in the row's summary (`sums` wide words at
//!    `summaries + row * sums`) tells which of its words are not zero.
//! 3. The summaries of all dimensions are ANDed, then the words that are left. A bit that is left is a rule that fits.
//! 4. Its record ([`decide::RECORD`] narrow words at `records + position * RECORD`) tells the rest. What no dimension
//!    knows (tables whose contents change, tags, pcap-filter) is a check ([`check`]).
//!
//! With up to 64 rules ([`Space::small`]) a row is one word; maps lead to it at once, and 2 and 3 are a single AND.
//!
//! # Positions
//!
//! A bit's position is not its rule's number. Segments, the rules between two barriers, follow each other, and the first
//! one in which a rule matches decides. Within a segment, order does not matter to find the decision: it is the smallest
//! final rule or dynamic ruleset that matches, or the largest of all that match. So rules that look alike stand together
//! there, by interface, by which dimensions they leave open, and by addresses; a packet then finds bits in few words,
//! which is what makes summaries work with thousands of rules of which each leaves something open. Rules with limits
//! stand behind the others of their segment, in order: when they are come to, it is known how far the walk of the evaluator gets, and the
//! limits that it would ask are asked, in its order.
//!
//! IPv4 and IPv6 have a [`Space`] each, with the rules that can match there.
//!
//! # What it costs
//!
//! Words read grow with the logarithm of the rules where addresses are crowded, with one bit in 4096 rules for summaries,
//! and with the rules that really match the packet, each of which is looked at. Random 5-tuples: 21 words for 10 rules, 32
//! for 1,000 and 40 for 10,000. Memory is a row for each end of a range, 4 bytes for each 512 rules in it: 2.5 to 4 MiB for
//! 10,000 rules; from 100,000 on that square is what counts.
//!
//! # What a plan knows of the world
//!
//! The addresses of interfaces as they were when it was made; a new plan is needed when [`Plan::asked_interfaces`] change.
//! The rules of dynamic rulesets: adding one makes a new plan. Tables it asks for, and they may change.

mod always;
pub mod check;
pub mod decide;
mod flatten;
mod image;
mod map;
mod ranges;
mod rows;
mod shape;
#[cfg(test)]
mod tests;

pub use self::{
    decide::{Cost, InterfaceNumber, Meter, Numbered, TagNumber},
    image::Image,
    map::Map,
};
pub(crate) use self::{
    rows::BLOCK,
    shape::{NO_PORT, UPPER_ICMP, UPPER_TCP},
};

use self::{
    check::{Checks, Names},
    decide::{DYNAMIC, FINAL, LIMITED, RECORD},
    flatten::Flat,
    ranges::Ranges,
    rows::Rows,
    shape::{Shape, Shaper, UPPER_TOP},
};
use crate::{
    config::{Config, Family, Rule},
    evaluate::{Dynamic, Interfaces, Programs, Where},
};
use smpnet_bpf::Program;
use std::{cmp::Reverse, collections::HashMap};

/// Number of a rule: its place in [`rules`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleIndex(pub u32);

/// The rules of a configuration in the order in which they are looked at, with those of dynamic rulesets where these
/// stand. Groups of layer 2 are left out.
pub fn rules<'a>(config: &'a Config, dynamic: &'a Dynamic) -> Vec<&'a Rule> {
    flatten::flatten(config, dynamic).into_iter().map(|flat| flat.rule).collect()
}

/// Decision structures.
#[derive(Clone, Debug)]
pub struct Plan {
    image: Image,
    /// Of IPv4 and of IPv6.
    spaces: [Space; 2],
    /// The interfaces that rules tell apart, sorted; numbered from 1.
    interfaces: Vec<String>,
    /// The tags that rules ask for, sorted, with their numbers.
    tags: Vec<(String, u32)>,
    programs: Vec<Program>,
    asked_interfaces: Vec<String>,
    rules: u32,
    /// Of IPv4: for each gate the rule that decides on all packets there.
    always: Vec<u32>,
}

/// Where the parts for a family are in an [`Image`]. The module's text tells what they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Rules that can match; nothing below counts if there are none.
    pub rules: u32,
    /// There are at most 64 rules: a row is one word, which maps lead to at once.
    pub small: bool,
    /// Where the rules' records are, in the narrow words, by position.
    pub records: u32,
    /// Blocks of a row. This and what follows is 0 in a small space.
    pub stride: u32,
    /// Words of a row's summary.
    pub sums: u32,
    /// Where the rows are, in the narrow words.
    pub rows: u32,
    /// Where the summaries are, in the wide words.
    pub summaries: u32,
    /// Where the blocks are, in the wide words.
    pub blocks: u32,
    /// Interfaces and ways.
    pub gates: Map,
    /// Source addresses.
    pub src: Map,
    /// Destination addresses.
    pub dst: Map,
    /// Protocols, and from 256 on TCP's flags.
    pub upper: Map,
    /// ICMP's type times 256 plus code.
    pub icmp: Map,
    /// Source ports; 65536 for none.
    pub sport: Map,
    /// Destination ports; 65536 for none.
    pub dport: Map,
}

impl Plan {
    /// Makes the plan of a configuration and of what commands have added to it.
    ///
    /// Pcap-filter rules whose expression is not among the programs never match, as in the evaluator.
    pub fn new(config: &Config, programs: &Programs, interfaces: &dyn Interfaces, dynamic: &Dynamic) -> Plan {
        let flat = flatten::flatten(config, dynamic);
        let names_of_interfaces = flatten::interfaces(&flat);
        let mut image = Image::default();
        let mut names = Names::default();
        let mut known = HashMap::new();
        let mut always = Vec::new();
        let spaces = [Family::V4, Family::V6].map(|family| {
            let mut shaper = Shaper {
                family,
                interfaces: &names_of_interfaces,
                of_interfaces: interfaces,
                known: std::mem::take(&mut known),
                uppers: HashMap::new(),
            };
            let space = Space::new(&flat, programs, &mut shaper, (&mut names, &mut always), &mut image);
            known = shaper.known;
            space
        });
        image.shrink();
        let (tags, programs) = names.into_parts();
        let mut asked_interfaces: Vec<String> = known.into_keys().collect();
        asked_interfaces.sort_unstable();
        let rules = flat.len() as u32;
        Plan { image, spaces, interfaces: names_of_interfaces, tags, programs, asked_interfaces, rules, always }
    }

    /// The number of an interface.
    pub fn interface(&self, name: &str) -> InterfaceNumber {
        let at = self.interfaces.binary_search_by(|i| i.as_str().cmp(name));
        InterfaceNumber(at.map_or(0, |n| n as u32 + 1))
    }

    /// The number of a tag.
    pub fn tag(&self, name: Option<&str>) -> TagNumber {
        let Some(name) = name else { return TagNumber::default() };
        let at = self.tags.binary_search_by(|(tag, _)| tag.as_str().cmp(name));
        at.ok().and_then(|n| self.tags.get(n)).map_or(TagNumber::OTHER, |(_, number)| TagNumber(*number))
    }

    /// The rule that decides on all packets of IPv4 that cross an interface this way, whatever they are: None if it is theirs to
    /// say.
    pub fn always(&self, interface: InterfaceNumber, way: Where) -> Option<RuleIndex> {
        let interfaces = self.interfaces.len() as u32;
        let interface = if interface.0 > interfaces { 0 } else { interface.0 };
        let rule = *self.always.get(shape::gate_number(way as u32, interface, interfaces) as usize)?;
        Some(RuleIndex(rule)).filter(|r| r.0 != decide::NONE)
    }

    /// How many rules there are: as many as [`rules`] tells.
    pub fn len(&self) -> usize {
        self.rules as usize
    }

    /// There are no rules.
    pub fn is_empty(&self) -> bool {
        self.rules == 0
    }

    /// The arrays.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// The places of a family's parts.
    pub fn space(&self, family: Family) -> &Space {
        &self.spaces[family as usize]
    }

    /// The interfaces that rules tell apart, the first of which has number 1.
    pub fn interfaces(&self) -> &[String] {
        &self.interfaces
    }

    /// The programs that checks name by their numbers.
    pub fn programs(&self) -> &[Program] {
        &self.programs
    }

    /// The interfaces whose addresses are in the plan.
    pub fn asked_interfaces(&self) -> &[String] {
        &self.asked_interfaces
    }

    /// Bytes of its arrays.
    pub fn bytes(&self) -> usize {
        self.image.narrow_words().len() * 4 + self.image.wide_words().len() * 8
    }
}

impl Space {
    fn new(
        flat: &[Flat<'_>],
        programs: &Programs,
        shaper: &mut Shaper<'_>,
        (names, always): (&mut Names, &mut Vec<u32>),
        image: &mut Image,
    ) -> Space {
        let mut checks = Checks::new(shaper.family);
        let mut placed: Vec<(u32, &Flat<'_>, Shape)> = Vec::new();
        for (rule, flat) in flat.iter().enumerate() {
            if let Some(shape) = shaper.shape(flat, programs, &mut checks, names) {
                placed.push((rule as u32, flat, shape));
            }
        }
        if placed.is_empty() {
            return Space::default();
        }
        let top = shape::top_of(shaper.family);
        let interfaces = shaper.interfaces.len() as u32;
        let last_gate = shape::gate_number(2, interfaces, interfaces);
        if shaper.family == Family::V4 {
            *always = always::always(&placed, last_gate + 1, top);
        }
        placed.sort_by_cached_key(|(rule, flat, shape)| {
            let likeness = (flat.rule.limits.is_empty()).then(|| likeness(shape, top));
            // Of rules that are alike, those that settle what the others say are looked at first.
            let is_first_wanted = flat.rule.is_final || flat.dynamic || likeness.is_none();
            let order = if is_first_wanted { i64::from(*rule) } else { -i64::from(*rule) };
            // None, of the rules with limits, would be first.
            (flat.segment, likeness.is_none(), likeness, order)
        });

        let checks_at = image.narrow(&checks.words);
        let mut records = Vec::with_capacity(placed.len() * RECORD as usize);
        for part in placed.chunk_by(|a, b| a.1.segment == b.1.segment) {
            let segment_end = (records.len() / RECORD as usize + part.len()) as u32;
            for (rule, flat, shape) in part {
                let flag = |is: bool, flag: u32| if is { flag } else { 0 };
                let flags = flag(flat.rule.is_final, FINAL)
                    | flag(flat.dynamic, DYNAMIC)
                    | flag(!flat.rule.limits.is_empty(), LIMITED);
                let check = if shape.check == 0 { 0 } else { checks_at + shape.check };
                records.extend([*rule, flags, flat.unit, flat.unit_end, segment_end, check]);
            }
        }

        let mut rows = Rows::new(placed.len());
        let small = placed.len() <= 64;
        let mut map = |of: fn(&Shape) -> &Ranges, first: u128, last: u128, image: &mut Image| {
            let steps = rows.steps(placed.iter().map(|(_, _, shape)| of(shape)), (first, last));
            let map = Map::new(&steps, last - first, image, |image, numbers| match small {
                true => image.wide(&numbers.iter().map(|row| rows.first_word(*row)).collect::<Vec<_>>()),
                false => image.narrow(numbers),
            });
            let is_open = |ranges: &Ranges| ranges.iter().any(|r| r.0 <= first && r.1 >= last);
            Map { open: placed.iter().all(|(_, _, shape)| is_open(of(shape))), ..map }
        };
        let mut space = Space {
            rules: placed.len() as u32,
            small,
            gates: map(|s| &s.gate, 0, last_gate.into(), image),
            src: map(|s| &s.src, 0, top, image),
            dst: map(|s| &s.dst, 0, top, image),
            upper: map(|s| &s.upper, 0, UPPER_ICMP - 1, image),
            icmp: map(|s| &s.upper, UPPER_ICMP, UPPER_TOP, image),
            sport: map(|s| &s.sport, 0, NO_PORT, image),
            dport: map(|s| &s.dport, 0, NO_PORT, image),
            ..Space::default()
        };
        space.records = image.narrow(&records);
        if small {
            return space;
        }
        // Some row has to tell where the rules end. Where none is asked for, that of the gate is, which is found at once.
        let others = [&space.src, &space.dst, &space.sport, &space.dport];
        if others.iter().all(|map| map.open) && (space.upper.open || space.icmp.open) {
            space.gates.open = false;
        }
        space.stride = rows.stride as u32;
        space.sums = rows.sums as u32;
        space.rows = image.narrow(&rows.rows);
        space.summaries = image.wide(&rows.summaries);
        // A block is a cache line where the wide words begin on one.
        image.align_wide(BLOCK);
        space.blocks = image.wide(rows.blocks.as_flattened());
        space
    }
}

/// Rules that compare alike are put side by side.
type Likeness = ((u128, u128), [bool; 5], [((u128, Reverse<u128>), usize); 5]);

fn likeness(shape: &Shape, top: u128) -> Likeness {
    let range = |ranges: &Ranges| ranges.first().copied().unwrap_or_default();
    let is_open = |ranges: &Ranges, top| range(ranges) == (0, top);
    let near = |ranges: &Ranges| {
        let (first, last) = range(ranges);
        ((first, Reverse(last)), ranges.len())
    };
    let open = [
        is_open(&shape.dst, top),
        is_open(&shape.src, top),
        is_open(&shape.dport, NO_PORT),
        is_open(&shape.sport, NO_PORT),
        is_open(&shape.upper, UPPER_TOP),
    ];
    (range(&shape.gate), open, [&shape.dst, &shape.src, &shape.dport, &shape.upper, &shape.sport].map(near))
}
