//! What is known about a program before code is generated: which instructions can run, where bounds checks stand and
//! how far each reaches, and which loaded values may stay in network byte order.
//!
//! # The rule for merging bounds checks
//!
//! Let `need(p)` be the largest N such that *every* path from point p ends with result 0 when the packet has fewer
//! than N bytes. Since a program has no effect but its result, a check `buflen < need(p) -> return 0` may stand at p
//! without changing anything. Backwards over the program:
//!
//! - `ret #0`: no limit, every packet gives 0 ([`ALWAYS_ZERO`]); any other return: 0.
//! - a load of `size` bytes at `k`: the larger of `k + size` and what follows. A load at `X + k` needs at least
//!   `k + size` too, as X is not negative and a sum that wraps is out of range.
//! - a branch: the smaller of both sides. This is where merging stops: a check never moves above a branch of which one
//!   side accepts shorter packets.
//! - anything else: what follows. (A division by X = 0 ends with 0 as well, so it does not matter where it stands.)
//!
//! Forwards, `proven(p)` is the length that all paths to p have checked. A load whose bytes are not proven gets a
//! check for `need(p)`, which thereby covers all later loads that may be covered. The same pair of analyses runs for
//! loads relative to X between two assignments of X. A point with `need` = [`ALWAYS_ZERO`] is compiled to `return 0`.

use crate::insn::{Alu, Cond, Op, Size, Src};

/// `need` of a point from which every path ends with 0 whatever the packet.
pub(super) const ALWAYS_ZERO: u64 = u64::MAX;

/// How an instruction's packet access is guarded. Lengths in bytes; each is at most `u32::MAX`.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(super) struct Guard {
    /// Check first that the packet has this many bytes.
    pub(super) fixed: Option<u32>,
    /// Then check that it has this many bytes after X.
    pub(super) indexed: Option<u32>,
}

/// Everything the emitter asks about one instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// Some path from the start comes here and the result here is not always 0.
    pub(super) live: bool,
    /// Reached, but the result from here is always 0: emit `return 0`.
    pub(super) zero: bool,
    /// Some jump (not a fall-through) comes here.
    pub(super) target: bool,
    /// Bounds checks of a packet access.
    pub(super) guard: Guard,
    /// The value stays in network byte order, as the packet has it; its width.
    pub(super) raw: Option<Size>,
}

/// The successors of an instruction, as indices. Every target is inside the program: the validator saw to that.
pub(super) fn successors(index: usize, op: Op) -> [Option<usize>; 2] {
    match op {
        Op::RetK(_) | Op::RetA => [None, None],
        Op::Ja(k) => [Some(index + 1 + k as usize), None],
        Op::Jmp { jt, jf, .. } => [Some(index + 1 + usize::from(jt)), Some(index + 1 + usize::from(jf))],
        _ => [Some(index + 1), None],
    }
}

/// Analyses a validated program.
pub(super) fn plan(ops: &[Op]) -> Vec<Step> {
    let needs = needs(ops);
    let reached = reached(ops, &needs);
    let guards = guards(ops, &needs, &reached);
    let raw = raw_values(ops, &reached, &needs);
    let mut steps: Vec<Step> = (0..ops.len())
        .map(|i| Step {
            live: reached[i] && needs[i].fixed != ALWAYS_ZERO,
            zero: reached[i] && needs[i].fixed == ALWAYS_ZERO,
            target: false,
            guard: guards[i],
            raw: raw[i],
        })
        .collect();
    for (i, &op) in ops.iter().enumerate() {
        if steps[i].live && matches!(op, Op::Ja(_) | Op::Jmp { .. }) {
            for to in successors(i, op).into_iter().flatten().filter(|&to| to != i + 1) {
                steps[to].target = true;
            }
        }
    }
    steps
}

#[derive(Clone, Copy)]
struct Need {
    /// Packets shorter than this give 0 from here.
    fixed: u64,
    /// Packets with fewer bytes than this after the present X give 0 from here.
    indexed: u64,
}

fn needs(ops: &[Op]) -> Vec<Need> {
    let mut needs = vec![Need { fixed: ALWAYS_ZERO, indexed: ALWAYS_ZERO }; ops.len()];
    for (i, &op) in ops.iter().enumerate().rev() {
        let after = successors(i, op)
            .into_iter()
            .flatten()
            .map(|s| needs[s])
            .reduce(|a, b| Need { fixed: a.fixed.min(b.fixed), indexed: a.indexed.min(b.indexed) });
        // A reach beyond 32 bits cannot be satisfied: such a load always ends the program with 0.
        let within = |reach: u64| if reach > u64::from(u32::MAX) { ALWAYS_ZERO } else { reach };
        needs[i] = match (op, after) {
            (Op::RetK(0), _) => Need { fixed: ALWAYS_ZERO, indexed: ALWAYS_ZERO },
            (_, None) => Need { fixed: 0, indexed: 0 },
            (Op::LdAbs(size, k), Some(n)) => Need { fixed: n.fixed.max(within(reach(k, size))), ..n },
            (Op::LdInd(size, k), Some(n)) => {
                let r = within(reach(k, size));
                Need { fixed: n.fixed.max(r), indexed: n.indexed.max(r) }
            }
            (Op::LdxMsh(k), Some(n)) => Need { fixed: n.fixed.max(within(reach(k, Size::Byte))), indexed: 0 },
            (Op::LdxImm(_) | Op::LdxMem(_) | Op::LdxLen | Op::Tax, Some(n)) => Need { indexed: 0, ..n },
            (_, Some(n)) => n,
        };
    }
    needs
}

fn reach(k: u32, size: Size) -> u64 {
    u64::from(k) + u64::from(size.bytes())
}

/// Which instructions some path comes to, not counting paths behind a point where the result is always 0.
fn reached(ops: &[Op], needs: &[Need]) -> Vec<bool> {
    let mut reached = vec![false; ops.len()];
    reached[0] = true;
    for (i, &op) in ops.iter().enumerate() {
        if reached[i] && needs[i].fixed != ALWAYS_ZERO {
            successors(i, op).into_iter().flatten().for_each(|s| reached[s] = true);
        }
    }
    reached
}

/// Forward pass: what is proven before each instruction, and the checks that are missing.
fn guards(ops: &[Op], needs: &[Need], reached: &[bool]) -> Vec<Guard> {
    let mut proven: Vec<Option<Need>> = vec![None; ops.len()];
    proven[0] = Some(Need { fixed: 0, indexed: 0 });
    let mut guards = vec![Guard::default(); ops.len()];
    for (i, &op) in ops.iter().enumerate() {
        let (true, Some(mut here)) = (reached[i] && needs[i].fixed != ALWAYS_ZERO, proven[i]) else { continue };
        let access = match op {
            Op::LdAbs(size, k) => Some((reach(k, size), false)),
            Op::LdInd(size, k) => Some((reach(k, size), true)),
            Op::LdxMsh(k) => Some((reach(k, Size::Byte), false)),
            _ => None,
        };
        if let Some((reach, indexed)) = access {
            if here.fixed < reach {
                here.fixed = needs[i].fixed;
                guards[i].fixed = u32::try_from(needs[i].fixed).ok();
            }
            if indexed && here.indexed < reach {
                // Capped by what the fixed check covers, so that `buflen - indexed` cannot be negative.
                here.indexed = needs[i].indexed.min(here.fixed);
                guards[i].indexed = u32::try_from(here.indexed).ok();
            }
        }
        if matches!(op, Op::LdxMsh(_) | Op::LdxImm(_) | Op::LdxMem(_) | Op::LdxLen | Op::Tax) {
            here.indexed = 0;
        }
        for s in successors(i, op).into_iter().flatten() {
            let merged = proven[s]
                .map_or(here, |p| Need { fixed: p.fixed.min(here.fixed), indexed: p.indexed.min(here.indexed) });
            proven[s] = Some(merged);
        }
    }
    guards
}

/// Finds values of A that may stay in network byte order: those that come from loads of one width, go only through
/// bit operations with constants, and end only in tests for equality or bits. Byte order commutes with all of these,
/// so the constant is swapped at compile time instead of the value at run time.
///
/// Definitions of A that reach a common use form one group (union-find); one unfit member spoils its group.
fn raw_values(ops: &[Op], reached: &[bool], needs: &[Need]) -> Vec<Option<Size>> {
    // Group n + 1 belongs to the definition at instruction n, group 0 to the value at the start.
    let mut groups = Groups::new(ops.len() + 1);
    groups.spoil(0);
    // Per instruction, one representative group of the definitions of A that reach it.
    let mut incoming: Vec<Option<usize>> = vec![None; ops.len()];
    incoming[0] = Some(0);
    let used = a_is_used(ops);
    for (i, &op) in ops.iter().enumerate() {
        let (true, Some(a)) = (reached[i] && needs[i].fixed != ALWAYS_ZERO, incoming[i]) else { continue };
        let own = i + 1;
        let defines = match op {
            Op::LdAbs(size @ (Size::Half | Size::Word), _) | Op::LdInd(size @ (Size::Half | Size::Word), _) => {
                groups.set_size(own, size);
                true
            }
            Op::LdAbs(..) | Op::LdInd(..) | Op::LdImm(_) | Op::LdMem(_) | Op::LdLen | Op::Txa => {
                groups.spoil(own);
                true
            }
            Op::Alu(Alu::And | Alu::Or | Alu::Xor, Src::K(k)) => {
                groups.join(own, a);
                if !matches!(op, Op::Alu(Alu::And, _)) && k > 0xffff {
                    groups.need_word(own);
                }
                true
            }
            Op::Alu(..) | Op::Neg => {
                groups.spoil(a);
                groups.spoil(own);
                true
            }
            Op::St(_) | Op::Tax | Op::RetA => {
                groups.spoil(a);
                false
            }
            Op::Jmp { cond: Cond::Eq | Cond::Set, src: Src::K(_), .. } => false,
            Op::Jmp { jt, jf, .. } if jt == jf => false,
            Op::Jmp { .. } => {
                groups.spoil(a);
                false
            }
            _ => false,
        };
        let out = if defines { own } else { a };
        for s in successors(i, op).into_iter().flatten() {
            match incoming[s] {
                // Where A is not looked at again, values of different form may meet.
                Some(other) if used[s] => groups.join(other, out),
                Some(_) => {}
                None => incoming[s] = Some(out),
            }
        }
    }
    // A user of the value is told its form: by its own definition, or by what comes in.
    (0..ops.len())
        .map(|i| match ops[i] {
            Op::LdAbs(..) | Op::LdInd(..) => groups.form(i + 1),
            Op::Alu(..) | Op::Jmp { .. } => incoming[i].and_then(|a| groups.form(a)),
            _ => None,
        })
        .collect()
}

/// Per instruction whether some path from it reads A before setting it.
pub(super) fn a_is_used(ops: &[Op]) -> Vec<bool> {
    let mut used = vec![false; ops.len()];
    for (i, &op) in ops.iter().enumerate().rev() {
        used[i] = match op {
            Op::Alu(..) | Op::Neg | Op::St(_) | Op::Tax | Op::RetA => true,
            Op::Jmp { jt, jf, .. } if jt != jf => true,
            Op::LdAbs(..) | Op::LdInd(..) | Op::LdImm(_) | Op::LdMem(_) | Op::LdLen | Op::Txa => false,
            _ => successors(i, op).into_iter().flatten().any(|s| used[s]),
        };
    }
    used
}

/// Union-find over definitions with the form that all members of a group can share.
struct Groups {
    parent: Vec<usize>,
    form: Vec<Form>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Form {
    half: bool,
    word: bool,
    spoilt: bool,
    /// A constant does not fit 16 bits.
    word_only: bool,
}

impl Groups {
    fn new(n: usize) -> Groups {
        let form = Form { half: false, word: false, spoilt: false, word_only: false };
        Groups { parent: (0..n).collect(), form: vec![form; n] }
    }

    fn root(&self, mut i: usize) -> usize {
        while self.parent[i] != i {
            i = self.parent[i];
        }
        i
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        if a != b {
            let (fa, fb) = (self.form[a], self.form[b]);
            self.parent[b] = a;
            self.form[a] = Form {
                half: fa.half | fb.half,
                word: fa.word | fb.word,
                spoilt: fa.spoilt | fb.spoilt,
                word_only: fa.word_only | fb.word_only,
            };
        }
    }

    fn spoil(&mut self, i: usize) {
        let r = self.root(i);
        self.form[r].spoilt = true;
    }

    fn need_word(&mut self, i: usize) {
        let r = self.root(i);
        self.form[r].word_only = true;
    }

    fn set_size(&mut self, i: usize, size: Size) {
        let r = self.root(i);
        match size {
            Size::Half => self.form[r].half = true,
            _ => self.form[r].word = true,
        }
    }

    fn form(&self, i: usize) -> Option<Size> {
        match self.form[self.root(i)] {
            Form { spoilt: true, .. } => None,
            Form { half: true, word: false, word_only: false, .. } => Some(Size::Half),
            Form { half: false, word: true, .. } => Some(Size::Word),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
