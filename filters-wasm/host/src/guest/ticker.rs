//! The clock that ends endless loops: a thread that advances the engine's epoch while modules run.
//!
//! Compiled code looks at the epoch in every loop and function. A thread advances it every half millisecond, but only
//! while modules are called: each call sets two flags by plain stores and takes one back, and when nobody was or is inside of a
//! module for a tenth of a second, the thread sleeps until the next burst wakes it. A router without modules, or without packets, pays nothing for it.
//!
//! Time that a worker was not on a processor is not the module's fault: when the epoch runs out, the budget is measured
//! once more in processor time of the worker before the module is stopped (see [`Watch`]).

use crossbeam_utils::CachePadded;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Weak};
use std::thread::Thread;
use std::time::Duration;
use wasmtime::{Engine, EngineWeak};

/// One tick of the epoch.
pub(crate) const TICK: Duration = Duration::from_micros(500);
/// Ticks without a burst after which the thread sleeps.
const QUIET: u32 = 200;

/// How workers tell the thread that they run a module.
pub(crate) struct Ticker {
    workers: Box<[CachePadded<Flags>]>,
    /// Calls of control threads that are under way.
    control: AtomicUsize,
    /// The thread sleeps until it is woken.
    parked: AtomicBool,
    thread: std::sync::OnceLock<Thread>,
}

#[derive(Default)]
struct Flags {
    /// The worker is inside of a module; written by the worker alone.
    inside: AtomicBool,
    /// It was since the last tick; set by the worker, cleared by the thread.
    used: AtomicBool,
}

/// While it lives, a control thread runs a module.
pub(crate) struct Inside<'a>(&'a Ticker);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.control.fetch_sub(1, SeqCst);
    }
}

impl Ticker {
    /// Starts the thread, which ends when the ticker is dropped.
    pub(crate) fn start(engine: &Engine, workers: usize) -> std::io::Result<Arc<Ticker>> {
        let ticker = Arc::new(Ticker {
            workers: (0..workers.max(1)).map(|_| CachePadded::default()).collect(),
            control: AtomicUsize::new(0),
            parked: AtomicBool::new(false),
            thread: std::sync::OnceLock::new(),
        });
        let (weak, engine) = (Arc::downgrade(&ticker), engine.weak());
        let thread = std::thread::Builder::new().name("smpnet-epoch".into()).spawn(move || tick(&weak, &engine))?;
        let _ = ticker.thread.set(thread.thread().clone());
        Ok(ticker)
    }

    /// One that no thread looks at, for an instance whose caller holds another's [`control`](Self::control).
    pub(crate) fn unwatched() -> Arc<Ticker> {
        Arc::new(Ticker {
            workers: Box::default(),
            control: AtomicUsize::new(0),
            parked: AtomicBool::new(false),
            thread: std::sync::OnceLock::new(),
        })
    }

    /// A worker is about to run a module.
    #[inline(always)]
    pub(crate) fn enter(&self, worker: usize) {
        if let Some(flags) = self.workers.get(worker) {
            flags.inside.store(true, Relaxed);
            flags.used.store(true, Relaxed);
        }
        if self.parked.load(Relaxed) {
            self.wake();
        }
    }

    /// It is back.
    #[inline(always)]
    pub(crate) fn leave(&self, worker: usize) {
        if let Some(flags) = self.workers.get(worker) {
            flags.inside.store(false, Relaxed);
        }
    }

    /// A control thread is about to run a module.
    pub(crate) fn control(&self) -> Inside<'_> {
        self.control.fetch_add(1, SeqCst);
        self.wake();
        Inside(self)
    }

    /// The only system call that a burst may cost: the first one after a quiet spell.
    #[cold]
    fn wake(&self) {
        if self.parked.swap(false, SeqCst)
            && let Some(t) = self.thread.get()
        {
            t.unpark();
        }
    }

    /// Whether anybody runs a module, or ran one since the last call.
    fn any(&self) -> bool {
        let mut any = self.control.load(SeqCst) > 0;
        for flags in &self.workers {
            if flags.used.load(Relaxed) {
                flags.used.store(false, Relaxed);
                any = true;
            }
            any |= flags.inside.load(Relaxed);
        }
        any
    }

    #[cfg(test)]
    pub(crate) fn is_parked(&self) -> bool {
        self.parked.load(SeqCst)
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        if let Some(t) = self.thread.get() {
            t.unpark();
        }
    }
}

fn tick(ticker: &Weak<Ticker>, engine: &EngineWeak) {
    let mut quiet = 0;
    loop {
        std::thread::sleep(TICK);
        let (Some(t), Some(engine)) = (ticker.upgrade(), engine.upgrade()) else { return };
        engine.increment_epoch();
        quiet = if t.any() { 0 } else { quiet + 1 };
        if quiet < QUIET {
            continue;
        }
        quiet = 0;
        t.parked.store(true, SeqCst);
        // A worker stores its flags and then reads `parked`, without a fence in between. One that read it too early has
        // its store on the way to memory; after this pause (a thousand times as long as a store takes) it is there.
        std::thread::sleep(TICK);
        if t.any() {
            t.parked.store(false, SeqCst);
        }
        drop(engine);
        // Held weakly while it sleeps, so that the last owner's drop wakes it and it ends.
        let weak = Arc::downgrade(&t);
        let asleep = t.parked.load(SeqCst);
        drop(t);
        while asleep && weak.upgrade().is_some_and(|t| t.parked.load(SeqCst)) {
            std::thread::park();
        }
    }
}

/// What one call into a module may take: wall time by the epoch first, then processor time.
#[derive(Clone, Copy, Default)]
pub(crate) struct Watch {
    /// The whole budget, in nanoseconds of processor time.
    budget_ns: u64,
    /// Processor time of the thread when the epoch ran out for the first time.
    since: Option<u64>,
}

impl Watch {
    /// A watch and the ticks after which it is to be asked.
    #[inline(always)]
    pub(crate) fn new(budget: Duration) -> (Watch, u64) {
        let ns = budget.as_nanos() as u64;
        (Watch { budget_ns: ns, since: None }, ns.div_ceil(TICK.as_nanos() as u64) + 1)
    }

    /// The epoch ran out: true when the module is to be stopped. It has at least its budget of processor time, and at most
    /// twice of it.
    #[cold]
    pub(crate) fn over(&mut self) -> bool {
        let now = thread_ns();
        match self.since {
            None => {
                self.since = Some(now);
                false
            }
            Some(then) => now.saturating_sub(then) >= self.budget_ns,
        }
    }
}

/// Nanoseconds of processor time of the calling thread.
fn thread_ns() -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t) };
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}
