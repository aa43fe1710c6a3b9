//! softint(9): deferred work on the worker that asked for it, at one of four levels.
//!
//! A handler runs between two polls of its worker, with the whole worker to itself; it must not sleep. Higher levels run
//! first. Scheduling a handler that waits already does nothing.

use crate::{Cpu, Domain, Published, Section, WorkerCx};
use crossbeam_utils::CachePadded;
use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

/// Levels, the most urgent one last, as in NetBSD.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SoftintLevel {
    /// What may wait.
    Clock = 0,
    /// Block I/O and the like.
    Bio = 1,
    /// Packets.
    Net = 2,
    /// What must not wait.
    Serial = 3,
}

impl SoftintLevel {
    /// Name of the level, as in `kern.softint`.
    pub const fn name(self) -> &'static str {
        match self {
            SoftintLevel::Clock => "clock",
            SoftintLevel::Bio => "bio",
            SoftintLevel::Net => "net",
            SoftintLevel::Serial => "serial",
        }
    }
}

const LEVELS: usize = 4;
/// Handlers of a level: bits of a word.
const HANDLERS: usize = 64;

/// Names a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SoftintId {
    level: SoftintLevel,
    bit: u8,
}

/// A handler of a softint.
pub type SoftintFunc = Arc<dyn Fn(&mut WorkerCx<'_>) + Send + Sync>;

type Table = [Vec<Option<Handler>>; LEVELS];

#[derive(Clone)]
struct Handler {
    name: Arc<str>,
    func: SoftintFunc,
    runs: Arc<[CachePadded<AtomicU64>]>,
}

#[derive(Default)]
struct Pending {
    /// Levels with a bit set in `local`: what the worker looks at in each round. Only the worker writes these two.
    levels: AtomicU32,
    local: [AtomicU64; LEVELS],
    /// Set by other threads, which then raise the worker's attention.
    remote: [AtomicU64; LEVELS],
}

/// The handlers of a runtime and what waits on each worker.
pub(crate) struct Softints {
    domain: Arc<Domain>,
    table: Published<Table>,
    pending: Box<[CachePadded<Pending>]>,
}

impl Softints {
    pub(crate) fn new(domain: &Arc<Domain>) -> Self {
        Softints {
            domain: domain.clone(),
            table: Published::new(Default::default()),
            pending: (0..domain.workers()).map(|_| CachePadded::default()).collect(),
        }
    }

    pub(crate) fn establish(&self, level: SoftintLevel, name: &str, func: SoftintFunc) -> Option<SoftintId> {
        let runs = self.pending.iter().map(|_| CachePadded::default()).collect();
        let handler = Handler { name: name.into(), func, runs };
        self.table.update(&self.domain, |old| {
            let mut new = old.clone();
            let row = &mut new[level as usize];
            let free = row.iter().position(Option::is_none).unwrap_or(row.len());
            if free >= HANDLERS {
                return (new, None);
            }
            if free == row.len() {
                row.push(None);
            }
            row[free] = Some(handler);
            (new, Some(SoftintId { level, bit: free as u8 }))
        })
    }

    /// Never on a worker.
    pub(crate) fn disestablish(&self, id: SoftintId) {
        let gone = self.table.update(&self.domain, |old| {
            let mut new = old.clone();
            let gone = new[id.level as usize].get_mut(usize::from(id.bit)).and_then(Option::take);
            (new, gone)
        });
        self.domain.perform();
        drop(gone);
    }

    /// On the worker itself.
    #[inline]
    pub(crate) fn schedule(&self, cpu: Cpu, id: SoftintId) {
        let p = &self.pending[cpu.index()];
        let word = &p.local[id.level as usize];
        word.store(word.load(Ordering::Relaxed) | 1 << id.bit, Ordering::Relaxed);
        p.levels.store(p.levels.load(Ordering::Relaxed) | 1 << id.level as u32, Ordering::Relaxed);
    }

    /// From another thread, which tells the worker afterwards.
    pub(crate) fn schedule_remote(&self, worker: usize, id: SoftintId) {
        self.pending[worker].remote[id.level as usize].fetch_or(1 << id.bit, Ordering::Release);
    }

    /// Takes over what other threads scheduled.
    pub(crate) fn take_remote(&self, cpu: Cpu) {
        let p = &self.pending[cpu.index()];
        for (level, remote) in p.remote.iter().enumerate() {
            let bits = remote.swap(0, Ordering::Acquire);
            if bits != 0 {
                let word = &p.local[level];
                word.store(word.load(Ordering::Relaxed) | bits, Ordering::Relaxed);
                p.levels.store(p.levels.load(Ordering::Relaxed) | 1 << level, Ordering::Relaxed);
            }
        }
    }

    #[inline(always)]
    pub(crate) fn any(&self, cpu: Cpu) -> bool {
        self.pending[cpu.index()].levels.load(Ordering::Relaxed) != 0
    }

    /// Takes the most urgent handler that waits.
    pub(crate) fn next(&self, cpu: Cpu, section: Section<'_>) -> Option<SoftintFunc> {
        let p = &self.pending[cpu.index()];
        loop {
            let levels = p.levels.load(Ordering::Relaxed);
            let level = levels.checked_ilog2()? as usize;
            let word = &p.local[level];
            let bits = word.load(Ordering::Relaxed);
            let rest = bits & bits.wrapping_sub(1);
            word.store(rest, Ordering::Relaxed);
            if rest == 0 {
                p.levels.store(levels & !(1 << level), Ordering::Relaxed);
            }
            if bits == 0 {
                continue;
            }
            // A handler that was removed meanwhile does not run.
            let row = &self.table.read(section)[level];
            if let Some(Some(h)) = row.get(bits.trailing_zeros() as usize) {
                let runs = &h.runs[cpu.index()];
                runs.store(runs.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                return Some(h.func.clone());
            }
        }
    }

    /// Level, name and runs of every handler.
    pub(crate) fn list(&self) -> Vec<(SoftintLevel, String, u64)> {
        let levels = [SoftintLevel::Clock, SoftintLevel::Bio, SoftintLevel::Net, SoftintLevel::Serial];
        let table = self.table.load_control();
        let row = |(level, row): (SoftintLevel, &Vec<Option<Handler>>)| {
            let runs = |h: &Handler| h.runs.iter().map(|r| r.load(Ordering::Relaxed)).sum();
            row.iter().flatten().map(|h| (level, h.name.to_string(), runs(h))).collect::<Vec<_>>()
        };
        levels.into_iter().zip(table.iter()).flat_map(row).collect()
    }
}
