//! What the manager tells people and programs.

use crate::guest::{Capabilities, FaultKind, ModuleInfo, ModuleLimits};
use crate::version::{Counts, GenerationStats};
use crate::{Action, Dirs, FaultLimit, Layer, OnFault};
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
    /// It faulted; until some worker has a new instance, that worker's packets are judged by the fault policy.
    Recovering,
    /// Its code failed too often and there was no previous generation: its fault policy drops all packets.
    Faulted,
    /// Its code failed too often and there was no previous generation: it is off its hooks, packets pass. A swap puts it
    /// back.
    Detached,
}

/// What kind of code a filter has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An expression or a program.
    Program,
    /// A module that smpnet generated.
    Generated,
    /// A module of somebody else.
    Module,
}

/// One line on a filter.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FilterStatus {
    /// Its name.
    pub name: String,
    /// How it is.
    pub state: State,
    /// What kind of code it has.
    pub kind: Kind,
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
    /// The last fault, on one line.
    pub last_fault: Option<String>,
    /// How many faults are too many.
    pub fault_limit: FaultLimit,
    /// The last faults of modules, newest last.
    pub faults: Vec<FaultEvent>,
    /// The last lines that modules wrote to the log, newest last.
    pub log: Vec<LogLine>,
    /// The module in force, when it is one of somebody else.
    pub module: Option<ModuleDetail>,
    /// Counters of modules, over all generations.
    pub counters: Vec<CounterStats>,
    /// The code that runs beside the one in force.
    pub shadow: Option<String>,
}

/// A module and what it may do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModuleDetail {
    /// What it says of itself, and what it is.
    #[serde(flatten)]
    pub info: ModuleInfo,
    /// What it may do.
    pub granted: Capabilities,
    /// What it may take.
    pub limits: ModuleLimits,
    /// Names of the tables that it looks into, in the manifest's order.
    pub tables: Vec<String>,
}

/// A fault of a module.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FaultEvent {
    /// When, in milliseconds since 1970.
    pub unix_ms: u64,
    /// Generation of the filter.
    pub generation: u64,
    /// Index of the worker.
    pub worker: usize,
    /// Its kind.
    pub kind: FaultKind,
    /// What happened, on one line.
    pub line: String,
    /// The functions that were active, innermost first.
    pub trace: Vec<String>,
}

/// A line that a module wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogLine {
    /// When it was read, in milliseconds since 1970.
    pub unix_ms: u64,
    /// `error`, `warn`, `info` or `debug`.
    pub level: &'static str,
    /// The line.
    pub text: String,
}

/// A counter of a module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CounterStats {
    /// Its name.
    pub name: String,
    /// Over all workers.
    pub total: u64,
    /// For each worker.
    pub per_worker: Vec<u64>,
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
    /// Counters of modules, over all generations.
    pub counters: Vec<CounterStats>,
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
    /// `pass`, `drop`, `reject` or `unknown`.
    pub verdict: &'static str,
    /// An instance made for the question was asked, which has none of the state of those that judge packets.
    pub fresh: bool,
    /// The mark that a module sets.
    pub mark: Option<u32>,
    /// The packet after the changes that a module asks for; `None` when it asks for none.
    pub bytes: Option<Vec<u8>>,
    /// What went wrong, on one line: the fault policy then made the verdict, or it is `unknown`.
    pub fault: Option<String>,
}
