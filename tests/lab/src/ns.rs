//! Network namespaces: one descriptor each, entered by threads and child processes.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::panic::resume_unwind;
use std::process::Command;
use std::thread::JoinHandle;

use crate::error::{Context, LabError, Result};

/// A network namespace. It lives as long as this value and the threads, sockets and processes in it.
#[derive(Debug)]
pub struct NetNs {
    fd: OwnedFd,
}

impl NetNs {
    /// Makes an empty namespace; its `lo` is down.
    ///
    /// # Errors
    /// When the process may not, see [`Lab::enter`](crate::Lab::enter).
    pub fn new() -> Result<NetNs> {
        std::thread::scope(|s| {
            s.spawn(|| {
                // SAFETY: takes flags only and concerns this thread, which ends right after.
                if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                    return Err(LabError::last("unshare(CLONE_NEWNET)"));
                }
                let fd = File::open("/proc/thread-self/ns/net").context("/proc/thread-self/ns/net")?;
                Ok(NetNs { fd: fd.into() })
            })
            .join()
            .unwrap_or_else(|p| resume_unwind(p))
        })
    }

    /// Runs `f` on a thread inside the namespace and waits for it. A panic in `f` goes on in the caller.
    ///
    /// # Errors
    /// When the thread could not enter the namespace.
    pub fn run<R: Send>(&self, f: impl FnOnce() -> R + Send) -> Result<R> {
        let fd = self.fd.as_raw_fd();
        std::thread::scope(|s| {
            s.spawn(move || {
                enter(fd)?;
                Ok(f())
            })
            .join()
            .unwrap_or_else(|p| resume_unwind(p))
        })
    }

    /// Starts a thread inside the namespace.
    ///
    /// # Errors
    /// When the descriptor cannot be duplicated. A thread that cannot enter panics.
    pub fn spawn<R: Send + 'static>(&self, f: impl FnOnce() -> R + Send + 'static) -> Result<JoinHandle<R>> {
        let fd = self.fd.try_clone().context("duplicating a namespace descriptor")?;
        Ok(std::thread::spawn(move || {
            if let Err(e) = enter(fd.as_raw_fd()) {
                panic!("{e}");
            }
            drop(fd);
            f()
        }))
    }

    /// Makes `command` run inside the namespace, in a process group of its own, and die with the calling *thread*:
    /// spawn it from one that lives long enough. Ctrl-C at the terminal does not reach it.
    pub fn attach(&self, command: &mut Command) {
        let fd = self.fd.as_raw_fd();
        let parent = std::process::id();
        // SAFETY: between fork and exec only async-signal-safe calls are made: setns, prctl and getppid.
        unsafe {
            command.pre_exec(move || {
                if libc::setns(fd, libc::CLONE_NEWNET) != 0
                    || libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) != 0
                {
                    return Err(std::io::Error::last_os_error());
                }
                // The parent may have died before prctl.
                if libc::getppid() as u32 != parent {
                    return Err(std::io::Error::from_raw_os_error(libc::ESRCH));
                }
                Ok(())
            });
        }
        command.process_group(0);
    }

    /// The descriptor, valid as long as this value.
    pub fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Moves the calling thread into the namespace behind `fd`.
fn enter(fd: RawFd) -> Result<()> {
    // SAFETY: setns takes a descriptor and a flag and concerns this thread alone.
    if unsafe { libc::setns(fd, libc::CLONE_NEWNET) } != 0 {
        return Err(LabError::last("setns"));
    }
    Ok(())
}
