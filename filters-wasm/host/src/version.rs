//! One generation of a filter: its code, which never changes, and what it counted.

use crate::guest::GuestCode;
use crate::{Action, CompiledModule};
use crossbeam_utils::CachePadded;
use serde::Serialize;
use smpnet_bpf::Program;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

/// Compiled code and where it came from; immutable.
pub(crate) struct Artefact {
    pub(crate) code: Code,
    /// The program, when the module was made from one.
    pub(crate) program: Option<Program>,
    /// How much of a packet the program can look at, in bytes.
    pub(crate) reach: usize,
    /// The expression, or a word about what it was.
    pub(crate) text: String,
    /// SHA-256 of the module, in hexadecimal.
    pub(crate) sha256: String,
    pub(crate) wasm_bytes: usize,
    pub(crate) created: SystemTime,
}

/// What is instantiated for each worker.
pub(crate) enum Code {
    Generated(CompiledModule),
    Guest(Box<GuestCode>),
}

impl Artefact {
    /// The code of a module of somebody else.
    pub(crate) fn guest(&self) -> Option<&GuestCode> {
        match &self.code {
            Code::Generated(_) => None,
            Code::Guest(g) => Some(g),
        }
    }
}

/// An artefact in service under a number.
pub(crate) struct FilterVersion {
    pub(crate) generation: u64,
    pub(crate) action: Action,
    pub(crate) artefact: Arc<Artefact>,
    /// The generation whose code this is, when it came back by rollback or after faults.
    pub(crate) restored_from: Option<u64>,
    /// What it says of a packet that it drops.
    pub(crate) why: String,
    /// One for each worker, and one for callers that are none.
    pub(crate) stats: Box<[CachePadded<CpuStats>]>,
    /// A module's own counters, for each worker.
    pub(crate) counters: Box<[CachePadded<Box<[Count]>>]>,
    /// Too many faults: judged by the fault policy alone.
    pub(crate) quarantined: AtomicBool,
    pub(crate) first_fault: OnceLock<String>,
}

impl FilterVersion {
    pub(crate) fn new(
        generation: u64,
        action: Action,
        artefact: Arc<Artefact>,
        restored_from: Option<u64>,
        workers: usize,
    ) -> Self {
        let verb = match (action, artefact.guest()) {
            (_, Some(_)) => "dropped by",
            (Action::Pass, None) => "passes only",
            (Action::Drop, None) => "drops",
        };
        let why = format!("{verb} \"{}\" (generation {generation})", artefact.text);
        let own = artefact.guest().map_or(0, |g| g.info.manifest.counters.len());
        let counters = || CachePadded::new((0..own).map(|_| Count::default()).collect());
        FilterVersion {
            why,
            counters: (0..workers).map(|_| counters()).collect(),
            generation,
            action,
            artefact,
            restored_from,
            stats: (0..=workers).map(|_| CachePadded::default()).collect(),
            quarantined: AtomicBool::new(false),
            first_fault: OnceLock::new(),
        }
    }

    /// Counts a trap of a generated module, which goes on after it; true when it was one too many. (The supervisor counts
    /// those of other modules.)
    #[cold]
    pub(crate) fn fault(&self, stats: &CpuStats, reason: &dyn std::fmt::Display, max: u64) -> bool {
        stats.faults.add(1);
        self.first_fault.get_or_init(|| reason.to_string());
        let total = self.stats.iter().fold(0, |n, s| n + s.faults.get());
        total >= max && !self.quarantined.swap(true, Relaxed)
    }

    /// What each worker counted, and what came from elsewhere as the last entry.
    pub(crate) fn counts(&self) -> Vec<Counts> {
        self.stats.iter().map(|s| s.read()).collect()
    }

    pub(crate) fn report(&self) -> GenerationStats {
        let mut counts = Counts::default();
        self.counts().iter().for_each(|c| counts.add(c));
        GenerationStats { generation: self.generation, sha256: self.artefact.sha256.clone(), counts }
    }
}

/// A counter with one writer: a plain load and store, no atomic read-modify-write.
#[derive(Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    #[inline(always)]
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// For a counter with several writers.
    pub(crate) fn add_shared(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of one worker; written by it alone.
        #[derive(Default)]
        pub(crate) struct CpuStats { $(pub(crate) $name: Count,)* }

        impl CpuStats {
            fn read(&self) -> Counts {
                Counts { $($name: self.$name.get(),)* }
            }
        }

        /// What a filter counted.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        pub struct Counts { $($(#[$doc])* pub $name: u64,)* }

        impl Counts {
            /// Adds another's counts to these.
            pub fn add(&mut self, other: &Counts) {
                $(self.$name = self.$name.wrapping_add(other.$name);)*
            }
        }
    };
}

counts! {
    /// Packets judged; always `passed` + `dropped`.
    packets,
    /// Their bytes, from the layer that the filter sees.
    bytes,
    /// Packets that the program accepted.
    matched,
    /// Packets that went on.
    passed,
    /// Packets that were dropped.
    dropped,
    /// Bursts.
    bursts,
    /// Traps.
    faults,
    /// Packets judged by the fault policy instead of the program.
    fault_packets,
    /// Packets that were dropped and whose senders were told.
    rejected,
    /// Packets that were marked.
    marked,
    /// Packets that were changed.
    edited,
    /// Packets judged by the interpreter: those of several cells, and those that came before the worker's instance.
    interpreted,
    /// Packets of the bursts whose time was taken.
    sampled_packets,
    /// Nanoseconds that those bursts took.
    sampled_ns,
}

impl Counts {
    /// Nanoseconds per packet of the bursts whose time was taken.
    pub fn ns_per_packet(&self) -> Option<f64> {
        (self.sampled_packets > 0).then(|| self.sampled_ns as f64 / self.sampled_packets as f64)
    }
}

/// What one generation counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GenerationStats {
    /// Its number: 1 for the first, one more for each swap, rollback and restoration.
    pub generation: u64,
    /// SHA-256 of its module.
    pub sha256: String,
    /// What it counted.
    pub counts: Counts,
}
