//! Runs of tests that one branch decides.
//!
//! Filters are mostly long rows of "if this then reject, else look at the next": a list of ports, of networks, or the
//! few fields that make a packet TCP. On mixed traffic a row of branches is dear, because it cannot be predicted which
//! of them is taken. Here tests that follow each other and leave to the same place become one [`Run`]: all conditions are
//! computed, and one branch, or none where both ways end in a constant, decides. Values that are compared with many
//! constants are compared with a vector of them at a time.
//!
//! What makes this allowed: a program has no effect but its result. A test may be moved before the branches ahead of it
//! when its load cannot leave the packet (the plan proved that, else the load has a guard and begins a run of its own), and
//! when nobody asks at the exit what A is.

use super::plan::{Guard, Step, a_is_used, successors};
use crate::insn::{Alu, Cond, Op, Size, Src};

/// A list of so many constants is not computed before the tests ahead of it have let the packet through.
const LONG_LIST: usize = 16;
/// Values that a run loads at most.
const MAX_BASES: usize = 6;

/// Where a tested value comes from, and whether it stays in network byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Base {
    pub(super) from: From,
    pub(super) raw: Option<Size>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// A as it is before the run.
    A,
    /// The packet at an offset.
    Abs(Size, u32),
    /// The packet at X and an offset.
    Ind(Size, u32),
}

/// The run is left when `base & mask` compares so with `k`; constants as the program has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Test {
    /// Index in [`Run::bases`].
    pub(super) base: usize,
    pub(super) mask: u32,
    pub(super) compare: Compare,
    pub(super) k: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compare {
    Eq,
    Ne,
    Gt,
    Le,
    Ge,
    Lt,
}

/// Tests that one branch decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Its last instruction.
    pub(super) last: usize,
    pub(super) bases: Vec<Base>,
    pub(super) tests: Vec<Test>,
    /// The load of the last base is only inside the packet when it has this many bytes after X. When not, the tests before
    /// it decide, and what comes behind the run is 0 anyway; both ways of such a run end in a constant.
    pub(super) last_guard: Option<u32>,
    /// Where it goes when one of the tests says so.
    pub(super) exit: usize,
    /// Where it goes else.
    pub(super) next: usize,
    /// What A is behind the run when somebody asks: base and mask.
    pub(super) a: Option<(usize, u32)>,
}

/// Where a jump ends: places that give the same result are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Returns(u32),
    At(usize),
}

/// What is at `index`, jumps followed.
pub(super) fn place(ops: &[Op], plan: &[Step], index: usize) -> Place {
    match ops[index] {
        _ if plan[index].zero => Place::Returns(0),
        Op::RetK(k) => Place::Returns(k),
        // Forward only, so this ends.
        Op::Ja(k) => place(ops, plan, index + 1 + k as usize),
        _ => Place::At(index),
    }
}

/// The runs of a program, at the index of their first instruction.
pub(super) fn runs(ops: &[Op], plan: &[Step]) -> Vec<Option<Run>> {
    let used = a_is_used(ops);
    let mut runs = vec![None; ops.len()];
    let mut at = 0;
    while at < ops.len() {
        let run = if plan[at].live { find(ops, plan, &used, at) } else { None };
        let last = run.as_ref().map_or(at, |r| r.last);
        runs[at] = run;
        at = last + 1;
    }
    runs
}

/// One test as it stands in the program: an optional load, masks, a branch.
struct Node {
    base: Base,
    mask: u32,
    /// The load's guard.
    guard: Guard,
    /// Index of the branch.
    branch: usize,
    cond: Cond,
    k: u32,
    taken: usize,
    not_taken: usize,
}

impl Node {
    /// Reads the test that begins at `first`, when there is one into which nobody jumps. `before` is what A is.
    fn read(ops: &[Op], plan: &[Step], first: usize, before: Option<(Base, u32)>) -> Option<Node> {
        let (mut from, mut mask) = (before, u32::MAX);
        if let Some((_, m)) = before {
            mask = m;
        }
        let mut guard = Guard::default();
        for at in first..ops.len() {
            if !plan[at].live || (at > first && plan[at].target) {
                return None;
            }
            match ops[at] {
                Op::LdAbs(size, k) if at == first => {
                    from = Some((Base { from: From::Abs(size, k), raw: plan[at].raw }, u32::MAX));
                    (mask, guard) = (u32::MAX, plan[at].guard);
                }
                Op::LdInd(size, k) if at == first => {
                    from = Some((Base { from: From::Ind(size, k), raw: plan[at].raw }, u32::MAX));
                    (mask, guard) = (u32::MAX, plan[at].guard);
                }
                Op::Alu(Alu::And, Src::K(k)) => mask &= k,
                Op::Jmp { cond, src: Src::K(k), jt, jf } if jt != jf => {
                    let base = from.map_or(Base { from: From::A, raw: plan[at].raw }, |(base, _)| base);
                    let [Some(taken), Some(not_taken)] = successors(at, ops[at]) else { return None };
                    return Some(Node { base, mask, guard, branch: at, cond, k, taken, not_taken });
                }
                _ => return None,
            }
        }
        None
    }

    /// The test that leaves when the branch is taken, or when it is not.
    fn test(&self, base: usize, leaves_when_taken: bool) -> Test {
        let (mask, k) = (self.mask, self.k);
        let (compare, mask, k) = match (self.cond, leaves_when_taken) {
            (Cond::Eq, true) => (Compare::Eq, mask, k),
            (Cond::Eq, false) => (Compare::Ne, mask, k),
            (Cond::Set, true) => (Compare::Ne, mask & k, 0),
            (Cond::Set, false) => (Compare::Eq, mask & k, 0),
            (Cond::Gt, true) => (Compare::Gt, mask, k),
            (Cond::Gt, false) => (Compare::Le, mask, k),
            (Cond::Ge, true) => (Compare::Ge, mask, k),
            (Cond::Ge, false) => (Compare::Lt, mask, k),
        };
        Test { base, mask, compare, k }
    }
}

fn find(ops: &[Op], plan: &[Step], used: &[bool], first: usize) -> Option<Run> {
    let place = |index| place(ops, plan, index);
    let constant = |index| matches!(place(index), Place::Returns(_));
    let node = Node::read(ops, plan, first, None)?;
    // The way that the program text goes on is the way on.
    let leaves_when_taken = node.taken != node.branch + 1;
    let (exit, next) = if leaves_when_taken { (node.taken, node.not_taken) } else { (node.not_taken, node.taken) };
    let mut run = Run {
        last: node.branch,
        bases: vec![node.base],
        tests: vec![node.test(0, leaves_when_taken)],
        last_guard: None,
        exit,
        next,
        a: Some((0, node.mask)),
    };
    while run.next == run.last + 1 && run.last_guard.is_none() {
        let a = run.a.map(|(base, mask)| (run.bases[base], mask));
        let inside = ops.get(run.next).is_some() && !plan[run.next].target;
        let Some(node) = Node::read(ops, plan, run.next, a).filter(|_| inside) else { break };
        let leaves_when_taken = place(node.taken) == place(exit);
        if !leaves_when_taken && place(node.not_taken) != place(exit) {
            break;
        }
        let next = if leaves_when_taken { node.not_taken } else { node.taken };
        // Behind the exit A would be that of the last test, wherever the run was left.
        if used[exit] && a != Some((node.base, node.mask)) {
            break;
        }
        match node.guard {
            Guard { fixed: None, indexed: None } => {}
            Guard { fixed: None, indexed } if place(next) == Place::Returns(0) && constant(exit) => {
                run.last_guard = indexed;
            }
            _ => break,
        }
        let known = run.bases.iter().position(|b| *b == node.base).filter(|_| run.last_guard.is_none());
        let base = known.unwrap_or(run.bases.len());
        if base == run.bases.len() {
            if base == MAX_BASES || list_length(ops, plan, run.next, &node) >= LONG_LIST {
                run.last_guard = None;
                break;
            }
            run.bases.push(node.base);
        }
        run.tests.push(node.test(base, leaves_when_taken));
        run.a = Some((base, node.mask));
        (run.last, run.next) = (node.branch, next);
    }
    if !used[run.exit] && !used[run.next] {
        run.a = None;
    }
    // A single test gains something only when it needs no branch at all.
    (run.tests.len() > 1 || (constant(run.exit) && constant(run.next))).then_some(run)
}

/// How many tests of the same value follow from the one at `first` on.
fn list_length(ops: &[Op], plan: &[Step], first: usize, node: &Node) -> usize {
    let (mut length, mut at, mut a) = (1, node.branch + 1, Some((node.base, node.mask)));
    while length < LONG_LIST && at > first && at < ops.len() && !plan[at].target {
        match Node::read(ops, plan, at, a) {
            Some(n) if n.base == node.base => {
                length += 1;
                at = n.branch + 1;
                a = Some((n.base, n.mask));
            }
            _ => break,
        }
    }
    length
}

#[cfg(test)]
mod tests;
