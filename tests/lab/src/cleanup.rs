//! Leaving nothing behind: temporary folders that vanish at the end, on a panic and on Ctrl-C.
//!
//! Namespaces and links vanish with the processes in them, and child processes die with their parent (see
//! [`NetNs::attach`](crate::NetNs::attach)); files are all that must be removed by hand.

use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::sync::{Mutex, Once};

use crate::error::{Context, LabError, Result};

static FOLDERS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A folder of its own below the system's temporary folder, removed when dropped and on Ctrl-C.
#[derive(Debug)]
pub struct TempDir {
    path: PathBuf,
}

impl TempDir {
    /// Makes the folder, readable by its owner alone.
    ///
    /// # Errors
    /// When the temporary folder is not writable.
    pub fn new(prefix: &str) -> Result<TempDir> {
        use std::os::unix::fs::DirBuilderExt;
        static NEXT: AtomicU32 = AtomicU32::new(0);
        loop {
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("{prefix}-{}-{n}", std::process::id()));
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {
                    FOLDERS.lock().unwrap_or_else(|e| e.into_inner()).push(path.clone());
                    return Ok(TempDir { path });
                }
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e).context(format!("making {}", path.display())),
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file into it.
    ///
    /// # Errors
    /// When the disk is full, for example.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::write(&path, text).context(format!("writing {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // A folder that is gone already is as good as removed.
        fs::remove_dir_all(&self.path).ok();
        FOLDERS.lock().unwrap_or_else(|e| e.into_inner()).retain(|p| *p != self.path);
    }
}

static SIGNAL_PIPE: AtomicI32 = AtomicI32::new(-1);

extern "C" fn on_signal(signal: libc::c_int) {
    let byte = signal as u8;
    // SAFETY: write(2) is async-signal-safe; the descriptor stays open for the life of the process.
    unsafe { libc::write(SIGNAL_PIPE.load(Ordering::Relaxed), (&raw const byte).cast(), 1) };
}

/// From now on SIGINT, SIGTERM and SIGHUP run `end`, remove all temporary folders and end the process with 128 plus the
/// signal's number. Child processes are not concerned.
///
/// # Errors
/// When the pipe or thread cannot be made.
pub fn on_interrupt(end: impl FnOnce() + Send + 'static) -> Result<()> {
    static ONCE: Once = Once::new();
    if ONCE.is_completed() {
        return Err(LabError::Failed("on_interrupt was called twice".into()));
    }
    ONCE.call_once(|| {});
    let mut fds = [0; 2];
    // SAFETY: the array takes two descriptors.
    if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(LabError::last("pipe"));
    }
    // SAFETY: the descriptor is fresh and nobody else's.
    let reader = unsafe { OwnedFd::from_raw_fd(fds[0]) };
    SIGNAL_PIPE.store(fds[1], Ordering::Relaxed);
    let wait = move || {
        let mut byte = 0u8;
        // SAFETY: one byte is written to `byte`.
        while unsafe { libc::read(reader.as_raw_fd(), (&raw mut byte).cast(), 1) } != 1 {}
        end();
        // A test or command that panics while holding the lock must not keep us from removing its folder.
        for f in FOLDERS.lock().unwrap_or_else(|e| e.into_inner()).iter() {
            fs::remove_dir_all(f).ok();
        }
        std::process::exit(128 + i32::from(byte));
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait).context("starting a thread")?;
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only calls write(2).
        unsafe { libc::signal(signal, on_signal as *const () as libc::sighandler_t) };
    }
    Ok(())
}
