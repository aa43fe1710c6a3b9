//! Thin, checked wrappers of the system calls that this plugin makes.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
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

/// eventfd(2), not blocking.
pub fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    owned(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })
}

/// Adds 1 to an eventfd. A failure (the counter is full) means that it is readable already.
pub fn signal(fd: BorrowedFd<'_>) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: eight readable bytes.
    unsafe { libc::write(fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
}

/// Sets an eventfd of our own to 0.
pub fn clear(fd: BorrowedFd<'_>) {
    let mut count = [0u8; 8];
    // SAFETY: eight writable bytes; the descriptor does not block.
    unsafe { libc::read(fd.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
}

/// poll(2) for reading; sets for each of `set` whether it is readable (or broken). None waits for ever.
pub fn poll(set: &mut [libc::pollfd], timeout: Option<std::time::Duration>) -> io::Result<()> {
    // Rounded up, or a deadline in less than a millisecond would be polled for in a loop.
    let ms = timeout.map_or(-1, |t| i32::try_from(t.as_micros().div_ceil(1000)).unwrap_or(i32::MAX));
    // SAFETY: set is an array of that many pollfd.
    match check(unsafe { libc::poll(set.as_mut_ptr(), set.len() as libc::nfds_t, ms) }) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::Interrupted => {
            set.iter_mut().for_each(|p| p.revents = 0);
            Ok(())
        }
        Err(e) => Err(e),
    }
}

/// An entry of [`poll`].
pub fn readable(fd: RawFd) -> libc::pollfd {
    libc::pollfd { fd, events: libc::POLLIN, revents: 0 }
}

/// Whether a write to the descriptor would go through now.
pub fn writable_now(fd: BorrowedFd<'_>) -> bool {
    let mut set = [libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLOUT, revents: 0 }];
    // SAFETY: an array of one pollfd.
    unsafe { libc::poll(set.as_mut_ptr(), 1, 0) == 1 && set[0].revents & libc::POLLOUT != 0 }
}

/// Makes a descriptor's file not block.
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes no pointers.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    // SAFETY: takes no pointers.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) })?;
    Ok(())
}

/// What kind of file a descriptor is, in the kernel's words: `anon_inode:[eventfd]`.
pub fn kind_of_file(fd: BorrowedFd<'_>) -> io::Result<String> {
    Ok(std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?.to_string_lossy().into_owned())
}

/// A memfd of `len` bytes that nobody can make smaller or larger, all of it there.
pub fn sealed_memfd(name: &CStr, len: usize) -> io::Result<OwnedFd> {
    // SAFETY: the name is NUL-terminated.
    let fd = owned(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) })?;
    let size = i64::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: takes no pointers.
    check(unsafe { libc::ftruncate(fd.as_raw_fd(), size) })?;
    // So that a page that the system lacks is an error now, and no SIGBUS later.
    // SAFETY: takes no pointers.
    check(unsafe { libc::fallocate(fd.as_raw_fd(), 0, 0, size) })?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: takes no pointers.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) })?;
    Ok(fd)
}

/// The seals of a memfd; an error for any other file.
pub fn seals(fd: BorrowedFd<'_>) -> io::Result<i32> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) })
}

/// Adds a seal to a memfd that still takes seals.
pub fn add_seal(fd: BorrowedFd<'_>, seal: i32) -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seal) })?;
    Ok(())
}

/// Bytes of a file.
pub fn size_of_file(fd: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY: stat is plain data for which all bits zero is valid.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: stat is there to be filled.
    check(unsafe { libc::fstat(fd.as_raw_fd(), &mut stat) })?;
    u64::try_from(stat.st_size).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// An epoll instance.
pub struct Epoll(OwnedFd);

impl Epoll {
    /// epoll_create1(2).
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers.
        Ok(Epoll(owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?))
    }

    /// Its own descriptor, readable while an event waits.
    pub fn raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Watches `fd` for each time it becomes readable anew.
    pub fn add_edges(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let mut event = libc::epoll_event { events: (libc::EPOLLIN | libc::EPOLLET) as u32, u64: 0 };
        // SAFETY: event is there to be read.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &mut event) })?;
        Ok(())
    }

    /// Ends [`Epoll::add_edges`].
    pub fn remove(&self, fd: BorrowedFd<'_>) {
        // SAFETY: no event is passed. Not being watched is what is wanted, so a failure is none.
        unsafe { libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_DEL, fd.as_raw_fd(), std::ptr::null_mut()) };
    }

    /// Takes the events that wait. True when there were any.
    pub fn take(&self) -> bool {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 4];
        let room = events.len() as i32;
        // SAFETY: events has that much room.
        unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), room, 0) > 0 }
    }
}
