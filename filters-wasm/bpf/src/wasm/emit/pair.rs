//! Two runs with a header's length between them, decided without a branch.
//!
//! "TCP, and port 80" is a run of tests on the IPv4 header, the length of that header, and a run on what follows. On mixed
//! traffic it cannot be foreseen whether the first run is left, and a wrong guess costs more than the second run does. So
//! both are computed, and the result is chosen. The one branch that stays is for packets that end before the second run's
//! fields, which are few.

use super::super::plan::{Guard, Step};
use super::super::runs::{From, Run};
use super::run::constant;
use super::{BUFLEN, Emitter, X};
use crate::insn::Op;
use wasm_encoder::{BlockType, Instruction as I};

/// Two runs to be decided together.
pub(super) struct Pair<'a> {
    first: &'a Run,
    /// Index of the instruction between them.
    length: usize,
    second: &'a Run,
    /// Result when the first run is left.
    left: u32,
    /// Results of the second run, when it is left and else.
    exit: u32,
    next: u32,
    /// The second run's fields are inside of packets with so many bytes after X.
    bytes: u32,
}

impl<'a> Pair<'a> {
    pub(super) fn find(first: &'a Run, ops: &[Op], plan: &[Step], runs: &'a [Option<Run>]) -> Option<Pair<'a>> {
        let (length, begin) = (first.last + 1, first.last + 2);
        let second = runs.get(begin)?.as_ref()?;
        let plain = |at: usize| plan[at].live && !plan[at].target;
        let straight = first.last_guard.is_none() && first.next == length && plain(length) && plain(begin);
        let measured = matches!(ops[length], Op::LdxMsh(_)) && plan[length].guard == Guard::default();
        let indexed = second.bases.iter().all(|b| matches!(b.from, From::Ind(..)));
        let bytes = plan[begin].guard.indexed.max(second.last_guard)?;
        if !(straight && measured && indexed && plan[begin].guard.fixed.is_none()) {
            return None;
        }
        let (left, exit, next) =
            (constant(ops, plan, first.exit)?, constant(ops, plan, second.exit)?, constant(ops, plan, second.next)?);
        Some(Pair { first, length, second, left, exit, next, bytes })
    }
}

impl Emitter {
    /// Code of two runs, of which the first begins at `begin`. Returns the last instruction.
    pub(super) fn pair(&mut self, begin: usize, pair: &Pair<'_>, ops: &[Op], plan: &[Step]) -> usize {
        let Pair { first, length, second, left, exit, next, bytes } = *pair;
        self.guard(plan[begin].guard);
        self.step(length, ops[length], &plan[length], plan);
        self.get(X);
        self.get(BUFLEN);
        // The guards before have proved that there are so many: this does not wrap.
        self.constant(bytes);
        self.op(I::I32Sub);
        self.op(I::I32GtU);
        self.op(I::If(BlockType::Empty));
        self.ifs += 1;
        // Test by test: a packet that ends in the second run may have been decided before.
        let words = self.values(first);
        self.conditions(first, &words);
        self.op(I::If(BlockType::Empty));
        self.ifs += 1;
        self.return_const(left);
        self.ifs -= 1;
        self.op(I::End);
        let at = length + 1;
        match second.last_guard {
            Some(bytes) => {
                self.guarded_run(at, second, bytes, ops, plan);
                // What the last test falls through to, when it does.
                self.return_const(constant(ops, plan, second.last + 1).unwrap_or(0));
            }
            None => {
                self.guard(plan[at].guard);
                self.run(second, ops, plan);
            }
        }
        self.ifs -= 1;
        self.op(I::End);
        self.constant(left);
        let words = self.values(second);
        self.chosen(second, &words, exit, next);
        let words = self.values(first);
        self.conditions(first, &words);
        self.op(I::Select);
        self.leave();
        second.last
    }
}
