//! A validated program.

use crate::insn::{Insn, Op};
use crate::interp;
use crate::validate::{Scratch, ValidateError, validate};

/// A program that passed the validator: it ends after at most as many steps as it has instructions, reads no scratch
/// word that it did not write, and cannot read outside the packet. Immutable; `Send` and `Sync`.
///
/// ```
/// use smpnet_bpf::{Insn, Program};
/// // Accept 60 bytes of every packet whose first byte is 0x45.
/// let program = Program::new(vec![
///     Insn::stmt(0x30, 0),              // ldb [0]
///     Insn::jump(0x15, 0x45, 0, 1),     // jeq #0x45
///     Insn::stmt(0x06, 60),             // ret #60
///     Insn::stmt(0x06, 0),              // ret #0
/// ])?;
/// assert_eq!(program.run(&[0x45, 0], 2), 60);
/// assert_eq!(program.run(&[], 2), 0);
/// # Ok::<(), smpnet_bpf::ValidateError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Program {
    insns: Vec<Insn>,
    ops: Vec<Op>,
}

impl Program {
    /// Checks a program and takes it.
    ///
    /// # Errors
    /// The first instruction that breaks a rule of [`ValidateError`].
    pub fn new(insns: Vec<Insn>) -> Result<Program, ValidateError> {
        let ops = validate(&insns, Scratch::Strict)?;
        Ok(Program { insns, ops })
    }

    /// Like [`new`](Self::new), but a scratch word that was never written reads as 0 instead of refusing the program.
    /// Every engine zeroes the words, so this is no less safe; it is what libpcap and NetBSD's user-space library do.
    /// For replaying programs recorded there; filters come in through `new`.
    ///
    /// # Errors
    /// As [`new`](Self::new), less [`ValidateError::UnwrittenWord`].
    pub fn with_zeroed_scratch(insns: Vec<Insn>) -> Result<Program, ValidateError> {
        let ops = validate(&insns, Scratch::Zeroed)?;
        Ok(Program { insns, ops })
    }

    /// The instructions as stored. Never empty.
    pub fn insns(&self) -> &[Insn] {
        &self.insns
    }

    /// The same instructions with their meaning.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// Runs the reference interpreter over one packet. `pkt` is what was captured, `wirelen` the length that the packet
    /// had on the wire and what the program sees as its length.
    ///
    /// Returns how many bytes to keep; 0 rejects the packet. A load beyond `pkt` ends the program with 0.
    pub fn run(&self, pkt: &[u8], wirelen: u32) -> u32 {
        interp::run(&self.ops, pkt, wirelen)
    }

    /// Like [`run`](Self::run) for a packet that lies in several pieces. A packet of one piece is not copied.
    pub fn run_segments(&self, segments: &[&[u8]], wirelen: u32) -> u32 {
        match segments {
            [one] => self.run(one, wirelen),
            _ => self.run(&gather(segments, usize::MAX), wirelen),
        }
    }

    /// The first byte after the last one that the program can read at a fixed offset, and whether it also reads at
    /// offsets that depend on the packet. For a caller that gathers no more of a packet than needed.
    pub fn reach(&self) -> (u64, bool) {
        let mut fixed = 0;
        let mut indexed = false;
        for op in &self.ops {
            match *op {
                Op::LdAbs(size, k) => fixed = fixed.max(u64::from(k) + u64::from(size.bytes())),
                Op::LdxMsh(k) => fixed = fixed.max(u64::from(k) + 1),
                Op::LdInd(..) => indexed = true,
                _ => {}
            }
        }
        (fixed, indexed)
    }
}

/// Copies a packet of several pieces into one, at most `limit` bytes of it.
pub fn gather(segments: &[&[u8]], limit: usize) -> Vec<u8> {
    let total = segments.iter().fold(0usize, |n, s| n.saturating_add(s.len()));
    let mut out = Vec::with_capacity(total.min(limit));
    for s in segments {
        let room = limit - out.len();
        out.extend_from_slice(&s[..s.len().min(room)]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::insn::code;

    #[test]
    fn a_packet_in_pieces_gives_the_verdict_of_the_whole() {
        let program = Program::new(vec![Insn::stmt(code::LD_W_ABS, 1), Insn::stmt(code::RET_A, 0)]).unwrap();
        let whole = [1u8, 2, 3, 4, 5, 6];
        let expected = program.run(&whole, 6);
        assert_eq!(expected, 0x0203_0405);
        for a in 0..=6 {
            for b in a..=6 {
                assert_eq!(program.run_segments(&[&whole[..a], &whole[a..b], &whole[b..]], 6), expected);
            }
        }
        assert_eq!(program.run_segments(&[], 6), 0);
        assert_eq!(gather(&[&whole[..2], &whole[2..]], 3), [1, 2, 3]);
        assert_eq!(program.reach(), (5, false));
    }
}
