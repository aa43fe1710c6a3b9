//! The machine that measures, and what the kernel says of this process on it.

use serde::Serialize;
use std::{io, sync::OnceLock};

/// The processors that this process might use when this was called first, whatever its threads are bound to by now.
pub fn allowed_cpus() -> io::Result<Vec<usize>> {
    static FIRST: OnceLock<Vec<usize>> = OnceLock::new();
    match FIRST.get() {
        Some(cpus) => Ok(cpus.clone()),
        None => {
            let cpus = affinity()?;
            Ok(FIRST.get_or_init(|| cpus).clone())
        }
    }
}

fn affinity() -> io::Result<Vec<usize>> {
    // SAFETY: all zero is an empty cpu_set_t, which outlives the call.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((0..libc::CPU_SETSIZE as usize).filter(|c| libc::CPU_ISSET(*c, &set)).collect())
    }
}

/// Keeps the calling thread, and those that it starts, on one processor.
pub fn pin(cpu: usize) -> io::Result<()> {
    // SAFETY: all zero is an empty cpu_set_t; `cpu` came from one.
    let rc = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Processor time of the calling thread, in nanoseconds.
pub fn thread_ns() -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` outlives the call, which does not fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t) };
    nanoseconds(t)
}

/// What the kernel counts of a thread.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Kernel {
    /// Times that it lost its processor to somebody else.
    pub preemptions: i64,
    /// Times that it slept of its own accord.
    pub sleeps: i64,
    /// Fresh pages that it touched.
    pub page_faults: i64,
}

impl Kernel {
    /// Of the calling thread, until now.
    pub fn of_this_thread() -> Kernel {
        // SAFETY: all zero is an rusage, which outlives the call.
        let usage = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            libc::getrusage(libc::RUSAGE_THREAD, &mut usage);
            usage
        };
        Kernel { preemptions: usage.ru_nivcsw, sleeps: usage.ru_nvcsw, page_faults: usage.ru_minflt }
    }

    /// The sum with another one.
    pub fn plus(self, other: Kernel) -> Kernel {
        Kernel {
            preemptions: self.preemptions + other.preemptions,
            sleeps: self.sleeps + other.sleeps,
            page_faults: self.page_faults + other.page_faults,
        }
    }

    /// What came since `before`.
    pub fn since(self, before: Kernel) -> Kernel {
        Kernel {
            preemptions: self.preemptions - before.preemptions,
            sleeps: self.sleeps - before.sleeps,
            page_faults: self.page_faults - before.page_faults,
        }
    }
}

/// Processor time that a process used so far, threads that ended included, in nanoseconds; none when it is gone.
pub fn process_ns(pid: u32) -> Option<u64> {
    let (mut clock, mut t) = (0, libc::timespec { tv_sec: 0, tv_nsec: 0 });
    // SAFETY: both are written to and outlive the calls.
    let ok = unsafe {
        libc::clock_getcpuclockid(pid as libc::pid_t, &mut clock) == 0 && libc::clock_gettime(clock, &mut t) == 0
    };
    ok.then(|| nanoseconds(t))
}

fn nanoseconds(t: libc::timespec) -> u64 {
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// Mappings and resident memory of this process.
#[derive(Clone, Copy)]
pub struct Memory {
    /// Mappings.
    pub maps: i64,
    /// Resident memory in KiB.
    pub resident_kib: i64,
}

impl Memory {
    /// The least of half a second, in which what was left behind is freed.
    pub fn settled() -> Memory {
        let samples = (0..25).map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            Memory::now()
        });
        samples.fold(Memory { maps: i64::MAX, resident_kib: i64::MAX }, |a, b| Memory {
            maps: a.maps.min(b.maps),
            resident_kib: a.resident_kib.min(b.resident_kib),
        })
    }

    fn now() -> Memory {
        let line = |text: &str| text.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
        let status = read("/proc/self/status");
        let resident = status.lines().find(|l| l.starts_with("VmRSS:")).map_or(0, line);
        Memory { maps: read("/proc/self/maps").lines().count() as i64, resident_kib: resident }
    }
}

/// The machine in words: processor, how many, kernel, load.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Name of the processor.
    pub processor: String,
    /// Processors that this process may use.
    pub cpus: usize,
    /// It runs in a virtual machine.
    pub virtual_machine: bool,
    /// Frequency of the time-stamp counter.
    pub tsc_mhz: f64,
    /// Frequency of the core as it is now.
    pub core_mhz: Option<f64>,
    /// Release of the kernel.
    pub kernel: String,
    /// Processes that were running or ready, over the last minute: what the machine did beside this.
    pub load: f64,
}

impl Machine {
    /// This one, now; takes a few milliseconds.
    pub fn look() -> Machine {
        let info = read("/proc/cpuinfo");
        let field = |name: &str| info.lines().find(|l| l.starts_with(name)).and_then(|l| l.split(':').nth(1));
        let tsc_mhz = crate::clock::cycles_per_us();
        Machine {
            processor: field("model name").unwrap_or(std::env::consts::ARCH).trim().to_owned(),
            cpus: allowed_cpus().map_or(0, |cpus| cpus.len()),
            virtual_machine: field("flags").is_some_and(|f| f.split_whitespace().any(|f| f == "hypervisor")),
            tsc_mhz,
            core_mhz: crate::clock::core_per_tsc().map(|c| c * tsc_mhz),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: read("/proc/loadavg").split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0.0),
        }
    }
}

fn read(file: impl AsRef<std::path::Path>) -> String {
    std::fs::read_to_string(file).unwrap_or_default()
}
