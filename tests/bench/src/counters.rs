//! Counters of the processor itself (perf_event_open(2)): cache misses as the hardware counts them. Virtual machines often have
//! none; then the reason is the answer.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::FromRawFd,
};

/// perf_event_attr as far as PERF_ATTR_SIZE_VER0 goes.
#[repr(C)]
#[derive(Default)]
struct Attr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    bp_addr: u64,
}

const HARDWARE: u32 = 0;
/// PERF_COUNT_HW_CACHE_MISSES: those of the last level, as a rule.
const CACHE_MISSES: u64 = 3;
/// exclude_kernel and exclude_hv.
const USER_ONLY: u64 = 1 << 5 | 1 << 6;

/// Cache misses of the calling thread.
pub struct CacheMisses(File);

impl CacheMisses {
    /// Begins to count.
    ///
    /// # Errors
    /// In words, when there is no such counter here or it is not allowed.
    pub fn open() -> Result<CacheMisses, String> {
        let attr = Attr {
            kind: HARDWARE,
            size: size_of::<Attr>() as u32,
            config: CACHE_MISSES,
            flags: USER_ONLY,
            ..Attr::default()
        };
        // SAFETY: `attr` lives through the call and says its size; this thread, any CPU, no group, close on exec.
        let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const attr, 0, -1, -1, 8) };
        if fd < 0 {
            let e = io::Error::last_os_error();
            return Err(match e.raw_os_error() {
                Some(libc::ENOENT | libc::EOPNOTSUPP | libc::ENODEV) => {
                    format!("the processor, or the virtual machine, has no counter of cache misses ({e})")
                }
                _ => format!("perf_event_open: {e} (sysctl kernel.perf_event_paranoid allows it below 3)"),
            });
        }
        // SAFETY: a fresh descriptor that nobody else owns; it fits an i32 as all descriptors do.
        Ok(CacheMisses(unsafe { File::from_raw_fd(fd as i32) }))
    }

    /// How many there were so far.
    pub fn read(&mut self) -> u64 {
        let mut count = [0; 8];
        // A counter that cannot be read stands still, which shows as 0.
        let _ = self.0.read_exact(&mut count);
        u64::from_ne_bytes(count)
    }
}
