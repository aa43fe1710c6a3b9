//! Time in nanoseconds and in cycles of the time-stamp counter.

use crate::machine::thread_ns;
use std::{sync::OnceLock, time::Instant};

/// A stretch of the calling thread's processor time being measured: what other programs take from it does not count.
pub struct Stretch {
    began: u64,
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
        Stretch { began: thread_ns() }
    }

    /// Ends now.
    pub fn end(self) -> Took {
        let ns = (thread_ns() - self.began) as f64;
        Took { ns, cycles: ns * cycles_per_us() / 1e3 }
    }
}

impl Took {
    /// The share of one of `n`.
    pub fn per(self, n: u64) -> Took {
        Took { ns: self.ns / n as f64, cycles: self.cycles / n as f64 }
    }
}

/// Cycles of the time-stamp counter in a microsecond. The first call takes a moment.
pub fn cycles_per_us() -> f64 {
    static RATE: OnceLock<f64> = OnceLock::new();
    *RATE.get_or_init(|| {
        let (began, clock) = (tsc(), Instant::now());
        std::thread::sleep(std::time::Duration::from_millis(100));
        (tsc() - began) as f64 / clock.elapsed().as_secs_f64() / 1e6
    })
}

/// Cycles that this core makes in one of the time-stamp counter's, at the moment: the counter runs at the frequency that the
/// processor was sold with, the core at the one that it is allowed now. `None` where neither can be told.
///
/// A multiplication takes three cycles of every x86-64 core since 2006, and each of these waits for the one before (additions
/// would not do: some cores do them while renaming registers).
pub fn core_per_tsc() -> Option<f64> {
    #[cfg(target_arch = "x86_64")]
    {
        const ROUNDS: u64 = 20_000;
        let tries = (0..5).map(|_| {
            let began = tsc();
            // SAFETY: arithmetic on registers that are named as clobbered.
            unsafe {
                std::arch::asm!(
                    "2:",
                    "imul {x}, {x}", "imul {x}, {x}", "imul {x}, {x}", "imul {x}, {x}",
                    "imul {x}, {x}", "imul {x}, {x}", "imul {x}, {x}", "imul {x}, {x}",
                    "dec {n}",
                    "jnz 2b",
                    x = inout(reg) 3u64 => _,
                    n = inout(reg) ROUNDS => _,
                    options(nomem, nostack),
                );
            }
            tsc() - began
        });
        // The shortest one was not interrupted.
        tries.min().map(|ticks| (ROUNDS * 8 * 3) as f64 / ticks as f64)
    }
    #[cfg(not(target_arch = "x86_64"))]
    None
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
