//! pserialize(9): read sections that cost nothing on a worker, and writers that wait for them.
//!
//! This is quiescent-state based reclamation. The domain has a count of grace periods. Each worker repeats that count
//! into a slot of its own at its *quiescent point*, once per round of its loop, when it holds no reference into shared
//! data. A writer that unlinked something raises the count and waits until every slot has seen it: from then on no worker
//! can reach what was unlinked. A slot of 0 says *offline*: a worker that sleeps, or another thread outside its read
//! sections; nobody waits for it.
//!
//! Why this is enough (`G` the count, `S` a slot, `P` the published pointer):
//!
//! - *online reader*: it loads `G` (acquire) and stores it to `S` (release). The writer changes `P`, raises `G` (release),
//!   and reads `S` (acquire). If the writer reads a value of its own `G` or later, then the reader's earlier reads
//!   happened before (release/acquire on `S`), and its later reads come after its load of `G`, so they see the new `P`
//!   (release/acquire on `G`).
//! - *offline to online*: here the writer may read `S` as still 0. The reader stores `S`, fences (SeqCst), and reads `P`;
//!   the writer changes `P`, fences (SeqCst), and reads `S`. One of the two sees the other's store: either the writer
//!   waits, or the reader finds the new `P`.
//! - *online to offline*: a release store of 0, which the writer reads with acquire, as in the first case.
//!
//! `tests/loom_pserialize.rs` lets loom look for a way around this.

use crate::{
    Cpu,
    sync::{Arc, AtomicU64, Backoff, Mutex, Ordering, fence, lock},
};
use crossbeam_utils::CachePadded;
use std::{cell::Cell, marker::PhantomData};

const OFFLINE: u64 = 0;

type Slot = CachePadded<AtomicU64>;

/// Proof of being in a read section: what was found through it stays alive as long as the section (`'a`).
/// A worker gets it from [`WorkerCx::section`](crate::WorkerCx::section), another thread from [`ReadGuard::section`].
#[derive(Clone, Copy, Debug)]
pub struct Section<'a> {
    domain: u32,
    _life: PhantomData<(&'a (), *const ())>,
}

impl<'a> From<&'a ReadGuard<'_>> for Section<'a> {
    fn from(guard: &'a ReadGuard<'_>) -> Self {
        guard.section()
    }
}

/// A set of workers and readers that writers wait for: one for each runtime.
pub struct Domain {
    core: Arc<Core>,
    id: u32,
    #[cfg(not(loom))]
    reaper: reaper::Reaper,
}

struct Core {
    grace: AtomicU64,
    workers: Box<[Slot]>,
    readers: Mutex<Vec<Arc<Slot>>>,
    performs: AtomicU64,
}

impl Domain {
    /// A domain of `workers` workers, all of them offline until [`Domain::unpark`].
    pub fn new(workers: usize) -> Arc<Self> {
        let core = Arc::new(Core {
            grace: AtomicU64::new(1),
            workers: (0..workers).map(|_| CachePadded::new(AtomicU64::new(OFFLINE))).collect(),
            readers: Mutex::new(Vec::new()),
            performs: AtomicU64::new(0),
        });
        Arc::new(Domain {
            id: next_id(),
            #[cfg(not(loom))]
            reaper: reaper::Reaper::new(core.clone()),
            core,
        })
    }

    /// How many workers it has.
    pub fn workers(&self) -> usize {
        self.core.workers.len()
    }

    /// Quiescent point of a worker.
    ///
    /// # Safety
    /// The worker holds nothing that it found in a read section of this domain.
    #[inline(always)]
    pub unsafe fn quiesce(&self, cpu: Cpu) {
        self.core.workers[cpu.index()].store(self.core.grace.load(Ordering::Acquire), Ordering::Release);
    }

    /// The worker goes to sleep: writers do not wait for it until [`Domain::unpark`].
    ///
    /// # Safety
    /// As [`Domain::quiesce`]; and the worker opens no section before it called [`Domain::unpark`].
    pub unsafe fn park(&self, cpu: Cpu) {
        self.core.workers[cpu.index()].store(OFFLINE, Ordering::Release);
    }

    /// The worker is awake.
    pub fn unpark(&self, cpu: Cpu) {
        self.core.online(&self.core.workers[cpu.index()]);
    }

    /// A read section of the calling worker.
    ///
    /// # Safety
    /// The caller is a worker of this domain that is not parked, and it passes no quiescent point before the end of `'a`.
    #[inline(always)]
    pub unsafe fn assume_section<'a>(&self) -> Section<'a> {
        Section { domain: self.id, _life: PhantomData }
    }

    /// Makes the calling thread a reader. Any thread; a worker has no need of it.
    pub fn register(&self) -> Reader {
        let slot = Arc::new(CachePadded::new(AtomicU64::new(OFFLINE)));
        lock(&self.core.readers).push(slot.clone());
        Reader { core: self.core.clone(), domain: self.id, slot, depth: Cell::new(0) }
    }

    /// pserialize_perform: waits until everyone who could see what the caller unlinked has left its section. Takes some
    /// microseconds while workers run, longer when one is in a long call.
    ///
    /// # Panics
    /// On a worker, or in a read section of the same thread's: it would wait for itself.
    pub fn perform(&self) {
        #[cfg(not(loom))]
        assert!(!crate::worker::on_worker(), "pserialize_perform on a worker would wait for itself");
        self.core.perform();
    }

    /// Drops `garbage` after a grace period, on the reaper thread. Any thread; workers only where it is rare, because the
    /// list of garbage is behind a lock.
    pub fn retire(&self, garbage: Box<dyn Send>) {
        #[cfg(not(loom))]
        self.reaper.retire(garbage);
        // loom has no use for a thread that never ends: the caller waits itself.
        #[cfg(loom)]
        {
            self.core.perform();
            drop(garbage);
        }
    }

    /// Waits until everything that was given to [`Domain::retire`] before this call has been dropped. Never on a worker.
    pub fn flush(&self) {
        #[cfg(not(loom))]
        self.reaper.flush();
    }

    /// Counts since the start: grace periods, objects retired, objects dropped again.
    pub fn stats(&self) -> DomainStats {
        #[cfg(not(loom))]
        let (retired, reclaimed) = self.reaper.counts();
        #[cfg(loom)]
        let (retired, reclaimed) = (0, 0);
        DomainStats { performs: self.core.performs.load(Ordering::Relaxed), retired, reclaimed }
    }
}

/// What [`Domain::stats`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainStats {
    /// Grace periods waited for.
    pub performs: u64,
    /// Objects given to [`Domain::retire`].
    pub retired: u64,
    /// Of these, objects dropped.
    pub reclaimed: u64,
}

impl Core {
    fn online(&self, slot: &AtomicU64) {
        slot.store(self.grace.load(Ordering::Acquire), Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    fn perform(&self) {
        fence(Ordering::SeqCst);
        let goal = self.grace.fetch_add(1, Ordering::AcqRel) + 1;
        fence(Ordering::SeqCst);
        for slot in &self.workers {
            wait_for(slot, goal);
        }
        // Readers that register from here on see what the caller did: the lock orders it.
        let readers: Vec<_> = lock(&self.readers).clone();
        for slot in &readers {
            wait_for(slot, goal);
        }
        self.performs.fetch_add(1, Ordering::Relaxed);
    }
}

fn wait_for(slot: &AtomicU64, goal: u64) {
    let mut backoff = Backoff::default();
    loop {
        let seen = slot.load(Ordering::Acquire);
        if seen == OFFLINE || seen >= goal {
            return;
        }
        backoff.snooze();
    }
}

fn next_id() -> u32 {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A thread that reads what is published without being a worker. Stays on its thread.
pub struct Reader {
    core: Arc<Core>,
    domain: u32,
    slot: Arc<Slot>,
    depth: Cell<u32>,
}

impl Reader {
    /// Begins a read section, which ends when the guard is dropped. Sections of one thread may nest. Writers wait for
    /// it: be short, and call no [`Domain::perform`] in it.
    pub fn enter(&self) -> ReadGuard<'_> {
        if self.depth.get() == 0 {
            self.core.online(&self.slot);
        }
        self.depth.set(self.depth.get() + 1);
        ReadGuard { reader: self }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        lock(&self.core.readers).retain(|s| !Arc::ptr_eq(s, &self.slot));
    }
}

/// A read section of a thread that is no worker.
pub struct ReadGuard<'r> {
    reader: &'r Reader,
}

impl ReadGuard<'_> {
    /// The proof to read with.
    pub fn section(&self) -> Section<'_> {
        Section { domain: self.reader.domain, _life: PhantomData }
    }
}

impl Drop for ReadGuard<'_> {
    fn drop(&mut self) {
        let depth = self.reader.depth.get() - 1;
        self.reader.depth.set(depth);
        if depth == 0 {
            self.reader.slot.store(OFFLINE, Ordering::Release);
        }
    }
}

/// Ties a published object to the one domain whose grace periods protect it: the first reader or writer decides. A
/// section of another domain would not keep the writers of this one waiting, so it is refused.
#[derive(Default)]
pub(crate) struct Bound(std::sync::atomic::AtomicU32);

impl Bound {
    #[inline(always)]
    pub(crate) fn check(&self, s: Section<'_>) {
        // Once bound it never changes, so a relaxed load that finds the right value is proof enough.
        if self.0.load(Ordering::Relaxed) != s.domain {
            self.bind(s.domain);
        }
    }

    pub(crate) fn check_writer(&self, d: &Domain) {
        self.bind(d.id);
    }

    #[cold]
    #[inline(never)]
    fn bind(&self, id: u32) {
        if let Err(owner) = self.0.compare_exchange(0, id, Ordering::Relaxed, Ordering::Relaxed) {
            assert!(owner == id, "object of pserialize domain {owner} used in domain {id}");
        }
    }
}

#[cfg(not(loom))]
mod reaper {
    use super::Core;
    use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

    #[derive(Default)]
    struct State {
        garbage: Vec<Box<dyn Send>>,
        retired: u64,
        reclaimed: u64,
        stop: bool,
        thread: Option<std::thread::JoinHandle<()>>,
    }

    struct Shared {
        state: Mutex<State>,
        changed: Condvar,
    }

    impl Shared {
        fn lock(&self) -> MutexGuard<'_, State> {
            self.state.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    /// Drops retired objects after a grace period. The thread begins with the first of them.
    pub(super) struct Reaper {
        core: Arc<Core>,
        shared: Arc<Shared>,
    }

    impl Reaper {
        pub(super) fn new(core: Arc<Core>) -> Self {
            Reaper { core, shared: Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() }) }
        }

        pub(super) fn retire(&self, garbage: Box<dyn Send>) {
            let mut state = self.shared.lock();
            state.garbage.push(garbage);
            state.retired += 1;
            if state.thread.is_none() {
                let (core, shared) = (self.core.clone(), self.shared.clone());
                let run = move || reap(&core, &shared);
                match std::thread::Builder::new().name("smpnet-reaper".into()).spawn(run) {
                    Ok(t) => state.thread = Some(t),
                    // The next retire tries again; until then the garbage waits, which is safe.
                    Err(e) => tracing::error!(error = %e, "cannot start the reaper thread"),
                }
            }
            self.shared.changed.notify_all();
        }

        pub(super) fn flush(&self) {
            let mut state = self.shared.lock();
            let goal = state.retired;
            while state.reclaimed < goal && state.thread.is_some() {
                state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }

        pub(super) fn counts(&self) -> (u64, u64) {
            let state = self.shared.lock();
            (state.retired, state.reclaimed)
        }
    }

    fn reap(core: &Core, shared: &Shared) {
        loop {
            let mut state = shared.lock();
            while state.garbage.is_empty() && !state.stop {
                state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let garbage = std::mem::take(&mut state.garbage);
            let stop = state.stop;
            drop(state);
            // When the domain itself is gone, nobody can be in a section of it.
            if !stop {
                core.perform();
            }
            let n = garbage.len() as u64;
            drop(garbage);
            let mut state = shared.lock();
            state.reclaimed += n;
            shared.changed.notify_all();
            if state.stop && state.garbage.is_empty() {
                return;
            }
        }
    }

    impl Drop for Reaper {
        fn drop(&mut self) {
            let mut state = self.shared.lock();
            state.stop = true;
            self.shared.changed.notify_all();
            let thread = state.thread.take();
            drop(state);
            // The last reference to the domain may have been held by garbage: then this is the reaper itself.
            if let Some(t) = thread.filter(|t| t.thread().id() != std::thread::current().id()) {
                let _ = t.join();
            }
        }
    }
}
