//! Classic BPF on the kernel's JIT. The kernel runs classic programs as eBPF; it converts them in a place that
//! BPF_PROG_TEST_RUN does not reach, so that they are converted here, instruction for instruction as the kernel's
//! `bpf_convert_filter` does where the bytes of a packet lie in one piece: compare with the end, load, swap.

use smpnet_bpf::{
    Program,
    insn::{Alu, Cond, Op, Size, Src},
};
use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

/// A program loaded into the kernel.
pub struct Loaded {
    fd: OwnedFd,
}

/// One BPF_PROG_TEST_RUN.
#[derive(Clone, Copy, Debug)]
pub struct Ran {
    /// What the program returned.
    pub result: u32,
    /// Nanoseconds of one run as the kernel says it: whole ones, cut off.
    pub ns: u32,
}

impl Loaded {
    /// Converts and loads a program, to run over Ethernet frames in socket buffers.
    ///
    /// # Errors
    /// What cannot be converted; EPERM without CAP_BPF and CAP_NET_ADMIN; the verifier's log.
    pub fn new(program: &Program) -> io::Result<Loaded> {
        let code = convert(program.ops()).map_err(io::Error::other)?;
        let mut log = vec![0u8; 64 * 1024];
        let license = c"Dual MIT/GPL";
        let attr = LoadAttr {
            prog_type: PROG_TYPE_SCHED_CLS,
            insn_cnt: code.len() as u32,
            insns: code.as_ptr() as u64,
            license: license.as_ptr() as u64,
            log_level: 1,
            log_size: log.len() as u32,
            log_buf: log.as_mut_ptr() as u64,
            ..LoadAttr::default()
        };
        // SAFETY: the attributes and all that they point to live through the call and have the sizes they say.
        let fd = unsafe { libc::syscall(libc::SYS_bpf, CMD_PROG_LOAD, &attr, size_of::<LoadAttr>()) };
        if fd < 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() == Some(libc::EPERM) {
                return Err(io::Error::new(error.kind(), "needs CAP_BPF and CAP_NET_ADMIN (bpf(2): not permitted)"));
            }
            let text = String::from_utf8_lossy(&log);
            let tail = text.trim_end_matches('\0').trim_end().lines().rev().take(3).collect::<Vec<_>>().join(" | ");
            return Err(io::Error::new(error.kind(), format!("the kernel refuses the program: {error}; {tail}")));
        }
        // SAFETY: the kernel just made this descriptor, and nobody else knows of it.
        Ok(Loaded { fd: unsafe { OwnedFd::from_raw_fd(fd as i32) } })
    }

    /// Runs the program `repeat` times over one frame.
    ///
    /// # Errors
    /// Those of bpf(2): EINVAL for a frame shorter than an Ethernet header or longer than a page.
    pub fn run(&self, frame: &[u8], repeat: u32) -> io::Result<Ran> {
        let mut attr = RunAttr {
            prog_fd: self.fd.as_raw_fd() as u32,
            data_size_in: frame.len() as u32,
            data_in: frame.as_ptr() as u64,
            repeat,
            ..RunAttr::default()
        };
        // SAFETY: the attributes and the frame live through the call; the kernel writes to the attributes alone.
        let rc = unsafe { libc::syscall(libc::SYS_bpf, CMD_PROG_TEST_RUN, &raw mut attr, size_of::<RunAttr>()) };
        if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(Ran { result: attr.retval, ns: attr.duration }) }
    }
}

/// Whether the kernel compiles programs: without its JIT it interprets them.
pub fn jit_enabled() -> bool {
    std::fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").is_ok_and(|s| s.trim() != "0")
}

const CMD_PROG_LOAD: u32 = 5;
const CMD_PROG_TEST_RUN: u32 = 10;
const PROG_TYPE_SCHED_CLS: u32 = 3;

/// The part of `union bpf_attr` for BPF_PROG_LOAD; the kernel takes what is missing behind it as zeros.
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// The part for BPF_PROG_TEST_RUN.
#[repr(C)]
#[derive(Default)]
struct RunAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

/// `struct bpf_insn` of eBPF (linux/bpf.h).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ebpf {
    code: u8,
    /// Destination in the low half, source in the high half.
    regs: u8,
    off: i16,
    imm: i32,
}

/// A and the result.
const A: u8 = 0;
const TMP: u8 = 2;
const END: u8 = 3;
const CTX: u8 = 6;
const X: u8 = 7;
const DATA: u8 = 8;
const DATA_END: u8 = 9;
const STACK: u8 = 10;

// Operation codes (linux/bpf.h, linux/bpf_common.h).
const MOV32: u8 = 0xb4;
const MOV64: u8 = 0xb7;
const ADD64: u8 = 0x07;
const FROM_REG: u8 = 0x08;
const LOAD: u8 = 0x61;
const STORE: u8 = 0x63;
const HALF: u8 = 0x08;
const BYTE: u8 = 0x10;
const TO_BE: u8 = 0xdc;
const EXIT: u8 = 0x95;
const JA: u8 = 0x05;
const JLE64: u8 = 0xb5;
const JNE32: u8 = 0x56;
const LEN_OFFSET: i16 = 0;
const DATA_OFFSET: i16 = 76;
const DATA_END_OFFSET: i16 = 80;
/// Longest packet offset that the verifier follows.
const OFFSET_MAX: u32 = 0x7fff;

struct Converter {
    code: Vec<Ebpf>,
    /// Jumps whose target is a classic instruction: where they stand, and which.
    jumps: Vec<(usize, usize)>,
}

fn convert(ops: &[Op]) -> Result<Vec<Ebpf>, String> {
    let mut c = Converter { code: Vec::new(), jumps: Vec::new() };
    c.prologue();
    let mut starts = Vec::with_capacity(ops.len());
    for (i, &op) in ops.iter().enumerate() {
        starts.push(c.code.len());
        c.op(i, op).map_err(|what| format!("instruction {i} cannot be converted for the kernel: {what}"))?;
    }
    for (at, target) in c.jumps {
        let distance = starts[target] as i64 - at as i64 - 1;
        c.code[at].off = i16::try_from(distance).map_err(|_| "a jump is too long for the kernel".to_owned())?;
    }
    Ok(c.code)
}

impl Converter {
    fn put(&mut self, code: u8, dst: u8, src: u8, off: i16, imm: i32) {
        self.code.push(Ebpf { code, regs: dst | src << 4, off, imm });
    }

    fn prologue(&mut self) {
        self.put(MOV64 | FROM_REG, CTX, 1, 0, 0);
        self.put(LOAD, DATA, CTX, DATA_OFFSET, 0);
        self.put(LOAD, DATA_END, CTX, DATA_END_OFFSET, 0);
        self.put(MOV32, A, 0, 0, 0);
        self.put(MOV32, X, 0, 0, 0);
    }

    fn ret(&mut self, k: u32) {
        self.put(MOV32, A, 0, 0, k as i32);
        self.put(EXIT, 0, 0, 0, 0);
    }

    fn jump(&mut self, code: u8, dst: u8, src: u8, imm: i32, target: usize) {
        self.jumps.push((self.code.len(), target));
        self.put(code, dst, src, 0, imm);
    }

    /// Ends the program with 0 unless `base` + `reach` is inside the packet.
    fn inside(&mut self, base: u8, reach: u32) {
        self.put(MOV64 | FROM_REG, END, base, 0, 0);
        self.put(ADD64, END, 0, 0, reach as i32);
        self.put(JLE64 | FROM_REG, END, DATA_END, 2, 0);
        self.ret(0);
    }

    fn load(&mut self, size: Size, base: u8, k: u32, to: u8) {
        let width = match size {
            Size::Word => 0,
            Size::Half => HALF,
            Size::Byte => BYTE,
        };
        self.put(LOAD | width, to, base, k as i16, 0);
        if size != Size::Byte {
            self.put(TO_BE, to, 0, 0, size.bytes() as i32 * 8);
        }
    }

    fn op(&mut self, i: usize, op: Op) -> Result<(), String> {
        let reach = |k: u32, size: Size| {
            if k > OFFSET_MAX - 4 { Err(format!("it loads at offset {k}")) } else { Ok(k + size.bytes()) }
        };
        match op {
            Op::LdAbs(size, k) => {
                let reach = reach(k, size)?;
                self.inside(DATA, reach);
                self.load(size, DATA, k, A);
            }
            Op::LdInd(size, k) => {
                let reach = reach(k, size)?;
                // The verifier wants to see that X is small; where it knows that already it removes the test.
                self.put(JLE64, X, 0, 2, OFFSET_MAX as i32);
                self.ret(0);
                self.put(MOV64 | FROM_REG, TMP, DATA, 0, 0);
                self.put(ADD64 | FROM_REG, TMP, X, 0, 0);
                self.inside(TMP, reach);
                self.load(size, TMP, k, A);
            }
            Op::LdxMsh(k) => {
                let reach = reach(k, Size::Byte)?;
                self.inside(DATA, reach);
                self.load(Size::Byte, DATA, k, X);
                self.put(0x54, X, 0, 0, 0xf);
                self.put(0x64, X, 0, 0, 2);
            }
            Op::LdImm(k) => self.put(MOV32, A, 0, 0, k as i32),
            Op::LdxImm(k) => self.put(MOV32, X, 0, 0, k as i32),
            Op::LdLen => self.put(LOAD, A, CTX, LEN_OFFSET, 0),
            Op::LdxLen => self.put(LOAD, X, CTX, LEN_OFFSET, 0),
            Op::LdMem(k) => self.put(LOAD, A, STACK, word(k), 0),
            Op::LdxMem(k) => self.put(LOAD, X, STACK, word(k), 0),
            Op::St(k) => self.put(STORE, STACK, A, word(k), 0),
            Op::Stx(k) => self.put(STORE, STACK, X, word(k), 0),
            Op::Tax => self.put(MOV32 | FROM_REG, X, A, 0, 0),
            Op::Txa => self.put(MOV32 | FROM_REG, A, X, 0, 0),
            Op::Neg => self.put(0x84, A, 0, 0, 0),
            Op::Alu(alu, src) => self.alu(alu, src)?,
            Op::RetK(k) => self.ret(k),
            Op::RetA => self.put(EXIT, 0, 0, 0, 0),
            Op::Ja(k) => self.jump(JA, 0, 0, 0, i + 1 + k as usize),
            Op::Jmp { cond, src, jt, jf } => {
                let code = match cond {
                    Cond::Eq => 0x16,
                    Cond::Gt => 0x26,
                    Cond::Ge => 0x36,
                    Cond::Set => 0x46,
                };
                let (t, f) = (i + 1 + usize::from(jt), i + 1 + usize::from(jf));
                let (code, src, imm) = operand(code, src);
                if jt == 0 && cond == Cond::Eq {
                    self.jump(JNE32 | code & FROM_REG, A, src, imm, f);
                } else {
                    self.jump(code, A, src, imm, t);
                    if jf != 0 {
                        self.jump(JA, 0, 0, 0, f);
                    }
                }
            }
        }
        Ok(())
    }

    fn alu(&mut self, alu: Alu, src: Src) -> Result<(), String> {
        let code = match alu {
            Alu::Add => 0x04,
            Alu::Sub => 0x14,
            Alu::Mul => 0x24,
            Alu::Div => 0x34,
            Alu::Or => 0x44,
            Alu::And => 0x54,
            Alu::Lsh => 0x64,
            Alu::Rsh => 0x74,
            Alu::Mod => 0x94,
            Alu::Xor => 0xa4,
        };
        match (alu, src) {
            (Alu::Lsh | Alu::Rsh, Src::X) => return Err("it shifts by X".into()),
            (Alu::Lsh | Alu::Rsh, Src::K(32..)) => self.put(MOV32, A, 0, 0, 0),
            (Alu::Div | Alu::Mod, Src::X) => {
                self.put(JNE32, X, 0, 2, 0);
                self.ret(0);
                self.put(code | FROM_REG, A, X, 0, 0);
            }
            (_, src) => {
                let (code, src, imm) = operand(code, src);
                self.put(code, A, src, 0, imm);
            }
        }
        Ok(())
    }
}

fn operand(code: u8, src: Src) -> (u8, u8, i32) {
    match src {
        Src::K(k) => (code, 0, k as i32),
        Src::X => (code | FROM_REG, X, 0),
    }
}

/// Where a scratch word lies on the stack.
fn word(k: u32) -> i16 {
    -4 * (k as i16 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use smpnet_bpf::Insn;

    fn converted(insns: &[(u16, u8, u8, u32)]) -> Result<Vec<Ebpf>, String> {
        let insns = insns.iter().map(|&(code, jt, jf, k)| Insn { code, jt, jf, k }).collect();
        convert(Program::new(insns).unwrap().ops())
    }

    #[test]
    fn jumps_go_to_the_converted_instructions() {
        // jeq #1 jt 1 jf 0; ret #2; ret #3
        let code = converted(&[(0x15, 1, 0, 1), (6, 0, 0, 2), (6, 0, 0, 3)]).unwrap();
        let jeq = code[5];
        assert_eq!((jeq.code, jeq.off, jeq.imm), (0x16, 2, 1));
        assert_eq!(code[5 + 1 + 2], Ebpf { code: MOV32, regs: 0, off: 0, imm: 3 });
    }

    #[test]
    fn what_the_verifier_would_not_follow_is_refused_with_its_place() {
        let error = converted(&[(0x20, 0, 0, 40_000), (0x16, 0, 0, 0)]).unwrap_err();
        assert_eq!(error, "instruction 0 cannot be converted for the kernel: it loads at offset 40000");
        assert!(converted(&[(0x6c, 0, 0, 0), (0x16, 0, 0, 0)]).unwrap_err().contains("shifts by X"));
    }

    #[test]
    fn the_kernel_returns_what_the_interpreter_returns() {
        let insns = [
            (0x30, 0, 0, 14),     // ldb [14]
            (0x02, 0, 0, 3),      // st M[3]
            (0xb1, 0, 0, 14),     // ldxb 4*([14]&0xf)
            (0x48, 0, 0, 14),     // ldh [x + 14]
            (0x25, 1, 0, 0x0102), // jgt #0x102 jt 1
            (0x04, 0, 0, 5),      // add #5
            (0x61, 0, 0, 3),      // ldx M[3]
            (0x0c, 0, 0, 0),      // add x
            (0x16, 0, 0, 0),      // ret a
        ]
        .map(|(code, jt, jf, k)| Insn { code, jt, jf, k });
        let program = Program::new(insns.to_vec()).unwrap();
        let loaded = match Loaded::new(&program) {
            Ok(loaded) => loaded,
            Err(e) => return println!("SKIPPED: the kernel's JIT against the interpreter: {e}"),
        };
        let mut frame: Vec<u8> = (0..60).collect();
        for first in [0x40, 0x45, 0x4f, 0x00] {
            frame[14] = first;
            assert_eq!(loaded.run(&frame, 1).unwrap().result, program.run(&frame, 60), "{first:#x}");
            assert_eq!(loaded.run(&frame[..20], 1).unwrap().result, program.run(&frame[..20], 20), "{first:#x}");
        }
    }
}
