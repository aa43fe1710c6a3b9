//! The instruction set: the eight-byte instruction as stored, and what it means once decoded.
//!
//! Source: NetBSD `sys/net/bpf.h`; the codes are the same in libpcap and Linux. `cop`/`copx` (0x27, 0x47) are NPF's and
//! are not part of a packet filter here.

/// One instruction as it is stored, written with `-ddd` and passed to libpcap. The layout equals C's `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Insn {
    /// The operation. See [`Op::decode`].
    pub code: u16,
    /// How many instructions to skip when a conditional jump is taken.
    pub jt: u8,
    /// How many instructions to skip when it is not.
    pub jf: u8,
    /// The constant: an offset, an immediate value, a scratch word or a jump distance.
    pub k: u32,
}

impl Insn {
    /// An instruction without jump distances.
    pub const fn stmt(code: u16, k: u32) -> Insn {
        Insn { code, jt: 0, jf: 0, k }
    }

    /// A conditional jump.
    pub const fn jump(code: u16, k: u32, jt: u8, jf: u8) -> Insn {
        Insn { code, jt, jf, k }
    }
}

/// How many scratch words a program has.
pub const SCRATCH_WORDS: u32 = 16;

/// Width of a packet load.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Size {
    /// One byte.
    Byte,
    /// Two bytes, big-endian.
    Half,
    /// Four bytes, big-endian.
    Word,
}

impl Size {
    /// Width in bytes.
    pub const fn bytes(self) -> u32 {
        match self {
            Size::Byte => 1,
            Size::Half => 2,
            Size::Word => 4,
        }
    }
}

/// The second operand of an arithmetic operation or comparison.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Src {
    /// The instruction's constant.
    K(u32),
    /// The index register.
    X,
}

/// Arithmetic on A, unsigned 32 bits, wrapping.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Alu {
    /// A + operand.
    Add,
    /// A - operand.
    Sub,
    /// A * operand.
    Mul,
    /// A / operand; X = 0 ends the program with 0.
    Div,
    /// A % operand; X = 0 ends the program with 0.
    Mod,
    /// A & operand.
    And,
    /// A | operand.
    Or,
    /// A ^ operand.
    Xor,
    /// A << operand; 0 when the operand is 32 or more.
    Lsh,
    /// A >> operand; 0 when the operand is 32 or more.
    Rsh,
}

/// Condition of a jump, unsigned.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Cond {
    /// A == operand.
    Eq,
    /// A > operand.
    Gt,
    /// A >= operand.
    Ge,
    /// A & operand is not 0.
    Set,
}

/// An instruction with its meaning. Jump distances are relative to the following instruction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Op {
    /// A = packet\[k\].
    LdAbs(Size, u32),
    /// A = packet\[X + k\]; a sum that wraps is out of range.
    LdInd(Size, u32),
    /// A = k.
    LdImm(u32),
    /// A = M\[k\].
    LdMem(u32),
    /// A = the length on the wire.
    LdLen,
    /// X = k.
    LdxImm(u32),
    /// X = M\[k\].
    LdxMem(u32),
    /// X = the length on the wire.
    LdxLen,
    /// X = 4 * (packet\[k\] & 15): the length of an IPv4 header.
    LdxMsh(u32),
    /// M\[k\] = A.
    St(u32),
    /// M\[k\] = X.
    Stx(u32),
    /// A = A op operand.
    Alu(Alu, Src),
    /// A = -A.
    Neg,
    /// Skip k instructions.
    Ja(u32),
    /// Skip `jt` instructions when the condition holds, else `jf`.
    Jmp {
        /// What is compared.
        cond: Cond,
        /// Against what.
        src: Src,
        /// Distance when it holds.
        jt: u8,
        /// Distance when it does not.
        jf: u8,
    },
    /// End with k.
    RetK(u32),
    /// End with A.
    RetA,
    /// X = A.
    Tax,
    /// A = X.
    Txa,
}

impl Op {
    /// The meaning of an instruction, or `None` where no engine executes this code.
    ///
    /// Codes whose class and mode are valid one by one but that the interpreters of NetBSD and libpcap do not execute
    /// (0x90, "load byte of length", is one) decode to `None`: here they are refused, there they end the program with 0.
    pub const fn decode(i: Insn) -> Option<Op> {
        let Insn { code, jt, jf, k } = i;
        Some(match code {
            0x20 => Op::LdAbs(Size::Word, k),
            0x28 => Op::LdAbs(Size::Half, k),
            0x30 => Op::LdAbs(Size::Byte, k),
            0x40 => Op::LdInd(Size::Word, k),
            0x48 => Op::LdInd(Size::Half, k),
            0x50 => Op::LdInd(Size::Byte, k),
            0x00 => Op::LdImm(k),
            0x60 => Op::LdMem(k),
            0x80 => Op::LdLen,
            0x01 => Op::LdxImm(k),
            0x61 => Op::LdxMem(k),
            0x81 => Op::LdxLen,
            0xb1 => Op::LdxMsh(k),
            0x02 => Op::St(k),
            0x03 => Op::Stx(k),
            0x84 => Op::Neg,
            0x05 => Op::Ja(k),
            0x06 => Op::RetK(k),
            0x16 => Op::RetA,
            0x07 => Op::Tax,
            0x87 => Op::Txa,
            _ => {
                let src = if code & 0x08 == 0 { Src::K(k) } else { Src::X };
                match code & !0x08 {
                    0x04 => Op::Alu(Alu::Add, src),
                    0x14 => Op::Alu(Alu::Sub, src),
                    0x24 => Op::Alu(Alu::Mul, src),
                    0x34 => Op::Alu(Alu::Div, src),
                    0x44 => Op::Alu(Alu::Or, src),
                    0x54 => Op::Alu(Alu::And, src),
                    0x64 => Op::Alu(Alu::Lsh, src),
                    0x74 => Op::Alu(Alu::Rsh, src),
                    0x94 => Op::Alu(Alu::Mod, src),
                    0xa4 => Op::Alu(Alu::Xor, src),
                    0x15 => Op::Jmp { cond: Cond::Eq, src, jt, jf },
                    0x25 => Op::Jmp { cond: Cond::Gt, src, jt, jf },
                    0x35 => Op::Jmp { cond: Cond::Ge, src, jt, jf },
                    0x45 => Op::Jmp { cond: Cond::Set, src, jt, jf },
                    _ => return None,
                }
            }
        })
    }
}

/// Instruction codes by name, for code generators and tests.
#[allow(missing_docs, reason = "the names are the documentation: operation, width or source, mode")]
pub mod code {
    pub const LD_W_ABS: u16 = 0x20;
    pub const LD_H_ABS: u16 = 0x28;
    pub const LD_B_ABS: u16 = 0x30;
    pub const LD_W_IND: u16 = 0x40;
    pub const LD_H_IND: u16 = 0x48;
    pub const LD_B_IND: u16 = 0x50;
    pub const LD_IMM: u16 = 0x00;
    pub const LD_MEM: u16 = 0x60;
    pub const LD_LEN: u16 = 0x80;
    pub const LDX_IMM: u16 = 0x01;
    pub const LDX_MEM: u16 = 0x61;
    pub const LDX_LEN: u16 = 0x81;
    pub const LDX_MSH: u16 = 0xb1;
    pub const ST: u16 = 0x02;
    pub const STX: u16 = 0x03;
    pub const ADD_K: u16 = 0x04;
    pub const SUB_K: u16 = 0x14;
    pub const MUL_K: u16 = 0x24;
    pub const DIV_K: u16 = 0x34;
    pub const OR_K: u16 = 0x44;
    pub const AND_K: u16 = 0x54;
    pub const LSH_K: u16 = 0x64;
    pub const RSH_K: u16 = 0x74;
    pub const NEG: u16 = 0x84;
    pub const MOD_K: u16 = 0x94;
    pub const XOR_K: u16 = 0xa4;
    pub const JA: u16 = 0x05;
    pub const JEQ_K: u16 = 0x15;
    pub const JGT_K: u16 = 0x25;
    pub const JGE_K: u16 = 0x35;
    pub const JSET_K: u16 = 0x45;
    pub const RET_K: u16 = 0x06;
    pub const RET_A: u16 = 0x16;
    pub const TAX: u16 = 0x07;
    pub const TXA: u16 = 0x87;
    /// Added to an ALU or jump code: the operand is X, not K.
    pub const X: u16 = 0x08;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_49_codes_of_the_packet_filter_decode() {
        let executed = (0..=u16::MAX).filter(|&code| Op::decode(Insn::stmt(code, 1)).is_some()).count();
        assert_eq!(executed, 49);
    }

    #[test]
    fn codes_that_no_interpreter_executes_do_not_decode() {
        for code in [0x90, 0x88, 0x8006, 0x0e, 0x27, 0x47, 0x8c, 0x0d, 0x1e, 0x62, 0xb0, 0x21] {
            assert_eq!(Op::decode(Insn::stmt(code, 1)), None, "{code:#x}");
        }
    }
}
