//! The function that decides on packets of one family: `(facts, packet) -> rule`. What `Walk` of [`crate::plan::decide`]
//! does, with the places of the space as constants and without the dimensions in which no rule asks anything.

use super::{
    Calls, Places,
    body::{Body, Local, at},
    facts,
    step::{Number, Wide, step},
    uses::Uses,
    walk::Walk,
};
use crate::{
    config::Family,
    plan::{BLOCK, Map, Space, UPPER_ICMP},
};
use wasm_encoder::Function;

/// Where what is known of the packet is.
const FACTS: Local = Local(0);
/// Its number in the burst.
const PACKET: Local = Local(1);

/// Writes the function. `interfaces` is how many the plan tells apart.
pub(super) fn family(
    of: Family,
    space: &Space,
    places: &Places<'_>,
    interfaces: u32,
    uses: &Uses,
    calls: &Calls,
) -> Function {
    let mut b = Body::new(2);
    for global in calls.memo.iter().filter(|_| uses.tables()).flatten() {
        b.ops().i64_const(0).global_set(*global);
    }
    let rows = Rows { places, space };
    let rows = rows.of_dimensions(&mut b, of, interfaces);
    let walk = Walk::new(&mut b, space, places, uses, calls, (FACTS, PACKET));
    if space.small {
        b.ops().i64_const((u64::MAX >> (64 - space.rules.clamp(1, 64))) as i64);
        for row in rows {
            b.ops().local_get(row.0).i64_and();
        }
        let bits = b.keep_wide();
        b.block(|b, decided| walk.rules(b, None, bits, decided));
    } else {
        large(&mut b, space, places, &rows, &walk);
    }
    walk.found(&mut b);
    b.finish()
}

/// The rows that a packet leads to.
struct Rows<'a> {
    places: &'a Places<'a>,
    space: &'a Space,
}

impl Rows<'_> {
    /// The row in each dimension in which rules ask something: the word itself, or the row's number.
    fn of_dimensions(&self, b: &mut Body, family: Family, interfaces: u32) -> Vec<Local> {
        let space = self.space;
        let mut rows = Vec::new();
        for (map, from) in [(&space.dst, facts::DST), (&space.src, facts::SRC)] {
            if !map.open {
                let number = address(b, family, from);
                rows.push(self.row(b, map, number));
            }
        }
        if !space.dport.open {
            let port = field(b, facts::DPORT);
            rows.push(self.row(b, &space.dport, Number::Narrow(port)));
        }
        // Of the two one may be open; its row has all rules.
        if !(space.upper.open && space.icmp.open) {
            rows.push(self.upper(b));
        }
        if !space.gates.open {
            let gate = gate(b, interfaces);
            rows.push(self.row(b, &space.gates, Number::Narrow(gate)));
        }
        if !space.sport.open {
            let port = field(b, facts::SPORT);
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
        let upper = field(b, facts::UPPER);
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
}

fn field(b: &mut Body, offset: u32) -> Local {
    b.ops().local_get(FACTS.0).i32_load(at(offset.into()));
    b.keep()
}

fn address(b: &mut Body, family: Family, from: u32) -> Number {
    if family == Family::V4 {
        // The last 32 bits, which stand first in the lower half.
        return Number::Narrow(field(b, from + 8));
    }
    let half = |b: &mut Body, offset: u32| {
        b.ops().local_get(FACTS.0).i64_load(at(offset.into()));
        b.keep_wide()
    };
    Number::Wide(Wide { high: half(b, from), low: half(b, from + 8) })
}

/// The number of way and interface; one that the plan did not give is 0.
fn gate(b: &mut Body, interfaces: u32) -> Local {
    let interface = field(b, facts::INTERFACE);
    b.ops().local_get(interface.0).i32_const(0).local_get(interface.0).i32_const(interfaces as i32).i32_le_u().select();
    b.ops().local_get(FACTS.0).i32_load8_u(at(facts::WAY.into())).i32_const(interfaces as i32 + 1).i32_mul().i32_add();
    b.keep()
}

/// Goes through the words that the summaries leave.
fn large(b: &mut Body, space: &Space, places: &Places<'_>, rows: &[Local], walk: &Walk<'_>) {
    let scaled = |b: &mut Body, row: &Local, by: u32| {
        b.ops().local_get(row.0).i32_const(by as i32).i32_mul();
        b.keep()
    };
    // Where each row's numbers of blocks begin, and its summary.
    let numbers: Vec<Local> = rows.iter().map(|row| scaled(b, row, space.stride * 4)).collect();
    let summaries: Vec<Local> = rows.iter().map(|row| scaled(b, row, space.sums * 8)).collect();
    let words = b.wide();
    let summary = |b: &mut Body| {
        for (n, row) in summaries.iter().enumerate() {
            b.ops().local_get(row.0).i64_load(at(places.wide(space.summaries)));
            if n > 0 {
                b.ops().i64_and();
            }
        }
        b.ops().local_set(words.0);
    };
    b.block(|b, decided| {
        if space.sums == 1 {
            summary(b);
            return all_words(b, space, places, &numbers, walk, words, None, decided);
        }
        let first = b.constant(0);
        b.repeat(space.sums, |b, _| {
            summary(b);
            b.block(|b, _| all_words(b, space, places, &numbers, walk, words, Some(first), decided));
            for row in &summaries {
                b.ops().local_get(row.0).i32_const(8).i32_add().local_set(row.0);
            }
            b.ops().local_get(first.0).i32_const(64).i32_add().local_set(first.0);
        });
    });
}

/// Goes through the words whose bits are left of a word of summaries; `first` is the number of the first one.
#[allow(clippy::too_many_arguments, reason = "the parts of one place of code, of which each is used")]
fn all_words(
    b: &mut Body,
    space: &Space,
    places: &Places<'_>,
    numbers: &[Local],
    walk: &Walk<'_>,
    words: Local,
    first: Option<Local>,
    decided: super::body::Label,
) {
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
        for (n, row) in numbers.iter().enumerate() {
            b.ops().local_get(row.0).local_get(block.0).i32_add().i32_load(at(places.narrow(space.rows)));
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
