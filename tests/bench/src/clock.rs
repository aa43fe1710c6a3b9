//! Time in nanoseconds and in cycles of the time-stamp counter, taken together.

use std::time::Instant;

/// A stretch of time being measured.
pub struct Stretch {
    began: Instant,
    tsc: u64,
}

/// How long a stretch was.
#[derive(Clone, Copy, Debug)]
pub struct Took {
    /// Nanoseconds.
    pub ns: f64,
    /// Cycles of the time-stamp counter.
    pub cycles: f64,
}

impl Stretch {
    /// Begins now.
    pub fn begin() -> Stretch {
        Stretch { began: Instant::now(), tsc: tsc() }
    }

    /// Ends now.
    pub fn end(self) -> Took {
        let cycles = tsc().wrapping_sub(self.tsc);
        Took { ns: self.began.elapsed().as_nanos() as f64, cycles: cycles as f64 }
    }
}

impl Took {
    /// The share of one of `n`.
    pub fn per(self, n: u64) -> Took {
        Took { ns: self.ns / n as f64, cycles: self.cycles / n as f64 }
    }
}

/// The time-stamp counter, read when all instructions before are done and before any behind is begun; 0 where there is
/// none.
pub fn tsc() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has LFENCE and RDTSC, and Linux leaves the latter enabled.
    unsafe {
        std::arch::x86_64::_mm_lfence();
        let now = std::arch::x86_64::_rdtsc();
        std::arch::x86_64::_mm_lfence();
        now
    }
    #[cfg(not(target_arch = "x86_64"))]
    0
}
