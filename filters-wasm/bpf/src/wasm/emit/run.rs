//! Code for a run of tests: all conditions, or-ed, then one decision.

use super::super::plan::Step;
use super::super::runs::{Base, Compare, From, Place, Run, Test, place};
use super::{A, BUFLEN, Emitter, OFF, X, swapped};
use crate::insn::{Op, Size};
use wasm_encoder::Instruction as I;

/// From so many constants on a value is compared with a vector of them at a time.
const VECTOR_FROM: usize = 4;

impl Emitter {
    pub(super) fn run(&mut self, run: &Run, ops: &[Op], plan: &[Step]) {
        let guarded = run.last_guard.map(|bytes| (run.bases.len() - 1, bytes));
        for (i, base) in run.bases.iter().enumerate() {
            self.load_base(i, *base, guarded.filter(|(at, _)| *at == i).map(|(_, bytes)| bytes));
        }
        if let Some((base, mask)) = run.a {
            self.masked(run, base, mask);
            self.set(A);
        }
        let constant = |index| match place(ops, plan, index) {
            Place::Returns(k) => Some(k),
            Place::At(_) => None,
        };
        match (constant(run.exit), constant(run.next)) {
            (Some(exit), Some(next)) if exit == next => self.return_const(exit),
            (Some(exit), Some(next)) => {
                self.constant(exit);
                self.constant(next);
                self.conditions(run);
                self.op(I::Select);
                self.leave();
            }
            _ => {
                self.conditions(run);
                self.branch_if(run.exit, plan);
                self.jump(run.last, run.next, plan);
            }
        }
    }

    /// Brings a value into its local. One that may lie outside of the packet is read near the packet's start instead,
    /// where the plan has proved that there are bytes; what it is does not matter then.
    fn load_base(&mut self, i: usize, base: Base, guard: Option<u32>) {
        match base.from {
            From::A => self.get(A),
            From::Abs(size, k) => {
                self.get(OFF);
                self.load(size, k, base.raw);
            }
            From::Ind(size, k) => {
                self.get(OFF);
                self.get(X);
                if let Some(bytes) = guard {
                    self.constant(0);
                    self.inside(bytes);
                    self.op(I::Select);
                }
                self.op(I::I32Add);
                self.load(size, k, base.raw);
            }
        }
        self.set(self.base(i));
    }

    /// 1 when the packet has this many bytes after X.
    fn inside(&mut self, bytes: u32) {
        self.get(X);
        self.get(BUFLEN);
        self.constant(bytes);
        self.op(I::I32Sub);
        self.op(I::I32LeU);
    }

    fn base(&self, i: usize) -> u32 {
        self.first_base + i as u32
    }

    /// `base & mask`, on the stack.
    fn masked(&mut self, run: &Run, base: usize, mask: u32) {
        self.get(self.base(base));
        if mask != u32::MAX {
            self.constant(in_order(mask, run.bases[base].raw));
            self.op(I::I32And);
        }
    }

    /// Leaves on the stack what is not 0 when the run is left.
    fn conditions(&mut self, run: &Run) {
        let mut pieces = 0;
        let last = run.bases.len() - 1;
        for base in 0..run.bases.len() {
            let tests: Vec<&Test> = run.tests.iter().filter(|t| t.base == base).collect();
            let (lists, single): (Vec<&Test>, Vec<&Test>) = tests.iter().partition(|t| t.compare == Compare::Eq);
            let (lists, single) = if lists.len() < VECTOR_FROM { (vec![], tests) } else { (lists, single) };
            for test in single {
                self.condition(run, test);
                if let Some(bytes) = run.last_guard.filter(|_| base == last) {
                    // Both are 0 or 1.
                    self.inside(bytes);
                    self.op(I::I32And);
                }
                self.or(&mut pieces);
            }
            if !lists.is_empty() {
                self.list(run.bases[base], base, &lists);
                self.or(&mut pieces);
            }
        }
    }

    fn or(&mut self, pieces: &mut u32) {
        if *pieces > 0 {
            self.op(I::I32Or);
        }
        *pieces += 1;
    }

    fn condition(&mut self, run: &Run, test: &Test) {
        let raw = run.bases[test.base].raw;
        self.masked(run, test.base, test.mask);
        let k = match raw {
            // More than the value can be: no order makes them equal.
            Some(Size::Half) if test.k > 0xffff => test.k,
            raw => in_order(test.k, raw),
        };
        self.constant(k);
        self.op(match test.compare {
            Compare::Eq => I::I32Eq,
            Compare::Ne => I::I32Ne,
            Compare::Gt => I::I32GtU,
            Compare::Le => I::I32LeU,
            Compare::Ge => I::I32GeU,
            Compare::Lt => I::I32LtU,
        });
    }

    /// Compares a value with all constants of a list, eight or four at a time; 1 or 0 on the stack.
    fn list(&mut self, base: Base, local: usize, tests: &[&Test]) {
        let short = is_short(base);
        let lanes = if short { 8 } else { 4 };
        // What a short value cannot be needs no test.
        let possible = |t: &&Test| !short || t.k <= 0xffff;
        let pairs: Vec<(u32, u32)> = tests.iter().filter(|t| possible(t)).map(|t| pair(t, base.raw)).collect();
        if pairs.is_empty() {
            return self.constant(0);
        }
        // Those without a mask first: their vectors need none.
        let (plain, masked): (Vec<_>, Vec<_>) = pairs.into_iter().partition(|(mask, _)| *mask == u32::MAX);
        let plain = plain.chunks(lanes).map(|c| (false, c.to_vec()));
        let masked_chunks = masked.chunks(lanes).map(|c| (true, c.to_vec()));
        let vectors: Vec<(bool, Vec<(u32, u32)>)> = plain.chain(masked_chunks).collect();
        self.get(self.base(local));
        self.op(if short { I::I16x8Splat } else { I::I32x4Splat });
        self.set(self.vector);
        self.vectors(&vectors, short);
        self.op(I::V128AnyTrue);
    }

    /// All vectors' comparisons, or-ed in pairs so that none waits for all before it.
    fn vectors(&mut self, vectors: &[(bool, Vec<(u32, u32)>)], short: bool) {
        if let [(masked, pairs)] = vectors {
            self.get(self.vector);
            if *masked {
                self.op(I::V128Const(lanes(pairs.iter().map(|(mask, _)| *mask), short)));
                self.op(I::V128And);
            }
            self.op(I::V128Const(lanes(pairs.iter().map(|(_, k)| *k), short)));
            self.op(if short { I::I16x8Eq } else { I::I32x4Eq });
            return;
        }
        let (left, right) = vectors.split_at(vectors.len() / 2);
        self.vectors(left, short);
        self.vectors(right, short);
        self.op(I::V128Or);
    }
}

/// Whether a value has 16 bits at most.
fn is_short(base: Base) -> bool {
    match base.from {
        From::A => base.raw == Some(Size::Half),
        From::Abs(size, _) | From::Ind(size, _) => size != Size::Word,
    }
}

fn in_order(k: u32, raw: Option<Size>) -> u32 {
    raw.map_or(k, |size| swapped(k, size))
}

fn pair(test: &Test, raw: Option<Size>) -> (u32, u32) {
    let mask = if test.mask == u32::MAX { test.mask } else { in_order(test.mask, raw) };
    (mask, in_order(test.k, raw))
}

/// A vector constant; lanes that are left over repeat the last value.
fn lanes(values: impl Iterator<Item = u32>, short: bool) -> i128 {
    let values: Vec<u32> = values.collect();
    let (count, bits) = if short { (8, 16) } else { (4, 32) };
    let last = values.last().copied().unwrap_or(0);
    (0..count).rev().fold(0u128, |all, lane| {
        let value = u128::from(values.get(lane).copied().unwrap_or(last)) & ((1 << bits) - 1);
        all << bits | value
    }) as i128
}
