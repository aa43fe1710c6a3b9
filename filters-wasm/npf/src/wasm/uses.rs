//! What the rules of a family make use of: what none of them does needs no code.

use crate::plan::{
    Image, Space,
    check::{ADDRESSES, PROGRAM, TAG},
    decide::{DYNAMIC, FINAL, LIMITED, RECORD, RECORD_CHECK, RECORD_FLAGS, RECORD_SEGMENT_END},
};
use std::collections::HashSet;

/// What records and checks of a space hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Uses {
    /// Some rules are final.
    pub finals: bool,
    /// Some rules are neither final nor in a dynamic ruleset.
    pub plains: bool,
    /// Some are in a dynamic ruleset.
    pub dynamic: bool,
    /// Some have limits.
    pub limited: bool,
    /// There is a barrier between some.
    pub segments: bool,
    /// Some have checks.
    pub checks: bool,
    /// Checks of tags.
    pub tags: bool,
    /// Checks by programs.
    pub programs: bool,
    /// Checks of addresses.
    pub addresses: bool,
    /// The most tests of a rule.
    pub tests_max: u32,
    /// The most tables of a test.
    pub tables_max: u32,
    /// The most ranges of a test.
    pub ranges_max: u32,
}

impl Uses {
    /// Looks through the records of a space; `width` is the words of an address.
    pub fn of(space: &Space, image: &Image, width: u32) -> Uses {
        let mut uses = Uses::default();
        let mut seen = HashSet::new();
        for position in 0..space.rules {
            let record = space.records + position * RECORD;
            let flags = image.n(record, RECORD_FLAGS);
            uses.finals |= flags & FINAL != 0;
            uses.dynamic |= flags & DYNAMIC != 0;
            uses.plains |= flags & (FINAL | DYNAMIC) == 0;
            uses.limited |= flags & LIMITED != 0;
            uses.segments |= image.n(record, RECORD_SEGMENT_END) != space.rules;
            let check = image.n(record, RECORD_CHECK);
            if check != 0 && seen.insert(check) {
                uses.check(image, check, width);
            }
        }
        uses
    }

    fn check(&mut self, image: &Image, mut at: u32, width: u32) {
        self.checks = true;
        let mut tests = 0;
        loop {
            match image.n(at, 0) {
                TAG => {
                    self.tags = true;
                    at += 3;
                }
                PROGRAM => {
                    self.programs = true;
                    at += 2;
                }
                ADDRESSES => {
                    let (tables, ranges) = (image.n(at, 3), image.n(at, 4));
                    self.addresses = true;
                    self.tables_max = self.tables_max.max(tables);
                    self.ranges_max = self.ranges_max.max(ranges);
                    at += 5 + tables + 2 * width * ranges;
                }
                _ => break,
            }
            tests += 1;
        }
        self.tests_max = self.tests_max.max(tests);
    }

    /// Whether checks ask tables.
    pub fn tables(&self) -> bool {
        self.tables_max > 0
    }
}
