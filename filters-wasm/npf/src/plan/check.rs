//! What no table of a plan tells and is looked at rule by rule, where everything else fits.
//!
//! The checks of a rule are a row of narrow words, read from its place on until [`END`]; all must be true.
//!
//! ```text
//! END
//! TAG        tag  not                 the packet's tag is `tag`; or is not, where `not` is 1
//! PROGRAM    number                   the program returns something else than 0
//! ADDRESSES  side  not  T  R          one of T tables, whose numbers follow, or one of R ranges of addresses, first and
//!                                     last behind those (IPv4 1 + 1 words, IPv6 4 + 4, the highest first) has the
//!                                     source (side 0) or the destination (side 1); or none has, where `not` is 1
//! ```

use super::{decide::Numbered, image::Image, ranges::Ranges};
use crate::{
    config::{Family, TableId},
    packet::Packet,
    tables::Tables,
};
use smpnet_bpf::Program;
use std::collections::{BTreeMap, HashMap};

/// No more checks.
pub const END: u32 = 0;
/// The packet's tag.
pub const TAG: u32 = 1;
/// An expression of pcap-filter(7).
pub const PROGRAM: u32 = 2;
/// Tables and addresses.
pub const ADDRESSES: u32 = 3;

/// A check before it is put into words.
pub(super) enum Test<'a> {
    Tag { name: &'a str, not: bool },
    Program(&'a Program, &'a str),
    Addresses(Sided),
}

/// Addresses that are asked for at one end.
pub(super) struct Sided {
    pub is_source: bool,
    pub not: bool,
    pub tables: Vec<u32>,
    pub ranges: Ranges,
}

/// The checks of all rules; equal ones are one.
pub(super) struct Checks {
    family: Family,
    /// The words; the first is [`END`], so that place 0 is no check.
    pub words: Vec<u32>,
    places: HashMap<Vec<u32>, u32>,
}

/// Tags and programs, which both families number alike.
#[derive(Default)]
pub(super) struct Names {
    /// Tags, from 1.
    tags: BTreeMap<String, u32>,
    numbers: HashMap<String, u32>,
    pub programs: Vec<Program>,
}

impl Names {
    /// The tags, sorted, each with its number; and the programs by theirs.
    pub fn into_parts(self) -> (Vec<(String, u32)>, Vec<Program>) {
        (self.tags.into_iter().collect(), self.programs)
    }
}

impl Checks {
    pub fn new(family: Family) -> Checks {
        Checks { family, words: vec![END], places: HashMap::new() }
    }

    /// Puts the checks of a rule into words; returns where, 0 for none.
    pub fn add(&mut self, tests: &[Test<'_>], names: &mut Names) -> u32 {
        if tests.is_empty() {
            return 0;
        }
        let mut words = Vec::new();
        for test in tests {
            match test {
                Test::Tag { name, not } => words.extend([TAG, names.tag(name), u32::from(*not)]),
                Test::Program(program, text) => words.extend([PROGRAM, names.program(program, text)]),
                Test::Addresses(a) => {
                    let counts = [a.tables.len() as u32, a.ranges.len() as u32];
                    words.extend([ADDRESSES, u32::from(!a.is_source), u32::from(a.not)]);
                    words.extend(counts);
                    words.extend(&a.tables);
                    for number in a.ranges.iter().flat_map(|r| [r.0, r.1]) {
                        let parts = [96, 64, 32, 0].map(|shift| (number >> shift) as u32);
                        words.extend(if self.family == Family::V4 { &parts[3..] } else { &parts[..] });
                    }
                }
            }
        }
        words.push(END);
        let all = &mut self.words;
        *self.places.entry(words).or_insert_with_key(|words| {
            all.extend(words);
            (all.len() - words.len()) as u32
        })
    }
}

impl Names {
    fn tag(&mut self, name: &str) -> u32 {
        let next = self.tags.len() as u32 + 1;
        *self.tags.entry(name.to_owned()).or_insert(next)
    }

    fn program(&mut self, program: &Program, text: &str) -> u32 {
        let next = self.programs.len() as u32;
        let number = *self.numbers.entry(text.to_owned()).or_insert(next);
        if number == next {
            self.programs.push(program.clone());
        }
        number
    }
}

/// What checks are made with.
pub(super) struct Checker<'a> {
    pub image: &'a Image,
    pub programs: &'a [Program],
    pub asked: &'a Numbered<'a>,
    pub tables: &'a Tables,
    /// Of the first 32 tables, both sides: which have been looked up for this packet, and where it was found. Many
    /// rules ask the same table.
    pub memo: Memo,
    /// Words and looked-up tables so far.
    pub words: u32,
}

/// Answers of tables, a bit for table and side.
#[derive(Clone, Copy, Default)]
pub(super) struct Memo {
    known: u64,
    found: u64,
}

impl Checker<'_> {
    /// Whether all checks from a place on are true.
    pub fn holds(&mut self, mut at: u32) -> bool {
        let image = self.image;
        loop {
            let (op, a, b) = (image.n(at, 0), image.n(at, 1), image.n(at, 2));
            self.words += 1;
            let holds = match op {
                TAG => {
                    at += 3;
                    (self.asked.tag.0 == a) != (b != 0)
                }
                PROGRAM => {
                    at += 2;
                    self.runs(a)
                }
                ADDRESSES => {
                    let (tables, ranges) = (image.n(at, 3), image.n(at, 4));
                    let packet = self.asked.packet;
                    let width = if packet.family == Family::V4 { 1 } else { 4 };
                    let (tables_at, ranges_at) = (at + 5, at + 5 + tables);
                    at = ranges_at + 2 * width * ranges;
                    let is_one = (0..tables).any(|n| self.is_in_table(image.n(tables_at, n), a))
                        || (0..ranges).any(|n| self.is_in_range(ranges_at + n * 2 * width, a));
                    is_one != (b != 0)
                }
                _ => return true,
            };
            if !holds {
                return false;
            }
        }
    }

    fn runs(&self, number: u32) -> bool {
        let len = self.asked.packet.len;
        let bytes = self.asked.bytes.get(..len).unwrap_or(self.asked.bytes);
        self.programs.get(number as usize).is_some_and(|p| p.run(bytes, len as u32) != 0)
    }

    fn is_in_table(&mut self, table: u32, side: u32) -> bool {
        let bit = if table < 32 { 1 << (table * 2 + side) } else { 0u64 };
        self.words += 1;
        if self.memo.known & bit != 0 {
            return self.memo.found & bit != 0;
        }
        let Packet { family, src, dst, proto, .. } = *self.asked.packet;
        let ports = self.asked.packet.ports();
        let (address, port) = if side == 0 { (src, ports.map(|p| p.src)) } else { (dst, ports.map(|p| p.dst)) };
        let found = self.tables.contains(TableId(table as usize), family, address, port.map(|port| (proto, port)));
        self.memo.known |= bit;
        self.memo.found |= if found { bit } else { 0 };
        found
    }

    fn is_in_range(&mut self, at: u32, side: u32) -> bool {
        let packet = self.asked.packet;
        let address = if side == 0 { packet.src } else { packet.dst };
        if packet.family == Family::V4 {
            self.words += 2;
            return (self.image.n(at, 0)..=self.image.n(at, 1)).contains(&(address as u32));
        }
        self.words += 8;
        let number = |at| (0..4).fold(0u128, |sum, n| sum << 32 | u128::from(self.image.n(at, n)));
        (number(at)..=number(at + 4)).contains(&address)
    }
}
