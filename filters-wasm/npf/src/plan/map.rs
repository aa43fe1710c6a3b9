//! From a number to its row: sorted steps, and an index that leads to the few among which to search.
//!
//! The index has about as many slots as there are steps, over the numbers between the second step and the last. Spread
//! evenly, one or two steps share a slot; in the worst case all do, and the search halves them: never more than
//! 1 + log2(steps) probes.

use super::{image::Image, rows::Step};

/// The most slots of an index.
const SLOTS_MAX: usize = 1 << 16;

/// Numbers below this are looked up without a search.
const DIRECT_MAX: u128 = 1 << 10;

/// Where the parts of a map are. Constants in the module that a plan is compiled to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Map {
    /// Every number's row has all rules.
    pub open: bool,
    /// Whether it is one row for each number, from `rows` on; nothing below `len` counts then.
    pub direct: bool,
    /// Words of a number: 1 (u32, in the narrow words) or 2 (two u64, high and low, in the wide words).
    pub width: u32,
    /// Where the rows are, one for each step: their numbers, in the narrow words; where the space is
    /// [`super::Space::small`], the rows themselves, in the wide words.
    pub rows: u32,
    /// How many steps (of direct maps: numbers).
    pub len: u32,
    /// Where the numbers of the steps are, ascending, the first one 0.
    pub starts: u32,
    /// Where the index is, in the narrow words: `slots + 1` numbers of steps.
    pub index: u32,
    /// Slots of the index.
    pub slots: u32,
    /// The number of the second step: slot `(number - low) >> shift`, the last for all beyond it. Smaller numbers are
    /// of step 0.
    pub low: u128,
    /// See `low`.
    pub shift: u32,
}

impl Map {
    /// Puts a map into an image. `top` is the largest number that is asked; `put_rows` puts the rows there.
    pub(super) fn new(
        steps: &[Step],
        top: u128,
        image: &mut Image,
        put_rows: impl FnOnce(&mut Image, &[u32]) -> u32,
    ) -> Map {
        if top < DIRECT_MAX {
            let mut rows = Vec::new();
            for (n, &(from, row)) in steps.iter().enumerate() {
                let to = steps.get(n + 1).map_or(top + 1, |next| next.0);
                rows.extend((from..to).map(|_| row));
            }
            let (len, rows) = (rows.len() as u32, put_rows(image, &rows));
            return Map { direct: true, width: 1, rows, len, ..Map::default() };
        }
        let starts: Vec<u128> = steps.iter().map(|s| s.0).collect();
        let rows: Vec<u32> = steps.iter().map(|s| s.1).collect();
        let low = starts.get(1).copied().unwrap_or(0);
        let high = starts.last().copied().unwrap_or(0);
        let slots = starts.len().next_power_of_two().min(SLOTS_MAX);
        let bits = 128 - (high - low.min(high)).leading_zeros();
        let shift = bits.saturating_sub(slots.trailing_zeros());
        let mut index = Vec::with_capacity(slots + 1);
        for slot in 0..slots as u128 {
            let first = slot.checked_mul(1u128 << shift.min(127)).and_then(|n| n.checked_add(low));
            let step = first.map_or(starts.len(), |first| starts.partition_point(|s| *s <= first));
            index.push(step.saturating_sub(1) as u32);
        }
        index.push(starts.len().saturating_sub(1) as u32);
        let narrow = top <= u128::from(u32::MAX);
        let starts_at = if narrow {
            image.narrow(&starts.iter().map(|&s| s as u32).collect::<Vec<_>>())
        } else {
            image.wide(&starts.iter().flat_map(|&s| [(s >> 64) as u64, s as u64]).collect::<Vec<_>>())
        };
        Map {
            open: false,
            direct: false,
            width: if narrow { 1 } else { 2 },
            rows: put_rows(image, &rows),
            len: rows.len() as u32,
            starts: starts_at,
            index: image.narrow(&index),
            slots: slots as u32,
            low,
            shift,
        }
    }

    /// The step of a number, and how many words were looked at.
    pub(super) fn step(&self, number: u128, image: &Image) -> (u32, u32) {
        if self.width == 1 {
            return self.step_narrow(number as u32, image);
        }
        if number < self.low {
            return (0, 0);
        }
        // Slots are at most 2^16.
        let slot = (number - self.low).checked_shr(self.shift).unwrap_or(0).min(u128::from(self.slots - 1)) as u32;
        let (step, probes) = self.search(slot, image, |step| {
            let (high, low) = (image.w(self.starts, step * 2), image.w(self.starts, step * 2 + 1));
            u128::from(high) << 64 | u128::from(low) <= number
        });
        (step, probes * 2 + 2)
    }

    /// As [`Map::step`], of maps of width 1.
    #[inline]
    pub(super) fn step_narrow(&self, number: u32, image: &Image) -> (u32, u32) {
        if self.direct {
            return (number, 0);
        }
        let low = self.low as u32;
        if number < low {
            return (0, 0);
        }
        let slot = (number - low).checked_shr(self.shift).unwrap_or(0).min(self.slots - 1);
        let (step, probes) = self.search(slot, image, |step| image.n(self.starts, step) <= number);
        (step, probes + 2)
    }

    /// The last step of a slot that is at or before the number, and how many were looked at.
    #[inline]
    fn search(&self, slot: u32, image: &Image, is_before: impl Fn(u32) -> bool) -> (u32, u32) {
        // The one that is looked for is in step..=end.
        let (mut step, mut end) = (image.n(self.index, slot), image.n(self.index, slot + 1));
        let mut probes = 0;
        while step < end {
            let middle = step + (end - step).div_ceil(2);
            probes += 1;
            if is_before(middle) {
                step = middle;
            } else {
                end = middle - 1;
            }
        }
        (step, probes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;

    #[test]
    fn each_number_has_the_row_of_the_last_step_at_or_before_it() {
        let mut random = random(7);
        for (round, top) in [u128::from(u32::MAX), u128::MAX, 65536, 600].into_iter().cycle().take(200).enumerate() {
            // Some spread, some close together, some at the ends.
            let near = u128::from(random()) << (random() % 64) | u128::from(random());
            let mut numbers: Vec<u128> = (0..random() % 60)
                .map(|_| match random() % 3 {
                    0 => u128::from(random()) << 64 | u128::from(random()),
                    1 => near.wrapping_add(u128::from(random() % 50)),
                    _ => top - u128::from(random() % 3),
                })
                .map(|n| n % (top.saturating_add(1)).max(1))
                .chain([0])
                .collect();
            numbers.sort_unstable();
            numbers.dedup();
            let steps: Vec<Step> = numbers.iter().enumerate().map(|(row, n)| (*n, row as u32 + 5)).collect();
            let mut image = Image::default();
            image.narrow(&[1, 2, 3]);
            let map = Map::new(&steps, top, &mut image, |image, rows| image.narrow(rows));
            for number in
                numbers.iter().flat_map(|n| [n.wrapping_sub(1), *n, n + (*n < u128::MAX) as u128]).chain([top, near])
            {
                let Some(number) = (number <= top).then_some(number) else { continue };
                let right = numbers.partition_point(|n| *n <= number) as u32 + 4;
                let (step, words) = map.step(number, &image);
                assert_eq!(image.n(map.rows, step), right, "round {round}, {number:x} of {numbers:x?}");
                assert!(words <= 3 + 2 * (steps.len().ilog2() + 1), "{words} words for {} steps", steps.len());
            }
        }
    }
}
