//! What the manager tells people and programs.

use crate::version::{Counts, GenerationStats};
use crate::{Action, Dirs, Layer, OnFault};
use serde::Serialize;

/// What a load, swap or rollback did. Times in microseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SwapReport {
    /// Name of the filter.
    pub name: String,
    /// Number of the generation that judges now.
    pub generation: u64,
    /// SHA-256 of its module.
    pub sha256: String,
    /// From the source to machine code; 0 for a rollback.
    pub compile_us: f64,
    /// Making and warming an instance for each worker.
    pub instantiate_us: f64,
    /// From publication until no packet was judged by the old generation any more.
    pub adopt_us: f64,
    /// Workers that got an instance.
    pub workers: usize,
}

/// How a filter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It judges.
    Running,
    /// Its code failed too often and there was no previous generation: its fault policy drops all packets.
    Faulted,
    /// Its code failed too often and there was no previous generation: it is off its hooks, packets pass. A swap puts it
    /// back.
    Detached,
}

/// One line on a filter.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FilterStatus {
    /// Its name.
    pub name: String,
    /// How it is.
    pub state: State,
    /// Number of the generation in force.
    pub generation: u64,
    /// What a match means.
    pub action: Action,
    /// The expression, or a word about the program.
    pub text: String,
    /// What it sees.
    pub layer: Layer,
    /// The interface; `None` for all.
    pub ifindex: Option<u32>,
    /// Directions.
    pub dirs: Dirs,
    /// Its order.
    pub priority: i32,
    /// What becomes of packets while it fails.
    pub on_fault: OnFault,
    /// Counters over all generations and workers.
    #[serde(flatten)]
    pub counts: Counts,
}

/// All about a filter.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FilterDetail {
    /// The short form.
    #[serde(flatten)]
    pub status: FilterStatus,
    /// SHA-256 of the module in force.
    pub sha256: String,
    /// When it was compiled, in milliseconds since 1970.
    pub created_unix_ms: u64,
    /// The generation that a rollback goes back to.
    pub previous: Option<u64>,
    /// The generation whose code is in force again, after a rollback or faults.
    pub restored_from: Option<u64>,
    /// The program in force, disassembled; empty for a module without one.
    pub program: Vec<String>,
    /// Bytes of the WebAssembly module.
    pub wasm_bytes: usize,
    /// Generation that each worker judged its last burst by; 0 before its first.
    pub adopted: Vec<u64>,
    /// The last generations and what they counted, newest last.
    pub generations: Vec<GenerationStats>,
    /// The first fault of the generation in force.
    pub last_fault: Option<String>,
}

/// What a filter counted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FilterStats {
    /// Its name.
    pub name: String,
    /// Number of the generation in force.
    pub generation: u64,
    /// Nanoseconds per packet, sampled over one in 64 bursts.
    pub ns_per_packet: Option<f64>,
    /// Over all generations and workers: the sum of `per_worker`, and of `generations` and `older`.
    pub total: Counts,
    /// For each worker, and for callers that are none as the last entry.
    pub per_worker: Vec<Counts>,
    /// The last generations, newest last.
    pub generations: Vec<GenerationStats>,
    /// All generations before those.
    pub older: Counts,
}

/// What a filter would say of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FilterDecision {
    /// Its name.
    pub filter: String,
    /// Number of the generation in force.
    pub generation: u64,
    /// The expression, or a word about the program.
    pub text: String,
    /// What a match means.
    pub action: Action,
    /// Whether the program accepts the packet; `None` for a module without a program.
    pub matched: Option<bool>,
    /// `pass`, `drop` or `unknown`.
    pub verdict: &'static str,
}
