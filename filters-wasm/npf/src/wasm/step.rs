//! From a number to its step, as the shape of its map says.
//!
//! The index is known when the code is made, and so is the longest search that it leads to. A short one is written out
//! without a branch: what a probe finds is chosen, not jumped by, for a jump would be guessed wrong every other time.

use super::{
    Places,
    body::{Body, Local, at},
};
use crate::plan::{Image, Map};

/// The most probes that are written out; what is crowded more is searched by a loop that ends when it has found.
const WRITTEN_OUT: u32 = 5;

/// An address of IPv6.
#[derive(Clone, Copy)]
pub(super) struct Wide {
    pub high: Local,
    pub low: Local,
}

/// The numbers that a map takes.
#[derive(Clone, Copy)]
pub(super) enum Number {
    Narrow(Local),
    Wide(Wide),
}

impl Map {
    /// The probes that the longest search takes: each halves what is left.
    fn probes(&self, image: &Image) -> u32 {
        let span = |slot| image.n(self.index, slot + 1).saturating_sub(image.n(self.index, slot));
        let longest = (0..self.slots).map(span).max().unwrap_or(0);
        u32::BITS - longest.leading_zeros()
    }
}

/// Code that finds the step of a number. Afterwards it is in the local that is returned.
pub(super) fn step(b: &mut Body, places: &Places<'_>, map: &Map, number: Number) -> Local {
    match number {
        Number::Narrow(number) if map.direct => number,
        _ if map.len <= 1 => b.constant(0),
        Number::Narrow(number) => {
            slot(b, map, number);
            search(b, places, map, |b, step| {
                b.ops().local_get(step.0).i32_const(2).i32_shl();
                b.ops().i32_load(at(places.narrow(map.starts))).local_get(number.0).i32_le_u();
            });
            let found = b.keep();
            b.ops().i32_const(0).local_get(found.0).local_get(number.0).i32_const(map.low as i32).i32_lt_u().select();
            b.keep()
        }
        Number::Wide(number) => {
            slot_wide(b, map, number);
            search(b, places, map, |b, step| {
                // start <= number
                b.ops().local_get(step.0).i32_const(4).i32_shl();
                let start = b.keep();
                let starts = places.wide(map.starts);
                b.ops().local_get(start.0).i64_load(at(starts));
                let high = b.keep_wide();
                b.ops().local_get(high.0).local_get(number.high.0).i64_lt_u();
                b.ops().local_get(high.0).local_get(number.high.0).i64_eq();
                b.ops().local_get(start.0).i64_load(at(starts + 8)).local_get(number.low.0).i64_le_u();
                b.ops().i32_and().i32_or();
            });
            let found = b.keep();
            b.ops().i32_const(0).local_get(found.0);
            is_below(b, number, map.low);
            b.ops().select();
            b.keep()
        }
    }
}

/// Pushes the slot of a number, which may be below the lowest.
fn slot(b: &mut Body, map: &Map, number: Local) {
    b.ops().local_get(number.0).i32_const(map.low as i32).i32_sub().i32_const(map.shift as i32).i32_shr_u();
    let slot = b.keep();
    let last = map.slots as i32 - 1;
    b.ops().local_get(slot.0).i32_const(last).local_get(slot.0).i32_const(last).i32_lt_u().select();
}

/// The same of an address of IPv6.
fn slot_wide(b: &mut Body, map: &Map, Wide { high, low }: Wide) {
    let [low_high, low_low] = halves(map.low);
    // number - map.low, with the borrow
    b.ops().local_get(low.0).i64_const(low_low).i64_sub();
    let less_low = b.keep_wide();
    b.ops().local_get(high.0).i64_const(low_high).i64_sub();
    b.ops().local_get(low.0).i64_const(low_low).i64_lt_u().i64_extend_i32_u().i64_sub();
    let less_high = b.keep_wide();
    let last = i64::from(map.slots) - 1;
    let shift = i64::from(map.shift);
    if map.shift >= 64 {
        b.ops().local_get(less_high.0).i64_const(shift - 64).i64_shr_u();
    } else if map.shift == 0 {
        b.ops().i64_const(last).local_get(less_low.0).local_get(less_high.0).i64_const(0).i64_ne().select();
    } else {
        b.ops().i64_const(last);
        b.ops().local_get(less_high.0).i64_const(64 - shift).i64_shl();
        b.ops().local_get(less_low.0).i64_const(shift).i64_shr_u().i64_or();
        b.ops().local_get(less_high.0).i64_const(shift).i64_shr_u().i64_const(0).i64_ne().select();
    }
    let slot = b.keep_wide();
    b.ops().local_get(slot.0).i64_const(last).local_get(slot.0).i64_const(last).i64_lt_u().select().i32_wrap_i64();
}

/// With a slot on the stack: the last step in it that is at or before the number, as `is_before` pushes of a step.
/// What is below the lowest number finds some step.
fn search(b: &mut Body, places: &Places<'_>, map: &Map, is_before: impl Fn(&mut Body, Local)) {
    let probes = map.probes(places.image);
    let index = places.narrow(map.index);
    b.ops().i32_const(2).i32_shl();
    let slot = b.keep();
    b.ops().local_get(slot.0).i32_load(at(index));
    if probes > WRITTEN_OUT {
        return search_by_halves(b, probes, is_before, |b| {
            b.ops().local_get(slot.0).i32_load(at(index + 4));
        });
    }
    // Steps behind the slot are behind the number, too: where the slot ends need not be known, only where all steps do.
    for jump in (0..probes).rev().map(|bit| 1 << bit) {
        let step = b.keep();
        b.ops().local_get(step.0).i32_const(jump).i32_add();
        let ahead = b.keep();
        let last = map.len as i32 - 1;
        b.ops().local_get(ahead.0).i32_const(last).local_get(ahead.0).i32_const(last).i32_lt_u().select();
        let ahead = b.keep();
        b.ops().local_get(ahead.0).local_get(step.0);
        is_before(b, ahead);
        b.ops().select();
    }
}

/// With the first step of a slot on the stack, and the last one as `end` pushes it: the same, in a loop.
fn search_by_halves(b: &mut Body, probes: u32, is_before: impl Fn(&mut Body, Local), end: impl Fn(&mut Body)) {
    // The one that is looked for is in step..=end.
    let step = b.keep();
    end(b);
    let end = b.keep();
    b.repeat(probes, |b, search| {
        b.ops().local_get(step.0).local_get(end.0).i32_ge_s();
        b.leave_if(search.done);
        b.ops().local_get(step.0).local_get(end.0).local_get(step.0).i32_sub();
        b.ops().i32_const(1).i32_add().i32_const(1).i32_shr_u().i32_add();
        let middle = b.keep();
        is_before(b, middle);
        let before = b.keep();
        b.ops().local_get(middle.0).local_get(step.0).local_get(before.0).select().local_set(step.0);
        b.ops().local_get(end.0).local_get(middle.0).i32_const(1).i32_sub().local_get(before.0).select();
        b.ops().local_set(end.0);
    });
    b.ops().local_get(step.0);
}

/// Pushes whether an address of IPv6 is below a constant.
fn is_below(b: &mut Body, number: Wide, than: u128) {
    let [high, low] = halves(than);
    b.ops().local_get(number.high.0).i64_const(high).i64_lt_u();
    b.ops().local_get(number.high.0).i64_const(high).i64_eq();
    b.ops().local_get(number.low.0).i64_const(low).i64_lt_u();
    b.ops().i32_and().i32_or();
}

fn halves(number: u128) -> [i64; 2] {
    [(number >> 64) as i64, number as i64]
}
