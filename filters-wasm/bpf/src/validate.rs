//! The validator: what a program must satisfy before any engine sees it. It is a security boundary of its own and does
//! not rely on the sandbox below.

use crate::insn::{Alu, Insn, Op, SCRATCH_WORDS, Src};

/// Longest program, in instructions.
pub const MAX_INSNS: usize = 512;

/// Why a program was refused. `index` counts instructions from 0, as `tcpdump -d` prints them.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ValidateError {
    /// No instruction at all.
    #[error("the program is empty; a program that accepts everything is one instruction, `ret #262144`")]
    Empty,
    /// More than [`MAX_INSNS`] instructions.
    #[error("the program has {len} instructions, more than {MAX_INSNS}; split the filter in two or shorten its lists")]
    TooLong {
        /// How many it has.
        len: usize,
    },
    /// A code that no engine executes.
    #[error(
        "instruction {index}: code {code:#06x} is no operation of classic BPF; see `smpnet bpf compile -d` for the \
             known ones (Linux extensions and eBPF are not part of it)"
    )]
    UnknownCode {
        /// Which instruction.
        index: usize,
        /// Its code.
        code: u16,
    },
    /// A jump past the last instruction.
    #[error("instruction {index}: the jump goes to {target}, past the last instruction {last}; make it end at a `ret`")]
    JumpOutside {
        /// Which instruction.
        index: usize,
        /// Where it goes.
        target: u64,
        /// The last instruction.
        last: usize,
    },
    /// A jump backwards: only libpcap's `protochain` makes one.
    #[error(
        "instruction {index}: the jump goes {distance} instructions backwards and a program with loops is refused; \
             libpcap generates such a loop for `protochain` (as in `ip6 protochain tcp`): test the protocol with \
             `proto`, for example `ip6 proto 6`"
    )]
    JumpBackward {
        /// Which instruction.
        index: usize,
        /// How far, in instructions.
        distance: u32,
    },
    /// A division by the constant 0.
    #[error("instruction {index}: division or modulo by the constant 0; use another divisor")]
    DivisionByZero {
        /// Which instruction.
        index: usize,
    },
    /// A scratch word that does not exist.
    #[error("instruction {index}: there is no scratch word {word}; the words are M[0] to M[15]")]
    NoSuchWord {
        /// Which instruction.
        index: usize,
        /// The word.
        word: u32,
    },
    /// A scratch word is read that some path to here did not write.
    #[error("instruction {index}: M[{word}] is read but at least one path to here never wrote it; store to it first")]
    UnwrittenWord {
        /// Which instruction.
        index: usize,
        /// The word.
        word: u32,
    },
    /// The last instruction does not return.
    #[error("instruction {index}: the last instruction must be a `ret`, so that the program cannot run off its end")]
    NoReturn {
        /// Which instruction.
        index: usize,
    },
}

/// How reads of scratch words that were never written are taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scratch {
    /// Refused, as NetBSD's kernel does.
    Strict,
    /// They give 0, as in libpcap and NetBSD's user-space library.
    Zeroed,
}

/// Checks every rule and returns the decoded operations.
///
/// A shift by a constant of 32 or more is accepted and gives 0, like a shift by such an X.
pub(crate) fn validate(insns: &[Insn], scratch: Scratch) -> Result<Vec<Op>, ValidateError> {
    if insns.is_empty() {
        return Err(ValidateError::Empty);
    }
    if insns.len() > MAX_INSNS {
        return Err(ValidateError::TooLong { len: insns.len() });
    }
    let last = insns.len() - 1;
    let mut ops = Vec::with_capacity(insns.len());
    for (index, &insn) in insns.iter().enumerate() {
        let op = Op::decode(insn).ok_or(ValidateError::UnknownCode { index, code: insn.code })?;
        check_op(index, op, last)?;
        ops.push(op);
    }
    if !matches!(ops[last], Op::RetK(_) | Op::RetA) {
        return Err(ValidateError::NoReturn { index: last });
    }
    if scratch == Scratch::Strict {
        check_scratch(&ops)?;
    }
    Ok(ops)
}

fn check_op(index: usize, op: Op, last: usize) -> Result<(), ValidateError> {
    let inside = |distance: u32| {
        let target = index as u64 + 1 + u64::from(distance);
        if target > last as u64 { Err(ValidateError::JumpOutside { index, target, last }) } else { Ok(()) }
    };
    match op {
        // libpcap reads the distance as signed.
        Op::Ja(k) if k > i32::MAX as u32 => Err(ValidateError::JumpBackward { index, distance: k.wrapping_neg() }),
        Op::Ja(k) => inside(k),
        Op::Jmp { jt, jf, .. } => inside(u32::from(jt)).and_then(|()| inside(u32::from(jf))),
        Op::Alu(Alu::Div | Alu::Mod, Src::K(0)) => Err(ValidateError::DivisionByZero { index }),
        Op::LdMem(word) | Op::LdxMem(word) | Op::St(word) | Op::Stx(word) if word >= SCRATCH_WORDS => {
            Err(ValidateError::NoSuchWord { index, word })
        }
        _ => Ok(()),
    }
}

/// Refuses a read of a scratch word that is not written on every path to it. One pass is enough: jumps go forward only.
/// Instructions that cannot be reached may read what they like.
fn check_scratch(ops: &[Op]) -> Result<(), ValidateError> {
    // Per instruction the words written on all paths to it; all ones where no path is known.
    let mut written = vec![u32::MAX; ops.len() + 1];
    written[0] = 0;
    for (index, &op) in ops.iter().enumerate() {
        let here = written[index];
        let mut flow = |distance: usize, set: u32| written[index + 1 + distance] &= set;
        match op {
            Op::LdMem(word) | Op::LdxMem(word) if here & 1 << word == 0 => {
                return Err(ValidateError::UnwrittenWord { index, word });
            }
            Op::St(word) | Op::Stx(word) => flow(0, here | 1 << word),
            Op::Ja(k) => flow(k as usize, here),
            Op::Jmp { jt, jf, .. } => {
                flow(usize::from(jt), here);
                flow(usize::from(jf), here);
            }
            Op::RetK(_) | Op::RetA => {}
            _ => flow(0, here),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Program;
    use crate::insn::code;

    fn refuse(insns: &[Insn]) -> ValidateError {
        Program::new(insns.to_vec()).expect_err("must be refused")
    }
    const RET: Insn = Insn::stmt(code::RET_K, 1);

    #[test]
    fn each_rule_names_the_instruction_and_what_to_do() {
        assert_eq!(refuse(&[]), ValidateError::Empty);
        assert_eq!(refuse(&[RET; 513]), ValidateError::TooLong { len: 513 });
        assert_eq!(refuse(&[Insn::stmt(0x90, 0), RET]), ValidateError::UnknownCode { index: 0, code: 0x90 });
        assert_eq!(
            refuse(&[RET, Insn::jump(code::JEQ_K, 0, 0, 1), RET]),
            ValidateError::JumpOutside { index: 1, target: 3, last: 2 }
        );
        assert_eq!(refuse(&[Insn::stmt(code::MOD_K, 0), RET]), ValidateError::DivisionByZero { index: 0 });
        assert_eq!(refuse(&[Insn::stmt(code::STX, 16), RET]), ValidateError::NoSuchWord { index: 0, word: 16 });
        assert_eq!(refuse(&[Insn::stmt(code::LDX_MEM, 2), RET]), ValidateError::UnwrittenWord { index: 0, word: 2 });
        assert_eq!(refuse(&[RET, Insn::stmt(code::TAX, 0)]), ValidateError::NoReturn { index: 1 });
    }

    #[test]
    fn a_loop_is_refused_with_the_name_of_what_makes_loops() {
        let error = refuse(&[Insn::stmt(code::TAX, 0), Insn::stmt(code::JA, u32::MAX - 1), RET]);
        assert_eq!(error, ValidateError::JumpBackward { index: 1, distance: 2 });
        assert!(error.to_string().contains("ip6 protochain"), "{error}");
    }

    #[test]
    fn five_hundred_and_twelve_instructions_are_accepted() {
        assert!(Program::new(vec![RET; 512]).is_ok());
    }

    #[test]
    fn unreachable_instructions_may_read_scratch_words() {
        assert!(Program::new(vec![RET, Insn::stmt(code::LD_MEM, 3), RET]).is_ok());
    }

    #[test]
    fn a_shift_by_a_constant_of_32_or_more_is_accepted_and_gives_zero() {
        for k in [32, 33, u32::MAX] {
            for shift in [code::LSH_K, code::RSH_K] {
                let p = Program::new(vec![
                    Insn::stmt(code::LD_IMM, u32::MAX),
                    Insn::stmt(shift, k),
                    Insn::stmt(code::RET_A, 0),
                ]);
                assert_eq!(p.unwrap().run(&[], 0), 0);
            }
        }
    }
}
