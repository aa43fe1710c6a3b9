//! The system calls of the examination.

use std::{ffi::c_void, io, os::fd::FromRawFd, ptr};

/// Tries to open a packet socket.
pub fn packet_socket() -> io::Result<()> {
    // SAFETY: no pointer is passed; the descriptor is owned by what wraps it below.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fd is open and nobody else's; it is closed here.
    drop(unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) });
    Ok(())
}

/// The user that this process acts as.
pub fn effective_user() -> u32 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// Tries to make the smallest BPF map.
pub fn bpf_map() -> io::Result<()> {
    // The head of `union bpf_attr` for BPF_MAP_CREATE: type 2 (array), key 4 bytes, value 4 bytes, 1 entry.
    let attr: [u32; 32] = {
        let mut a = [0; 32];
        a[..4].copy_from_slice(&[2, 4, 4, 1]);
        a
    };
    const BPF_MAP_CREATE: libc::c_long = 0;
    // SAFETY: attr outlives the call and is as long as the size that is passed.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_CREATE, attr.as_ptr(), size_of_val(&attr)) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fd is open and nobody else's; it is closed here.
    drop(unsafe { std::os::fd::OwnedFd::from_raw_fd(fd as i32) });
    Ok(())
}

/// Bytes that may be locked in memory; `None` for no limit.
pub fn memlock() -> io::Result<Option<u64>> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: limit is writable and lives through the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur))
}

/// Tries what the filter compiler does: writes code into memory and makes it executable.
pub fn executable_memory() -> io::Result<()> {
    const BYTES: usize = 4096;
    let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a fresh anonymous mapping at an address of the kernel's choice.
    let p: *mut c_void = unsafe { libc::mmap(ptr::null_mut(), BYTES, prot, flags, -1, 0) };
    if p == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: p is the mapping made above, which nothing else uses.
    let done = unsafe { libc::mprotect(p, BYTES, libc::PROT_READ | libc::PROT_EXEC) };
    let result = if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    // SAFETY: as above; nothing points into it any more.
    unsafe { libc::munmap(p, BYTES) };
    result
}
