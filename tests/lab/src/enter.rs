//! Entering the laboratory: the right to make network namespaces, as root or as an ordinary user.

use std::fs;
use std::io;

use crate::error::{Context, LabError, Result};

/// How the laboratory got its rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// The process may make network namespaces as it is.
    Root,
    /// It made a user namespace first, in which it is root.
    UserNamespace,
}

/// Proof that this process may make network namespaces and stands in one of its own.
#[derive(Clone, Copy, Debug)]
pub struct Lab {
    privilege: Privilege,
}

impl Lab {
    /// Moves the process into a network namespace of its own, through a user namespace where it is not root.
    ///
    /// To be called first thing in `main`: a user namespace can be made only while the process has one thread. Nothing
    /// of it outlives the process.
    ///
    /// # Errors
    /// [`LabError::Threads`] when other threads run already; [`LabError::Forbidden`] with the setting to change when
    /// this machine does not let its users make namespaces.
    pub fn enter() -> Result<Lab> {
        // SAFETY: unshare takes flags only; a network namespace changes nothing that this process relies on.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0 {
            return Ok(Lab { privilege: Privilege::Root });
        }
        let threads = fs::read_dir("/proc/self/task").context("reading /proc/self/task")?.count();
        if threads != 1 {
            return Err(LabError::Threads(threads));
        }
        // SAFETY: these calls only read the process's ids.
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        // SAFETY: as above, and the process has one thread.
        if unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET) } != 0 {
            return Err(forbidden("unshare(CLONE_NEWUSER | CLONE_NEWNET)", &io::Error::last_os_error()));
        }
        let write = |path: &str, text: String| fs::write(path, text).map_err(|e| forbidden(path, &e));
        write("/proc/self/setgroups", "deny".into())?;
        write("/proc/self/uid_map", format!("0 {uid} 1"))?;
        write("/proc/self/gid_map", format!("0 {gid} 1"))?;
        Ok(Lab { privilege: Privilege::UserNamespace })
    }

    /// How the laboratory got its rights.
    pub fn privilege(self) -> Privilege {
        self.privilege
    }
}

fn setting(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|s| s.trim().to_string())
}

/// Says which setting of this machine stands in the way.
fn forbidden(what: &str, e: &io::Error) -> LabError {
    let mut text = format!("this machine does not let an ordinary user make network namespaces ({what}: {e}).\n");
    let mut known = false;
    if setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1") {
        known = true;
        text += "AppArmor restricts them (Ubuntu's default). Allow them until the next boot with\n    \
                 sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0\n";
    }
    if setting("/proc/sys/kernel/unprivileged_userns_clone").as_deref() == Some("0") {
        known = true;
        text += "The kernel forbids them (a setting of Debian's). Allow them until the next boot with\n    \
                 sudo sysctl -w kernel.unprivileged_userns_clone=1\n";
    }
    if setting("/proc/sys/user/max_user_namespaces").as_deref() == Some("0") {
        known = true;
        text += "Their number is limited to 0. Allow them until the next boot with\n    \
                 sudo sysctl -w user.max_user_namespaces=10000\n";
    }
    if !known {
        text += "No setting that forbids it was found; inside a container its seccomp profile does it \
                 (docker run --privileged, or --cap-add SYS_ADMIN --cap-add NET_ADMIN --cap-add NET_RAW).\n";
    }
    text += "Or run the same command as root (sudo).";
    LabError::Forbidden(text)
}
