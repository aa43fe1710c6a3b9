//! Rows of bits, one bit for each rule, kept once however often they are used.
//!
//! A row is cut into blocks of [`BLOCK`] words, and equal blocks are one. Where a number's row differs from the next
//! number's by one rule, one block is new, so that memory grows with the ends of ranges and not with ends times rules.

use super::ranges::Ranges;
use std::collections::HashMap;

/// Words of 64 bits in a block: a cache line.
pub(crate) const BLOCK: usize = 8;

type Block = [u64; BLOCK];

/// Rows, each of `stride` blocks.
pub(super) struct Rows {
    /// Blocks of a row.
    pub stride: usize,
    /// Words of 64 bits that summarize a row: a bit for each word of the row that is not zero.
    pub sums: usize,
    /// The blocks.
    pub blocks: Vec<Block>,
    /// The numbers of each row's blocks.
    pub rows: Vec<u32>,
    /// The summaries of each row.
    pub summaries: Vec<u64>,
    block_ids: HashMap<Block, u32>,
    row_ids: HashMap<Box<[u32]>, u32>,
}

/// A number from which on a row counts, and the row.
pub(super) type Step = (u128, u32);

impl Rows {
    /// Rows for so many rules.
    pub fn new(rules: usize) -> Rows {
        let stride = rules.div_ceil(64 * BLOCK).max(1);
        let sums = (stride * BLOCK).div_ceil(64);
        let (blocks, rows, summaries) = Default::default();
        Rows { stride, sums, blocks, rows, summaries, block_ids: HashMap::new(), row_ids: HashMap::new() }
    }

    /// The rows of the numbers from `first` to `last`, counted from `first`, where rule by rule `ranges` holds the
    /// numbers that fit. The first step is at 0.
    pub fn steps<'r>(&mut self, ranges: impl Iterator<Item = &'r Ranges>, (first, last): (u128, u128)) -> Vec<Step> {
        let mut bits = vec![[0u64; BLOCK]; self.stride];
        let mut flips: Vec<(u128, u32)> = Vec::new();
        for (rule, ranges) in ranges.enumerate() {
            for &(from, to) in ranges.iter().filter(|(from, to)| *to >= first && *from <= last) {
                flips.push((from.max(first) - first, rule as u32));
                if to < last {
                    flips.push((to + 1 - first, rule as u32));
                }
            }
        }
        flips.sort_unstable();
        let mut row: Vec<u32> = bits.iter().map(|b| self.block(b)).collect();
        let mut steps = Vec::new();
        let mut dirty: Vec<usize> = Vec::new();
        let mut rest = &flips[..];
        let mut at = 0;
        loop {
            let here = rest.iter().take_while(|(number, _)| *number == at).count();
            let (now, later) = rest.split_at(here);
            for &(_, rule) in now {
                let (block, word, bit) = (rule as usize / (64 * BLOCK), rule as usize / 64 % BLOCK, rule % 64);
                bits[block][word] ^= 1 << bit;
                if dirty.last() != Some(&block) {
                    dirty.push(block);
                }
            }
            for block in dirty.drain(..) {
                row[block] = self.block(&bits[block]);
            }
            let id = self.row(&row);
            if steps.last().is_none_or(|&(_, before)| before != id) {
                steps.push((at, id));
            }
            let Some(&(next, _)) = later.first() else { return steps };
            (at, rest) = (next, later);
        }
    }

    /// The first 64 bits of a row.
    pub fn first_word(&self, row: u32) -> u64 {
        let block = self.rows.get(row as usize * self.stride);
        block.and_then(|block| self.blocks.get(*block as usize)).map_or(0, |words| words[0])
    }

    fn block(&mut self, block: &Block) -> u32 {
        let next = self.blocks.len() as u32;
        let id = *self.block_ids.entry(*block).or_insert(next);
        if id == next {
            self.blocks.push(*block);
        }
        id
    }

    fn row(&mut self, row: &[u32]) -> u32 {
        if let Some(&id) = self.row_ids.get(row) {
            return id;
        }
        let id = self.row_ids.len() as u32;
        self.row_ids.insert(row.into(), id);
        self.rows.extend_from_slice(row);
        let mut summary = vec![0u64; self.sums];
        for (n, block) in row.iter().enumerate() {
            for (word, _) in self.blocks[*block as usize].iter().enumerate().filter(|(_, w)| **w != 0) {
                let bit = n * BLOCK + word;
                summary[bit / 64] |= 1 << (bit % 64);
            }
        }
        self.summaries.extend(summary);
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_the_bits_of_the_rules_whose_ranges_hold_the_number() {
        let mut rows = Rows::new(3);
        let ranges = [vec![(0, 100)], vec![(10, 19), (30, 30)], vec![(15, 200)]];
        let steps = rows.steps(ranges.iter(), (10, 40));
        let bits: Vec<(u128, u64)> =
            steps.iter().map(|&(n, row)| (n, rows.blocks[rows.rows[row as usize] as usize][0])).collect();
        assert_eq!(bits, [(0, 3), (5, 7), (10, 5), (20, 7), (21, 5)]);
        assert_eq!(rows.summaries.len(), 3, "three different rows");
    }
}
