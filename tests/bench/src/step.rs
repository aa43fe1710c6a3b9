//! What a thread really executes, seen one instruction at a time: the proof that the packet path neither allocates, locks
//! nor enters the kernel. The thread belongs to a child process and is stepped by ptrace(2).

use std::{collections::HashMap, io};

/// What was seen while a thread was stepped.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    /// Instructions executed.
    pub instructions: u64,
    /// System calls entered.
    pub syscalls: u64,
    /// Instructions that lock the bus: a LOCK prefix, or XCHG with memory.
    pub locked: u64,
    /// Where locked instructions stood, with how often.
    pub locked_at: HashMap<u64, u64>,
    /// How often each watched address was executed, in the order given.
    pub hits: Vec<u64>,
}

/// Steps the thread `tid` of a child process until the first address in `watch` was executed `until` times, counting
/// from its first execution (so that whole rounds are seen), or until `max` instructions were executed.
///
/// # Errors
/// Those of ptrace(2): EPERM where the kernel's Yama module forbids it.
pub fn thread(tid: i32, watch: &[u64], until: u64, max: u64) -> io::Result<Seen> {
    let mut seen = Seen { hits: vec![0; watch.len()], ..Seen::default() };
    let tracee = Tracee::attach(tid)?;
    let mut code: HashMap<u64, Kind> = HashMap::new();
    let mut counting = false;
    for _ in 0..max {
        let rip = tracee.instruction_pointer()?;
        if Some(&rip) == watch.first() {
            if seen.hits.first() == Some(&until) {
                break;
            }
            counting = true;
        }
        if counting {
            if let Some(i) = watch.iter().position(|a| *a == rip) {
                seen.hits[i] += 1;
            }
            let kind = match code.get(&rip) {
                Some(kind) => *kind,
                None => *code.entry(rip).or_insert(classify(&tracee.bytes(rip)?)),
            };
            seen.instructions += 1;
            match kind {
                Kind::Syscall => seen.syscalls += 1,
                Kind::Locked => {
                    seen.locked += 1;
                    *seen.locked_at.entry(rip).or_default() += 1;
                }
                Kind::Plain => {}
            }
        }
        tracee.step()?;
    }
    Ok(seen)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Syscall,
    Locked,
}

/// Judges the first bytes of an x86-64 instruction (Intel SDM volume 2, section 2.1: prefixes come first, in any order,
/// REX last).
fn classify(code: &[u8; 16]) -> Kind {
    let mut i = 0;
    let mut lock = false;
    while i < 14 {
        match code[i] {
            0xf0 => lock = true,
            0x66 | 0x67 | 0xf2 | 0xf3 | 0x2e | 0x36 | 0x3e | 0x26 | 0x64 | 0x65 => {}
            _ => break,
        }
        i += 1;
    }
    if code[i] & 0xf0 == 0x40 {
        i += 1;
    }
    match (code[i], code[i + 1]) {
        _ if lock => Kind::Locked,
        (0x0f, 0x05) => Kind::Syscall,
        // XCHG with a memory operand locks by itself; ModRM.mod 3 means a register.
        (0x86 | 0x87, modrm) if modrm >> 6 != 3 => Kind::Locked,
        _ => Kind::Plain,
    }
}

struct Tracee {
    tid: i32,
}

impl Tracee {
    fn attach(tid: i32) -> io::Result<Tracee> {
        request(libc::PTRACE_SEIZE, tid, 0, 0)?;
        let tracee = Tracee { tid };
        request(libc::PTRACE_INTERRUPT, tid, 0, 0)?;
        tracee.wait()?;
        Ok(tracee)
    }

    fn instruction_pointer(&self) -> io::Result<u64> {
        // The third argument is an offset into `struct user`.
        peek(libc::PTRACE_PEEKUSER, self.tid, std::mem::offset_of!(libc::user_regs_struct, rip) as u64)
    }

    fn bytes(&self, at: u64) -> io::Result<[u8; 16]> {
        let mut out = [0; 16];
        out[..8].copy_from_slice(&peek(libc::PTRACE_PEEKTEXT, self.tid, at)?.to_le_bytes());
        // The next eight bytes may lie beyond the last page of code; no instruction needs them then.
        if let Ok(word) = peek(libc::PTRACE_PEEKTEXT, self.tid, at + 8) {
            out[8..].copy_from_slice(&word.to_le_bytes());
        }
        Ok(out)
    }

    fn step(&self) -> io::Result<()> {
        request(libc::PTRACE_SINGLESTEP, self.tid, 0, 0)?;
        self.wait()
    }

    fn wait(&self) -> io::Result<()> {
        let mut status = 0;
        // SAFETY: `status` lives through the call; __WALL also waits for threads that are no process leaders.
        if unsafe { libc::waitpid(self.tid, &mut status, libc::__WALL) } < 0 {
            return Err(io::Error::last_os_error());
        }
        if libc::WIFSTOPPED(status) { Ok(()) } else { Err(io::Error::other("the thread ended while it was stepped")) }
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        // A thread that is gone needs no detaching.
        let _ = request(libc::PTRACE_DETACH, self.tid, 0, 0);
    }
}

fn request(what: libc::c_uint, tid: i32, addr: u64, data: u64) -> io::Result<()> {
    // SAFETY: none of the requests used here writes to memory of this process.
    if unsafe { libc::ptrace(what, tid, addr, data) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn peek(what: libc::c_uint, tid: i32, addr: u64) -> io::Result<u64> {
    // SAFETY: errno is this thread's own.
    unsafe { *libc::__errno_location() = 0 };
    // SAFETY: a peek through glibc returns the word and writes to no memory of ours but errno.
    let word = unsafe { libc::ptrace(what, tid, addr, 0) };
    match io::Error::last_os_error() {
        e if word == -1 && e.raw_os_error() != Some(0) => Err(e),
        _ => Ok(word as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(code: &[u8]) -> Kind {
        let mut bytes = [0x90; 16];
        bytes[..code.len()].copy_from_slice(code);
        classify(&bytes)
    }

    #[test]
    fn instructions_that_lock_the_bus_are_known() {
        assert_eq!(kind(&[0xf0, 0x48, 0x0f, 0xc1, 0x07]), Kind::Locked, "lock xadd [rdi], rax");
        assert_eq!(kind(&[0xf0, 0x83, 0x0c, 0x24, 0x00]), Kind::Locked, "lock or [rsp], 0");
        assert_eq!(kind(&[0x48, 0x87, 0x07]), Kind::Locked, "xchg [rdi], rax");
        assert_eq!(kind(&[0x48, 0x87, 0xc7]), Kind::Plain, "xchg rdi, rax");
        assert_eq!(kind(&[0x0f, 0x05]), Kind::Syscall, "syscall");
        assert_eq!(kind(&[0x48, 0x8b, 0x07]), Kind::Plain, "mov rax, [rdi]");
    }
}
