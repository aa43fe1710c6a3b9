//! The function that looks at a rule's checks: `(facts, packet, address of the checks) -> 0 or 1`. What `Checker` of
//! [`crate::plan::check`] does.

use super::{
    Calls,
    body::{Body, Label, Local, at},
    facts::{self, DST, SRC},
    uses::Uses,
};
use crate::{
    config::Family,
    plan::check::{ADDRESSES, PROGRAM, TAG},
};
use wasm_encoder::Function;

const FACTS: Local = Local(0);
const PACKET: Local = Local(1);
/// Where the next check is.
const AT: Local = Local(2);

/// Tables below this number are asked once for a packet, so that many rules may ask the same one.
const REMEMBERED: u32 = 32;

/// Writes the function.
pub(super) fn holds(family: Family, uses: &Uses, calls: &Calls) -> Function {
    let mut b = Body::new(3);
    b.repeat(uses.tests_max + 1, |b, tests| {
        let op = word(b, AT, 0);
        let is = |b: &mut Body, what: u32| _ = b.ops().local_get(op.0).i32_const(what as i32).i32_eq();
        if uses.tags {
            is(b, TAG);
            b.when(|b| {
                b.ops().local_get(FACTS.0).i32_load(at(facts::TAG.into()));
                b.ops().local_get(AT.0).i32_load(at(4)).i32_eq();
                b.ops().local_get(AT.0).i32_load(at(8)).i32_xor();
                answer(b);
                forward(b, 3);
                b.leave(tests.next);
            });
        }
        if let Some(program) = calls.program.filter(|_| uses.programs) {
            is(b, PROGRAM);
            b.when(|b| {
                b.ops().local_get(PACKET.0).local_get(AT.0).i32_load(at(4)).call(program);
                answer(b);
                forward(b, 2);
                b.leave(tests.next);
            });
        }
        if uses.addresses {
            is(b, ADDRESSES);
            b.when(|b| {
                addresses(b, family, uses, calls);
                answer(b);
                b.leave(tests.next);
            });
        }
        b.leave(tests.done);
    });
    b.ops().i32_const(1);
    b.finish()
}

/// With what a test says on the stack: the rule does not match when that is no.
fn answer(b: &mut Body) {
    b.ops().i32_eqz();
    b.when(|b| _ = b.ops().i32_const(0).return_());
}

fn forward(b: &mut Body, words: u32) {
    b.ops().local_get(AT.0).i32_const(words as i32 * 4).i32_add().local_set(AT.0);
}

fn word(b: &mut Body, from: Local, word: u32) -> Local {
    b.ops().local_get(from.0).i32_load(at(u64::from(word) * 4));
    b.keep()
}

/// Pushes whether the address of a side is one of those that are asked for. Goes on behind them.
fn addresses(b: &mut Body, family: Family, uses: &Uses, calls: &Calls) {
    let [side, not, tables, ranges] = [1, 2, 3, 4].map(|n| word(b, AT, n));
    forward(b, 5);
    let range_words = if family == Family::V4 { 2 } else { 8 };
    // Where the ranges begin, and where they end.
    b.ops().local_get(AT.0).local_get(tables.0).i32_const(2).i32_shl().i32_add();
    let ranges_at = b.keep();
    b.ops().local_get(ranges_at.0).local_get(ranges.0).i32_const(range_words * 4).i32_mul().i32_add();
    let end = b.keep();
    let is_one = b.constant(1);
    b.block(|b, found| {
        if let Some(table) = calls.table.filter(|_| uses.tables()) {
            b.repeat(uses.tables_max + 1, |b, each| {
                b.ops().local_get(AT.0).local_get(ranges_at.0).i32_ge_u();
                b.leave_if(each.done);
                let number = word(b, AT, 0);
                forward(b, 1);
                is_in_table(b, calls, table, number, side, found);
            });
        }
        if uses.ranges_max > 0 {
            b.ops().i32_const(DST as i32).i32_const(SRC as i32).local_get(side.0).select();
            b.ops().local_get(FACTS.0).i32_add();
            let address = b.keep();
            let is_in_range = match family {
                Family::V4 => range_v4(b, address),
                Family::V6 => range_v6(b, address),
            };
            b.repeat(uses.ranges_max + 1, |b, each| {
                b.ops().local_get(ranges_at.0).local_get(end.0).i32_ge_u();
                b.leave_if(each.done);
                is_in_range(b, ranges_at);
                b.leave_if(found);
                b.ops().local_get(ranges_at.0).i32_const(range_words * 4).i32_add().local_set(ranges_at.0);
            });
        }
        b.ops().i32_const(0).local_set(is_one.0);
    });
    b.ops().local_get(end.0).local_set(AT.0);
    b.ops().local_get(is_one.0).local_get(not.0).i32_xor();
}

/// Leaves for `found` when the table has the address.
fn is_in_table(b: &mut Body, calls: &Calls, table: u32, number: Local, side: Local, found: Label) {
    let Some([known, known_found]) = calls.memo else {
        b.ops().local_get(PACKET.0).local_get(number.0).local_get(side.0).call(table);
        return b.leave_if(found);
    };
    // Shifts count modulo 64, so that tables beyond those that are remembered need their bit taken away.
    b.ops().i64_const(1);
    b.ops().local_get(number.0).i32_const(1).i32_shl().local_get(side.0).i32_add().i64_extend_i32_u().i64_shl();
    b.ops().i64_const(0).local_get(number.0).i32_const(REMEMBERED as i32).i32_lt_u().select();
    let bit = b.keep_wide();
    b.ops().global_get(known).local_get(bit.0).i64_and().i64_eqz();
    b.when(|b| {
        b.ops().local_get(PACKET.0).local_get(number.0).local_get(side.0).call(table);
        let answer = b.keep();
        b.ops().global_get(known).local_get(bit.0).i64_or().global_set(known);
        b.ops().local_get(bit.0).i64_const(0).local_get(answer.0).select();
        b.ops().global_get(known_found).i64_or().global_set(known_found);
        // Of one that is not remembered, the bit would say nothing.
        b.ops().local_get(answer.0);
        b.leave_if(found);
    });
    b.ops().global_get(known_found).local_get(bit.0).i64_and().i64_eqz().i32_eqz();
    b.leave_if(found);
}

/// Pushes whether an address lies between the two at a place.
type IsInRange = Box<dyn Fn(&mut Body, Local)>;

fn range_v4(b: &mut Body, address: Local) -> IsInRange {
    b.ops().local_get(address.0).i32_load(at(8));
    let number = b.keep();
    Box::new(move |b, range| {
        let first = word(b, range, 0);
        b.ops().local_get(number.0).local_get(first.0).i32_sub();
        b.ops().local_get(range.0).i32_load(at(4)).local_get(first.0).i32_sub().i32_le_u();
    })
}

fn range_v6(b: &mut Body, address: Local) -> IsInRange {
    let half = |b: &mut Body, offset| {
        b.ops().local_get(address.0).i64_load(at(offset));
        b.keep_wide()
    };
    let (high, low) = (half(b, 0), half(b, 8));
    // Words stand with the highest first, so that two of them are a half with its halves exchanged.
    let limit = |b: &mut Body, range: Local, offset| {
        b.ops().local_get(range.0).i64_load(at(offset)).i64_const(32).i64_rotl();
        b.keep_wide()
    };
    Box::new(move |b, range| {
        let [first_high, first_low, last_high, last_low] = [0, 8, 16, 24].map(|offset| limit(b, range, offset));
        b.ops().local_get(high.0).local_get(first_high.0).i64_gt_u();
        b.ops().local_get(high.0).local_get(first_high.0).i64_eq();
        b.ops().local_get(low.0).local_get(first_low.0).i64_ge_u().i32_and().i32_or();
        b.ops().local_get(high.0).local_get(last_high.0).i64_lt_u();
        b.ops().local_get(high.0).local_get(last_high.0).i64_eq();
        b.ops().local_get(low.0).local_get(last_low.0).i64_le_u().i32_and().i32_or();
        b.ops().i32_and();
    })
}
