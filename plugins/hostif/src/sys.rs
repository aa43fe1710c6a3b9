//! Thin, checked wrappers of the system calls that the drivers make.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

/// The result of a system call as an `io::Result`.
pub fn check(rc: i32) -> io::Result<i32> {
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(rc) }
}

/// Takes over a descriptor that a system call returned.
pub fn owned(fd: i32) -> io::Result<OwnedFd> {
    let fd = check(fd)?;
    // SAFETY: the kernel has just given this descriptor to us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// socket(2), close-on-exec.
pub fn socket(domain: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    owned(unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) })
}

/// setsockopt(2) with a plain value. `T` must be the structure that the option takes.
pub fn setsockopt<T: Copy>(fd: RawFd, level: i32, option: i32, value: &T) -> io::Result<()> {
    // SAFETY: value points to size_of::<T>() readable bytes.
    check(unsafe {
        libc::setsockopt(fd, level, option, std::ptr::from_ref(value).cast(), size_of::<T>() as libc::socklen_t)
    })?;
    Ok(())
}

/// getsockopt(2) into a plain value. `T` must be valid for every bit pattern.
pub fn getsockopt<T: Copy + Default>(fd: RawFd, level: i32, option: i32) -> io::Result<T> {
    let mut value = T::default();
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: value has size_of::<T>() writable bytes, and len says so.
    check(unsafe { libc::getsockopt(fd, level, option, std::ptr::from_mut(&mut value).cast(), &mut len) })?;
    Ok(value)
}

/// ioctl(2) whose argument is a pointer to `T`. `T` must be the structure that the request takes.
pub fn ioctl<T>(fd: RawFd, request: u64, value: &mut T) -> io::Result<i32> {
    // SAFETY: value is a live, exclusively borrowed object of the type that the request reads and writes.
    check(unsafe { libc::ioctl(fd, request as _, std::ptr::from_mut(value)) })
}

/// ioctl(2) whose argument is a plain number.
pub fn ioctl_value(fd: RawFd, request: u64, value: u64) -> io::Result<i32> {
    // SAFETY: the request takes a number, no pointer.
    check(unsafe { libc::ioctl(fd, request as _, value) })
}

/// An `ifreq` that names `device`; all else is zero.
pub fn ifreq(device: &str) -> libc::ifreq {
    // SAFETY: ifreq is plain data for which all bits zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name.iter_mut().zip(device.as_bytes().iter().take(room)) {
        *to = *from as libc::c_char;
    }
    request
}

/// Whether the running kernel is at least this version. False when its name cannot be read.
pub fn kernel_at_least(major: u32, minor: u32) -> bool {
    // SAFETY: utsname is plain data for which all bits zero is valid.
    let mut name: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: name is there to be filled.
    if unsafe { libc::uname(&mut name) } != 0 {
        return false;
    }
    let release: String = name.release.iter().take_while(|c| **c != 0).map(|c| char::from(*c as u8)).collect();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor)
}

/// eventfd(2), not blocking.
pub fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    owned(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })
}

/// Adds 1 to an eventfd.
pub fn signal(fd: &OwnedFd) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: eight readable bytes. A failure (the counter is full) means that it is readable already.
    unsafe { libc::write(fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
}

/// poll(2) for reading; which of `fds` are readable (or broken). `timeout_ms` -1 waits for ever.
pub fn poll_readable<const N: usize>(fds: [RawFd; N], timeout_ms: i32) -> io::Result<[bool; N]> {
    let mut set = fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
    loop {
        // SAFETY: set is an array of N pollfd.
        match check(unsafe { libc::poll(set.as_mut_ptr(), N as libc::nfds_t, timeout_ms) }) {
            Ok(_) => return Ok(set.map(|p| p.revents != 0)),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Memory mapped from a descriptor, unmapped on drop.
#[derive(Debug)]
pub struct Mapping {
    base: *mut u8,
    len: usize,
}

// SAFETY: a mapping may be used and unmapped from any thread; who touches which bytes is up to its owner.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps the first `len` bytes of `fd`, shared, readable and writable.
    pub fn new(fd: RawFd, len: usize) -> io::Result<Self> {
        Mapping::at(fd, len, 0)
    }

    /// As [`Mapping::new`], from byte `offset` on.
    pub fn at(fd: RawFd, len: usize, offset: i64) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        // SAFETY: a new mapping at an address of the kernel's choice disturbs nothing.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, access, flags, fd, offset) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Mapping { base: base.cast(), len })
    }

    /// First byte.
    pub fn base(&self) -> *mut u8 {
        self.base
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: base and len are those of a mapping that we own; references into it borrow from self.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_kernel_is_older_than_the_next_century() {
        assert!(super::kernel_at_least(3, 0));
        assert!(!super::kernel_at_least(1000, 0));
    }
}
