//! The reference interpreter: the meaning of a program, written to be read. Every other engine is tested against it.

use crate::insn::{Alu, Cond, Op, SCRATCH_WORDS, Size, Src};

/// The `size` bytes at `offset`, big-endian, or `None` when one of them lies beyond the packet.
fn load(pkt: &[u8], offset: u64, size: Size) -> Option<u32> {
    let start = usize::try_from(offset).ok()?;
    let bytes = pkt.get(start..start.checked_add(size.bytes() as usize)?)?;
    Some(bytes.iter().fold(0, |value, &byte| value << 8 | u32::from(byte)))
}

/// A op b, or `None` for a division by 0.
pub(crate) fn alu(op: Alu, a: u32, b: u32) -> Option<u32> {
    Some(match op {
        Alu::Add => a.wrapping_add(b),
        Alu::Sub => a.wrapping_sub(b),
        Alu::Mul => a.wrapping_mul(b),
        Alu::Div => a.checked_div(b)?,
        Alu::Mod => a.checked_rem(b)?,
        Alu::And => a & b,
        Alu::Or => a | b,
        Alu::Xor => a ^ b,
        Alu::Lsh => a.checked_shl(b).unwrap_or(0),
        Alu::Rsh => a.checked_shr(b).unwrap_or(0),
    })
}

fn holds(cond: Cond, a: u32, b: u32) -> bool {
    match cond {
        Cond::Eq => a == b,
        Cond::Gt => a > b,
        Cond::Ge => a >= b,
        Cond::Set => a & b != 0,
    }
}

/// Runs validated operations. Ends with 0 wherever a load is out of range or a division has no result.
pub(crate) fn run(ops: &[Op], pkt: &[u8], wirelen: u32) -> u32 {
    step_through(ops, pkt, wirelen).unwrap_or(0)
}

fn step_through(ops: &[Op], pkt: &[u8], wirelen: u32) -> Option<u32> {
    let (mut a, mut x) = (0u32, 0u32);
    let mut m = [0u32; SCRATCH_WORDS as usize];
    let mut pc = 0usize;
    loop {
        // The validator proved that every path ends in a return; `None` covers what cannot happen.
        let op = *ops.get(pc)?;
        pc += 1;
        match op {
            Op::LdAbs(size, k) => a = load(pkt, u64::from(k), size)?,
            Op::LdInd(size, k) => {
                let offset = u64::from(x) + u64::from(k);
                // A sum above 32 bits wraps on NetBSD, which calls it out of range.
                if offset > u64::from(u32::MAX) {
                    return None;
                }
                a = load(pkt, offset, size)?;
            }
            Op::LdImm(k) => a = k,
            Op::LdMem(k) => a = *m.get(k as usize)?,
            Op::LdLen => a = wirelen,
            Op::LdxImm(k) => x = k,
            Op::LdxMem(k) => x = *m.get(k as usize)?,
            Op::LdxLen => x = wirelen,
            Op::LdxMsh(k) => x = (load(pkt, u64::from(k), Size::Byte)? & 0xf) << 2,
            Op::St(k) => *m.get_mut(k as usize)? = a,
            Op::Stx(k) => *m.get_mut(k as usize)? = x,
            Op::Alu(op, src) => a = alu(op, a, operand(src, x))?,
            Op::Neg => a = a.wrapping_neg(),
            Op::Ja(k) => pc = pc.checked_add(k as usize)?,
            Op::Jmp { cond, src, jt, jf } => {
                pc += usize::from(if holds(cond, a, operand(src, x)) { jt } else { jf });
            }
            Op::RetK(k) => return Some(k),
            Op::RetA => return Some(a),
            Op::Tax => x = a,
            Op::Txa => a = x,
        }
    }
}

fn operand(src: Src, x: u32) -> u32 {
    match src {
        Src::K(k) => k,
        Src::X => x,
    }
}
