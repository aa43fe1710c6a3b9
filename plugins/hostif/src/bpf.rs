//! Small eBPF programs, put together here and loaded through bpf(2): no compiler and no library at run time.
//!
//! Sources: `linux/bpf.h`, `Documentation/bpf/standardization/instruction-set.rst`.

use crate::sys;
use std::{
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
};

// Commands.
const BPF_MAP_CREATE: i32 = 0;
const BPF_MAP_LOOKUP_ELEM: i32 = 1;
const BPF_MAP_UPDATE_ELEM: i32 = 2;
const BPF_MAP_DELETE_ELEM: i32 = 3;
const BPF_PROG_LOAD: i32 = 5;
const BPF_LINK_CREATE: i32 = 28;

/// An array of values.
pub const BPF_MAP_TYPE_ARRAY: u32 = 2;
/// AF_XDP sockets by queue.
pub const BPF_MAP_TYPE_XSKMAP: u32 = 17;

/// A register: R0 holds results, R1 to R5 arguments (lost by a call), R6 to R9 keep, R10 is the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Reg {
    R0,
    R1,
    R2,
    R3,
    R6 = 6,
    R10 = 10,
}

/// A function of the kernel that a program may call (`enum bpf_func_id`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Helper {
    /// `R0 = address of the value of key *R2 in map R1`, or 0.
    MapLookup = 1,
    /// `R0 = verdict`: a redirect to entry R2 of map R1, or R3 when there is none.
    RedirectMap = 51,
}

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insn {
    code: u8,
    /// Destination in the low half, source in the high half.
    regs: u8,
    off: i16,
    imm: i32,
}

// Classes, in the low three bits of the code.
const LD: u8 = 0x00;
const LDX: u8 = 0x01;
const ST: u8 = 0x02;
const STX: u8 = 0x03;
const JMP: u8 = 0x05;
const ALU64: u8 = 0x07;
// Sizes and modes of loads and stores.
const WORD: u8 = 0x00;
const DOUBLE: u8 = 0x18;
const IMM: u8 = 0x00;
const MEM: u8 = 0x60;
const ATOMIC: u8 = 0xc0;
// Operations.
const ADD: u8 = 0x00;
const MOV: u8 = 0xb0;
const JEQ: u8 = 0x10;
const CALL: u8 = 0x80;
const EXIT: u8 = 0x90;
/// The operand is a register; else the immediate.
const SRC_REG: u8 = 0x08;
/// In the source register of a load of 64 bits: the immediate is a map's descriptor.
const PSEUDO_MAP_FD: u8 = 1;
/// Immediate of an atomic operation that adds.
const ATOMIC_ADD: i32 = 0;

impl Insn {
    const fn new(code: u8, dst: Reg, src: u8, off: i16, imm: i32) -> Insn {
        Insn { code, regs: dst as u8 | src << 4, off, imm }
    }

    /// `dst = value`
    pub const fn set(dst: Reg, value: i32) -> Insn {
        Insn::new(ALU64 | MOV, dst, 0, 0, value)
    }

    /// `dst = src`
    pub const fn copy(dst: Reg, src: Reg) -> Insn {
        Insn::new(ALU64 | MOV | SRC_REG, dst, src as u8, 0, 0)
    }

    /// `dst += value`
    pub const fn add(dst: Reg, value: i32) -> Insn {
        Insn::new(ALU64 | ADD, dst, 0, 0, value)
    }

    /// `dst = *(u32 *)(src + off)`
    pub const fn load_word(dst: Reg, src: Reg, off: i16) -> Insn {
        Insn::new(LDX | MEM | WORD, dst, src as u8, off, 0)
    }

    /// `*(u32 *)(dst + off) = value`
    pub const fn store_word(dst: Reg, off: i16, value: i32) -> Insn {
        Insn::new(ST | MEM | WORD, dst, 0, off, value)
    }

    /// `*(u64 *)(dst + off) += src`, atomically
    pub const fn add_to_memory(dst: Reg, off: i16, src: Reg) -> Insn {
        Insn::new(STX | ATOMIC | DOUBLE, dst, src as u8, off, ATOMIC_ADD)
    }

    /// `dst = map`: an instruction of two slots.
    pub const fn map(dst: Reg, map: RawFd) -> [Insn; 2] {
        [Insn::new(LD | IMM | DOUBLE, dst, PSEUDO_MAP_FD, 0, map), Insn::new(0, Reg::R0, 0, 0, 0)]
    }

    /// Goes on `skip` slots further when `dst == value`.
    pub const fn jump_if_equal(dst: Reg, value: i32, skip: i16) -> Insn {
        Insn::new(JMP | JEQ, dst, 0, skip, value)
    }

    /// Calls a function of the kernel.
    pub const fn call(helper: Helper) -> Insn {
        Insn::new(JMP | CALL, Reg::R0, 0, 0, helper as i32)
    }

    /// Ends the program with the result in R0.
    pub const fn exit() -> Insn {
        Insn::new(JMP | EXIT, Reg::R0, 0, 0, 0)
    }
}

/// A program to be loaded.
#[derive(Clone, Copy, Debug)]
pub struct Program<'a> {
    /// `BPF_PROG_TYPE_*`.
    pub kind: u32,
    /// `BPF_*` attach type, or 0.
    pub attach: u32,
    /// `BPF_F_*` flags of programs.
    pub flags: u32,
    /// Its name in `bpftool prog`, at most 15 bytes.
    pub name: &'a str,
    /// What it does.
    pub code: &'a [Insn],
}

impl Program<'_> {
    /// Loads it. When the kernel's verifier refuses it, the error has the verifier's last words.
    pub fn load(&self) -> io::Result<OwnedFd> {
        let (license, mut log) = (c"Dual MIT/GPL", Vec::new());
        match self.load_with_log(license, &mut log) {
            // The log is only worth its memory when there is something to tell; 0 bytes ask for none.
            Err(e) if e.raw_os_error() == Some(libc::EACCES) || e.raw_os_error() == Some(libc::EINVAL) => {
                log.resize(16 << 10, 0);
                let error = match self.load_with_log(license, &mut log) {
                    Ok(fd) => return Ok(fd),
                    Err(error) => error,
                };
                let text = String::from_utf8_lossy(&log);
                let last: Vec<&str> = text.trim_end_matches('\0').trim_end().lines().rev().take(2).collect();
                match last.is_empty() {
                    true => Err(error),
                    false => Err(io::Error::new(error.kind(), format!("{error} ({})", last.join(" | ")))),
                }
            }
            other => other,
        }
    }

    fn load_with_log(&self, license: &std::ffi::CStr, log: &mut [u8]) -> io::Result<OwnedFd> {
        /// The part of `union bpf_attr` for `BPF_PROG_LOAD` that is set, up to `expected_attach_type`.
        #[repr(C)]
        struct Attr {
            prog_type: u32,
            insn_cnt: u32,
            insns: u64,
            license: u64,
            log_level: u32,
            log_size: u32,
            log_buf: u64,
            kern_version: u32,
            prog_flags: u32,
            prog_name: [u8; 16],
            prog_ifindex: u32,
            expected_attach_type: u32,
        }
        let attr = Attr {
            prog_type: self.kind,
            insn_cnt: self.code.len() as u32,
            insns: self.code.as_ptr() as u64,
            license: license.as_ptr() as u64,
            log_level: u32::from(!log.is_empty()),
            log_size: log.len() as u32,
            log_buf: if log.is_empty() { 0 } else { log.as_mut_ptr() as u64 },
            kern_version: 0,
            prog_flags: self.flags,
            prog_name: name(self.name),
            prog_ifindex: 0,
            expected_attach_type: self.attach,
        };
        sys::owned(bpf(BPF_PROG_LOAD, &attr)?)
    }
}

/// Attaches a loaded program to device `index` until the returned link is closed, however the process ends.
pub fn link(program: &OwnedFd, index: i32, attach: u32, flags: u32) -> io::Result<OwnedFd> {
    /// The part of `union bpf_attr` for `BPF_LINK_CREATE`, with room for the `tcx` member, all zero.
    #[repr(C)]
    struct Attr {
        prog_fd: u32,
        target_ifindex: u32,
        attach_type: u32,
        flags: u32,
        relative_fd: u32,
        _pad: u32,
        expected_revision: u64,
    }
    let attr = Attr {
        prog_fd: program.as_raw_fd() as u32,
        target_ifindex: index as u32,
        attach_type: attach,
        flags,
        relative_fd: 0,
        _pad: 0,
        expected_revision: 0,
    };
    sys::owned(bpf(BPF_LINK_CREATE, &attr)?)
}

/// A map with keys of 32 bits.
#[derive(Debug)]
pub struct Map {
    fd: OwnedFd,
}

impl Map {
    /// A map of `BPF_MAP_TYPE_*` for `entries` values of type `T`; `name` has at most 15 bytes.
    pub fn new<T>(kind: u32, entries: u32, map_name: &str) -> io::Result<Map> {
        /// The part of `union bpf_attr` for `BPF_MAP_CREATE`.
        #[repr(C)]
        struct Attr {
            map_type: u32,
            key_size: u32,
            value_size: u32,
            max_entries: u32,
            map_flags: u32,
            inner_map_fd: u32,
            numa_node: u32,
            map_name: [u8; 16],
        }
        let attr = Attr {
            map_type: kind,
            key_size: size_of::<u32>() as u32,
            value_size: size_of::<T>() as u32,
            max_entries: entries,
            map_flags: 0,
            inner_map_fd: 0,
            numa_node: 0,
            map_name: name(map_name),
        };
        Ok(Map { fd: sys::owned(bpf(BPF_MAP_CREATE, &attr)?)? })
    }

    /// The descriptor.
    pub fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// The value of `key`. `T` must have the size that the map was made for.
    pub fn get<T: Copy + Default>(&self, key: u32) -> io::Result<T> {
        let mut value = T::default();
        self.element(BPF_MAP_LOOKUP_ELEM, key, std::ptr::from_mut(&mut value) as u64)?;
        Ok(value)
    }

    /// Sets the value of `key`. `T` must have the size that the map was made for.
    pub fn set<T: Copy>(&self, key: u32, value: &T) -> io::Result<()> {
        self.element(BPF_MAP_UPDATE_ELEM, key, std::ptr::from_ref(value) as u64)
    }

    /// Removes `key`; it may be missing.
    pub fn remove(&self, key: u32) -> io::Result<()> {
        match self.element(BPF_MAP_DELETE_ELEM, key, 0) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    }

    fn element(&self, command: i32, key: u32, value: u64) -> io::Result<()> {
        /// The part of `union bpf_attr` for `BPF_MAP_*_ELEM`.
        #[repr(C)]
        struct Attr {
            map_fd: u32,
            _pad: u32,
            key: u64,
            value: u64,
            flags: u64,
        }
        let attr =
            Attr { map_fd: self.fd.as_raw_fd() as u32, _pad: 0, key: std::ptr::from_ref(&key) as u64, value, flags: 0 };
        bpf(command, &attr).map(drop)
    }
}

/// bpf(2). `T` must be laid out as the command's part of `union bpf_attr`.
fn bpf<T>(command: i32, attr: &T) -> io::Result<i32> {
    // SAFETY: attr has size_of::<T>() readable bytes, and the pointers in it refer to objects that live through the call.
    sys::check(unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) } as i32)
}

/// A name as the kernel takes it: cut to 15 bytes.
fn name(text: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(text.bytes().take(15)) {
        *to = from;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_those_of_the_specification() {
        let bytes = |insn: Insn| (insn.code, insn.regs, insn.off, insn.imm);
        assert_eq!(bytes(Insn::set(Reg::R0, 2)), (0xb7, 0, 0, 2));
        assert_eq!(bytes(Insn::copy(Reg::R2, Reg::R10)), (0xbf, 0xa2, 0, 0));
        assert_eq!(bytes(Insn::add(Reg::R2, -4)), (0x07, 2, 0, -4));
        assert_eq!(bytes(Insn::load_word(Reg::R6, Reg::R1, 16)), (0x61, 0x16, 16, 0));
        assert_eq!(bytes(Insn::store_word(Reg::R10, -4, 0)), (0x62, 0x0a, -4, 0));
        assert_eq!(bytes(Insn::add_to_memory(Reg::R0, 0, Reg::R1)), (0xdb, 0x10, 0, 0));
        assert_eq!(bytes(Insn::map(Reg::R1, 7)[0]), (0x18, 0x11, 0, 7));
        assert_eq!(bytes(Insn::jump_if_equal(Reg::R0, 4, 3)), (0x15, 0, 3, 4));
        assert_eq!(bytes(Insn::call(Helper::RedirectMap)), (0x85, 0, 0, 51));
        assert_eq!(bytes(Insn::exit()), (0x95, 0, 0, 0));
        assert_eq!(size_of::<Insn>(), 8);
    }
}
