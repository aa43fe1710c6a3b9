//! What is done with packets of one family: what `Walk` of [`crate::plan::decide`] does, with the places of the space as
//! constants and without the dimensions in which no rule asks anything.
//!
//! It is done in two passes over the burst. The first finds the rows of each packet and what their summaries have in
//! common: loads that wait for each other, but no jump that depends on them, so that the processor has those of several
//! packets under way at once. The second walks through what is left, where jumps are guessed wrong.

use super::{
    Calls, Places,
    body::{Body, Label, Local, at},
    facts,
    step::{Number, Wide, step},
    uses::Uses,
    walk::Walk,
};
use crate::{
    config::Family,
    plan::{BLOCK, Map, Space, UPPER_ICMP},
};

/// In what the first pass leaves for the second: the bits of all rules, or the word of summaries where there is one.
const BITS: u64 = 0;
/// For each dimension, where the row's numbers of blocks begin.
const NUMBERS: u64 = 8;
/// For each dimension, where the row's summary begins, where it has several words.
const SUMMARIES: u64 = 32;

/// The rules of a family, to be made code.
pub(super) struct Decider<'a> {
    pub of: Family,
    pub space: &'a Space,
    pub places: &'a Places<'a>,
    /// How many interfaces the plan tells apart.
    pub interfaces: u32,
    pub uses: &'a Uses,
    pub calls: &'a Calls,
}

impl Decider<'_> {
    /// Code of the first pass over a packet whose facts are there, for the second to find at `left`.
    pub fn prepare(&self, b: &mut Body, facts: Local, left: Local) {
        let Decider { space, places, .. } = *self;
        let rows = Rows { places, space, facts }.of_dimensions(b, self.of, self.interfaces);
        if space.small {
            b.ops().local_get(left.0);
            b.ops().i64_const((u64::MAX >> (64 - space.rules.clamp(1, 64))) as i64);
            for row in &rows {
                b.ops().local_get(row.0).i64_and();
            }
            b.ops().i64_store(at(BITS));
            return;
        }
        let store_scaled = |b: &mut Body, by: u32, to: u64| {
            for (n, row) in rows.iter().enumerate() {
                b.ops().local_get(left.0).local_get(row.0).i32_const(by as i32).i32_mul();
                b.ops().i32_store(at(to + n as u64 * 4));
            }
        };
        store_scaled(b, space.stride * 4, NUMBERS);
        if space.sums > 1 {
            return store_scaled(b, space.sums * 8, SUMMARIES);
        }
        b.ops().local_get(left.0);
        for (n, row) in rows.iter().enumerate() {
            b.ops().local_get(row.0).i32_const(3).i32_shl().i64_load(at(places.wide(space.summaries)));
            if n > 0 {
                b.ops().i64_and();
            }
        }
        b.ops().i64_store(at(BITS));
    }

    /// Code of the second pass, which leaves the rule in a local.
    pub fn walk(&self, b: &mut Body, (facts, packet): (Local, Local), left: Local, rule: Local) {
        let Decider { space, places, uses, calls, .. } = *self;
        for global in calls.memo.iter().filter(|_| uses.tables()).flatten() {
            b.ops().i64_const(0).global_set(*global);
        }
        let walk = Walk::new(b, space, places, uses, calls, (facts, packet));
        let words = b.wide();
        if space.small || space.sums == 1 {
            b.ops().local_get(left.0).i64_load(at(BITS)).local_set(words.0);
        }
        b.block(|b, decided| {
            let large = Large { space, places, walk: &walk, left, rows: self.rows(), words, decided };
            if space.small {
                walk.rules(b, None, words, decided);
            } else if space.sums == 1 {
                large.words(b, None);
            } else {
                large.sums(b);
            }
        });
        walk.found(b);
        b.ops().local_set(rule.0);
    }

    /// How many dimensions there are.
    fn rows(&self) -> u64 {
        let Space { src, dst, upper, icmp, gates, sport, dport, .. } = self.space;
        let open = [src.open, dst.open, upper.open && icmp.open, gates.open, sport.open, dport.open];
        open.iter().filter(|open| !**open).count() as u64
    }
}

/// The rows that a packet leads to.
struct Rows<'a> {
    places: &'a Places<'a>,
    space: &'a Space,
    facts: Local,
}

impl Rows<'_> {
    /// The row in each dimension in which rules ask something: the word itself, or the row's number.
    fn of_dimensions(&self, b: &mut Body, family: Family, interfaces: u32) -> Vec<Local> {
        let space = self.space;
        let mut rows = Vec::new();
        for (map, from) in [(&space.dst, facts::DST), (&space.src, facts::SRC)] {
            if !map.open {
                let number = self.address(b, family, from);
                rows.push(self.row(b, map, number));
            }
        }
        if !space.dport.open {
            let port = self.field(b, facts::DPORT);
            rows.push(self.row(b, &space.dport, Number::Narrow(port)));
        }
        // Of the two one may be open; its row has all rules.
        if !(space.upper.open && space.icmp.open) {
            rows.push(self.upper(b));
        }
        if !space.gates.open {
            let gate = self.gate(b, interfaces);
            rows.push(self.row(b, &space.gates, Number::Narrow(gate)));
        }
        if !space.sport.open {
            let port = self.field(b, facts::SPORT);
            rows.push(self.row(b, &space.sport, Number::Narrow(port)));
        }
        rows
    }

    fn row(&self, b: &mut Body, map: &Map, number: Number) -> Local {
        let row = if self.space.small { b.wide() } else { b.narrow() };
        self.row_into(b, map, number, row);
        row
    }

    fn row_into(&self, b: &mut Body, map: &Map, number: Number, row: Local) {
        let step = step(b, self.places, map, number);
        b.ops().local_get(step.0);
        if self.space.small {
            b.ops().i32_const(3).i32_shl().i64_load(at(self.places.wide(map.rows)));
        } else {
            b.ops().i32_const(2).i32_shl().i32_load(at(self.places.narrow(map.rows)));
        }
        b.ops().local_set(row.0);
    }

    fn upper(&self, b: &mut Body) -> Local {
        let row = if self.space.small { b.wide() } else { b.narrow() };
        let upper = self.field(b, facts::UPPER);
        b.ops().local_get(upper.0).i32_const(UPPER_ICMP as i32).i32_lt_u();
        b.either(
            |b| self.row_into(b, &self.space.upper, Number::Narrow(upper), row),
            |b| {
                b.ops().local_get(upper.0).i32_const(UPPER_ICMP as i32).i32_sub();
                let kind = b.keep();
                self.row_into(b, &self.space.icmp, Number::Narrow(kind), row);
            },
        );
        row
    }

    fn field(&self, b: &mut Body, offset: u32) -> Local {
        b.ops().local_get(self.facts.0).i32_load(at(offset.into()));
        b.keep()
    }

    fn address(&self, b: &mut Body, family: Family, from: u32) -> Number {
        if family == Family::V4 {
            // The last 32 bits, which stand first in the lower half.
            return Number::Narrow(self.field(b, from + 8));
        }
        let half = |b: &mut Body, offset: u32| {
            b.ops().local_get(self.facts.0).i64_load(at(offset.into()));
            b.keep_wide()
        };
        Number::Wide(Wide { high: half(b, from), low: half(b, from + 8) })
    }

    /// The number of way and interface; one that the plan did not give is 0.
    fn gate(&self, b: &mut Body, interfaces: u32) -> Local {
        let interface = self.field(b, facts::INTERFACE);
        b.ops().local_get(interface.0).i32_const(0).local_get(interface.0).i32_const(interfaces as i32).i32_le_u();
        b.ops().select().local_get(self.facts.0).i32_load8_u(at(facts::WAY.into()));
        b.ops().i32_const(interfaces as i32 + 1).i32_mul().i32_add();
        b.keep()
    }
}

/// The walk through the words that the summaries leave.
struct Large<'a> {
    space: &'a Space,
    places: &'a Places<'a>,
    walk: &'a Walk<'a>,
    left: Local,
    rows: u64,
    /// A word of summaries.
    words: Local,
    decided: Label,
}

impl Large<'_> {
    /// Goes through all words of summaries.
    fn sums(&self, b: &mut Body) {
        let (first, offset) = (b.constant(0), b.constant(0));
        b.repeat(self.space.sums, |b, _| {
            for n in 0..self.rows {
                b.ops().local_get(self.left.0).i32_load(at(SUMMARIES + n * 4)).local_get(offset.0).i32_add();
                b.ops().i64_load(at(self.places.wide(self.space.summaries)));
                if n > 0 {
                    b.ops().i64_and();
                }
            }
            b.ops().local_set(self.words.0);
            self.words(b, Some(first));
            b.ops().local_get(offset.0).i32_const(8).i32_add().local_set(offset.0);
            b.ops().local_get(first.0).i32_const(64).i32_add().local_set(first.0);
        });
    }

    /// Goes through the words whose bits are left of a word of summaries; `first` is the number of the first one.
    fn words(&self, b: &mut Body, first: Option<Local>) {
        let Large { space, places, walk, words, decided, .. } = *self;
        let block_bits = BLOCK.trailing_zeros() as i32;
        b.repeat(u64::BITS + 1, |b, each| {
            b.ops().local_get(words.0).i64_eqz();
            b.leave_if(each.done);
            b.ops().local_get(words.0).i64_ctz().i32_wrap_i64();
            if let Some(first) = first {
                b.ops().local_get(first.0).i32_add();
            }
            let word = b.keep();
            b.ops().local_get(words.0).local_get(words.0).i64_const(1).i64_sub().i64_and().local_set(words.0);
            b.ops().local_get(word.0).i32_const(6).i32_shl();
            let position = b.keep();
            walk.leave_behind_segment(b, |b| _ = b.ops().local_get(position.0), decided);
            b.ops().local_get(word.0).i32_const(block_bits).i32_shr_u().i32_const(2).i32_shl();
            let block = b.keep();
            b.ops().local_get(word.0).i32_const(BLOCK as i32 - 1).i32_and().i32_const(3).i32_shl();
            let offset = b.keep();
            // No way out in between: guessing it wrong costs more than the words.
            for n in 0..self.rows {
                b.ops().local_get(self.left.0).i32_load(at(NUMBERS + n * 4)).local_get(block.0).i32_add();
                b.ops().i32_load(at(places.narrow(space.rows)));
                b.ops().i32_const(block_bits + 3).i32_shl().local_get(offset.0).i32_add();
                b.ops().i64_load(at(places.wide(space.blocks)));
                if n > 0 {
                    b.ops().i64_and();
                }
            }
            let bits = b.keep_wide();
            walk.rules(b, Some(position), bits, decided);
        });
    }
}
