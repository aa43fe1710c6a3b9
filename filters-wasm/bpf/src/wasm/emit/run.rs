//! Code for a run of tests: all conditions, or-ed, then one decision.

use super::super::plan::{Guard, Step};
use super::super::runs::{Base, Compare, From, Place, Run, Test, place};
use super::{A, BUFLEN, Emitter, MEM_POOL, OFF, X, swapped};
use crate::insn::{Op, Size};
use wasm_encoder::{BlockType, Instruction as I, MemArg};

/// From so many constants on a value is compared with a vector of them at a time.
const VECTOR_FROM: usize = 4;

impl Emitter {
    pub(super) fn run(&mut self, run: &Run, ops: &[Op], plan: &[Step]) {
        let words = self.values(run);
        match (constant(ops, plan, run.exit), constant(ops, plan, run.next)) {
            (Some(exit), Some(next)) => {
                self.chosen(run, &words, exit, next);
                self.leave();
            }
            _ => {
                self.conditions(run, &words);
                self.branch_if(run.exit, plan);
                self.jump(run.last, run.next, plan);
            }
        }
    }

    /// Brings the values of a run into their locals, those excepted that are compared as parts of a word.
    pub(super) fn values(&mut self, run: &Run) -> Vec<Word> {
        let words = words(run);
        let alone = |i: &usize| !words.iter().any(|w| w.tests.contains(i));
        for (i, base) in run.bases.iter().enumerate() {
            let tested = (0..run.tests.len()).filter(alone).any(|t| run.tests[t].base == i);
            if tested || run.a.is_some_and(|(a, _)| a == i) {
                self.load_base(i, *base);
            }
        }
        if let Some((base, mask)) = run.a {
            self.masked(run, base, mask);
            self.set(A);
        }
        words
    }

    /// The result of a run of which both ways end in a constant, on the stack.
    pub(super) fn chosen(&mut self, run: &Run, words: &[Word], exit: u32, next: u32) {
        self.constant(exit);
        if exit != next {
            self.constant(next);
            self.conditions(run, words);
            self.op(I::Select);
        }
    }

    /// A run whose last load may leave the packet: together where the packet is long enough, else test by test. Both ways of
    /// such a run end in a constant. Returns its last instruction.
    pub(super) fn guarded_run(&mut self, first: usize, run: &Run, bytes: u32, ops: &[Op], plan: &[Step]) -> usize {
        let guard = plan[first].guard;
        self.guard(Guard { indexed: None, ..guard });
        self.get(X);
        self.get(BUFLEN);
        // The plan has proved that there are so many, so that this does not wrap.
        self.constant(bytes.max(guard.indexed.unwrap_or(0)));
        self.op(I::I32Sub);
        self.op(I::I32LeU);
        self.op(I::If(BlockType::Empty));
        self.ifs += 1;
        self.run(run, ops, plan);
        self.ifs -= 1;
        self.op(I::End);
        self.guard(Guard { fixed: None, ..guard });
        for at in first..=run.last {
            let guard = if at == first { Guard::default() } else { plan[at].guard };
            self.step(at, ops[at], &Step { guard, ..plan[at] }, plan);
        }
        run.last
    }

    /// Brings a value into its local.
    fn load_base(&mut self, i: usize, base: Base) {
        match base.from {
            From::A => self.get(A),
            From::Abs(size, k) => {
                self.get(OFF);
                self.load(size, k, base.raw);
            }
            From::Ind(size, k) => {
                self.get(OFF);
                self.get(X);
                self.op(I::I32Add);
                self.load(size, k, base.raw);
            }
        }
        self.set(self.base(i));
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
    pub(super) fn conditions(&mut self, run: &Run, words: &[Word]) {
        let mut pieces = 0;
        for word in words {
            self.word(word);
            self.or(&mut pieces);
        }
        for base in 0..run.bases.len() {
            let of_base = |t: &(usize, &Test)| t.1.base == base && !words.iter().any(|w| w.tests.contains(&t.0));
            let tests: Vec<&Test> = run.tests.iter().enumerate().filter(of_base).map(|(_, t)| t).collect();
            let (lists, single): (Vec<&Test>, Vec<&Test>) = tests.iter().partition(|t| t.compare == Compare::Eq);
            let (lists, single) = if lists.len() < VECTOR_FROM { (vec![], tests) } else { (lists, single) };
            for test in single {
                self.condition(run, test);
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

    /// Not 0 when one of the tests of a word says so.
    fn word(&mut self, word: &Word) {
        let arg = MemArg { offset: u64::from(word.start), align: 0, memory_index: MEM_POOL };
        self.get(OFF);
        if word.bytes == 4 {
            self.op(I::I32Load(arg));
            self.constant(word.mask as u32);
            self.op(I::I32And);
            self.constant(word.value as u32);
            self.op(I::I32Xor);
        } else {
            self.op(I::I64Load(arg));
            self.op(I::I64Const(word.mask as i64));
            self.op(I::I64And);
            self.op(I::I64Const(word.value as i64));
            self.op(I::I64Ne);
        }
    }

    /// Not 0 when the test says so.
    fn condition(&mut self, run: &Run, test: &Test) {
        let raw = run.bases[test.base].raw;
        self.masked(run, test.base, test.mask);
        let k = match raw {
            // More than the value can be: no order makes them equal.
            Some(Size::Half) if test.k > 0xffff => test.k,
            raw => in_order(test.k, raw),
        };
        if test.compare == Compare::Ne && k == 0 {
            return;
        }
        self.constant(k);
        self.op(match test.compare {
            Compare::Eq => I::I32Eq,
            Compare::Ne => I::I32Xor,
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

/// Fields that lie near each other and must all have their value: one load, one mask, one comparison.
pub(super) struct Word {
    start: u32,
    /// 4 or 8.
    bytes: u32,
    /// As the bytes stand in the packet, the first one lowest.
    mask: u64,
    value: u64,
    /// Which tests of the run these are.
    tests: Vec<usize>,
}

/// The result at an index, when it is a constant.
pub(super) fn constant(ops: &[Op], plan: &[Step], index: usize) -> Option<u32> {
    match place(ops, plan, index) {
        Place::Returns(k) => Some(k),
        Place::At(_) => None,
    }
}

/// Finds fields to be compared together.
fn words(run: &Run) -> Vec<Word> {
    let mut fields: Vec<(u32, u32, usize)> = (0..run.tests.len())
        .filter_map(|i| {
            let (start, end) = field(run, &run.tests[i])?;
            Some((start, end, i))
        })
        .collect();
    fields.sort_unstable();
    let mut words = Vec::new();
    let mut rest = fields.as_slice();
    while let [(start, _, _), ..] = *rest {
        let n = rest.iter().take_while(|(_, end, _)| *end <= start.saturating_add(8)).count().max(1);
        let (near, behind) = rest.split_at(n);
        rest = behind;
        let end = near.iter().fold(0, |end, f| f.1.max(end));
        let bytes = if end - start <= 4 { 4 } else { 8 };
        // The word ends with the last field, so that all of it is inside the packet.
        if let (2.., Some(start)) = (n, end.checked_sub(bytes)) {
            words.push(word(run, near, start, bytes));
        }
    }
    words
}

fn word(run: &Run, fields: &[(u32, u32, usize)], start: u32, bytes: u32) -> Word {
    let mut word = Word { start, bytes, mask: 0, value: 0, tests: Vec::new() };
    for &(from, to, i) in fields {
        let test = &run.tests[i];
        let (mask, value) = (from..to).fold((0, 0), |(mask, value), at| {
            let (down, up) = (8 * (to - 1 - at), 8 * (at - start));
            (mask | u64::from(test.mask >> down & 0xff) << up, value | u64::from(test.k >> down & 0xff) << up)
        });
        // Tests that contradict each other cannot be one comparison: the second stays alone.
        if word.mask & mask & (word.value ^ value) == 0 {
            (word.mask, word.value) = (word.mask | mask, word.value | value);
            word.tests.push(i);
        }
    }
    word
}

/// The bytes of a test that can be part of a word: a field at a fixed place that must have one value.
fn field(run: &Run, test: &Test) -> Option<(u32, u32)> {
    let From::Abs(size, start) = run.bases[test.base].from else { return None };
    let width = u32::MAX >> (32 - 8 * size.bytes());
    let possible = test.compare == Compare::Ne && test.k & !(test.mask & width) == 0;
    possible.then(|| (start, start + size.bytes()))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn differ(size: Size, at: u32, mask: u32, k: u32) -> (Base, Test) {
        (Base { from: From::Abs(size, at), raw: None }, Test { base: 0, mask, compare: Compare::Ne, k })
    }

    fn words_of(tests: &[(Base, Test)]) -> Vec<(u32, u32, u64, u64, Vec<usize>)> {
        let (bases, tests) = tests.iter().enumerate().map(|(i, (b, t))| (*b, Test { base: i, ..*t })).unzip();
        let run = Run { last: 0, bases, tests, last_guard: None, exit: 0, next: 0, a: None };
        words(&run).into_iter().map(|w| (w.start, w.bytes, w.mask, w.value, w.tests)).collect()
    }

    #[test]
    fn fragment_offset_and_protocol_are_one_comparison() {
        let all = u32::MAX;
        let tests =
            [differ(Size::Half, 12, all, 0x800), differ(Size::Byte, 23, all, 6), differ(Size::Half, 20, 0x1fff, 0)];
        assert_eq!(words_of(&tests), [(20, 4, 0xff00_ff1f, 0x0600_0000, vec![2, 1])]);
    }

    #[test]
    fn a_word_ends_where_its_last_field_ends() {
        let tests = [differ(Size::Byte, 30, 0xff, 1), differ(Size::Byte, 35, 0xff, 2)];
        assert_eq!(words_of(&tests), [(28, 8, 0xff00_0000_00ff_0000, 0x0200_0000_0001_0000, vec![0, 1])]);
        let tests = [differ(Size::Byte, 0, 0xff, 1), differ(Size::Byte, 1, 0xff, 2)];
        assert_eq!(words_of(&tests), [], "there are no four bytes before the end");
    }

    #[test]
    fn tests_that_contradict_each_other_or_are_always_true_stay_alone() {
        let tests = [differ(Size::Word, 4, u32::MAX, 1), differ(Size::Word, 4, u32::MAX, 2)];
        assert_eq!(words_of(&tests)[0].4, [0]);
        let tests = [differ(Size::Half, 4, u32::MAX, 0x1_0000), differ(Size::Half, 6, 0x0f, 0x10)];
        assert_eq!(words_of(&tests), []);
    }
}
