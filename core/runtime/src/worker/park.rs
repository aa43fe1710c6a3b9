//! How a worker sleeps and is woken.
//!
//! A wake-up must not be lost between the worker's last look for work and its sleep, and must cost no system call when the
//! worker is awake. Both sides follow one pattern (Dekker's):
//!
//! ```text
//! worker                               waker
//! state = PARKED                       make work visible (queue, attention flag)
//! fence(SeqCst)                        fence(SeqCst)
//! look for work everywhere             if state == PARKED and swap(state, AWAKE) == PARKED:
//! none: epoll_wait(eventfd, ...)           write(eventfd)
//! state = AWAKE
//! ```
//!
//! By the two fences, either the worker's look comes after the waker's store and finds the work, or the waker's look comes
//! after the worker's store and finds PARKED; then it writes to the eventfd, which stays readable until the worker has read
//! it, so that epoll_wait returns even if it begins later. Of several wakers the swap lets only one write. A write that
//! finds the worker just woken by something else makes one later sleep short, which costs a round and loses nothing.
//! Events of devices have the same shape: `Poller::arm` asks the device for events and then looks once more for packets.

use crossbeam_utils::CachePadded;
use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    sync::atomic::{AtomicBool, AtomicU32, Ordering, fence},
};

const AWAKE: u32 = 0;
const PARKED: u32 = 1;

struct Waker {
    state: AtomicU32,
    /// Something was put into the mailbox, an inbox or a remote softint word.
    attention: AtomicBool,
    eventfd: OwnedFd,
}

/// The wakers of all workers of a runtime.
pub(crate) struct Wakers(Box<[CachePadded<Waker>]>);

impl Wakers {
    pub(crate) fn new(workers: usize) -> io::Result<Self> {
        let waker = |_| {
            let eventfd = eventfd()?;
            Ok(CachePadded::new(Waker { state: AtomicU32::new(AWAKE), attention: AtomicBool::new(false), eventfd }))
        };
        (0..workers).map(waker).collect::<io::Result<_>>().map(Wakers)
    }

    /// Wakes worker `to` if it sleeps. The caller has made its work visible before. Any thread.
    #[inline(always)]
    pub(crate) fn wake(&self, to: usize) {
        let w = &self.0[to];
        fence(Ordering::SeqCst);
        if w.state.load(Ordering::Relaxed) == PARKED {
            w.wake_parked();
        }
    }

    /// Tells worker `to` to look into its mailbox and inboxes, and wakes it if it sleeps.
    pub(crate) fn attend(&self, to: usize) {
        self.0[to].attention.store(true, Ordering::Release);
        self.wake(to);
    }

    /// Whether something was put into the worker's mailbox or inboxes since the last call. The worker only.
    #[inline(always)]
    pub(crate) fn take_attention(&self, own: usize) -> bool {
        let a = &self.0[own].attention;
        // Cleared before the mailbox is read: what comes meanwhile sets it again.
        a.load(Ordering::Relaxed) && a.swap(false, Ordering::AcqRel)
    }

    pub(super) fn has_attention(&self, own: usize) -> bool {
        self.0[own].attention.load(Ordering::Acquire)
    }

    /// First step to sleep. The worker looks for work after this.
    pub(super) fn set_parked(&self, own: usize) {
        self.0[own].state.store(PARKED, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Last step, after sleep or instead of it.
    pub(super) fn set_awake(&self, own: usize) {
        self.0[own].state.store(AWAKE, Ordering::Release);
    }

    pub(super) fn fd(&self, own: usize) -> RawFd {
        self.0[own].eventfd.as_raw_fd()
    }

    /// Forgets the wake-ups that came.
    pub(super) fn clear_fd(&self, own: usize) {
        let mut count = 0u64;
        // SAFETY: reads 8 bytes into `count`; the descriptor does not block.
        unsafe { libc::read(self.fd(own), (&raw mut count).cast(), 8) };
    }
}

impl Waker {
    #[cold]
    #[inline(never)]
    fn wake_parked(&self) {
        if self.state.swap(AWAKE, Ordering::AcqRel) == PARKED {
            let one = 1u64;
            // SAFETY: writes 8 bytes of `one`. It cannot fail: the count is far from its limit.
            unsafe { libc::write(self.eventfd.as_raw_fd(), (&raw const one).cast(), 8) };
        }
    }
}

fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed; the result is checked.
    let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The set of descriptors that a worker sleeps on.
pub(super) struct Epoll(OwnedFd);

/// `data` of the worker's own eventfd.
const WAKE: u64 = u64::MAX;

impl Epoll {
    pub(super) fn new(wake: RawFd) -> io::Result<Self> {
        // SAFETY: no memory is passed; the result is checked.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        let epoll = Epoll(unsafe { OwnedFd::from_raw_fd(fd) });
        epoll.add_with(wake, WAKE)?;
        Ok(epoll)
    }

    fn add_with(&self, fd: RawFd, data: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: data };
        // SAFETY: `event` is valid during the call.
        match unsafe { libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &mut event) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Adds a poller's descriptor. A descriptor that two pollers share is there once and stays until both are gone.
    pub(super) fn add(&self, fd: RawFd) -> io::Result<()> {
        match self.add_with(fd, 0) {
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            r => r,
        }
    }

    pub(super) fn remove(&self, fd: RawFd) {
        // SAFETY: the kernel ignores the event for EPOLL_CTL_DEL.
        unsafe { libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut()) };
    }

    /// Sleeps until an event or for `timeout_ns` (`None`: for ever); whether the eventfd was among the events.
    pub(super) fn wait(&self, timeout_ns: Option<u64>) -> bool {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 16];
        let n = self.wait_for(&mut events, timeout_ns);
        events[..n].iter().any(|e| e.u64 == WAKE)
    }

    fn wait_for(&self, events: &mut [libc::epoll_event; 16], timeout_ns: Option<u64>) -> usize {
        let spec = timeout_ns
            .map(|ns| libc::timespec { tv_sec: (ns / 1_000_000_000) as i64, tv_nsec: (ns % 1_000_000_000) as i64 });
        let spec_ptr = spec.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // The plain epoll_wait counts in milliseconds; since Linux 5.11 there is one for nanoseconds.
        // SAFETY: the arguments are those of epoll_pwait2(2); all memory is valid during the call, no signal mask.
        let n = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.0.as_raw_fd(),
                events.as_mut_ptr(),
                events.len(),
                spec_ptr,
                std::ptr::null::<libc::sigset_t>(),
                0usize,
            )
        };
        if n >= 0 {
            return n as usize;
        }
        if io::Error::last_os_error().raw_os_error() != Some(libc::ENOSYS) {
            return 0;
        }
        let ms = timeout_ns.map_or(-1, |ns| ns.div_ceil(1_000_000).min(i32::MAX as u64) as i32);
        // SAFETY: `events` is valid for its length.
        let n = unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), events.len() as i32, ms) };
        n.max(0) as usize
    }
}
